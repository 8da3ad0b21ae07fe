"""PyTorch's own descriptions of its operators (OpInfo), run against the functions, the operators and the switch.

All samples in all dtypes that torch declares; gradients of first and second order, forward and batched; and the same
exception type as torch for the same bad call. A floor and not coverage: the samples are few and small; the project's
own are in the operator table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import myops

pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")

NAMES = {"add": "add", "nn.functional.linear": "linear"} | {n: n for n in ("mm", "addmm", "bmm", "baddbmm", "matmul")}
INFOS = [
    info
    for info in invocations.op_db
    if info.name in NAMES and info.variant_test_name != "triton_optimized"  # another torch's template, not bmm
]
WAYS = ("function", "operator", "switch")


def identity(info: Any) -> str:
    return f"{NAMES[info.name]}{'-' if info.variant_test_name else ''}{info.variant_test_name}"


# The switch does not touch add.
CASES = [(info, way) for info in INFOS for way in WAYS if (info.name, way) != ("add", "switch")]
each_way = pytest.mark.parametrize(("info", "way"), CASES, ids=[f"{identity(info)}-{way}" for info, way in CASES])


def entered(way: str) -> Any:
    return myops.use() if way == "switch" else nullcontext()


def target(info: Any, way: str) -> Callable[..., Tensor]:
    name = NAMES[info.name]
    if way == "function":
        return getattr(myops, name)
    return info.op if way == "switch" else getattr(torch.ops.myops, name)


def samples(info: Any, dtype: torch.dtype, way: str, requires_grad: bool = False) -> Iterator[Any]:
    for sample in info.sample_inputs("cpu", dtype, requires_grad=requires_grad):
        if way == "operator" and not all(isinstance(arg, Tensor) for arg in sample.args):
            continue  # add of a number, which the function makes a tensor of
        yield sample


def fractional(sample: Any, dtype: torch.dtype) -> bool:
    """A scalar that integers cannot hold, which torch truncates and myops refuses."""
    inexact = dtype.is_floating_point or dtype.is_complex
    scalars = [sample.kwargs.get(name, 1) for name in ("alpha", "beta")]
    return not inexact and any(value != int(value) for value in scalars)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def on_each(info: Any, sample: Any, function: Callable[[Any], Any]) -> Tensor:
    """The operator on the sample with `function` applied to every tensor and scalar of it."""
    kwargs = {name: function(value) for name, value in sample.kwargs.items()}
    return info.op(function(sample.input), *map(function, sample.args), **kwargs)


@each_way
def test_samples(info: Any, way: str) -> None:
    function, checked = target(info, way), 0
    for dtype in sorted(info.dtypes, key=str):
        for sample in samples(info, dtype, way):
            args, where = (sample.input, *sample.args), f"{dtype}: {sample}"
            native = info.op(*args, **sample.kwargs)
            with entered(way):
                if dtype == torch.complex32:
                    with pytest.raises(NotImplementedError, match="complex32"):
                        function(*args, **sample.kwargs)
                    continue
                if way != "switch" and fractional(sample, dtype):
                    with pytest.raises(RuntimeError, match="must not be a floating point number"):
                        function(*args, **sample.kwargs)
                    continue
                got = function(*args, **sample.kwargs)
            assert (got.shape, got.dtype) == (native.shape, native.dtype), where
            checked += 1
            if dtype == torch.bool or fractional(sample, dtype) or not (dtype.is_floating_point or dtype.is_complex):
                assert torch.equal(got, native), where
                continue
            reference = on_each(info, sample, lambda v: v.to(wide(dtype)) if isinstance(v, Tensor) else v)
            # What rounding the terms of each sum once may cost, whatever their signs.
            terms = on_each(info, sample, lambda v: v.to(wide(dtype)).abs() if isinstance(v, Tensor) else abs(v))
            allowed = 2 * (native - reference).abs() + 2 * torch.finfo(dtype).eps * terms
            assert bool(((got - reference).abs() <= allowed).all()), where
    assert checked >= 8


def leaves(sample: Any) -> tuple[list[Any], list[int]]:
    values = [sample.input, *sample.args]
    return values, [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]


@each_way
@pytest.mark.parametrize("dtype_", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_gradients(info: Any, way: str, dtype_: torch.dtype) -> None:
    function, checked = target(info, way), 0
    for sample in samples(info, dtype_, way, requires_grad=True):
        values, at = leaves(sample)

        def call(*tensors: Tensor, values: list[Any] = values, at: list[int] = at, sample: Any = sample) -> Tensor:
            filled = list(values)
            for i, tensor in zip(at, tensors, strict=True):
                filled[i] = tensor
            return function(*filled, **sample.kwargs)

        inputs = tuple(values[i] for i in at)
        many = sum(tensor.numel() for tensor in inputs) > 60
        with entered(way):
            assert gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=many), str(sample)
            assert gradgradcheck(call, inputs, check_fwd_over_rev=True, fast_mode=True), str(sample)
        checked += 1
    assert checked


def test_switch_was_on() -> None:
    """The tests above with "switch" reach myops: every operator does, in this one."""
    for info in INFOS:
        if info.name == "add":
            continue
        myops.reset_stats()
        with myops.use():
            for sample in info.sample_inputs("cpu", torch.float32):
                info.op(sample.input, *sample.args, **sample.kwargs)
        assert sum(entry["myops"] for entry in myops.stats().values()) > 0, info.name


# Sparse.

SPARSE = {"sparse.mm": myops.sparse.mm, "sparse.sampled_addmm": myops.sparse.sampled_addmm}
SPARSE_INFOS = [info for info in invocations.op_db if info.name in SPARSE]
sparse_each_way = pytest.mark.parametrize(
    ("info", "way"),
    [(info, way) for info in SPARSE_INFOS for way in ("function", "switch")],
    ids=[f"{info.name}-{way}" for info in SPARSE_INFOS for way in ("function", "switch")],
)


def sparse_call(info: Any, way: str, sample: Any) -> Callable[..., Tensor]:
    """The call of a sample as a function of its tensors."""
    tensors = 1 + sum(isinstance(arg, Tensor) for arg in sample.args)
    rest = sample.args[tensors - 1 :]  # the reduction, which torch takes by position

    def call(*args: Tensor) -> Tensor:
        if way == "switch":
            return info.op(*args, *rest, **sample.kwargs)
        return SPARSE[info.name](*args, **sample.kwargs, **({"reduce": rest[0]} if rest else {}))

    return call


def sparse_operands(sample: Any) -> list[Tensor]:
    return [sample.input, *(arg for arg in sample.args if isinstance(arg, Tensor))]


def with_entries(like: Tensor, values: Tensor) -> Tensor:
    if like.layout == torch.strided:
        return values
    return torch.sparse_csr_tensor(like.crow_indices(), like.col_indices(), values, like.shape)


def entries(result: Tensor) -> Tensor:
    return result if result.layout == torch.strided else result.values()


@pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
@sparse_each_way
def test_sparse_samples(info: Any, way: str) -> None:
    assert {i.name for i in SPARSE_INFOS} == set(SPARSE)
    checked = 0
    for dtype in sorted(info.dtypes, key=str):
        myops.reset_stats()
        for sample in info.sample_inputs("cpu", dtype):
            operands, where = sparse_operands(sample), f"{dtype}: {sample}"
            native = sparse_call(info, "switch", sample)(*operands)
            exact = sparse_call(info, "switch", sample)(*(t.to(wide(dtype)) for t in operands))
            with entered(way):
                got = sparse_call(info, way, sample)(*operands)
            assert (got.layout, got.shape, got.dtype) == (native.layout, native.shape, native.dtype), where
            exact, native, got = entries(exact), entries(native), entries(got)
            floor = 2 * torch.finfo(dtype).eps * float(exact.abs().max()) if exact.numel() else 0.0
            assert bool(((got - exact).abs() <= 2 * (native - exact).abs() + floor).all()), where
            checked += 1
        taken = sum(entry["myops"] for entry in myops.stats().values())
        assert (taken > 0) == (way == "switch")
    assert checked >= 8


@pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
@sparse_each_way
def test_sparse_gradients(info: Any, way: str) -> None:
    """Of the values of a sparse operand. Torch's constructor and `values()` have no second derivative."""
    checked = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
        operands = sparse_operands(sample)
        if not all(entries(t).numel() for t in operands):
            continue
        inner = sparse_call(info, way, sample)

        def call(*leaves: Tensor, operands: list[Tensor] = operands, inner: Any = inner) -> Tensor:
            return entries(inner(*map(with_entries, operands, leaves)))

        inputs = tuple(entries(t).detach().clone().requires_grad_() for t in operands)
        with entered(way):
            assert gradcheck(call, inputs, check_undefined_grad=False), str(sample)  # `values()` refuses it
        checked += 1
    assert checked


