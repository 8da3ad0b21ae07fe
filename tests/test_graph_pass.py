"""torch.compile onto myops: what the rewriting of graphs replaces and what not, and the pass and backend of Inductor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import declare_entry_points
from functorch.compile import make_boxed_func
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.utils import fresh_inductor_cache

import myops
from myops.compile import FIELD, backend
from myops.graph import rewrite

ACTIVATED_PRODUCTS = ("addmm", "baddbmm", "linear")
PRODUCTS = ("mm", "bmm", *ACTIVATED_PRODUCTS, *(f"{name}_with_preactivation" for name in ACTIVATED_PRODUCTS))


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def products(graph: fx.Graph) -> list[str]:
    """The products of a graph, in order, ours and torch's, with a + where there is an activation."""
    calls = [node for node in graph.nodes if node.op == "call_function"]
    names = [str(node.target).removesuffix(".default") + "+" * bool(node.kwargs.get("activation")) for node in calls]
    return [name for name in names if name.partition(".")[2].partition(".")[0].removesuffix("+") in PRODUCTS]


class Rewriting:
    """A backend that rewrites and runs the graphs without Inductor, and keeps the products of each."""

    def __init__(self) -> None:
        self.forward: list[str] = []
        self.backward: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        def compiler(kept: list[str]) -> Callable[..., Any]:
            def compile_one(module: fx.GraphModule, _: Any) -> Callable[..., Any]:
                counted = rewrite(module.graph)
                module.graph.lint()
                module.recompile()
                kept.extend(products(module.graph))
                ours = [name.removesuffix("+") for name in kept if name.startswith("myops.")]
                assert counted == Counter(name.removeprefix("myops.") for name in ours)
                return make_boxed_func(module)

            return compile_one

        return aot_autograd(fw_compiler=compiler(self.forward), bw_compiler=compiler(self.backward))(module, inputs)


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def with_grads(function: Callable[..., Tensor], args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    result = function(*args)
    return result.detach(), *torch.autograd.grad(result.square().sum(), args)


linear = nn.functional.linear

# Name, function, shapes of its arguments, products of the forward and of the backward graph.
TAKEN: list[tuple[str, Callable[..., Tensor], list[tuple[int, ...]], str, str]] = [
    ("mm", torch.mm, [(4, 5), (5, 6)], "mm", "mm mm"),
    ("operator @", lambda a, b: a @ b, [(2, 4, 5), (5, 6)], "mm", "mm mm"),
    ("addmm", lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), [(6,), (4, 5), (5, 6)], "addmm", "mm mm"),
    ("bmm", torch.bmm, [(3, 4, 5), (3, 5, 6)], "bmm", "bmm bmm"),
    ("matmul", torch.matmul, [(2, 3, 4, 5), (2, 3, 5, 6)], "bmm", "bmm bmm"),
    ("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(3, 4, 5), (3, 6, 5)], "bmm", "bmm bmm"),
    ("baddbmm", lambda c, a, b: torch.baddbmm(c, a, b, alpha=3), [(4, 6), (3, 4, 5), (3, 5, 6)], "baddbmm", "bmm bmm"),
    ("linear", linear, [(4, 5), (6, 5), (6,)], "addmm", "mm mm"),
    ("linear of a batch", linear, [(2, 4, 5), (6, 5), (6,)], "addmm", "mm mm"),
    ("linear without bias", linear, [(2, 4, 5), (6, 5)], "mm", "mm mm"),
    ("mm + matrix", lambda a, b, c: a @ b + c, [(4, 5), (5, 6), (4, 6)], "addmm", "mm mm"),
    ("row + mm", lambda a, b, c: c + a @ b, [(4, 5), (5, 6), (6,)], "addmm", "mm mm"),
    ("bmm + matrix", lambda a, b, c: torch.bmm(a, b) + c, [(3, 4, 5), (3, 5, 6), (4, 6)], "baddbmm", "bmm bmm"),
    ("view of mm + row", lambda a, b, c: a @ b + c, [(2, 4, 5), (5, 6), (6,)], "addmm", "mm mm"),
    ("mm + mm", lambda a, b, c: a @ b + a @ c, [(4, 5), (5, 6), (5, 6)], "addmm mm", "mm mm mm addmm"),
    # The sum is left where it is.
    ("sum that grows", lambda a, b, c: a @ b + c, [(4, 5), (5, 6), (2, 4, 6)], "mm", "mm mm"),
    ("sum of another shape", lambda a, b, c: a @ b + c, [(2, 4, 5), (5, 6), (4, 6)], "mm", "mm mm"),
    ("product used twice", lambda a, b, c: (p := a @ b) + c * p, [(4, 5), (5, 6), (6,)], "mm", "mm mm"),
    ("scaled sum", lambda a, b, c: torch.add(c, a @ b, alpha=2), [(4, 5), (5, 6), (6,)], "mm", "mm mm"),
]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("name", "function", "shapes", "forward", "backward"), TAKEN, ids=[t[0] for t in TAKEN])
def test_products_are_replaced(
    name: str,
    function: Callable[..., Tensor],
    shapes: list[tuple[int, ...]],
    forward: str,
    backward: str,
    dynamic: bool,
) -> None:
    rewriting = Rewriting()
    compiled = torch.compile(function, backend=rewriting, fullgraph=True, dynamic=dynamic)
    args = tuple(leaf(*shape) for shape in shapes)
    torch.testing.assert_close(with_grads(compiled, args), with_grads(function, args))
    assert sorted(rewriting.forward) == sorted(f"myops.{product}" for product in forward.split())
    assert rewriting.backward == [f"myops.{product}" for product in backward.split()]
    if dynamic:
        with torch._dynamo.config.patch(error_on_recompile=True):
            args = tuple(leaf(*(n + 2 for n in shape)) for shape in shapes)
            torch.testing.assert_close(with_grads(compiled, args), with_grads(function, args))


