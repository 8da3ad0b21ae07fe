"""The tiles of the CUDA products and the emulation itself: plans, determinism, planted bugs that must be found.

What the operators compute is in tests/test_cuda_emulation.py.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
import torch.nn.functional as F
from emulation.support import (
    COMPLEX,
    DTYPES,
    FLOATS,
    INTEGERS,
    WIDE,
    Canary,
    contiguous,
    integers,
    lay_out,
    load_library,
    plan,
    poison,
    reference,
    run_kernel,
    same,
    wide,
)

from myops._libraries import DTYPE_CODES

pytestmark = pytest.mark.usefixtures("own_kernels")


@pytest.fixture(scope="module")
def library():
    return load_library()


@pytest.fixture(scope="module")
def ops(library):
    return torch.ops.myops_emulated


# ---- Determinism, tiles, plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int32], ids=str)
def test_bits_do_not_depend_on_the_schedule(ops, library, kind):
    torch.manual_seed(2)
    precise = torch.complex128 if kind.is_complex else torch.float64
    a, b, c = ((torch.randn(s, dtype=precise) * 50).to(kind) for s in ((40, 50), (50, 35), (40, 35)))
    results = []
    for seed in range(20):
        library.emulation_seed(ctypes.c_uint64(seed))
        results.append(ops.addmm(c, a, b, beta=2, alpha=3))
    assert all(torch.equal(r, results[0]) for r in results)


def tile_sizes(kind):
    sizes = ["small", "large"]
    sizes += ["narrow"] if kind in (torch.float32, torch.complex64) else []
    sizes += ["medium"] if kind == torch.float32 else []
    return sizes


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_tiles_agree_bit_for_bit(library, kind):
    torch.manual_seed(3)
    precise = torch.complex128 if kind.is_complex else torch.float64
    a, b = ((torch.randn(s, dtype=precise) * 20).to(kind) for s in ((2, 131, 37), (2, 37, 66)))
    small, _ = run_kernel(library, "small tile", a, b)
    for size in tile_sizes(kind):
        same(run_kernel(library, f"{size} tile", a, b)[0], small)
    # several launches
    same(run_kernel(library, "small tile", a, b, max_blocks=3)[0], small)
    same(run_kernel(library, "large tile", a, b, max_blocks=1)[0], small)
    for t in (a.transpose(1, 2).contiguous().transpose(1, 2), a):
        same(run_kernel(library, "large tile", t, b, column_major=True)[0], small)


@pytest.mark.parametrize("kind", [k for k in DTYPES if k.itemsize >= 4], ids=str)
@pytest.mark.parametrize("lines", ["packed", "cut", "apart"])
def test_tile_copies(library, kind, lines):
    """Operands along their lines, 16 bytes at a time or not, whose last copy is cut off, and along K; tails of K."""
    m, n, batch = 134, 70, 2
    m, n = (m + 2, n + 2) if lines == "packed" else (m, n)

    def along_lines(t):  # t: lines by K
        buffer = torch.full((batch, t.shape[2], 160 if lines != "apart" else 161), poison(kind), dtype=kind)
        view = buffer[:, :, : t.shape[1]].transpose(1, 2)
        view.copy_(t)
        return view

    for k in (5, 16, 43, 72):
        a, b = integers((batch, m, k), kind, 1), integers((batch, k, n), kind, 2)
        expected = reference(None, a, b, 0, 1, kind)
        x, y = along_lines(a), along_lines(b.transpose(1, 2)).transpose(1, 2)
        for size in tile_sizes(kind):
            got, p = run_kernel(library, f"{size} tile", x, y)
            same(got, expected)
            assert (p["a_along_k"], p["b_along_k"]) == (0, 0)
            assert (p["a_packed"], p["b_packed"]) == ((lines != "apart" or kind.itemsize == 16,) * 2)
            same(run_kernel(library, f"{size} tile", a, lay_out(b, "transposed"))[0], expected)


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_tile_ends(ops, library, kind):
    """C and D whose rows are moved 16 bytes at a time, and not, over every round of a tile; D does not begin a row."""
    library.emulation_machine(1, 80)  # large tiles
    try:
        for m, n, layout in [(137, 136, "contiguous"), (70, 72, "offset"), (137, 71, "contiguous")]:
            a, b = integers((m, 19), kind, 1), integers((19, n), kind, 2)
            for shape in [(m, n), (n,), (m, 1)]:
                c = integers(shape, kind, 3)
                canary = Canary((m, n), kind, layout)
                ops.addmm.out(c, a, b, beta=2, alpha=3, out=canary.out)
                same(canary.out, reference(c, a, b, 2, 3, kind))
                canary.check()
            same(ops.mm(a, b), reference(None, a, b, 0, 1, kind))
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, *COMPLEX], ids=str)
def test_rows_do_not_depend_on_m(ops, kind):
    """Within the kernels for few rows, and within those for many."""
    torch.manual_seed(4)
    a, b = torch.randn(150, 45, dtype=kind), torch.randn(45, 130, dtype=kind)
    whole, few = ops.mm(a, b), ops.mm(a[:16], b)
    for rows in (17, 33, 129):
        assert torch.equal(ops.mm(a[:rows], b), whole[:rows])
    for rows in (1, 2, 3, 5, 9):
        assert torch.equal(ops.mm(a[:rows], b), few[:rows])
    if kind.is_complex:
        assert torch.equal(few, whole[:16])
    batch = ops.bmm(a.expand(3, 150, 45), b.expand(3, 45, 130))
    assert all(torch.equal(item, whole) for item in batch)


def check_batch_invariance(ops, library, kind, capability):
    """Under the mode an element depends on its row, its column and K alone. Operands and their product under it."""
    torch.manual_seed(4)
    a, b = torch.randn(150, 45, dtype=kind), torch.randn(45, 130, dtype=kind)
    library.emulation_machine(132, capability)
    library.myops_set_batch_invariant(1)
    try:
        whole = ops.mm(a, b)
        for rows in (1, 2, 16, 17, 129):
            same(ops.mm(a[:rows], b), whole[:rows])
        same(ops.mm(a[77:78], b), whole[77:78])
        for columns in (slice(0, 1), slice(90, 91), slice(3, 40), slice(1, 130)):
            same(ops.mm(a, b[:, columns]), whole[:, columns])
            same(ops.mm(a[5:38], lay_out(b[:, columns], "transposed")), whole[5:38, columns])
        batch = ops.bmm(a[:4].expand(300, 4, 45), b[:, :4].expand(300, 45, 4))
        assert all(torch.equal(item, whole[:4, :4]) for item in batch)
        # Four batch dimensions that do not merge: more than a tensor map has.
        right = b[:, :16].reshape(45, 2, 2, 4).permute(1, 2, 0, 3)[None, :, None]
        got = ops.matmul(a[:12].reshape(2, 1, 2, 1, 3, 45), right)
        same(got, whole[:12, :16].reshape(2, 2, 3, 2, 2, 4).permute(0, 3, 1, 4, 2, 5))
        return a, b, whole
    finally:
        library.myops_set_batch_invariant(0)
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", FLOATS + COMPLEX, ids=str)
def test_batch_invariance(ops, library, kind, capability):
    check_batch_invariance(ops, library, kind, capability)


# ---- Few rows, few columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("layout", ["n", "t", "strided", "offset"])
def test_skinny(library, kind, layout):
    """Every number of rows that has a kernel, K shared by lanes, warps and blocks, and tails of everything."""
    for m, n, k, batch in [(1, 70, 1100, 1), (2, 9, 65, 3), (3, 130, 517, 1), (8, 12, 2100, 2), (16, 33, 130, 1)]:
        a, b = integers((batch, m, k), kind, 1), integers((batch, k, n), kind, 2)
        laid = {"n": b, "t": lay_out(b, "transposed")}.get(layout, lay_out(b, layout))
        got, p = run_kernel(library, "skinny", lay_out(a, "strided" if layout == "strided" else "contiguous"), laid)
        assert p["b_along_k"] == (layout == "t")
        same(got, reference(None, a, b, 0, 1, kind))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["n", "t"])
def test_skinny_stages(library, kind, layout):
    """16-bit floats that are copied 16 bytes at a time: several numbers of stages, the ring used again, tails."""
    stages = set()
    for m, n, k, batch in [(1, 72, 1104, 1), (2, 104, 96, 700), (5, 200, 640, 70), (9, 40, 5000, 1), (16, 88, 136, 3)]:
        a, b = integers((batch, m, k), kind, 1), integers((batch, k, n), kind, 2)
        got, p = run_kernel(library, "skinny", a, b if layout == "n" else lay_out(b, "transposed"))
        assert (p["a_packed"], p["b_packed"], p["b_along_k"]) == (1, 1, layout == "t")
        assert p["warp_columns"] == (32 if layout == "n" else 16)
        same(got, reference(None, a, b, 0, 1, kind))
        stages.add(p["stages"])
    assert len(stages) >= 3


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_skinny_columns(library, kind):
    """Few columns: computed as the transposed product."""
    for m, n, k in [(70, 1, 1100), (33, 7, 300)]:
        a, b = integers((2, m, k), kind, 1), integers((2, k, n), kind, 2)
        for left in (a, lay_out(a, "transposed")):
            got, p = run_kernel(library, "skinny", left, b)
            assert p["transpose"] == 1
            same(got, reference(None, a, b, 0, 1, kind))


def test_skinny_splits(library, ops):
    """The workspace is read where it was written, blocks walk several tiles, and beta * C comes once."""
    torch.manual_seed(7)
    a, b = integers((1, 3, 5000), torch.float32, 1), integers((1, 5000, 30), torch.float32, 2)
    for blocks in (2**31 - 1, 3):
        got, p = run_kernel(library, "skinny", a, b, max_blocks=blocks)
        assert p["splits"] > 1
        assert p["workspace_bytes"] == p["splits"] * 3 * 30 * 4
        same(got, reference(None, a, b, 0, 1, torch.float32))
    c = integers((3, 30), torch.float32, 3)
    same(ops.addmm(c, a[0], b[0], beta=2, alpha=3), reference(c, a[0], b[0], 2, 3, torch.float32))
    first = ops.mm(a[0] / 3, b[0])
    for seed in range(5):
        library.emulation_seed(ctypes.c_uint64(seed))
        assert torch.equal(ops.mm(a[0] / 3, b[0]), first)


@pytest.fixture
def least_shared_memory(library):
    """What the GPU with the least has."""
    library.emulation_shared_memory(99 * 1024)
    yield
    library.emulation_shared_memory(227 * 1024)


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_tiny(library, least_shared_memory, kind):
    """Squares, sides and depths between them; runs, and operands and results that are none; items that are shared."""
    shapes = [
        (4, 4, 4),
        (3, 3, 3),
        (8, 8, 8),
        (5, 7, 19),
        (16, 16, 16),
        (1, 13, 8),
        (32, 32, 32),
        (20, 32, 50),
        (17, 31, 1),
        (4, 4, 64),  # as many items as threads would need more memory than a GPU has
        (3, 4, 57),
        (4, 1, 51),
        (8, 5, 64),
        (32, 32, 64),
        (8, 8, 65),
        (12, 11, 251),
        (13, 32, 120),
        (1, 1, 256),
        *([(9, 32, 250)] if kind.itemsize < 8 else []),  # in float64 that is more than a block takes
    ]
    for m, n, k in shapes:
        a, b = integers((37, m, k), kind, 1), integers((37, k, n), kind, 2)
        layouts = itertools.product(["contiguous", "transposed", "strided", "offset"], repeat=2)
        for la, lb in layouts if m * n < 70 else [("contiguous", "contiguous"), ("strided", "transposed")]:
            got, _ = run_kernel(library, "tiny", lay_out(a, la), lay_out(b, lb), max_blocks=3)
            same(got, reference(None, a, b, 0, 1, kind))
        got, _ = run_kernel(library, "tiny", a, b[:1].expand(37, k, n), column_major=True)
        same(got, reference(None, a, b[:1], 0, 1, kind))
        got, _ = run_kernel(library, "tiny", a[:1].expand(37, m, k), b, max_blocks=1)
        same(got, reference(None, a[:1], b, 0, 1, kind))


def test_tiny_has_the_bits_of_tile(library):
    torch.manual_seed(8)
    for m, n, k in [(11, 13, 37), (4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32), (32, 30, 64), (8, 8, 200)]:
        a, b = torch.randn(50, m, k), torch.randn(50, k, n)
        same(run_kernel(library, "tiny", a, b)[0], run_kernel(library, "small tile", a, b)[0])


def test_many_tiny_products(ops):
    """As the operator chooses them: three batch dimensions, of which one is broadcast."""
    a, b = integers((20, 1, 20, 4, 5), torch.float32, 1), integers((20, 3, 20, 5, 6), torch.float32, 2)
    same(ops.matmul(a, b), reference(None, a, b, 0, 1, torch.float32))
    for side in (4, 16, 32):
        c = integers((1200, side, side), torch.float32, 3)
        same(ops.baddbmm(c, c, c, beta=2), reference(c, c, c, 2, 1, torch.float32))
        same(ops.baddbmm(c, c, c, beta=0, alpha=3), reference(c, c, c, 0, 3, torch.float32))
        out = torch.full((1200, side, side + 4), 9.0)  # rows that are no run, in the first columns
        ops.bmm.out(c, c, out=out[..., :side])
        same(out[..., :side], reference(None, c, c, 0, 1, torch.float32))
        assert bool((out[..., side:] == 9).all())


# ---- Torch's own kernels ---------------------------------------------------------------------------------------------


def route(library, kind, m, n, k, batch=1, strides=None, mode="auto"):
    sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
    strides = (ctypes.c_int64 * 9)(*(strides or contiguous(m, n, k)))
    return ["own", "native"][library.myops_cuda_route(DTYPE_CODES[kind], sizes, strides, mode.encode())]


def test_route_sends_plain_large_products_to_torch(library):
    bf16, n = torch.bfloat16, 4096
    assert route(library, bf16, n, n, n) == "native"
    assert route(library, bf16, n, n, n, mode="own") == "own"
    assert route(library, bf16, 16, n, n) == "own"
    assert route(library, bf16, 16, n, n, mode="native") == "native"
    assert route(library, bf16, 9477, 1152, 588) == "own"  # rows of A are not aligned
    assert route(library, bf16, n, n, n, 8, [n, 1, 0, n, 1, n * n, n, 1, n * n]) == "own"  # A is broadcast
    assert route(library, torch.int8, n, n, n, mode="native") == "own"  # torch has none
    assert route(library, torch.float32, n, n, n, strides=[2 * n, 2, 0, n, 1, 0, n, 1, 0], mode="native") == "own"


def test_route_sends_long_sums_for_few_results_to_torch(library):
    """Whose kernels cut K; here those of few rows alone do."""
    assert route(library, torch.float32, 32, 1024, 4096) == "native"
    assert route(library, torch.complex64, 1, 1, 10**6) == "native"
    assert route(library, torch.complex64, 1, 1, 1000) == "own"
    assert route(library, torch.bfloat16, 33, 33, 10**6) == "native"  # of rows that are not aligned
    assert route(library, torch.bfloat16, 33, 33, 2000) == "own"
    assert route(library, torch.float32, 16, 16, 10**6) == "own"
    assert route(library, torch.bfloat16, 16, 100, 4096, 8) == "own"


def test_route_sends_what_would_be_packed_by_the_gigabyte_to_torch(library):
    assert route(library, torch.bfloat16, 40000, 40000, 40001) == "native"
    assert route(library, torch.bfloat16, 4000, 4000, 4001) == "own"
    assert route(library, torch.bfloat16, 33, 33, 33, 100000) == "own"  # 0.4 GB
    assert route(library, torch.bfloat16, 33, 33, 33, 300000) == "native"
    assert route(library, torch.bfloat16, 31, 31, 31, 500000) == "own"  # not packed


def test_route_of_a_matrix_c(ops, library, monkeypatch):
    """Torch copies a C first, unless it is the result."""
    monkeypatch.delenv("MYOPS_CUDA_GEMM", raising=False)
    a = integers((64, 64), torch.bfloat16, 1)
    before = library.emulation_native_calls()
    same(ops.addmm(a, a, a), reference(a, a, a, 1, 1, torch.bfloat16))
    assert library.emulation_native_calls() == before
    t = a.clone()
    ops.addmm_(t, a, a)
    same(t, reference(a, a, a, 1, 1, torch.bfloat16))
    assert library.emulation_native_calls() == before + 1


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_native_kernels_compute_the_same(ops, library, kind, monkeypatch):
    """Every call that the native route makes of torch's kernels; here torch's CPU kernels stand in."""
    monkeypatch.setenv("MYOPS_CUDA_GEMM", "native")
    before = library.emulation_native_calls()
    a, b, c = integers((6, 9), kind, 1), integers((9, 7), kind, 2), integers((6, 7), kind, 3)
    same(ops.mm(a, b), reference(None, a, b, 0, 1, kind))
    same(ops.mm(a, lay_out(b, "transposed")), reference(None, a, b, 0, 1, kind))
    same(ops.addmm(c, a, b, beta=2, alpha=3), reference(c, a, b, 2, 3, kind))
    same(ops.addmm(c, a, b, beta=0, alpha=3), reference(c, a, b, 0, 3, kind))
    same(ops.addmm(c[0], a, b, beta=2), reference(c[0], a, b, 2, 1, kind))
    x, y = integers((3, 6, 9), kind, 4), integers((3, 9, 7), kind, 5)
    same(ops.bmm(x, y), reference(None, x, y, 0, 1, kind))
    same(ops.baddbmm(c, x, y, beta=2, alpha=3), reference(c, x, y, 2, 3, kind))
    h, i = a.to(torch.complex64).T.contiguous(), b.to(torch.complex64)
    same(ops.mm(h.mH, i), reference(None, h.mH, i, 0, 1, torch.complex64))
    assert library.emulation_native_calls() == before + 8
    same(ops.mm(h.T.conj(), i.conj()), reference(None, h.T.conj(), i.conj(), 0, 1, torch.complex64))
    assert library.emulation_native_calls() == before + 8  # torch would copy the second
    same(ops.matmul(x[:, None], y[None, :1]), reference(None, x[:, None], y[None, :1], 0, 1, kind))
    t = c.clone()
    ops.addmm_(t, a, b, beta=2)
    same(t, reference(c, a, b, 2, 1, kind))
    monkeypatch.setenv("MYOPS_CUDA_GEMM", "fast")
    with pytest.raises(RuntimeError, match="MYOPS_CUDA_GEMM must be own, native or auto, but is fast"):
        ops.mm(a, b)


# ---- Tensor cores ----------------------------------------------------------------------------------------------------

WGMMA_SIZES = ["large", "small", "narrow"]  # of integers
FLOAT_WGMMA_SIZES = [*WGMMA_SIZES, "pingpong"]
MMA_DTYPES = [torch.bfloat16, torch.float16, torch.int8, torch.uint8]


@pytest.mark.parametrize("kind", MMA_DTYPES, ids=str)
@pytest.mark.parametrize("size", ["small", "large"])
def test_mma_layouts(library, kind, size):
    """Both operands along K and along their lines; aligned, where nothing is packed, and not, where it is."""
    low, high = (0, 4) if kind == torch.uint8 else (-3, 4)
    for m, n, k, aligned in [(72, 136, 80, True), (40, 16, 208, True), (33, 65, 37, False), (5, 130, 70, False)]:
        a, b = integers((2, m, k), kind, 1, low, high), integers((2, k, n), kind, 2, low, high)
        expected = reference(None, a, b, 0, 1, kind)
        for la, lb in itertools.product(["contiguous", "transposed"], repeat=2):
            got, p = run_kernel(library, f"{size} mma", lay_out(a, la), lay_out(b, lb))
            same(got, expected)
            if kind.is_floating_point:
                assert (p["a_along_k"], p["b_along_k"]) == (la == "contiguous", lb == "transposed")
                assert (p["workspace_bytes"] == 0) == aligned
        got, _ = run_kernel(library, f"{size} mma", lay_out(a, "strided"), lay_out(b, "offset"), max_blocks=2)
        same(got, expected)
        got, _ = run_kernel(library, f"{size} mma", a, b[:1].expand(2, k, n), column_major=True)
        same(got, reference(None, a, b[:1], 0, 1, kind))


@pytest.mark.parametrize("kind", MMA_DTYPES, ids=str)
def test_mma_operators(ops, kind):
    """As the operators choose it, with the epilogue, out_dtype, and depths around the pipeline's."""
    low, high = (0, 4) if kind == torch.uint8 else (-3, 4)
    wide = dict(WIDE)[kind]
    for k in (8, 63, 64, 65, 128, 200):
        a, b = integers((70, k), kind, 1, low, high), integers((k, 90), kind, 2, low, high)
        c = integers((70, 90), kind, 3, low, high)
        same(ops.addmm(c, a, b, beta=2, alpha=3), reference(c, a, b, 2, 3, kind))
        same(ops.mm(a, b, wide), reference(None, a, b, 0, 1, wide))
    same(ops.addmm(c, a[:, :0], b[:0], beta=2), reference(c, a[:, :0], b[:0], 2, 1, kind))
    a, b = integers((3, 1, 33, 72), kind, 4, low, high), integers((1, 2, 72, 40), kind, 5, low, high)
    same(ops.matmul(a, b), reference(None, a, b, 0, 1, kind))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_mma_bits_do_not_depend_on_anything_else(library, kind):
    torch.manual_seed(9)
    a, b = torch.randn(1, 140, 100).to(kind), torch.randn(1, 100, 150).to(kind)
    whole, _ = run_kernel(library, "large mma", a, b)
    for rows in (1, 33, 140):
        for size in ("small mma", "large mma"):
            same(run_kernel(library, size, a[:, :rows], b)[0], whole[:, :rows])
    same(run_kernel(library, "small mma", lay_out(a, "strided"), lay_out(b, "transposed"))[0], whole)


