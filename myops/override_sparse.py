"""What the switch runs at the sparse keys: aten's products with sparse arguments, by `myops.sparse`.

At a backend key no graph is recorded, and what comes back looks as torch's own result does: its layout, its strides,
its index dtype (but sampled products and gradients, which keep that of their pattern where torch makes int64 of
it). Pairs of sparse layouts that torch does not multiply are left to it, whose gradients have no formula
for them either. Not left to it are dtypes that it lacks, CSC times CSC, of which it makes zeros, and BSC @ dense and
dense @ BSR, which its gradients of BSR @ dense and of a linear layer with a BSR weight call.

Not here: which overloads at which keys, and what becomes of a call that is refused (override.py).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import sparse
from .calls import Number
from .registration import COMPONENTS, fits_float

_BY_ROW_OR_COLUMN = {torch.sparse_csr, torch.sparse_csc}


def _like_torchs(result: Tensor, layout: torch.layout) -> Tensor:
    """A sparse product with the layout and the index dtype, int64, of torch's."""
    if layout == torch.sparse_coo:
        return result
    if result.layout != layout:
        result = result.to_sparse(layout=layout)
    outer, inner = sparse._indices(result)
    if outer.dtype == torch.int64:
        return result
    return sparse._native(layout, (outer.long(), inner.long()), result.values(), result.shape)


def _both_sparse(a: Tensor, b: Tensor) -> bool:
    """Whether both are sparse, which needs layouts that torch multiplies."""
    if not sparse.is_sparse(a) or not sparse.is_sparse(b):
        return False
    if a.layout == b.layout == torch.sparse_coo or {a.layout, b.layout} <= _BY_ROW_OR_COLUMN:
        return True
    raise RuntimeError(f"torch does not multiply {a.layout} by {b.layout}")


# A call by way of `myops.sparse` costs 25 to 40 us, by its operator 5; the kernel has the checks. So the common
# products, of a sparse matrix and a strided one, go there straight.


def _is_common(a: Tensor, b: Tensor, *scalars: Number) -> bool:
    return sparse.takes_one_call(a, b) and a.dim() == b.dim() == 2 and all(map(fits_float, scalars))


_common: Callable[..., Tensor] = sparse._native_mm_op
_extremum: Callable[..., Tensor] = sparse._native_extremum_op


def mm(self: Tensor, mat2: Tensor) -> Tensor:
    return _common(self, mat2) if _is_common(self, mat2) else _any_mm(self, mat2)


@torch.no_grad()
def _any_mm(self: Tensor, mat2: Tensor) -> Tensor:
    both = _both_sparse(self, mat2)
    result = sparse.mm(self, mat2)
    if both:
        return _like_torchs(result, torch.sparse_coo if self.layout == torch.sparse_coo else torch.sparse_csr)
    return result


def addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    if not _is_common(mat1, mat2, beta, alpha) or self.layout != torch.strided:
        return _any_addmm(self, mat1, mat2, beta=beta, alpha=alpha)
    if beta == 0 and alpha == 1 and self.shape == (mat1.shape[0], mat2.shape[1]):  # torch.sparse.mm
        return _common(mat1, mat2)
    return _common(mat1, mat2, self, beta=beta, alpha=alpha)


@torch.no_grad()
def _any_addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number, alpha: Number) -> Tensor:
    both = _both_sparse(mat1, mat2)
    if not sparse.is_sparse(self):
        return sparse.addmm(self, mat1, mat2, beta=beta, alpha=alpha)
    # How torch.sparse.mm multiplies two CSR matrices.
    if beta != 0 or alpha != 1 or not both:
        raise RuntimeError("input must be strided")
    result = sparse.mm(mat1, mat2)
    if result.shape != self.shape or result.layout != self.layout:
        raise RuntimeError(f"input must be {list(result.shape)} and {result.layout}, as the product is")
    return _like_torchs(result, self.layout)


@torch.no_grad()
def bmm(self: Tensor, mat2: Tensor) -> Tensor:
    return sparse.bmm(self, mat2)


