"""Every CUDA unit compiles by nvcc, without warnings, and no kernel spills registers or exceeds its shared memory.

Skipped where no nvcc is found. What the kernels compute is tested by tests/test_cuda_emulation.py, without nvcc.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CUDA = REPOSITORY / "kernels" / "cuda"
HOPPER = "-gencode=arch=compute_90a,code=sm_90a"
AMPERE = "-gencode=arch=compute_80,code=[sm_80,compute_80]"
STATIC_SHARED_LIMIT = 48 * 1024

# The launchers and entry points hold no kernel: one architecture is enough, and they cost as much as a kernel each.
HOST_ONLY = {"addmm.cu", "bmm.cu", "matmul.cu", "linear.cu", "add.cu", "spmm.cu", "spgemm.cu", "backend.cu"}
HOST_ONLY |= {"gemm/gemm.cu", "sparse/spmm.cu"}
UNITS = sorted(str(p.relative_to(CUDA)) for p in CUDA.rglob("*.cu"))


def find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and os.path.exists(os.path.join(home, "bin", "nvcc")):
            return os.path.join(home, "bin", "nvcc")
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(
    NVCC is None, reason="nvcc is neither in CUDA_HOME, nor on PATH, nor in /usr/local/cuda/bin"
)


def compile_unit(unit: str, output: Path) -> str:
    from torch.utils.cpp_extension import include_paths

    command = [NVCC, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror", HOPPER]
    command += [] if unit in HOST_ONLY else [AMPERE]
    command += ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
    for path in include_paths():
        command += ["-isystem", path]
    result = subprocess.run(
        [*command, "-c", str(CUDA / unit), "-o", str(output)], capture_output=True, text=True, timeout=300
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, f"{' '.join(command)}\n{log}"
    return log


@pytest.mark.parametrize("unit", UNITS)
def test_unit_compiles_without_spills(unit, tmp_path):
    log = compile_unit(unit, tmp_path / "unit.o")
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert all(frame == ("0", "0", "0") for frame in frames), log
    shared = [int(n) for n in re.findall(r"(\d+) bytes smem", log)]
    assert all(n <= STATIC_SHARED_LIMIT for n in shared), log
    assert bool(frames) == (unit not in HOST_ONLY), "HOST_ONLY above names the units without kernels"
