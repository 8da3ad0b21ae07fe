"""The operators under torch.compile: opcheck of every overload, one graph without breaks, gradients, no recompiles.

The pins at the end (schemas, graphs) are updated by EXPECTTEST_ACCEPT=1 when a change is intended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import expecttest
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.convert_frame import input_codes
from torch._dynamo.testing import CompileCounterWithBackend
from torch._ops import OpOverload
from torch.testing._internal.optests.generate_tests import ALL_TEST_UTILS
from torch.utils.flop_counter import FlopCounterMode

import myops
from myops.registration import COMPONENTS, OPERATORS, Operator, Sample

PUBLIC = {name: getattr(myops, name) for name in OPERATORS}
NATIVE = {
    **{name: getattr(torch, name) for name in OPERATORS if name != "linear"},
    "linear": torch.nn.functional.linear,
}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def detached(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def is_in_place(op: OpOverload) -> bool:
    return op._schema.name.endswith("_")


def is_out(op: OpOverload) -> bool:
    return any(argument.name == "out" for argument in op._schema.arguments)


def transposed(like: Tensor) -> Tensor:
    """Zeros with the shape of `like`, in the other order of memory."""
    return torch.zeros(like.mT.shape, dtype=like.dtype).mT if like.dim() > 1 else torch.zeros_like(like)


def calls(row: Operator, op: OpOverload, requires_grad: bool, dtype: torch.dtype) -> Iterator[Sample]:
    """The row's samples as calls of one overload: with an `out`, or with a first argument that the result fits."""
    for sample in row.samples("cpu", dtype, requires_grad):
        args = tuple(map(detached, sample.args))
        result = row.op(*args, **sample.kwargs).detach()
        if is_in_place(op):
            if len(args) > len(op._schema.arguments) or any(isinstance(a, torch.dtype) for a in args):
                continue  # out_dtype: an in-place overload has none
            first = transposed(result).copy_(args[0].expand(result.shape).detach())
            yield Sample((first, *args[1:]), sample.kwargs, sample.name)
        elif is_out(op):
            yield Sample(args, {**sample.kwargs, "out": transposed(result)}, sample.name)
        else:
            yield Sample(args, sample.kwargs, sample.name)


def few(samples: Iterator[Sample]) -> list[Sample]:
    """A handful that keeps the variety: the ends and every fourth, which are shapes, scalars, empty results, layouts."""
    found = list(samples)
    laid_out = [s for s in found if not all(a.is_contiguous() for a in s.args if isinstance(a, Tensor))]
    return found[:2] + found[2:-1:4] + found[-1:] + laid_out[:1]


OVERLOADS = [(row, op) for row in OPERATORS.values() for op in row.overloads] if myops.is_available() else []


# Functions with out=... do not differentiate, as in torch.
CHECKED = [(row, op, grad) for row, op in OVERLOADS for grad in (False, True) if not (grad and is_out(op))]


@pytest.mark.parametrize(
    ("overload_row", "op", "requires_grad"),
    CHECKED,
    ids=[f"{str(op).removeprefix('myops.')}-{'grad' if grad else 'plain'}" for _, op, grad in CHECKED],
)
def test_opcheck(overload_row: Operator, op: OpOverload, requires_grad: bool) -> None:
    checked = contiguous = 0
    for sample in few(calls(overload_row, op, requires_grad, torch.float32)):
        tensors = [a for a in (*sample.args, *sample.kwargs.values()) if isinstance(a, Tensor)]
        torch.library.opcheck(op, sample.args, sample.kwargs, test_utils=tuple(ALL_TEST_UTILS))
        checked += 1
        contiguous += all(t.is_contiguous() for t in tensors)
    assert checked >= 5
    assert contiguous < checked, "a sample that is not contiguous was to be among them"


@pytest.mark.parametrize("dtype_", [torch.complex64, torch.bfloat16, torch.int32], ids=str)
def test_opcheck_other_dtypes(row: Operator, dtype_: torch.dtype) -> None:
    for sample in few(calls(row, row.op, False, dtype_))[:4]:
        torch.library.opcheck(row.op, sample.args, sample.kwargs)


