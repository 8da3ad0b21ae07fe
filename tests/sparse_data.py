"""Sparse operands for the tests: every layout of one matrix, and the real matrices where they are there.

The real ones are no part of the product: MYOPS_DATA names their folder, and tests skip without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import wide
from torch import Tensor

from myops.ops import _csr
from myops.registration import Row, Sample

LAYOUTS = ["coo", "uncoalesced", "csr", "csc", "bsr", "bsc"]


def random_dense(m: int, k: int, dtype: torch.dtype, density: float = 0.4) -> Tensor:
    values = torch.randint(1, 4, (m, k))
    made = torch.where(torch.rand(m, k) < density, values, 0)
    return (made * (1 + 2j) if dtype.is_complex else made).to(dtype)


def exact_mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in the dtype of references, on the CPU, which multiplies integers too."""
    return a.cpu().to(wide(a.dtype)) @ b.cpu().to(wide(b.dtype))


def pattern(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """crow and col of a random pattern (myops.ops._csr.pattern) on the default device."""
    return _csr.pattern(*args, device=str(torch.get_default_device()), **kwargs)


def in_layout(dense: Tensor, layout: str, index: torch.dtype = torch.int64) -> Tensor:
    """`dense` in a layout, its indices in `index` where the layout has a choice; blocks are 2 x 3."""
    return _on_cpu_in_layout(dense.cpu(), layout, index).to(dense.device)


def _on_cpu_in_layout(dense: Tensor, layout: str, index: torch.dtype) -> Tensor:
    if layout == "strided":
        return dense.clone()
    if layout in ("coo", "uncoalesced"):
        made = dense.to_sparse_coo().coalesce()
        if layout == "coo":
            return made
        order = torch.randperm(made._nnz(), device="cpu")
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


def operators_of(run: Any) -> set[str]:
    """The operators of myops that a call takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.name for event in profile.events() if event.name.startswith("myops::")}


# Samples of the operators on parts, and what they are compared with.


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def sparse_samples(
    component: Row, dtype: torch.dtype, device: str = "cpu", requires_grad: bool = False
) -> list[Sample]:
    return list(component.samples(device, dtype, requires_grad))


def widen(value: Any) -> Any:
    """For references, which are computed on the CPU."""
    return value.cpu().to(wide(value.dtype)) if isinstance(value, Tensor) else value


def on_cpu(reference: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A reference of widened operands, whose factories make tensors on the CPU, too."""
    with torch.device("cpu"):
        return reference(*map(widen, args), **kwargs)


def absolute(value: Any) -> Any:
    return value.abs() if isinstance(value, Tensor) else value


def agrees_with_reference(component: Row, sample: Sample, got: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """`got` is the result for `sample` within a rounding and the error of a sum in the accumulator's type."""
    scalars = {name: abs(x) if name in ("alpha", "beta") else x for name, x in sample.kwargs.items()}
    exact = tensors_of(on_cpu(component.reference, *sample.args, **sample.kwargs))
    with torch.device("cpu"):
        terms = tensors_of(component.reference(*map(absolute, map(widen, sample.args)), **scalars))
    for i, (x, y, z) in enumerate(zip((t.cpu() for t in got), exact, terms, strict=True)):
        assert x.shape == y.shape, (sample.name, i)
        if not (x.dtype.is_floating_point or x.dtype.is_complex):
            assert torch.equal(x, y.to(x.dtype)), (sample.name, i)
            continue
        assert x.dtype == dtype
        accumulate = torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps
        bound = torch.finfo(dtype).eps * y.abs() + 8 * accumulate * z.abs() + torch.finfo(dtype).tiny
        if component.name == "spmm_extremum":  # the largest of the absolute terms is another one
            bound = bound + 2 * torch.finfo(dtype).eps * z.abs()
        assert bool(((x.to(y.dtype) - y).abs() <= bound).all()), (sample.name, i)


BAD_PATTERNS = {
    "crow must start at 0": ([1, 2, 3], [0, 1, 2]),
    "never decrease": ([0, 4, 3], [0, 1, 2]),
    "end at 3, the number of entries": ([0, 1, 2], [0, 1, 2]),
    "col holds an index outside [0, 3)": ([0, 1, 3], [0, 1, 3]),
    "outside [0, 3)": ([0, 1, 3], [0, -1, 2]),
}


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
