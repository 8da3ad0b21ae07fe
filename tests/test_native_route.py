"""MYOPS_CPU_GEMM: which products the CPU leaves to torch's kernels, and that those give what torch gives.

The library reads the variable once, so each mode runs in a process of its own. On CUDA: test_cuda_tiles.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

import myops


def run(mode: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYOPS_CPU_GEMM": mode}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


# Sums of as many terms, in which an own kernel and torch's differ in some bit.
SAME_BITS = """
    import torch, myops
    from torch.testing import assert_close
    torch.manual_seed(0)

    def same(ours, native, equal=True):
        assert_close(ours, native, rtol=1e-4, atol=1e-3)
        assert torch.equal(ours, native) is equal

    for dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        a, b, c = (torch.randn(*shape, dtype=dtype) for shape in ((200, 700), (700, 300), (200, 300)))
        same(myops.mm(a, b), a @ b)
        same(myops.mm(a, b.T.contiguous().T), a @ b.T.contiguous().T)
        same(myops.mm(a[:1], b), a[:1] @ b)
        same(myops.mm(a, b[:, :1]), a @ b[:, :1])
        same(myops.addmm(c, a, b, beta=2, alpha=3), torch.addmm(c, a, b, beta=2, alpha=3))
        same(myops.addmm(c[0], a, b), torch.addmm(c[0], a, b))
        same(myops.addmm(c, a, b, beta=0, alpha=0.5), torch.addmm(c, a, b, beta=0, alpha=0.5))
        same(myops.addmm_(c.clone(), a, b, beta=0.5), torch.addmm(c, a, b, beta=0.5))
        out = torch.empty(300, 200, dtype=dtype).T
        same(myops.mm(a, b, out=out), a @ b, False)  # columns in order: torch would copy
        x, y = a.view(4, 50, 700), torch.randn(4, 700, 30, dtype=dtype)
        same(myops.bmm(x, y), torch.bmm(x, y))
        same(myops.baddbmm(c[:50, :30], x, y, beta=2, alpha=3), torch.baddbmm(c[:50, :30], x, y, beta=2, alpha=3))
        with myops.use(strict=True):
            switched = a @ b, torch.addmm(c, a, b), torch.bmm(x, y)
        for ours, native in zip(switched, (a @ b, torch.addmm(c, a, b), torch.bmm(x, y))):
            same(ours, native)
        # Own kernels: what torch would copy, and what a mode or an epilogue asks for.
        same(myops.mm(a[:, ::2], b[::2]), a[:, ::2] @ b[::2], False)
        with myops.use((), batch_invariant=True):
            same(myops.mm(a, b), a @ b, False)
    w = b.real.float().T
    x = a.real.float()
    same(myops.linear(x, myops.pack_weight(w)), torch.nn.functional.linear(x, w), False)
    same(myops.linear(x, w, activation="relu"), torch.nn.functional.linear(x, w).relu(), False)
    i = torch.randint(-9, 9, (200, 200))
    assert torch.equal(myops.mm(i, i), i @ i)
    print(myops.build_info()["cpu_gemm"])
"""


def test_native_takes_what_torch_takes_as_it_is() -> None:
    done = run("native", SAME_BITS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "native"


def test_own_takes_everything() -> None:
    code = """
        import torch, myops
        torch.manual_seed(0)
        a, b = torch.randn(200, 700), torch.randn(700, 300)
        assert not torch.equal(myops.mm(a, b), a @ b)
        print(myops.build_info()["cpu_gemm"])
    """
    done = run("own", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "own"


def test_wrong_mode_is_an_error_everywhere() -> None:
    code = """
        import torch, myops
        calls = [lambda: myops.mm(torch.ones(2, 2), torch.ones(2, 2)), myops.enable, myops.build_info]
        for call in calls * 2:
            try:
                call()
            except RuntimeError as error:
                assert "MYOPS_CPU_GEMM must be own, native or auto, but is fast" in str(error), error
            else:
                raise AssertionError(call)
    """
    done = run("fast", code)
    assert done.returncode == 0, done.stdout + done.stderr


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
    assert not any(route(level) for level in ("baseline", "avx2", "avx512", "avx512_bf16", "neon"))