def test_opcheck_scalars_beyond_float() -> None:
    """What the .Scalar overloads are for."""
    for row in OPERATORS.values():
        if not row.folds:
            continue
        shapes = [(4, 4)] * 2 if row.name == "add" else [(4, 4)] * 3 if row.name == "addmm" else [(2, 4, 4)] * 3
        for dtype, scalar in ((torch.complex64, 2 - 1j), (torch.int64, 2**60 + 1)):
            args = tuple(torch.ones(shape, dtype=dtype) for shape in shapes)
            scalars = dict.fromkeys(row.folds, scalar)
            torch.library.opcheck(row.packet.Scalar, args, scalars)
            torch.library.opcheck(row.packet.Scalar_out, args, {**scalars, "out": torch.zeros(shapes[0], dtype=dtype)})
            torch.library.opcheck(row.in_place_packet.Scalar, args, scalars)


# One graph, forward and backward, through the public function and the registered operator.

ARGS: dict[str, tuple[tuple[int, ...], ...]] = {
    "add": ((6, 5), (5,)),
    "mm": ((6, 5), (5, 7)),
    "addmm": ((7,), (6, 5), (5, 7)),
    "bmm": ((3, 6, 5), (3, 5, 7)),
    "baddbmm": ((6, 7), (3, 6, 5), (3, 5, 7)),
    "matmul": ((2, 3, 6, 5), (5, 7)),
    "linear": ((3, 6, 5), (7, 5), (7,)),
}
SCALARS: dict[str, dict[str, Any]] = {
    "add": {"alpha": 2}, "addmm": {"beta": 0.5, "alpha": -2}, "baddbmm": {"beta": 3, "alpha": 2.5}
}  # fmt: skip


def leaves(name: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ARGS[name]]


def with_grads(function: Callable[..., Tensor], args: list[Tensor]) -> tuple[Tensor, ...]:
    result = function(*args)
    return result.detach(), *torch.autograd.grad(result.square().sum(), args)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("through", ["function", "operator"])
def test_fullgraph(row: Operator, through: str, dynamic: bool) -> None:
    target = PUBLIC[row.name] if through == "function" else row.packet
    scalars = SCALARS.get(row.name, {})

    def f(*args: Tensor) -> Tensor:
        return target(args[0].sin(), *args[1:], **scalars) + 1

    def reference(*args: Tensor) -> Tensor:
        return NATIVE[row.name](args[0].sin(), *args[1:], **scalars) + 1

    compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    args = leaves(row.name)
    torch.testing.assert_close(with_grads(compiled, args), with_grads(reference, args))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args), reference(*args))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(*args), reference(*args))


@pytest.mark.parametrize("name", [name for name, row in OPERATORS.items() if row.folds])
def test_scalar_overload_decomposes(name: str) -> None:
    """Complex scalars trace without a break, to the float overload."""
    row = OPERATORS[name]
    graphs: list[str] = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.extend(str(node.target) for node in module.graph.nodes if "myops" in str(node.target))
        return make_boxed_func(module)

    scalars = dict.fromkeys(row.folds, 2 - 1j)
    args = leaves(row.name, torch.complex128)

    def f(*args: Tensor) -> Tensor:
        return PUBLIC[row.name](*args, **scalars)

    compiled = torch.compile(f, fullgraph=True, backend=aot_autograd(fw_compiler=keep))

    def loss(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        result = function(*args)
        return result.detach(), *torch.autograd.grad(result.abs().square().sum(), args)

    got = loss(compiled)
    torch.testing.assert_close(got, loss(lambda *args: NATIVE[row.name](*args, **scalars)))
    assert f"myops.{row.name}.default" in graphs
    assert not any("Scalar" in name for name in graphs)


def test_addmm_with_imaginary_alpha() -> None:
    args = [torch.randn(4, 4, dtype=torch.complex64) for _ in range(3)]
    for function in (myops.addmm, torch.ops.myops.addmm):
        compiled = torch.compile(lambda c, a, b: function(c, a, b, alpha=2j), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), torch.addmm(*args, alpha=2j))


