"""What the rows of the matrix products share: shape rules, gradients, samples. Not an operator itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._libraries import DTYPE_CODES
from ..autograd import keep_factors
from ..registration import BadCall, Sample

WIDE = {
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.int8: torch.int32,
    torch.uint8: torch.int32,
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check(condition: Any, message: Callable[[], str]) -> None:
    """torch._check where Dynamo may trace (to size an `out`); it would refuse messages made from arguments."""
    if condition is True:
        return
    if isinstance(condition, Tensor):  # of a size under torch.jit.trace
        condition = bool(condition)
    if not torch.compiler.is_dynamo_compiling():
        torch._check(condition, message)
    elif not condition:
        raise RuntimeError(message())


def check_dtype(op: str, t: Tensor, name: str) -> None:
    if t.dtype not in DTYPE_CODES:
        raise NotImplementedError(f"myops.{op} is not implemented for {name} of dtype {name_of(t.dtype)}")


def check_same_dtype(a: Tensor, a_name: str, b: Tensor, b_name: str, out_dtype: torch.dtype | None = None) -> None:
    torch._check(
        a.dtype in (b.dtype, out_dtype),
        lambda: f"{a_name} and {b_name} must have the same dtype, but got {name_of(a.dtype)} and {name_of(b.dtype)}",
    )


def check_device(t: Tensor, name: str, like: Tensor, like_name: str) -> None:
    torch._check(
        t.device == like.device,
        lambda: (
            "Expected all tensors to be on the same device, "
            f"but {name} is on {t.device} and {like_name} is on {like.device}"
        ),
    )


def check_pair(op: str, a: Tensor, a_name: str, b: Tensor, b_name: str, out_dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the product, after the checks that kernels/gemm_entry.h makes, in its words."""
    check_same_dtype(a, a_name, b, b_name)
    check_dtype(op, a, a_name)
    check_device(b, b_name, a, a_name)
    if out_dtype is None or out_dtype == a.dtype:
        return a.dtype
    torch._check(
        WIDE.get(a.dtype) == out_dtype,
        lambda: (
            f"out_dtype must be the dtype of {a_name} ({name_of(a.dtype)}), float32 for bfloat16 and float16, or "
            f"int32 for int8 and uint8, but got {name_of(out_dtype)}"
        ),
    )
    return out_dtype


def check_addend(c: Tensor, name: str, shape: tuple[Any, ...], like: Tensor, like_name: str) -> None:
    check_device(c, name, like, like_name)
    fits = c.dim() <= len(shape) and all(
        n == m or n == 1 for n, m in zip(reversed(c.shape), reversed(shape), strict=False)
    )
    torch._check(
        fits,
        lambda: f"{name} of shape {list(c.shape)} cannot be broadcast to the result's shape {list(shape)}",
    )


def check_bias(bias: Tensor | None, out_features: Any) -> None:
    """out_features: None where the weight is a vector."""
    if bias is None:
        return
    if out_features is None:
        fits, wanted = bias.dim() == 0, "[]"
    else:
        fits, wanted = bias.dim() <= 1 and (bias.numel() == out_features or bias.numel() == 1), f"[{out_features}]"
    check(fits, lambda: f"bias must have shape {wanted}, but got {list(bias.shape)}")


def matrix_shape(a: Tensor, a_name: str, b: Tensor, b_name: str) -> tuple[Any, Any]:
    check(a.dim() == 2, lambda: f"{a_name} must be a matrix, got {a.dim()}-D tensor")
    check(b.dim() == 2, lambda: f"{b_name} must be a matrix, got {b.dim()}-D tensor")
    check(
        a.shape[1] == b.shape[0],
        lambda: (
            f"{a_name} and {b_name} shapes cannot be multiplied "
            f"({a.shape[0]}x{a.shape[1]} and {b.shape[0]}x{b.shape[1]})"
        ),
    )
    return a.shape[0], b.shape[1]


def batch_shape(a: Tensor, a_name: str, b: Tensor, b_name: str) -> tuple[Any, Any, Any]:
    check(a.dim() == 3, lambda: f"{a_name} must be a 3D tensor, got {a.dim()}-D tensor")
    check(b.dim() == 3, lambda: f"{b_name} must be a 3D tensor, got {b.dim()}-D tensor")
    check(
        a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1],
        lambda: (
            f"Expected size for first two dimensions of {b_name} tensor to be: "
            f"[{a.shape[0]}, {a.shape[2]}] but got: [{b.shape[0]}, {b.shape[1]}]"
        ),
    )
    return a.shape[0], a.shape[1], b.shape[2]


def save_product(ctx: Any, a: Tensor, b: Tensor, *kept: Tensor | None, first: int = 0) -> None:
    ctx.shapes, ctx.strides, ctx.dtype = (a.shape, b.shape), (a.stride(), b.stride()), a.dtype
    keep_factors(ctx, a, b, *kept, first=first)


def is_column_major(shape: Any, stride: Any) -> bool:
    """Whether a tensor is a matrix of dense columns; where sizes are symbols, whether that is known without a guard."""
    if len(shape) != 2 or stride[0].__class__ is not int or stride[0] != 1:
        return False
    dense = stride[1] == shape[0]
    return dense if isinstance(dense, bool) else torch.fx.experimental.symbolic_shapes.statically_known_true(dense)


def product_like(product: Any, x: Tensor, y: Tensor, shape: Any, stride: Any) -> Tensor:
    """`x @ y`, the gradient of an operand, column-major where the operand is, as in torch.

    So the gradient of W in x @ W.T is contiguous: a view can flatten it, and W.grad takes it without a copy.
    """
    return product(y.mT, x.mT).mT if is_column_major(shape, stride) else product(x, y)