def test_linear_of_a_strided_batch() -> None:
    """torch makes a bmm and a sum of it."""
    x, w, b = leaf(3, 4, 5), leaf(6, 5), leaf(6)
    rewriting = Rewriting()
    compiled = torch.compile(lambda x, w, b: linear(x.transpose(0, 1), w, b), backend=rewriting, fullgraph=True)
    torch.testing.assert_close(compiled(x, w, b), linear(x.transpose(0, 1), w, b))
    assert rewriting.forward in (["myops.addmm"], ["myops.baddbmm"])


LEFT: list[tuple[str, Callable[[Tensor], Tensor], torch.dtype, str]] = [
    ("complex scalar", lambda c: torch.addmm(c, c, c, alpha=2j), torch.complex64, "aten.addmm"),
    ("fraction of integers", lambda c: torch.addmm(c, c, c, beta=0.5), torch.int64, "aten.addmm"),
    ("large integer", lambda c: torch.addmm(c, c, c, alpha=2**60 + 1), torch.int64, "aten.addmm"),
    ("sum with promotion", lambda c: torch.mm(c, c) + c.double(), torch.float32, "myops.mm"),
]


@pytest.mark.parametrize(("name", "function", "dtype_", "kept"), LEFT, ids=[t[0] for t in LEFT])
def test_what_myops_refuses_stays(
    name: str, function: Callable[[Tensor], Tensor], dtype_: torch.dtype, kept: str
) -> None:
    rewriting, c = Rewriting(), torch.randint(0, 4, (3, 3)).to(dtype_)
    compiled = torch.compile(function, backend=rewriting, fullgraph=True)
    torch.testing.assert_close(compiled(c), function(c))
    assert rewriting.forward == [kept]


def test_devices_without_a_kernel_stay() -> None:
    graph = fx.Graph()
    a = graph.placeholder("a")
    a.meta["val"] = torch.empty(2, 2, device="meta")
    product = graph.call_function(torch.ops.aten.mm.default, (a, a))
    product.meta["val"] = torch.empty(2, 2, device="meta")
    graph.output(product)
    assert rewrite(graph) == Counter()
    assert products(graph) == ["aten.mm"]