def test_scalar_arguments_of_the_compiled_function() -> None:
    """alpha and beta that change from call to call, under both modes."""
    c, a, b = (torch.randn(4, 4, dtype=torch.float64) for _ in range(3))
    for dynamic in (None, False):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda alpha, beta: myops.addmm(c, a, b, beta=beta, alpha=alpha),
            fullgraph=True, dynamic=dynamic, backend="aot_eager",
        )  # fmt: skip
        for alpha, beta in [(1, 1), (2, 0.5), (3.5, 0), (0, 2), (True, 7)]:
            torch.testing.assert_close(compiled(alpha, beta), torch.addmm(c, a, b, beta=beta, alpha=alpha))


def test_out_dtype() -> None:
    a, b = torch.randn(4, 6, dtype=torch.bfloat16), torch.randn(6, 5, dtype=torch.bfloat16)
    compiled = torch.compile(lambda a, b: myops.mm(a, b, torch.float32), fullgraph=True, backend="aot_eager")
    got = compiled(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, a.float() @ b.float())


def test_add_of_numbers() -> None:
    """A number takes part in promotion as it does in torch, traced or not, and a changing one compiles once."""
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.complex64):
        x = torch.ones(3, dtype=dtype)
        for number in (True, 3, 2.5, 1j):
            if dtype == torch.bfloat16 and isinstance(number, complex):
                continue  # complex64 up to torch 2.13; later a complex type that has no kernels
            expected = torch.add(x, number)
            got = myops.add(x, number)
            assert got.dtype == expected.dtype, (dtype, number)
            torch.testing.assert_close(got, expected)
            torch._dynamo.reset()
            compiled = torch.compile(lambda x: myops.add(x, number), fullgraph=True, backend="aot_eager")
            assert compiled(x).dtype == expected.dtype
            torch.testing.assert_close(compiled(x), expected)
    torch._dynamo.reset()
    x = torch.randn(3, dtype=torch.float64)
    compiled = torch.compile(lambda x, n: myops.add(x, n), fullgraph=True, dynamic=True, backend="aot_eager")
    for number in (2.5, 0.1, -7.0):
        torch.testing.assert_close(compiled(x, number), x + number)