def product_grads(
    ctx: Any, product: Any, grad: Tensor, a: Any, b: Any, need_a: bool, need_b: bool, alpha: float = 1.0
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `alpha * a @ b` for `product` = mm or bmm: alpha * grad @ b^H and alpha * a^H @ grad.

    a and b are what `save_product` kept: a factor is there where the other one needs a gradient.

    Where the result is wider than the operands (out_dtype), the products are formed in the wide dtype and rounded once.
    alpha == 0 reads no matrix here either.
    """

    if alpha == 0:
        zeros = (grad.new_zeros(shape, dtype=ctx.dtype) for shape in ctx.shapes)
        grad_a, grad_b = (zero if need else None for zero, need in zip(zeros, (need_a, need_b), strict=True))
        return grad_a, grad_b

    def one(i: int, x: Tensor, y: Tensor) -> Tensor:
        result = product_like(product, to(x, grad.dtype), to(y, grad.dtype), ctx.shapes[i], ctx.strides[i])
        return to(result if alpha == 1 else result * alpha, ctx.dtype)

    return one(0, grad, b.mH) if need_a else None, one(1, a.mH, grad) if need_b else None


def addend_grad(grad: Tensor, beta: float, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Gradient of `beta * input` for an input of `shape`; exactly zero for beta == 0, whatever grad holds."""
    if beta == 0:
        return grad.new_zeros(shape, dtype=dtype)
    reduced = sum_to(grad, shape)
    return to(reduced if beta == 1 else reduced * beta, dtype)


def total(terms: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """Sum of the tangents that exist, each a tensor of its own; zeros like `like` where none does."""
    result: Tensor | None = None
    for term in terms:
        if term is not None:
            result = term if result is None else result + term
    return torch.zeros_like(like) if result is None else result


def product_tangent(
    product: Any, a: Tensor, b: Tensor, da: Tensor | None, db: Tensor | None, out_dtype: torch.dtype, alpha: float = 1.0
) -> Tensor | None:
    """Tangent of `alpha * a @ b`, None where neither operand has one."""
    if alpha == 0 or (da is None and db is None):
        return None

    def one(x: Tensor, y: Tensor) -> Tensor:
        return product(to(x, out_dtype), to(y, out_dtype))

    left = None if da is None else one(da, b)
    right = None if db is None else one(a, db)
    tangent = left if right is None else right if left is None else left + right
    assert tangent is not None
    return tangent if alpha == 1 else tangent * alpha


def to(t: Tensor, dtype: torch.dtype) -> Tensor:
    """`t.to(dtype)`, which takes 0.6 us where it has nothing to do."""
    return t if t.dtype == dtype else t.to(dtype)


def sum_to(t: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """`t.sum_to_size(shape)`, which takes 1 us where it has nothing to do."""
    return t if t.shape == shape else t.sum_to_size(shape)


def rows(t: Tensor) -> Tensor:
    """The leading dimensions as one."""
    return t if t.dim() == 2 else t.reshape(math.prod(t.shape[:-1]), t.shape[-1])


def batched(t: Tensor, dim: int | None, size: int) -> Tensor:
    """`t` with its batch dimension in front, expanded (stride 0) where it has none."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def batched_addend(t: Tensor, dim: int | None, size: int, rank: int) -> Tensor:
    """A broadcastable addend with the batch in front and ones up to `rank` dimensions behind it."""
    t = batched(t, dim, size)
    return t.reshape(size, *(1,) * (rank - (t.dim() - 1)), *t.shape[1:])


def whole(value: float, dtype: torch.dtype) -> float | int:
    """A scalar as torch's operators want it: of integers an integer."""
    return value if dtype.is_floating_point or dtype.is_complex else int(value)


# Samples.


def tensor(shape: tuple[int, ...], device: str, dtype: torch.dtype, requires_grad: bool = False) -> Tensor:
    """Random values around one; small integers for integral dtypes."""
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        made = torch.randn(shape, dtype=wide).to(device=device, dtype=dtype)
        return made.requires_grad_(requires_grad)
    return torch.randint(0 if dtype == torch.uint8 else -4, 5, shape).to(device=device, dtype=dtype)


def layouts(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The same shape in every layout that a caller may bring: name and tensor."""

    def make(*size: int) -> Tensor:
        return tensor(size, device, dtype)

    *batch, rows, cols = shape
    yield "contiguous", make(*shape)
    yield "transposed", make(*batch, cols, rows).mT
    yield "sliced", make(*batch, rows + 2, cols + 3)[..., 1 : rows + 1, 2 : cols + 2]
    yield "stepped", make(*batch, 2 * rows, 3 * cols)[..., ::2, ::3]
    yield "expanded rows", make(*batch, 1, cols).expand(shape)
    yield "expanded columns", make(*batch, rows, 1).expand(shape)
    if batch:
        yield "expanded batch", make(rows, cols).expand(shape)
        yield "batch last", make(rows, cols, *batch).movedim(-1, 0)
    count = rows + cols - 1
    if not batch and count > 0:
        yield "overlapping", make(count).as_strided((rows, cols), (1, 1))
    if dtype.is_complex:
        yield "conjugated", make(*shape).conj()
        yield "adjoint", make(*batch, cols, rows).mH
    if dtype == torch.float64:
        yield "negated", torch.randn(shape, dtype=torch.complex128, device=device).conj().imag


def sample(name: str, *args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs, name)


def bad(words: str, *args: Any, exception: type[Exception] = RuntimeError, **kwargs: Any) -> BadCall:
    return BadCall(Sample(args, kwargs, words), exception, words)