# Activations.

gelu, silu = nn.functional.gelu, nn.functional.silu


def new_gelu(x: Tensor) -> Tensor:
    """As GPT-2 in transformers has it, but for sqrt(2 / pi): with dynamic=True, Dynamo takes math.pi for an argument."""
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


BOTH = "_with_preactivation+"

# Name, function, shapes of its arguments, products of the forward graph where something needs a gradient and where not.
ACTIVATED: list[tuple[str, Callable[..., Tensor], list[tuple[int, ...]], str, str]] = [
    ("relu", lambda x, w, b: linear(x, w, b).relu(), [(4, 5), (6, 5), (6,)], "addmm+", "addmm+"),
    ("gelu", lambda x, w, b: gelu(linear(x, w, b)), [(4, 5), (6, 5), (6,)], "addmm" + BOTH, "addmm+"),
    ("silu of a batch", lambda x, w, b: silu(linear(x, w, b)), [(2, 4, 5), (6, 5), (6,)], "addmm" + BOTH, "addmm+"),
    ("relu of a batch", lambda x, w, b: linear(x, w, b).relu(), [(2, 4, 5), (6, 5), (6,)], "addmm+", "addmm+"),
    ("silu without bias", lambda x, w: silu(linear(x, w)), [(2, 4, 5), (6, 5)], "linear" + BOTH, "linear+"),
    ("relu of mm", lambda a, b: torch.mm(a, b).relu(), [(4, 5), (5, 6)], "linear+", "linear+"),
    ("tanh", lambda a, b, c: gelu(a @ b + c, approximate="tanh"), [(4, 5), (5, 6), (6,)], "addmm" + BOTH, "addmm+"),
    ("silu turned", lambda a, b, c: (y := a @ b + c).sigmoid() * y, [(4, 5), (5, 6), (6,)], "addmm" + BOTH, "addmm+"),
    ("silu by hand", lambda a, b, c: (y := a @ b + c) * y.sigmoid(), [(4, 5), (5, 6), (6,)], "addmm" + BOTH, "addmm+"),
    ("tanh by hand", lambda x, w, b: new_gelu(linear(x, w, b)), [(2, 4, 5), (6, 5), (6,)], "addmm" + BOTH, "addmm+"),
    ("scalars", lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3).relu(), [(6,), (4, 5), (5, 6)], "addmm+", "addmm+"),
    (
        "baddbmm", lambda c, a, b: gelu(torch.baddbmm(c, a, b)), [(6,), (3, 4, 5), (3, 5, 6)],
        "baddbmm" + BOTH, "baddbmm+",
    ),
    ("twice", lambda c, a, b: gelu(torch.addmm(c, a, b)).relu(), [(6,), (4, 5), (5, 6)], "addmm" + BOTH, "addmm+"),
    # What the activation is applied to is read by something else.
    ("relu and sum", lambda a, b, c: (y := a @ b + c) * y.relu(), [(4, 5), (5, 6), (6,)], *["addmm" + BOTH] * 2),
    ("silu and gelu", lambda x, w: silu(y := linear(x, w)) + gelu(y), [(4, 5), (6, 5)], *["linear" + BOTH] * 2),
    # Left where they are.
    ("of bmm", lambda a, b: torch.bmm(a, b).relu(), [(3, 4, 5), (3, 5, 6)], "bmm", "bmm"),
    ("tanh alone", lambda a, b: torch.mm(a, b).tanh(), [(4, 5), (5, 6)], "mm", "mm"),
    ("after a sum", lambda a, b, c: (a @ b + c).relu(), [(4, 5), (5, 6), (2, 4, 6)], "mm", "mm"),
    ("after a permutation", lambda a, b: torch.mm(a, b).mT.relu(), [(4, 5), (5, 6)], "mm", "mm"),
]  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("name", "function", "shapes", "training", "inference"), ACTIVATED, ids=[t[0] for t in ACTIVATED]
)
def test_activations_become_part_of_products(
    name: str,
    function: Callable[..., Tensor],
    shapes: list[tuple[int, ...]],
    training: str,
    inference: str,
    dynamic: bool,
) -> None:
    for needs_grad, expected in ((False, inference), (True, training)):
        rewriting = Rewriting()
        compiled = torch.compile(function, backend=rewriting, fullgraph=True, dynamic=dynamic)
        args = tuple(leaf(*shape).requires_grad_(needs_grad) for shape in shapes)
        for more in (0, 2) if dynamic else (0,):
            args = tuple(leaf(*(n + more for n in shape)).requires_grad_(needs_grad) for shape in shapes)
            with torch._dynamo.config.patch(error_on_recompile=more > 0):
                if needs_grad:
                    torch.testing.assert_close(with_grads(compiled, args), with_grads(function, args))
                else:
                    torch.testing.assert_close(compiled(*args), function(*args))
        assert rewriting.forward == [f"myops.{expected}"]