TF32_KERNELS = ["small mma", "large mma", *(f"{size} wgmma" for size in FLOAT_WGMMA_SIZES)]


def to_tf32(t):
    """float32 with 10 bits of mantissa, rounded to nearest, ties to even."""
    mantissa, exponent = torch.frexp(t.double())
    return torch.ldexp((mantissa * 2**11).round(), exponent - 11).float()


def no_ties(*shape):
    """Random numbers, none of which lies halfway between two of TF32, where GPUs before Hopper round otherwise."""
    return (torch.randn(shape).view(torch.int32) | 1).view(torch.float32)


@pytest.fixture(params=["set_float32_matmul_precision", "allow_tf32", "fp32_precision"])
def tf32(request):
    """The ways to allow it that torch has."""
    matmul = torch.backends.cuda.matmul
    if request.param == "set_float32_matmul_precision":
        torch.set_float32_matmul_precision("high")
    else:
        setattr(matmul, request.param, {"allow_tf32": True, "fp32_precision": "tf32"}[request.param])
    yield
    torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = "none"


@pytest.mark.parametrize("kernel", TF32_KERNELS)
def test_tf32_layouts(library, kernel):
    """Whole numbers are exact in TF32: tails of every side, operands that run along K, and those that are packed to."""
    for m, n, k, aligned in [(72, 136, 84, True), (270, 264, 12, True), (33, 65, 37, False), (5, 130, 70, False)]:
        a, b = integers((2, m, k), torch.float32, 1), integers((2, k, n), torch.float32, 2)
        expected = reference(None, a, b, 0, 1, torch.float32)
        for la, lb in itertools.product(["contiguous", "transposed"], repeat=2):
            got, p = run_kernel(library, kernel, lay_out(a, la), lay_out(b, lb), max_blocks=2)
            same(got, expected)
            assert (p["a_along_k"], p["b_along_k"]) == (1, 1)
            assert (p["a_packed"], p["b_packed"]) == (aligned and la == "contiguous", aligned and lb == "transposed")
        got, _ = run_kernel(library, kernel, lay_out(a, "strided"), lay_out(b, "offset"))
        same(got, expected)
        got, _ = run_kernel(library, kernel, a, b[:1].expand(2, k, n), column_major=True)
        same(got, reference(None, a, b[:1], 0, 1, torch.float32))


