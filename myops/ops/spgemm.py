"""spgemm and spgemm_backward: the product of two CSR matrices given as their parts, and its gradients.

Over the triples (i, k, j) with entries (i, k) of A, (k, j) of B and (i, j) of C, three sums are one form: C gathers
a * b, A's gradient c * b, B's gradient a * c. Hence derivatives of every order are made of these two operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..calls import ops
from ..registration import BadCall, Row, Sample, register_component
from ._csr import (
    check_pattern,
    check_values,
    dense_of,
    each_item,
    matrices,
    one_by_one,
    pattern,
    rows_of,
)
from ._gemm import bad, check_device, check_same_dtype, sample, tensor, total


def check_operands(op: str, a_crow: Tensor, a_col: Tensor, a: Tensor, b_crow: Tensor, b_col: Tensor, b: Tensor) -> None:
    check_pattern(a_crow, "a_crow", a_col, "a_col")
    check_pattern(b_crow, "b_crow", b_col, "b_col")
    check_values(op, a, "a_values", a_crow, "a_crow", a_col, "a_col")
    check_values(op, b, "b_values", b_crow, "b_crow", b_col, "b_col")
    check_same_dtype(a_crow, "a_crow", b_crow, "b_crow")
    check_device(b_crow, "b_crow", a_crow, "a_crow")
    check_same_dtype(a, "a_values", b, "b_values")


class Spgemm(Row):
    name = "spgemm"
    tensors = 6
    autocast = False  # as torch.sparse.mm of two sparse matrices
    batch_dims = (None, None, 0)

    def fake(
        self,
        a_crow: Tensor,
        a_col: Tensor,
        a: Tensor,
        b_crow: Tensor,
        b_col: Tensor,
        b: Tensor,
        columns: Any,
        *,
        coo: bool = False,
    ) -> Any:
        check_operands("spgemm", a_crow, a_col, a, b_crow, b_col, b)
        nnz = torch.library.get_ctx().new_dynamic_size()
        return torch.empty_like(a_crow), a_col.new_empty((2, nnz) if coo else (nnz,)), a.new_empty(nnz)

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        ctx.columns, ctx.coo = flat[6:]
        ctx.save_for_backward(*flat[:6], *result[:2])
        ctx.save_for_forward(*flat[:6], *result[:2])

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a_crow, a_col, a, b_crow, b_col, b, c_crow, c_col = ctx.saved_tensors
        need_a, need_b = ctx.needs_input_grad[2], ctx.needs_input_grad[5]
        grad_a, grad_b = ops.spgemm_backward(
            a_crow, a_col, a.conj(), b_crow, b_col, b.conj(), c_crow, c_col[1] if ctx.coo else c_col, grads[2],
            ctx.columns,
            need_a=need_a, need_b=need_b,
        )  # fmt: skip
        return None, None, grad_a if need_a else None, None, None, grad_b if need_b else None

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        a_crow, a_col, a, b_crow, b_col, b, _, c_col = ctx.saved_tensors
        d_a, d_b = tangents[2], tangents[5]
        terms = [
            None if x is None or y is None else ops.spgemm(a_crow, a_col, x, b_crow, b_col, y, ctx.columns)[2]
            for x, y in ((d_a, b), (a, d_b))
        ]
        return None, None, total(terms, a.new_zeros(c_col.shape[-1]))

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        if any(dims[i] is not None for i in (0, 1, 3, 4)):
            raise RuntimeError("patterns cannot be batched, whose products have entries of their own: values alone can")
        results = each_item(ops.spgemm, size, dims, args, kwargs)
        crow, col, _ = results[0]
        return crow, col, torch.stack([values for _, _, values in results])[:size]

    def flops(self, *shapes: Any, **kwargs: Any) -> int:
        return 0  # the number depends on the patterns, which shapes do not tell

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        for name, (_, k, n), parts in matrices(device, dtype, requires_grad):
            crow, col = pattern(k, n, 0.5, parts[0].dtype, device)
            yield sample(name, *parts, crow, col, tensor((col.numel(),), device, dtype, requires_grad), n)
            yield sample(
                f"{name} coo", *parts, crow, col, tensor((col.numel(),), device, dtype, requires_grad), n, coo=True
            )

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        crow, col = torch.tensor([0, 1, 2], device=device), torch.tensor([1, 0], device=device)
        v = torch.ones(2, device=device)
        yield bad("a_crow must be a vector", crow[None], col, v, crow, col, v, 2)
        yield bad("a_crow and b_crow must have the same dtype", crow, col, v, crow.int(), col.int(), v, 2)
        yield bad("a_values and b_values must have the same dtype", crow, col, v, crow, col, v.double(), 2)
        yield bad("b_values must have one element for each of the 2 entries", crow, col, v, crow, col, v[:1], 2)
        exception = NotImplementedError
        yield bad("not implemented for", crow, col, v.bool(), crow, col, v.bool(), 2, exception=exception)

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        a_crow, a_col, a, b_crow, b_col, b, n = args
        k = b_crow.shape[0] - 1
        used = dense_of(a_crow, a_col, torch.ones_like(a).abs(), k) @ dense_of(
            b_crow, b_col, torch.ones_like(b).abs(), n
        )
        product = dense_of(a_crow, a_col, a, k) @ dense_of(b_crow, b_col, b, n)
        found = used != 0
        crow = torch.cat([found.new_zeros(1, dtype=torch.int64), found.sum(1).cumsum(0)])
        indices = found.nonzero().mT.to(a_crow.dtype)
        return crow.to(a_crow.dtype), indices if kwargs.get("coo") else indices[1], product[found]


class SpgemmBackward(Row):
    name = "spgemm_backward"
    tensors = 9
    batch_dims = (0, 0)

    def fake(self, *args: Any, need_a: bool = True, need_b: bool = True) -> Any:
        a_crow, a_col, a, b_crow, b_col, b, c_crow, c_col, c, _ = args
        check_operands("spgemm_backward", a_crow, a_col, a, b_crow, b_col, b)
        check_pattern(c_crow, "c_crow", c_col, "c_col")
        check_values("spgemm_backward", c, "c_values", c_crow, "c_crow", c_col, "c_col")
        check_same_dtype(a_crow, "a_crow", c_crow, "c_crow")
        check_same_dtype(a, "a_values", c, "c_values")
        rows = a_crow.shape[0]
        torch._check(c_crow.shape[0] == rows, lambda: f"c_crow must have {rows} elements, but got {c_crow.shape[0]}")
        return a.new_empty(a_col.shape[0] if need_a else 0), a.new_empty(b_col.shape[0] if need_b else 0)

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        ctx.columns, ctx.need_a, ctx.need_b = flat[9:]
        ctx.save_for_backward(*flat[:9])
        ctx.save_for_forward(*flat[:9])

    def backward(self, ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a_crow, a_col, a, b_crow, b_col, b, c_crow, c_col, c = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        outer_a = grads[0] if ctx.need_a else torch.zeros_like(a)
        outer_b = grads[1] if ctx.need_b else torch.zeros_like(b)
        grad_a = grad_b = grad_c = None
        if wanted[2] or wanted[5]:
            grad_a, grad_b = ops.spgemm_backward(
                a_crow, a_col, outer_a, b_crow, b_col, outer_b, c_crow, c_col, c.conj(), ctx.columns
            )
        if wanted[8]:
            left = ops.spgemm(a_crow, a_col, outer_a, b_crow, b_col, b.conj(), ctx.columns)[2]
            right = ops.spgemm(a_crow, a_col, a.conj(), b_crow, b_col, outer_b, ctx.columns)[2]
            grad_c = left + right
        return None, None, grad_a, None, None, grad_b, None, None, grad_c

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        a_crow, a_col, a, b_crow, b_col, b, c_crow, c_col, c = ctx.saved_tensors

        def form(x: Tensor | None, y: Tensor | None, z: Tensor | None) -> tuple[Tensor, Tensor]:
            return ops.spgemm_backward(
                a_crow, a_col, torch.zeros_like(a) if x is None else x,
                b_crow, b_col, torch.zeros_like(b) if y is None else y,
                c_crow, c_col, torch.zeros_like(c) if z is None else z,
                ctx.columns, need_a=ctx.need_a, need_b=ctx.need_b,
            )  # fmt: skip

        of_operands, of_c = form(tangents[2], tangents[5], c), form(a, b, tangents[8])
        return of_operands[0] + of_c[0], of_operands[1] + of_c[1]

    def batch(self, size: int, dims: Any, *args: Any, **kwargs: Any) -> Any:
        return one_by_one(ops.spgemm_backward, size, dims, args, kwargs)

    def flops(self, *shapes: Any, **kwargs: Any) -> int:
        return 0  # the number depends on the patterns, which shapes do not tell

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        for entry in Spgemm().samples(device, dtype, requires_grad):
            if entry.kwargs:
                continue
            parts, n = entry.args[:6], entry.args[6]
            crow, col, _ = ops.spgemm(*(p.detach() for p in parts), n)
            grad = tensor((col.numel(),), device, dtype, requires_grad)
            yield sample(entry.name, *parts, crow, col, grad, n)
            yield sample(f"{entry.name} only a", *parts, crow, col, grad, n, need_b=False)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        crow, col = torch.tensor([0, 1, 2], device=device), torch.tensor([1, 0], device=device)
        v = torch.ones(2, device=device)
        yield bad("c_crow must have 3 elements, but got 2", crow, col, v, crow, col, v, crow[[0, 2]], col, v, 2)
        yield bad("c_values must have one element", crow, col, v, crow, col, v, crow, col, v[:1], 2)
        yield bad(
            "a_values and c_values must have the same dtype", crow, col, v, crow, col, v, crow, col, v.double(), 2
        )

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        a_crow, a_col, a, b_crow, b_col, b, c_crow, c_col, c, n = args
        k = b_crow.shape[0] - 1
        outer = dense_of(c_crow, c_col, c, n)
        grad_a = (outer @ dense_of(b_crow, b_col, b, n).mT)[rows_of(a_crow, a_col), a_col.long()]
        grad_b = (dense_of(a_crow, a_col, a, k).mT @ outer)[rows_of(b_crow, b_col), b_col.long()]
        return (
            grad_a if kwargs.get("need_a", True) else a.new_zeros(0),
            grad_b if kwargs.get("need_b", True) else a.new_zeros(0),
        )


register_component(Spgemm())
register_component(SpgemmBackward())