def test_activations_of_integers_stay() -> None:
    rewriting, a = Rewriting(), torch.randint(-3, 4, (4, 4))
    compiled = torch.compile(lambda a: torch.mm(a, a).relu(), backend=rewriting, fullgraph=True)
    assert torch.equal(compiled(a), torch.mm(a, a).relu())
    assert rewriting.forward == ["myops.mm"]


# Inductor.


class Block(nn.Module):
    """Every activation, over a batch, and a last layer without one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(nn.Linear(8, 8, dtype=dtype) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.layers
        x = gelu(c(gelu(b(a(x).relu()))), approximate="tanh")
        return f(new_gelu(e(silu(d(x)))))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("dtype_", [torch.float32, torch.bfloat16], ids=str)
def test_activations_in_inductor(dtype_: torch.dtype) -> None:
    """After its decompositions, which for 16 bits have conversions in them; pinned."""
    block, x = Block(dtype_), torch.randn(2, 3, 8, dtype=dtype_)
    recorded = Recorded("last", myops.inductor_pass())
    compiled = torch.compile(block, fullgraph=True, options={FIELD: recorded})
    close = {"rtol": 0.02, "atol": 0.02} if dtype_ == torch.bfloat16 else {}
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x), **close)
    torch.testing.assert_close(training_step(compiled, x), training_step(block, x), **close)
    assert recorded.seen == [
        [*["myops.addmm+"] * 5, "myops.addmm"],
        ["myops.addmm+", *["myops.addmm_with_preactivation+"] * 4, "myops.addmm"],
        ["myops.mm"] * 11,
    ]


@pytest.fixture
def no_cache() -> Iterator[None]:
    """Passes do not run for code that is served from a cache, of an earlier run say."""
    with fresh_inductor_cache():
        yield


class Recorded(CustomGraphPass):
    """Another library's pass: notes the products that it sees."""

    def __init__(self, name: str, inner: CustomGraphPass | None = None) -> None:
        self.name, self.inner = name, inner
        self.seen: list[list[str]] = []

    def __call__(self, graph: fx.Graph) -> None:
        if self.inner is not None:
            self.inner(graph)
        self.seen.append(products(graph))

    def uuid(self) -> Any:
        return (self.name, self.inner.uuid()) if self.inner else self.name


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)).double()


def training_step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    y = model(x)
    y.float().square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


def calls_in(work: Callable[[], Any]) -> Counter[str]:
    """The products that run, by their names in the profiler."""
    with torch.profiler.profile() as profiler:
        work()
    names = (event.name.replace("::", ".") for event in profiler.events())
    return Counter(name for name in names if name in {f"{ns}.{p}" for ns in ("aten", "myops") for p in PRODUCTS})


STEP = Counter({"myops.addmm": 1, "myops.mm": 4})  # forward addmm, mm; backward three products


@pytest.mark.usefixtures("no_cache")
def test_pass_in_inductor() -> None:
    x = torch.randn(6, 8, dtype=torch.float64)
    recorded = Recorded("last", myops.inductor_pass())
    compiled = torch.compile(model(), fullgraph=True, options={FIELD: recorded})
    torch.testing.assert_close(training_step(compiled, x), training_step(model(), x))
    assert recorded.seen == [["myops.addmm+", "myops.mm"], ["myops.mm"] * 3]
    assert calls_in(lambda: training_step(compiled, x)) == STEP


