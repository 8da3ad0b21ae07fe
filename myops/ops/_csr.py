"""What the rows of the sparse products share: checks in the kernels' words, batches, samples. No operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._gemm import check_device, check_dtype, check_same_dtype, name_of, tensor


def check_pattern(crow: Tensor, crow_name: str, col: Tensor, col_name: str) -> None:
    for t, name in ((crow, crow_name), (col, col_name)):
        torch._check(t.dim() == 1, lambda name=name, t=t: f"{name} must be a vector, got {t.dim()}-D tensor")
    torch._check(
        crow.dtype in (torch.int32, torch.int64),
        lambda: f"{crow_name} must have dtype int32 or int64, but got {name_of(crow.dtype)}",
    )
    check_same_dtype(crow, crow_name, col, col_name)
    torch._check(crow.shape[0] > 0, lambda: f"{crow_name} must hold at least one element, the 0 that it starts with")
    check_device(col, col_name, crow, crow_name)


def check_values(op: str, values: Tensor, name: str, crow: Tensor, crow_name: str, col: Tensor, col_name: str) -> None:
    torch._check(values.dim() == 1, lambda: f"{name} must be a vector, got {values.dim()}-D tensor")
    check_device(values, name, crow, crow_name)
    torch._check(
        values.shape[0] == col.shape[0],
        lambda: (
            f"{name} must have one element for each of the {col.shape[0]} entries of {col_name}, "
            f"but got {values.shape[0]}"
        ),
    )
    check_dtype(op, values, name)


def check_matrix(t: Tensor, name: str, rows: Any = None, of: str = "") -> None:
    torch._check(t.dim() == 2, lambda: f"{name} must be a matrix, got {t.dim()}-D tensor")
    if rows is not None:
        torch._check(t.shape[0] == rows, lambda: f"{name} must have {rows} rows, {of}, but got shape {list(t.shape)}")


def check_inside(index: Tensor, size: Any, name: str) -> None:
    """For what no kernel of ours checks. On a GPU a failure stops the grid, and nothing waits for it."""
    torch._assert_async(((index >= 0) & (index < size)).all(), f"{name} holds an index outside of [0, {size})")


def padded(args: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """`args` with None for what was left out."""
    return args + (None,) * (count - len(args))


def each_item(op: Any, size: int, dims: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The results of the items of a batch, one call each. Of no items the result of zeros, which has the shapes."""
    dims = padded(tuple(dims)[: len(args)], len(args))

    def item(i: int) -> tuple[Any, ...]:
        return tuple(
            a if d is None else a.select(d, i) if size else a.sum(d, dtype=a.dtype)
            for a, d in zip(args, dims, strict=True)
        )

    return [op(*item(i), **kwargs) for i in range(max(size, 1))]


def one_by_one(op: Any, size: int, dims: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The batch as calls in turn, for arguments that no single call takes together."""
    results = each_item(op, size, dims, args, kwargs)
    if isinstance(results[0], Tensor):
        return torch.stack(results)[:size]
    return tuple(torch.stack(each)[:size] for each in zip(*results, strict=True))


# Samples.

SHAPES = [(6, 5, 3), (7, 9, 1), (5, 8, 16), (4, 6, 33), (0, 3, 2), (3, 0, 2), (4, 5, 0), (1, 40, 7)]


def pattern(
    m: int, k: int, density: float = 0.4, index: torch.dtype = torch.int64, device: str = "cpu", repeats: bool = False
) -> tuple[Tensor, Tensor]:
    """crow and col of a random pattern; first row empty, last one full; unsorted with repeats where `repeats`."""
    crow, col = [0], []
    for i in range(m):
        keep = torch.rand(k) < (0 if i == 0 and m > 2 else 1 if i == m - 1 else density)
        row = keep.nonzero().flatten()
        if repeats and row.numel():
            row = row[torch.randint(row.numel(), (row.numel() + 1,))]
        col.append(row)
        crow.append(crow[-1] + row.numel())
    joined = torch.cat(col) if col else torch.zeros(0, dtype=torch.int64)
    return torch.tensor(crow, dtype=index, device=device), joined.to(index).to(device)


def matrices(
    device: str, dtype: torch.dtype, requires_grad: bool = False
) -> Iterator[tuple[str, tuple[int, int, int], tuple[Tensor, Tensor, Tensor]]]:
    """Name, (m, k, n) and the parts of an m x k matrix."""
    for number, (m, k, n) in enumerate(SHAPES):
        index = torch.int32 if number % 2 else torch.int64
        crow, col = pattern(m, k, 0.4, index, device, repeats=number % 3 == 2)
        values = tensor((col.numel(),), device, dtype, requires_grad)
        yield f"{m}x{k}x{n} {name_of(index)}", (m, k, n), (crow, col, values)


def dense_of(crow: Tensor, col: Tensor, values: Tensor, k: Any) -> Tensor:
    """The matrix, repeated entries added up; differentiable in `values`."""
    m = crow.shape[0] - 1
    flat = values.new_zeros(m * k).index_add(0, rows_of(crow, col) * k + col.long(), values)
    return flat.view(m, k)


def rows_of(crow: Tensor, col: Tensor) -> Tensor:
    """The row of every entry, int64."""
    # Not repeat_interleave: its size is data, which a compiled graph cannot have inside, and it trusts a given one.
    entries = torch.arange(col.shape[0], dtype=crow.dtype, device=crow.device)
    return torch.searchsorted(crow.contiguous(), entries, right=True) - 1