# Errors.


def bad_calls(name: str) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of which torch refuses most: every combination of ranks, sizes that do not fit, dtypes, not tensors."""

    def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    count = 3 if name in ("addmm", "baddbmm") else 2
    shapes = [(), (2,), (2, 3), (3, 2), (2, 2, 3), (2, 3, 2), (1, 2, 2, 2), (0,), (0, 3)]
    for chosen in itertools.product(shapes, repeat=count):
        yield f"shapes {chosen}", tuple(t(*shape) for shape in chosen), {}
    good = {
        "add": [(2, 2), (2, 2)],
        "mm": [(2, 3), (3, 2)],
        "matmul": [(2, 3), (3, 2)],
        "linear": [(2, 3), (2, 3)],
        "bmm": [(1, 2, 3), (1, 3, 2)],
        "addmm": [(2, 2), (2, 3), (3, 2)],
        "baddbmm": [(1, 2, 2), (1, 2, 3), (1, 3, 2)],
    }[name]
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
    for chosen in itertools.product(dtypes, repeat=count):
        yield f"dtypes {chosen}", tuple(t(*s, dtype=d) for s, d in zip(good, chosen, strict=True)), {}
    for position, value in itertools.product(range(count), (None, "a", [1.0], object())):
        args: list[Any] = [t(*shape) for shape in good]
        args[position] = value
        yield f"argument {position} is {value!r}", tuple(args), {}
    args = [t(*shape) for shape in good]
    yield "too few", tuple(args[:-1]), {}
    yield "too many", (*args, *args), {}
    yield "unknown keyword", tuple(args), {"gamma": 1}
    if name == "linear":
        for bias in (t(3), t(2, 2), t(2).double(), t(2).bool(), "a"):
            yield f"bias {bias}", (*args, bias), {}
    for scalar in ("alpha", "beta") if count == 3 else ("alpha",) if name == "add" else ():
        for value in (None, "a", [1], 1j, t(2)):
            yield f"{scalar}={value}", tuple(args), {scalar: value}
    for out in (t(2, 2).double(), t(2, 2).int(), "a", t(2, 1).expand(2, 2), t(1, 2, 1).expand(1, 2, 2)):
        yield f"out={out}", tuple(args), {"out": out}
    leaf = t(*good[0]).requires_grad_()
    yield "out with grad", (leaf, *args[1:]), {"out": t(2, 2)}


def outcome(call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except Exception as error:
        return type(error), error
    return tuple(result.shape), result.dtype


def differs(name: str, what: str, native: Any, ours: Any) -> bool:
    """Calls that torch and myops are known to see differently."""
    words = str(ours[1])
    if native[0] is IndexError:  # baddbmm's, of a rank that it does not expect
        return ours[0] is RuntimeError and "must be a 3D tensor" in words
    if what.startswith("out=tensor([[[1., 1.]"):
        # An out that is expanded: torch writes to it in bmm, and looks at it in add before it resizes it.
        return name in ("add", "bmm")
    if native[0] is NotImplementedError:  # bmm and baddbmm of bool with another dtype; mm and addmm as ours
        return ours[0] is RuntimeError and "must have the same dtype" in words
    if isinstance(native[0], type):
        return False
    # torch's linear takes weights and biases of more dimensions, in some layouts.
    return "weight must be a matrix or a vector" in words or "bias must have shape" in words


ONCE = [(info, way) for info, way in CASES if not info.variant_test_name]


@pytest.mark.parametrize(("info", "way"), ONCE, ids=[f"{identity(info)}-{way}" for info, way in ONCE])
def test_same_exception_for_the_same_call(info: Any, way: str) -> None:
    name = NAMES[info.name]
    function, raised, wrong = target(info, way), 0, []
    for what, args, kwargs in bad_calls(name):
        if way == "operator" and ("out" in kwargs or "too many" in what):
            continue  # the registered operators have out= in another overload, and out_dtype behind the tensors
        native = outcome(lambda args=args, kwargs=kwargs: info.op(*args, **kwargs))
        alike = [native]
        if way == "operator":  # arguments that match no schema are torch.ops' own to refuse
            packet = getattr(torch.ops.aten, name)
            alike.append(outcome(lambda args=args, kwargs=kwargs, packet=packet: packet(*args, **kwargs)))
        with entered(way):
            ours = outcome(lambda args=args, kwargs=kwargs: function(*args, **kwargs))
        raised += isinstance(native[0], type)
        same = any(ours[0] is each[0] if isinstance(each[0], type) else ours == each for each in alike)
        if not same and not differs(name, what, native, ours):
            wrong.append(f"{what}\n    torch: {native}\n    myops: {ours}")
    assert not wrong, f"{len(wrong)} calls:\n" + "\n".join(wrong[:200])
    assert raised > 20
