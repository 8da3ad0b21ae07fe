"""Gradients: reverse and forward mode, second order, torch.func, autocast, and no work that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import myops
from myops.ops._gemm import tensor
from myops.registration import Operator, Sample

DTYPES64 = [torch.float64, torch.complex128]


def differentiable(row: Operator, device: str, dtype: torch.dtype, most: int = 60) -> list[Sample]:
    """Samples small enough for finite differences, with every tensor a leaf that requires grad."""
    found = []
    for sample in row.samples(device, dtype, requires_grad=True):
        tensors = [a for a in sample.args if isinstance(a, Tensor)]
        if sum(t.numel() for t in tensors) > 400 or any(isinstance(a, torch.dtype) for a in sample.args):
            continue
        # Overlapping and expanded leaves have no finite differences of their own: one memory cell, several elements.
        args = [
            a.detach().clone(memory_format=torch.preserve_format).requires_grad_() if isinstance(a, Tensor) else a
            for a in sample.args
        ]
        found.append(Sample(tuple(args), sample.kwargs, sample.name))
    return found[:most]


def caller(row: Operator, sample: Sample, public: bool) -> Callable[..., Tensor]:
    function = getattr(myops, row.name) if public else row.packet
    return lambda *tensors: function(*tensors, **sample.kwargs)


@pytest.mark.parametrize("dtype64", DTYPES64)
def test_gradcheck(row: Operator, device: str, dtype64: torch.dtype) -> None:
    samples = differentiable(row, device, dtype64)
    assert len(samples) >= 8
    for i, sample in enumerate(samples):
        function = caller(row, sample, public=i % 2 == 0)
        assert gradcheck(function, sample.args, check_forward_ad=True, check_batched_grad=i % 4 == 0), sample.name


@pytest.mark.parametrize("dtype64", DTYPES64)
def test_gradgradcheck(row: Operator, device: str, dtype64: torch.dtype) -> None:
    for sample in differentiable(row, device, dtype64)[:8]:
        assert gradgradcheck(caller(row, sample, public=True), sample.args), sample.name


def test_gradients_equal_native_with_constant_operands(row: Operator, device: str) -> None:
    """Every subset of arguments that require grad gets its gradient, and only that subset."""
    native = {"linear": torch.nn.functional.linear}.get(row.name) or getattr(torch, row.name)
    sample = next(s for s in row.samples(device, torch.float64) if all(min(t.shape, default=1) > 0 for t in s.args))
    count = len(sample.args)
    for mask in range(1, 2**count):
        args = [t.detach().clone().requires_grad_(bool(mask >> i & 1)) for i, t in enumerate(sample.args)]
        wanted = [t for t in args if t.requires_grad]
        got = getattr(myops, row.name)(*args, **sample.kwargs)
        expected = native(*args, **sample.kwargs)
        weight = torch.randn_like(expected)
        ours, theirs = (torch.autograd.grad((y * weight).sum(), wanted) for y in (got, expected))
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", ["mm", "addmm", "matmul", "folded", "left"])
def test_gradients_of_transposed_operands_are_laid_out_as_natively(name: str, device: str) -> None:
    x, w = torch.randn(2, 6, 4, device=device), torch.randn(5, 4, device=device, requires_grad=True)

    def strides(ops: Any) -> tuple[int, ...]:
        y = {
            "mm": lambda: ops.mm(x[0], w.t()),
            "addmm": lambda: ops.addmm(x.new_ones(5), x[0], w.t(), alpha=2),
            "matmul": lambda: ops.matmul(x[0], w.t()),
            "folded": lambda: ops.matmul(x, w.t()),
            "left": lambda: ops.mm(w.t(), x.new_ones(5, 3)),
        }[name]()
        (grad,) = torch.autograd.grad(y.sum(), w)
        return grad.stride()

    assert strides(myops) == strides(torch) == (4, 1)


def test_no_product_for_inputs_without_grad() -> None:
    """One gradient is one product: the backward of a frozen weight computes nothing for it."""
    x, w = torch.randn(4, 5, requires_grad=True), torch.randn(5, 6)
    y = myops.mm(x, w)
    with torch.profiler.profile() as profile:
        y.sum().backward()
    products = [e for e in profile.events() if e.name == "myops::mm"]
    assert len(products) == 1
    assert w.grad is None


def test_zero_scalars_give_zero_gradients() -> None:
    c = torch.full((3, 4), float("nan"), requires_grad=True)
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    inf = torch.full((3, 4), float("inf"))  # which 0 times itself would not make zero
    myops.addmm(c, a, b, beta=0).backward(inf)
    assert torch.equal(c.grad, torch.zeros(3, 4))
    bad = torch.full((3, 5), float("nan"), requires_grad=True)
    myops.addmm(torch.ones(3, 4), bad, b, alpha=0).backward(inf)
    assert torch.equal(bad.grad, torch.zeros(3, 5))


def test_wide_results_are_differentiable(device: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        a = tensor((6, 40), device, dtype, requires_grad=True)
        b = tensor((40, 7), device, dtype, requires_grad=True)
        y = myops.mm(a, b, torch.float32)
        weight = torch.randn_like(y)
        grad_a, grad_b = torch.autograd.grad((y * weight).sum(), (a, b))
        assert grad_a.dtype == grad_b.dtype == dtype
        torch.testing.assert_close(grad_a, (weight.double() @ b.double().mT).to(dtype))
        torch.testing.assert_close(grad_b, (a.double().mT @ weight.double()).to(dtype))


def test_forward_mode_needs_no_grad(device: str) -> None:
    a, b, da = (torch.randn(s, device=device, dtype=torch.float64) for s in ((3, 4), (4, 5), (3, 4)))
    with torch.no_grad(), forward_ad.dual_level():
        for function in (myops.mm, torch.ops.myops.mm):
            dual = function(forward_ad.make_dual(a, da), b)
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, da @ b)


FUNC = {
    "grad": lambda f, x: torch.func.grad(lambda v: f(v).square().sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(f(x)))[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.sin(),))[1],
    "jvp of jvp": lambda f, x: torch.func.jvp(lambda v: torch.func.jvp(f, (v,), (v.sin(),))[1], (x,), (x.cos(),)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda v: f(v).square().sum())(x),
    "vmap of grad": lambda f, x: torch.vmap(torch.func.grad(lambda v: f(v).square().sum()))(torch.stack([x, 2 * x])),
    "vmap of vmap": lambda f, x: torch.vmap(torch.vmap(f))(torch.stack([x, x + 1, -x, x * x]).unflatten(0, (2, 2))),
}


@pytest.mark.parametrize("transform", list(FUNC))
def test_torch_func(row: Operator, device: str, transform: str) -> None:
    native = {"linear": torch.nn.functional.linear}.get(row.name) or getattr(torch, row.name)
    sample = next(s for s in row.samples(device, torch.float64) if all(min(t.shape, default=1) > 0 for t in s.args))
    for position in range(len(sample.args)):

        def through(function: Any, value: Tensor, position: int = position) -> Tensor:
            args = list(sample.args)
            args[position] = value
            return function(*args, **sample.kwargs)

        x = sample.args[position].contiguous()
        got = FUNC[transform](lambda v: through(getattr(myops, row.name), v), x)
        expected = FUNC[transform](lambda v: through(native, v), x)
        torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("error")
def test_vmap_over_every_argument(row: Operator, device: str) -> None:
    """A batch in each subset of the arguments, at the front or the back, against a loop. A warning would be a loop too."""
    samples = [s for s in row.samples(device, torch.float64) if all(isinstance(t, Tensor) for t in s.args)]
    for sample in samples[: 24 if row.name in ("matmul", "linear") else 14]:
        count = len(sample.args)
        for mask in range(1, 2**count):
            for back in (False, True):
                dims = tuple((-1 if back else 0) if mask >> i & 1 else None for i in range(count))
                args = [
                    torch.stack([t, 2 * t, t + 1], dim=d) if d is not None else t
                    for t, d in zip(sample.args, dims, strict=True)
                ]
                got = torch.vmap(lambda *ts: row.packet(*ts, **sample.kwargs), in_dims=dims)(*args)
                rows = [
                    row.op(
                        *(t if d is None else t.select(d, i) for t, d in zip(args, dims, strict=True)), **sample.kwargs
                    )
                    for i in range(3)
                ]
                torch.testing.assert_close(got, torch.stack(rows), msg=lambda m: f"{sample.name} {dims}: {m}")


def test_vmap_of_wide_results() -> None:
    a, b = torch.randn(3, 2, 4, 5).bfloat16(), torch.randn(2, 5, 6).bfloat16()
    got = torch.vmap(lambda x: myops.bmm(x, b, torch.float32))(a)
    torch.testing.assert_close(got, torch.stack([myops.bmm(x, b, torch.float32) for x in a]))
    got = torch.vmap(lambda x: myops.mm(x, b[0], torch.float32))(a[:, 0])
    torch.testing.assert_close(got, torch.stack([myops.mm(x, b[0], torch.float32) for x in a[:, 0]]))


def test_no_grad_and_inference_mode(row: Operator, device: str) -> None:
    sample = next(iter(row.samples(device, torch.float32, requires_grad=True)))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            for function in (getattr(myops, row.name), row.packet):
                assert not function(*sample.args, **sample.kwargs).requires_grad
    assert getattr(myops, row.name)(*sample.args, **sample.kwargs).requires_grad


@pytest.mark.parametrize("name", ["addmm", "baddbmm", "add"])
def test_in_place_is_differentiable(device: str, name: str) -> None:
    shape = (3, 4, 4) if name == "baddbmm" else (4, 4)
    tensors = [torch.randn(shape, device=device, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    operands = tensors[:2] if name == "add" else tensors
    for library in (myops, torch.ops.myops):

        def function(c: Tensor, *rest: Tensor, library: Any = library) -> Tensor:
            target = c.clone()
            getattr(library, f"{name}_")(target, *rest, alpha=2)
            return target

        assert gradcheck(function, operands, check_forward_ad=True)
    leaf = torch.randn(shape, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        getattr(myops, f"{name}_")(leaf, *(t.detach().float() for t in operands[1:]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda m: m.__name__)
def test_version_counters(mode: Any, device: str) -> None:
    a, b = torch.randn(4, 4, device=device), torch.randn(4, 4, device=device)
    for library in (myops, torch.ops.myops):
        out = torch.empty(4, 4, device=device)
        before = out._version
        with mode():
            library.mm(a, b, out=out)
            assert out._version == before + 1
            library.addmm_(out, a, b)
            assert out._version == before + 2
            library.add_(out, a)
            assert out._version == before + 3
            inside = torch.empty(4, 4, device=device)  # in inference mode a tensor without a version
            library.mm(a, b, out=inside)


def test_a_saved_tensor_that_was_written_to(device: str) -> None:
    a, b = torch.randn(4, 4, device=device), torch.randn(4, 4, device=device)
    x = torch.randn(4, 4, device=device, requires_grad=True)
    hidden = x * 2
    y = hidden.sin()
    with torch.no_grad():
        myops.mm(a, b, out=hidden)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_out_refuses_grad(row: Operator) -> None:
    sample = next(iter(row.samples("cpu", torch.float32, requires_grad=True)))
    out = torch.empty(0)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        getattr(myops, row.name)(*sample.args, **sample.kwargs, out=out)
    with torch.no_grad():
        getattr(myops, row.name)(*sample.args, **sample.kwargs, out=out)


LOWERED = ["mm", "addmm", "bmm", "baddbmm", "matmul", "linear"]


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast(device: str, low: torch.dtype) -> None:
    for name in LOWERED:
        row = myops.registration.OPERATORS[name]
        sample = next(iter(row.samples(device, torch.float32)))
        with torch.autocast(device, dtype=low):
            got = getattr(myops, name)(*sample.args, **sample.kwargs)
            raw = row.packet(*sample.args, **sample.kwargs)
            wide = getattr(myops, name)(*(t.double() for t in sample.args), **sample.kwargs)
        expected = getattr(myops, name)(*(t.to(low) for t in sample.args), **sample.kwargs)
        assert got.dtype == low
        assert wide.dtype == torch.float64
        assert torch.equal(got, expected)
        assert torch.equal(raw, expected)
    with torch.autocast(device, dtype=low):
        assert myops.add(torch.ones(3, device=device), torch.ones(3, device=device)).dtype == torch.float32
        keywords = myops.addmm(input=torch.ones(2, device=device), mat1=torch.ones(2, 2, device=device),
                               mat2=torch.ones(2, 2, device=device), beta=2, alpha=3)  # fmt: skip
        assert keywords.dtype == low
        mixed = myops.mm(torch.ones(2, 2, device=device), torch.ones(2, 2, device=device, dtype=low))
        assert mixed.dtype == low


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_gradients_have_the_parameters_dtype(device: str, low: torch.dtype) -> None:
    w = torch.randn(6, 5, device=device, requires_grad=True)
    with torch.autocast(device, dtype=low):
        y = myops.linear(torch.randn(4, 5, device=device), w)
    y.float().square().sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.float32


def test_grad_scaler_step(device: str) -> None:
    """Three training steps in float16 autocast with loss scaling, against the same steps of torch's own linear."""
    results = []
    x, target = torch.randn(16, 8, device=device), torch.randn(16, 3, device=device)
    start = torch.randn(3, 8, device=device)
    for linear in (myops.linear, torch.nn.functional.linear):
        w = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([w], lr=0.05)
        scaler = torch.amp.GradScaler(device)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.float16):
                loss = torch.nn.functional.mse_loss(linear(x, w).float(), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(w.detach())
    torch.testing.assert_close(results[0], results[1], atol=2e-3, rtol=2e-3)


# ---- What is kept for a backward, and how it is read -----------------------------------------------------------------

ACTIVATED = {
    "linear": lambda x, w, b, f: myops.linear(x, w, b, f),
    "addmm": lambda x, w, b, f: myops.addmm(b, x, w.t(), activation=f),
    "baddbmm": lambda x, w, b, f: myops.baddbmm(b, x[None], w.t()[None], activation=f)[0],
}


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("name", ACTIVATED)
def test_checkpoints_unpack_each_tensor_once(name: str, activation: str) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (4, 3), (4,))]
    unpacked = 0

    def unpack(t: Tensor) -> Tensor:
        nonlocal unpacked
        unpacked += 1
        return t

    def call(*tensors: Tensor) -> Tensor:
        return ACTIVATED[name](*tensors, activation)

    expected = torch.autograd.grad(call(*leaves).sum(), leaves)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        result = call(*leaves)
    torch.autograd.grad(result.sum(), leaves)
    assert unpacked <= 3
    again = torch.utils.checkpoint.checkpoint(call, *leaves, use_reentrant=False)
    for mine, theirs in zip(torch.autograd.grad(again.sum(), leaves), expected, strict=True):
        assert torch.equal(mine, theirs)