def test_backend_with_dynamic_shapes() -> None:
    compiled = torch.compile(model(), fullgraph=True, dynamic=True, backend=backend)
    x = torch.randn(6, 8, dtype=torch.float64)
    torch.testing.assert_close(training_step(compiled, x), training_step(model(), x))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (2, 9, 30):
            x = torch.randn(rows, 8, dtype=torch.float64)
            torch.testing.assert_close(training_step(compiled, x), training_step(model(), x))
    assert calls_in(lambda: training_step(compiled, x)) == STEP
    plain = torch.compile(model(), fullgraph=True)
    counted = calls_in(lambda: training_step(plain, x))
    assert not any(name.startswith("myops") for name in counted), "the backend is one model's, not the process's"


def test_backend_with_autocast_and_a_transformer() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 16)

    def run(f: nn.Module) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return training_step(f, x)

    native, ours = run(layer), run(torch.compile(layer, backend=backend))
    exact = training_step(layer.double(), x.double())
    for got, theirs, reference in zip(ours, native, exact, strict=True):
        floor = torch.finfo(torch.bfloat16).eps * reference.abs().max()
        assert (got - reference).abs().max() <= 2 * (theirs - reference).abs().max() + floor


@pytest.mark.usefixtures("no_cache")
def test_other_passes_keep_running() -> None:
    """A pass of another library, in the configuration or in the options, alone or in a list, comes before ours."""
    x = torch.randn(6, 8, dtype=torch.float64)
    ours = ["aten.addmm", "aten.mm"]
    configured, optional = Recorded("configured"), Recorded("optional")
    with config.patch({FIELD: configured}), torch.no_grad():
        torch.compile(model(), backend=backend)(x)
        assert configured.seen == [ours]
        torch._dynamo.reset()
        torch.compile(model(), backend=backend, options={FIELD: optional})(x)
    assert optional.seen == [ours]
    both = Recorded("last", myops.inductor_pass(before=[configured, optional]))
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model(), options={FIELD: both})(x)
    assert configured.seen == optional.seen == [ours, ours]
    assert both.seen == [["myops.addmm+", "myops.mm"]]


def test_mode_and_options_are_read_as_inductor_reads_them() -> None:
    x = torch.randn(6, 8, dtype=torch.float64)
    with torch.no_grad():
        for options, words in (({"no_such": 1}, "Unexpected optimization option"), ({"max-autotune": 1}, "got int")):
            with pytest.raises(BackendCompilerFailed, match=words):
                torch.compile(model(), backend=backend, options=options)(x)
        with pytest.warns(UserWarning, match="nothing of this model goes to myops"):
            torch.testing.assert_close(torch.compile(model(), backend=backend, mode="lite")(x), model()(x))
        torch._dynamo.reset()
        compiled = torch.compile(model(), backend=backend, options={"epilogue-fusion": False})
        compiled(x)
        assert calls_in(lambda: compiled(x)) == {"myops.addmm": 1, "myops.mm": 1}


def test_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = myops.inductor_pass().uuid()
    assert key == myops.inductor_pass().uuid()
    assert key is not None
    named = [myops.inductor_pass(before=Recorded(name)).uuid() for name in ("a", "b")]
    assert len({key, *named}) == 3
    assert myops.inductor_pass(before=lambda graph: None).uuid() is None, "a plain function has no key to cache by"
    monkeypatch.setenv("MYOPS_DISABLE", "1")
    assert myops.inductor_pass().uuid() != key


