"""Decisions of the CPU planner, pinned for every ISA on any host. Nothing here runs a kernel."""

from __future__ import annotations

import expecttest
import pytest
import torch

import myops

LEVELS = ["baseline", "avx2", "avx512", "avx512_bf16", "amx", "amx_fp16", "neon"]


class TestDecisions(expecttest.TestCase):
    def test_pinned(self) -> None:
        cases = [
            ("avx512_bf16", torch.float32, 1, 1024, 1024, 1024, False, False, 2),
            ("avx512_bf16", torch.float32, 1, 1, 4096, 4096, False, False, 2),
            ("avx512_bf16", torch.float32, 1, 1, 4096, 4096, False, True, 2),
            ("avx512_bf16", torch.float32, 1, 4096, 1, 4096, False, False, 2),
            ("avx512_bf16", torch.bfloat16, 1, 64, 768, 768, False, True, 2),
            ("avx512_bf16", torch.bfloat16, 1, 4, 4096, 4096, False, False, 2),
            ("avx512_bf16", torch.float16, 1, 256, 256, 256, False, False, 2),
            ("avx512_bf16", torch.complex64, 1, 256, 256, 256, False, False, 2),
            ("avx512_bf16", torch.int8, 1, 256, 256, 256, False, False, 2),
            ("avx512_bf16", torch.int8, 1, 1, 4096, 4096, False, False, 2),
            ("avx512_bf16", torch.uint8, 1, 16, 4096, 4096, False, True, 2),
            ("avx512_bf16", torch.int16, 1, 16, 4096, 4096, False, False, 2),
            ("amx", torch.int8, 1, 6, 4096, 4096, False, True, 2),
            ("avx2", torch.int8, 1, 1, 4096, 4096, False, False, 2),
            ("avx512_bf16", torch.float32, 10000, 4, 4, 4, False, False, 2),
            ("amx", torch.bfloat16, 1, 1024, 1024, 1024, False, False, 2),
            ("amx", torch.bfloat16, 1, 16, 4096, 4096, False, True, 2),
            ("amx", torch.bfloat16, 4096, 16, 16, 16, False, False, 2),
            ("amx", torch.uint8, 1, 100, 100, 100, True, False, 2),
            ("amx", torch.float16, 1, 256, 256, 256, False, False, 2),
            ("amx_fp16", torch.float16, 1, 256, 256, 256, False, False, 2),
            ("amx_fp16", torch.float16, 1, 16, 4096, 4096, False, True, 2),
            ("amx_fp16", torch.float16, 1, 1, 4096, 4096, False, False, 2),
            ("avx512", torch.bfloat16, 1, 512, 512, 512, False, False, 2),
            ("avx2", torch.float32, 1, 100, 100, 100, True, False, 2),
            ("baseline", torch.float64, 1, 33, 17, 65, False, True, 1),
            ("avx512_bf16", torch.bfloat16, 1, 100000, 16, 16, False, False, 2),
            ("avx512_bf16", torch.bfloat16, 1, 4096, 2048, 2048, True, False, 2),
            ("avx2", torch.float32, 1, 4096, 8, 64, False, False, 2),
            ("avx2", torch.complex64, 1, 512, 512, 512, True, False, 2),
            ("avx2", torch.uint8, 1, 512, 512, 512, False, True, 2),
            ("avx512_bf16", torch.float32, 1, 4096, 8, 512, False, False, 2),
            ("avx512_bf16", torch.float32, 1, 4096, 8, 64, False, True, 2),
            ("avx512_bf16", torch.bfloat16, 1, 4096, 64, 2048, True, False, 2),
            ("avx512_bf16", torch.float32, 1, 4, 1024, 24, False, True, 2),
            ("amx", torch.bfloat16, 1, 4096, 8, 512, False, False, 2),
            ("avx2", torch.float32, 1, 1, 1001, 1000, False, False, 2),
            ("avx2", torch.bfloat16, 1, 12, 1001, 1000, False, False, 2),
            ("avx2", torch.float32, 1, 49, 35, 1000, False, False, 2),
            ("neon", torch.float32, 1, 48, 35, 1000, False, False, 2),
            ("avx512_bf16", torch.float32, 1, 1, 1, 100000, False, False, 2),
            ("avx512_bf16", torch.float32, 1, 1, 1, 95, False, False, 2),
            ("avx512_bf16", torch.complex64, 6250, 1, 1, 32, False, False, 2),
            ("avx2", torch.float32, 1, 2048, 2048, 2, False, False, 2),
            ("avx512_bf16", torch.int8, 1, 1000, 1000, 24, False, False, 2),
            ("avx512_bf16", torch.int8, 1, 1000, 1000, 25, False, False, 2),
            ("avx2", torch.uint8, 1, 2000, 16, 16, False, True, 2),
            ("avx2", torch.int16, 1, 1000, 1000, 64, True, False, 2),
            ("avx512_bf16", torch.int16, 1, 16, 4096, 4095, False, False, 2),
            ("avx512_bf16", torch.int16, 1, 16, 2000, 16, False, True, 2),
            ("avx512_bf16", torch.bfloat16, 1, 100000, 3, 3, False, False, 2),
            ("avx512_bf16", torch.bfloat16, 1, 100000, 17, 3, False, False, 2),
            ("avx512_bf16", torch.float64, 1, 386, 512, 1, False, False, 2),
        ]
        lines = []
        for level, dtype, batch, m, n, k, ta, tb, threads in cases:
            text = myops.plan(
                m, n, k, dtype=dtype, batch=batch, transpose_a=ta, transpose_b=tb, isa_level=level, threads=threads
            )
            order = ("T" if ta else "N") + ("T" if tb else "N")
            lines.append(f"{level} {str(dtype)[6:]} {batch}x{m}x{n}x{k} {order}: {text}")
        self.assertExpectedInline(
            "\n".join(lines) + "\n",
            """\
avx512_bf16 float32 1x1024x1024x1024 NN: tiled compute=f32 tile=6x64 pack=B chain=384 kc=384 mc=96 nc=512 direct_d=1 parts=1x2 parallel rule="packed B: enough rows reuse it"
avx512_bf16 float32 1x1x4096x4096 NN: tiled compute=f32 tile=1x256 pack= chain=384 kc=64 mc=6 nc=3072 direct_d=1 parts=1x2 parallel rule="B in place: few rows"
avx512_bf16 float32 1x1x4096x4096 NT: dot compute=f32 tile=1x64 pack= chain=4096 kc=4096 mc=6 nc=64 direct_d=0 parts=1x2 parallel rule="dot: few rows against a k-contiguous B"
avx512_bf16 float32 1x4096x1x4096 NN: dot compute=f32 tile=1x64 pack= chain=4096 kc=4096 mc=6 nc=64 direct_d=0 parts=1x2 parallel rule="dot: few rows against a k-contiguous B"
avx512_bf16 bfloat16 1x64x768x768 NT: tiled compute=bf16_dot tile=6x64 pack=B chain=768 kc=768 mc=66 nc=512 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x4x4096x4096 NN: tiled compute=bf16_dot tile=4x64 pack= chain=2048 kc=64 mc=6 nc=4096 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
avx512_bf16 float16 1x256x256x256 NN: tiled compute=f32 tile=6x64 pack=AB chain=256 kc=256 mc=150 nc=256 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 complex64 1x256x256x256 NN: tiled compute=f32 complex tile=6x64 pack=B chain=256 kc=256 mc=150 nc=512 direct_d=1 parts=1x2 parallel rule="packed B: enough rows reuse it"
avx512_bf16 int8 1x256x256x256 NN: tiled compute=byte_dot tile=6x64 pack=B chain=256 kc=256 mc=258 nc=256 direct_d=0 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 int8 1x1x4096x4096 NN: tiled compute=byte_dot tile=1x256 pack= chain=2048 kc=64 mc=6 nc=4096 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
avx512_bf16 uint8 1x16x4096x4096 NT: dot compute=byte_dot tile=6x64 pack= chain=4096 kc=4096 mc=18 nc=192 direct_d=0 parts=1x2 parallel rule="dot: few rows against a k-contiguous B"
avx512_bf16 int16 1x16x4096x4096 NN: tiled compute=i16_dot tile=6x64 pack= chain=2048 kc=64 mc=18 nc=4096 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
amx int8 1x6x4096x4096 NT: dot compute=matrix_unit tile=6x64 pack= chain=4096 kc=4096 mc=6 nc=192 direct_d=0 parts=1x2 parallel rule="dot: few rows against a k-contiguous B"
avx2 int8 1x1x4096x4096 NN: tiled compute=i16_dot tile=1x64 pack=A chain=2048 kc=64 mc=6 nc=4096 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
avx512_bf16 float32 10000x4x4x4 NN: tiled compute=f32 tile=4x16 pack= chain=4 kc=4 mc=6 nc=64 direct_d=1 parts=1x1 parallel rule="B in place: few rows"
amx bfloat16 1x1024x1024x1024 NN: tiled compute=matrix_unit tile=32x32 pack=B chain=1024 kc=1024 mc=128 nc=384 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
amx bfloat16 1x16x4096x4096 NT: tiled compute=matrix_unit tile=32x16 pack=B chain=2048 kc=2048 mc=128 nc=32 direct_d=0 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
amx bfloat16 4096x16x16x16 NN: tiled compute=bf16_dot tile=16x16 tall pack=B chain=16 kc=16 mc=16 nc=64 direct_d=1 parts=1x1 parallel rule="packed B: layout or dtype cannot be read in place"
amx uint8 1x100x100x100 TN: tiled compute=matrix_unit tile=25x32 pack=AB chain=100 kc=100 mc=128 nc=128 direct_d=0 parts=1x1 serial rule="packed B: layout or dtype cannot be read in place"
amx float16 1x256x256x256 NN: tiled compute=f32 tile=6x64 pack=AB chain=256 kc=256 mc=150 nc=256 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
amx_fp16 float16 1x256x256x256 NN: tiled compute=matrix_unit tile=32x32 pack=B chain=256 kc=256 mc=128 nc=256 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
amx_fp16 float16 1x16x4096x4096 NT: tiled compute=matrix_unit tile=32x16 pack=B chain=2048 kc=2048 mc=128 nc=32 direct_d=0 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
amx_fp16 float16 1x1x4096x4096 NN: tiled compute=f32 tile=1x256 pack=A keep-a chain=1024 kc=64 mc=6 nc=3072 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
avx512 bfloat16 1x512x512x512 NN: tiled compute=f32 tile=6x64 pack=AB keep-a chain=512 kc=512 mc=72 nc=384 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx2 float32 1x100x100x100 TN: tiled compute=f32 tile=6x16 pack=AB chain=100 kc=100 mc=102 nc=112 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
baseline float64 1x33x17x65 NT: tiled compute=f64 tile=6x4 pack=B chain=65 kc=65 mc=36 nc=20 direct_d=1 parts=1x1 serial rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x100000x16x16 NN: tiled compute=bf16_dot tile=16x16 tall pack=B chain=16 kc=16 mc=512 nc=64 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x4096x2048x2048 TN: tiled compute=bf16_dot tile=6x64 pack=AB keep-a chain=2048 kc=2048 mc=36 nc=192 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx2 float32 1x4096x8x64 NN: tiled compute=f32 tile=12x8 tall pack= chain=64 kc=64 mc=60 nc=16 direct_d=1 parts=2x1 parallel rule="B in place: little reuse"
avx2 complex64 1x512x512x512 TN: tiled compute=f32 complex tile=6x16 pack=AB keep-a chain=384 kc=384 mc=96 nc=256 direct_d=1 parts=2x1 parallel rule="packed B: enough rows reuse it"
avx2 uint8 1x512x512x512 NT: tiled compute=i16_dot tile=6x16 pack=AB keep-a chain=512 kc=512 mc=150 nc=384 direct_d=0 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 float32 1x4096x8x512 NN: dot compute=f32 tile=4x64 pack=A chain=512 kc=512 mc=12 nc=384 direct_d=0 parts=1x2 parallel rule="dot: few rows against a k-contiguous B"
avx512_bf16 float32 1x4096x8x64 NT: tiled compute=f32 tile=16x16 tall pack=B chain=64 kc=64 mc=64 nc=64 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x4096x64x2048 TN: tiled compute=bf16_dot tile=6x64 pack=AB keep-a chain=2048 kc=2048 mc=36 nc=192 direct_d=0 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 float32 1x4x1024x24 NT: tiled compute=f32 tile=4x64 pack=B chain=24 kc=24 mc=6 nc=1024 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
amx bfloat16 1x4096x8x512 NN: tiled compute=matrix_unit tile=32x16 pack=B chain=512 kc=512 mc=128 nc=32 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx2 float32 1x1x1001x1000 NN: tiled compute=f32 tile=1x64 pack= chain=384 kc=64 mc=6 nc=1008 direct_d=1 parts=1x2 parallel rule="B in place: few rows"
avx2 bfloat16 1x12x1001x1000 NN: tiled compute=f32 tile=6x16 pack=A chain=1000 kc=64 mc=12 nc=1008 direct_d=0 parts=1x2 parallel rule="B in place: few rows"
avx2 float32 1x49x35x1000 NN: tiled compute=f32 tile=6x16 pack=B chain=384 kc=384 mc=54 nc=48 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
neon float32 1x48x35x1000 NN: tiled compute=f32 tile=6x12 pack= chain=384 kc=384 mc=48 nc=48 direct_d=1 parts=2x1 parallel rule="B in place: little reuse"
avx512_bf16 float32 1x1x1x100000 NN: dot compute=f32 tile=1x16 pack= chain=100000 kc=100000 mc=6 nc=64 direct_d=0 parts=1x1 parallel rule="dot: few rows against a k-contiguous B"
avx512_bf16 float32 1x1x1x95 NN: tiled compute=f32 tile=1x16 pack= chain=95 kc=95 mc=6 nc=64 direct_d=1 parts=1x1 serial rule="B in place: few rows"
avx512_bf16 complex64 6250x1x1x32 NN: dot compute=f32 complex tile=2x16 pack= chain=32 kc=32 mc=6 nc=64 direct_d=0 parts=1x1 parallel rule="dot: few rows against a k-contiguous B"
avx2 float32 1x2048x2048x2 NN: tiled compute=f32 tile=6x16 pack=B chain=2 kc=2 mc=6 nc=2048 direct_d=1 parts=2x1 parallel rule="packed B: enough rows reuse it"
avx512_bf16 int8 1x1000x1000x24 NN: tiled compute=u16 tile=6x128 pack=B chain=24 kc=24 mc=1002 nc=1024 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 int8 1x1000x1000x25 NN: tiled compute=byte_dot tile=6x64 pack=AB chain=25 kc=25 mc=1002 nc=1024 direct_d=0 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx2 uint8 1x2000x16x16 NT: tiled compute=u16 tile=12x16 tall pack=B chain=16 kc=16 mc=504 nc=32 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx2 int16 1x1000x1000x64 TN: tiled compute=u16 tile=6x32 pack=B chain=64 kc=64 mc=1002 nc=1024 direct_d=1 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 int16 1x16x4096x4095 NN: tiled compute=u16 tile=6x128 pack= chain=2048 kc=64 mc=18 nc=4096 direct_d=1 parts=1x2 parallel rule="B in place: few rows"
avx512_bf16 int16 1x16x2000x16 NT: tiled compute=i16_dot tile=6x64 pack=B chain=16 kc=16 mc=18 nc=2048 direct_d=0 parts=1x2 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x100000x3x3 NN: tiled compute=f32 tile=16x16 tall pack=AB chain=3 kc=3 mc=1360 nc=64 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 bfloat16 1x100000x17x3 NN: tiled compute=bf16_dot tile=6x32 pack=AB chain=3 kc=3 mc=2730 nc=64 direct_d=1 parts=2x1 parallel rule="packed B: layout or dtype cannot be read in place"
avx512_bf16 float64 1x386x512x1 NN: tiled compute=f64 tile=6x32 pack=B chain=1 kc=1 mc=6 nc=512 direct_d=1 parts=1x2 parallel rule="packed B: enough rows reuse it"
""",
        )


