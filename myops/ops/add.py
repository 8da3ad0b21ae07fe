"""add: row of the operator table, and the worked example of CONTRIBUTING.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import compute_elementwise_output_strides
from torch.overrides import handle_torch_function

from ..calls import Number, as_number, call, call_in_place, call_out, ops, unless_one
from ..registration import BadCall, Operator, Sample, register
from ._gemm import addend_grad, bad, batched_addend, check_device, check_dtype, layouts, sample, tensor, total, whole


class Add(Operator):
    name = "add"
    tensors = 2
    in_place = True
    autocast = False  # the sum takes the promoted dtype of its operands, under autocast too
    reads_conjugates = False  # a sum is bound by memory: torch resolves the bits
    casts_out = True
    folds = {"alpha": 1}  # noqa: RUF012

    def shape(self, input: Tensor, other: Tensor, *rest: Any) -> tuple[Any, ...]:
        if input.shape == other.shape:  # broadcast_shapes takes 10 us
            return input.shape
        return torch.broadcast_shapes(input.shape, other.shape)

    def folded(self, position: int, *args: Tensor) -> Tensor:
        return args[position].to(result_dtype(args[0], args[1]))

    def fake(self, input: Tensor, other: Tensor, *, alpha: float = 1.0) -> Tensor:
        shape = torch.broadcast_shapes(input.shape, other.shape)
        for t, name in ((input, "input"), (other, "other")):
            if t.dtype != torch.bool:
                check_dtype(self.name, t, name)
        dtype = result_dtype(input, other)
        if dtype == torch.complex32:
            raise NotImplementedError("myops.add is not implemented for a result of dtype complex32")
        torch._check(
            dtype.is_floating_point or dtype.is_complex or float(alpha).is_integer(),
            lambda: f"For integral tensors, argument alpha must not be a floating point number, but got {alpha}",
        )
        by_value = [t.dim() == 0 and t.device.type == "cpu" for t in (input, other)]
        if not any(by_value):
            check_device(other, "other", input, "input")
        like = other if by_value[0] and not by_value[1] else input
        strides = compute_elementwise_output_strides(input.expand(shape), other.expand(shape))
        return like.new_empty_strided(shape, strides, dtype=dtype)

    def save(self, ctx: Any, input: Tensor, other: Tensor, alpha: float) -> None:
        ctx.alpha = alpha
        ctx.shapes = input.shape, other.shape
        ctx.dtypes = input.dtype, other.dtype
        ctx.devices = input.device, other.device
        ctx.dtype = result_dtype(input, other)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        def one(i: int, scale: float) -> Tensor:
            dtype = ctx.dtypes[i]
            part = grad if dtype.is_complex or not grad.is_complex() else grad.real
            return addend_grad(part, scale, ctx.shapes[i], dtype).to(ctx.devices[i])

        needs = ctx.needs_input_grad
        return one(0, 1.0) if needs[0] else None, one(1, ctx.alpha) if needs[1] else None

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        shape = torch.broadcast_shapes(*ctx.shapes)
        first, second = (
            None if t is None else t.to(ctx.dtype).expand(shape) * scale
            for t, scale in zip(tangents, (1, ctx.alpha), strict=True)
        )
        present = first if first is not None else second
        assert present is not None
        return total((first, second), present)

    def batch(self, size: int, dims: Any, input: Tensor, other: Tensor, *, alpha: float = 1.0) -> Tensor:
        rank = max(t.dim() - (d is not None) for t, d in zip((input, other), dims, strict=True))

        def align(t: Tensor, dim: int | None) -> Tensor:
            return t if dim is None else batched_addend(t, dim, size, rank)

        # A batched 0-dim tensor has no dimensions of its own, which promotion looks at: cast first.
        a, b = align(input, dims[0]), align(other, dims[1])
        dtype = promoted(input, dims[0], other, dims[1])
        return ops.add(a.to(dtype), b.to(dtype), alpha=alpha)

    def decompose(self, input: Tensor, other: Tensor, *, alpha: float = 1.0) -> Tensor:
        return torch.add(input, other, alpha=whole(alpha, torch.result_type(input, other)))

    def flops(self, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(torch.broadcast_shapes(a, b))

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for a, b in [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (3, 4)), ((), ()), ((0, 4), (4,))]:
            yield sample(f"{list(a)} + {list(b)}", t(*a), t(*b))
        yield sample("alpha", t(5, 7), t(5, 7), alpha=3)
        yield sample("long", t(1031), t(1031), alpha=-2)
        for name, x in layouts((6, 7), device, dtype):
            yield sample(f"{name} + contiguous", x.requires_grad_(requires_grad), t(6, 7))
            yield sample(f"{name} + itself", x, x)
        yield sample("six dimensions", t(2, 1, 3, 1, 2, 2), t(1, 4, 1, 2, 1, 2))

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        yield bad("The size of input (3) must match the size of other (4) at dimension 1", t(2, 3), t(4))
        yield bad("argument alpha must not be a floating point number", t(2).int(), t(2).int(), alpha=1.5)
        yield bad("argument alpha must not be a complex number", t(2), t(2), alpha=1j)

    def reference(self, input: Tensor, other: Tensor, *, alpha: Any = 1) -> Tensor:
        return torch.add(input, other * alpha if alpha != 1 else other)


def promoted(input: Tensor, d0: int | None, other: Tensor, d1: int | None) -> torch.dtype:
    """The dtype of input + other as it is for one item of the batch."""
    a = torch.empty((0,) * (input.dim() - (d0 is not None)), dtype=input.dtype)
    b = torch.empty((0,) * (other.dim() - (d1 is not None)), dtype=other.dtype)
    return result_dtype(a, b)


def result_dtype(input: Tensor, other: Tensor) -> torch.dtype:
    """`torch.result_type`, but complex64 where torch 2.14 has bcomplex32, for which it has no sum: as before 2.14."""
    dtype = torch.result_type(input, other)
    return torch.complex64 if dtype == getattr(torch, "bcomplex32", None) else dtype


_add = register(Add())


def is_tensor(operand: Any) -> bool:
    """Whether torch takes it for a tensor: one, or what stands for one by `__torch_function__`."""
    if isinstance(operand, Tensor):
        return True
    # In this order: Dynamo asks no number for attributes.
    return not isinstance(operand, int | float | complex) and hasattr(operand, "__torch_function__")


def as_tensor(value: Any, like: Tensor, name: str) -> Tensor:
    """A number as a 0-dim CPU tensor of the dtype that it gives the sum: torch's promotion of Python's and NumPy's."""
    number = as_number(value, name)
    symbol = isinstance(number, torch.SymInt | torch.SymFloat)
    if not symbol and not isinstance(number, int | float | complex):
        raise TypeError(f"myops.add: {name} must be a Tensor or a number, but got {type(number).__name__}")
    dtype = dtype_with_number(like.dtype, number)
    if symbol or torch.compiler.is_compiling():  # torch.full makes a constant of a symbol, a graph for each value
        return torch.zeros((), dtype=dtype, device="cpu") + number
    try:
        return torch.full((), number, dtype=dtype, device="cpu")
    except RuntimeError:  # more than the dtype holds: torch's sums wrap it, or make it infinite
        return torch.zeros((), dtype=dtype, device="cpu") + number