def test_code_from_the_cache_is_on_myops() -> None:
    x = torch.randn(6, 8, dtype=torch.float64)
    with fresh_inductor_cache():
        for expected_hits in (0, 2):  # forward and backward
            torch._dynamo.reset()
            counters.clear()
            with torch._functorch.config.patch(enable_autograd_cache=False):
                compiled = torch.compile(model(), backend=backend)
                training_step(compiled, x)
            assert counters["inductor"]["fxgraph_cache_hit"] == expected_hits
            assert counters["inductor"]["fxgraph_cache_bypass"] == 0
            assert calls_in(lambda compiled=compiled: training_step(compiled, x)) == STEP
        torch._dynamo.reset()
        plain = torch.compile(model())
        training_step(plain, x)
        counted = calls_in(lambda: training_step(plain, x))
        assert not any(name.startswith("myops") for name in counted), "code of the backend was served without it"


def test_sums_that_only_look_like_addends() -> None:
    """A row that widens a view of the product, and a product that is added to itself."""
    a, b, c = torch.randn(4, 5), torch.randn(5, 6), torch.randn(6)
    for f in (
        lambda a, b, c: (a @ b).view(-1, 1) + c,
        lambda a, b, c: (a @ b).view(4, 6, 1) + c,
        lambda a, b, c: (lambda h: h + h)((a[:1] @ b).view(-1)),
        lambda a, b, c: (lambda h: h + h)(torch.nn.functional.linear(a[:1].view(1, 1, 5), b.mT).reshape(6)),
    ):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(f, backend=backend)(a, b, c), f(a, b, c))


@pytest.mark.parametrize("form", [torch.nn.functional.gelu, torch.nn.functional.silu])
def test_activations_between_casts_keep_the_dtype(form: Callable[[Tensor], Tensor]) -> None:
    for given, to in ((torch.float16, torch.bfloat16), (torch.float64, torch.float16), (torch.bfloat16, torch.float16)):
        a, b = torch.randn(4, 5).to(given), torch.randn(5, 6).to(given)
        f = lambda a, b, to=to: form((a @ b).float()).to(to) @ torch.ones(6, 2, dtype=to)  # noqa: E731
        torch._dynamo.reset()
        got = torch.compile(f, backend=backend)(a, b)
        assert got.dtype == to
        torch.testing.assert_close(got, f(a, b), rtol=2e-2, atol=2e-2)


def test_options_with_dashes() -> None:
    compiled = torch.compile(model(), backend=backend, options={"max-autotune": False})
    x = torch.randn(6, 8, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), model()(x))


def test_kill_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOPS_DISABLE", "1")
    compiled, x = torch.compile(model(), backend=backend), torch.randn(6, 8, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), model()(x))
    counted = calls_in(lambda: compiled(x))
    assert counted
    assert not any(name.startswith("myops") for name in counted)


def test_mode_is_inductors() -> None:
    compiled = torch.compile(model(), backend=backend, mode="max-autotune-no-cudagraphs")
    x = torch.randn(6, 8, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), model()(x))
    with pytest.raises(Exception, match="Unrecognized mode"):
        torch.compile(model(), backend=backend, mode="fastest")(x)


BY_NAME = """
import torch
from torch import nn
model = torch.compile(nn.Linear(8, 4), backend="myops")
with torch.no_grad(), torch.profiler.profile() as profiler:
    model(torch.randn(3, 8))
print("myops::addmm" in {event.name for event in profiler.events()})
"""


def test_backend_by_name(tmp_path: Path) -> None:
    """As where myops is installed, in a program that imports nothing of it."""
    declare_entry_points(tmp_path, "torch_dynamo_backends")
    path = os.pathsep.join([str(tmp_path), str(Path(myops.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", BY_NAME],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr


def test_devices_whose_library_is_missing_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from myops import _libraries, graph

    for error, taken in (("missing", 0), (None, 1)):
        monkeypatch.setattr(_libraries, "cuda_error", error)
        with FakeTensorMode():
            x = torch.empty(2, 2, device="cuda")
        g = fx.Graph()
        a = g.placeholder("a")
        a.meta["val"] = x
        mm = g.call_function(torch.ops.aten.mm.default, (a, a))
        mm.meta["val"] = x
        g.output(mm)
        assert graph.rewrite(g)["mm"] == taken
