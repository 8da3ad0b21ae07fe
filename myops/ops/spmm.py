"""spmm, spmm_backward, csr_transpose, csr_rows: products of a CSR matrix, given as its parts, with a dense one.

`crow` (m + 1) and `col` (nnz) are int32 or int64; columns come in any order and may repeat. `t_crow`, `t_col` and
`t_perm` are the results of `csr_transpose(crow, col, columns)`, for callers that keep them; without them the transposed
product sorts the pattern on every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..autograd import keep_factors
from ..calls import ops
from ..registration import BadCall, Row, Sample, register_component, register_plain
from ._csr import check_matrix, check_pattern, check_values, dense_of, matrices, one_by_one, padded, rows_of
from ._gemm import addend_grad, bad, batched_addend, check_addend, check_device, check_same_dtype, sample, tensor, total


def transpose_fake(crow: Tensor, col: Tensor, columns: Any) -> tuple[Tensor, Tensor, Tensor]:
    check_pattern(crow, "crow", col, "col")
    return crow.new_empty(columns + 1), torch.empty_like(col), torch.empty_like(col)


def rows_fake(row: Tensor, rows: Any) -> Tensor:
    torch._check(row.dim() == 1, lambda: f"row must be a vector, got {row.dim()}-D tensor")
    return row.new_empty(rows + 1)


register_plain("csr_transpose", transpose_fake)
register_plain("csr_rows", rows_fake)


def counts(crow: Tensor, col: Tensor, t_crow: Tensor | None, columns: Any, transpose: bool) -> Tensor:
    """Entries in each row of the result's matrix, 1 at least."""
    if transpose and t_crow is None:
        t_crow = ops.csr_transpose(crow, col, columns)[0]
    return (t_crow if transpose and t_crow is not None else crow).diff().clamp(min=1)


def check_product(
    op: str, crow: Tensor, col: Tensor, values: Tensor, dense: Tensor, columns: Any, transpose: bool
) -> tuple[Any, str]:
    """Raises unless the matrix and `dense` can be multiplied. The rows of the product, as a number and in words."""
    check_matrix(dense, "dense")
    torch._check(columns is not None or not transpose, lambda: "columns must be given with transpose=True")
    check_pattern(crow, "crow", col, "col")
    check_values(op, values, "values", crow, "crow", col, "col")
    check_same_dtype(values, "values", dense, "dense")
    check_device(dense, "dense", values, "values")
    outer = crow.shape[0] - 1, "as many as crow counts"
    inner = dense.shape[0] if columns is None else columns, "as many as there are columns"
    if transpose:
        outer, inner = inner, outer
    check_matrix(dense, "dense", *inner)
    return outer