@pytest.mark.parametrize("kernel", TF32_KERNELS)
def test_tf32_rounds_to_nearest(library, kernel):
    torch.manual_seed(10)
    a, b = no_ties(1, 100, 75), no_ties(1, 75, 90)
    a[0, 0, 0], a[0, 1, 0] = float("inf"), float("nan")
    got, _ = run_kernel(library, kernel, a, b)
    expected = wide(to_tf32(a)) @ wide(to_tf32(b))
    bound = 1e-6 * (wide(a).abs() @ wide(b).abs())
    assert bool(((got.double() - expected).abs() <= bound)[:, 2:].all())
    assert torch.equal(got[0, :2].isnan(), expected[0, :2].isnan())
    assert torch.equal(got[0, 0].isinf(), expected[0, 0].isinf())
    assert not torch.equal(got, (wide(a) @ wide(b)).float())


@pytest.mark.parametrize("kernel", TF32_KERNELS)
def test_tf32_rounds_ties_to_even(library, kernel):
    """As TMA does it: the fragments of mma.sync on a Hopper have the same bits."""
    a = (torch.randn(1, 100, 75).view(torch.int32) & -0x2000 | 0x1000).view(torch.float32)
    got, _ = run_kernel(library, kernel, a, torch.eye(75, 90)[None])
    assert torch.equal(got[..., :75], to_tf32(a))


