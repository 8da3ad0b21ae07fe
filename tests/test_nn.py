"""myops.nn: modules on myops, and what a swap keeps of a model: everything."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import myops
from myops.nn import swap_, unswap_


class Tied(nn.Module):
    """Layers in a list, an embedding tied to the head, attention, and a submodule under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.again = self.layers[0]
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x).tanh()
        x, _ = self.attention(x, x, x)
        return self.head(self.again(x))


TOKENS = torch.arange(10).view(2, 5)


def step(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    y = model(TOKENS)
    y.square().mean().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


def operators_in(work: Any) -> set[str]:
    with torch.profiler.profile() as profiler:
        work()
    return {event.name for event in profiler.events()}


def test_linear_is_torchs() -> None:
    ours, theirs, x = myops.nn.Linear(8, 5).double(), nn.Linear(8, 5).double(), torch.randn(2, 3, 8).double()
    assert isinstance(ours, nn.Linear)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    assert str(ours) == str(theirs)
    assert "myops::linear" in operators_in(lambda: ours(x))
    assert myops.nn.Linear(4, 2, bias=False, dtype=torch.bfloat16)(torch.ones(3, 4, dtype=torch.bfloat16)).shape == (
        3,
        2,
    )


def test_swap_computes_the_same() -> None:
    model = Tied().double()
    expected = step(model)
    report = swap_(model)
    assert list(report.swapped) == [f"layers.{i}" for i in range(12)] + ["head"]
    assert report.skipped == {"attention.out_proj": "NonDynamicallyQuantizableLinear is a subclass of Linear"}
    assert "swapped 13, skipped 1" in str(report)
    assert "  layers.10: myops.nn.Linear" in str(report)
    torch.testing.assert_close(step(model), expected)
    assert "myops::linear" in operators_in(lambda: model(TOKENS))
    unswap_(model)
    assert {type(m) for m in model.layers} == {nn.Linear}
    assert all(torch.equal(a, b) for a, b in zip(step(model), expected, strict=True))


def test_swap_keeps_everything() -> None:
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    step(model)
    optimizer.step()
    modules, parameters = list(model.modules()), list(model.parameters())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    calls: list[str] = []
    model.layers[3].register_forward_hook(lambda *_: calls.append("forward"))
    model.layers[3].register_forward_pre_hook(lambda *_: calls.append("pre"))
    model.layers[3].register_full_backward_hook(lambda *_: calls.append("backward"))
    model.head.weight.register_hook(lambda grad: calls.append("weight"))
    swap_(model)
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert model.head.weight is model.embedding.weight
    assert model.again is model.layers[0]
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    before = model.layers[3].weight.detach().clone()
    step(model)
    assert sorted(calls) == ["backward", "forward", "pre", "weight"]
    optimizer.step()
    assert not torch.equal(model.layers[3].weight, before), "the optimiser holds other parameters than the model"
    model.load_state_dict(state)
    Tied().load_state_dict(model.state_dict())


def through_torch(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_torch],
    ids=["copy", "pickle", "torch"],
)
def test_copies(duplicate: Any) -> None:
    model = Tied()
    swap_(model)
    other = duplicate(model)
    assert type(other.layers[0]) is myops.nn.Linear
    assert other.head.weight is other.embedding.weight
    assert all(torch.equal(a, b) for a, b in zip(step(model), step(other), strict=True))


def test_filter_sees_module_and_name() -> None:
    model = Tied()
    report = swap_(model, lambda module, name: name == "layers.1" or module.bias is None)
    assert list(report.swapped) == ["layers.1", "head"]
    assert report.skipped["layers.10"] == "filter_fn"
    assert type(model.layers[10]) is nn.Linear
    assert list(swap_(model).swapped) == [f"layers.{i}" for i in range(12) if i != 1], "what is swapped stays so"


def test_what_is_skipped() -> None:
    class Mine(nn.Linear):
        pass

    class Quantized(Tensor):
        pass

    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("patched", "quantized", "eight", "normed", "plain")})
    model["mine"] = Mine(4, 4)
    model["patched"].forward = lambda x: x  # type: ignore[method-assign]
    model["quantized"].weight = nn.Parameter(torch.ones(4, 4).as_subclass(Quantized))
    model["eight"].weight = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    nn.utils.parametrizations.weight_norm(model["normed"])
    report = swap_(model)
    assert list(report.swapped) == ["plain"]
    assert report.skipped == {
        "patched": "its forward is patched on the instance",
        "quantized": "its weight is a Quantized",
        "eight": "its weight is of dtype torch.float8_e4m3fn",
        "normed": "ParametrizedLinear is a subclass of Linear",
        "mine": "Mine is a subclass of Linear",
    }


