"""The sparse suite: products with dense matrices, their gradients, and sparse products, against torch and scipy.

Classes: coo and csr (times dense, float32), csr_int64 (64-bit indices), bf16 (COO, natively the only layout that has
it), scipy (CSR, float32), addmm and sddmm (CSR), bmm (a batch of COO matrices), bsr (2048 x 2048, of dense blocks, a
tenth of them), linear (of 768 to 3072 features with a bias, whose weight is CSR with a tenth of its entries or BSR with
a tenth of its 16 x 16 blocks; the width is the number of rows of the input), csr_grad and coo_grad (both gradients, the
forward pass outside the clock), spgemm against COO, CSR (MKL) and scipy, spgemm_grad (COO), crossover (a sparse matrix
against the same one dense), pruned and pruned_bf16 (the same layer without 90 % or 98 % of its weights, against the one
with all of them).

Matrices: generated ones always; real ones where MYOPS_DATA names their folder (they are no part of the product). Bytes
are those of the gather: a row of the dense matrix for each entry, so percent of the roof is the share of the measured
read bandwidth that the gather reaches.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import myops

from . import runner, suite
from .timing import Side

HELP = "sparse products against native torch and scipy, interleaved"

WIDTHS = (1, 4, 16, 64, 256)
REAL = ("cora", "pubmed", "wiki_vote", "bcsstk16", "arrow", "p2p_gnutella31", "musae_git")
GENERATED = ("uniform", "uniform5%", "powerlaw")
DENSE_GRADIENT_BYTES = 512 << 20
"""Natively, the gradient of a COO operand goes through a dense matrix; where that is larger, the row has no peer."""

OPERATORS = {
    "addmm": "addmm", "sddmm": "sampled_addmm", "bmm": "bmm", "linear": "linear", "pruned": "linear",
    "pruned_bf16": "linear",
}  # fmt: skip

Pattern = tuple[np.ndarray, np.ndarray, int]


@dataclass(frozen=True)
class Case:
    """One comparison: a matrix by name times a dense one of `width` columns, or times itself (width 0)."""

    group: str
    matrix: str
    width: int = 0
    quick: bool = False


def _folder() -> Path | None:
    name = os.environ.get("MYOPS_DATA")
    return Path(name) / "matrices" if name else None


def matrix_names() -> list[str]:
    """Generated matrices, and the real ones that are there."""
    folder = _folder()
    return [*GENERATED, *(name for name in REAL if folder and (folder / f"{name}.npz").is_file())]


def _from_rows(lengths: np.ndarray, columns: int, rng: np.random.Generator) -> Pattern:
    """Rows of the given numbers of distinct random columns, sorted."""
    parts = [np.sort(rng.choice(columns, min(int(n), columns), replace=False)) for n in lengths]
    crow = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
    return crow, np.concatenate(parts), columns


@functools.lru_cache(maxsize=2)
def pattern(name: str) -> Pattern:
    """crow, col and the number of columns, as int64."""
    rng = np.random.default_rng(0)
    if name == "uniform":  # 5 entries a row
        return _from_rows(rng.poisson(5, 20_000), 20_000, rng)
    if name == "uniform5%":  # a pruned weight
        return _from_rows(np.full(2048, 102), 2048, rng)
    if name == "powerlaw":
        return _from_rows(np.minimum(rng.zipf(1.8, 20_000), 5000), 20_000, rng)
    folder = _folder()
    assert folder is not None
    with np.load(folder / f"{name}.npz") as z:
        return z["indptr"].astype(np.int64), z["indices"].astype(np.int64), int(z["shape"][1])


def _times_dense(group: str) -> Callable[[], Iterable[Case]]:
    def cases() -> Iterable[Case]:
        for name in matrix_names():
            for width in WIDTHS:
                yield Case(group, name, width, name in ("uniform", "powerlaw") and width in (1, 64))

    return cases


def _times_itself(group: str) -> Callable[[], Iterable[Case]]:
    def cases() -> Iterable[Case]:
        for name in matrix_names():
            slow = group == "spgemm_grad" and name == "powerlaw"  # 33 s a call natively
            if name not in ("arrow", "musae_git") and not slow:  # whose squares fill gigabytes
                yield Case(group, name, 0, name == "uniform")

    return cases


def _two_widths(group: str) -> Callable[[], Iterable[Case]]:
    """The middle widths, for products that share their kernel with another class."""

    def cases() -> Iterable[Case]:
        return (c for c in _times_dense(group)() if c.width in WIDTHS[-3:-1] or len(WIDTHS) < 3)

    return cases


def _batches() -> Iterable[Case]:
    for name in GENERATED:
        yield Case("bmm", name, 64)


def _pruned(group: str) -> Callable[[], Iterable[Case]]:
    def cases() -> Iterable[Case]:
        for percent in (90, 98):
            for rows in (1, 64, 512):
                yield Case(group, f"{percent}%", rows, rows == 64)

    return cases


def _blocks() -> Iterable[Case]:
    for size in (4, 16, 64):
        for width in WIDTHS:
            yield Case("bsr", f"{size}x{size}", width, size == 16 and width in (1, 64))


def _linear() -> Iterable[Case]:
    for layout in ("CSR", "BSR"):
        for rows in (1, 8, 64, 512):
            yield Case("linear", layout, rows, rows == 8)


def _crossover() -> Iterable[Case]:
    for percent in (0.1, 0.5, 1, 2, 5, 10, 20, 40):
        yield Case("crossover", f"{percent:g}%", 64, percent == 5)


CLASSES: dict[str, Callable[[], Iterable[Case]]] = {
    **{name: _times_dense(name) for name in ("coo", "csr", "bf16", "scipy", "csr_grad", "coo_grad")},
    **{name: _two_widths(name) for name in ("csr_int64", "addmm", "sddmm")},
    "bmm": _batches,
    "bsr": _blocks,
    "linear": _linear,
    **{name: _times_itself(name) for name in ("spgemm_coo", "spgemm_csr", "spgemm_scipy", "spgemm_grad")},
    "crossover": _crossover,
    **{name: _pruned(name) for name in ("pruned", "pruned_bf16")},
}


def select(classes: Sequence[str] = (), matrices: Sequence[str] = (), quick: bool = False) -> list[Case]:
    """Cases of the named classes (all when empty), of the named matrices."""
    cases = [case for name in classes or CLASSES for case in CLASSES[name]()]
    return [c for c in cases if (not quick or c.quick) and (not matrices or c.matrix in matrices)]


def _csr(crow: np.ndarray, col: np.ndarray, values: Tensor, columns: int, index: torch.dtype) -> Tensor:
    size = (len(crow) - 1, columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .*")  # beta, and checks that are off: both known
        return torch.sparse_csr_tensor(
            torch.from_numpy(crow).to(index), torch.from_numpy(col).to(index), values, size, check_invariants=False
        )


def _relative_error(reference: Any, output: Any) -> float:
    """max |output - reference| / max |reference|; sparse outputs are compared entry by entry."""
    if isinstance(output, tuple):  # gradients: that of the dense operand
        output = output[1]
    if isinstance(output, Tensor):
        output = output.detach().double().numpy()
    return float(np.abs(output - reference).max() / np.abs(reference).max())


def _no_error(output: Any) -> float:
    return float("nan")


def _scipy(crow: np.ndarray, col: np.ndarray, values: Tensor, columns: int) -> Any:
    import scipy.sparse  # type: ignore[import-untyped]

    data = values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
    return scipy.sparse.csr_matrix((data, col.astype(np.int32), crow.astype(np.int32)), shape=(len(crow) - 1, columns))


def _job(
    case: Case, dtype: str, shape: tuple[int, int, int], nnz: int, sides: tuple[Side | None, Side], args: Any,
    flops: float, moved: float, error: Callable[[Any], float], layout: str, notes: tuple[str, ...] = (),
) -> runner.Job:  # fmt: skip
    m, k, n = shape
    width = f" x{n}" if n else ""
    labels = {
        "suite": "sparse", "group": case.group, "op": OPERATORS.get(case.group, "spmm" if n else "spgemm"),
        "shape": f"{case.matrix}{width}",
        "dtype": dtype, "layout": layout, "route": "function", "dims": {"m": m, "k": k, "n": n, "nnz": nnz},
    }  # fmt: skip
    return runner.Job(labels, sides[0], sides[1], [args], flops, moved, error, notes)


def build_dense_job(case: Case) -> runner.Job:
    """A sparse matrix times a dense one."""
    crow, col, columns = pattern(case.matrix)
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if case.group == "bf16" else torch.float32
    values = torch.randn(len(col), generator=generator).to(dtype)
    x = torch.randn(columns, case.width, generator=generator).to(dtype)
    m, nnz, n = len(crow) - 1, len(col), case.width
    coo = case.group in ("coo", "bf16", "coo_grad")
    index = torch.int64 if coo or case.group == "csr_int64" else torch.int32
    a = _csr(crow, col, values, columns, index)
    moved = nnz * (n * dtype.itemsize + index.itemsize + dtype.itemsize) + m * n * dtype.itemsize
    flops, label, shape = 2 * nnz * n, "CSR", (m, columns, n)
    if coo:
        a, label = a.to_sparse_coo().coalesce(), "COO"
    native: Side | None = Side(torch.sparse.mm)
    ours, args = Side(myops.sparse.mm), (a, x)
    reference = _scipy(crow, col, values, columns).astype(np.float64) @ x.double().numpy()
    name = str(dtype).removeprefix("torch.")
    notes: tuple[str, ...] = ()
    if case.group == "scipy":
        matrix, array = _scipy(crow, col, values, columns), x.numpy()
        native = Side(lambda a, x: matrix @ array)
    if case.group == "addmm":
        added = torch.randn(m, n, generator=generator)
        native = Side(lambda a, x: torch.addmm(added, a, x))
        ours = Side(lambda a, x: myops.sparse.addmm(added, a, x))
        reference = reference + added.double().numpy()
    if case.group.endswith("_grad"):
        a, x = a.requires_grad_(), x.requires_grad_()
        outer = torch.randn(m, n, generator=generator)
        reference = _scipy(crow, col, values, columns).astype(np.float64).T @ outer.double().numpy()

        def backward_of(product: Callable[..., Tensor]) -> Side:
            y = product(a, x)
            return Side(lambda a, x: torch.autograd.grad(y, (a, x), outer, retain_graph=True))

        dense_bytes = m * columns * 4
        skip = case.group == "coo_grad" and dense_bytes > DENSE_GRADIENT_BYTES
        notes = (f"native would form a dense gradient of {dense_bytes / 1e9:.1f} GB",) if skip else ()
        native, ours = None if skip else backward_of(torch.sparse.mm), backward_of(myops.sparse.mm)
        flops, moved = 2 * flops, 2 * moved
    return _job(case, name, shape, nnz, (native, ours), args, flops, moved,
                functools.partial(_relative_error, reference), label, notes)  # fmt: skip


def build_sampled_job(case: Case) -> runner.Job:
    """The entries of a pattern of a product of two dense matrices, the second one transposed, as attention has them."""
    crow, col, columns = pattern(case.matrix)
    generator = torch.Generator().manual_seed(0)
    m, nnz, n = len(crow) - 1, len(col), case.width
    a = _csr(crow, col, torch.ones(nnz), columns, torch.int32)
    x, y = torch.randn(m, n, generator=generator), torch.randn(columns, n, generator=generator)
    rows = torch.from_numpy(np.repeat(np.arange(m), np.diff(crow)))
    reference = (x.double()[rows] * y.double()[torch.from_numpy(col)]).sum(1).numpy()
    native = Side(lambda a, x, y: torch.sparse.sampled_addmm(a, x, y.mT, beta=0))
    ours = Side(lambda a, x, y: myops.sparse.sampled_addmm(a, x, y.mT, beta=0))
    return _job(case, "float32", (m, columns, n), nnz, (native, ours), (a, x, y), 2 * nnz * n, nnz * (4 * n + 8),
                lambda out: _relative_error(reference, out.values()), "CSR")  # fmt: skip


def build_batch_job(case: Case) -> runner.Job:
    """Four sparse matrices times four dense ones."""
    crow, col, columns = pattern(case.matrix)
    generator = torch.Generator().manual_seed(0)
    m, n, batch = len(crow) - 1, case.width, 4
    entry = np.stack([np.repeat(np.arange(m), np.diff(crow)), col])
    indices = np.concatenate([np.insert(entry, 0, item, axis=0) for item in range(batch)], axis=1)
    nnz = indices.shape[1]
    values = torch.randn(nnz, generator=generator)
    entries = torch.from_numpy(indices)
    a = torch.sparse_coo_tensor(entries, values, (batch, m, columns), check_invariants=False).coalesce()
    x = torch.randn(batch, columns, n, generator=generator)
    each = values.view(batch, -1)
    reference = np.stack([
        _scipy(crow, col, each[i], columns).astype(np.float64) @ x[i].double().numpy() for i in range(batch)
    ])  # fmt: skip
    sides = Side(torch.bmm), Side(myops.sparse.bmm)
    return _job(case, "float32", (batch * m, columns, n), nnz, sides, (a, x), 2 * nnz * n, nnz * (4 * n + 28),
                functools.partial(_relative_error, reference), "COO")  # fmt: skip


def build_blocks_job(case: Case) -> runner.Job:
    """A matrix of dense blocks times a dense one."""
    size, n = int(case.matrix.partition("x")[0]), 2048
    generator = torch.Generator().manual_seed(0)
    there = torch.rand(n // size, n // size, generator=generator) < 0.1
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    values = torch.randn(int(crow[-1]), size, size, generator=generator)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .*")
        a = torch.sparse_bsr_tensor(crow, there.nonzero()[:, 1], values, (n, n), check_invariants=False)
    x = torch.randn(n, case.width, generator=generator)
    reference = (a.to_dense().double() @ x.double()).numpy()
    nnz, sides = values.numel(), (Side(torch.sparse.mm), Side(myops.sparse.mm))
    moved = nnz * 4 + nnz // size * case.width * 4 + n * case.width * 4  # each block reads its rows of x once
    return _job(case, "float32", (n, n, case.width), nnz, sides, (a, x), 2 * nnz * case.width, moved,
                functools.partial(_relative_error, reference), "BSR")  # fmt: skip


def build_linear_job(case: Case) -> runner.Job:
    """A linear layer with a sparse weight."""
    outputs, inputs, rows = 3072, 768, case.width
    size = 16 if case.matrix == "BSR" else 1
    generator = torch.Generator().manual_seed(0)
    there = torch.rand(outputs // size, inputs // size, generator=generator) < 0.1
    dense = torch.randn(outputs, inputs, generator=generator) * torch.kron(there, torch.ones(size, size))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .*")
        weight = dense.to_sparse_bsr((size, size)) if size > 1 else dense.to_sparse_csr()
    x, bias = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, generator=generator)
    reference = (x.double() @ dense.double().mT + bias.double()).numpy()
    sides = Side(torch.nn.functional.linear), Side(lambda x, w, bias: myops.sparse.addmm(bias, x, w.t()))
    nnz = weight.values().numel()
    moved = nnz * 4 + nnz // size * (4 * rows + 8) + rows * (inputs + outputs) * 4
    return _job(case, "float32", (outputs, inputs, rows), nnz, sides, (x, weight, bias), 2 * nnz * rows, moved,
                functools.partial(_relative_error, reference), case.matrix)  # fmt: skip


def build_pruned_job(case: Case) -> runner.Job:
    """A linear layer with few weights left, against the same one with all of them in their places."""
    outputs, inputs, rows = 3072, 768, case.width
    dtype = torch.bfloat16 if case.group == "pruned_bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    pruned = int(float(case.matrix.rstrip("%")) / 100 * weight.numel())
    weight = torch.where(weight.abs() > weight.abs().flatten().kthvalue(pruned).values, weight, 0).to(dtype)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    sparse = myops.CSR.from_torch(weight, transpose=False)
    native = Side(lambda x: torch.nn.functional.linear(x, weight))
    ours = Side(lambda x: myops.sparse.mm(sparse, x.mT).mT)
    error = functools.partial(_relative_error, (x.double() @ weight.double().mT).numpy())
    nnz = sparse.nnz()
    return _job(case, str(dtype).removeprefix("torch."), (outputs, inputs, rows), nnz, (native, ours), (x,),
                2 * nnz * rows, nnz * (rows + 1) * dtype.itemsize + 8 * nnz, error, "CSR")  # fmt: skip


def build_square_job(case: Case) -> runner.Job:
    """A sparse matrix times itself."""
    crow, col, columns = pattern(case.matrix)
    values = torch.randn(len(col), generator=torch.Generator().manual_seed(0))
    a = _csr(crow, col, values, columns, torch.int32)
    lengths = np.diff(crow)
    flops = 2 * int(lengths[col].sum())
    m, nnz = len(crow) - 1, len(col)
    moved = flops / 2 * 8
    native, label = torch.sparse.mm, "CSR"
    if case.group in ("spgemm_coo", "spgemm_grad"):
        a, label = a.to_sparse_coo().coalesce(), "COO"
    sides = Side(native), Side(myops.sparse.mm)
    if case.group == "spgemm_scipy":
        matrix = _scipy(crow, col, values, columns)
        sides = Side(lambda a, b: matrix @ matrix), sides[1]
    if case.group == "spgemm_grad":
        a = a.requires_grad_()

        def backward_of(product: Callable[..., Tensor]) -> Side:
            y = product(a, a)
            outer = y.detach()
            return Side(lambda a, b: torch.autograd.grad(y, a, outer, retain_graph=True))

        sides = backward_of(native), backward_of(myops.sparse.mm)
        flops *= 2
    return _job(case, "float32", (m, columns, 0), nnz, sides, (a, a), flops, moved, _no_error, label)


def build_crossover_job(case: Case) -> runner.Job:
    """A 2048 x 2048 matrix of a given density against the same matrix stored dense."""
    density, n = float(case.matrix.rstrip("%")) / 100, 2048
    generator = torch.Generator().manual_seed(0)
    dense = torch.where(torch.rand(n, n, generator=generator) < density, torch.randn(n, n, generator=generator), 0)
    sparse, x = myops.CSR.from_torch(dense, transpose=False), torch.randn(n, case.width, generator=generator)
    native, ours = Side(lambda x: torch.mm(dense, x)), Side(lambda x: myops.sparse.mm(sparse, x))
    nnz = sparse.nnz()
    error = functools.partial(_relative_error, (dense.double() @ x.double()).numpy())
    moved = nnz * (case.width * 4 + 12) + n * case.width * 4
    return _job(
        case, "float32", (n, n, case.width), nnz, (native, ours), (x,), 2 * nnz * case.width, moved, error, "CSR"
    )


def build_job(case: Case) -> runner.Job:
    """Operands, callables and counts of one case."""
    builders = {
        "crossover": build_crossover_job, "sddmm": build_sampled_job, "bmm": build_batch_job, "bsr": build_blocks_job,
        "linear": build_linear_job, "pruned": build_pruned_job, "pruned_bf16": build_pruned_job,
    }  # fmt: skip
    if case.group in builders:
        return builders[case.group](case)
    return build_dense_job(case) if case.width else build_square_job(case)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the suite."""
    parser.add_argument("--quick", action="store_true", help="a few cases of every class, done within a minute")
    parser.add_argument("--classes", nargs="+", default=[], choices=sorted(CLASSES), metavar="CLASS",
                        help=f"classes to run: {', '.join(CLASSES)}")  # fmt: skip
    parser.add_argument("--matrices", nargs="+", default=[], metavar="NAME", help="for example uniform cora")
    suite.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the selected cases and print rows, then the summary; 1 when the filters leave nothing."""
    started = time.perf_counter()
    cases = select(arguments.classes, arguments.matrices, arguments.quick)
    if not cases:
        print("no case passes these filters")
        return 1
    if _folder() is None:
        print("MYOPS_DATA does not name the folder of the real matrices: generated ones only")
    limit = arguments.limit or (48.0 if arguments.quick else None)
    return suite.run_suite([functools.partial(build_job, case) for case in cases], arguments, started, limit)