PRODUCTS = {
    "mm": (myops.mm, torch.mm),
    "matmul": (myops.matmul, torch.matmul),
    "linear": (lambda a, b: myops.linear(a, b.t()), lambda a, b: torch.nn.functional.linear(a, b.t())),
    "addmm": (lambda a, b: myops.addmm(a[0, 0], a, b), lambda a, b: torch.addmm(a[0, 0], a, b)),
    "bmm": (lambda a, b: myops.bmm(a[None], b[None]), lambda a, b: torch.bmm(a[None], b[None])),
    "sparse": (lambda a, b: myops.sparse.mm(a.to_sparse_csr(), b), None),
    "sampled": (lambda a, b: torch.ops.myops.sddmm(torch.arange(7), torch.arange(6), a, b.t()), None),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("frozen", ["left", "right"])
def test_only_what_a_gradient_needs_is_kept(name: str, frozen: str) -> None:
    """A factor is kept where the other one needs a gradient: as natively, what is not kept may change in place."""
    a, b = torch.randn(6, 50), torch.randn(50, 6)
    (b if frozen == "left" else a).requires_grad_()
    needed, other = (a, b) if frozen == "left" else (b, a)
    kept = 0

    def pack(t: Tensor) -> Tensor:
        nonlocal kept
        kept += t.numel() if t.dtype.is_floating_point else 0
        return t

    ours, native = PRODUCTS[name]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = ours(a, b)
    assert kept <= needed.numel()
    if native is not None:
        with torch.no_grad():
            other.mul_(2)
        result.sum().backward()
        assert other.grad is not None


def test_a_torch_function_brings_its_gradients() -> None:
    """An operand that is no tensor, and a mode, whose handlers call with tensors that require grad."""

    class Wrapped:
        def __init__(self, inner: Tensor) -> None:
            self.inner = inner

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*(a.inner if isinstance(a, Wrapped) else a for a in args), **(kwargs or {}))

    class Adds(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            return result + trained if func is torch.ops.myops.mm.default else result

    trained, x = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2)
    for call in (myops.mm, myops.matmul, myops.linear, myops.add):
        assert call(Wrapped(trained), x).requires_grad
    with Adds():
        result = myops.mm(x, x)
    assert torch.equal(result, x @ x + 1)
    assert result.requires_grad