@pytest.mark.parametrize("kernel", TF32_KERNELS)
def test_tf32_bits_do_not_depend_on_anything_else(library, kernel):
    torch.manual_seed(9)
    a, b = torch.randn(1, 140, 100), torch.randn(1, 100, 150)
    whole, _ = run_kernel(library, f"large {kernel.split()[1]}", a, b)
    for rows in (1, 33, 140):
        same(run_kernel(library, kernel, a[:, :rows], b)[0], whole[:, :rows])
    same(run_kernel(library, kernel, lay_out(a, "strided"), lay_out(b, "transposed"))[0], whole)


@pytest.mark.parametrize("capability", [80, 90])
def test_tf32_where_torch_allows_it(ops, library, tf32, capability):
    """The operators round then, with every end of a product; few rows, whose bound is memory, stay exact."""
    torch.manual_seed(11)
    library.emulation_machine(2, capability)
    try:
        x, w, c = no_ties(150, 72), no_ties(134, 72), torch.randn(150, 134)
        rounded = wide(to_tf32(x)) @ wide(to_tf32(w)).t()

        def near(actual, expected):
            assert bool(((actual.double() - expected).abs() <= 1e-5 * (1 + expected.abs())).all())

        before = ops.mm(x, w.t())
        near(before, rounded)
        few = wide(x[:16]) @ wide(w).t()
        assert bool(((ops.mm(x[:16], w.t()) - few).abs() < 1e-4).all())
        near(ops.addmm(c, x, w.t(), beta=2, alpha=3), 3 * rounded + 2 * wide(c))
        near(ops.linear(x, w, c[0, :], activation=2), F.gelu(rounded + wide(c[0])))
        got, kept = ops.addmm_with_preactivation(c[0], x, w.t(), beta=0.5, alpha=0.25, activation=4)
        near(kept, 0.25 * rounded + 0.5 * wide(c[0]))
        near(got, F.silu(0.25 * rounded + 0.5 * wide(c[0])))
        near(ops.addmm(c, x[:, :0], w.t()[:0], beta=2), 2 * wide(c))
        batch = no_ties(2, 1, 2, 40, 72)
        near(ops.matmul(batch, w[:130].t()), wide(to_tf32(batch)) @ wide(to_tf32(w[:130])).t())
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "none"
        near(ops.mm(x, w.t()), wide(x) @ wide(w).t())
        assert not torch.equal(ops.mm(x, w.t()), before)
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("capability", [80, 90])
def test_tf32_is_batch_invariant(ops, library, tf32, capability):
    a, b, whole = check_batch_invariance(ops, library, torch.float32, capability)
    assert not torch.equal(whole, a @ b)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize("size", ["small", "large"])
def test_limb_layouts(library, kind, size):
    """Every bit of an element counts: whole steps and tails of K, packed operands and any others, several tiles."""
    info = torch.iinfo(kind)
    if (kind, size) == (torch.int64, "large"):  # it has one size
        return
    first = (40, 72, 128) if kind == torch.int64 else (72, 136, 256)
    for m, n, k in [first, (40, 17, 208), (33, 65, 37), (5, 70, 1)]:
        a, b = integers((2, m, k), kind, 1, info.min, info.max), integers((2, k, n), kind, 2, info.min, info.max)
        expected = reference(None, a, b, 0, 1, kind)
        for la, lb in itertools.product(["contiguous", "transposed"], repeat=2):
            got, p = run_kernel(library, f"{size} limb", lay_out(a, la), lay_out(b, lb))
            same(got, expected)
            if k > 1:
                assert (p["a_along_k"], p["b_along_k"]) == (la == "contiguous", lb == "transposed")
        got, _ = run_kernel(library, f"{size} limb", lay_out(a, "strided"), lay_out(b, "offset"), max_blocks=2)
        same(got, expected)
        got, _ = run_kernel(library, f"{size} limb", a, b[:1].expand(2, k, n), column_major=True)
        same(got, reference(None, a, b[:1], 0, 1, kind))


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_limb_operators(ops, kind):
    """As the operators choose it, with the epilogue and out_dtype."""
    info = torch.iinfo(kind)
    a, b = integers((70, 96), kind, 1, info.min, info.max), integers((96, 90), kind, 2, info.min, info.max)
    c = integers((70, 90), kind, 3, info.min, info.max)
    wide = dict(WIDE).get(kind, kind)
    same(ops.addmm(c, a, b, beta=-2, alpha=3), reference(c, a, b, -2, 3, kind))
    same(ops.mm(a, b, wide), reference(None, a, b, 0, 1, wide))
    same(ops.linear(a, b.t(), activation=1), reference(None, a, b, 0, 1, kind).relu())
    a, b = integers((3, 1, 33, 72), kind, 4), integers((1, 2, 72, 40), kind, 5)
    same(ops.matmul(a, b), reference(None, a, b, 0, 1, kind))


@pytest.mark.parametrize(
    ("kernel", "value", "k"), [("small limb", -1, 16600), ("narrow wgmma", -0x80808080, 33000)], ids=str
)
def test_limb_sums_of_int64_do_not_wrap(library, kernel, value, k):
    """The largest limbs, 255 or four of -128, further along K than 32 bits hold the sums of four products of."""
    a, b = torch.full((1, 2, k), value, dtype=torch.int64), torch.full((1, k, 3), value, dtype=torch.int64)
    same(run_kernel(library, kernel, a, b)[0], torch.full((1, 2, 3), k, dtype=torch.int64) * value * value)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize("size", WGMMA_SIZES)
def test_limb_wgmma_layouts(library, kind, size):
    """Planes of limbs from every layout, and bytes that are taken as they are; tails of every side, several tiles."""
    if (kind, size) == (torch.int64, "large"):
        return
    info = torch.iinfo(kind)
    for m, n, k, batch in [(136, 40, 144, 1), (33, 270, 37, 2)]:
        a = integers((batch, m, k), kind, 1, info.min, info.max)
        b = integers((batch, k, n), kind, 2, info.min, info.max)
        expected = reference(None, a, b, 0, 1, kind)
        for la, lb in [("contiguous", "transposed"), ("transposed", "contiguous"), ("strided", "offset")]:
            got, p = run_kernel(library, f"{size} wgmma", lay_out(a, la), lay_out(b, lb), max_blocks=2)
            same(got, expected)
            assert p["a_packed"] == (kind.itemsize == 1 and la == "contiguous" and k == 144)
    a, b = integers((3, 40, 70), kind, 3), integers((3, 70, 24), kind, 4)
    rows = a[:, :1].expand(3, 40, 70)
    got, _ = run_kernel(library, f"{size} wgmma", rows, b[:1].expand(3, 70, 24), column_major=True)
    same(got, reference(None, rows, b[:1], 0, 1, kind))


# The ends of what 0, 1, 2, ... limbs from -128 to 127 hold, and what is one beyond them.
LIMB_ENDS = {"0": [0], "1": [-128, 127], "1 and more": [-129, 128], "2": [-32896, 32639], "2 and more": [-32897, 32640]}
LIMB_ENDS |= {"3": [-0x808080, 0x7F7F7F], "4": [-0x80808080, 0x7F7F7F7F], "4 and more": [-0x80808081, 0x7F7F7F80]}
LIMB_ENDS |= {"7": [-0x80808080808080, 0x7F7F7F7F7F7F7F], "256": [256], "2^24 + 1": [2**24 + 1]}


def limbs_in_use(t):
    """Which digits from -128 to 127 in base 256 are anywhere not zero: a number's lowest byte, taken away, and so on."""
    x, used = t.to(torch.int64), []
    for _ in range(t.dtype.itemsize):
        digit = x.to(torch.int8).to(torch.int64)
        used.append(bool(digit.any()))
        x = x - digit >> 8
    return used


def limb_pairs(a, b):
    used_a, used_b = limbs_in_use(a), limbs_in_use(b)
    return sum(used_a[i] and used_b[level - i] for level in range(len(used_a)) for i in range(level + 1))


def run_counted(library, kernel, a, b, **options):
    """The result, and the products that tensor cores computed for it."""
    before = library.emulation_wgmmas()
    got, _ = run_kernel(library, kernel, a, b, **options)
    return got, library.emulation_wgmmas() - before


