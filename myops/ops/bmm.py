"""bmm and baddbmm: rows of the operator table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..activation import bad_activations, keyword, register_activated
from ..calls import Number, call, call_in_place, call_out, ops, unless_one
from ..registration import BadCall, register
from ._gemm import bad, batch_shape, batched, batched_addend, tensor
from .addmm import Addmm, Mm

SHAPES = ((3, 2, 3, 4), (1, 1, 1, 1), (7, 4, 4, 4), (2, 17, 33, 9), (0, 2, 3, 4), (3, 0, 2, 4), (3, 2, 0, 4))


class Bmm(Mm):
    name = "bmm"
    product = "bmm"
    sample_shapes = SHAPES
    sample_batch = (3,)

    def shape(self, input: Tensor, mat2: Tensor, *rest: Any) -> tuple[Any, ...]:
        return batch_shape(input, "input", mat2, "mat2")

    def batch(self, size: int, dims: Any, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        a, b = batched(input, dims[0], size), batched(mat2, dims[1], size)
        if out_dtype is None:
            return ops.matmul(a, b)  # two batch dimensions, nothing copied
        return ops.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype).unflatten(0, (size, a.shape[1]))

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        yield bad("input must be a 3D tensor, got 2-D tensor", t(2, 3), t(1, 3, 4))
        yield bad("mat2 must be a 3D tensor, got 2-D tensor", t(1, 2, 3), t(3, 4))
        words = "Expected size for first two dimensions of mat2 tensor to be: [2, 4] but got: [3, 4]"
        yield bad(words, t(2, 3, 4), t(3, 4, 2))
        yield bad("must have the same dtype", t(2, 2, 3), t(2, 3, 2, dtype=torch.float64))
        yield bad("not implemented for", t(1, 2, 3).bool(), t(1, 3, 2).bool(), exception=NotImplementedError)

    def reference(self, input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return torch.bmm(input, mat2)


class Baddbmm(Addmm):
    name = "baddbmm"
    operands = ("batch1", "batch2")
    product = "bmm"
    aten: Any = staticmethod(torch.baddbmm)
    sample_shapes = SHAPES
    sample_batch = (3,)
    activated_shapes = ((2, 3, 5, 4, 1), (1, 2, 7, 9, 0), (2, 4, 0, 3, 3))

    def shape(self, input: Tensor, mat1: Tensor, mat2: Tensor, *rest: Any) -> tuple[Any, ...]:
        return batch_shape(mat1, "batch1", mat2, "batch2")

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
        a, b = batched(mat1, dims[1], size), batched(mat2, dims[2], size)
        items = a.shape[1]
        c = batched_addend(input, dims[0], size, 3).expand(size, items, -1, -1)
        flat = ops.baddbmm(
            c.flatten(0, 1), a.flatten(0, 1), b.flatten(0, 1), out_dtype, beta=beta, alpha=alpha, activation=activation
        )
        return flat.unflatten(0, (size, items))

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        c, a, b = t(2, 2, 2), t(2, 2, 3), t(2, 3, 2)
        yield bad("batch1 must be a 3D tensor, got 2-D tensor", c, t(2, 3), b)
        yield bad("batch2 must be a 3D tensor, got 4-D tensor", c, a, t(1, 2, 3, 2))
        yield bad("Expected size for first two dimensions of batch2 tensor to be: [2, 3]", c, a, t(2, 4, 2))
        yield bad("input of shape [3] cannot be broadcast to the result's shape [2, 2, 2]", t(3), a, b)
        yield bad("batch1 and batch2 must have the same dtype", c, a, b.double())
        yield bad("input and batch1 must have the same dtype", c.double(), a, b)
        yield bad("not implemented for", c.bool(), a.bool(), b.bool(), exception=NotImplementedError)
        yield bad("argument beta must not be a floating point number", c.int(), a.int(), b.int(), beta=0.5)
        yield bad("argument alpha must not be a complex number", c, a, b, alpha=1j)
        yield from bad_activations((c, a, b))


_bmm = register(Bmm())
_baddbmm = register_activated(Baddbmm())


def bmm(input: Tensor, mat2: Tensor, out_dtype: torch.dtype | None = None, *, out: Tensor | None = None) -> Tensor:
    """Batched matrix product, `input[b] @ mat2[b]`; the counterpart of `torch.bmm`.

    Args:
        input: (B, M, K), any strides, an expanded batch included.
        mat2: (B, K, N), the dtype and device of `input`.
        out_dtype: dtype of the result: that of `input` (default), float32 for bfloat16 and float16, int32 for int8 and
            uint8.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (B, M, N). 16-bit floats accumulate in float32 and round once; integers are modular; K = 0 gives zeros.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts.
    """
    if out is None:
        return call(_bmm, input, mat2, out_dtype)
    return call_out(_bmm, out, input, mat2, out_dtype)


def baddbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    out_dtype: torch.dtype | None = None,
    *,
    beta: Number = 1,
    alpha: Number = 1,
    activation: str = "none",
    out: Tensor | None = None,
) -> Tensor:
    """`f(beta * input[b] + alpha * (batch1[b] @ batch2[b]))`; the counterpart of `torch.baddbmm`, with an activation f.

    Args:
        input: broadcastable to (B, M, N); dtype of the operands or of the result. Never read where beta == 0.
        batch1: (B, M, K), any strides. Never read where alpha == 0.
        batch2: (B, K, N), the dtype and device of `batch1`. Never read where alpha == 0.
        out_dtype: dtype of the result, as in `bmm`.
        beta, alpha: any real number; complex for complex dtypes; integral for integral dtypes.
        activation: "none", "relu", "gelu", "gelu_tanh" or "silu", as in `linear`.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (B, M, N), rounded once after the addition and the activation.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or scalar, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts, an activation of complex numbers or
            one of integers other than relu.
        ValueError: an unknown activation.
    """
    scalars = unless_one(beta=beta, alpha=alpha)
    if out is None:
        return call(_baddbmm, input, batch1, batch2, out_dtype, **scalars, **keyword(activation))
    return call_out(_baddbmm, out, input, batch1, batch2, out_dtype, **scalars, **keyword(activation))


def baddbmm_(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1, activation: str = "none"
) -> Tensor:
    """`baddbmm` written to `input`; returns `input`. The counterpart of `torch.Tensor.baddbmm_`.

    Args:
        input: (B, M, N), of the dtype of the batches. batch1, batch2, beta, alpha, activation: as in `baddbmm`.

    Raises:
        RuntimeError: another shape or dtype of `input`, a leaf that requires grad, and what `baddbmm` raises.
    """
    return call_in_place(_baddbmm, input, batch1, batch2, **unless_one(beta=beta, alpha=alpha), **keyword(activation))