def _write(target: Tensor, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Compute, then copy: the target may be an operand, and nothing is written to one that does not fit."""
    *_, a, b = args
    if a.dim() < 2 or b.dim() < 2:
        raise RuntimeError(f"matrices are needed, got {a.dim()}-D and {b.dim()}-D")
    shape = (*a.shape[:-1], b.shape[-1])
    if target.layout != torch.strided or target.shape != shape or target.dtype != a.dtype:
        raise RuntimeError(
            f"Expected out to be a strided {a.dtype} tensor of shape {list(shape)}, but got {target.layout}, "
            f"{target.dtype}, {list(target.shape)}"
        )
    if _both_sparse(a, b):
        raise RuntimeError("the product of two sparse matrices is not written to a strided out")
    return target.copy_(function(*args, **kwargs))


def out(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The out= form of a product."""

    def call(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        return _write(out, function, args, kwargs)

    return call


def addmm_(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _write(self, addmm, (self, *args), kwargs)


def sparse_sparse_matmul(self: Tensor, other: Tensor) -> Tensor:
    if self.layout != torch.sparse_coo or other.layout != torch.sparse_coo:
        raise RuntimeError("both matrices must be COO")
    return mm(self, other)


@torch.no_grad()
def sampled_addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    if self.layout != torch.sparse_csr:
        raise RuntimeError(f"input must be CSR, got {self.layout}")
    return sparse.sampled_addmm(self, mat1, mat2, beta=beta, alpha=alpha)


def sampled_addmm_out(self: Tensor, mat1: Tensor, mat2: Tensor, *, out: Tensor, **scalars: Number) -> Tensor:
    if (out.layout, out.shape, out.dtype) != (self.layout, self.shape, self.dtype) or out._nnz() != self._nnz():
        raise RuntimeError("out must have the shape, dtype, layout and number of entries of input")
    return out.copy_(sampled_addmm(self, mat1, mat2, **scalars))


# torch.sparse.mm(csr, dense, reduce). The second result says, for amax and amin, which entry won.


def sparse_mm_reduce(self: Tensor, other: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
    if self.layout != torch.sparse_csr or reduce not in sparse.REDUCTIONS:
        raise RuntimeError(f"{reduce} of {self.layout} is not among the reductions of a CSR matrix")
    if other.layout != torch.strided or self.dim() != 2:
        raise RuntimeError(f"a matrix and a strided matrix are needed, got {self.dim()}-D and {other.layout}")
    if reduce in ("sum", "mean"):
        return _common(self, other, mean=reduce == "mean"), self.col_indices().new_empty(0)
    minimum = reduce == "amin"
    if not torch.is_grad_enabled() or not (self.requires_grad or other.requires_grad):
        return _extremum(self, other, minimum=minimum), self.col_indices().new_empty(0)
    sparse._check_inner(self, other)
    parts = (self.crow_indices(), self.col_indices(), self.values())
    result, winner = torch.ops.myops.spmm_extremum(*parts, other, minimum=minimum)
    return result, winner


@torch.no_grad()
def sparse_mm_reduce_backward(
    self: Tensor, grad_out: Tensor, weight: Tensor, reduce: str, arg_out: Tensor, output_mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    parts = sparse._parts(self, "a")
    needed = (False, False, *output_mask, False)
    saved: tuple[Tensor | None, ...] = (parts.values, weight, parts.crow, parts.col, *parts.ready)
    row = COMPONENTS["spmm"]
    if reduce in ("amax", "amin"):
        saved = (parts.col, parts.values, weight, arg_out)
        row = COMPONENTS["spmm_extremum"]
    context = SimpleNamespace(
        saved_tensors=saved, needs_input_grad=needed, mean=reduce == "mean", transpose=False, alpha=1.0,
        columns=self.shape[1],
    )  # fmt: skip
    _, _, grad_values, grad_weight, *_ = row.backward(context, grad_out)
    if grad_values is None:
        return None, grad_weight
    return sparse._native(self.layout, (parts.crow, parts.col), grad_values, self.shape), grad_weight