def fields(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split('rule="')[0].split() if "=" in word)


@pytest.mark.parametrize("level", LEVELS)
def test_sums_do_not_depend_on_threads(level: str) -> None:
    """What decides the order of a sum (driver, compute type, kc) is the same for every thread count."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        m, n, k, batch = (int(torch.randint(1, 3000, (), generator=generator)) for _ in range(4))
        batch = batch if batch < 8 else 1
        dtype = list(myops._libraries.DTYPE_CODES)[int(torch.randint(11, (), generator=generator))]
        tb = bool(torch.randint(2, (), generator=generator))
        plans = [
            myops.plan(m, n, k, dtype=dtype, batch=batch, transpose_b=tb, isa_level=level, threads=threads)
            for threads in (1, 2, 3, 16, 64)
        ]
        kept = {
            (p.split()[0], fields(p)["compute"], fields(p)["chain"], fields(p)["kc"], fields(p)["pack"]) for p in plans
        }
        assert len(kept) == 1, plans


@pytest.mark.parametrize("level", LEVELS)
def test_batch_invariant_sums_depend_on_dtype_and_depth_alone(level: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def pick(limit: int) -> int:
        return int(torch.randint(1, limit, (), generator=generator))

    free = 0
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128):
        for k in (1, 31, 32, 400, 1500, 5000):
            plans = {True: set(), False: set()}
            for _ in range(60):
                m, n, batch = pick(6) if pick(3) == 1 else pick(3000), pick(3000), pick(4)
                ta, tb, threads = pick(3) == 1, pick(3) == 1, pick(65)
                for mode, found in plans.items():
                    text = myops.plan(
                        m, n, k, dtype=dtype, batch=batch, transpose_a=ta, transpose_b=tb, isa_level=level,
                        threads=threads, batch_invariant=mode,
                    )  # fmt: skip
                    found.add((text.split()[0], fields(text)["compute"], fields(text)["chain"]))
                    assert int(fields(text)["chain"]) in (
                        k,
                        int(fields(text)["chain"]) // int(fields(text)["kc"]) * int(fields(text)["kc"]),
                    )
            assert len(plans[True]) == 1, (dtype, k, plans)
            free += len(plans[False]) > 1
    assert free > 0  # without the mode there is something to keep still


@pytest.mark.parametrize("level", LEVELS)
def test_tiles_fit_the_registers(level: str) -> None:
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16, "avx512_bf16": 16, "amx": 16, "amx_fp16": 16, "neon": 4}[level]
    registers = 32 if level.startswith(("avx512", "amx", "neon")) else 16
    for m, n in [(1, 1), (5, 70), (7, 64), (600, 600), (13, 17), (64, 1000), (600, 3), (4096, 16)]:
        text = myops.plan(m, n, 64, isa_level=level)
        rows, columns = map(int, fields(text)["tile"].split("x"))
        vectors = columns // lanes
        assert (1 <= rows <= 6) != (" tall " in text)
        assert rows * vectors + vectors + 1 <= registers


@pytest.mark.parametrize("level", LEVELS)
def test_tall_tiles_leave_no_thread_without_work(level: str) -> None:
    lanes = {"baseline": 4, "avx2": 8, "neon": 4}.get(level, 16)
    assert " tall " in myops.plan(1000, lanes, 8, isa_level=level, threads=8)
    assert " tall " not in myops.plan(16, lanes, 100000, isa_level=level, threads=2)
    assert " tall " not in myops.plan(1000, lanes + 1, 8, isa_level=level, threads=2)


def test_kept_rows_of_a_fit_the_cache() -> None:
    """A transposed A is turned once for all panels, in parts of at most 8 MB."""
    text = myops.plan(20000, 2048, 2048, dtype=torch.bfloat16, transpose_a=True, isa_level="avx512_bf16", threads=2)
    assert " keep-a " in text
    parts, kc = int(fields(text)["parts"].split("x")[0]), int(fields(text)["kc"])
    assert 20000 / parts * kc * 2 <= 8 << 20 < 20000 / (parts - 1) * kc * 2


def test_small_problems_stay_serial() -> None:
    assert " serial " in myops.plan(32, 32, 32, threads=64)
    assert " parallel " in myops.plan(512, 512, 512, threads=2)


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="isa_level must be"):
        myops.plan(2, 2, 2, isa_level="sse9")
