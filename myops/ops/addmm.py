"""mm and addmm: rows of the operator table and the public functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..activation import (
    Activated,
    activations_of,
    apply,
    bad_activations,
    check_activation,
    keyword,
    register_activated,
)
from ..calls import Number, call, call_in_place, call_out, ops, unless_one
from ..registration import BadCall, Operator, Sample, register
from ._gemm import (
    WIDE,
    addend_grad,
    bad,
    batched,
    batched_addend,
    check_addend,
    check_pair,
    check_same_dtype,
    layouts,
    matrix_shape,
    product_grads,
    product_tangent,
    sample,
    save_product,
    tensor,
    total,
    whole,
)

Shapes = tuple[tuple[int, ...], ...]
SHAPES = ((2, 3, 4), (1, 1, 1), (5, 1, 7), (17, 33, 9), (8, 64, 65), (3, 0, 4), (0, 3, 4), (3, 4, 0))


class Mm(Operator):
    name = "mm"
    tensors = 2
    product = "mm"  # the operator that gradients are made of
    sample_shapes: Shapes = SHAPES
    sample_batch: tuple[int, ...] = ()  # of samples in every layout

    def shape(self, input: Tensor, mat2: Tensor, *rest: Any) -> tuple[Any, ...]:
        return matrix_shape(input, "input", mat2, "mat2")

    def fake(self, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        shape = self.shape(input, mat2)
        return input.new_empty(shape, dtype=check_pair(self.name, input, "input", mat2, "mat2", out_dtype))

    def save(self, ctx: Any, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None) -> None:
        ctx.out_dtype = out_dtype or input.dtype
        save_product(ctx, input, mat2)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, mat2 = ctx.saved_tensors
        return product_grads(ctx, getattr(ops, self.product), grad, input, mat2, *ctx.needs_input_grad[:2])

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        input, mat2 = ctx.saved_tensors
        tangent = product_tangent(getattr(ops, self.product), input, mat2, tangents[0], tangents[1], ctx.out_dtype)
        assert tangent is not None
        return tangent

    def batch(self, size: int, dims: Any, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return ops.bmm(batched(input, dims[0], size), batched(mat2, dims[1], size), out_dtype)

    def flops(self, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(a) * b[-1]

    def decompose(self, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        dtype = out_dtype or input.dtype
        return torch.matmul(input.to(dtype), mat2.to(dtype))

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for *batch, m, k, n in self.sample_shapes:
            yield sample("x".join(map(str, (*batch, m, k, n))), t(*batch, m, k), t(*batch, k, n))
        each = self.sample_batch
        left, right = (*each, 6, 5), (*each, 5, 7)
        for (a_name, a), (b_name, b) in zip(layouts(left, device, dtype), layouts(right, device, dtype), strict=True):
            yield sample(f"{a_name} @ contiguous", a.requires_grad_(requires_grad), tensor(right, device, dtype))
            yield sample(f"contiguous @ {b_name}", tensor(left, device, dtype), b.requires_grad_(requires_grad))
        if dtype in WIDE:
            a, b = tensor((*each, 9, 17), device, dtype), tensor((*each, 17, 5), device, dtype)
            yield sample("out_dtype", a, b, WIDE[dtype])

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        yield bad("input must be a matrix, got 1-D tensor", t(3), t(3, 4))
        yield bad("mat2 must be a matrix, got 3-D tensor", t(2, 3), t(1, 3, 4))
        yield bad("input and mat2 shapes cannot be multiplied (2x3 and 4x2)", t(2, 3), t(4, 2))
        yield bad("must have the same dtype, but got float32 and float64", t(2, 3), t(3, 2, dtype=torch.float64))
        yield bad("not implemented for", t(2, 3).bool(), t(3, 2).bool(), exception=NotImplementedError)
        yield bad("out_dtype must be the dtype of input (float32)", t(2, 3), t(3, 2), torch.float64)

    def reference(self, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return torch.mm(input, mat2)


class Addmm(Activated):
    name = "addmm"
    tensors = 3
    in_place = True
    folds = {"beta": 0, "alpha": 1}  # noqa: RUF012

    operands = ("mat1", "mat2")
    product = "mm"  # the operator that gradients are made of
    sample_shapes: Shapes = SHAPES
    sample_batch: tuple[int, ...] = ()  # of samples in every layout
    activated_shapes: Shapes = ((3, 5, 4, 1), (2, 7, 9, 0), (4, 0, 3, 3))  # m, k, n, beta

    def shape(self, input: Tensor, mat1: Tensor, mat2: Tensor, *rest: Any) -> tuple[Any, ...]:
        return matrix_shape(mat1, "mat1", mat2, "mat2")

    def fake(
        self,
        input: Tensor,
        mat1: Tensor,
        mat2: Tensor,
        out_dtype: torch.dtype | None = None,
        *,
        beta: float = 1.0,
        alpha: float = 1.0,
        activation: int = 0,
    ) -> Tensor:
        shape = self.shape(input, mat1, mat2)
        first, second = self.operands
        check_same_dtype(mat1, first, mat2, second)
        check_same_dtype(input, "input", mat1, first, out_dtype)
        dtype = check_pair(self.name, mat1, first, mat2, second, out_dtype)
        check_activation(self.name, activation, mat1, first)
        check_addend(input, "input", shape, mat1, first)
        return mat1.new_empty(shape, dtype=dtype)

    def save(
        self,
        ctx: Any,
        input: Tensor,
        mat1: Tensor,
        mat2: Tensor,
        out_dtype: torch.dtype | None,
        beta: float,
        alpha: float,
        _: int,
        kept: Tensor | None,
    ) -> None:
        ctx.input_shape, ctx.input_dtype = input.shape, input.dtype
        ctx.out_dtype, ctx.beta, ctx.alpha = out_dtype or mat1.dtype, beta, alpha
        save_product(ctx, mat1, mat2, kept, first=1)

    def sum_backward(self, ctx: Any, factors: tuple[Any, Any], grad: Tensor) -> tuple[Tensor | None, ...]:
        mat1, mat2 = factors
        need_input, need1, need2 = ctx.needs_input_grad[:3]
        grad_input = addend_grad(grad, ctx.beta, ctx.input_shape, ctx.input_dtype) if need_input else None
        return grad_input, *product_grads(ctx, getattr(ops, self.product), grad, mat1, mat2, need1, need2, ctx.alpha)

    def sum_jvp(self, ctx: Any, factors: tuple[Tensor, Tensor], *tangents: Tensor | None) -> Tensor:
        mat1, mat2 = factors
        d_input, d1, d2 = tangents
        shape = (*mat1.shape[:-1], mat2.shape[-1])
        addend = None
        if d_input is not None and ctx.beta != 0:
            addend = d_input.to(ctx.out_dtype).expand(shape) * ctx.beta
        terms = (addend, product_tangent(getattr(ops, self.product), mat1, mat2, d1, d2, ctx.out_dtype, ctx.alpha))
        return total(terms, mat1.new_zeros(shape, dtype=ctx.out_dtype))

    def batch(
        self,
        size: int,
        dims: Any,
        input: Tensor,
        mat1: Tensor,
        mat2: Tensor,
        out_dtype: torch.dtype | None = None,
        *,
        beta: float = 1.0,
        alpha: float = 1.0,
        activation: int = 0,
    ) -> Tensor:
        return ops.baddbmm(
            batched_addend(input, dims[0], size, 2),
            batched(mat1, dims[1], size),
            batched(mat2, dims[2], size),
            out_dtype,
            beta=beta,
            alpha=alpha,
            activation=activation,
        )

    def flops(self, c: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(a) * b[-1]

    aten: Any = staticmethod(torch.addmm)

    def decompose(
        self,
        input: Tensor,
        mat1: Tensor,
        mat2: Tensor,
        out_dtype: torch.dtype | None = None,
        *,
        beta: float = 1.0,
        alpha: float = 1.0,
        activation: int = 0,
    ) -> Tensor:
        check_activation(self.name, activation, mat1, self.operands[0])
        dtype = out_dtype or mat1.dtype
        shape = (*mat1.shape[:-1], mat2.shape[-1])
        if alpha == 0:  # of which torch has no one rule
            scaled = input.to(dtype) * whole(beta, dtype) if beta != 0 else input.new_zeros(input.shape, dtype=dtype)
            return apply(activation, scaled.expand(shape).clone(memory_format=torch.contiguous_format))
        scalars = {"beta": whole(beta, dtype), "alpha": whole(alpha, dtype)}
        return apply(activation, self.aten(input.to(dtype), mat1.to(dtype), mat2.to(dtype), **scalars))

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        half = 0.5 if dtype.is_floating_point or dtype.is_complex else 3
        scalars = [(1, 1), (0, 1), (1, 0), (2, -1), (half, 2), (0, 0)]
        for i, (*batch, m, k, n) in enumerate(self.sample_shapes):
            beta, alpha = scalars[i % len(scalars)]
            shape = [(*batch, m, n), (n,), (*batch, 1, n), (*batch, m, 1), (1, 1), (), (m, n)][i % 7]
            name = f"{'x'.join(map(str, (*batch, m, k, n)))} beta={beta} alpha={alpha} input={list(shape)}"
            yield sample(name, t(*shape), t(*batch, m, k), t(*batch, k, n), beta=beta, alpha=alpha)
        each = self.sample_batch
        for c_name, c in layouts((*each, 6, 7), device, dtype):
            a, b = t(*each, 6, 5), t(*each, 5, 7)
            yield sample(f"input {c_name}", c.requires_grad_(requires_grad), a, b, beta=2)
        if dtype in WIDE:
            a, b = tensor((*each, 9, 17), device, dtype), tensor((*each, 17, 5), device, dtype)
            for c_dtype in (dtype, WIDE[dtype]):
                yield sample("out_dtype", tensor((*each, 9, 5), device, c_dtype), a, b, WIDE[dtype])
        yield from self.activated_samples(device, dtype, requires_grad)

    def activated_samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        for activation in activations_of(dtype):
            for *batch, m, k, n, beta in self.activated_shapes:
                yield sample(
                    f"{m}x{k}x{n} activation={activation} beta={beta}",
                    tensor((n,), device, dtype, requires_grad),
                    tensor((*batch, m, k), device, dtype, requires_grad),
                    tensor((*batch, k, n), device, dtype, requires_grad),
                    beta=beta,
                    alpha=2 if dtype.is_floating_point else 1,  # in int8 sums do not wrap
                    activation=activation,
                )

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        c, a, b = t(2, 2), t(2, 3), t(3, 2)
        yield bad("mat1 must be a matrix, got 1-D tensor", c, t(3), b)
        yield bad("mat2 must be a matrix, got 3-D tensor", c, a, t(1, 3, 2))
        yield bad("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x2)", c, a, t(4, 2))
        yield bad("input of shape [3] cannot be broadcast to the result's shape [2, 2]", t(3), a, b)
        yield bad("input of shape [1, 2, 2] cannot be broadcast", t(1, 2, 2), a, b)
        yield bad("mat1 and mat2 must have the same dtype", c, a, b.double())
        yield bad("input and mat1 must have the same dtype", c.double(), a, b)
        yield bad("not implemented for", c.bool(), a.bool(), b.bool(), exception=NotImplementedError)
        yield bad("argument beta must not be a floating point number", c.int(), a.int(), b.int(), beta=0.5)
        yield bad("argument alpha must not be a floating point number", c.int(), a.int(), b.int(), alpha=1.5)
        yield bad("argument alpha must not be a complex number", c, a, b, alpha=1j)
        yield from bad_activations((c, a, b))

    def reference(
        self,
        input: Tensor,
        mat1: Tensor,
        mat2: Tensor,
        out_dtype: torch.dtype | None = None,
        *,
        beta: Any = 1,
        alpha: Any = 1,
        activation: int = 0,
    ) -> Tensor:
        shape = (*mat1.shape[:-1], mat2.shape[-1])
        left = torch.zeros_like(input) if beta == 0 else input * beta
        right = torch.zeros_like(input).sum() if alpha == 0 else torch.matmul(mat1, mat2) * alpha
        return apply(activation, (left + right).expand(shape))


_mm = register(Mm())
_addmm = register_activated(Addmm())


def mm(input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
    """Matrix product, `input @ mat2`; the counterpart of `torch.mm`.

    Args:
        input: (M, K), any strides.
        mat2: (K, N), the dtype and device of `input`.
        out_dtype: dtype of the result: that of `input` (default), float32 for bfloat16 and float16, int32 for int8 and
            uint8.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (M, N). 16-bit floats accumulate in float32 and round once; integers are modular; K = 0 gives zeros.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts.
    """
    if out is None:
        return call(_mm, input, mat2, out_dtype)
    return call_out(_mm, out, input, mat2, out_dtype)


def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    out_dtype: torch.dtype | None = None,
    *,
    beta: Number = 1,
    alpha: Number = 1,
    activation: str = "none",
    out: Tensor | None = None,
) -> Tensor:
    """`f(beta * input + alpha * (mat1 @ mat2))`; the counterpart of `torch.addmm`, with an activation f.

    Args:
        input: broadcastable to (M, N); dtype of the operands or of the result. Never read where beta == 0.
        mat1: (M, K), any strides. Never read where alpha == 0.
        mat2: (K, N), the dtype and device of `mat1`. Never read where alpha == 0.
        out_dtype: dtype of the result, as in `mm`.
        beta, alpha: any real number; complex for complex dtypes; integral for integral dtypes.
        activation: "none", "relu", "gelu", "gelu_tanh" or "silu", as in `linear`.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (M, N), rounded once after the addition and the activation.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or scalar, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts, an activation of complex numbers or
            one of integers other than relu.
        ValueError: an unknown activation.
    """
    scalars = unless_one(beta=beta, alpha=alpha)
    if out is None:
        return call(_addmm, input, mat1, mat2, out_dtype, **scalars, **keyword(activation))
    return call_out(_addmm, out, input, mat1, mat2, out_dtype, **scalars, **keyword(activation))


def addmm_(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1, activation: str = "none"
) -> Tensor:
    """`addmm` written to `input`; returns `input`. The counterpart of `torch.Tensor.addmm_`.

    Args:
        input: (M, N), of the dtype of the matrices. mat1, mat2, beta, alpha, activation: as in `addmm`.

    Raises:
        RuntimeError: another shape or dtype of `input`, a leaf that requires grad, and what `addmm` raises.
    """
    return call_in_place(_addmm, input, mat1, mat2, **unless_one(beta=beta, alpha=alpha), **keyword(activation))
