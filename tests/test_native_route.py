"""MYOPS_CPU_GEMM: which products the CPU leaves to torch's kernels, and that those give what torch gives.

The library reads the variable once, so each mode runs in a process of its own. On CUDA: test_cuda_tiles.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import myops


def run(mode: str, code: str, *arguments: str) -> None:
    environment = {**os.environ, "MYOPS_CPU_GEMM": mode}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# What is left to torch has torch's bits; what is kept has those of MYOPS_CPU_GEMM=own, which the two processes write down.
PRODUCTS = """
    import sys
    import torch, myops
    from torch.testing import assert_close

    torch.manual_seed(0)
    mode, kept = myops.build_info()["cpu_gemm"], []

    def left(ours, native):
        assert_close(ours, native, rtol=1e-4, atol=1e-3)
        assert mode == "own" or torch.equal(ours, native)

    def keep(ours, native):
        assert_close(ours, native, rtol=1e-4, atol=1e-3)
        kept.append(ours)

    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        a, b, c = (torch.randn(*shape, dtype=dtype) for shape in ((200, 700), (700, 300), (200, 300)))
        left(myops.mm(a, b), a @ b)
        left(myops.mm(a, b.T.contiguous().T), a @ b.T.contiguous().T)
        left(myops.mm(a[:1], b), a[:1] @ b)
        left(myops.mm(a, b[:, :1]), a @ b[:, :1])
        left(myops.mm(a.T.contiguous().mH, b), a.T.contiguous().mH @ b)
        left(myops.mm(a, b.T.contiguous().mH), a @ b.T.contiguous().mH)
        left(myops.addmm(c, a, b, beta=2, alpha=3), torch.addmm(c, a, b, beta=2, alpha=3))
        left(myops.addmm(c[0], a, b), torch.addmm(c[0], a, b))
        left(myops.addmm(c, a, b, beta=0, alpha=0.5), torch.addmm(c, a, b, beta=0, alpha=0.5))
        left(myops.addmm_(c.clone(), a, b, beta=0.5), torch.addmm(c, a, b, beta=0.5))
        x, y = a.view(4, 50, 700), torch.randn(4, 700, 30, dtype=dtype)
        left(myops.bmm(x, y), torch.bmm(x, y))
        left(myops.baddbmm(c[:50, :30], x, y, beta=2, alpha=3), torch.baddbmm(c[:50, :30], x, y, beta=2, alpha=3))
        with myops.use(strict=True):
            switched = a @ b, torch.addmm(c, a, b), torch.bmm(x, y)
        for ours, native in zip(switched, (a @ b, torch.addmm(c, a, b), torch.bmm(x, y))):
            left(ours, native)
        # What torch would copy, and what a mode or an epilogue asks for.
        keep(myops.mm(a, b, out=torch.empty(300, 200, dtype=dtype).T), a @ b)
        keep(myops.mm(a[:, ::2], b[::2]), a[:, ::2] @ b[::2])
        if dtype.is_complex:
            keep(myops.mm(a.conj(), b), a.conj() @ b)
            keep(myops.bmm(x.mH, x), torch.bmm(x.mH, x))
        with myops.use((), batch_invariant=True):
            keep(myops.mm(a, b), a @ b)
    x, w = a.real.float(), b.real.float().T
    keep(myops.linear(x, myops.pack_weight(w)), torch.nn.functional.linear(x, w))
    keep(myops.linear(x, w, activation="relu"), torch.nn.functional.linear(x, w).relu())
    i = torch.randint(-9, 9, (200, 200))
    assert torch.equal(myops.mm(i, i), i @ i)
    torch.save({"mode": mode, "kept": kept}, sys.argv[1])
"""


def test_native_takes_what_torch_takes_as_it_is(tmp_path: Path) -> None:
    kept = {}
    for mode in ("native", "own"):
        run(mode, PRODUCTS, str(tmp_path / mode))
        saved = torch.load(tmp_path / mode)
        assert saved["mode"] == mode
        kept[mode] = saved["kept"]
    assert len(kept["own"]) == 18
    assert all(torch.equal(a, b) for a, b in zip(kept["native"], kept["own"], strict=True))


def test_wrong_mode_is_an_error_everywhere() -> None:
    code = """
        import torch, myops
        calls = [lambda: myops.mm(torch.ones(2, 2), torch.ones(2, 2)), myops.enable]
        assert "own, native or auto, but is fast" in myops.build_info()["cpu_gemm"]
        for call in calls * 2:
            try:
                call()
            except RuntimeError as error:
                assert "MYOPS_CPU_GEMM must be own, native or auto, but is fast" in str(error), error
            else:
                raise AssertionError(call)
    """
    run("fast", code)


F32, F64, F16, BF16, C64 = torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64


@pytest.mark.parametrize(
    ("native", "kind", "m", "n", "k", "batch"),
    [
        (True, F32, 1, 768, 768, 1),
        (False, F32, 2, 4096, 4096, 1),
        (False, F32, 16, 4096, 4096, 1),
        (True, F32, 17, 509, 257, 1),
        (True, F64, 512, 512, 512, 1),
        (False, F32, 31, 31, 31, 1),  # too little to ask for
        (True, F32, 32, 32, 32, 1024),
        (False, F32, 4096, 4096, 8, 1),
        (False, F16, 256, 768, 768, 1),
        (True, F16, 1024, 1024, 1024, 1),
        (False, BF16, 1024, 1024, 1024, 1),
        (True, C64, 256, 256, 256, 1),
        (False, torch.int32, 256, 256, 256, 1),
    ],
    ids=str,
)
def test_automatic_choice(native: bool, kind: torch.dtype, m: int, n: int, k: int, batch: int) -> None:
    def route(level: str, **options: bool) -> bool:
        return myops.plan(m, n, k, dtype=kind, batch=batch, isa_level=level, **options).endswith(" route=native")

    assert route("amx") is native
    assert route("amx", transpose_b=True) is native
    assert not route("amx", batch_invariant=True)
    assert route("amx_fp16") is (native and kind != F16)
    assert not any(route(level) for level in ("baseline", "avx2", "avx512", "avx512_bf16", "neon"))