def check_alpha(input: Tensor, other: Tensor, alpha: bool) -> None:
    """What the operator, whose alpha is a float, cannot tell: True from 1."""
    if torch.result_type(input, other) != torch.bool:
        raise RuntimeError(f"Boolean alpha only supported for Boolean results, but got {alpha}")


def dtype_with_number(dtype: torch.dtype, number: Number) -> torch.dtype:
    """`torch.result_type` of a tensor and a number, which torch.compile does not trace."""
    inexact = dtype.is_floating_point or dtype.is_complex
    if isinstance(number, complex):
        return torch.promote_types(dtype if inexact else torch.get_default_dtype(), torch.complex32)
    if isinstance(number, float | torch.SymFloat):
        return dtype if inexact else torch.get_default_dtype()
    return torch.int64 if dtype == torch.bool and not isinstance(number, bool) else dtype


def add(input: Tensor | Number, other: Tensor | Number, *, alpha: Number = 1, out: Tensor | None = None) -> Tensor:
    """`input + alpha * other` with broadcasting and type promotion; the counterpart of `torch.add`.

    Args:
        input: any shape, strides and dtype; or a number, where `other` is a tensor.
        other: broadcastable with `input`, of its device; a Python number or a 0-dim CPU tensor goes with any device.
        alpha: any real number; complex for complex results; integral for integral results.
        out: written to and returned; any dtype that the result can be cast to; resized, with torch's warning, where its
            shape differs.

    Returns:
        The broadcast shape in the promoted dtype; strides follow the operands', as in torch.

    Raises:
        RuntimeError: shapes that do not broadcast, devices that differ, an alpha that the dtype cannot hold, or `out`
            with an argument that requires grad.
    """
    both = isinstance(input, Tensor) and isinstance(other, Tensor)
    if not both and is_tensor(input) != is_tensor(other):
        if isinstance(other, Tensor):
            input = as_tensor(input, other, "input")
        elif isinstance(input, Tensor):
            other = as_tensor(other, input, "other")
        else:  # a number and what only stands for a tensor: fx.Proxy
            return handle_torch_function(add, (input, other), input, other, alpha=alpha, out=out)
    if isinstance(alpha, bool):
        check_alpha(input, other, alpha)  # type: ignore[arg-type]
    if out is None:
        return call(_add, input, other, **unless_one(alpha=alpha))
    return call_out(_add, out, input, other, **unless_one(alpha=alpha))


def add_(input: Tensor, other: Tensor | Number, *, alpha: Number = 1) -> Tensor:
    """`add` written to `input`; returns `input`. The counterpart of `torch.Tensor.add_`.

    Args:
        input: of the result's shape, and of a dtype that the promoted one can be cast to. other, alpha: as in `add`.

    Raises:
        RuntimeError: an `other` that does not broadcast to `input`, a leaf that requires grad, and what `add` raises.
    """
    if not is_tensor(other) and is_tensor(input):
        if not isinstance(input, Tensor):
            return handle_torch_function(add_, (input, other), input, other, alpha=alpha)
        other = as_tensor(other, input, "other")
    if isinstance(alpha, bool):
        check_alpha(input, other, alpha)  # type: ignore[arg-type]
    return call_in_place(_add, input, other, **unless_one(alpha=alpha))