def test_nothing_to_swap_is_said() -> None:
    with pytest.warns(UserWarning, match="swap_ replaced nothing in Conv2d"):
        report = swap_(nn.Conv2d(1, 1, 1))
    assert not report.swapped
    with pytest.warns(UserWarning, match="skipped: filter_fn"):
        swap_(nn.Linear(2, 2), lambda module, name: False)


def test_the_model_itself_and_the_kill_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOPS_DISABLE", "1")
    layer = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert swap_(layer).skipped == {"": "MYOPS_DISABLE=1"}
    monkeypatch.delenv("MYOPS_DISABLE")
    assert "(the model): myops.nn.Linear" in str(swap_(layer))
    assert type(layer) is myops.nn.Linear


@pytest.mark.parametrize("dtype_", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype_: torch.dtype) -> None:
    model = Tied()
    with torch.autocast("cpu", dtype=dtype_):
        expected = model(TOKENS)
        swap_(model)
        got = model(TOKENS)
    assert got.dtype == expected.dtype == dtype_
    torch.testing.assert_close(got, expected, rtol=0.03, atol=0.03)


def test_compile_and_export() -> None:
    torch._dynamo.reset()
    model = Tied().double()
    expected = step(model)
    swap_(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(compiled), expected)
    program = torch.export.export(model, (TOKENS,))
    assert [str(n.target) for n in program.graph.nodes].count("myops.linear.default") == 14
    torch.testing.assert_close(program.module()(TOKENS), expected[0])


def test_conv1d_of_transformers() -> None:
    pytest.importorskip("transformers", reason="Conv1D is its class")
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(6, 4), nn.Linear(6, 2)).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = model(x)
    assert list(swap_(model).swapped.values()) == ["myops.nn.Conv1D", "myops.nn.Linear"]
    assert isinstance(model[0], Conv1D)
    torch.testing.assert_close(model(x), expected)
    assert "myops::addmm" in operators_in(lambda: model(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(model))(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
    unswap_(model)
    assert type(model[0]) is Conv1D


def test_conv1d_is_loaded_where_transformers_is_not_imported_yet(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="Conv1D is its class")
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(6, 4))
    swap_(model)
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch, myops; print('transformers' in sys.modules)\n"
        "print(torch.load(sys.argv[1], weights_only=False)[0].__class__.__module__)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    done = subprocess.run(command, cwd=Path(myops.__file__).parents[1], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["False", "myops.nn"], done.stderr


def test_conv1d_is_not_there_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(myops.nn), "Conv1D", raising=False)
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", None)
    assert not hasattr(myops.nn, "Conv1D")


def test_symbolic_trace_has_the_nodes_of_the_model_before() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 3)))
    x = torch.randn(2, 4)
    expected = model(x)
    before = [(node.op, node.target) for node in torch.fx.symbolic_trace(model).graph.nodes]
    swap_(model)
    traced = torch.fx.symbolic_trace(model)
    assert [(node.op, node.target) for node in traced.graph.nodes] == before
    assert "myops::linear" in operators_in(lambda: traced(x))
    torch.testing.assert_close(traced(x), expected)
    model[0] = myops.nn.PackedLinear.from_linear(model[0])
    packed = torch.fx.symbolic_trace(model)
    assert [(node.op, node.target) for node in packed.graph.nodes] == before
    torch.testing.assert_close(packed(x), expected)
    torch.testing.assert_close(
        torch.fx.symbolic_trace(model[2][0])(expected.new_ones(2, 5)), model[2](torch.ones(2, 5))
    )


