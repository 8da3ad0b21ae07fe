"""The CUDA kernels of the sparse products, compiled as C++ and run on the CPU by tests/emulation.

What a pass means is said in tests/test_cuda_emulation.py. Whole numbers are compared bit for bit, in every dtype; the
memory that the kernels get is filled with huge numbers before.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from emulation.support import DTYPES, FLOATS, integers, load_library
from sparse_data import BAD_PATTERNS, agrees_with_reference, sparse_samples, tensors_of
from torch import Tensor

from myops.ops._csr import dense_of, pattern
from myops.registration import COMPONENTS, Row

COMPONENT = pytest.mark.parametrize("component", list(COMPONENTS.values()), ids=list(COMPONENTS))
INDEX = pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
KIND = pytest.mark.parametrize("kind", DTYPES, ids=str)
WIDTHS = [1, 3, 16, 33, 64, 256]
ON_KERNELS = {**os.environ, "CUDA_LAUNCH_BLOCKING": "1"}  # products say what they found, as those of the CPU do


@pytest.fixture(scope="module")
def library() -> Any:
    return load_library()


@pytest.fixture
def ops(library: Any) -> Iterator[Any]:
    """The operators, on memory that malloc fills with 0x7F: huge floats and integers."""
    mallopt, perturb = ctypes.CDLL(None).mallopt, -6
    mallopt(perturb, 0x80)
    yield torch.ops.myops_emulated
    mallopt(perturb, 0)


def whole(t: Tensor) -> Tensor:
    return t.to(torch.complex128 if t.dtype.is_complex else torch.float64 if t.dtype.is_floating_point else torch.int64)


def same(got: Any, expected: Any, name: Any = None) -> None:
    for i, (x, y) in enumerate(zip(tensors_of(got), tensors_of(expected), strict=True)):
        assert x.shape == y.shape, (name, i)
        assert x.dtype == y.dtype, (name, i)
        assert torch.equal(x, y), f"{name}, result {i}: {int((x != y).sum())} of {x.numel()} elements differ"


def values(n: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    return integers((n,), kind, seed, -2, 3) if kind != torch.uint8 else integers((n,), kind, seed, 0, 3)


def matrix(m: int, n: int, kind: torch.dtype, seed: int = 0) -> Tensor:
    return values(m * n, kind, seed).view(m, n)


def rows_of_lengths(lengths: list[int], k: int, index: torch.dtype) -> tuple[Tensor, Tensor]:
    """A pattern with rows of these lengths, columns at random."""
    crow = torch.tensor([0, *itertools.accumulate(lengths)])
    return crow.to(index), torch.randint(k, (int(crow[-1]),)).to(index)


# ---- The table -------------------------------------------------------------------------------------------------------


@COMPONENT
@KIND
def test_samples(ops: Any, component: Row, kind: torch.dtype) -> None:
    for sample in sparse_samples(component, kind):
        got = getattr(ops, component.name)(*sample.args, **sample.kwargs)
        agrees_with_reference(component, sample, tensors_of(got), kind)


@COMPONENT
def test_bad_calls(ops: Any, component: Row) -> None:
    for call in component.bad_calls("cpu"):
        with pytest.raises((RuntimeError, NotImplementedError), match=re.escape(call.words)):
            getattr(ops, component.name)(*call.sample.args, **call.sample.kwargs)


# ---- Products with dense matrices ------------------------------------------------------------------------------------

# Rows shorter and longer than what one team and one block take (kernels/cuda/sparse/rows.h), and none at all.
LENGTHS = [[3, 0, 5, 1, 0, 30, 8], [0, 1100, 2, 0, 1023, 1024], [0], [0, 0, 0], [2500]]


@INDEX
@KIND
def test_every_width_is_exact(ops: Any, kind: torch.dtype, index: torch.dtype) -> None:
    for lengths, n in itertools.product(LENGTHS, WIDTHS):
        m, k = len(lengths), 40
        crow, col = rows_of_lengths(lengths, k, index)
        v, x, y = values(col.numel(), kind, 1), matrix(k, n, kind, 2), matrix(m, n, kind, 3)
        dense = dense_of(crow, col, whole(v), k)
        same(ops.spmm(crow, col, v, x), (dense @ whole(x)).to(kind), (lengths, n))
        same(ops.spmm(crow, col, v, y, columns=k, transpose=True), (dense.mT @ whole(y)).to(kind), (lengths, n))
        expected = (2 * whole(y) - 3 * (dense @ whole(x))).to(kind)
        same(ops.spmm(crow, col, v, x, y, beta=2, alpha=-3), expected, (lengths, n))
        dots = COMPONENTS["sddmm"].reference(crow, col, whole(y), whole(x)).to(kind)
        same(ops.sddmm(crow, col, y, x), dots, (lengths, n))


@pytest.mark.parametrize("kind", [*FLOATS, torch.complex64], ids=str)
def test_mean(ops: Any, kind: torch.dtype) -> None:
    for lengths, n in itertools.product(LENGTHS, (1, 16, 33)):
        crow, col = rows_of_lengths(lengths, 40, torch.int64)
        v, x = values(col.numel(), kind, 1), matrix(40, n, kind, 2)
        sums = ops.spmm(crow, col, v, x).to(whole(v).dtype)
        if kind.itemsize == 2:  # sums beyond what the dtype holds
            sums = dense_of(crow, col, whole(v), 40) @ whole(x)
        expected = sums / crow.diff().clamp(min=1).unsqueeze(1)
        got = ops.spmm(crow, col, v, x, mean=True)
        torch.testing.assert_close(got, expected.to(kind))


# Rows that end with the steps of a team (5, a row's end among them) or one off, many empty ones, long ones anywhere.
MIXED = [
    [4] * 400, [5] * 333, [9, 0] * 150, [0] * 3000, [0] * 1500 + [700] + [0] * 1500, [79] * 20, [80] * 20,
    [1279, 0, 1280, 1281, 1], [4000, 3], [3, 0, 2] + [0] * 900 + [5, 9] + [0] * 901 + [1] * 3 + [0, 0, 0, 2],
    *(torch.tensor([0, 0, 1, 2, 5, 30, 400])[torch.randint(7, (120,))].tolist() for _ in range(4)),
]  # fmt: skip


@pytest.mark.parametrize("lengths", MIXED, ids=range(len(MIXED)))
def test_rows_that_end_anywhere(ops: Any, lengths: list[int]) -> None:
    m, k = len(lengths), 90
    crow, col = rows_of_lengths(lengths, k, torch.int32)
    v = values(col.numel(), torch.float32, 1)
    dense = dense_of(crow, col, whole(v), k)
    for n in (1, 7, 8, 20, 64, 150):
        x, y = matrix(k, n, torch.float32, 2), matrix(m, n, torch.float32, 3)
        same(ops.spmm(crow, col, v, x, y, beta=2), (dense @ whole(x) + 2 * whole(y)).float(), n)
        means = dense @ whole(x) / crow.diff().clamp(min=1).unsqueeze(1)
        torch.testing.assert_close(ops.spmm(crow, col, v, x, mean=True), means.float())
        same(ops.sddmm(crow, col, y, x), COMPONENTS["sddmm"].reference(crow, col, y, x), n)
    best = ops.spmm_extremum(crow, col, v, x[:, :20])
    same(best, COMPONENTS["spmm_extremum"].reference(crow, col, v, x[:, :20], minimum=False))


def test_chunks_that_a_block_reads_in_several_batches(ops: Any, library: Any) -> None:
    """Long rows have the largest chunks, of more entries than threads have loads under way."""
    m, k, n, row = 270, 30, 1024, 200
    plan = (ctypes.c_int64 * 5)()
    library.emulation_rows_plan(*(ctypes.c_int64(x) for x in (m, k, m * row, n, 4)), plan)
    assert plan[2] > 8 * 256
    crow, col = rows_of_lengths([row] * m, k, torch.int32)
    v, x = values(col.numel(), torch.float32, 1), matrix(k, n, torch.float32, 2)
    same(ops.spmm(crow, col, v, x), (dense_of(crow, col, whole(v), k) @ whole(x)).float())


@INDEX
@pytest.mark.parametrize("kind", [k for k in DTYPES if not k.is_complex], ids=str)
def test_extremum(ops: Any, kind: torch.dtype, index: torch.dtype) -> None:
    for lengths, n, minimum in itertools.product(LENGTHS, (1, 16, 33), (False, True)):
        crow, col = rows_of_lengths(lengths, 40, index)
        v, x = values(col.numel(), kind, 1), matrix(40, n, kind, 2)
        got = ops.spmm_extremum(crow, col, v, x, minimum=minimum)
        same(got, COMPONENTS["spmm_extremum"].reference(crow, col, v, x, minimum=minimum), (lengths, n, minimum))


def test_extremum_of_nan_ties_and_infinities(ops: Any) -> None:
    one, nan, inf = torch.ones(1300), float("nan"), float("inf")
    x = torch.tensor([[1.0, -inf, 1, 2], [nan, -inf, 3, 0], [nan, -inf, 3, 1], [5, -inf, 2, 2]])
    for repeats in (1, 325):  # a short row, and a long one whose segments meet
        crow, col = torch.tensor([0, 4 * repeats]), torch.arange(4).repeat_interleave(repeats)
        got, arg = ops.spmm_extremum(crow, col, one[: 4 * repeats], x)
        assert bool(got[0, 0].isnan())
        assert torch.equal(got[0, 1:], torch.tensor([-inf, 3, 2]))
        assert arg.tolist() == [[repeats, 0, repeats, 0]]


@KIND
def test_rows_that_are_not_packs(ops: Any, kind: torch.dtype) -> None:
    """Offsets and distances between rows that no wide access can be aligned to, and poison around every row."""
    crow, col = pattern(9, 12, 0.6)
    poison = float("nan") if kind.is_floating_point or kind.is_complex else 77
    v, a = values(col.numel(), kind, 1), matrix(9, 16, kind, 2)
    for offset, pitch in ((0, 16), (0, 17), (1, 32), (16, 48), (3, 19)):
        buffer = torch.full((12, pitch + 16), poison, dtype=kind)
        x = buffer[:, offset : offset + 16]
        x.copy_(matrix(12, 16, kind, 3))
        same(ops.spmm(crow, col, v, x), torch.ops.myops.spmm(crow, col, v, x.clone()), (offset, pitch))
        same(ops.sddmm(crow, col, a, x), torch.ops.myops.sddmm(crow, col, a, x.clone()), (offset, pitch))
    for x in (matrix(16, 12, kind, 4).mT, matrix(24, 48, kind, 5)[::2, ::3], matrix(1, 16, kind, 6).expand(12, 16)):
        same(ops.spmm(crow, col, v, x), torch.ops.myops.spmm(crow, col, v, x))


def test_nothing_is_read_that_a_zero_scalar_rules_out(ops: Any) -> None:
    crow, col = pattern(4, 5)
    v, x, nan = torch.randn(col.numel()), torch.randn(5, 6), torch.full((4, 6), float("nan"))
    same(ops.spmm(crow, col, v, x, nan, beta=0), ops.spmm(crow, col, v, x))
    same(ops.spmm(crow, col, v * float("nan"), x, torch.ones(4, 6), beta=3, alpha=0), torch.full((4, 6), 3.0))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_sums_are_float32(ops: Any, low: torch.dtype) -> None:
    crow, col = torch.tensor([0, 4096]), torch.arange(4096)
    one, x = torch.ones(4096, dtype=low), torch.ones(4096, 3, dtype=low)
    same(ops.spmm(crow, col, one, x), torch.full((1, 3), 4096, dtype=low))
    same(ops.sddmm(torch.tensor([0, 1]), torch.tensor([0]), x[:, :1].mT, x[:, :1].mT), one[:1] * 4096)
    same(ops.spgemm(crow, col, one, torch.arange(4097), torch.zeros(4096).long(), one, 1)[2], one[:1] * 4096)


@pytest.mark.parametrize(
    ("rows", "nnz", "n", "vector", "lanes", "team_steps", "tiles"),
    [
        (100_000, 2_000_000, 64, 4, 16, 65, 1),  # 64 float32: 16 lanes of 16 bytes
        (100_000, 2_000_000, 256, 4, 16, 65, 4),
        (100_000, 2_000_000, 256, 8, 16, 65, 2),  # bfloat16: twice the columns
        (100_000, 2_000_000, 16, 4, 4, 17, 1),
        (100_000, 2_000_000, 1, 1, 1, 7, 1),
        (4096, 1_600_000, 256, 4, 16, 195, 4),  # long rows: half a row to a team
        (5000, 295_000, 256, 4, 16, 61, 4),  # and here a whole one
        (1000, 100_000, 64, 4, 16, 5, 1),  # but not where that leaves too few blocks
        (1000, 5_000, 64, 4, 16, 5, 1),  # little work: a few steps a team
        (1000, 0, 33, 1, 16, 5, 3),
        (10, 10_000, 1, 1, 1, 5, 1),
    ],
)
def test_plan_of_rows(
    library: Any, rows: int, nnz: int, n: int, vector: int, lanes: int, team_steps: int, tiles: int
) -> None:
    result = (ctypes.c_int64 * 5)()
    library.emulation_rows_plan(*(ctypes.c_int64(x) for x in (rows, rows, nnz, n, vector)), result)
    steps = 256 // lanes * team_steps
    assert list(result) == [lanes, team_steps, steps, tiles, -(-(rows + nnz) // steps)]


@pytest.mark.parametrize(("vector", "size", "sum_size"), [(4, 4, 4), (8, 2, 4), (2, 8, 8), (1, 16, 16)])
def test_plan_of_dots(library: Any, vector: int, size: int, sum_size: int) -> None:
    """Every entry is in a span, and the sums of a block take little of what a multiprocessor has."""
    for rows, nnz in itertools.product((100_000, 10**8), (0, 1, 7, 100_000, 1_200_000, 2_400_000, 5_000_000, 2**31)):
        plan = (ctypes.c_int64 * 3)()
        sizes = rows, 100_000, nnz, vector, size, sum_size
        library.emulation_sddmm_plan(*(ctypes.c_int64(x) for x in sizes), plan)
        span, tile, blocks = plan
        assert blocks == max(-(-nnz // (32 * span)), min(-(-rows // 2048), 1056))  # the second: to check crow
        assert 8 <= span <= 1024 // sum_size
        assert span % 8 == 0
        assert tile == max(16 * vector, 256 // size)
        assert tile % (8 * vector) == 0


# ---- Transposes ------------------------------------------------------------------------------------------------------


@INDEX
def test_transpose_is_a_stable_sort(ops: Any, index: torch.dtype) -> None:
    shapes = [(0, 1, 0), (3, 1, 9), (1, 257, 300), (50, 7, 20_000), (700, 70_000, 9000), (5, 2**20 + 1, 100)]
    for m, k, nnz in shapes:
        crow, col = rows_of_lengths([nnz // m] * m if m else [], k, index)
        order = torch.sort(col, stable=True).indices
        rows = torch.repeat_interleave(torch.arange(m), crow.long().diff())
        counts = torch.bincount(col, minlength=k).cumsum(0)
        expected = torch.cat([torch.zeros(1, dtype=torch.int64), counts]), rows[order], order
        same(ops.csr_transpose(crow, col, k), tuple(t.to(index) for t in expected), (m, k, nnz))
        sorted_rows = torch.sort(col).values
        same(ops.csr_rows(sorted_rows, k), expected[0].to(index), (m, k, nnz))


# ---- Sparse times sparse ---------------------------------------------------------------------------------------------


def sparse_operands(lengths: list[int], k: int, n: int, kind: torch.dtype, index: torch.dtype, b_row: int) -> list[Any]:
    """A with rows of these lengths; B with b_row entries a row, columns unsorted and repeated."""
    a_crow, a_col = rows_of_lengths(lengths, k, index)
    b_crow, b_col = rows_of_lengths([b_row] * k, n, index)
    return [a_crow, a_col, values(a_col.numel(), kind, 1), b_crow, b_col, values(b_col.numel(), kind, 2), n]


@INDEX
@KIND
def test_spgemm_of_every_size(ops: Any, kind: torch.dtype, index: torch.dtype) -> None:
    """Rows with so many products that a warp, a block of each size, and the whole grid sort them."""
    for lengths, n in (([0, 1, 2, 3, 7, 0], 13), ([20, 60, 3, 100, 0], 500), ([900, 2, 1300], 70), ([1], 1)):
        args = sparse_operands(lengths, 40, n, kind, index, 9)
        same(ops.spgemm(*args), torch.ops.myops.spgemm(*args), (lengths, n))
        same(ops.spgemm(*args, coo=True), torch.ops.myops.spgemm(*args, coo=True), (lengths, n))


@INDEX
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.complex128, torch.int8], ids=str)
def test_spgemm_of_increasing_columns(ops: Any, kind: torch.dtype, index: torch.dtype) -> None:
    """Rows of B without repeated columns, short and long, up to all columns; results longer than a block has sums for."""
    g = torch.Generator().manual_seed(3)
    for lengths, k, n, density in (
        ([0, 40, 7, 1], 60, 200, 0.3),
        ([3, 90, 0], 90, 130, 1.0),
        ([100, 40, 5], 120, 3000, 0.01),
        ([30, 0, 20], 40, 9000, 0.2),
    ):
        b_crow, b_col = rows_of_lengths([0] * k, n, index)
        rows = [torch.nonzero(torch.rand(n, generator=g) < density).flatten() for _ in range(k)]
        b_crow = torch.tensor([0, *itertools.accumulate(r.numel() for r in rows)]).to(index)
        b_col = torch.cat(rows).to(index)
        a_crow, a_col = rows_of_lengths(lengths, k, index)
        args = [a_crow, a_col, values(a_col.numel(), kind, 1), b_crow, b_col, values(b_col.numel(), kind, 2), n]
        same(ops.spgemm(*args), torch.ops.myops.spgemm(*args), (lengths, n))


def test_the_order_of_sums_of_spgemm(ops: Any) -> None:
    """Four parts of a row, each in the order of its entries, then the parts in order; for any order of columns in B."""
    a_crow, a_col, a = torch.tensor([0, 50]), torch.arange(50), torch.randn(50)
    for b_row in (1, 40):  # steps over several rows of B, and within one
        b_crow, b = torch.arange(51) * b_row, torch.randn(50, b_row)
        column = torch.zeros(1) if b_row == 1 else torch.arange(b_row)
        v = ops.spgemm(a_crow, a_col, a, b_crow, column.long().repeat(50), b.flatten(), b_row)[2]
        parts = []
        for part in range(4):
            sums = torch.zeros(b_row, dtype=torch.float64)
            for e in range(50 * part // 4, 50 * (part + 1) // 4):  # in float64 a product of two float32 is exact
                sums = (sums + a[e].double() * b[e].double()).float().double()
            parts.append(sums.float())
        same(v, parts[0] + parts[1] + parts[2] + parts[3], b_row)


@INDEX
def test_spgemm_in_batches_and_with_many_columns(ops: Any, index: torch.dtype) -> None:
    """So many columns that few rows fit into one sort, or that only the sort in global memory has keys for them."""
    for n in (2**20 + 5, 2**31 - 1, *((2**50, 2**61) if index == torch.int64 else ())):
        args = sparse_operands([30, 0, 9, 1100, 4] * 4, 40, n, torch.float64, index, 9)
        crow, col, v = ops.spgemm(*args)
        sums: dict[tuple[int, int], float] = {}
        a_crow, a_col, a, b_crow, b_col, b = (t.tolist() for t in args[:6])
        for i, (begin, end) in enumerate(itertools.pairwise(a_crow)):
            for e in range(begin, end):
                for x in range(b_crow[a_col[e]], b_crow[a_col[e] + 1]):
                    sums[i, b_col[x]] = sums.get((i, b_col[x]), 0.0) + a[e] * b[x]
        keys = sorted(sums)
        rows = torch.repeat_interleave(torch.arange(crow.numel() - 1), crow.long().diff()).tolist()
        assert list(zip(rows, col.tolist(), strict=True)) == keys
        assert v.tolist() == [sums[key] for key in keys]


@INDEX
@KIND
def test_spgemm_backward_of_every_size(ops: Any, kind: torch.dtype, index: torch.dtype) -> None:
    for lengths, k, b_row in (([3, 0, 8], 6, 4), ([1500, 2, 0, 30], 12, 3), ([1, 2], 1, 1100)):
        args = sparse_operands(lengths, k, 21, kind, index, b_row)
        product = torch.ops.myops.spgemm(*args)
        for c_crow, c_col in (product[:2], rows_of_lengths([7, 0, 50, 3][: len(lengths)], 21, index)):
            c = values(c_col.numel(), kind, 4)
            for need in ((True, True), (True, False), (False, True)):
                call = (*args[:6], c_crow, c_col, c, 21)
                keywords = {"need_a": need[0], "need_b": need[1]}
                expected = COMPONENTS["spgemm_backward"].reference(*map(widen, call), **keywords)
                got = ops.spgemm_backward(*call, **keywords)
                same(got, tuple(t.to(kind) for t in expected), (lengths, need))


def widen(value: Any) -> Any:
    return whole(value) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("columns", [327_680, 327_681, 392_000, 393_216, 393_217])
def test_spgemm_around_what_a_kernel_has_without_asking(ops: Any, columns: int) -> None:
    """The bits of so many columns are 40 to 48 KB, beside which the kernel has static shared memory."""
    args = sparse_operands([0, 50, 3, 1], 40, columns, torch.float32, torch.int32, 9)
    same(ops.spgemm(*args), torch.ops.myops.spgemm(*args))


def test_spgemm_on_little_shared_memory(ops: Any, library: Any) -> None:
    """The largest rows that a block sorts depend on the device; the result does not."""
    args = sparse_operands([500, 200, 100, 30], 40, 300, torch.complex128, torch.int32, 9)
    results = []
    try:
        for limit in (227 * 1024, 99 * 1024, 48 * 1024):
            library.emulation_shared_memory(limit)
            results.append(ops.spgemm(*args))
    finally:
        library.emulation_shared_memory(227 * 1024)
    for other in results[1:]:
        same(other, results[0])


# ---- The same bits in every run --------------------------------------------------------------------------------------


def test_bits_do_not_depend_on_the_schedule(ops: Any, library: Any) -> None:
    crow, col = rows_of_lengths([0, 1200, 30, 4, 1500], 50, torch.int32)
    v, x, y = torch.randn(col.numel()), torch.randn(50, 20), torch.randn(5, 20)
    t_crow, t_col, t_perm = ops.csr_transpose(crow, col, 50)
    product = ops.spgemm(crow, col, v, t_crow, t_col, v[t_perm.long()], 5)
    results = []
    for seed in range(10):
        library.emulation_seed(ctypes.c_uint64(seed))
        results.append([
            ops.spmm(crow, col, v, x), ops.spmm(crow, col, v, x[:, :1]), ops.spmm(crow, col, v, y, columns=50, transpose=True),
            *ops.spmm_extremum(crow, col, v, x), ops.sddmm(crow, col, y, x), *ops.csr_transpose(crow, col, 50),
            *ops.spgemm(crow, col, v, t_crow, t_col, v[t_perm.long()], 5),
            *ops.spgemm_backward(crow, col, v, t_crow, t_col, v, *product, 5),
        ])  # fmt: skip
    for other in results[1:]:
        same(tuple(other), tuple(results[0]))


# ---- Bad patterns ----------------------------------------------------------------------------------------------------


def calls_with(ops: Any, crow: Tensor, col: Tensor, v: Tensor) -> dict[str, Any]:
    good = torch.tensor([0, 1, 2, 3], dtype=crow.dtype), torch.tensor([0, 1, 2], dtype=crow.dtype), torch.ones(3)
    return {
        "spmm": lambda: ops.spmm(crow, col, v, torch.ones(3, 4)),
        "spmm of one column": lambda: ops.spmm(crow, col, v, torch.ones(3, 1)),
        "transposed": lambda: ops.spmm(crow, col, v, torch.ones(crow.numel() - 1, 4), columns=3, transpose=True),
        "spmm_extremum": lambda: ops.spmm_extremum(crow, col, v, torch.ones(3, 4)),
        "sddmm": lambda: ops.sddmm(crow, col, torch.ones(crow.numel() - 1, 4), torch.ones(3, 4)),
        "csr_transpose": lambda: ops.csr_transpose(crow, col, 3),
        "spgemm": lambda: ops.spgemm(crow, col, v, *good, 3),
        "spgemm, second": lambda: ops.spgemm(*good[:2], good[2], torch.cat([crow, crow[-1:]]), col, v, 3),
        "spgemm_backward": lambda: ops.spgemm_backward(*good, *good, torch.cat([crow, crow[-1:]]), col, v, 3),
    }


@INDEX
@pytest.mark.parametrize("words", list(BAD_PATTERNS))
def test_bad_patterns(ops: Any, monkeypatch: pytest.MonkeyPatch, words: str, index: torch.dtype) -> None:
    """Found by what waits for its results; by products where torch's errors come at the call, else they stop the grid."""
    crow, col = (torch.tensor(t, dtype=index) for t in BAD_PATTERNS[words])
    kind = "col" if "outside" in words else "crow"
    for name, call in calls_with(ops, crow, col, torch.ones(3)).items():
        monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
        waits = name in ("csr_transpose", "transposed") or name.startswith("spgemm")
        with pytest.raises(
            RuntimeError, match=f"{kind}.* (holds an index outside|must start at 0)" if waits else "__trap"
        ):
            call()
        monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
        with pytest.raises(RuntimeError, match=f"{kind}.* (holds an index outside|must start at 0)"):
            call()


