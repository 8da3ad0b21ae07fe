"""The tiles of the CUDA products and the emulation itself: plans, determinism, planted bugs that must be found.

What the operators compute is in tests/test_cuda_emulation.py.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from emulation.support import COMPLEX, DTYPES, FLOATS, load_library, same

from myops._native import DTYPE_CODES


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


def run_tile(library, a, b, large, max_blocks=2**31 - 1, column_major=False):
    """A batch of products by a tile of our choice."""
    batch, m, k = a.shape
    n = b.shape[2]
    d = torch.full((batch, n, m) if column_major else (batch, m, n), 9, dtype=a.dtype)
    if column_major:
        d = d.transpose(1, 2)
    sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
    strides = (ctypes.c_int64 * 9)(*(s for t in (a, b, d) for s in (t.stride(1), t.stride(2), t.stride(0))))
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, d)]
    error = library.emulation_gemm(
        DTYPE_CODES[a.dtype], sizes, strides, *pointers, int(large), ctypes.c_int64(max_blocks)
    )
    assert error == b"", error
    return d


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_tiles_agree_bit_for_bit(library, kind):
    torch.manual_seed(3)
    precise = torch.complex128 if kind.is_complex else torch.float64
    a, b = ((torch.randn(s, dtype=precise) * 20).to(kind) for s in ((2, 131, 37), (2, 37, 66)))
    small = run_tile(library, a, b, large=False)
    large = run_tile(library, a, b, large=True)
    assert torch.equal(small, large)
    same(run_tile(library, a, b, large=False, max_blocks=3), small)  # blocks walk several tiles and items
    same(run_tile(library, a, b, large=True, max_blocks=1), small)
    for t in (a.transpose(1, 2).contiguous().transpose(1, 2), a):
        same(run_tile(library, t, b, large=True, column_major=True), small)


@pytest.mark.parametrize("kind", FLOATS + COMPLEX, ids=str)
def test_elements_do_not_depend_on_the_rest(ops, kind):
    torch.manual_seed(4)
    a, b = torch.randn(150, 45, dtype=kind), torch.randn(45, 130, dtype=kind)
    whole = ops.mm(a, b)
    for rows in (1, 2, 33, 129):
        assert torch.equal(ops.mm(a[:rows], b), whole[:rows])
    for columns in (slice(0, 1), slice(90, 91), slice(3, 40), slice(1, 130)):
        assert torch.equal(ops.mm(a, b[:, columns]), whole[:, columns])
        assert torch.equal(ops.mm(a[5:38], b[:, columns].mT.contiguous().mT), whole[5:38, columns])
    assert torch.equal(ops.mm(a[77:78], b), whole[77:78])
    batch = ops.bmm(a.expand(3, 150, 45), b.expand(3, 45, 130))
    assert all(torch.equal(item, whole) for item in batch)


def plan(library, kind, m, n, k, batch=1, strides=None, multiprocessors=132):
    sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
    strides = strides or [k, 1, m * k, n, 1, k * n, n, 1, m * n]
    result = (ctypes.c_int64 * 8)()
    library.emulation_plan(DTYPE_CODES[kind], sizes, (ctypes.c_int64 * 9)(*strides), multiprocessors, result)
    names = ["large", "transpose", "a_along_k", "b_along_k", "tiles_m", "tiles_n", "tiles", "blocks"]
    return dict(zip(names, result, strict=True))


@pytest.mark.parametrize(
    ("m", "n", "batch", "large"),
    [(32, 32, 1, 0), (1, 4096, 1, 0), (256, 256, 1, 0), (4096, 4096, 1, 1), (16, 16, 100000, 0), (128, 128, 512, 1)],
)
def test_plan_picks_the_tile(library, m, n, batch, large):
    p = plan(library, torch.float32, m, n, 64, batch)
    side = 128 if large else 32
    assert p["large"] == large
    assert (p["tiles_m"], p["tiles_n"]) == (-(-m // side), -(-n // side))
    assert p["tiles"] == p["blocks"] == p["tiles_m"] * p["tiles_n"] * batch


def test_plan_limits_the_grid(library):
    p = plan(library, torch.float32, 32, 32, 8, batch=2**33)
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


def test_each_barrier_of_the_tile_kernel_is_needed(library):
    for seed in range(5):
        library.emulation_seed(ctypes.c_uint64(seed))
        assert library.emulation_faulty_tile(-1) == b""
        for barrier in (0, 1):
            assert library.emulation_faulty_tile(barrier) != b"", f"barrier {barrier} is missing, seed {seed}"
    assert library.emulation_faulty_tile(2) == b"", "the kernel has a third barrier; test it too"


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
