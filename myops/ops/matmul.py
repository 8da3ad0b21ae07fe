"""matmul: row of the operator table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..calls import call, call_out, ops
from ..registration import BadCall, Operator, Sample, register
from ._gemm import (
    bad,
    batched,
    check,
    check_pair,
    product_grads,
    product_like,
    product_tangent,
    rows,
    sample,
    save_product,
    sum_to,
    tensor,
)

SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((2, 1, 4, 3), (1, 3, 3, 5)),
    ((2, 1, 2, 1, 4, 3), (3, 1, 2, 3, 2)),
    ((0, 2, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((17, 33), (33, 65)),
]


def result_shape(input: Tensor, other: Tensor) -> tuple[Any, ...]:
    a, b = input.shape, other.shape
    check(
        len(a) > 0 and len(b) > 0,
        lambda: f"both arguments to matmul need to be at least 1D, but input is {len(a)}D and other is {len(b)}D",
    )
    check(
        a[-1] == b[-2 if len(b) > 1 else 0],
        lambda: f"input and other shapes cannot be multiplied ({list(a)} and {list(b)})",
    )
    batch = torch.broadcast_shapes(a[:-2], b[:-2])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


class Matmul(Operator):
    name = "matmul"
    tensors = 2

    def shape(self, input: Tensor, other: Tensor, *rest: Any) -> tuple[Any, ...]:
        return result_shape(input, other)

    def fake(self, input: Tensor, other: Tensor) -> Tensor:
        shape = self.shape(input, other)
        return input.new_empty(shape, dtype=check_pair("matmul", input, "input", other, "other", None))

    def save(self, ctx: Any, input: Tensor, other: Tensor) -> None:
        save_product(ctx, input, other)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        need_a, need_b = ctx.needs_input_grad[:2]
        a_shape, b_shape = ctx.shapes
        if len(a_shape) == len(b_shape) == 2:
            return product_grads(ctx, ops.mm, grad, a, b, need_a, need_b)
        if len(b_shape) == 1:
            grad = grad.unsqueeze(-1)
        if len(a_shape) == 1:
            grad = grad.unsqueeze(-2)
        grad_a = grad_b = None
        if need_a:
            b = b.unsqueeze(1) if len(b_shape) == 1 else b
            grad_a = sum_to(ops.matmul(grad, b.mH), (1, *a_shape)[-max(len(a_shape), 2) :]).reshape(a_shape)
        if need_b:
            a = a.unsqueeze(0) if len(a_shape) == 1 else a
            if len(b_shape) <= 2:  # one product over all rows, not one for each item that is summed afterwards
                x = rows(a.expand(*grad.shape[:-1], -1)).mH
                grad_b = product_like(ops.mm, x, rows(grad), b_shape, ctx.strides[1]).reshape(b_shape)
            else:
                grad_b = sum_to(ops.matmul(a.mH, grad), b_shape)
        return grad_a, grad_b

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        input, other = ctx.saved_tensors
        tangent = product_tangent(ops.matmul, input, other, tangents[0], tangents[1], input.dtype)
        assert tangent is not None
        return tangent

    def batch(self, size: int, dims: Any, input: Tensor, other: Tensor) -> Tensor:
        a, b = batched(input, dims[0], size), batched(other, dims[1], size)
        row, column = a.dim() == 2, b.dim() == 2
        a = a.unsqueeze(1) if row else a
        b = b.unsqueeze(2) if column else b
        rank = max(a.dim(), b.dim())
        a = a.reshape(size, *(1,) * (rank - a.dim()), *a.shape[1:]) if a.dim() < rank else a
        b = b.reshape(size, *(1,) * (rank - b.dim()), *b.shape[1:]) if b.dim() < rank else b
        result = ops.matmul(a, b)
        if column:
            result = result.squeeze(-1)
        return result.squeeze(-1 if column else -2) if row else result

    def decompose(self, input: Tensor, other: Tensor) -> Tensor:
        return torch.matmul(input, other)

    def flops(self, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        batch = torch.broadcast_shapes(a[:-2], b[:-2])
        return 2 * math.prod(batch) * a[-1] * (a[-2] if len(a) > 1 else 1) * (b[-1] if len(b) > 1 else 1)

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        for a, b in SHAPES:
            yield sample(
                f"{list(a)} @ {list(b)}",
                tensor(a, device, dtype, requires_grad),
                tensor(b, device, dtype, requires_grad),
            )
        x = tensor((2, 1, 4, 3), device, dtype)
        yield sample(
            "expanded batch", x.expand(2, 3, 4, 3).requires_grad_(requires_grad), tensor((3, 5), device, dtype)
        )
        yield sample("permuted", tensor((4, 3, 2, 6), device, dtype).permute(2, 1, 0, 3), tensor((6, 5), device, dtype))
        yield sample("transposed", tensor((3, 4), device, dtype).mT, tensor((2, 5, 3), device, dtype).mT)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        yield bad("both arguments to matmul need to be at least 1D, but input is 0D", t(), t(3))
        yield bad("input and other shapes cannot be multiplied ([2, 3] and [4, 2])", t(2, 3), t(4, 2))
        yield bad("must have the same dtype", t(2, 3), t(3, 2, dtype=torch.float64))
        yield bad("The size of input (2) must match the size of other (3)", t(2, 2, 3), t(3, 3, 2))
        yield bad("not implemented for", t(2, 3).bool(), t(3, 2).bool(), exception=NotImplementedError)

    def reference(self, input: Tensor, other: Tensor) -> Tensor:
        return torch.matmul(input, other)


_matmul = register(Matmul())


def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Matrix product of 1-D to N-D tensors; the counterpart of `torch.matmul`.

    Args:
        input: (..., M, K), or (K,), which stands for one row that the result does not have.
        other: (..., K, N), or (K,), one column likewise; the dtype and device of `input`.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (..., M, N) with the leading dimensions broadcast. They are walked by stride 0 and never materialised.

    Raises:
        RuntimeError: 0-D operands, wrong shape, dtype or device, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts.
    """
    if out is None:
        return call(_matmul, input, other)
    return call_out(_matmul, out, input, other)
