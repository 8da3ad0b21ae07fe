"""When threads are used. Counted, never timed: OpenMP keeps the threads that a region started, so a process shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import myops

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")

PREAMBLE = """
import ctypes, os, sys, threading
from pathlib import Path
import torch, myops

def running():
    return len(os.listdir("/proc/self/task"))

def product(m, n, k, dtype, batch=1, transposed=False):
    shape = (lambda *s: s if batch == 1 else (batch, *s))
    a = torch.ones(shape(m, k)).to(dtype)
    b = torch.ones(shape(n, k)).to(dtype).mT if transposed else torch.ones(shape(k, n)).to(dtype)
    return myops.matmul(a, b)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int8, torch.int64]
SMALL = [(1, 1, 1), (8, 8, 8), (32, 32, 32), (1, 64, 200), (40, 1, 40), (3, 17, 65)]
"""


def run(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_small_products_start_no_thread() -> None:
    run("""
torch.set_num_threads(4)
product(1, 1, 1, torch.float32)
before = running()
for dtype in DTYPES:
    for shape in SMALL:
        for transposed in (False, True):
            product(*shape, dtype, transposed=transposed)
    product(4, 4, 4, dtype, batch=20)
    myops.linear(torch.ones(2, 20).to(dtype), myops.pack_weight(torch.ones(30, 20).to(dtype)))
assert running() == before, (running(), before)
product(512, 512, 512, torch.float32)
assert running() == before + 3, (running(), before)  # so the count above can fail
""")


def test_set_num_threads_is_obeyed() -> None:
    run("""
torch.set_num_threads(1)
before = running()
for dtype in DTYPES:
    product(300, 300, 300, dtype)
assert running() == before, (running(), before)
torch.set_num_threads(3)
for dtype in DTYPES:
    product(300, 300, 300, dtype)
assert running() == before + 2, (running(), before)
""")


@pytest.mark.skipif("openmp" not in torch.__config__.parallel_info().lower(), reason="enters a region of OpenMP itself")
def test_nested_regions_stay_serial() -> None:
    """Products called inside of a parallel region, on each of its threads: right, and without threads of their own."""
    run("""
torch.set_num_threads(2)
libraries = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")) + ["libgomp.so.1"]
gomp = ctypes.CDLL(str(libraries[0]))
a, b = torch.randn(300, 400), torch.randn(400, 500)
expected, packed = myops.mm(a, b), myops.pack_weight(b.mT)
before = running()
seen, lock = {}, threading.Lock()

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def body(_):
    assert gomp.omp_in_parallel()
    got = torch.equal(myops.mm(a, b), expected) and torch.equal(myops.linear(a, packed), expected)
    with lock:
        seen[threading.get_native_id()] = got

gomp.GOMP_parallel(body, None, 2, 0)
assert len(seen) == 2 and all(seen.values()), seen
assert running() <= before + 2, (running(), before)
""")


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "avx512_bf16", "amx", "amx_fp16", "neon"])
def test_plans_go_parallel_in_one_place(level: str) -> None:
    """As a product grows it goes parallel once, at the same size for any number of threads, and never for one thread."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8):
        sizes = list(range(2, 400, 2))
        modes = [
            tuple(" parallel " in myops.plan(n, n, n, dtype=dtype, isa_level=level, threads=t) for t in (1, 2, 16))
            for n in sizes
        ]
        assert not any(one for one, _, _ in modes)
        assert all(two == sixteen for _, two, sixteen in modes)
        assert modes == sorted(modes)
        assert not modes[sizes.index(16)][1]
        assert modes[-1][1]
