"""Programs that leave the process: torch.export, AOTInductor, TorchScript, copies, pickles and checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import myops
from myops.registration import OPERATORS

ROOT = Path(__file__).resolve().parents[1]


class Mlp(nn.Module):
    """linear and addmm, as a user would write them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)
        self.weight = nn.Parameter(torch.randn(16, 4) / 4)
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = myops.linear(x, self.layer.weight, self.layer.bias).relu()
        return myops.addmm(self.bias, hidden, self.weight, beta=0.5, alpha=2)

    def reference(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.layer(x).relu(), self.weight, beta=0.5, alpha=2)


class Everything(nn.Module):
    """Every operator, and the forms that write to their arguments."""

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = myops.mm(x, w)
        batch = torch.stack([y, y + 1])
        result = myops.baddbmm(batch, batch, myops.bmm(batch.mT, batch), alpha=0.1)
        total = torch.empty_like(y)
        myops.add(y, x[:, :1], alpha=2, out=total)
        myops.addmm_(total, x, w, beta=3)
        return myops.matmul(result, w.mT), myops.linear(x, w.mT), total

    def reference(self, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = torch.mm(x, w)
        batch = torch.stack([y, y + 1])
        result = torch.baddbmm(batch, batch, torch.bmm(batch.mT, batch), alpha=0.1)
        total = torch.add(y, x[:, :1], alpha=2).addmm_(x, w, beta=3)
        return torch.matmul(result, w.mT), nn.functional.linear(x, w.mT), total


def targets(program: torch.export.ExportedProgram) -> list[str]:
    return [str(n.target) for n in program.graph.nodes if n.op == "call_function" and "myops" in str(n.target)]


def save_and_load(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    return torch.export.load(buffer)


ROWS = torch.export.Dim("rows", min=2, max=4096)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export_with_dynamic_shapes(strict: bool) -> None:
    model = Mlp().eval()
    program = torch.export.export(model, (torch.randn(5, 8),), dynamic_shapes={"x": {0: ROWS}}, strict=strict)
    assert targets(program) == ["myops.linear.default", "myops.addmm.default"]
    loaded = save_and_load(program)
    assert targets(loaded) == targets(program)
    for rows in (2, 5, 33, 700):
        x = torch.randn(rows, 8)
        expected = model.reference(x)
        torch.testing.assert_close(program.module()(x), expected)
        torch.testing.assert_close(loaded.module()(x), expected)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export_adds_sizes(strict: bool) -> None:
    class Sizes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return myops.add(x, x.shape[0]) + myops.add(1 / x.shape[0], x)

    program = torch.export.export(Sizes(), (torch.zeros(4, 3),), dynamic_shapes={"x": {0: ROWS}}, strict=strict)
    for rows in (2, 8):
        expected = torch.full((rows, 3), rows + 1 / rows)
        torch.testing.assert_close(program.module()(torch.zeros(rows, 3)), expected)


def test_symbolic_trace_of_numbers() -> None:
    for f in (
        lambda x: myops.add(x, 1),
        lambda x: myops.add(2, x, alpha=3),
        lambda x: myops.add_(x, 0.5),
        lambda x: myops.add(x, x),
    ):
        graph, x = torch.fx.symbolic_trace(f), torch.randn(3)
        torch.testing.assert_close(graph(x.clone()), f(x.clone()))


def test_export_every_operator() -> None:
    args = torch.randn(6, 5), torch.randn(5, 6)
    program = torch.export.export(Everything(), args)
    assert set(targets(program)) == {
        "myops.add.out", "myops.addmm_.default", "myops.baddbmm.default", "myops.bmm.default", "myops.linear.default",
        "myops.matmul.default", "myops.mm.default",
    }  # fmt: skip
    torch.testing.assert_close(save_and_load(program).module()(*args), Everything().reference(*args))


def test_export_functionalises_and_keeps_the_operators() -> None:
    """run_decompositions brings the program to the core operators: no mutation, and ours stay what they are."""
    args = torch.randn(6, 5), torch.randn(5, 6)
    program = torch.export.export(Everything(), args).run_decompositions()
    assert {"myops.mm.default", "myops.matmul.default"} <= set(targets(program))
    torch.testing.assert_close(program.module()(*args), Everything().reference(*args))


def test_export_for_training_takes_gradients() -> None:
    model, x = Mlp(), torch.randn(5, 8)
    exported = torch.export.export(model, (x,)).module()
    exported(x).square().sum().backward()
    got = {name: p.grad for name, p in exported.named_parameters()}
    model.reference(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad)


def test_export_complex_scalar() -> None:
    """The .Scalar overload is a composite: what is exported is the float overload."""

    class Scaled(nn.Module):
        def forward(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return myops.addmm(c, a, b, alpha=2j)

    args = tuple(torch.randn(3, 3, dtype=torch.complex64) for _ in range(3))
    program = torch.export.export(Scaled(), args).run_decompositions()
    assert targets(program) == ["myops.addmm.default"]
    torch.testing.assert_close(program.module()(*args), torch.addmm(*args, alpha=2j))


def test_export_wrong_shape_fails_at_export() -> None:
    with pytest.raises(Exception, match="cannot be multiplied"):
        torch.export.export(Mlp(), (torch.randn(5, 9),))


def test_export_under_the_switch_is_torchs_own_program() -> None:
    """The switch is below what export sees, so the program runs anywhere; run under the switch, it comes to myops."""
    model, x = nn.Linear(8, 4), torch.randn(5, 8)
    with myops.use():
        program = save_and_load(torch.export.export(model, (x,)))
    assert targets(program) == []
    myops.reset_stats()
    with myops.use():
        torch.testing.assert_close(program.module()(x), model(x))
    assert myops.stats()["addmm"]["myops"] == 2


# AOTInductor.

LOAD = """
import sys, torch, myops
model = torch._inductor.aoti_load_package(sys.argv[1])
inputs, expected = torch.load(sys.argv[2])
for x, y in zip(inputs, expected):
    torch.testing.assert_close(model(x), y)
print("loaded")
"""


def test_aot_inductor(tmp_path: Path) -> None:
    """Compiled to a library, with one dynamic dimension, and run here and in a process that has only the package."""
    model = Mlp().eval().requires_grad_(False)
    program = torch.export.export(model, (torch.randn(5, 8),), dynamic_shapes={"x": {0: ROWS}})
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    inputs = [torch.randn(rows, 8) for rows in (2, 5, 33)]
    expected = [model.reference(x) for x in inputs]
    compiled = torch._inductor.aoti_load_package(package)
    for x, y in zip(inputs, expected, strict=True):
        torch.testing.assert_close(compiled(x), y)
    data = tmp_path / "data.pt"
    torch.save((inputs, expected), data)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(package), str(data)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip() == "loaded", done.stderr


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.GELU()])
def test_aot_inductor_of_torchs_own_layers(activation: torch.nn.Module, tmp_path: Path) -> None:
    """What the graph pass calls has every default spelled out, which the package reads back."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), activation).eval().requires_grad_(False)
    x = torch.randn(5, 8)
    package = torch._inductor.aoti_compile_and_package(
        torch.export.export(model, (x,)),
        package_path=str(tmp_path / "model.pt2"),
        inductor_configs={"post_grad_custom_post_pass": myops.inductor_pass()},
    )
    compiled = torch._inductor.aoti_load_package(package)
    with torch.profiler.profile() as profiler:
        torch.testing.assert_close(compiled(x), model(x))
    assert "myops::addmm" in {event.name for event in profiler.events()}


# TorchScript, deprecated since torch 2.11 but still in use.


def scripted_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    hidden = torch.ops.myops.addmm(bias, x, weight, beta=0.5, alpha=2.0)
    return torch.ops.myops.mm(hidden, hidden.t())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_script() -> None:
    function = torch.jit.script(scripted_layer)
    buffer = io.BytesIO()
    torch.jit.save(function, buffer)
    buffer.seek(0)
    for scripted in (function, torch.jit.load(buffer)):
        shapes = (5, 8), (8, 4), (4,)
        x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
        for _ in range(3):  # the profiling executor optimises after the first runs
            got = scripted(x, weight, bias)
            hidden = torch.addmm(bias, x, weight, beta=0.5, alpha=2)
            expected = hidden @ hidden.T
            torch.testing.assert_close(got, expected)
            got_grads = torch.autograd.grad(got.sum(), (x, weight, bias))
            torch.testing.assert_close(got_grads, torch.autograd.grad(expected.sum(), (x, weight, bias)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torch_trace() -> None:
    model, x = Mlp().eval(), torch.randn(5, 8)
    traced = torch.jit.trace(model, (x,))
    y = torch.randn(9, 8)
    torch.testing.assert_close(traced(y), model.reference(y))
    w = torch.randn(8, 3)
    traced = torch.jit.trace(lambda x, out: myops.mm(x, w, out=out), (x, torch.empty(5, 3)))
    torch.testing.assert_close(traced(x, torch.empty(5, 3)), x @ w)


# Copies, pickles, checkpoints.


def copies() -> list[tuple[str, Callable[[Any], Any]]]:
    def through_torch(module: nn.Module) -> nn.Module:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    return [
        ("deepcopy", copy.deepcopy),
        ("pickle", lambda module: pickle.loads(pickle.dumps(module))),
        ("torch.save", through_torch),
    ]


@pytest.mark.parametrize(("name", "duplicate"), copies(), ids=[name for name, _ in copies()])
def test_copies_of_modules(name: str, duplicate: Callable[[Any], Any]) -> None:
    model, x = Mlp(), torch.randn(5, 8)
    model(x).sum().backward()
    other = duplicate(model)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    other(x).sum().backward()
    assert other.weight.data_ptr() != model.weight.data_ptr()
    with myops.use():
        torch.testing.assert_close(duplicate(model)(x), model(x), rtol=0, atol=0)


def test_state_is_interchangeable_with_torch(tmp_path: Path) -> None:
    """myops keeps nothing in a checkpoint, so that a model goes back and forth."""
    model, x = Mlp(), torch.randn(5, 8)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = Mlp()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(other.reference(x), model(x))
    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with myops.use():
        plain(x[None]).sum().backward()
        torch.save(plain.state_dict(), tmp_path / "plain.pt")
    assert torch.load(tmp_path / "plain.pt", weights_only=True).keys() == plain.state_dict().keys()


def test_operators_are_copied_by_reference() -> None:
    for row in OPERATORS.values():
        assert copy.deepcopy(row.op) is row.op
        assert pickle.loads(pickle.dumps(getattr(myops, row.name))) is getattr(myops, row.name)