@pytest.mark.parametrize("kind", [torch.int16, torch.int32, torch.int64], ids=str)
def test_limb_wgmma_skips_zero_planes(library, kind):
    """Small numbers of either sign, in one operand and in both, take the pairs of limbs that are not zero, and no other."""
    info, m, k, n = torch.iinfo(kind), 40, 144, 24
    one = run_counted(library, "narrow wgmma", *(integers((1, *s), torch.int8) for s in ((m, k), (k, n))))[1]
    assert one > 0
    torch.manual_seed(12)

    def some(values, *shape):
        return torch.tensor(values, dtype=kind)[torch.randint(len(values), (1, *shape))]

    ends = {name: v for name, v in LIMB_ENDS.items() if info.min <= v[0] and v[-1] <= info.max}
    every = int.from_bytes(bytes(range(1, kind.itemsize + 1)), "little")  # limbs that are not zero
    ends["all"] = [info.min, info.min + 1, -1, 0, 1, every, info.max]
    pairs = {("1", "1"): 1, ("0", "all"): 0, ("all", "0"): 0, ("256", "1"): 1, ("all", "1"): kind.itemsize}
    pairs |= {("1", "all"): kind.itemsize, ("all", "all"): kind.itemsize * (kind.itemsize + 1) // 2}
    for name_a, name_b in sorted({*pairs, *((e, x) for e in ends for x in (e, "1")), *(("1", e) for e in ends)}):
        a, b = some(ends[name_a], m, k), some(ends[name_b], k, n)
        expected = pairs.get((name_a, name_b), limb_pairs(a, b))
        assert limb_pairs(a, b) == expected
        for layout in ("contiguous", "transposed"):
            got, products = run_counted(library, "narrow wgmma", lay_out(a, layout), lay_out(b, layout))
            same(got, reference(None, a, b, 0, 1, kind))
            assert products == one * expected, (name_a, name_b)


@pytest.mark.parametrize("size", WGMMA_SIZES)
def test_limb_wgmma_skips_by_tiles(library, size):
    """One large number costs the tiles (and what shares their loads) of its row and its item, wherever it stands."""
    kind, m, n, k, batch = torch.int32, 600, 700, 140, 2
    tile_m, tile_n, one = {"large": (256, 256, 2), "small": (128, 128, 1), "narrow": (128, 128, 2)}[size]
    one *= 2 * 8 * 4  # steps, warps and wgmma of a step, for each block of a tile
    a, b = integers((batch, m, k), kind, 1, -100, 100), integers((1, k, n), kind, 2, -100, 100).expand(batch, k, n)
    a[0, 300, 139], a[1, 599, 0], b[0, 60, 699] = 1 << 30, -(1 << 20), 300
    expected = sum(
        limb_pairs(a[i, r : r + tile_m], b[i, :, c : c + tile_n])
        for i, r, c in itertools.product(range(batch), range(0, m, tile_m), range(0, n, tile_n))
    )
    tiles = batch * -(-m // tile_m) * -(-n // tile_n)
    assert tiles < expected < 2 * tiles
    got, products = run_counted(library, f"{size} wgmma", a, b, max_blocks=4)
    same(got, reference(None, a, b, 0, 1, kind))
    assert products == one * expected


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_limb_wgmma_finds_one_number(library, layout):
    """Whichever thread of the packing kernel has it; and behind more tiles along K than a warp reads at once."""
    kind, m, k = torch.int32, 40, 144
    positions = [(i * 7 % m, i * 13 % k) for i in range(48)]
    a, b = torch.zeros(len(positions), m, k, dtype=kind), integers((1, k, 8), kind, 1)
    for item, (row, column) in enumerate(positions):
        a[item, row, column] = 1 << 24
    got, _ = run_kernel(library, "small wgmma", lay_out(a, layout), b.expand(len(positions), k, 8))
    same(got, reference(None, a, b, 0, 1, kind))
    for size in WGMMA_SIZES:
        a, b = integers((1, 100, 1200), kind, 3), integers((1, 1200, 8), kind, 4)
        a[0, 99, 1199] = 1 << 30
        same(run_kernel(library, f"{size} wgmma", lay_out(a, layout), b)[0], reference(None, a, b, 0, 1, kind))


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_limb_wgmma_operators(ops, library, kind):
    """As the operators choose it on a Hopper: the epilogue, out_dtype, two batch dimensions of which each has a broadcast."""
    info, wide = torch.iinfo(kind), dict(WIDE).get(kind, kind)
    assert plan(library, kind, 130, 140, 150, multiprocessors=2, capability=90)["kernel"] == "wgmma"
    library.emulation_machine(2, 90)
    try:
        for low, high in [(max(-100, info.min), 100), (info.min, info.max)]:
            a, b = integers((130, 150), kind, 1, low, high), integers((150, 140), kind, 2, low, high)
            c = integers((130, 140), kind, 3, info.min, info.max)
            same(ops.addmm(c, a, b, beta=-2, alpha=3), reference(c, a, b, -2, 3, kind))
            same(ops.mm(a, b, wide), reference(None, a, b, 0, 1, wide))
            same(ops.linear(a, b.t(), activation=1), reference(None, a, b, 0, 1, kind).relu())
        a, b = integers((2, 1, 130, 150), kind, 4), integers((1, 2, 150, 140), kind, 5)
        same(ops.matmul(a, b), reference(None, a, b, 0, 1, kind))
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", FLOAT_WGMMA_SIZES)
def test_wgmma_layouts(library, kind, size):
    """Tails of every side, both layouts of both operands, several tiles to a block, more steps than stages."""
    for m, n, k, batch in [(72, 136, 80, 1), (270, 264, 24, 2), (130, 10, 455, 1)]:
        a, b = integers((batch, m, k), kind, 1), integers((batch, k, n), kind, 2)
        expected = reference(None, a, b, 0, 1, kind)
        layouts = itertools.product(["contiguous", "transposed"], repeat=2)
        for la, lb in layouts if k == 80 else [("contiguous", "transposed"), ("transposed", "strided")]:
            got, p = run_kernel(library, f"{size} wgmma", lay_out(a, la), lay_out(b, lb), max_blocks=2)
            same(got, expected)
            assert p["a_along_k"] == (la == "contiguous")
    a, b = integers((3, 40, 70), kind, 3), integers((3, 70, 24), kind, 4)
    got, _ = run_kernel(
        library, f"{size} wgmma", a[:, :1].expand(3, 40, 70), b[:1].expand(3, 70, 24), column_major=True
    )
    same(got, reference(None, a[:, :1].expand(3, 40, 70), b[:1], 0, 1, kind))
    got, _ = run_kernel(library, f"{size} wgmma", a[:, :, :0], b[:, :0])  # there are no maps of operands
    same(got, torch.zeros(3, 40, 24, dtype=kind))


@pytest.mark.parametrize(
    ("size", "m", "n", "k"),
    [("large", 250, 250, 1408), ("large", 250, 248, 1408), ("small", 120, 136, 96), ("narrow", 100, 80, 96)],
)
def test_wgmma_epilogues(ops, library, size, m, n, k):
    """Every way that C and D move: tiles of both, a row of C, and what goes element by element."""
    kind = torch.bfloat16
    assert plan(library, kind, m, n, k, multiprocessors=2, capability=90)["size"] == size
    library.emulation_machine(2, 90)
    try:
        a, b, c = integers((m, k), kind, 1), integers((k, n), kind, 2), integers((m, n), kind, 3)
        expected = reference(c, a, b, 2, 3, kind)
        poisoned = torch.full((m, n + 5), float("nan"), dtype=kind)
        poisoned[:, 2 : n + 2] = c
        wide = torch.full((m + 2, (n + 15) // 8 * 8), float("nan"), dtype=kind)
        wide[1:-1, :n] = c
        for added in (c, lay_out(c[None], "transposed")[0], poisoned[:, 2 : n + 2], wide[1:-1, :n]):
            same(ops.addmm(added, a, b, beta=2, alpha=3), expected)
        bias = integers((n,), kind, 4)
        same(ops.addmm(bias, a, b, beta=2, alpha=3), reference(bias, a, b, 2, 3, kind))
        same(ops.addmm(c[:, :1], a, b, beta=2, alpha=3), reference(c[:, :1], a, b, 2, 3, kind))
        same(ops.mm(a, b, torch.float32), reference(None, a, b, 0, 1, torch.float32))
        for out in (wide[1:-1, :n], poisoned[:, 2 : n + 2]):
            ops.addmm(bias, a, b, beta=2, alpha=3, out=out)
            same(out, reference(bias, a, b, 2, 3, kind))
        assert all(t.isnan().all() for t in (poisoned[:, [0, 1, -1]], wide[[0, -1]], wide[:, n:]))
        ops.addmm(c, a, b, beta=2, alpha=3, out=c)
        same(c, expected)
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", FLOAT_WGMMA_SIZES)
def test_wgmma_bits_do_not_depend_on_anything_else(library, kind, size):
    """Of the sums and of what follows them, whichever way C and D move."""
    torch.manual_seed(9)
    a, b, c = (torch.randn(1, *shape).to(kind) for shape in ((270, 200), (200, 264), (270, 264)))
    for added, activation in [(None, 0), (c[:, :1], 2), (c, 4)]:
        whole, _ = run_kernel(library, "large wgmma", a, b, c=added, activation=activation)
        for rows, columns, batch in [(270, 264, 1), (77, 131, 3)]:
            x, y = a[:, :rows].expand(batch, -1, -1), lay_out(b[..., :columns], "transposed").expand(batch, -1, -1)
            part = None if added is None else added[:, :rows, :columns]
            got, _ = run_kernel(library, f"{size} wgmma", x, y, c=part, activation=activation, max_blocks=2)
            assert all(torch.equal(item, whole[0, :rows, :columns]) for item in got)


@pytest.mark.parametrize(
    ("kind", "m", "n", "k", "batch"),
    [
        (torch.bfloat16, 270, 264, 24, 3),
        (torch.bfloat16, 70, 261, 328, 4),
        (torch.bfloat16, 130, 136, 0, 3),
        (torch.float16, 130, 40, 136, 3),
        (torch.float32, 100, 268, 100, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", FLOAT_WGMMA_SIZES)
def test_wgmma_ends(library, kind, size, m, n, k, batch):
    """Tiles of C and D, a row and a column of C, the general way; several tiles to a block, few steps and many."""
    a, b, c = (integers((batch, *s), kind, i) for i, s in enumerate([(m, k), (k, n), (m, n)]))
    buffer = torch.full((batch, m, n + 9), poison(kind), dtype=kind)
    unaligned = buffer[..., 3 : n + 3]
    for added in (None, c, lay_out(c, "offset"), c[:1, :1], c[:, :, :1], c[:1]):
        expected = reference(added, a, b, 1, 1, kind)
        same(run_kernel(library, f"{size} wgmma", a, b, c=added, max_blocks=2)[0], expected)
        before = torch.empty(batch, m, n, dtype=kind)
        got, _ = run_kernel(library, f"{size} wgmma", a, b, c=added, activation=1, before=before, max_blocks=2)
        same(before, expected)
        same(got, expected.relu())
    run_kernel(library, f"{size} wgmma", a, b, c=c, activation=1, d=unaligned, max_blocks=2)
    expected = reference(c, a, b, 1, 1, kind)
    same(unaligned, expected.relu())
    unaligned.fill_(poison(kind))
    assert bool(buffer.isnan().all())
    run_kernel(library, f"{size} wgmma", a, b, c=c, d=c, max_blocks=2)
    same(c, expected)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activation", [1, 2, 3, 4])
def test_wgmma_activations(ops, library, kind, activation):
    """Packs of a row with a row of C, with none, and what has to go the general way: a matrix of C, odd rows."""
    f = [torch.relu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu][activation - 1]
    library.emulation_machine(2, 90)
    try:
        for m, n in [(150, 40), (140, 200), (400, 250)]:
            a, b, bias = integers((m, 24), kind, 1), integers((24, n), kind, 2), integers((n,), kind, 3)
            for c in (bias, None, integers((m, n), kind, 4)):
                before = reference(c, a, b, 0.5, 0.25, kind)
                exact = f(reference(c, a, b, 0.5, 0.25, torch.float64))
                added = torch.zeros(1, dtype=kind) if c is None else c
                got, kept = ops.addmm_with_preactivation(added, a, b, beta=0.5, alpha=0.25, activation=activation)
                same(kept, before)
                bound = torch.finfo(kind).eps * (before.double().abs() + exact.abs()) + torch.finfo(kind).tiny
                assert bool(((got.double() - exact).abs() <= bound).all())
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_wgmma_operators(ops, library, kind):
    """As the operators choose it on a Hopper: the epilogue, out_dtype, three batch dimensions of which two are broadcast."""
    library.emulation_machine(2, 90)
    try:
        a, b, c = integers((300, 96), kind, 1), integers((96, 280), kind, 2), integers((300, 280), kind, 3)
        same(ops.addmm(c, a, b, beta=2, alpha=3), reference(c, a, b, 2, 3, kind))
        same(ops.mm(a, b, torch.float32), reference(None, a, b, 0, 1, torch.float32))
        same(ops.addmm(c, a[:, :0], b[:0], beta=2), reference(c, a[:, :0], b[:0], 2, 1, kind))
        a, b = integers((2, 1, 2, 130, 72), kind, 4), integers((1, 2, 2, 72, 130), kind, 5)
        same(ops.matmul(a, b), reference(None, a, b, 0, 1, kind))
    finally:
        library.emulation_machine(132, 80)


@pytest.mark.parametrize(
    ("kind", "shape", "kernel"),
    [
        (torch.float32, (1, 4096, 4096, 1), "skinny"),
        (torch.bfloat16, (16, 4096, 4096, 1), "skinny"),
        (torch.bfloat16, (17, 4096, 4096, 1), "mma"),
        (torch.float32, (17, 4096, 4096, 1), "tile"),
        (torch.bfloat16, (9477, 1152, 588, 1), "mma"),  # packed
        (torch.bfloat16, (17, 17, 17, 1), "tile"),  # not worth packing
        (torch.int8, (512, 512, 512, 1), "limb"),
        (torch.int8, (1024, 1024, 1024, 1), "mma"),
        (torch.int16, (512, 512, 512, 1), "limb"),
        (torch.int64, (512, 512, 512, 1), "limb"),
        (torch.int16, (16, 512, 512, 1), "tile"),
        (torch.float32, (4096, 16, 4096, 1), "skinny"),
        (torch.float32, (100000, 16, 16, 1), "tile"),  # its stores would not be contiguous
        (torch.float32, (4, 4, 4, 100000), "tiny"),
        (torch.float32, (32, 32, 32, 100), "tile"),  # too few to fill the machine
        (torch.complex64, (1, 64, 64, 1), "tile"),
        (torch.int32, (4, 4, 4, 100000), "tile"),
        (torch.int8, (3, 3, 3, 100000), "tile"),  # packing would be most of it
        (torch.int8, (16, 100, 100, 1000), "mma"),
        (torch.bfloat16, (2**32, 17, 7, 1), "mma"),
    ],
    ids=str,
)
def test_plan_picks_the_kernel(library, kind, shape, kernel):
    m, n, k, batch = shape
    assert plan(library, kind, m, n, k, batch)["kernel"] == kernel


def test_plan_on_a_hopper(library):
    def on(kind, m, n, k, batch=1, capability=90, **options):
        return plan(library, kind, m, n, k, batch, capability=capability, **options)

    large = on(torch.bfloat16, 4096, 4096, 4096)
    assert (large["kernel"], large["size"], large["tiles"], large["blocks"]) == ("wgmma", "large", 256, 132)
    assert large["workspace_bytes"] == 0
    odd = on(torch.float16, 9477, 1152, 588)
    assert (odd["kernel"], odd["a_packed"], odd["b_packed"]) == ("wgmma", 0, 1)
    assert odd["workspace_bytes"] == odd["a_pack_bytes"] >= 9477 * 592 * 2
    assert on(torch.bfloat16, 64, 64, 64)["size"] == "narrow"
    assert on(torch.bfloat16, 1, 64, 64, batch_invariant=True)["kernel"] == "wgmma"
    assert on(torch.bfloat16, 4096, 4096, 4096, capability=100)["kernel"] == "mma"  # sm_90a code does not run there
    assert on(torch.float32, 4096, 4096, 4096)["kernel"] == "tile"
    tf32 = on(torch.float32, 4096, 4096, 4096, tf32=True)
    assert (tf32["kernel"], tf32["size"], tf32["a_packed"], tf32["b_packed"]) == ("wgmma", "large", 1, 0)
    assert on(torch.float32, 128, 128, 128, tf32=True)["kernel"] == "tile"  # exact, and sooner than packed
    assert on(torch.float32, 1, 4096, 4096, tf32=True)["kernel"] == "skinny"
    assert on(torch.float32, 512, 512, 512, capability=80, tf32=True)["kernel"] == "mma"
    assert on(torch.float64, 4096, 4096, 4096, tf32=True)["kernel"] == "tile"
    for kind in (torch.int8, torch.int32):
        assert on(kind, 4096, 4096, 4096)["kernel"] == "wgmma"
    assert on(torch.int32, 4096, 4096, 4096, capability=80)["kernel"] == "limb"
    assert on(torch.int32, 128, 128, 128)["kernel"] == "limb"  # a launch that packs costs more
    for kind in (torch.bfloat16, torch.int8, torch.int64):  # a cluster has a multiprocessor for each block
        one = on(kind, 512, 512, 512, multiprocessors=1)
        assert (one["kernel"], one["size"], one["blocks"]) == ("wgmma", "small", 1)
    # Numbers of tiles and coordinates of items have 32 bits.
    assert on(torch.bfloat16, 129, 8, 8, 2**30 - 1, batch_invariant=True)["kernel"] == "wgmma"
    assert on(torch.bfloat16, 129, 8, 8, 2**30, batch_invariant=True)["kernel"] == "mma"
    for kind in (torch.bfloat16, torch.int8):
        assert on(kind, 64, 64, 64, 2**31 - 1, kernel="narrow wgmma")["kernel"] == "wgmma"
        with pytest.raises(AssertionError, match="does not take this problem"):
            on(kind, 64, 64, 64, 2**31, kernel="narrow wgmma")


def test_plans_take_pingpong_by_name_alone(library):
    """No GPU has timed it. It is for long ends beside few products."""
    sizes = (torch.bfloat16, 4096, 4096, 1024)
    options = {"multiprocessors": 132, "capability": 90}
    for end in ({}, {"activation": 2}, {"matrix_c": True}, {"activation": 4, "matrix_c": True}):
        assert plan(library, *sizes, **options, **end)["size"] in ("large", "small")
    p = plan(library, *sizes, **options, kernel="pingpong wgmma", activation=1)
    assert (p["size"], p["tiles"], p["blocks"]) == ("pingpong", 256, 132)
    with pytest.raises(AssertionError, match="does not take this problem"):
        plan(library, torch.int8, 64, 64, 64, capability=90, kernel="pingpong wgmma")


def test_no_cluster_waits_for_another_to_end(library):
    """The emulated machine runs one cluster of four less than it has multiprocessors for."""
    a, b = integers((1, 1024, 64), torch.bfloat16, 1), integers((1, 64, 256), torch.bfloat16, 2)
    before = library.emulation_clusters()
    got, p = run_kernel(library, "pingpong wgmma", a, b, multiprocessors=12)
    same(got, reference(None, a, b, 0, 1, torch.bfloat16))
    assert (p["tiles"], p["blocks"], library.emulation_clusters() - before) == (4, 12, 2)


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_batch_invariant_plans_share_an_order_of_sums(library, kind):
    """tile and tiny are one chain over K each; mma is another; skinny is a third, and the one that M chooses."""
    kernels = set()
    for m, n, k, batch in [(1, 64, 64, 1), (16, 4096, 4096, 1), (17, 33, 37, 1), (4096, 1, 64, 1), (4, 4, 4, 10000)]:
        kernels.add(plan(library, kind, m, n, k, batch, batch_invariant=True)["kernel"])
    assert kernels == ({"mma"} if kind.itemsize == 2 else {"tile", "tiny"})


def test_skinny_plan_shares_k_as_far_as_it_must(library):
    wide = plan(library, torch.bfloat16, 1, 200000, 4096)
    assert (wide["warps_k"], wide["splits"], wide["workspace_bytes"]) == (1, 1, 0)
    long = plan(library, torch.bfloat16, 1, 64, 1 << 20, strides=[1 << 20, 1, 0, 1, 1 << 20, 0, 64, 1, 0])
    assert (long["b_along_k"], long["warps_k"]) == (1, 8)
    assert long["blocks"] >= 132
    for kind, m, n, k, batch, warps in [
        (torch.float32, 1, 1, 100000, 1000, 8),
        (torch.float32, 1, 64, 8192, 512, 4),  # two warps' columns
        (torch.float32, 1, 1000, 8192, 512, 1),
        (torch.bfloat16, 1, 1, 100000, 1000, 8),
        (torch.bfloat16, 1, 128, 8192, 512, 2),
        (torch.bfloat16, 1, 1, 384, 1000, 2),  # what there is of K
    ]:  # blocks enough, but none of their warps without work
        assert plan(library, kind, m, n, k, batch)["warps_k"] == warps
    wide_lanes = plan(library, torch.float32, 1, 64, 1 << 20, strides=[1 << 20, 1, 0, 1, 1 << 20, 0, 64, 1, 0])
    assert wide_lanes["lanes_k"] == 32
    for m in range(2, 17):  # the order of the sums does not depend on M
        other = plan(library, torch.bfloat16, m, 64, 1 << 20, strides=[1 << 20, 1, 0, 1, 1 << 20, 0, 64, 1, 0])
        assert {k: v for k, v in other.items() if k != "workspace_bytes"} == {
            k: v for k, v in long.items() if k != "workspace_bytes"
        }


@pytest.mark.parametrize(
    ("m", "n", "batch", "size"),
    [
        (32, 32, 1, "small"),
        (1, 4096, 1, "small"),
        (256, 256, 1, "small"),
        (512, 512, 1, "narrow"),
        (1024, 1024, 1, "medium"),
        (2048, 2048, 1, "large"),
        (4096, 4096, 1, "large"),
        (16, 16, 100000, "small"),
        (128, 128, 512, "large"),
    ],
)
def test_plan_picks_the_tile(library, m, n, batch, size):
    p = plan(library, torch.float32, m, n, 300, batch, batch_invariant=True)
    sides = {"small": (32, 32), "narrow": (64, 32), "medium": (64, 64), "large": (128, 128)}[size]
    assert (p["kernel"], p["size"]) == ("tile", size)
    assert (p["tiles_m"], p["tiles_n"]) == (-(-m // sides[0]), -(-n // sides[1]))
    assert p["tiles"] == p["blocks"] == p["tiles_m"] * p["tiles_n"] * batch


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_depths_that_steps_cannot_count_are_refused(ops, kind):
    one = torch.ones(1, 1, dtype=kind)
    with pytest.raises(RuntimeError, match=r"common side is 8589934593, and CUDA kernels take at most 8589934592"):
        ops.mm(one.expand(1, 2**33 + 1), one.expand(2**33 + 1, 1))


def test_plan_limits_the_grid(library):
    p = plan(library, torch.int32, 32, 32, 8, batch=2**33)
    assert p["tiles"] >= 2**33
    assert p["blocks"] == 2**31 - 1


def test_plan_loads_along_the_unit_stride(library):
    m, n, k = 64, 96, 128
    row_major = plan(library, torch.float32, m, n, k)
    assert (row_major["transpose"], row_major["a_along_k"], row_major["b_along_k"]) == (0, 1, 0)
    transposed_operands = plan(library, torch.float32, m, n, k, strides=[1, m, 0, 1, k, 0, n, 1, 0])
    assert (transposed_operands["a_along_k"], transposed_operands["b_along_k"]) == (0, 1)
    column_major_d = [k, 1, 0, n, 1, 0, 1, m, 0]
    p = plan(library, torch.float32, m, n, k, strides=column_major_d)  # then A is b, and B is a
    assert (p["transpose"], p["a_along_k"], p["b_along_k"]) == (1, 0, 1)
    assert plan(library, torch.complex64, m, n, k, strides=column_major_d)["transpose"] == 0


@pytest.mark.parametrize(("tiles_m", "tiles_n", "items"), [(1, 1, 5), (8, 3, 2), (9, 4, 3), (17, 1, 1), (3, 20, 2)])
def test_every_tile_is_visited_once(library, tiles_m, tiles_n, items):
    seen = set()
    for index in range(tiles_m * tiles_n * items):
        t = (ctypes.c_int64 * 3)()
        library.emulation_tile_at(*(ctypes.c_int64(v) for v in (index, tiles_m, tiles_n)), t)
        seen.add(tuple(t))
    assert seen == set(itertools.product(range(items), range(tiles_m), range(tiles_n)))


def test_a_row_of_half_a_billion_tiles(library):
    """Tiles are numbered in 32 bits; eight rows of them need not fit."""
    for tiles_n in (2**29, 2**30 - 1):
        t = (ctypes.c_int64 * 3)()
        library.emulation_tile_at(*(ctypes.c_int64(v) for v in (tiles_n - 2, 1, tiles_n)), t)
        assert tuple(t) == (0, 0, tiles_n - 2)


@pytest.mark.parametrize("depth", [(64, 56), (56, 64)])
def test_a_kernel_asks_for_one_size_of_shared_memory(library, depth):
    """Whatever it is launched with: another thread may launch it in between. The emulation refuses a second size."""
    for k in depth:  # two products by one kernel that have more than 48 KB of operands in a block
        a, b = integers((9, 32, k), torch.float32, 1), integers((9, k, 32), torch.float32, 2)
        got, p = run_kernel(library, "tiny", a.transpose(1, 2).contiguous().transpose(1, 2), b)
        assert p["kernel"] == "tiny"
        same(got, a @ b)


# ---- The emulation itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("correct", ""),
        ("read_neighbour without its barrier", "read before it was written|race"),
        ("reuse without its barrier", "race"),
        ("unwatched read_neighbour without its barrier", "poison was read"),
        ("divergent barrier", "divergence"),
        ("two barriers", "different __syncthreads"),
        ("store beyond shared memory", "outside shared memory"),
        ("unwatched store beyond shared memory", "beyond the shared memory in use"),
        ("misaligned store", "misaligned"),
        ("missing lane", "deadlock"),
        ("warp exchange without __syncwarp", "read before it was written|race"),
        ("tma_store of what threads wrote", "tma_store without async_proxy_fence"),
        ("wgmma of what threads wrote", "wgmma without async_proxy_fence"),
        ("early without its wait", "touched before wait_for_previous_kernel"),
        ("early, never waiting", "ends without wait_for_previous_kernel"),
    ],
)
def test_planted_bugs_are_found_in_every_order(library, name, expected):
    for seed in range(20):
        library.emulation_seed(ctypes.c_uint64(seed))
        message = library.emulation_planted(name.encode()).decode()
        if expected == "":
            assert message == ""
        else:
            assert any(e in message for e in expected.split("|")), f"seed {seed}: {message!r}"


STORES = ["async_proxy_fence", "tma_store_wait"]
CLUSTERED = [
    "barrier_init_fence", "cluster_sync", "barrier_wait", "barrier_arrive", "barrier_arrive_at",
    "wgmma_fence", "wgmma_commit", "wgmma_wait", "wait_for_previous_kernel",
]  # fmt: skip
SYNCHRONISED = {
    # kernel (and which of its paths): dtype, M, N, K, batch, and the calls that order its accesses. Few blocks, so that
    # each has several tiles.
    "small tile": (torch.float32, 40, 40, 130, 1, ["barrier", "async_wait"]),
    "large tile": (torch.float64, 70, 70, 43, 1, ["barrier", "async_wait"]),
    "small tile: widened": (torch.int8, 40, 40, 130, 1, ["barrier"]),
    "skinny": (torch.float32, 2, 300, 700, 1, ["barrier", "wait_for_previous_kernel"]),
    "tiny: exact": (torch.float32, 8, 8, 8, 70, ["barrier", "async_wait"]),
    "tiny: plain": (torch.bfloat16, 17, 30, 19, 9, ["barrier", "async_wait"]),
    "tiny: any": (torch.bfloat16, 17, 31, 20, 9, ["barrier"]),
    "skinny: 16 bits": (torch.bfloat16, 9, 304, 2500, 1, ["barrier", "async_wait", "wait_for_previous_kernel"]),
    "small mma": (torch.bfloat16, 72, 72, 160, 1, ["barrier", "async_wait"]),
    "small limb": (torch.int32, 72, 72, 150, 1, ["barrier"]),
    "narrow wgmma: limbs": (
        torch.int16,
        130,
        70,
        520,
        1,
        ["barrier", "barrier_wait", "barrier_arrive", "barrier_arrive_at", "wgmma_fence", "wgmma_commit", "wgmma_wait"],
    ),
    "large wgmma: bytes": (
        torch.int8,
        300,
        300,
        900,
        1,
        ["barrier_init_fence", "barrier_wait", "barrier_arrive", "barrier_arrive_at", "wgmma_commit", "wgmma_wait"],
    ),
    "small mma: packed": (torch.bfloat16, 72, 70, 150, 1, ["barrier"]),
    "small wgmma": (
        torch.bfloat16,
        260,
        520,
        456,
        1,
        ["barrier", "barrier_wait", "barrier_arrive", "wgmma_fence", "wgmma_commit", "wgmma_wait", *STORES],
    ),
    "small mma: tf32": (torch.float32, 72, 72, 160, 1, ["barrier", "async_wait"]),
    "narrow wgmma: tf32": (torch.float32, 130, 140, 520, 1, CLUSTERED),
    "large wgmma": (torch.bfloat16, 600, 800, 304, 1, [*CLUSTERED, *STORES]),
    "pingpong wgmma": (torch.bfloat16, 300, 776, 304, 1, [*CLUSTERED, *STORES]),
    "pingpong wgmma: by rows": (torch.bfloat16, 300, 771, 304, 1, [*CLUSTERED]),
}


@pytest.mark.parametrize("kernel", SYNCHRONISED)
def test_each_barrier_and_wait_is_needed(library, kernel):
    """Leaves out one call after the other: the emulation finds each one missing, in every order of threads."""
    kind, m, n, k, batch, calls = SYNCHRONISED[kernel]
    low, high = (-9999, 9999) if kind == torch.int16 else (-3, 4)  # every pair of limbs
    a, b = integers((batch, m, k), kind, 1, low, high), integers((batch, k, n), kind, 2, low, high)
    expected = reference(None, a, b, 0, 1, kind)

    def message():
        try:
            got, _ = run_kernel(library, kernel.split(":")[0], a, b, max_blocks=1)
        except AssertionError as error:
            return str(error)
        return "" if torch.equal(got, expected) else "a wrong result"

    library.emulation_forget_calls()
    assert message() == ""
    for call in calls:
        places = library.emulation_leave_out(call.encode(), -1)
        assert places > 0
        for place, seed in itertools.product(range(places), range(3)):
            library.emulation_seed(ctypes.c_uint64(seed))
            library.emulation_leave_out(call.encode(), place)
            found = message()
            library.emulation_leave_out(call.encode(), -1)
            assert found != "", f"{kernel} without {call} number {place}, seed {seed}"


def test_an_error_is_told_once(ops, library):
    """What a launch leaves behind as the thread's last error is not what the next one fails by."""
    a, b = integers((130, 64), torch.bfloat16, 1), integers((64, 130), torch.bfloat16, 2)
    library.emulation_forget_calls()
    library.emulation_machine(2, 90)
    try:
        ops.mm(a, b)
        assert library.emulation_leave_out(b"wgmma_fence", 0) == 1
        with pytest.raises(RuntimeError, match="wgmma without wgmma_fence"):
            ops.mm(a, b)
    finally:
        library.emulation_leave_out(b"wgmma_fence", -1)
        library.emulation_machine(132, 80)
    same(ops.add(a, a), a + a)


def test_turned_add_needs_its_barrier(ops, library):
    x, y = integers((40, 70), torch.float32, 1), integers((70, 40), torch.float32, 2)
    library.emulation_forget_calls()
    same(ops.add(x, y.t()), x + y.t())
    assert library.emulation_leave_out(b"barrier", -1) == 1
    for seed in range(3):
        library.emulation_seed(ctypes.c_uint64(seed))
        library.emulation_leave_out(b"barrier", 0)
        try:
            with pytest.raises(RuntimeError, match="race|read before it was written"):
                ops.add(x, y.t())
        finally:
            library.emulation_leave_out(b"barrier", -1)


def test_16_bit_conversions(library):
    for kind, name in ((torch.float16, "half"), (torch.bfloat16, "bfloat16")):
        to, back = getattr(library, f"emulation_to_{name}"), getattr(library, f"emulation_from_{name}")
        every = torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.int16)
        values = every.view(kind).float()
        mine = torch.tensor([back(ctypes.c_uint16(i & 0xFFFF)) for i in every.tolist()])
        assert torch.equal(mine.nan_to_num(7), values.nan_to_num(7))
        torch.manual_seed(6)
        floats = torch.cat([
            torch.randn(500), torch.randn(500) * 1e-7, torch.randn(500) * 3e4,
            torch.tensor([0.0, -0.0, 65504.0, 65519.9, 65520.0, 6e-8, 2.9e-8, 2.98023224e-8, 1e38, float("inf")]),
        ])  # fmt: skip
        mine = torch.tensor([to(x) for x in floats.tolist()], dtype=torch.int32).to(torch.int16)
        assert torch.equal(mine, floats.to(kind).view(torch.int16))