def test_bad_patterns_of_long_rows(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that overlap would need more segments than there is room for."""
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    nnz = 1300
    crow = torch.tensor([0, nnz, 0, nnz, 0, nnz, 0, nnz])
    with pytest.raises(RuntimeError, match="crow must start at 0"):
        ops.spmm(crow, torch.zeros(nnz).long(), torch.ones(nnz), torch.ones(1, 4))
    col = torch.zeros(nnz).long()
    col[1299] = 1
    with pytest.raises(RuntimeError, match="outside"):
        ops.spmm(torch.tensor([0, nnz]), col, torch.ones(nnz), torch.ones(1, 4))


def test_mean_of_large_sums(ops: Any) -> None:
    n = 40_000
    for columns in (1, 16):
        x = torch.full((1, columns), 255, dtype=torch.uint8)
        crow, col, v = torch.tensor([0, n]), torch.zeros(n).long(), torch.full((n,), 255, dtype=torch.uint8)
        assert ops.spmm(crow, col, v, x, mean=True).tolist() == [[255 * 255 % 256] * columns]


def test_bad_rows_and_permutations(ops: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_rows = {"row must be sorted": [[1, 0]], "outside": [[0, 3], [-1, 2]]}
    for bad in itertools.chain(*bad_rows.values()):
        with pytest.raises(RuntimeError, match="__trap"):
            ops.csr_rows(torch.tensor(bad), 3)
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    for words, rows in bad_rows.items():
        for bad in rows:
            with pytest.raises(RuntimeError, match=words):
                ops.csr_rows(torch.tensor(bad), 3)
    crow, col = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 2])
    t_crow, t_col, _ = ops.csr_transpose(crow, col, 3)
    for bad in ([0, 1, 3], [0, 1, -1]):
        t = t_crow, t_col, torch.tensor(bad)
        with pytest.raises(RuntimeError, match="outside"):
            ops.spmm(crow, col, torch.ones(3), torch.ones(2, 4), None, *t, columns=3, transpose=True)
    with pytest.raises(RuntimeError, match="outside"):  # no column at all to read
        ops.spmm(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), torch.ones(0, 4))
    with pytest.raises(RuntimeError, match="crow must start at 0"):  # entries of no row
        ops.sddmm(torch.tensor([0]), torch.tensor([0]), torch.ones(0, 4), torch.ones(1, 4))
    for bad in ([0, 5], [1, 0], [0, -1, 0], [3]):  # no entries
        with pytest.raises(RuntimeError, match="crow must start at 0"):
            ops.sddmm(torch.tensor(bad), torch.tensor([]).long(), torch.ones(len(bad) - 1, 4), torch.ones(1, 4))
    assert ops.sddmm(torch.tensor([0]), torch.tensor([]).long(), torch.ones(0, 4), torch.ones(1, 4)).numel() == 0
    assert ops.sddmm(torch.zeros(9).long(), torch.tensor([]).long(), torch.ones(8, 4), torch.ones(1, 4)).numel() == 0


# ---- Everything above the kernels ------------------------------------------------------------------------------------

ABOVE = {
    "test_sparse.py": "pair or reductions or addmm or bmm or gradients or gradcheck or forward or transforms or empty "
    "or spgemm or extremum or (right and not bsc)",
    "test_sparse_csr.py": "products or training or reach or times_sparse or state or saving or conversions or errors",
    "test_sparse_ops.py": "vmap or transforms or found",
}


@pytest.mark.parametrize("file", list(ABOVE))
def test_everything_above_the_kernels(library: Any, file: str) -> None:
    """The tests of myops.sparse and myops.CSR, in a process where these kernels stand in for those of the CPU."""
    tests = Path(__file__).resolve().parent
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "emulation.stand_in", "-p", "no:cacheprovider", file]
    result = subprocess.run(
        [*command, "-k", ABOVE[file]], cwd=tests, capture_output=True, text=True, timeout=1800, env=ON_KERNELS
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]  # 5 where no test ran


# ---- Planted bugs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "barriers"), [("spmm", 3), ("sddmm", 1)])
def test_each_barrier_of_the_products_is_needed(ops: Any, library: Any, name: str, barriers: int) -> None:
    crow, col = rows_of_lengths([3, 200, 0, 7, 300, 2], 40, torch.int32)
    v, x, y = values(col.numel(), torch.float32), matrix(40, 20, torch.float32), matrix(6, 20, torch.float32)
    call = {"spmm": lambda: ops.spmm(crow, col, v, x), "sddmm": lambda: ops.sddmm(crow, col, y, x)}[name]
    expected = call()
    library.emulation_forget_calls()
    call()
    assert library.emulation_leave_out(b"barrier", -1) == barriers, "test the new barrier too, and correct the number"
    for seed, barrier in itertools.product(range(3), range(barriers)):
        library.emulation_seed(ctypes.c_uint64(seed))
        library.emulation_leave_out(b"barrier", barrier)
        try:
            found = not torch.equal(call(), expected)
        except RuntimeError:
            found = True
        finally:
            library.emulation_leave_out(b"barrier", -1)
        assert found, f"barrier {barrier} is missing, seed {seed}"


def test_each_barrier_of_the_sort_is_needed(library: Any) -> None:
    library.emulation_forget_calls()
    assert library.emulation_sort() == b""
    barriers = library.emulation_leave_out(b"barrier", -1)
    assert barriers == 11, "test the new barrier too, and correct the number"
    for seed in range(3):
        library.emulation_seed(ctypes.c_uint64(seed))
        assert library.emulation_sort() == b""
        for barrier in range(barriers):
            library.emulation_leave_out(b"barrier", barrier)
            found = library.emulation_sort()
            library.emulation_leave_out(b"barrier", -1)
            assert found != b"", f"barrier {barrier} is missing, seed {seed}"


def test_more_columns_than_kernels_count(ops: Any) -> None:
    crow, col, v = torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1)
    x = torch.ones(1, 2).expand(2**32, 2)
    for call in (
        lambda: ops.spmm(crow, col, v, x),
        lambda: ops.spmm_extremum(crow, col, v, x),
        lambda: ops.sddmm(crow, col, x[:1], x),
    ):
        with pytest.raises(RuntimeError, match="has 4294967296 columns, and CUDA kernels take at most 4294967295"):
            call()
