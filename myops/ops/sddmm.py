"""sddmm: a product of two dense matrices at the entries of a CSR pattern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..autograd import keep_factors
from ..calls import ops
from ..registration import BadCall, Row, Sample, register_component
from ._csr import check_matrix, check_pattern, matrices, one_by_one, rows_of
from ._gemm import bad, check_device, check_dtype, check_same_dtype, sample, tensor, total


class Sddmm(Row):
    name = "sddmm"
    tensors = 7
    autocast = False  # as torch.sparse.sampled_addmm

    def fake(
        self,
        crow: Tensor,
        col: Tensor,
        a: Tensor,
        b: Tensor,
        t_crow: Tensor | None = None,
        t_col: Tensor | None = None,
        t_perm: Tensor | None = None,
    ) -> Tensor:
        check_matrix(a, "a")
        check_matrix(b, "b")
        check_pattern(crow, "crow", col, "col")
        check_device(a, "a", crow, "crow")
        check_device(b, "b", a, "a")
        check_same_dtype(a, "a", b, "b")
        check_matrix(a, "a", crow.shape[0] - 1, "as many as crow counts")
        torch._check(
            a.shape[1] == b.shape[1],
            lambda: f"a and b must have the same number of columns, but got {a.shape[1]} and {b.shape[1]}",
        )
        check_dtype("sddmm", a, "a")
        return a.new_empty(col.shape[0])

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        crow, col, a, b, *t = flat
        ctx.columns = b.shape[0]
        keep_factors(ctx, a, b, crow, col, *t, first=2)

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        a, b, crow, col, *t = ctx.saved_tensors
        need_a, need_b = ctx.needs_input_grad[2:4]
        columns = ctx.columns
        return (
            None,
            None,
            ops.spmm(crow, col, grad, b.conj(), None, *t, columns=columns) if need_a else None,
            ops.spmm(crow, col, grad, a.conj(), None, *t, columns=columns, transpose=True) if need_b else None,
        )

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        a, b, crow, col, *t = ctx.saved_tensors
        d_a, d_b = tangents[2:4]
        terms = [
            None if d_a is None else ops.sddmm(crow, col, d_a, b, *t),
            None if d_b is None else ops.sddmm(crow, col, a, d_b, *t),
        ]
        return total(terms, a.new_zeros(col.shape))

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Tensor:
        return one_by_one(ops.sddmm, size, dims, args, kwargs)

    def flops(self, crow: Any, col: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
        return 2 * col[0] * a[1]

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for name, (m, k, n), (crow, col, _) in matrices(device, dtype):
            yield sample(name, crow, col, t(m, n), t(k, n))
        for name, (m, k, n), (crow, col, _) in list(matrices(device, dtype))[:2]:
            yield sample(f"{name} ready", crow, col, t(m, n), t(k, n), *ops.csr_transpose(crow, col, k))
            yield sample(
                f"{name} column-major", crow, col, tensor((n, m), device, dtype).mT, tensor((n, k), device, dtype).mT
            )

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        crow, col = torch.tensor([0, 1, 3], device=device), torch.tensor([1, 0, 2], device=device)
        a, b = torch.ones(2, 4, device=device), torch.ones(3, 4, device=device)
        yield bad("a must be a matrix, got 1-D tensor", crow, col, a[0], b)
        yield bad("a must have 2 rows, as many as crow counts", crow, col, b, b)
        yield bad("a and b must have the same number of columns, but got 4 and 3", crow, col, a, b[:, :3])
        yield bad("a and b must have the same dtype", crow, col, a, b.double())
        yield bad("not implemented for a of dtype bool", crow, col, a.bool(), b.bool(), exception=NotImplementedError)

    def reference(self, *args: Any, **kwargs: Any) -> Tensor:
        crow, col, a, b = args[:4]
        return (a[rows_of(crow, col)] * b[col.long()]).sum(1)


register_component(Sddmm())