def test_what_comes_before_the_autograd_key_is_asked(device: str) -> None:
    """Functions that record a graph go to it at once only where the dispatcher would."""
    x, w = (torch.randn(3, 3, device=device, requires_grad=True) for _ in range(2))
    with torch._C._AutoDispatchBelowAutograd():
        assert not myops.mm(x, w).requires_grad
    with torch.autocast(device, dtype=torch.bfloat16):
        assert myops.mm(x, w).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        myops.mm(x, w)
    assert counter.get_total_flops() == 2 * 3**3
    with torch.inference_mode():
        assert myops.mm(x, w).is_inference()
    assert torch.func.grad(lambda x: myops.mm(x, w).sum())(x).requires_grad  # by the level below, through w


def test_imported_where_keys_are_unusual() -> None:
    code = """
        import torch
        with torch.autocast("cpu", dtype=torch.bfloat16):
            import myops
            x = torch.ones(2, 2, requires_grad=True)
            assert myops.mm(x, x).dtype == torch.bfloat16
        assert myops.mm(x, x).dtype == torch.float32
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_recorded_call_that_fails_changes_no_mode() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        myops.mm(x, x)
    assert torch.is_grad_enabled()
    assert myops.mm(x, x.mT).grad_fn.name() == "MyopsMmBackward"
    with torch.no_grad():
        assert not myops.mm(x, x.mT).requires_grad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            myops.mm(dual, x)
        assert forward_ad.unpack_dual(myops.mm(dual, x.mT)).tangent is not None


def test_gradients_of_a_vjp_function_reach_what_it_closed_over(device: str) -> None:
    """A gradient penalty: saved tensors are wrappers of a transform that has ended."""
    x, w = torch.randn(2, 3, device=device), torch.randn(3, 3, device=device, requires_grad=True)
    pattern = torch.eye(3, device=device).to_sparse_csr()
    sparse = myops.CSR.from_torch(pattern)
    for ours, native in (
        (lambda t: myops.linear(t, w).pow(2), lambda t: torch.nn.functional.linear(t, w).pow(2)),
        (
            lambda t: myops.linear(t, w, activation="gelu"),
            lambda t: torch.nn.functional.gelu(torch.nn.functional.linear(t, w)),
        ),
        (lambda t: myops.mm(t, w).pow(2), lambda t: torch.mm(t, w).pow(2)),
        (lambda t: (sparse @ (t.mT * w[:, :2])).pow(2), lambda t: (t.mT * w[:, :2]).pow(2)),
    ):
        found = []
        for f in (ours, native):
            _, back = torch.func.vjp(f, x)
            (grad,) = back(torch.ones_like(f(x)))
            found.append(torch.autograd.grad(grad.pow(2).sum(), w)[0])
        assert found[1].abs().sum() > 0
        torch.testing.assert_close(found[0], found[1])


def test_a_tensor_that_left_its_transform_still_has_gradients(device: str) -> None:
    w, v = (torch.ones(3, 3, device=device, requires_grad=True) for _ in range(2))
    left: list[Tensor] = []
    torch.func.grad(lambda x: (left.append(x), x.sum())[1])(w)
    for other in (v, v.detach()):
        w.grad = None
        myops.mm(left[0], other).sum().backward()
        assert w.grad is not None


def test_writing_knows_tensors_that_left_their_transform(device: str) -> None:
    w, x = torch.ones(3, 3, device=device, requires_grad=True), torch.ones(3, 3, device=device)
    base = torch.zeros(3, 3, device=device)
    left: list[Tensor] = []
    torch.func.vjp(lambda t: (left.extend((w * 1, base.view(3, 3))), t.sum())[1], x)
    factor, target = left  # neither says that it requires grad
    out = torch.zeros(3, 3, device=device)
    myops.addmm_(out, factor, x)
    out.sum().backward()
    assert w.grad is not None
    with pytest.raises(RuntimeError, match="one of the arguments requires grad"):
        myops.mm(factor, x, out=torch.empty(3, 3, device=device))
    for write in (lambda: myops.mm(x, x, out=target), lambda: myops.addmm_(target, x, x)):
        version = base._version
        write()
        assert base._version == version + 1


def test_no_grad_inside_a_transform(device: str) -> None:
    x = torch.arange(9.0, device=device).view(3, 3)

    def constant(product: Any) -> Callable[[Tensor], Tensor]:
        def f(a: Tensor) -> Tensor:
            with torch.no_grad():
                y = product(a, a)
            return (y * a).sum()

        return f

    for outer in (torch.func.jacrev, torch.func.jacfwd):
        ours, native = (outer(torch.func.jacrev(constant(product)))(x) for product in (myops.mm, torch.mm))
        torch.testing.assert_close(ours, native)
    w = torch.ones(3, 3, device=device, requires_grad=True)

    def with_aux(z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            y = myops.mm(w, w)
        return (y * z).sum(), y

    assert not torch.func.grad(with_aux, has_aux=True)(x)[1].requires_grad


def test_in_place_forms_under_transforms(device: str) -> None:
    x, captured = torch.randn(4, 3, 3, device=device), torch.zeros(3, 3, device=device)

    def mutates(w: Tensor) -> Tensor:
        myops.add_(captured, w)
        return captured.sum()

    with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
        torch.func.grad(mutates)(x[0])

    def f(write: Any, a: Tensor) -> Tensor:
        return write(a.clone(), a, a, beta=0.5).sum()

    ours, native = (
        torch.func.grad(lambda a, write=write: f(write, a))(x[0]) for write in (myops.addmm_, torch.Tensor.addmm_)
    )
    torch.testing.assert_close(ours, native)
    batch = torch.vmap(lambda a: myops.add_(a.clone(), a, alpha=2))(x)
    torch.testing.assert_close(batch, 3 * x)


class NoGradient(torch.autograd.Function):
    """A node whose gradient is not defined."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def test_undefined_gradients_stay_undefined(row: Operator) -> None:
    sample = differentiable(row, "cpu", torch.float64)[0]
    result = getattr(torch.ops.myops, row.name)(*sample.args, **sample.kwargs)
    NoGradient.apply(result).sum().backward()
    assert all(a.grad is None for a in sample.args if isinstance(a, Tensor))


