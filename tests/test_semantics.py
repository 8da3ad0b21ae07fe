"""What the operators compute: every dtype, layout and rule of the contract, against references of twice the width.

Integers and integer-valued floats are compared bit for bit. Random floats may be off by one rounding of the result and
four of the sum of absolute values, in the type that sums have; one test compares the error with that of torch's own
operators.
"""

from __future__ import annotations

import itertools
import math
import threading
from fractions import Fraction
from typing import Any

import numpy
import pytest
import torch
from conftest import COMPLEX, FLOATS, INTEGERS, OTHER_LEVELS, run_on_level, wide
from torch import Tensor

import myops
from myops.ops._gemm import WIDE, layouts, tensor
from myops.registration import Operator, Sample

PUBLIC = {name: getattr(myops, name) for name in ("add", "mm", "addmm", "bmm", "baddbmm", "matmul", "linear")}
NATIVE = {
    **{name: getattr(torch, name) for name in ("add", "mm", "addmm", "bmm", "baddbmm", "matmul")},
    "linear": torch.nn.functional.linear,
}


def widen(value: Any) -> Any:
    """On the CPU: torch has no integer products on other devices."""
    return value.cpu().to(wide(value.dtype)) if isinstance(value, Tensor) else value


def whole_numbers(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> Tensor:
    """So small that every order of their sums gives the same bits."""
    return torch.randint(0 if dtype == torch.uint8 else -2, 3, shape).to(device, dtype)


def reference(row: Operator, sample: Sample) -> Tensor:
    return row.reference(*map(widen, sample.args), **sample.kwargs)


def magnitude(row: Operator, sample: Sample) -> Tensor:
    """The same sum with every term's absolute value: what rounding errors scale with."""

    def absolute(value: Any) -> Any:
        return widen(value).abs() if isinstance(value, Tensor) else value

    kwargs = {k: abs(v) if isinstance(v, (int, float, complex)) else v for k, v in sample.kwargs.items()}
    return row.reference(*map(absolute, sample.args), **kwargs)


def check(row: Operator, sample: Sample, got: Tensor) -> None:
    expected, got = reference(row, sample), got.cpu()
    assert got.shape == expected.shape, sample.name
    dtype = got.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        assert torch.equal(got, expected.to(dtype)), sample.name
        return
    accumulate = torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps
    bound = torch.finfo(dtype).eps * expected.abs() + 4 * accumulate * magnitude(row, sample) + torch.finfo(dtype).tiny
    error = (got.to(expected.dtype) - expected).abs()
    assert bool((error <= bound).all()), f"{sample.name}: error {error.max():.3g}, allowed {bound.max():.3g}"


def test_samples(row: Operator, device: str, dtype: torch.dtype) -> None:
    for sample in row.samples(device, dtype):
        got = PUBLIC[row.name](*sample.args, **sample.kwargs)
        out_dtype = next((a for a in sample.args if isinstance(a, torch.dtype)), dtype)
        assert got.dtype == out_dtype
        check(row, sample, got)
        assert torch.equal(getattr(torch.ops.myops, row.name)(*sample.args, **sample.kwargs), got), sample.name


def test_samples_strides_match_native(row: Operator, device: str) -> None:
    for sample in row.samples(device, torch.float32):
        got = PUBLIC[row.name](*sample.args, **sample.kwargs)
        if row.name == "add":
            assert got.stride() == NATIVE["add"](*sample.args, **sample.kwargs).stride(), sample.name
        else:
            assert got.is_contiguous(), sample.name


SIZES = [1, 2, 3, 5, 6, 7, 12, 13, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 129]
DEPTHS = [0, 1, 2, 3, 31, 64, 65, 200, 513, 1025]


@pytest.mark.parametrize("order", ["NN", "NT", "TN", "TT"])
def test_tile_edges(device: str, dtype: torch.dtype, order: str) -> None:
    """Every edge of tiles, panels and blocks of k, integer-valued so that the result is exact."""
    generator = torch.Generator().manual_seed(1)

    def pick(values: list[int]) -> int:
        return values[int(torch.randint(len(values), (), generator=generator))]

    left, right = (1 + 2j, 2 - 1j) if dtype.is_complex else (1, 1)
    for _ in range(40):
        m, n, k = pick(SIZES), pick(SIZES), pick(DEPTHS)
        low = 0 if dtype == torch.uint8 else -2
        a = torch.randint(low, 3, (m, k) if order[0] == "N" else (k, m), generator=generator)
        b = torch.randint(low, 3, (k, n) if order[1] == "N" else (n, k), generator=generator)
        a, b = (a if order[0] == "N" else a.mT), (b if order[1] == "N" else b.mT)
        expected = a @ b * (left * right)
        got = myops.mm(a.to(device, dtype) * left, b.to(device, dtype) * right).cpu()
        if dtype == torch.bfloat16 or dtype == torch.float16:  # 8 bits of result: the exact sum, rounded once
            assert torch.equal(got, expected.to(torch.float32).to(dtype)), (m, n, k)
        else:
            assert torch.equal(got, expected.to(dtype)), (m, n, k)


@pytest.mark.parametrize("order", ["NN", "NT", "TN", "TT"])
def test_few_rows(device: str, dtype: torch.dtype, order: str) -> None:
    """Weights as decoding meets them: wide panels of one row, groups of rows in place, and where neither fits."""
    generator = torch.Generator().manual_seed(5)
    low = 0 if dtype == torch.uint8 else -1
    for m, n, k in [(1, 257, 64), (1, 1000, 260), (1, 511, 130), (1, 83, 2052), (1, 4099, 67), (2, 129, 96),
                    (5, 300, 516), (13, 200, 130), (18, 70, 2100), (19, 77, 260), (1, 300, 0)]:  # fmt: skip
        a = torch.randint(low, 2, (m, k) if order[0] == "N" else (k, m), generator=generator)
        b = torch.randint(low, 2, (k, n) if order[1] == "N" else (n, k), generator=generator)
        c = torch.randint(low, 2, (n,), generator=generator)
        a, b = (a if order[0] == "N" else a.mT), (b if order[1] == "N" else b.mT)
        expected = a @ b
        for exact, got in (
            (expected, myops.mm(a.to(device, dtype), b.to(device, dtype))),
            (3 * expected + 2 * c, myops.addmm(*(t.to(device, dtype) for t in (c, a, b)), beta=2, alpha=3)),
        ):
            assert torch.equal(got.cpu(), exact.float().to(dtype) if dtype.itemsize == 2 else exact.to(dtype)), (
                m,
                n,
                k,
            )


@pytest.mark.parametrize("name", ["mm", "addmm", "bmm", "baddbmm", "matmul", "linear"])
def test_conjugates_are_read_in_place(name: str, device: str) -> None:
    """Nothing resolves them before the kernel: of a matrix that would be a copy."""
    a, b = (torch.randn(2, 6, 6, dtype=torch.complex64, device=device).conj() for _ in range(2))
    operands = (a, b) if "bmm" in name or name == "matmul" else (a[0], b[0])
    with torch.profiler.profile(record_shapes=True) as profile:
        PUBLIC[name](*((operands[0], *operands) if "add" in name else operands))
    copied = [e for e in profile.events() if e.name in ("aten::resolve_conj", "aten::copy_", "aten::clone")]
    assert all(math.prod(e.input_shapes[0]) <= 1 for e in copied), [(e.name, e.input_shapes) for e in copied]


@pytest.mark.parametrize("dtype_", COMPLEX)
def test_few_rows_of_conjugates(device: str, dtype_: torch.dtype) -> None:
    def whole(*shape: int) -> Tensor:
        return torch.complex(*torch.randint(-3, 4, (2, *shape)).double()).to(device, dtype_)

    for m, n, k in [(1, 70, 33), (2, 65, 64), (3, 5, 100), (4, 33, 140), (8, 131, 17), (70, 2, 66), (90, 4, 300)]:
        a, w, c = whole(m, k), whole(n, k), whole(m, n)
        far = a.mT.contiguous().mT
        for x, y, z in itertools.product((a, a.conj(), far, far.conj()), (w.mT, w.mH), (c, c.conj())):
            exact = torch.addmm(*(t.to(torch.complex128).cpu().resolve_conj() for t in (z, x, y)), beta=2, alpha=3)
            assert torch.equal(myops.addmm(z, x, y, beta=2, alpha=3).cpu(), exact.to(dtype_)), (m, n, k)


@pytest.mark.parametrize("dtype_", COMPLEX)
def test_complex_sums_of_several_chains(device: str, dtype_: torch.dtype) -> None:
    """Which wait in the result, beside it where it has gaps or is what is added, and, of few rows, go on in blocks."""

    def whole(*shape: int) -> Tensor:
        return torch.complex(*torch.randint(-3, 4, (2, *shape)).double()).to(device, dtype_)

    for m, n, k in [(7, 300, 900), (40, 70, 1000), (33, 129, 520), (2, 5, 800)]:
        a, b, c, column = whole(m, k), whole(k, n), whole(m, n), whole(m, 1)
        for x, y, z in itertools.product((a, a.conj()), (b, b.conj()), (c, c.conj(), column.expand(m, n))):
            exact = torch.addmm(*(t.to(torch.complex128).cpu().resolve_conj() for t in (z, x, y)), beta=2, alpha=3)
            gaps = torch.full((m, 2 * n), math.nan, device=device, dtype=dtype_)[:, ::2]
            own = z.resolve_conj().clone()
            for out in (torch.full_like(c, math.nan), gaps, own):
                myops.addmm(own if out is own else z, x, y, beta=2, alpha=3, out=out)
                assert torch.equal(out.cpu(), exact.to(dtype_)), (m, n, k)


# Tall tiles: one vector of columns in tiles of 12 or 16 rows, then those of what is left. Few columns: as few rows of the
# transposed problem, and weights that are turned in packing, with what is left of them.
TALL = [(64, 16, 5, 1), (95, 15, 7, 1), (97, 1, 65, 1), (127, 4, 31, 1), (17, 8, 16, 9), (31, 16, 33, 5), (12, 3, 2, 11),
        (83, 2, 1100, 1)]  # fmt: skip
FEW_COLUMNS = [(300, 2, 64, 1), (131, 4, 131, 2), (70, 8, 520, 1), (50, 12, 1030, 2), (97, 13, 70, 1), (150, 40, 700, 1),
               (90, 50, 801, 1), (43, 100, 35, 1), (21, 70, 19, 2)]  # fmt: skip


@pytest.mark.parametrize("order", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize("cases", [TALL, FEW_COLUMNS], ids=["tall", "few_columns"])
def test_tiles_at_the_edge(device: str, dtype: torch.dtype, order: str, cases: list[tuple[int, ...]]) -> None:
    """With an addend and in a batch."""
    generator = torch.Generator().manual_seed(3)
    low = 0 if dtype == torch.uint8 else -1
    for m, n, k, batch in cases:
        a = torch.randint(low, 2, (batch, m, k) if order[0] == "N" else (batch, k, m), generator=generator)
        b = torch.randint(low, 2, (batch, k, n) if order[1] == "N" else (batch, n, k), generator=generator)
        c = torch.randint(low, 2, (batch, m, n), generator=generator)
        a, b = (a if order[0] == "N" else a.mT), (b if order[1] == "N" else b.mT)
        expected = a @ b + 2 * c
        got = myops.baddbmm(c.to(device, dtype), a.to(device, dtype), b.to(device, dtype), beta=2).cpu()
        assert torch.equal(got, expected.float().to(dtype) if dtype.itemsize == 2 else expected.to(dtype)), (m, n, k)


def test_batches_of_a_few_elements(device: str, dtype: torch.dtype) -> None:
    """Items of one tile or a few, columns among them, with and without an addend, at strides and broadcast."""
    for m, n, k in itertools.product((1, 3, 6, 7, 17), (1, 2, 5, 17), (1, 3, 8, 15, 16, 17)):
        a, b = whole_numbers((7, m, k), device, dtype), whole_numbers((7, k, n), device, dtype)
        c = whole_numbers((7, m, n), device, dtype)
        product = torch.matmul(widen(a), widen(b))
        for x, y in (
            (a, b),
            (a.mT.contiguous().mT, b.mT.contiguous().mT),
            (torch.stack([a, a], -1)[..., 0], torch.stack([b, b], -1)[..., 0]),
        ):
            assert torch.equal(myops.bmm(x, y).cpu(), product.to(dtype)), (m, n, k)
            got = myops.baddbmm(c, x, y, beta=2, alpha=3)
            assert torch.equal(got.cpu(), (2 * widen(c) + 3 * product).to(dtype)), (m, n, k)
            into = torch.zeros(7, n, m, device=device).to(dtype).mT
            torch.ops.myops.bmm.out(x, y, out=into)
            assert torch.equal(into.cpu(), product.to(dtype)), (m, n, k)
        assert torch.equal(myops.bmm(a[:1].expand(7, m, k), b).cpu(), torch.matmul(widen(a[:1]), widen(b)).to(dtype))


def test_every_second_element(device: str, dtype: torch.dtype) -> None:
    """Operands as the real and imaginary parts of complex numbers lie, row- and column-major."""
    for m, n, k in [(3, 40, 70), (40, 3, 33), (37, 70, 50), (130, 150, 300)]:
        a, b = whole_numbers((m, k), device, dtype), whole_numbers((k, n), device, dtype)
        product = (widen(a) @ widen(b)).to(dtype)
        x, x_t, y, y_t = (torch.stack([t + 1, t], -1)[..., 1] for t in (a, a.mT, b, b.mT))
        for left, right in itertools.product((a, x, x_t.mT), (b, y, y_t.mT)):
            assert torch.equal(myops.mm(left, right).cpu(), product), (m, n, k, left.stride(), right.stride())


@pytest.mark.parametrize("dtype_", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_rows_of_a_that_are_kept(device: str, dtype_: torch.dtype) -> None:
    """More rows than are kept at once, several blocks of panels and of k: what is kept is of this block and this part."""
    m, n, k = (5700, 520, 400) if dtype_ == torch.float32 else (2400, 520, 2100)
    a = torch.randint(-1, 2, (k, m)).to(device, dtype_).mT
    b = torch.randint(-1, 2, (k, n)).to(device, dtype_)
    got = myops.mm(a, b, *([] if dtype_ == torch.float32 else [torch.float32]))
    assert torch.equal(got, a.float() @ b.float())


def exact_product(a: Tensor, b: Tensor) -> Any:
    """In extended precision: 64 bits of mantissa and no library of matrix products."""
    kind = numpy.clongdouble if a.is_complex() else numpy.longdouble
    return a.to(wide(a.dtype)).cpu().numpy().astype(kind) @ b.to(wide(b.dtype)).cpu().numpy().astype(kind)


@pytest.mark.parametrize("dtype_", [*FLOATS, *COMPLEX])
def test_error_no_more_than_twice_native(device: str, dtype_: torch.dtype) -> None:
    for m, n, k in [(64, 64, 64), (33, 65, 700), (5, 300, 1500), (130, 70, 2100)]:
        a, b = tensor((m, k), device, dtype_), tensor((k, n), device, dtype_)
        exact = exact_product(a, b)
        ours, native = (float(abs(f(a, b).to(wide(dtype_)).cpu().numpy() - exact).max()) for f in (myops.mm, torch.mm))
        assert ours <= 2 * native, (m, n, k, ours, native)


@pytest.mark.parametrize("shape", [(9, 37, 20), (1, 64, 300), (1, 31, 17), (6, 260, 64), (20, 2052, 70), (130, 33, 66)])
def test_integers_wrap(device: str, shape: tuple[int, int, int]) -> None:
    """Over the whole range of the dtype, the least value in whole operands among it, in every layout."""
    m, k, n = shape
    for dtype in INTEGERS:
        info = torch.iinfo(dtype)
        a, b, c = (
            torch.randint(info.min, info.max, size, dtype=torch.int64).to(dtype) for size in ((m, k), (k, n), (m, n))
        )
        least = torch.full_like(a, info.min)
        for left, right in itertools.product((a, least, a.mT.contiguous().mT), (b, b.mT.contiguous().mT)):
            exact = left.long() @ right.long()
            x, y, z = (t.to(device) for t in (left, right, c))
            expected = (3 * exact - 5 * c.long()).to(dtype)
            assert torch.equal(myops.addmm(z, x, y, beta=-5, alpha=3).cpu(), expected), dtype
            if dtype in WIDE:
                assert torch.equal(myops.mm(x, y, WIDE[dtype]).cpu(), exact.to(WIDE[dtype])), dtype


def test_huge_integer_scalars_are_exact(device: str) -> None:
    a, b, c = (torch.randint(-9, 9, shape, device=device) for shape in ((4, 5), (5, 6), (4, 6)))
    alpha, beta = 2**61 + 3, -(2**60) - 1
    expected = beta * c + alpha * (a.cpu() @ b.cpu()).to(device)
    assert torch.equal(myops.addmm(c, a, b, beta=beta, alpha=alpha), expected)
    assert torch.equal(torch.ops.myops.addmm.Scalar(c, a, b, beta=beta, alpha=alpha), expected)
    with pytest.raises(RuntimeError, match="beyond 2\\^53"):
        torch.ops.myops.addmm.default(c, a, b, beta=float(2**61), alpha=1.0)
    assert torch.equal(myops.addmm_(c.clone(), a, b, beta=beta, alpha=alpha), expected)
    assert torch.equal(myops.addmm(c, a, b, beta=beta, alpha=alpha, out=torch.empty_like(c)), expected)


@pytest.mark.parametrize("dtype_", COMPLEX)
def test_complex_scalars(device: str, dtype_: torch.dtype) -> None:
    for alpha, beta in [(2j, 1), (1 - 1j, 0.5j), (0j, 2j), (1j, 0)]:
        a, b, c = (tensor(s, device, dtype_) for s in ((4, 5), (5, 6), (4, 6)))
        expected = beta * c + alpha * (a @ b)
        torch.testing.assert_close(myops.addmm(c, a, b, beta=beta, alpha=alpha), expected)
        torch.testing.assert_close(torch.ops.myops.addmm(c, a, b, beta=beta, alpha=alpha), expected)
        torch.testing.assert_close(myops.addmm_(c.clone(), a, b, beta=beta, alpha=alpha), expected)
        torch.testing.assert_close(myops.addmm(c, a, b, beta=beta, alpha=alpha, out=torch.empty_like(c)), expected)
        a3, b3, c3 = a.expand(2, 4, 5), b.expand(2, 5, 6), c.expand(2, 4, 6)
        torch.testing.assert_close(myops.baddbmm(c3, a3, b3, beta=beta, alpha=alpha), expected.expand(2, 4, 6))
        torch.testing.assert_close(myops.add(c, a[:, :1], alpha=alpha), c + alpha * a[:, :1])


POISON = [float("nan"), float("inf")]


@pytest.mark.parametrize("dtype_", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("poison", POISON)
def test_zero_beta_never_reads_input(device: str, dtype_: torch.dtype, poison: float) -> None:
    for m, n, k in [(4, 4, 4), (20, 20, 20), (70, 130, 600), (1, 200, 300), (3, 5, 0)]:
        a, b = tensor((m, k), device, dtype_), tensor((k, n), device, dtype_)
        bad = torch.full((m, n), poison, device=device).to(dtype_)
        assert torch.equal(myops.addmm(bad, a, b, beta=0), myops.mm(a, b))
        assert torch.equal(myops.addmm_(bad.clone(), a, b, beta=0), myops.mm(a, b))
        batch = a.expand(3, m, k), b.expand(3, k, n)
        assert torch.equal(myops.baddbmm(bad, *batch, beta=0), myops.bmm(*batch))


@pytest.mark.parametrize("dtype_", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("poison", POISON)
def test_zero_alpha_never_reads_matrices(device: str, dtype_: torch.dtype, poison: float) -> None:
    for m, n, k in [(4, 4, 4), (20, 20, 20), (1, 200, 300)]:
        a = torch.full((m, k), poison, device=device).to(dtype_)
        b = torch.full((k, n), poison, device=device).to(dtype_)
        c = tensor((m, n), device, dtype_)
        assert torch.equal(myops.addmm(c, a, b, beta=2, alpha=0), 2 * c)
        assert torch.equal(myops.addmm(c, a, b, beta=0, alpha=0), torch.zeros_like(c))
        assert torch.equal(myops.baddbmm(c, a.expand(2, m, k), b.expand(2, k, n), beta=2, alpha=0)[1], 2 * c)


def test_no_depth_gives_scaled_input(device: str, dtype: torch.dtype) -> None:
    a, b = torch.empty(5, 0, device=device, dtype=dtype), torch.empty(0, 7, device=device, dtype=dtype)
    c = tensor((5, 7), device, dtype)
    assert torch.equal(myops.addmm(c, a, b, beta=3, alpha=2), (3 * c).to(dtype))
    assert torch.equal(myops.mm(a, b), torch.zeros_like(c))
    if dtype.is_floating_point:
        assert torch.equal(myops.addmm(c, a, b, beta=3, alpha=float("inf")), 3 * c)


def test_empty_results(device: str, dtype: torch.dtype) -> None:
    for m, n, batch in [(0, 4, 2), (4, 0, 2), (3, 4, 0)]:
        a, b = (torch.ones(s, device=device, dtype=dtype) for s in ((batch, m, 5), (batch, 5, n)))
        assert myops.bmm(a, b).shape == (batch, m, n)
        assert myops.baddbmm(a.new_ones(1), a, b).shape == (batch, m, n)
    assert myops.mm(a.new_ones(0, 5), a.new_ones(5, 3)).shape == (0, 3)


def test_broadcast_batches_are_not_materialised() -> None:
    """(1000, 1, 64, 8) @ (1, 1000, 8, 2): the expanded operands would take 4 GB, the result takes 512 MB."""
    resource = pytest.importorskip("resource")
    a, b = torch.randn(1000, 1, 64, 8), torch.randn(1, 1000, 8, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = myops.matmul(a, b)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700 * 1024, f"{grown // 1024} MB more for a result of 512 MB"
    torch.testing.assert_close(got[7, 11], a[7, 0] @ b[0, 11])


def test_many_batch_dimensions(device: str) -> None:
    a = tensor((2, 3, 2, 2, 3, 2, 4, 5), device, torch.float64).permute(5, 4, 0, 2, 1, 3, 6, 7)
    b = tensor((1, 3, 2, 1, 3, 2, 5, 6), device, torch.float64)
    torch.testing.assert_close(myops.matmul(a, b), torch.matmul(a, b))


def test_offsets_beyond_32_bits(device: str) -> None:
    """A view whose elements lie more than 2^31 apart, of memory that is never touched in between."""
    storage = torch.empty(2**31 + 64, dtype=torch.int8, device=device)
    step = 2**30
    a = storage.as_strided((3, 4), (step, 1))
    b = storage.as_strided((4, 3), (1, step), 16)
    values = torch.arange(1, 13, dtype=torch.int8, device=device).view(3, 4)
    a.copy_(values)
    b.copy_(values.mT)
    assert torch.equal(myops.mm(a, b).cpu(), (values.cpu().long() @ values.cpu().mT.long()).to(torch.int8))
    d = storage.as_strided((3, 3), (step, 1), 32)
    myops.mm(a, b, out=d)
    assert torch.equal(d, myops.mm(a, b))


SENTINEL = 42


def test_nothing_outside_out_is_written(device: str, dtype: torch.dtype) -> None:
    for m, n, k in [(5, 7, 3), (1, 65, 40), (13, 130, 70), (64, 64, 64), (4, 1, 50)]:
        a, b = whole_numbers((m, k), device, dtype), whole_numbers((k, n), device, dtype)
        expected = myops.mm(a, b)
        views: list[tuple[Tensor, tuple[Any, ...]]] = [
            (torch.full((m + 2, n + 3), SENTINEL, device=device, dtype=dtype), (slice(1, m + 1), slice(2, n + 2))),
            (torch.full((2 * m, 3 * n), SENTINEL, device=device, dtype=dtype), (slice(0, None, 2), slice(1, None, 3))),
        ]
        for whole, index in views:
            for transposed in (False, True):
                whole.fill_(SENTINEL)
                view = whole[index]
                if transposed:
                    # A column-major out of the same shape.
                    whole = torch.full((n + 2, m + 3), SENTINEL, device=device, dtype=dtype)
                    view = whole[1 : n + 1, 2 : m + 2].mT
                myops.mm(a, b, out=view)
                assert torch.equal(view, expected)
                view.fill_(SENTINEL)
                assert bool((whole == SENTINEL).all()), (m, n, k, transposed)


def test_poisoned_out_is_overwritten(device: str) -> None:
    for dtype in [*FLOATS, *COMPLEX]:
        for m, n, k in [(5, 7, 3), (40, 70, 0), (70, 130, 600)]:
            a, b = tensor((m, k), device, dtype), tensor((k, n), device, dtype)
            out = torch.full((m, n), float("nan"), device=device).to(dtype)
            assert torch.equal(myops.mm(a, b, out=out), myops.mm(a, b))


def test_out_that_aliases_an_input(device: str, dtype: torch.dtype) -> None:
    a, b, c = (tensor((17, 17), device, dtype) for _ in range(3))
    expected = myops.addmm(c, a, b, beta=2)
    for position in range(3):
        args = [c.clone(), a.clone(), b.clone()]
        assert torch.equal(myops.addmm(*args, beta=2, out=args[position]), expected)
        args = [c.clone(), a.clone(), b.clone()]
        assert torch.equal(myops.addmm(*args, beta=2, out=args[position].mT), expected)
    whole = tensor((18, 17), device, dtype)
    expected = myops.addmm(whole[:17], a, b)
    myops.addmm(whole[:17], a, b, out=whole[1:])  # overlaps its input by all rows but one
    assert torch.equal(whole[1:], expected)
    x = tensor((40,), device, dtype)
    expected = myops.add(x[1:], x[:-1])
    myops.add(x[1:], x[:-1], out=x[1:])
    assert torch.equal(x[1:], expected)


def test_in_place_forms(device: str, dtype: torch.dtype) -> None:
    a, b, c = (whole_numbers((3, 9, 9), device, dtype) for _ in range(3))
    expected = myops.baddbmm(c, a, b, beta=3, alpha=2)
    target = c.clone()
    assert myops.baddbmm_(target, a, b, beta=3, alpha=2) is target
    assert torch.equal(target, expected)
    target = c[0].clone().mT
    expected = myops.addmm(target, a[0], b[0])
    assert torch.equal(myops.addmm_(target, a[0], b[0]), expected)
    target = c.clone()
    assert torch.equal(myops.add_(target, a, alpha=2), myops.add(c, a, alpha=2))


def test_out_is_resized_as_in_torch(device: str) -> None:
    a, b = torch.randn(2, 3, device=device), torch.randn(3, 4, device=device)
    out = torch.empty(0, device=device)
    assert myops.mm(a, b, out=out) is out
    assert out.shape == (2, 4)
    with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
        myops.mm(a, b, out=torch.empty(5, device=device))


@pytest.mark.parametrize("dtype_", list(WIDE))
def test_wide_results(device: str, dtype_: torch.dtype) -> None:
    wide_dtype = WIDE[dtype_]
    for m, n, k in [(5, 7, 3), (1, 300, 1100), (70, 65, 2500)]:
        a, b = tensor((m, k), device, dtype_), tensor((k, n), device, dtype_)
        got = myops.mm(a, b, wide_dtype)
        assert got.dtype == wide_dtype
        exact = widen(a) @ widen(b)
        if wide_dtype == torch.int32:
            assert torch.equal(got.cpu(), exact.to(torch.int32))
        else:
            scale = widen(a).abs() @ widen(b).abs()
            assert bool(((got.cpu().double() - exact).abs() <= 4e-6 * scale).all())
        c = tensor((m, n), device, wide_dtype)
        torch.testing.assert_close(myops.addmm(c, a, b, wide_dtype, beta=2), got + 2 * c)
        torch.testing.assert_close(myops.mm(a, b, wide_dtype, out=torch.empty_like(got)), got)
        torch.testing.assert_close(myops.bmm(a[None], b[None], wide_dtype)[0], got)


def native_sum(x: Tensor, y: Any) -> Tensor:
    """Where torch 2.14 promotes to bcomplex32, which it cannot add, the sum that torch had before."""
    if torch.result_type(x, y) == getattr(torch, "bcomplex32", None):
        x, y = (v.to(torch.complex64) if isinstance(v, Tensor) else v for v in (x, y))
    return torch.add(x, y)


PROMOTED = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *FLOATS, *COMPLEX]


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), ()), ((), (3, 4)), ((), ())])
def test_add_promotes_as_torch(device: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    for x_dtype, y_dtype in itertools.product(PROMOTED, PROMOTED):
        x = torch.randint(0, 2, shapes[0], device=device).to(x_dtype)
        y = torch.randint(0, 2, shapes[1], device=device).to(y_dtype)
        if torch.result_type(x, y) == torch.complex32:
            with pytest.raises(NotImplementedError, match="complex32"):
                myops.add(x, y)
            continue
        expected = native_sum(x, y)
        got = myops.add(x, y)
        assert got.dtype == expected.dtype, (x_dtype, y_dtype)
        assert torch.equal(got, expected), (x_dtype, y_dtype)


def test_add_over_few_columns_and_crossed_dimensions(device: str, dtype: torch.dtype) -> None:
    """Short rows, an operand that runs along any other dimension, one that is a column or a row of the result."""
    for shape in [(300, 3), (5, 70, 2), (3, 40, 33), (2, 3, 35, 17), (65, 1, 34)]:
        x = whole_numbers(shape, device, dtype)
        for order in itertools.permutations(range(len(shape))):
            back = [order.index(i) for i in range(len(shape))]
            y = whole_numbers(tuple(shape[i] for i in order), device, dtype).permute(back)
            for a, b in ((x, y), (y, x), (x, y[:1]), (y[..., :1], x), (x[..., :1], y), (y[..., :1], x[:1])):
                exact = widen(a) + 3 * widen(b)
                assert torch.equal(myops.add(a, b, alpha=3).cpu(), exact.to(dtype)), (shape, order)
                out = torch.empty(exact.shape[::-1], dtype=dtype, device=device).permute(*range(len(shape))[::-1])
                assert torch.equal(myops.add(a, b, alpha=3, out=out).cpu(), exact.to(dtype)), (shape, order)


def test_windows_that_overlap(device: str, dtype: torch.dtype) -> None:
    """Rows, and items of a batch, that begin within the one before: aligned as tensor maps want them, and not."""
    for step in (8, 16, 5):
        signal = whole_numbers((5000,), device, dtype)
        rows, w = signal.unfold(0, 128, step)[:160], whole_numbers((128, 160), device, dtype)
        batch = signal.as_strided((3, 130, 128), (step, 2 * step, 1))
        for x, y in ((rows, w), (w.mT, rows.mT), (batch, w)):
            assert torch.equal(myops.matmul(x, y).cpu(), (widen(x) @ widen(y)).to(dtype)), step


@pytest.mark.parametrize("k", [1, 31, 64, 95, 96, 97, 128, 1000, 4097])
def test_inner_products(device: str, dtype: torch.dtype, k: int) -> None:
    for batch in (1, 7):
        a, b = whole_numbers((batch, 1, k), device, dtype), whole_numbers((batch, k, 1), device, dtype)
        c = whole_numbers((batch, 1, 1), device, dtype)
        spread = whole_numbers((batch, k, 2), device, dtype)[:, :, :1]
        for x, y in ((a, b), (a, spread), (spread.mT, b), (a, a.mT)):
            exact = torch.baddbmm(widen(c), widen(x), widen(y), beta=2)
            assert torch.equal(myops.baddbmm(c, x, y, beta=2).cpu(), exact.to(dtype))
            assert torch.equal(myops.matmul(x[0, 0], y[0, :, 0]).cpu(), (widen(x) @ widen(y))[0, 0, 0].to(dtype))


@pytest.mark.parametrize("order", ["NN", "NT", "TN"])
def test_short_sums(device: str, dtype: torch.dtype, order: str) -> None:
    """Of few terms, integers beyond their range: into rows, with addends that are a matrix, a row, a column or D itself."""
    generator = torch.Generator().manual_seed(5)

    def of(*shape: int) -> Tensor:
        integral = not (dtype.is_floating_point or dtype.is_complex)
        limits = (torch.iinfo(dtype).min, torch.iinfo(dtype).max) if integral and dtype.itemsize < 4 else (-2, 3)
        value = torch.randint(*limits, shape, generator=generator).to(device, dtype)
        return value * (1 + 2j) if dtype.is_complex else value

    def turned(rows: int, columns: int, way: str) -> Tensor:
        return of(rows, columns) if way == "N" else of(columns, rows).mT

    cases = [(m, n, k) for m, n, k in itertools.product((1, 5, 33, 70), (1, 3, 16, 17, 33, 140), (1, 2, 3, 15, 16, 25))]
    for m, n, k in [*cases, (50, 600, 3), (40, 1024, 2), (100, 100, 64), (100, 100, 65), (1100, 2000, 2)]:
        a, b = turned(m, k, order[0]), turned(k, n, order[1])
        if dtype.is_complex:
            a, b = (a.conj() if k % 2 else a), (b.conj() if k % 3 == 0 else b)
        product = widen(a) @ widen(b)
        assert torch.equal(myops.mm(a, b).cpu(), product.to(dtype)), (m, n, k)
        for shape in ((m, n), (n,), (m, 1), (1, 1)):
            c = of(*shape)
            c = c.conj() if dtype.is_complex and n % 2 else c
            expected = (2 * widen(c) + 3 * product).to(dtype)
            assert torch.equal(myops.addmm(c, a, b, beta=2, alpha=3).cpu(), expected), (m, n, k, shape)
            if shape == (m, n):
                assert torch.equal(myops.addmm(c, a, b, beta=2, alpha=3, out=c.resolve_conj()).cpu(), expected)


def test_add_numbers_promote_as_torch(device: str) -> None:
    for dtype, number in itertools.product(PROMOTED, [2, 2.5, 1 + 2j, True]):
        x = torch.randint(0, 2, (3, 4), device=device).to(dtype)
        if torch.result_type(x, number) == torch.complex32:
            continue
        expected = native_sum(x, number)
        got = myops.add(x, number)
        assert got.dtype == expected.dtype, (dtype, number)
        torch.testing.assert_close(got, expected)


def test_results_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    cases = [(300, 200, 700), (1, 3000, 500), (8, 2000, 900), (2000, 16, 33), (16, 16, 9000), (5, 4, 3000)]
    try:
        for (m, n, k), order in itertools.product(cases, ("NN", "NT", "TN")):
            a = tensor((m, k) if order[0] == "N" else (k, m), "cpu", dtype)
            b = tensor((k, n) if order[1] == "N" else (n, k), "cpu", dtype)
            a, b = (a if order[0] == "N" else a.mT), (b if order[1] == "N" else b.mT)
            results = []
            for threads in (1, 2, 3, 2):
                torch.set_num_threads(threads)
                results.append(myops.mm(a, b))
            assert all(torch.equal(results[0], r) for r in results[1:]), (m, n, k, order)
    finally:
        torch.set_num_threads(before)


def test_sums_do_not_depend_on_threads_or_on_their_place(dtype: torch.dtype) -> None:
    """A row has the bits of a longer one that it is the beginning of, whichever operand is one number for all of it."""
    before, alpha = torch.get_num_threads(), 3 if dtype in INTEGERS else 0.3
    long = tensor((5 * 16384 + 7,), "cpu", dtype)
    try:
        for x, y in ((long, long.flip(0)), (long, long[:1]), (long[:1], long)):
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(myops.add(x, y, alpha=alpha))
            assert all(torch.equal(results[0], r) for r in results[1:]), (len(x), len(y))
            for n in range(2, 140):
                assert torch.equal(myops.add(x[:n], y[:n], alpha=alpha), results[0][:n]), (n, len(x), len(y))
    finally:
        torch.set_num_threads(before)


def test_zeros_keep_their_sign_where_there_is_no_product(device: str) -> None:
    for dtype in FLOATS:
        c, a, b = (torch.full(s, -0.0, dtype=dtype, device=device) for s in ((2, 3), (2, 4), (4, 3)))
        assert myops.addmm(c, a[:, :0], b[:0]).signbit().all()
        assert myops.addmm(c, a, b, alpha=0).signbit().all()
        assert myops.addmm(c, a[:, :0], b[:0], alpha=math.inf).signbit().all()
        assert not myops.mm(a[:, :0], b[:0]).signbit().any()
        assert not myops.addmm(-c, a[:, :0], b[:0]).signbit().any()


def test_every_layout_pair(device: str) -> None:
    """All pairs of layouts of both operands, of an addend and of out."""
    for dtype in (torch.float32, torch.bfloat16, torch.complex64, torch.int32, torch.int8):
        lefts = list(layouts((9, 20), device, dtype))
        rights = list(layouts((20, 37), device, dtype))
        for (a_name, a), (b_name, b) in itertools.product(lefts, rights):
            expected = widen(a) @ widen(b)
            got = myops.mm(a, b).cpu()
            if not (dtype.is_floating_point or dtype.is_complex):
                assert torch.equal(got, expected.to(dtype)), (dtype, a_name, b_name)
            else:
                scale = widen(a).abs() @ widen(b).abs()
                bound = torch.finfo(dtype).eps * expected.abs() + 1e-6 * scale
                assert bool(((got.to(expected.dtype) - expected).abs() <= bound).all()), (dtype, a_name, b_name)


@pytest.mark.parametrize("dtype_", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("alpha", [1, -0.5, 0, float("inf"), float("nan")])
def test_add_of_every_16_bit_float(alpha: float, dtype_: torch.dtype, device: str) -> None:
    """Infinities, NaNs of every payload and subnormals among them, against each other and against one number."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=device).view(dtype_)
    terms = [every.roll(shift) for shift in (1, 127, 2**14 + 3, 2**15 + 1)] + [
        every[i : i + 1] for i in range(0, 2**16, 4099)
    ]
    for y in terms:
        expected = torch.add(every.float(), y.float(), alpha=alpha).to(dtype_)
        got = myops.add(every, y, alpha=alpha)
        assert bool(((got == expected) | (got.isnan() & expected.isnan())).all())


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The file again, but for what needs its time, in a process that is forced to another level of this machine."""
    run_on_level(level, __file__, "not materialised")


@pytest.mark.parametrize("call", [myops.addmm, myops.baddbmm, myops.sparse.addmm], ids=lambda f: f.__name__)
def test_complex_scalars_that_are_real(call: Any, device: str) -> None:
    """0j is 0, by which nothing is read, and a real one goes with real dtypes, as in torch."""
    batch = (2,) if call is myops.baddbmm else ()
    c, a, b = (tensor((*batch, 3, 3), device, torch.complex64) for _ in range(3))
    poisoned = torch.full_like(c, complex("nan"))
    left = a.to_sparse_csr() if call is myops.sparse.addmm else a
    torch.testing.assert_close(call(poisoned, left, b, beta=0j), a @ b)
    torch.testing.assert_close(call(c, left, torch.full_like(b, complex("nan")), alpha=0j), c)
    real = left.to_dense().real.to_sparse_csr() if call is myops.sparse.addmm else left.real
    torch.testing.assert_close(call(c.real, real, b.real, alpha=2 + 0j), c.real + 2 * (a.real @ b.real))


@pytest.mark.parametrize("number", [numpy.float32(1.5), numpy.float16(1.5), numpy.float64(1.5), numpy.int64(3)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.bool], ids=str)
def test_add_promotes_numbers_of_numpy(number: Any, kind: torch.dtype) -> None:
    x = torch.tensor([1, 0]).to(kind)
    torch.testing.assert_close(myops.add(x, number), torch.add(x, number), rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [2**60, -(2**61) - 1, 1j], ids=str)
def test_add_scales_in_the_promoted_dtype(alpha: complex) -> None:
    wide = torch.tensor([1 + 1j, 2]) if isinstance(alpha, complex) else torch.tensor([1, 2])
    for narrow in (torch.tensor([3, -3], dtype=torch.int8), torch.tensor(5, dtype=torch.int16)):
        torch.testing.assert_close(myops.add(wide, narrow, alpha=alpha), torch.add(wide, narrow, alpha=alpha))
    if not isinstance(alpha, complex):
        x, y = torch.ones(2, dtype=torch.float64), torch.tensor([3, -3], dtype=torch.int8)
        torch.testing.assert_close(myops.add(x, y, alpha=alpha), torch.add(x, y, alpha=alpha))


def test_large_integers_scale_sums_of_floats() -> None:
    """In the kernel, after the sum: multiplied into a float16 operand first they would be infinite."""
    a = torch.full((2, 2), 2.0**-24, dtype=torch.float16)
    c = torch.ones(2, 2, dtype=torch.float16)
    torch.testing.assert_close(myops.addmm(c, a, a, alpha=2**54), torch.addmm(c, a, a, alpha=2**54))


@pytest.mark.parametrize("other", [-0.0, torch.tensor([-0.0]), torch.full((1, 1), -0.0)])
def test_negative_zeros_stay(other: Any) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.full((3, 37), -0.0, dtype=dtype)
        y = other.to(dtype) if isinstance(other, Tensor) else other
        assert myops.add(x, y).signbit().all()


def test_alpha_of_bool_beyond_what_a_float_holds() -> None:
    x = torch.tensor([True, False])
    for alpha in (2**53 + 1, 2**62, -(2**60)):
        assert torch.equal(myops.add(x, x, alpha=alpha), x)
        assert torch.equal(myops.add_(x.clone(), x, alpha=alpha), x)
        assert torch.equal(myops.add(x, x, alpha=alpha, out=torch.empty(2, dtype=torch.int8)), x.to(torch.int8))


@pytest.mark.parametrize(
    ("dtype_", "number"),
    [(torch.int8, 300), (torch.uint8, -300), (torch.float32, 1e39), (torch.float16, -7e4)],
    ids=str,
)
def test_a_number_beyond_the_dtype_wraps_as_in_torch(dtype_: torch.dtype, number: Any) -> None:
    x = torch.ones(3, dtype=dtype_)
    assert torch.equal(myops.add(x, number), torch.add(x, number))


def test_a_number_plus_a_tensor() -> None:
    for number in (1, 2.5, True, 1j, numpy.float64(2)):
        for x in (torch.arange(3), torch.rand(3), torch.tensor([True, False]), torch.tensor(3)):
            got, expected = myops.add(number, x), torch.add(number, x)
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)
    for bad in (Fraction(1, 2), [1.0], "1", numpy.ones(2)):
        for call in (lambda bad=bad: myops.add(torch.ones(2), bad), lambda bad=bad: myops.add(bad, torch.ones(2))):
            with pytest.raises(TypeError, match="must be a Tensor or a number"):
                call()


@pytest.mark.parametrize("whole", [True, False], ids=["clone", "view"])
def test_results_do_not_write_to_memory_that_is_copied_on_write(device: str, dtype: torch.dtype, whole: bool) -> None:
    """Of a lazy clone, or of a view of one, as a result, an operand, or both."""
    x = whole_numbers((4, 4), device, dtype)

    def check(write: Any, *factors: Tensor) -> None:
        """`write` of (result, its old values, factors)."""
        before = x.clone()
        clone = torch._lazy_clone(x)
        target = clone if whole else clone[1:, :3]
        old = before if whole else before[1:, :3]
        expected = write(old.clone(), old, *factors)
        got = write(target, target, *factors)
        assert torch.equal(got, expected)
        assert torch.equal(x, before)
        assert torch.equal(clone[:1], before[:1]) or whole

    a = whole_numbers((4, 4) if whole else (3, 3), device, dtype)
    check(lambda d, c, a: myops.add_(d, a), a)
    check(lambda d, c, a: myops.addmm_(d, a, a), a)
    check(lambda d, c, a: myops.mm(a, a, out=d), a)
    check(lambda d, c, a: myops.mm(c, a, out=d), a)
    check(lambda d, c, a: myops.addmm(c, c, a, out=d), a)
    check(lambda d, c, a: myops.add(c, a, out=d), a)
    lazy = torch._lazy_clone(a)
    check(lambda d, c, a, lazy: myops.addmm(lazy, a, lazy, out=d), a, lazy)


def test_a_product_is_the_first_work_of_a_thread(device: str, own_kernels: None) -> None:
    """On CUDA its thread has no context yet, and the memory of the result, which torch has kept, needs none."""
    a, b = (whole_numbers((256, 256), device, torch.bfloat16) for _ in range(2))
    expected = myops.mm(a, b)
    myops.mm(a, b)
    got: list[Tensor] = []
    thread = threading.Thread(target=lambda: got.append(myops.mm(a, b)))
    thread.start()
    thread.join()
    assert torch.equal(got[0], expected)
