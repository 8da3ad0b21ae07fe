"""Sparse operands for the tests: every layout of one matrix, and the real matrices where they are there.

The real ones are no part of the product: MYOPS_DATA names their folder, and tests skip without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

LAYOUTS = ["coo", "uncoalesced", "csr", "csc", "bsr", "bsc"]


def random_dense(m: int, k: int, dtype: torch.dtype, density: float = 0.4) -> Tensor:
    values = torch.randint(1, 4, (m, k))
    made = torch.where(torch.rand(m, k) < density, values, 0)
    return (made * (1 + 2j) if dtype.is_complex else made).to(dtype)


def in_layout(dense: Tensor, layout: str, index: torch.dtype = torch.int64) -> Tensor:
    """`dense` in a layout, its indices in `index` where the layout has a choice; blocks are 2 x 3."""
    if layout == "strided":
        return dense.clone()
    if layout in ("coo", "uncoalesced"):
        made = dense.to_sparse_coo().coalesce()
        if layout == "coo":
            return made
        order = torch.randperm(made._nnz())
        indices, values = made.indices()[:, order], made.values()[order]
        twice = torch.cat([indices, indices[:, :2]], 1)  # two entries in halves: 3 v = v + 2 v
        values = torch.cat([values, 2 * values[:2]])
        values[:2] *= -1
        return torch.sparse_coo_tensor(twice, values, dense.shape)
    kinds = {"csr": torch.sparse_csr, "csc": torch.sparse_csc, "bsr": torch.sparse_bsr, "bsc": torch.sparse_bsc}
    block = (2, 3) if layout in ("bsr", "bsc") else None
    made = dense.to_sparse(layout=kinds[layout], blocksize=block)
    by_rows = layout in ("csr", "bsr")
    outer = (made.crow_indices() if by_rows else made.ccol_indices()).to(index)
    inner = (made.col_indices() if by_rows else made.row_indices()).to(index)
    return torch.sparse_compressed_tensor(outer, inner, made.values(), made.shape, layout=kinds[layout])


def pairs(layouts: list[str] | None = None) -> Iterator[tuple[str, str]]:
    names = layouts or [*LAYOUTS, "strided"]
    for a in names:
        for b in names:
            if (a, b) != ("strided", "strided"):
                yield a, b


def data_folder() -> Path:
    folder = os.environ.get("MYOPS_DATA")
    if not folder:
        pytest.skip("MYOPS_DATA does not name the folder of the real matrices, which are no part of the product")
    return Path(folder)


def real_matrix(name: str) -> Any:
    """A scipy CSR matrix by name."""
    sp = pytest.importorskip("scipy.sparse")
    path = data_folder() / "matrices" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {path.parent}")
    return sp.load_npz(path)
