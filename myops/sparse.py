"""myops.sparse: products of native sparse tensors and of myops.CSR; drop-in for torch.sparse.mm and its relatives.

Every layout is taken apart into the vectors of a CSR matrix, or of the CSR matrix that is its transpose (CSC), and
handed to the operators on parts (`ops/`). The gradient of a sparse argument has its layout and its pattern and takes
O(nnz) memory: entries that are not stored have no gradient (masked semantics).

Not here: kernels, the container (`csr.py`), anything that copies a sparse matrix into a dense one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .autograd import alive, call_unrecorded, is_recorded, needs_graph
from .calls import Number, as_number, call
from .csr import CSR
from .ops._csr import check_inside, rows_of
from .ops._gemm import WIDE, check_addend, name_of, to
from .registration import COMPONENTS, OPERATORS, check_complex, define_composite, define_front, fits_float

__all__ = ["addmm", "bmm", "mm", "sampled_addmm"]

_spmm, _extremum = COMPONENTS["spmm"], COMPONENTS["spmm_extremum"]
_sddmm, _spgemm = COMPONENTS["sddmm"], COMPONENTS["spgemm"]
REDUCTIONS = ("sum", "mean", "amax", "amin")
_BY_ENTRY = (torch.sparse_csr, torch.sparse_csc, torch.sparse_coo)
_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Parts(NamedTuple):
    """A rows x cols matrix as crow, col and values of CSR: of the matrix, or of its transpose."""

    crow: Tensor
    col: Tensor
    values: Tensor
    rows: int
    cols: int
    transposed: bool = False
    ready: tuple[Tensor | None, ...] = (None, None, None)  # csr_transpose of the pattern, where it is there

    def by_rows(self) -> Parts:
        """The same with the parts of the matrix itself."""
        if not self.transposed:
            return self
        crow, col, perm = torch.ops.myops.csr_transpose(self.crow, self.col, self.rows)
        return Parts(crow, col, self.values[perm.long()], self.rows, self.cols)

    def t(self) -> Parts:
        return Parts(self.crow, self.col, self.values, self.cols, self.rows, not self.transposed, self.ready)


def is_sparse(t: Any) -> bool:
    """Whether `t` is a myops.CSR or a native sparse tensor."""
    return isinstance(t, CSR) or (isinstance(t, Tensor) and t.layout != torch.strided)


def takes_one_call(a: Tensor, b: Tensor) -> bool:
    """Whether `native_mm` takes two operands: one strided, one CSR, CSC or COO, on the CPU also BSR or BSC."""
    if b.layout is not torch.strided:
        a, b = b, a
    layout = a.layout
    return b.layout is torch.strided and layout is not torch.strided and (a.is_cpu or layout in _BY_ENTRY)


def _describe(t: Any) -> str:
    if isinstance(t, CSR):
        return "myops.CSR"
    if not isinstance(t, Tensor):
        return type(t).__name__
    return f"{t.dim()}-D {str(t.layout).removeprefix('torch.')} of {name_of(t.dtype)}"


# Taking native tensors apart.


class _Values(torch.autograd.Function):
    """The values of a native tensor. Native `values()` cannot be differentiated twice; its gradient is a constant."""

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return _stored_values(matrix).detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        (matrix,) = inputs
        ctx.layout, ctx.size = matrix.layout, matrix.shape
        ctx.save_for_backward(*_indices(matrix))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _assemble(ctx.layout, ctx.saved_tensors, grad, ctx.size)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _stored_values(tangent)


def _stored_values(matrix: Tensor) -> Tensor:
    return matrix._values() if matrix.layout == torch.sparse_coo else matrix.values()


def _indices(matrix: Tensor) -> tuple[Tensor, ...]:
    if matrix.layout == torch.sparse_coo:
        return (matrix._indices(),)
    if matrix.layout in (torch.sparse_csr, torch.sparse_bsr):
        return matrix.crow_indices(), matrix.col_indices()
    return matrix.ccol_indices(), matrix.row_indices()


class _Assembled(torch.autograd.Function):
    """The sparse tensor around values. Torch's own constructors cannot be differentiated twice, or for complex CSR."""

    @staticmethod
    def forward(layout: torch.layout, values: Tensor, size: Any, *indices: Tensor) -> Tensor:
        return _native(layout, indices, values, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.layout, _, ctx.size, *indices = inputs
        ctx.save_for_backward(*indices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        indices = ctx.saved_tensors
        if grad.layout != ctx.layout or not all(map(torch.equal, _indices(grad), indices)):
            grad = _at_pattern(grad, ctx.layout, indices, ctx.size)
        return None, _values_of(grad), None, *(None for _ in indices)


def _at_pattern(matrix: Tensor, layout: torch.layout, indices: Any, size: Any) -> Tensor:
    """Another tensor's entries at the places of a pattern, zeros where it stores none: COO, in the pattern's order.

    Between compressed tensors torch's sparse_mask keeps only the places that both have.
    """
    if layout != torch.sparse_coo:
        outer, inner = indices
        indices = (torch.stack([rows_of(outer, inner), inner.long()]),)
        matrix = matrix if matrix.layout == torch.strided else matrix.to_sparse()
        if layout == torch.sparse_csc:
            matrix, size = matrix.transpose(0, 1), size[::-1]
    if matrix.layout == torch.sparse_coo:
        matrix = matrix.coalesce()
    ones = matrix.new_ones(indices[0].shape[-1], layout=torch.strided)
    return matrix.sparse_mask(_native(torch.sparse_coo, indices, ones, size))


def _native(layout: torch.layout, indices: Any, values: Tensor, size: Any) -> Tensor:
    # Where the parts are: torch's constructors move them to the default device.
    options: dict[str, Any] = {"device": values.device, "check_invariants": False}
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(indices[0], values, size, is_coalesced=True, **options)
    outer, inner = indices
    return torch.sparse_compressed_tensor(outer, inner, values, size, layout=layout, **options)


def _assemble(layout: torch.layout, indices: Any, values: Tensor, size: Any) -> Tensor:
    """A native tensor around parts that are known to be right (COO: coalesced); differentiable in `values`."""
    if values.requires_grad and torch.is_grad_enabled():
        return _Assembled.apply(layout, values, size, *indices)
    return _native(layout, indices, values, size)


def _values_of(matrix: Tensor) -> Tensor:
    if not matrix.requires_grad:
        return _stored_values(matrix).detach()  # a view of a sparse tensor has no conj() in a backward
    return _Values.apply(matrix) if torch.is_grad_enabled() else _stored_values(matrix.detach())


def _sorted_by_row(row: Tensor, col: Tensor, values: Tensor, rows: int, cols: int) -> Parts:
    """Entries in any order: a counting sort by row, repeats kept."""
    whole = torch.tensor([0, row.shape[0]], dtype=row.dtype, device=row.device)
    try:
        crow, _, perm = torch.ops.myops.csr_transpose(whole, row, rows)
    except RuntimeError as error:  # which takes rows for columns
        raise RuntimeError(str(error).replace("col holds", "row holds")) from None
    perm = perm.long()
    return Parts(crow, col[perm], values[perm], rows, cols)


def _coo_parts(matrix: Tensor) -> Parts:
    if torch.is_grad_enabled() and matrix.requires_grad and not matrix.is_coalesced():
        matrix = matrix.coalesce()
    row, col = matrix._indices()
    values = _values_of(matrix)
    rows, cols = matrix.shape
    if not matrix.is_coalesced():
        return _sorted_by_row(row, col, values, rows, cols)
    return Parts(torch.ops.myops.csr_rows(row, rows), col, values, rows, cols)


def _block_parts(matrix: Tensor) -> Parts:
    """Blocks as single entries."""
    by_row = matrix.layout == torch.sparse_bsr
    outer, inner = _indices(matrix)
    values = _values_of(matrix)
    height, width = values.shape[1:]
    if max(*matrix.shape, values.numel()) > torch.iinfo(inner.dtype).max:  # blocks may count where elements do not
        outer, inner = outer.long(), inner.long()
    # Sorted by the inner index, which checks both; then the outer one of every block, put back in order.
    _, found, perm = torch.ops.myops.csr_transpose(
        outer, inner, matrix.shape[1] // width if by_row else matrix.shape[0] // height
    )
    of_block = torch.empty_like(found).scatter_(0, perm.long(), found).long()
    if not by_row:  # by rows of the transpose
        values, height, width = values.mT, width, height
    # Row i of a block goes behind row i of those before it: all blocks of a row are `count * width` apart.
    begin, count = outer[:-1], outer.diff()
    i, j = (torch.arange(n, device=inner.device) for n in (height, width))
    block = torch.arange(inner.shape[0], device=inner.device)
    place = ((begin[of_block] * (height - 1) + block) * width).view(-1, 1, 1)
    place = (place + (count[of_block] * width).view(-1, 1, 1) * i.view(-1, 1) + j).reshape(-1)
    perm = torch.empty_like(place).scatter_(0, place, torch.arange(place.shape[0], device=inner.device))
    col = (inner.view(-1, 1, 1) * width + j.to(inner.dtype)).expand(values.shape).reshape(-1)[perm]
    starts = (begin.view(-1, 1) * height + count.view(-1, 1) * i).reshape(-1)
    crow = (torch.cat([starts, outer[-1:] * height]) * width).to(inner.dtype)
    rows, cols = matrix.shape
    return Parts(crow, col, values.reshape(-1)[perm], rows, cols, transposed=not by_row)


def _parts(matrix: Any, name: str) -> Parts:
    if isinstance(matrix, CSR):
        rows, cols = _shape(matrix)
        ready = (matrix.t_crow, matrix.t_col, matrix.t_perm)
        return Parts(matrix.crow, matrix.col, matrix.values, rows, cols, ready=ready)
    if matrix.dim() != 2:
        raise RuntimeError(f"{name} must be a matrix, got {_describe(matrix)}")
    if matrix.dense_dim() != 0:
        raise RuntimeError(
            f"{name} must have scalar entries, but it is hybrid: {matrix.sparse_dim()} sparse and {matrix.dense_dim()} "
            "dense dimensions"
        )
    if matrix.layout == torch.sparse_coo:
        return _coo_parts(matrix)
    if matrix.layout in (torch.sparse_bsr, torch.sparse_bsc):
        return _block_parts(matrix)
    transposed = matrix.layout == torch.sparse_csc
    rows, cols = matrix.shape
    outer, inner = _indices(matrix)
    return Parts(outer, inner, _values_of(matrix), rows, cols, transposed)


def csr_parts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """crow, col and values of a native 2-D sparse tensor of any layout; differentiable."""
    parts = _parts(matrix, "matrix").by_rows()
    values = parts.values if parts.values.requires_grad else parts.values.detach()
    # Detached: Dynamo does not take views whose base is a sparse tensor.
    return parts.crow.detach(), parts.col.detach(), values


# Products.


def _shape(t: Any) -> Any:
    # Properties of a tensor subclass go through __torch_function__, at 1 us each.
    return (t.crow.shape[0] - 1, t.shape[1]) if isinstance(t, CSR) else t.shape


def _typed(t: Any) -> Tensor:
    """A plain tensor of the dtype and device of `t`."""
    return t.values if isinstance(t, CSR) else t


def _check_tensors(**operands: Any) -> None:
    for name, t in operands.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a Tensor, but got {type(t).__name__}")


def _check_inner(a: Any, b: Any, names: tuple[str, str] = ("a", "b")) -> None:
    _check_tensors(**dict(zip(names, (a, b), strict=True)))
    x, y = _shape(a), _shape(b)
    both = " and ".join(names)
    if len(x) != 2 or len(y) != 2:
        raise RuntimeError(f"{both} must be matrices, got {_describe(a)} and {_describe(b)}")
    if x[1] != y[0]:
        raise RuntimeError(f"{both} shapes cannot be multiplied ({x[0]}x{x[1]} and {y[0]}x{y[1]})")


def _check_types(a: Any, b: Any, names: str = "a and b", casts: bool = False) -> None:
    """casts: autocast casts both, where it is on."""
    x, y = _typed(a), _typed(b)
    if x.dtype != y.dtype and not (casts and torch.is_autocast_enabled(x.device.type)):
        raise RuntimeError(f"{names} must have the same dtype, but got {name_of(x.dtype)} and {name_of(y.dtype)}")
    if x.device != y.device:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {names} are on {x.device} and {y.device}"
        )


def _one_call(op: Any, args: tuple[Any, ...], **scalars: float) -> Tensor | None:
    """A product of native sparse tensors as one operator.

    None where it must be recorded or is wrong: the general path finds that out again and raises the proper error. That
    takes 3 us more, and some 20 us where a product of megabytes has just driven the interpreter out of the cache.
    """
    for t in args:
        if t.__class__ is not Tensor and t.__class__ is not Parameter:
            return None
    args = alive(args)
    if is_recorded(args):
        return None
    try:
        return call_unrecorded(op, args, scalars)
    except RuntimeError:
        return None


def _native_mm(args: tuple[Any, ...], **scalars: float) -> Tensor | None:
    """The most common products: of a sparse matrix and a strided one, and of two native ones of one layout."""
    a, b, *rest = args
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or isinstance(b, CSR):
        return None
    if isinstance(a, CSR):
        if rest or scalars or torch.compiler.is_compiling():
            return None
        fits = b.layout is torch.strided and a.shape[1:] == b.shape[:1]
        return _one_call(_spmm.call, (a.crow, a.col, a.values, b)) if fits else None
    if takes_one_call(a, b) and (not rest or getattr(rest[0], "layout", None) is torch.strided):
        return _one_call(_native_mm_op, args, **scalars)
    if a.layout is b.layout and a.layout in (torch.sparse_csr, torch.sparse_coo) and not rest and not scalars:
        return _one_call(_native_spgemm_op, args)
    return None


def _native_extremum(a: Any, b: Any, minimum: bool) -> Tensor | None:
    return _one_call(_native_extremum_op, (a, b), minimum=minimum) if _is_by_row(a) else None


def _is_by_row(t: Any) -> bool:
    """Whether `t` is a CSR tensor or a COO tensor whose entries are in order."""
    layout = getattr(t, "layout", None)
    return layout is torch.sparse_csr or (layout is torch.sparse_coo and t.is_coalesced())


def _times_dense(
    a: Parts, dense: Tensor, input: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0, mean: bool = False
) -> Tensor:
    columns = a.rows if a.transposed else a.cols  # of what the parts describe
    plain = input is None and not a.transposed and not mean and alpha == 1
    # Every argument costs, and only a gradient reads the transposed pattern.
    if plain and (a.ready[0] is None or not (torch.compiler.is_compiling() or needs_graph((a.values, dense)))):
        return call(_spmm, a.crow, a.col, a.values, dense)
    return call(
        _spmm, a.crow, a.col, a.values, dense, input, *a.ready,
        columns=columns, transpose=a.transposed, mean=mean, beta=beta, alpha=alpha,
    )  # fmt: skip


def _with_strided(
    a: Any, b: Any, input: Tensor | None = None, beta: float = 1.0, alpha: Any = 1.0, mean: bool = False
) -> Tensor:
    """The product of a sparse matrix, on either side, and a strided one."""
    if is_sparse(a):
        parts, scale = _scaled(_parts(a, "a"), alpha)
        return _times_dense(parts, b, input, beta, scale, mean)
    parts, scale = _scaled(_parts(b, "b").t(), alpha)
    if input is not None:
        input = input.expand(a.shape[0], _shape(b)[1]).mT
    result = _times_dense(parts, a.mT, input, beta, scale).mT
    # As torch has it.
    return result if not isinstance(b, CSR) and b.layout == torch.sparse_coo else result.contiguous()


def _times_sparse(a: Any, b: Any) -> Any:
    x, y = _parts(a, "a"), _parts(b, "b")
    if x.crow.dtype != y.crow.dtype:  # int32 with int64: the wider one
        x, y = (Parts(p.crow.long(), p.col.long(), p.values, p.rows, p.cols, p.transposed) for p in (x, y))
    size = (x.rows, y.cols)
    if x.transposed and y.transposed and a.layout == b.layout == torch.sparse_csc:  # C.T = B.T @ A.T
        ccol, row, values = call(_spgemm, y.crow, y.col, y.values, x.crow, x.col, x.values, x.rows)
        return _assemble(torch.sparse_csc, (ccol, row), values, size)
    x, y = x.by_rows(), y.by_rows()
    coo = not isinstance(a, CSR) and not isinstance(b, CSR) and a.layout == b.layout == torch.sparse_coo
    crow, col, values = call(_spgemm, x.crow, x.col, x.values, y.crow, y.col, y.values, y.cols, coo=coo)
    if coo:
        return _assemble(torch.sparse_coo, (col,), values, size)
    if isinstance(a, CSR) or isinstance(b, CSR):
        return CSR(crow, col, values, size, check_invariants=False)
    return _assemble(torch.sparse_csr, (crow, col), values, size)


def mm(a: Tensor, b: Tensor, *, reduce: str = "sum") -> Tensor:
    """`a @ b` of matrices of which one or both are sparse; the counterpart of `torch.sparse.mm`.

    Args:
        a, b: (M, K) and (K, N): native COO (coalesced or not), CSR, CSC, BSR or BSC tensors, `myops.CSR`, or strided
            tensors of any strides, in any mix; one dtype of the eleven (not bool), one device. Entries may come in any
            order and repeat.
        reduce: how the products of a row are put together, for sparse a and strided b: "sum", "mean" (over stored
            entries), "amax" or "amin" (0 for a row without entries).

    Returns:
        (M, N), strided where one operand is; else sparse: COO for two COO operands (coalesced), CSC for two CSC, else
        CSR (`myops.CSR` where an operand is one), columns sorted, indices of the operands' dtype. 16-bit floats
        accumulate in float32 and round once.

    Gradients:
        For both operands, to any order; forward mode for strided operands and the values of a `myops.CSR` (no native
        sparse tensor can carry a tangent). That of a sparse operand is sparse: its layout (an
        uncoalesced COO operand is coalesced first), its pattern, its index dtype.

    Raises:
        TypeError: an operand that is no tensor.
        RuntimeError: shapes, dtypes or devices that do not fit, hybrid or batched tensors, indices out of range, more
            entries in the result than int32 indices can count.
        NotImplementedError: bool, and complex numbers with amax or amin.
        ValueError: another `reduce`, or one that is not "sum" where a is strided or b sparse.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, but got {reduce!r}")
    if reduce != "sum" and isinstance(a, Tensor) and a.layout is torch.sparse_coo:
        a = a.coalesce()  # repeats add up before they are counted or compared, in every mode
    if reduce == "sum" and (product := _native_mm((a, b))) is not None:
        return product
    if reduce == "mean" and (product := _native_mm((a, b), mean=True)) is not None:
        return product
    if reduce in ("amax", "amin") and (product := _native_extremum(a, b, reduce == "amin")) is not None:
        return product
    return _mm_in_parts(a, b, reduce)


def _mm_in_parts(a: Any, b: Any, reduce: str = "sum") -> Any:
    _check_inner(a, b)
    left, right = is_sparse(a), is_sparse(b)
    _check_types(a, b, casts=reduce == "sum" and left != right)
    if reduce != "sum" and (not left or right):
        raise ValueError(f"reduce={reduce!r} needs a sparse a and a strided b, got {_describe(a)} and {_describe(b)}")
    if left and right:
        return _times_sparse(a, b)
    if not left and not right:
        return call(OPERATORS["mm"], a, b)
    if reduce in ("sum", "mean"):
        return _with_strided(a, b, mean=reduce == "mean")
    parts = _parts(a, "a").by_rows()
    args = (parts.crow, parts.col, parts.values, b)
    recorded = torch.compiler.is_compiling() or is_recorded(alive(args))
    return call(_extremum, *args, minimum=reduce == "amin", with_arg=recorded)[0]


def _extremum_in_parts(a: Tensor, b: Tensor, *, minimum: bool = False) -> Tensor:
    result: Tensor = _mm_in_parts(a, b, "amin" if minimum else "amax")
    return result


def _number(value: Any, name: str, like: Any) -> Any:
    """A scalar of any kind as one of Python's: an integer only as large as it is exact, or of an integer dtype."""
    if value.__class__ is float or (value.__class__ is int and fits_float(value)):
        return value
    value = as_number(value, name)
    if not isinstance(value, int | float | complex):
        raise TypeError(f"{name} must be a number, but got {type(value).__name__}")
    if isinstance(value, complex) and value.imag == 0:
        return value.real
    if isinstance(like, Tensor):
        check_complex(value, name, like.dtype)
    inexact = isinstance(like, Tensor) and (like.dtype.is_floating_point or like.dtype.is_complex)
    return float(value) if isinstance(value, int) and inexact else value


def _scaled(parts: Parts, alpha: Any) -> tuple[Parts, float]:
    """A complex or very large integral alpha goes into the values."""
    if not fits_float(alpha):
        values = parts.values * alpha
        return Parts(parts.crow, parts.col, values, parts.rows, parts.cols, parts.transposed, parts.ready), 1.0
    return parts, float(alpha)


def addmm(input: Tensor, a: Tensor, b: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """`beta * input + alpha * (a @ b)`; the counterpart of `torch.sparse.addmm`.

    Args:
        input: strided, broadcastable to (M, N). Never read where beta == 0.
        a, b: as in `mm`, one of them sparse and one strided. Never read where alpha == 0.

    Returns:
        (M, N), strided, rounded once after the addition. Gradients are those of `mm`.

    Raises:
        TypeError: an input that is no tensor, a scalar that is no number.
        RuntimeError, NotImplementedError: those of `mm`; a sparse input, or not just one sparse matrix.
    """
    factor, weight = _number(alpha, "alpha", input), _number(beta, "beta", input)
    if isinstance(input, Tensor) and not fits_float(weight):
        input, weight = input * weight, 1
    if fits_float(factor):
        result = _native_mm((a, b, input), beta=float(weight), alpha=float(factor))
        if result is not None:
            return result
    _check_tensors(input=input)
    _check_inner(a, b)
    _check_types(a, b, casts=True)
    if is_sparse(input) or is_sparse(a) == is_sparse(b):
        raise RuntimeError(
            "addmm takes a strided input, one sparse and one strided matrix, got "
            f"{_describe(input)}, {_describe(a)} and {_describe(b)}"
        )
    _check_types(input, a, "input and a", casts=True)
    shape = (_shape(a)[0], _shape(b)[1])
    check_addend(input, "input", shape, _typed(a), "a")
    return _with_strided(a, b, input, float(weight), factor)


def _times(values: Tensor, scalar: Number, name: str) -> Tensor:
    if scalar == 1:
        return values
    product = values * scalar
    if product.dtype != values.dtype:
        raise RuntimeError(f"argument {name} must not be {scalar} for values of dtype {values.dtype}")
    return product


def _unread(t: Tensor) -> Tensor:
    """Zeros in the place of `t`, whatever it holds, with a gradient of zeros."""
    return t.masked_fill(torch.ones((), dtype=torch.bool, device=t.device), 0)


def sampled_addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """`alpha * (mat1 @ mat2)` at the entries of `input`, plus `beta * input`; as `torch.sparse.sampled_addmm`.

    Args:
        input: (M, N), CSR, CSC, coalesced COO or `myops.CSR`. Its values are never read where beta == 0.
        mat1, mat2: (M, K) and (K, N), strided, any strides. Never read where alpha == 0.

    Returns:
        The pattern and layout of `input`, 16-bit floats rounded once. Differentiable in all three, to any order.

    Raises:
        TypeError: a matrix that is no tensor, a scalar that is no number.
        RuntimeError: another layout of `input`, or shapes, dtypes or devices that do not fit.
    """
    factor, weight = _number(alpha, "alpha", mat1), _number(beta, "beta", mat1)
    if fits_float(factor) and fits_float(weight):
        result = _one_call(_native_sampled_addmm_op, (input, mat1, mat2), beta=float(weight), alpha=float(factor))
        if result is not None:
            return result
    return _sampled_addmm_in_parts(input, mat1, mat2, beta=weight, alpha=factor)


def _sampled_addmm_in_parts(input: Any, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    _check_tensors(input=input)
    if not is_sparse(input) or input.layout in (torch.sparse_bsr, torch.sparse_bsc):
        raise RuntimeError(f"input must be COO, CSR, CSC or myops.CSR, got {_describe(input)}")
    if not isinstance(input, CSR) and input.layout == torch.sparse_coo and not input.is_coalesced():
        raise RuntimeError("input must be coalesced: call input.coalesce() first")
    _check_inner(mat1, mat2, ("mat1", "mat2"))
    _check_types(mat1, mat2, "mat1 and mat2")
    _check_types(input, mat1, "input and mat1")
    parts = _parts(input, "input")
    if (parts.rows, parts.cols) != (mat1.shape[0], mat2.shape[1]):
        raise RuntimeError(
            f"input must have the shape of mat1 @ mat2, [{mat1.shape[0]}, {mat2.shape[1]}], but got {list(input.shape)}"
        )
    left, right = (mat2.mT, mat1) if parts.transposed else (mat1, mat2.mT)
    added, dtype = parts.values, parts.values.dtype
    if mat1.shape[1] == 0:
        alpha = 1  # no terms are 0, whatever alpha is
    if alpha == 0:
        left, right = _unread(left), _unread(right)
    if beta == 0 and added.requires_grad:
        added = _unread(added)
    if dtype in WIDE and dtype.is_floating_point and (alpha, beta) != (1, 0):  # rounded once
        left, right, added = left.float(), right.float(), added.float()
    values = _times(call(_sddmm, parts.crow, parts.col, left, right, *parts.ready), alpha, "alpha")
    if beta != 0 or added.requires_grad:
        values = values + _times(added, beta, "beta")
    values = to(values, dtype)
    if isinstance(input, CSR):
        return input.with_values(values)
    return _assemble(input.layout, _indices(input), values, input.shape)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """`a[i] @ b[i]` for a sparse batch and a strided one; the counterpart of `torch.bmm` with a sparse argument.

    Args:
        a: (B, M, K): 3-D COO, or batched CSR (which torch cannot multiply).
        b: (B, K, N), strided.

    Returns:
        (B, M, N), strided. One product with the block-diagonal matrix of the batch; gradients are those of `mm`.

    Raises:
        RuntimeError: other ranks or layouts, or shapes, dtypes or devices that do not fit.
    """
    coo = isinstance(a, Tensor) and a.layout is torch.sparse_coo and a.is_cpu
    if coo and (product := _one_call(_native_bmm_op, (a, b))) is not None:
        return product
    return _bmm_in_parts(a, b)


def _bmm_in_parts(a: Tensor, b: Tensor) -> Tensor:
    if not is_sparse(a) or isinstance(a, CSR) or a.layout not in (torch.sparse_coo, torch.sparse_csr):
        raise RuntimeError(f"a must be a 3-D COO or a batched CSR tensor, got {_describe(a)}")
    if a.dim() != 3 or not isinstance(b, Tensor) or b.dim() != 3 or is_sparse(b):
        raise RuntimeError(f"a and b must be 3-D, a sparse and b strided, got {_describe(a)} and {_describe(b)}")
    _check_types(a, b)
    batch, m, k = a.shape
    if b.shape[:2] != (batch, k):
        raise RuntimeError(f"b must have shape [{batch}, {k}, N], but got {list(b.shape)}")
    if a.layout == torch.sparse_coo:
        if torch.is_grad_enabled() and a.requires_grad and not a.is_coalesced():
            a = a.coalesce()
        if a.dense_dim() != 0:
            raise RuntimeError("a must have scalar entries, but it is hybrid")
        item, row, col = a._indices()  # what is outside of its own item would be inside of the next
        check_inside(row, m, "row")
        check_inside(col, k, "col")
        values, col = _values_of(a), item * k + col
        row = item * m + row
        if a.is_coalesced():
            parts = Parts(torch.ops.myops.csr_rows(row, batch * m), col, values, batch * m, batch * k)
        else:
            parts = _sorted_by_row(row, col, values, batch * m, batch * k)
    else:
        crow, col = _indices(a)
        nnz = col.shape[1]
        check_inside(col, k, "col")
        torch._assert_async(((crow[:, 0] == 0) & (crow[:, -1] == nnz)).all(), "crow must begin with 0 and end with nnz")
        if crow.dtype == torch.int32 and max(batch * k, batch * nnz, batch * m) > torch.iinfo(torch.int32).max:
            crow, col = crow.long(), col.long()
        offset = torch.arange(batch, dtype=crow.dtype, device=crow.device).view(-1, 1)
        joined = torch.cat([crow.new_zeros(1), (crow[:, 1:] + offset * nnz).reshape(-1)])
        parts = Parts(joined, (col + offset * k).reshape(-1), _values_of(a).reshape(-1), batch * m, batch * k)
    n = b.shape[2]
    return _times_dense(parts, b.reshape(batch * k, n)).view(batch, m, n)


def _native_mm_in_parts(
    a: Tensor, b: Tensor, input: Tensor | None = None, *, mean: bool = False, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    _check_inner(a, b)
    _check_types(a, b, casts=not mean)
    if mean and a.layout is torch.sparse_coo and not a.is_coalesced():
        raise RuntimeError("a must be coalesced where mean is True")
    return _with_strided(a, b, input, beta, alpha, mean)


def _spgemm_in_parts(a: Tensor, b: Tensor) -> Tensor:
    if not is_sparse(a) or not is_sparse(b):
        raise RuntimeError(f"a and b must be sparse, got {_describe(a)} and {_describe(b)}")
    product: Tensor = _mm_in_parts(a, b)
    return product


def _native_mm_flops(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    matrix, n = (a, b.shape[1]) if is_sparse(a) else (b, a.shape[0])
    return 2 * _stored_values(matrix).numel() * n


def _native_bmm_flops(a: Tensor, b: Tensor, **_: Any) -> int:
    return 2 * _stored_values(a).numel() * b.shape[2]


def _sampled_addmm_flops(input: Tensor, mat1: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _stored_values(input).numel() * mat1.shape[1]


_native_mm_op = define_front("native_mm", _native_mm_in_parts, _native_mm_flops)
_native_extremum_op = define_front("native_extremum", _extremum_in_parts, _native_mm_flops)
_native_bmm_op = define_front("native_bmm", _bmm_in_parts, _native_bmm_flops)
_native_sampled_addmm_op = define_front("native_sampled_addmm", _sampled_addmm_in_parts, _sampled_addmm_flops)
_native_spgemm_op = define_front("native_spgemm", _spgemm_in_parts, COMPONENTS["spgemm"].flops)
define_composite("sparse_mm(Tensor a, Tensor b) -> Tensor", lambda a, b: mm(a, b))