class Spmm(Row):
    name = "spmm"
    tensors = 8

    def autocast_dtype(self, device: str, **kwargs: Any) -> torch.dtype | None:
        return None if kwargs.get("mean") else super().autocast_dtype(device)  # as torch.sparse.mm with a reduction

    def fake(
        self,
        crow: Tensor,
        col: Tensor,
        values: Tensor,
        dense: Tensor,
        input: Tensor | None = None,
        t_crow: Tensor | None = None,
        t_col: Tensor | None = None,
        t_perm: Tensor | None = None,
        *,
        columns: Any = None,
        transpose: bool = False,
        mean: bool = False,
        beta: float = 1.0,
        alpha: float = 1.0,
    ) -> Tensor:
        m, _ = check_product("spmm", crow, col, values, dense, columns, transpose)
        shape = (m, dense.shape[1])
        if input is not None:
            check_same_dtype(values, "values", input, "input")
            check_addend(input, "input", shape, values, "values")
        return values.new_empty(shape)

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        crow, col, values, dense, input, t_crow, t_col, t_perm, *scalars = flat
        keep_factors(ctx, values, dense, crow, col, t_crow, t_col, t_perm, first=2)
        ctx.input_shape = None if input is None else input.shape
        columns, ctx.transpose, ctx.mean, ctx.beta, ctx.alpha = scalars
        ctx.columns = dense.shape[0] if columns is None else columns

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        values, dense, crow, col, *t = ctx.saved_tensors
        need_values, need_dense, need_input = ctx.needs_input_grad[2:5]
        outer = grad
        if ctx.mean:
            of_row = counts(crow, col, t[0], ctx.columns, ctx.transpose).unsqueeze(1)
            wide = torch.promote_types(grad.dtype, torch.float32)  # 16 bits do not hold every count
            outer = (grad / of_row.to(wide)).to(grad.dtype)
        grad_values = grad_dense = grad_input = None
        if need_values and ctx.alpha == 0:
            grad_values = grad.new_zeros(col.shape)
        elif need_values and need_dense:
            grad_values, grad_dense = ops.spmm_backward(
                crow, col, values.conj(), dense.conj(), outer, *t, columns=ctx.columns, transpose=ctx.transpose
            )
            if ctx.alpha != 1:  # not before, where 16 bits may not hold values * alpha
                grad_dense = grad_dense * ctx.alpha
        elif need_values:
            left, right = (dense.conj(), outer) if ctx.transpose else (outer, dense.conj())
            grad_values = ops.sddmm(crow, col, left, right, *t)
        if grad_values is not None and ctx.alpha not in (0, 1):
            grad_values = grad_values * ctx.alpha
        if need_dense and grad_dense is None:
            grad_dense = ops.spmm(
                crow, col, values.conj(), outer, None, *t,
                columns=ctx.columns, transpose=not ctx.transpose, alpha=ctx.alpha,
            )  # fmt: skip
        if need_input:
            grad_input = addend_grad(grad, ctx.beta, ctx.input_shape, grad.dtype)
        return None, None, grad_values, grad_dense, grad_input

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        values, dense, crow, col, *t = ctx.saved_tensors
        d_values, d_dense, d_input = tangents[2:5]
        keywords = {"columns": ctx.columns, "transpose": ctx.transpose, "mean": ctx.mean, "alpha": ctx.alpha}
        m = ctx.columns if ctx.transpose else crow.shape[0] - 1
        terms = [
            None if d_values is None else ops.spmm(crow, col, d_values, dense, None, *t, **keywords),
            None if d_dense is None else ops.spmm(crow, col, values, d_dense, None, *t, **keywords),
            None if d_input is None or ctx.beta == 0 else d_input.expand(m, dense.shape[1]) * ctx.beta,
        ]
        return total(terms, values.new_zeros((m, dense.shape[1])))

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A batch of dense matrices is one wide matrix; a batch of values is as many products."""
        crow, col, values, dense, input, *t = padded(args, 8)
        dims = padded(tuple(dims), 8)
        if any(d is not None for d in (*dims[:3], *dims[5:])):
            return one_by_one(ops.spmm, size, dims, args, kwargs)
        wide = dense.unsqueeze(1).expand(-1, size, -1) if dims[3] is None else dense.movedim(dims[3], 1)
        n = wide.shape[2]
        if kwargs.get("columns") is None and not kwargs.get("transpose"):
            kwargs = {**kwargs, "columns": wide.shape[0]}
        m = kwargs["columns"] if kwargs.get("transpose") else crow.shape[0] - 1
        if input is not None:
            input = batched_addend(input, dims[4], size, 2).expand(size, m, n).movedim(0, 1).reshape(m, size * n)
        result = ops.spmm(crow, col, values, wide.reshape(wide.shape[0], size * n), input, *t, **kwargs)
        return result.view(m, size, n).movedim(1, 0)

    def flops(self, crow: Any, col: Any, values: Any, dense: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * values[0] * dense[1]

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for number, (name, (m, k, n), parts) in enumerate(matrices(device, dtype, requires_grad)):
            crow, col, _ = parts
            yield sample(name, *parts, t(k, n))
            yield sample(f"{name} transposed", *parts, t(m, n), columns=k, transpose=True)
            ready = ops.csr_transpose(crow, col, k)
            yield sample(f"{name} ready", *parts, t(m, n), t(k, n), *ready, columns=k, transpose=True, alpha=2, beta=-1)
            shape = [(m, n), (n,), (m, 1), (), (1, n)][number % 5]
            yield sample(f"{name} input", *parts, t(k, n), t(*shape), beta=2, alpha=3)
            if dtype.is_floating_point or dtype.is_complex:
                yield sample(f"{name} mean", *parts, t(k, n), mean=True)
                yield sample(f"{name} mean transposed", *parts, t(m, n), columns=k, transpose=True, mean=True)
        name, (m, k, n), parts = next(iter(matrices(device, dtype, requires_grad)))
        yield sample("column-major", *parts, tensor((n, k), device, dtype).mT)
        yield sample("stepped", *parts, tensor((2 * k, 3 * n), device, dtype)[::2, ::3])
        yield sample("one row expanded", *parts, tensor((1, n), device, dtype).expand(k, n))
        yield sample("no addend", *parts, t(k, n), t(m, n), beta=0)
        yield sample("no product", *parts, t(k, n), t(m, n), alpha=0, beta=3)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        crow = torch.tensor([0, 1, 3], device=device)
        col = torch.tensor([1, 0, 2], device=device)
        v, x = t(3), t(3, 4)
        yield bad("crow must be a vector, got 2-D tensor", crow[None], col, v, x)
        yield bad("col must be a vector, got 2-D tensor", crow, col[None], v, x)
        yield bad("values must be a vector, got 2-D tensor", crow, col, v[None], x)
        yield bad("crow must have dtype int32 or int64, but got float32", crow.float(), col, v, x)
        yield bad("crow and col must have the same dtype, but got int64 and int32", crow, col.int(), v, x)
        yield bad("values must have one element for each of the 3 entries of col, but got 2", crow, col, v[:2], x)
        yield bad("values and dense must have the same dtype, but got float32 and float64", crow, col, v, x.double())
        yield bad("dense must be a matrix, got 1-D tensor", crow, col, v, t(3))
        yield bad("dense must have 5 rows, as many as there are columns", crow, col, v, x, columns=5)
        yield bad("dense must have 2 rows, as many as crow counts", crow, col, v, x, columns=3, transpose=True)
        yield bad("columns must be given with transpose=True", crow, col, v, t(2, 4), transpose=True)
        yield bad("input of shape [3] cannot be broadcast to the result's shape [2, 4]", crow, col, v, x, t(3))
        yield bad("values and input must have the same dtype", crow, col, v, x, t(4, dtype=torch.float64))
        exception = NotImplementedError
        yield bad("not implemented for values of dtype bool", crow, col, v.bool(), x.bool(), exception=exception)

    def reference(self, *args: Any, **kwargs: Any) -> Tensor:
        crow, col, values, dense, input, *_ = padded(args, 8)
        columns, transpose = kwargs.get("columns"), kwargs.get("transpose")
        matrix = dense_of(crow, col, values, dense.shape[0] if columns is None else columns)
        result = (matrix.mT if transpose else matrix) @ dense
        if kwargs.get("mean"):
            result = result / counts(crow, col, None, matrix.shape[1], bool(transpose)).unsqueeze(1)
        result = result * kwargs.get("alpha", 1)
        beta = kwargs.get("beta", 1)
        return result if input is None or beta == 0 else result + beta * input


class SpmmBackward(Row):
    """Both gradients of `spmm`, without conjugation: a form that is linear in each of values, dense and grad.

    With (i, c) the row and the column of entry e in the matrix that was multiplied (the transposed one with transpose):

        grad_values[e] = sum over n of grad[i, n] * dense[c, n]      grad_dense[c] = sum over e of values[e] * grad[i]
    """

    name = "spmm_backward"
    tensors = 8
    batch_dims = (0, 0)

    def fake(
        self,
        crow: Tensor,
        col: Tensor,
        values: Tensor,
        dense: Tensor,
        grad: Tensor,
        t_crow: Tensor | None = None,
        t_col: Tensor | None = None,
        t_perm: Tensor | None = None,
        *,
        columns: Any = None,
        transpose: bool = False,
    ) -> tuple[Tensor, Tensor]:
        rows = check_product("spmm_backward", crow, col, values, dense, columns, transpose)
        check_same_dtype(values, "values", grad, "grad")
        check_device(grad, "grad", values, "values")
        check_matrix(grad, "grad", *rows)
        torch._check(
            dense.shape[1] == grad.shape[1],
            lambda: (
                f"dense and grad must have the same number of columns, but got {dense.shape[1]} and {grad.shape[1]}"
            ),
        )
        return torch.empty_like(values, memory_format=torch.contiguous_format), values.new_empty(dense.shape)

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        *tensors, columns, ctx.transpose = flat
        ctx.columns = tensors[3].shape[0] if columns is None else columns
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def _both(ctx: Any, values: Tensor | None, dense: Tensor | None, grad: Tensor) -> tuple[Any, Any]:
        """The operator on other values and another dense matrix; a result that None would enter is None."""
        crow, col, _, _, _, *t = ctx.saved_tensors
        keywords = {"columns": ctx.columns, "transpose": ctx.transpose}
        if values is not None and dense is not None:
            return ops.spmm_backward(crow, col, values, dense, grad, *t, **keywords)
        if values is not None:
            keywords["transpose"] = not ctx.transpose
            return None, ops.spmm(crow, col, values, grad, None, *t, **keywords)
        if dense is not None:
            left, right = (dense, grad) if ctx.transpose else (grad, dense)
            return ops.sddmm(crow, col, left, right, *t), None
        return None, None

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        crow, col, values, dense, grad, *t = ctx.saved_tensors
        of_values, of_dense = grads
        need_values, need_dense, need_grad = ctx.needs_input_grad[2:5]
        # Linear in each operand, so these are the operator again, on the outer gradients of the other results.
        grad_values, grad_dense = self._both(
            ctx, of_values if need_dense else None, of_dense if need_values else None, grad.conj()
        )
        grad_grad = None
        if need_grad:
            keywords = {"columns": ctx.columns, "transpose": ctx.transpose}
            partial = ops.spmm(crow, col, of_values, dense.conj(), None, *t, **keywords)
            grad_grad = ops.spmm(crow, col, values.conj(), of_dense, partial, *t, **keywords)
        return None, None, grad_values, grad_dense, grad_grad

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        _, _, values, dense, grad, *_ = ctx.saved_tensors
        d_values, d_dense, d_grad = tangents[2:5]
        terms = [self._both(ctx, d_values, d_dense, grad)]
        if d_grad is not None:
            terms.append(self._both(ctx, values, dense, d_grad))
        likes = (values, dense)
        return tuple(total([term[i] for term in terms], torch.zeros_like(likes[i])) for i in range(2))

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        return one_by_one(ops.spmm_backward, size, dims, args, kwargs)

    def flops(self, crow: Any, col: Any, values: Any, dense: Any, *args: Any, **kwargs: Any) -> int:
        return 4 * values[0] * dense[1]

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for name, (m, k, n), parts in matrices(device, dtype, requires_grad):
            yield sample(name, *parts, t(k, n), t(m, n), columns=k)
            yield sample(f"{name} transposed", *parts, t(m, n), t(k, n), columns=k, transpose=True)
            if n == 33:
                ready = ops.csr_transpose(*parts[:2], k)
                yield sample(f"{name} ready", *parts, t(k, n), t(m, n), *ready)
            if n == 3:  # wide enough for one walk
                n = 512 // dtype.itemsize
                yield sample(f"{m}x{k}x{n}", *parts, t(k, n), t(m, n))
        name, (m, k, n), parts = next(iter(matrices(device, dtype, requires_grad)))
        for width in (n, 512 // dtype.itemsize + 5):
            yield sample(f"column-major {width}", *parts, tensor((width, k), device, dtype).mT,
                         tensor((width, m), device, dtype).mT)  # fmt: skip

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        crow, col = torch.tensor([0, 1, 3], device=device), torch.tensor([1, 0, 2], device=device)
        v, x, g = (torch.ones(s, device=device) for s in ((3,), (3, 4), (2, 4)))
        yield bad("crow must be a vector, got 2-D tensor", crow[None], col, v, x, g)
        yield bad("dense must be a matrix, got 1-D tensor", crow, col, v, v, g)
        yield bad("grad must be a matrix, got 1-D tensor", crow, col, v, x, v)
        yield bad("values must have one element for each of the 3 entries of col, but got 2", crow, col, v[:2], x, g)
        yield bad("dense must have 5 rows, as many as there are columns", crow, col, v, x, g, columns=5)
        yield bad("grad must have 2 rows, as many as crow counts", crow, col, v, x, x)
        yield bad("dense must have 2 rows, as many as crow counts", crow, col, v, x, x, columns=3, transpose=True)
        yield bad("columns must be given with transpose=True", crow, col, v, g, x, transpose=True)
        yield bad("the same number of columns, but got 4 and 3", crow, col, v, x, g[:, :3])
        yield bad("values and grad must have the same dtype, but got float32 and float64", crow, col, v, x, g.double())
        yield bad("values and dense must have the same dtype, but got float32 and float64", crow, col, v, x.double(), g)

    def reference(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        crow, col, values, dense, grad = args[:5]
        rows, columns = rows_of(crow, col), col.long()
        if kwargs.get("transpose", False):
            rows, columns = columns, rows
        return (
            (grad[rows] * dense[columns]).sum(1),
            torch.zeros_like(dense).index_add(0, columns, values.unsqueeze(1) * grad[rows]),
        )


register_component(Spmm())
register_component(SpmmBackward())
