"""spmm_extremum: the largest or smallest product of each row of a CSR matrix, given as its parts, with a dense one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..calls import ops
from ..registration import BadCall, Row, Sample, register_component
from ._csr import check_matrix, check_pattern, check_values, matrices, one_by_one
from ._gemm import bad, check_device, check_same_dtype, sample, tensor, total


class SpmmExtremum(Row):
    name = "spmm_extremum"
    tensors = 4
    autocast = False  # as torch.sparse.mm with a reduction
    batch_dims = (0, 0)

    def fake(
        self,
        crow: Tensor,
        col: Tensor,
        values: Tensor,
        dense: Tensor,
        *,
        minimum: bool = False,
        with_arg: bool = True,
    ) -> tuple[Tensor, Tensor]:
        check_matrix(dense, "dense")
        check_pattern(crow, "crow", col, "col")
        check_values("spmm_extremum", values, "values", crow, "crow", col, "col")
        check_same_dtype(values, "values", dense, "dense")
        check_device(dense, "dense", values, "values")
        if values.dtype.is_complex:
            raise NotImplementedError(f"myops.spmm_extremum is not implemented for values of dtype {values.dtype}")
        shape = (crow.shape[0] - 1, dense.shape[1])
        return values.new_empty(shape), crow.new_empty(shape if with_arg else (0,))

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        _, col, values, dense, _, with_arg = flat
        if not with_arg:
            raise RuntimeError("with_arg must be True where a gradient is recorded, which goes to the entries that won")
        ctx.save_for_backward(col, values, dense, result[1])
        ctx.save_for_forward(col, values, dense, result[1])

    @staticmethod
    def _winners(col: Tensor, values: Tensor, dense: Tensor, arg: Tensor) -> tuple[Tensor, ...]:
        """Which entries won (where there were any), their columns, values, and the elements of dense they met."""
        found = arg != values.shape[0]
        entry = torch.where(found, arg, 0).long()
        column = col.long()[entry]
        return found, entry, column, values[entry], dense.gather(0, column)

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        col, values, dense, arg = ctx.saved_tensors
        need_values, need_dense = ctx.needs_input_grad[2:4]
        grad_values = torch.zeros_like(values) if need_values else None
        grad_dense = torch.zeros_like(dense) if need_dense else None
        if values.shape[0] == 0:
            return None, None, grad_values, grad_dense
        found, entry, column, v, x = self._winners(col, values, dense, arg)
        sums = torch.float32 if values.dtype.itemsize == 2 else values.dtype  # 16-bit floats add up in float32
        grad = torch.where(found, grad, 0).to(sums)
        if need_values:
            terms = (grad * x).reshape(-1)
            grad_values = values.new_zeros(values.shape, dtype=sums).index_add(0, entry.reshape(-1), terms)
            grad_values = grad_values.to(values.dtype)
        if need_dense:
            zeros = dense.new_zeros(dense.shape, dtype=sums)
            grad_dense = zeros.scatter_add(0, column, grad * v).to(dense.dtype)
        return None, None, grad_values, grad_dense

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        col, values, dense, arg = ctx.saved_tensors
        d_values, d_dense = tangents[2:4]
        if values.shape[0] == 0:
            return values.new_zeros(arg.shape), None
        found, entry, column, v, x = self._winners(col, values, dense, arg)
        terms = [
            None if d_values is None else d_values[entry] * x,
            None if d_dense is None else v * d_dense.gather(0, column),
        ]
        return torch.where(found, total(terms, x), 0), None

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        crow, col, values, dense = args
        if any(d is not None for d in dims[:3]):
            return one_by_one(ops.spmm_extremum, size, dims, args, kwargs)
        wide = dense.movedim(dims[3], 1)
        m, k, n = crow.shape[0] - 1, wide.shape[0], wide.shape[2]
        result = ops.spmm_extremum(crow, col, values, wide.reshape(k, size * n), **kwargs)
        return tuple(r.view(m, size, n).movedim(1, 0) if r.dim() == 2 else r.expand(size, 0) for r in result)

    def flops(self, crow: Any, col: Any, values: Any, dense: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * values[0] * dense[1]

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        if dtype.is_complex:
            return
        for name, (_, k, n), parts in matrices(device, dtype, requires_grad):
            for minimum in (False, True):
                yield sample(f"{name} {minimum}", *parts, tensor((k, n), device, dtype, requires_grad), minimum=minimum)
        _, (_, k, n), parts = next(iter(matrices(device, dtype, requires_grad)))
        yield sample("column-major", *parts, tensor((n, k), device, dtype).mT)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        crow, col = torch.tensor([0, 1, 3], device=device), torch.tensor([1, 0, 2], device=device)
        v, x = torch.ones(3, device=device), torch.ones(3, 4, device=device)
        yield bad("dense must be a matrix, got 1-D tensor", crow, col, v, v)
        yield bad("crow and col must have the same dtype", crow.int(), col, v, x)
        yield bad("values and dense must have the same dtype", crow, col, v, x.double())
        exception = NotImplementedError
        yield bad(
            "not implemented for values of dtype",
            crow,
            col,
            v.to(torch.complex64),
            x.to(torch.complex64),
            exception=exception,
        )

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        crow, col, values, dense = args
        terms = values.unsqueeze(1) * dense[col.long()]
        rows, entries = [], []
        for begin, end in zip(crow.tolist()[:-1], crow.tolist()[1:], strict=True):
            if begin == end:
                rows.append(dense.new_zeros(dense.shape[1]))
                entries.append(torch.full((dense.shape[1],), values.shape[0]))
                continue
            part = terms[begin:end]
            best = part.min(0) if kwargs.get("minimum") else part.max(0)
            rows.append(best.values)
            entries.append((part == best.values).int().argmax(0) + begin)
        shape = (crow.shape[0] - 1, dense.shape[1])
        return (
            torch.cat([dense.new_zeros(0), *rows]).view(shape),
            torch.cat([crow.new_zeros(0), *entries]).view(shape).to(crow.dtype),
        )


register_component(SpmmExtremum())