def test_tangents_are_tensors_of_their_own(row: Operator) -> None:
    """In place on the result changes nobody's tangent."""
    for sample in differentiable(row, "cpu", torch.float64):
        for i, arg in enumerate(sample.args):
            if not isinstance(arg, Tensor):
                continue
            with forward_ad.dual_level():
                tangent = torch.ones_like(arg)
                args = list(sample.args)
                args[i] = forward_ad.make_dual(arg.detach(), tangent)
                with torch.no_grad():
                    result = getattr(myops, row.name)(*args, **sample.kwargs)
                    result.mul_(3)
                assert torch.equal(tangent, torch.ones_like(tangent)), sample.name


def test_tensors_as_scalars_are_read_at_the_call() -> None:
    alpha, x, w = torch.tensor(2.0), torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)
    for call in (lambda: myops.add(x, w, alpha=alpha), lambda: myops.addmm(x, x, w, alpha=alpha)):
        alpha.fill_(2)
        w.grad = None
        y = call()
        alpha.fill_(5)
        y.sum().backward()
        assert w.grad.unique().tolist() == ([2.0] if y[0, 0] == 3 else [4.0])
    c = torch.ones(2, 2, dtype=torch.complex64)
    for number in (np.complex128(1j), np.complex64(1j), torch.tensor(1j)):
        assert torch.equal(myops.add(c, c, alpha=number), c + 1j * c)
        assert torch.equal(myops.addmm(c, c, c, beta=number), torch.addmm(c, c, c, beta=1j))
        assert torch.equal(myops.add(c, c, alpha=number, out=torch.empty_like(c)), c + 1j * c)
        assert torch.equal(myops.add_(c.clone(), c, alpha=number), c + 1j * c)


def test_inference_tensors_are_not_written_outside_of_inference_mode() -> None:
    with torch.inference_mode():
        target = torch.zeros(2, 2)
        myops.add_(target, torch.ones(2, 2))
    x = torch.ones(2, 2)
    for call in (
        lambda: myops.add_(target, x),
        lambda: myops.addmm_(target, x, x),
        lambda: myops.mm(x, x, out=target),
    ):
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside InferenceMode"):
            call()
    assert torch.equal(target, x)


def test_backward_twice_where_nothing_is_kept() -> None:
    bias, x = torch.ones(2, requires_grad=True), torch.ones(2, 2)
    for y in (myops.addmm(bias, x, x), myops.linear(x, x, bias)):
        first, second = (torch.autograd.grad(y.sum(), bias)[0] for _ in range(2))
        assert torch.equal(first, second)