def test_numbers_that_change_share_a_graph() -> None:
    compiled = torch.compile(lambda x, n: myops.add(x, n), backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    for number in (0.5, 0.25, -1.5, 3.75, 2.5):
        assert compiled(torch.zeros(3), number).tolist() == 3 * [number]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


# Mutation.


def mutating(name: str) -> Callable[..., Tensor]:
    if name == "out":
        return lambda out, a, b: myops.mm(a, b, out=out)
    if name == "operator.out":

        def through_operator(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
            torch.ops.myops.mm.out(a, b, out=out)
            return out

        return through_operator
    if name == "operator.in_place":

        def in_place_operator(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
            torch.ops.myops.addmm_(out, a, b, beta=0)
            return out

        return in_place_operator
    if name == "add_":
        return lambda out, a, b: myops.add_(myops.addmm_(out, a, b, beta=0), out, alpha=0)
    return lambda out, a, b: myops.addmm_(out, a, b, beta=0, alpha=1)


MUTATIONS = [
    *((form, "aot_eager") for form in ("out", "operator.out", "in place", "operator.in_place", "add_")),
    *((form, "inductor") for form in ("out", "in place")),
]


@pytest.mark.parametrize(("form", "backend"), MUTATIONS)
def test_mutation_is_visible_outside(form: str, backend: str) -> None:
    function = mutating(form)

    def f(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        view = out[1:5]
        result = function(view, a + 1, b)
        return result * 2

    compiled = torch.compile(f, fullgraph=True, backend=backend)
    a, b = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    out = torch.full((6, 5), 7.0, dtype=torch.float64)
    expected = (a + 1) @ b
    torch.testing.assert_close(compiled(out, a, b), expected * 2)
    torch.testing.assert_close(out[1:5], expected)
    assert bool((out[0] == 7).all())
    assert bool((out[5] == 7).all())


def test_out_and_in_place_of_every_operator(row: Operator) -> None:
    args = [a.detach() for a in leaves(row.name)]
    scalars = SCALARS.get(row.name, {})
    expected = NATIVE[row.name](*args, **scalars)
    out = torch.zeros_like(expected)
    compiled = torch.compile(
        lambda out: PUBLIC[row.name](*args, **scalars, out=out), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(out), expected)
    torch.testing.assert_close(out, expected)
    if row.in_place:
        target = args[0].expand(expected.shape).clone()
        in_place = getattr(myops, f"{row.name}_")
        compiled = torch.compile(lambda t: in_place(t, *args[1:], **scalars), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(target), expected)
        torch.testing.assert_close(target, expected)


def test_mutation_of_a_differentiable_tensor() -> None:
    """The in-place form of a tensor that requires grad, inside the graph."""

    def f(function: Any, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return function(c.sin(), a, b).square()

    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 5), (4, 6), (6, 5))]
    compiled = torch.compile(lambda *args: f(myops.addmm_, *args), fullgraph=True, backend="aot_eager")
    got = with_grads(compiled, args)
    torch.testing.assert_close(got, with_grads(lambda *args: f(lambda c, a, b: c.addmm_(a, b), *args), args))


def test_resized_out() -> None:
    """An out of another shape grows outside the graph too."""
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    out = torch.empty(0)
    torch.compile(lambda out: myops.mm(a, b, out=out), backend="aot_eager")(out)
    torch.testing.assert_close(out, a @ b)


def test_failing_call_fails_with_our_words() -> None:
    compiled = torch.compile(lambda a, b: myops.mm(a, b), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"input and mat2 shapes cannot be multiplied \(2x3 and 4x2\)"):
        compiled(torch.ones(2, 3), torch.ones(4, 2))


# Recompiles.


def test_no_recompile_across_sizes(row: Operator) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    scalars = SCALARS.get(row.name, {})
    compiled = torch.compile(
        lambda *args: PUBLIC[row.name](*args, **scalars), fullgraph=True, dynamic=True, backend=counter
    )

    def scaled(shape: tuple[int, ...], factor: int) -> Tensor:
        return torch.randn([n * factor + factor for n in shape], dtype=torch.float64)

    with torch.no_grad():
        args = [scaled(shape, 1) for shape in ARGS[row.name]]
        compiled(*args)
        graphs = counter.frame_count
        with torch._dynamo.config.patch(error_on_recompile=True):
            for factor in (2, 3, 5, 11):
                args = [scaled(shape, factor) for shape in ARGS[row.name]]
                torch.testing.assert_close(compiled(*args), NATIVE[row.name](*args, **scalars))
    assert counter.frame_count == graphs


def test_automatic_dynamic_needs_one_recompile_and_no_more() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model = torch.compile(Model(), fullgraph=True, backend=counter)
    for rows in (4, 7, 9, 100, 33):
        x = torch.randn(rows, 8)
        model(x).sum().backward()
    assert counter.frame_count == 2


# Autocast, the switch, inductor.


class Model(nn.Module):
    def __init__(self, functions: Any = myops) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.functions = functions
        self.weight = nn.Parameter(torch.randn(16, 8) / 4)
        self.bias = nn.Parameter(torch.randn(16))
        self.out = nn.Parameter(torch.randn(16, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        linear = nn.functional.linear if self.functions is torch else self.functions.linear
        return self.functions.mm(linear(x, self.weight, self.bias).relu(), self.out)


def training_step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    y = model(x)
    y.float().square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]  # type: ignore[union-attr]


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_inductor(dynamic: bool) -> None:
    model, reference, x = Model().double(), Model(torch).double(), torch.randn(6, 8, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(training_step(compiled, x), training_step(reference, x))
    if dynamic:
        with torch._dynamo.config.patch(error_on_recompile=True):
            y = torch.randn(9, 8, dtype=torch.float64)
            torch.testing.assert_close(training_step(compiled, y), training_step(reference, y))


def test_inductor_keeps_strides() -> None:
    """Inductor trusts the strides of the fake: what it computes around the operator would be wrong otherwise."""
    x, y = torch.randn(5, 6, dtype=torch.float64).mT, torch.randn(5, 6, dtype=torch.float64).mT

    def f(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        total = myops.add(x.cos(), y[:, ::1])
        return total.mT.reshape(-1) + 1, myops.mm(total.mT, x.sin()).mT.contiguous()

    for got, expected in zip(torch.compile(f, fullgraph=True)(x, y), f(x, y), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_autocast(where: str) -> None:
    model, x = Model(), torch.randn(6, 8)

    def inside(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    if where == "inside":
        got = torch.compile(inside, fullgraph=True, backend="aot_eager")(x)
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, inside(x))
    got.float().sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float32


def test_activation_checkpoint() -> None:
    model, reference, x = Model().double(), Model(torch).double(), torch.randn(6, 8, dtype=torch.float64)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(self.model, x, use_reentrant=False)

    compiled = torch.compile(Checkpointed(), fullgraph=True, backend="aot_eager_decomp_partition")
    torch.testing.assert_close(training_step(compiled, x), training_step(reference, x))


def test_vmap_and_grad_inside() -> None:
    def f(a: Tensor, b: Tensor) -> Tensor:
        return torch.vmap(torch.func.grad(lambda x: myops.mm(x, b).square().sum()))(a)

    a, b = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    got = torch.compile(f, fullgraph=True, backend="aot_eager")(a, b)
    torch.testing.assert_close(got, 2 * (a @ b) @ b.T)


@pytest.mark.parametrize("name", ["add", "addmm", "baddbmm", "linear", "matmul"])
def test_sizes_that_are_data(name: str) -> None:
    """What broadcasts is told without knowing how many rows there are."""

    def f(module: dict[str, Any], x: Tensor) -> Tensor:
        some = x[x[:, 0] > 0]
        batch = some.unsqueeze(1)
        args = {
            "add": (some, x[0]),
            "addmm": (some, some, x),
            "baddbmm": (batch, batch, some.unsqueeze(2) @ some.unsqueeze(1)),
            "linear": (some, x, x[0]),
            "matmul": (batch, x),
        }[name]
        return module[name](*args)

    x = torch.randn(4, 4, dtype=torch.float64)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(lambda x: f(PUBLIC, x), fullgraph=True, backend="aot_eager")
        for rows in (x, x.abs(), -x.abs()):
            torch.testing.assert_close(compiled(rows), f(NATIVE, rows))


def test_forward_mode_inside() -> None:
    a, ta, b = (torch.randn(s, dtype=torch.float64) for s in ((4, 5), (4, 5), (5, 6)))
    compiled = torch.compile(
        lambda a, t: torch.func.jvp(lambda x: myops.mm(x, b), (a,), (t,)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(a, ta), (a @ b, ta @ b))


def test_compiled_autograd() -> None:
    """The backward of eager code compiled on its own; scalars of a node are not part of what is reused."""
    c, a, b = leaves("addmm")
    weight = torch.randn(3, 7, dtype=torch.float64)

    def f(module: Any, scale: float) -> Tensor:
        linear = nn.functional.linear if module is torch else module.linear
        hidden = linear(module.addmm(c, a, b, beta=scale, alpha=2 * scale), weight).relu()
        return module.add(hidden, hidden, alpha=2)

    for scale in (1, 0.5, 3):
        with torch._dynamo.compiled_autograd._enable(torch.compile(fullgraph=True, backend="aot_eager")):
            f(myops, scale).sum().backward()
        got = [t.grad.clone() for t in (c, a, b)]  # type: ignore[union-attr]
        for t in (c, a, b):
            t.grad = None
        torch.testing.assert_close(got, list(torch.autograd.grad(f(torch, scale).sum(), (c, a, b))))


def test_switch_inside_a_compiled_function() -> None:
    a = torch.randn(4, 4, dtype=torch.float64)
    myops.reset_stats()

    @torch.compile(backend="aot_eager")
    def f(a: Tensor) -> Tensor:
        with myops.use(ops=("mm",)):
            b = torch.mm(a, a)
        return torch.mm(b, a)

    torch.testing.assert_close(f(a), a @ a @ a)
    assert myops.stats()["mm"]["myops"] == 1


def plain_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).double()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_under_the_switch(backend: str) -> None:
    model, x = plain_model(), torch.randn(6, 8, dtype=torch.float64)
    expected = training_step(model, x)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    myops.reset_stats()
    with myops.use():
        got = training_step(compiled, x)
    torch.testing.assert_close(got, expected)
    counts = myops.stats()
    assert counts["addmm"]["myops"] == 2, counts
    assert counts["mm"]["myops"] >= 3, counts


def test_switch_under_code_that_was_compiled_before() -> None:
    model, x = plain_model(), torch.randn(6, 8, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected = training_step(compiled, x)
    myops.reset_stats()
    with torch._dynamo.config.patch(error_on_recompile=True):
        with myops.use():
            torch.testing.assert_close(training_step(compiled, x), expected)
        assert myops.stats()["addmm"]["myops"] == 2
        torch.testing.assert_close(training_step(compiled, x), expected)
    assert myops.stats()["addmm"]["myops"] == 2


def compiled_frames_of_ours(f: Callable[[], Any]) -> list[str]:
    """The functions of myops that Dynamo compiles as such in a first call of `f`."""
    torch._dynamo.reset()
    torch.compile(f, backend="eager")()
    codes = [code for seen in input_codes.seen if (code := seen()) is not None]
    folder = str(Path(myops.__file__).parent)
    return [code.co_qualname for code in codes if code.co_filename.startswith(folder)]


def test_backward_outside_of_a_graph_is_not_compiled() -> None:
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    loss = torch.compiler.disable(lambda: myops.linear(a, b).square().sum())
    assert not compiled_frames_of_ours(lambda: loss().backward())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("name", ["gru", "sparse"])
def test_kernels_outside_of_a_graph_are_not_compiled(name: str) -> None:
    gru, x, matrix = nn.GRU(5, 6), torch.randn(2, 3, 5), torch.rand(5, 5)
    csr = matrix.to_sparse_csr()
    call = {"gru": lambda: gru(x), "sparse": lambda: csr @ matrix}[name]
    with myops.use(strict=True):
        assert not compiled_frames_of_ours(call)


def test_batching_rule_outside_of_a_graph_is_not_compiled() -> None:
    a, b = torch.randn(3, 4, 5), torch.randn(5, 6)
    plain = torch._dynamo.disable(torch.ops.myops.mm.default._op, recursive=False)
    assert not compiled_frames_of_ours(lambda: torch.vmap(lambda one: plain(one, b))(a))


# Flops and the profiler.


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as mode:
        call()
    return mode.get_total_flops()


def test_flops(row: Operator) -> None:
    args = leaves(row.name)
    m, k, n = 6, 5, 7
    formula = {
        "add": 2 * m * k,
        "mm": 2 * m * k * n,
        "addmm": 2 * m * k * n,
        "bmm": 3 * 2 * m * k * n,
        "baddbmm": 3 * 2 * m * k * n,
        "matmul": 2 * 3 * 2 * m * k * n,
        "linear": 3 * 2 * m * k * n,
    }
    with torch.no_grad():
        assert flops(lambda: row.op(*args)) == formula[row.name]
        if row.name != "add":  # of which torch counts nothing
            assert flops(lambda: NATIVE[row.name](*args)) == formula[row.name]
    if row.name != "add":
        # The two products of the backward too.
        ours = flops(lambda: row.packet(*args).sum().backward())
        assert ours == flops(lambda: NATIVE[row.name](*args).sum().backward()) == 3 * formula[row.name]


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "add"])  # torch counts no flops of add
def test_flops_of_samples_equal_native(name: str) -> None:
    row = OPERATORS[name]
    for sample in row.samples("cpu", torch.float32):
        if any(a.dim() < 2 for a in sample.args[:2]):
            continue  # dot and mv, which torch does not count
        ours = flops(lambda: row.op(*sample.args, **sample.kwargs))
        scalars = {key: value for key, value in sample.kwargs.items() if key != "activation"}
        assert ours == flops(lambda: NATIVE[row.name](*sample.args, **scalars)), sample.name


def test_profiler_names_the_operator(row: Operator) -> None:
    args = leaves(row.name)
    with torch.profiler.profile(record_shapes=True) as profiler:
        PUBLIC[row.name](*args).sum().backward()
        with torch.no_grad():
            PUBLIC[row.name](*args)
    events = [event for event in profiler.events() if event.name == f"myops::{row.name}"]
    assert len(events) >= 2
    assert [list(shape) for shape in ARGS[row.name]] == events[0].input_shapes[: len(args)]


# Pins.


def graphs_of(model: nn.Module, x: Tensor) -> str:
    """The calls of the forward and the backward graph, one a line."""
    lines: list[str] = []

    def keep(title: str) -> Callable[..., Any]:
        def compiler(module: torch.fx.GraphModule, _: Any) -> Any:
            lines.append(f"{title}:")
            for node in module.graph.nodes:
                # Views and detaches come and go with the version of torch.
                name = str(node.args[0] if "auto_functionalized" in str(node.target) else node.target)
                if node.op == "call_function" and not name.startswith(("aten.detach", "aten.view", "aten.alias", "<")):
                    shape = tuple(node.meta["val"].shape) if isinstance(node.meta.get("val"), Tensor) else ""
                    lines.append(f"  {name} {shape}".rstrip())
            return make_boxed_func(module)

        return compiler

    backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))
    torch.compile(model, fullgraph=True, backend=backend)(x).sum().backward()
    return "\n".join(lines)


class TestPins(expecttest.TestCase):
    def test_schemas(self) -> None:
        found = [str(op._schema) for row in OPERATORS.values() for op in row.overloads]
        self.assertExpectedInline(
            "\n".join(found),
            """\
myops::add(Tensor input, Tensor other, *, float alpha=1.) -> Tensor
myops::add.out(Tensor input, Tensor other, *, float alpha=1., Tensor(a!) out) -> ()
myops::add.Scalar(Tensor input, Tensor other, *, Scalar alpha=1.) -> Tensor
myops::add.Scalar_out(Tensor input, Tensor other, *, Scalar alpha=1., Tensor(a!) out) -> ()
myops::add_(Tensor(a!) input, Tensor other, *, float alpha=1.) -> ()
myops::add_.Scalar(Tensor(a!) input, Tensor other, *, Scalar alpha=1.) -> ()
myops::mm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor
myops::mm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()
myops::addmm(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1., float alpha=1., int activation=0) -> Tensor
myops::addmm.out(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, float beta=1., float alpha=1., int activation=0, Tensor(a!) out) -> ()
myops::addmm.Scalar(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, Scalar beta=1., Scalar alpha=1., int activation=0) -> Tensor
myops::addmm.Scalar_out(Tensor input, Tensor mat1, Tensor mat2, ScalarType? out_dtype=None, *, Scalar beta=1., Scalar alpha=1., int activation=0, Tensor(a!) out) -> ()
myops::addmm_(Tensor(a!) input, Tensor mat1, Tensor mat2, *, float beta=1., float alpha=1., int activation=0) -> ()
myops::addmm_.Scalar(Tensor(a!) input, Tensor mat1, Tensor mat2, *, Scalar beta=1., Scalar alpha=1., int activation=0) -> ()
myops::bmm(Tensor input, Tensor mat2, ScalarType? out_dtype=None) -> Tensor
myops::bmm.out(Tensor input, Tensor mat2, ScalarType? out_dtype=None, *, Tensor(a!) out) -> ()
myops::baddbmm(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1., float alpha=1., int activation=0) -> Tensor
myops::baddbmm.out(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, float beta=1., float alpha=1., int activation=0, Tensor(a!) out) -> ()
myops::baddbmm.Scalar(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, Scalar beta=1., Scalar alpha=1., int activation=0) -> Tensor
myops::baddbmm.Scalar_out(Tensor input, Tensor batch1, Tensor batch2, ScalarType? out_dtype=None, *, Scalar beta=1., Scalar alpha=1., int activation=0, Tensor(a!) out) -> ()
myops::baddbmm_(Tensor(a!) input, Tensor batch1, Tensor batch2, *, float beta=1., float alpha=1., int activation=0) -> ()
myops::baddbmm_.Scalar(Tensor(a!) input, Tensor batch1, Tensor batch2, *, Scalar beta=1., Scalar alpha=1., int activation=0) -> ()
myops::linear(Tensor input, Tensor weight, Tensor? bias=None, *, int activation=0) -> Tensor
myops::linear.out(Tensor input, Tensor weight, Tensor? bias=None, *, int activation=0, Tensor(a!) out) -> ()
myops::matmul(Tensor input, Tensor other) -> Tensor
myops::matmul.out(Tensor input, Tensor other, *, Tensor(a!) out) -> ()""",
        )

    def test_namespace(self) -> None:
        """Nothing is registered that the table does not have."""
        registered = {
            name.removeprefix("myops::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("myops::")
        }
        ops = [op for _, op in OVERLOADS] + [row.op for row in COMPONENTS.values()]
        names = {str(op._schema).partition("(")[0].removeprefix("myops::") for op in ops}
        # Without a gradient of their own: indices, a composite, and fronts of others.
        names |= {"csr_transpose", "csr_rows", "sparse_mm"}
        names |= {"native_mm", "native_extremum", "native_bmm", "native_sampled_addmm", "native_spgemm"}
        names |= {"linear_packed", "pack_weight", "unpack_weight"}  # outside the tables; tests/test_packed.py
        assert {re.sub(r"\.$", "", name) for name in registered} == names

    def test_graph(self) -> None:
        torch._dynamo.reset()
        self.assertExpectedInline(
            graphs_of(Model(), torch.randn(6, 8)),
            """\
forward:
  myops.linear.default (6, 16)
  aten.relu.default (6, 16)
  myops.mm.default (6, 4)
backward:
  aten.transpose.int (4, 16)
  myops.mm.default (6, 16)
  aten.transpose.int (16, 6)
  myops.mm.default (16, 4)
  aten.threshold_backward.default (6, 16)
  aten.transpose.int (16, 6)
  myops.mm.default (16, 8)
  aten.sum.dim_IntList (1, 16)""",
        )

    def test_graph_of_mutation(self) -> None:
        class Accumulate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.randn(8, 4))
                self.register_buffer("total", torch.zeros(6, 4))

            def forward(self, x: Tensor) -> Tensor:
                myops.addmm_(self.total, x, self.weight.detach(), beta=0.9)
                return myops.add(myops.mm(x, self.weight), self.total, alpha=0.1)

        torch._dynamo.reset()
        self.assertExpectedInline(
            graphs_of(Accumulate(), torch.randn(6, 8)),
            """\
forward:
  myops.addmm_.default
  myops.mm.default (6, 4)
  myops.add.default (6, 4)
backward:
  aten.transpose.int (8, 6)
  myops.mm.default (8, 4)""",
        )


def test_conjugates_of_what_inductor_computes() -> None:
    """Inductor has complex buffers in layouts of its own; a copy to another, which no operator asks for, loses the bit."""
    dtype = torch.complex64
    x, w, bias = torch.randn(5, 4, dtype=dtype), torch.randn(2, 4), torch.zeros(2, dtype=dtype)
    packed = myops.pack_weight(torch.randn(3, 2, dtype=dtype))

    def products(x: Tensor, w: Tensor) -> list[Tensor]:
        b = (w.t().contiguous() * (2 - 1j)).conj()
        results = [
            myops.mm(x, b),
            myops.addmm(bias, x, b),
            myops.bmm(x[None], b[None]),
            myops.baddbmm(bias, x[None], b[None]),
            myops.matmul(x[None], b),
            myops.linear(x, b.mT, bias),
            myops.linear(b.contiguous(), packed),
            myops.add(x[:2], b.mT),
        ]
        return [torch.view_as_real(result) for result in results]

    with torch._inductor.config.patch(force_disable_caches=True):  # perhaps of an older version
        compiled = torch.compile(products, fullgraph=True)(x, w)
    for got, expected in zip(compiled, products(x, w), strict=True):
        torch.testing.assert_close(got, expected)
