"""The activations of addmm, baddbmm and linear: values, every way through the engine, gradients, what is kept.

A product of depth 0 is the activation of its addend, so that f itself is measured through the operators. Sums of whole
numbers are exact on every way through the engine, so the results of f are compared bit for bit with that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import pytest
import torch
from conftest import COMPLEX, FLOATS, INTEGERS, OTHER_LEVELS, run_on_level
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import myops
from myops.activation import ACTIVATIONS, activations_of, apply
from myops.ops._gemm import WIDE, layouts, tensor

NAMES = ACTIVATIONS[1:]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def of(x: Tensor, activation: str | int, **kwargs: Any) -> Tensor:
    """f(x), by our kernel."""
    no_depth = x.new_empty(x.shape[0], 0), x.new_empty(0, x.shape[1])
    return myops.addmm(x, *no_depth, activation=activation, **kwargs)  # type: ignore[arg-type]


def native(x: Tensor, activation: str) -> Tensor:
    return apply(ACTIVATIONS.index(activation), x)


def points(dtype: torch.dtype) -> Tensor:
    """Everything that a 16-bit float can be; of the others, all magnitudes and signs, the interesting ones densely."""
    if dtype.itemsize == 2:
        return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    magnitudes = torch.cat(
        [torch.logspace(-30, 30, 50000, dtype=torch.float64), torch.linspace(0, 40, 200001).double()]
    )
    return torch.cat([magnitudes, -magnitudes]).to(dtype)


def exact(x: Tensor, activation: str) -> Tensor:
    """In float64, without the cancellation that torch's formulas have for negative numbers."""
    x = x.double()
    if activation == "relu":
        return x.clamp_min(0)
    if activation == "gelu":
        return x * torch.special.erfc(-x * 0.5**0.5) / 2
    y = x if activation == "silu" else (8 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    return torch.where(y < -745, -0.0 * x.abs(), x * torch.sigmoid(y))


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("dtype_", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_error_against_float64(device: str, activation: str, dtype_: torch.dtype) -> None:
    x = points(dtype_)
    normal = x.double().abs() > 4 * torch.finfo(dtype_).tiny  # stores of bfloat16 flush what is not, on some levels
    x = x[x.isfinite() & normal].to(device)
    expected = exact(x, activation)
    unit = torch.finfo(dtype_).eps * x.double().abs()

    def error(got: Tensor) -> float:
        return float(((got.double() - expected).abs() / unit).max())

    ours, theirs = error(of(x[None], activation)[0]), error(native(x, activation))
    assert ours <= 2 * theirs, (ours, theirs)
    assert ours <= (1.6 if dtype_ == torch.float32 else 0.51), ours


@pytest.mark.parametrize("activation", NAMES)
def test_error_of_float64(device: str, activation: str) -> None:
    x = torch.cat([torch.linspace(-12, 12, 1501, dtype=torch.float64), points(torch.float64)[::797]]).to(device)
    ours, theirs = of(x[None], activation)[0].tolist(), native(x, activation).tolist()
    worst = [0.0, 0.0]
    with mpmath.workdps(50):
        for value, *results in zip(x.tolist(), ours, theirs, strict=True):
            v = mpmath.mpf(value)
            if activation == "relu":
                expected = max(v, mpmath.mpf(0))
            elif activation == "gelu":
                expected = v * mpmath.ncdf(v)
            else:
                y = v if activation == "silu" else mpmath.sqrt(8 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)
                expected = v / (1 + mpmath.exp(-y)) if y > -2000 else mpmath.mpf(0)
            for i, result in enumerate(results):
                error = abs(mpmath.mpf(result) - expected) / (abs(v) * 2**-52 + mpmath.mpf(2) ** -1000)
                worst[i] = max(worst[i], float(error))
    assert worst[0] <= 2 * worst[1], worst
    assert worst[0] <= 1.4, worst


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("dtype_", FLOATS, ids=str)
def test_special_values(device: str, activation: str, dtype_: torch.dtype) -> None:
    """As in torch, whose gelu of infinity is NaN on some machines and of the largest number infinity."""
    inf, nan = float("inf"), float("nan")
    largest = torch.finfo(dtype_).max
    x = torch.tensor([[inf, -inf, nan, 0.0, -0.0, largest, -largest]], dtype=dtype_, device=device)
    of_minus_infinity = 0.0 if activation == "relu" else nan
    expected = torch.tensor([[inf, of_minus_infinity, nan, 0, 0, largest, 0]], dtype=dtype_, device=device)
    torch.testing.assert_close(of(x, activation), expected, rtol=0, atol=0, equal_nan=True)


def test_relu_of_integers(device: str) -> None:
    """Of the stored number: a modular sum is negative where its sign bit says so."""
    for dtype in INTEGERS:
        info = torch.iinfo(dtype)
        a = torch.randint(info.min, info.max, (9, 37), dtype=torch.int64).to(device, dtype)
        b = torch.randint(info.min, info.max, (37, 70), dtype=torch.int64).to(device, dtype)
        c = torch.randint(info.min, info.max, (9, 70), dtype=torch.int64).to(device, dtype)
        assert torch.equal(myops.addmm(c, a, b, activation="relu"), torch.relu(myops.addmm(c, a, b))), dtype
        if dtype in WIDE:
            expected = torch.relu(myops.mm(a, b, torch.int32))
            wide_c = torch.zeros(70, dtype=torch.int32, device=device)
            assert torch.equal(myops.addmm(wide_c, a, b, torch.int32, activation="relu"), expected), dtype


def whole_numbers(m: int, n: int, k: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Operands whose sums every dtype holds, around zero: f is not one there."""
    a = torch.randint(-1, 2, (m, k)) * (torch.rand(m, k) < 60 / max(k, 60))
    b = torch.randint(-1, 2, (k, n))
    return torch.randint(-3, 4, (m, n)).to(device, dtype), a.to(device, dtype), b.to(device, dtype)


# Rows against columns and depth: one block of k and several, tiles and their edges, dot products, the matrix unit.
SHAPES = [(1, 300, 700), (3, 70, 33), (5, 64, 1100), (40, 130, 70), (70, 200, 1500), (64, 64, 4500), (9, 1, 50)]


@pytest.mark.parametrize("order", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize("dtype_", FLOATS, ids=str)
def test_every_way_applies_it_once(device: str, dtype_: torch.dtype, order: str) -> None:
    for (m, n, k), activation in itertools.product(SHAPES, NAMES):
        c, a, b = whole_numbers(m, n, k, device, dtype_)
        a = a if order[0] == "N" else a.mT.contiguous().mT
        b = b if order[1] == "N" else b.mT.contiguous().mT
        for addend, out_dtype in itertools.product((c, c[0], c[:, :1]), {dtype_, WIDE.get(dtype_, dtype_)}):
            x = torch.addmm(addend.double(), a.double(), b.double(), beta=2, alpha=-1).to(out_dtype)
            got = myops.addmm(addend, a, b, out_dtype, beta=2, alpha=-1, activation=activation)
            assert torch.equal(got, of(x, activation)), (m, n, k, activation, addend.shape, out_dtype)
            out = torch.full((n, m), float("nan"), dtype=out_dtype, device=device).mT
            kwargs = {"beta": 2, "alpha": -1, "activation": activation, "out": out}
            myops.addmm(addend, a, b, out_dtype, **kwargs)  # type: ignore[arg-type]
            assert torch.equal(out, got), (m, n, k, activation, addend.shape, out_dtype)
        both = torch.ops.myops.addmm_with_preactivation(c, a, b, activation=ACTIVATIONS.index(activation))
        assert torch.equal(both[1], myops.addmm(c, a, b)), (m, n, k, activation)
        assert torch.equal(both[0], myops.addmm(c, a, b, activation=activation)), (m, n, k, activation)


def test_layouts_of_the_addend_and_of_out(device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int32):
        _, a, b = whole_numbers(9, 37, 20, device, dtype)
        for (name, c), activation in itertools.product(layouts((9, 37), device, dtype), activations_of(dtype)):
            expected = myops.addmm(c.contiguous(), a, b, activation=activation)  # type: ignore[arg-type]
            assert torch.equal(myops.addmm(c, a, b, activation=activation), expected), (name, activation)  # type: ignore[arg-type]
        for (name, out), activation in itertools.product(layouts((9, 37), device, dtype), activations_of(dtype)):
            if name in ("expanded rows", "expanded columns", "overlapping"):
                continue
            c = tensor((37,), device, dtype)
            kwargs = {"activation": activation}
            expected = myops.addmm(c, a, b, **kwargs)  # type: ignore[arg-type]
            assert torch.equal(myops.addmm(c, a, b, **kwargs, out=out), expected), (name, activation)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", NAMES)
def test_forms(device: str, activation: str) -> None:
    """Batches, linear of any rank, in place, out that is an operand, and the pre-activation of each."""
    number = ACTIVATIONS.index(activation)
    ops = torch.ops.myops
    a, b, c = (tensor(shape, device, torch.float32) for shape in ((3, 8, 20), (3, 20, 8), (3, 8, 8)))
    x = torch.stack([of(t, activation) for t in myops.baddbmm(c, a, b)])
    assert torch.equal(myops.baddbmm(c, a, b, activation=activation), x)
    assert torch.equal(myops.baddbmm_(c.clone(), a, b, activation=activation), x)
    assert torch.equal(myops.addmm_(c[0].clone(), a[0], b[0], activation=activation), x[0])
    first, before = ops.baddbmm_with_preactivation(c, a, b, activation=number)
    assert torch.equal(first, x)
    assert torch.equal(before, myops.baddbmm(c, a, b))
    square = c[0].clone()
    expected = myops.addmm(square.clone(), square.clone(), c[1], activation=activation)
    assert torch.equal(myops.addmm(square, square, c[1], activation=activation, out=square), expected)
    for shape, w, bias in [
        ((2, 5, 4, 20), (9, 20), (9,)),
        ((20,), (9, 20), (9,)),
        ((6, 20), (20,), ()),
        ((20,), (20,), ()),
    ]:
        args = [tensor(s, device, torch.float32) for s in (shape, w, bias)]
        plain = myops.linear(*args)
        expected = of(plain.reshape(1, -1), activation).view(plain.shape)
        assert torch.equal(myops.linear(*args, activation), expected), shape
        assert torch.equal(myops.linear(*args, activation=activation, out=torch.empty_like(plain)), expected), shape
        both = ops.linear_with_preactivation(*args, activation=number)
        assert torch.equal(both[0], expected), shape
        assert torch.equal(both[1], plain), shape
    many = [tensor(s, device, torch.float32) for s in ((2, 1, 2, 1, 2, 1, 2, 5, 20), (9, 20), (9,))]
    many[0] = many[0].permute(6, 4, 2, 0, 1, 3, 5, 7, 8)
    both = ops.linear_with_preactivation(*many, activation=number)
    assert torch.equal(both[1], myops.linear(*many))
    assert torch.equal(both[0], of(both[1].reshape(1, -1), activation).view(both[1].shape))


@pytest.mark.parametrize("dtype_", FLOATS, ids=str)
def test_batch_invariance(dtype_: torch.dtype) -> None:
    """The same function of the same sum, in whole vectors and in what is left of a row."""
    with myops.use((), batch_invariant=True):
        for k, activation in itertools.product((31, 700, 2100), NAMES):
            c, a, b = (tensor(shape, "cpu", dtype_) for shape in ((70, 150), (70, k), (k, 150)))
            whole = myops.addmm(c, a, b, activation=activation)
            for m, n in ((1, 150), (7, 150), (70, 1), (13, 33)):
                got = myops.addmm(c[:m, :n], a[:m], b[:, :n], activation=activation)
                assert torch.equal(got, whole[:m, :n]), (k, activation, m, n)


def test_names_and_refusals() -> None:
    a = torch.ones(2, 2)
    for function in (
        myops.linear,
        lambda *t, **kw: myops.addmm(a, *t, **kw),
        lambda *t, **kw: myops.addmm_(a, *t, **kw),
    ):
        with pytest.raises(
            ValueError, match="activation must be one of none, relu, gelu, gelu_tanh, silu, but got 'tanh'"
        ):
            function(a, a, activation="tanh")
    for dtype in (*INTEGERS, *COMPLEX):
        b = torch.ones(2, 2, dtype=dtype, requires_grad=dtype.is_complex)
        for activation in NAMES if dtype.is_complex else NAMES[1:]:
            with pytest.raises(
                NotImplementedError, match=f"activation {activation} is not implemented for input of dtype"
            ):
                myops.linear(b, b, activation=activation)
    assert torch.equal(myops.linear(a, a, None, "none"), myops.linear(a, a))


# Gradients.


def reference(activation: str, *args: Tensor, **kwargs: Any) -> Tensor:
    return native(torch.addmm(*args, **kwargs), activation)


def operands(dtype: torch.dtype = torch.float64, requires_grad: bool = True) -> list[Tensor]:
    return [torch.randn(s, dtype=dtype).requires_grad_(requires_grad) for s in ((7,), (6, 5), (5, 7))]


@pytest.mark.parametrize("activation", NAMES)
def test_gradients_of_all_orders(activation: str) -> None:
    """The forms that the samples do not have: in place, views, a frozen operand, a wide result."""
    args = operands()
    call = lambda *ts: myops.addmm(*ts, beta=0.5, activation=activation)  # noqa: E731
    assert gradcheck(call, args, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(call, args, check_fwd_over_rev=True, check_rev_over_rev=True)
    assert gradcheck(lambda c, *ts: myops.addmm_(c.expand(6, 7).clone(), *ts, activation=activation), args)
    for frozen in range(3):
        args = [t.detach().requires_grad_(i != frozen) for i, t in enumerate(operands())]
        ours, theirs = call(*args), reference(activation, *args, beta=0.5)
        wanted = [t for t in args if t.requires_grad]
        for x, y in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(x, y)
    low = [t.detach().bfloat16().requires_grad_() for t in operands()[1:]]
    bias = torch.randn(7, requires_grad=True)
    y = myops.addmm(bias, *low, torch.float32, activation=activation)
    exact = [t.detach().double().requires_grad_() for t in (bias, *low)]
    for x, expected in zip(
        torch.autograd.grad(y.sum(), [bias, *low]),
        torch.autograd.grad(reference(activation, *exact).sum(), exact),
        strict=True,
    ):
        torch.testing.assert_close(x, expected.to(x.dtype), rtol=0.01, atol=0.03)


def transforms() -> dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]]:
    func = torch.func
    return {
        "grad": lambda f, x: func.grad(lambda v: f(v).square().sum())(x),
        "jvp": lambda f, x: func.jvp(f, (x,), (x.sin(),)),
        "jvp of jvp": lambda f, x: func.jvp(lambda v: func.jvp(f, (v,), (v.sin(),)), (x,), (x.cos(),)),
        "jacrev": lambda f, x: func.jacrev(f)(x),
        "jacfwd": lambda f, x: func.jacfwd(f)(x),
        "hessian": lambda f, x: func.hessian(lambda v: f(v).square().sum())(x),
        "vmap of grad": lambda f, x: func.vmap(func.grad(lambda v: f(v).square().sum()))(torch.stack([x, 2 * x])),
        "grad of vmap": lambda f, x: func.grad(lambda v: func.vmap(f)(v).square().sum())(torch.stack([x, 2 * x])),
        "grad of grad": lambda f, x: func.grad(lambda v: func.grad(lambda u: f(u).square().sum())(v).square().sum())(x),
    }


@pytest.mark.parametrize("transform", list(transforms()))
@pytest.mark.parametrize("activation", NAMES)
def test_torch_func(activation: str, transform: str) -> None:
    apply_transform = transforms()[transform]
    args = operands(requires_grad=False)
    for position in range(3):

        def through(function: Callable[..., Tensor], value: Tensor, position: int = position) -> Tensor:
            return function(*args[:position], value, *args[position + 1 :])

        ours = apply_transform(
            lambda v: through(lambda *ts: myops.addmm(*ts, activation=activation), v), args[position]
        )
        theirs = apply_transform(lambda v: through(lambda *ts: reference(activation, *ts), v), args[position])
        torch.testing.assert_close(ours, theirs)


def test_forward_mode_without_grad() -> None:
    c, a, b = operands(requires_grad=False)
    with torch.no_grad(), forward_ad.dual_level():
        for activation in NAMES:
            dual = forward_ad.make_dual(a, a.cos())
            ours = forward_ad.unpack_dual(myops.addmm(c, dual, b, activation=activation))
            theirs = forward_ad.unpack_dual(reference(activation, c, dual, b))
            torch.testing.assert_close(ours.primal, theirs.primal)
            torch.testing.assert_close(ours.tangent, theirs.tangent)


@pytest.mark.parametrize("activation", NAMES)
def test_what_is_kept(activation: str) -> None:
    """Both factors, and one matrix of the result's size: the result of relu, else what f was applied to."""
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    x, w, b = (torch.randn(s, requires_grad=True) for s in ((6, 5), (7, 5), (7,)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = myops.linear(x, w, b, activation)
    assert [t.shape for t in kept] == [x.shape, w.shape, y.shape]
    assert torch.equal(kept[2], y if activation == "relu" else myops.linear(x, w, b))
    assert torch.equal(y, myops.linear(x.detach(), w, b, activation).detach()), "the same bits with a graph and without"
    y.sum().backward()
    assert b.grad is not None


@pytest.mark.parametrize("activation", NAMES)
def test_autocast(activation: str) -> None:
    x, w, b = (torch.randn(s, requires_grad=True) for s in ((6, 5), (7, 5), (7,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = myops.linear(x, w, b, activation)
    assert y.dtype == torch.bfloat16
    low = myops.linear(*(t.bfloat16() for t in (x, w, b)), activation)
    assert torch.equal(y, low)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(y.sum(), (x, w, b)))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(backend: str, dynamic: bool) -> None:
    def model(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        for activation in NAMES:
            x = myops.linear(x, w, b, activation)
        return x

    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend=backend)
    w, b = torch.randn(5, 5, requires_grad=True), torch.randn(5, requires_grad=True)
    for rows in (6, 9):
        with torch._dynamo.config.patch(error_on_recompile=dynamic and rows == 9):
            x = torch.randn(rows, 5, requires_grad=True)
            ours, theirs = compiled(x, w, b), model(x, w, b)
            torch.testing.assert_close(ours, theirs)
            for got, expected in zip(
                *(torch.autograd.grad(y.square().sum(), (x, w, b)) for y in (ours, theirs)), strict=True
            ):
                torch.testing.assert_close(got, expected)


def test_decomposes_to_aten() -> None:
    program = torch.export.export(Layer(), (torch.randn(4, 3),))
    plain = program.run_decompositions(myops.decompositions())
    names = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert not any("myops" in name for name in names), names
    x = torch.randn(4, 3)
    torch.testing.assert_close(plain.module()(x), Layer()(x))


class Layer(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        w = torch.arange(15, dtype=x.dtype).view(5, 3).sin()
        return torch.cat([myops.linear(x, w, None, activation) for activation in NAMES], -1)


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The values again in a process that is forced to another level of this machine."""
    run_on_level(level, __file__, "error or special or integers or every_way or layouts or forms")


def test_fakes_of_preactivations_need_an_activation() -> None:
    x = torch.ones(2, 3, device="meta")
    with pytest.raises(RuntimeError, match="activation must not be 0"):
        torch.ops.myops.linear_with_preactivation(x, x, activation=0)


def test_decompositions_cover_the_components() -> None:
    assert torch.ops.myops.linear_with_preactivation.default in myops.decompositions()