def test_inputs_and_weights_of_other_layouts() -> None:
    """Nested and sparse inputs go to torch's own function; a sparse weight keeps its module's class."""
    layer, native = nn.Linear(4, 5), nn.Linear(4, 5)
    native.load_state_dict(layer.state_dict())
    swap_(layer)
    parts = [torch.randn(2, 4), torch.randn(3, 4)]
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    for mine, theirs in zip(layer(jagged).unbind(), native(jagged).unbind(), strict=True):
        torch.testing.assert_close(mine, theirs)
    strided = torch.nested.nested_tensor(parts)
    for mine, theirs in zip(layer(strided).unbind(), native(strided).unbind(), strict=True):
        torch.testing.assert_close(mine, theirs)
    csr = parts[0].to_sparse_csr()
    torch.testing.assert_close(layer(csr), native(csr))
    native.weight = nn.Parameter(native.weight.detach().to_sparse_csr())
    with pytest.warns(UserWarning, match=r"weight is of layout torch\.sparse_csr"):
        swap_(native)
    assert type(native) is nn.Linear


def test_packed_layer_is_the_same_layer() -> None:
    linear = nn.Linear(5, 3).requires_grad_(False).eval()
    packed = myops.nn.PackedLinear.from_linear(linear)
    assert not packed.training
    assert not packed(torch.ones(2, 5)).requires_grad
    assert myops.nn.PackedLinear.from_linear(nn.Linear(5, 3)).training


def test_packed_layer_that_holds_nothing_yet() -> None:
    layer = myops.nn.PackedLinear.from_linear(nn.Linear(5, 3)).to("meta").to_empty(device="cpu")
    assert "in_features=5, out_features=3" in repr(copy.deepcopy(layer))
    other = nn.Linear(5, 3)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(torch.ones(2, 5)), other(torch.ones(2, 5)))


ON_ANOTHER_LEVEL = """
import sys, torch, myops
layer, x, y = torch.load(sys.argv[1], weights_only=False)
torch.testing.assert_close(layer(x), y)
print(myops.isa())
"""


def test_packed_layer_is_repacked_where_it_is_unpickled(tmp_path: Path) -> None:
    linear, x, path = nn.Linear(40, 30), torch.randn(2, 40), tmp_path / "layer.pt"
    torch.save((myops.nn.PackedLinear.from_linear(linear), x, linear(x).detach()), path)
    for level in myops.isa_levels():
        done = subprocess.run(
            [sys.executable, "-c", ON_ANOTHER_LEVEL, str(path)],
            cwd=Path(myops.__file__).parents[1], env={**os.environ, "MYOPS_ISA": level}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.strip() == level, done.stderr


class Quantized(Tensor):
    """A weight with functions of its own, as quantization libraries have."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return torch.zeros(*args[0].shape[:-1], args[1].shape[0]) + 7
        return super().__torch_function__(func, types, args, kwargs)


def test_weights_that_came_after_the_swap() -> None:
    x = torch.randn(2, 5)
    layer = nn.Linear(5, 3)
    swap_(layer)
    expected = layer(x)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse_csr())
    torch.testing.assert_close(layer(x), expected)
    layer.weight = nn.Parameter(torch.ones(3, 5).as_subclass(Quantized), requires_grad=False)
    assert torch.equal(layer(x), torch.full((2, 3), 7.0))


@pytest.mark.parametrize("wrong", [None, [1.0], 3])
def test_an_input_that_is_no_tensor(wrong: Any) -> None:
    layer = nn.Linear(5, 3)
    with pytest.raises(TypeError) as native:
        layer(wrong)
    swap_(layer)
    with pytest.raises(TypeError, match=re.escape(str(native.value))):
        layer(wrong)


def test_unswap_of_a_module_that_has_been_parametrized_since() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    x = torch.randn(3, 4)
    expected = model(x)
    myops.nn.swap_(model)
    torch.nn.utils.parametrizations.weight_norm(model[0])
    other = copy.deepcopy(model)
    myops.nn.unswap_(model)
    assert not any(isinstance(module, myops.nn.Linear) for module in model)
    assert all(isinstance(module, myops.nn.Linear) for module in other)
    torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(model(x), expected)
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert [type(module) for module in model] == [torch.nn.Linear] * 2


def test_a_proxy_of_another_tracer_gets_torchs_function() -> None:
    graph = fx.Graph()
    myops.nn.Linear(3, 4)(fx.Proxy(graph.placeholder("x")))
    assert [n.op for n in graph.nodes][-1] == "call_function"
