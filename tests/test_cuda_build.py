"""Every CUDA unit compiles by nvcc, without warnings, and no kernel spills registers or exceeds its shared memory.

Skipped where no nvcc is found. What the kernels compute is tested by tests/test_cuda_emulation.py, without nvcc.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CUDA = REPOSITORY / "kernels" / "cuda"
HOPPER = "-gencode=arch=compute_90a,code=sm_90a"
AMPERE = "-gencode=arch=compute_80,code=[sm_80,compute_80]"
STATIC_SHARED_LIMIT = 48 * 1024

# The launchers and entry points hold no kernel: one architecture is enough, and they cost as much as a kernel each.
HOST_ONLY = {"addmm.cu", "bmm.cu", "matmul.cu", "linear.cu", "add.cu", "spmm.cu", "spgemm.cu", "backend.cu"}
HOST_ONLY |= {"native_sparse.cu", "tensor_map.cu", "gemm/gemm.cu", "gemm/by_name.cu", "sparse/spmm.cu"}
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


# What the machine code of a unit must contain: a kernel that fell back to something else would only be slow.
INSTRUCTIONS = {
    "gemm/wgmma_bf16.cu": ("sm_90a", ["HGMMA.64x256x16.F32.BF16", "HGMMA.64x128x16.F32.BF16", "UTMALDG.5D"]),
    "gemm/wgmma_f16.cu": ("sm_90a", ["HGMMA.64x256x16.F32", "HGMMA.64x128x16.F32", "UTMALDG.5D"]),
    "gemm/wgmma_tf32.cu": ("sm_90a", ["HGMMA.64x256x8.F32.TF32", "HGMMA.64x128x8.F32.TF32", "UTMALDG.5D"]),
    "gemm/mma_tf32.cu": ("sm_80", ["HMMA.1688.F32.TF32", "LDSM.16.M88.4", "LDGSTS"]),
    "gemm/mma_half.cu": ("sm_80", ["HMMA.16816.F32.BF16", "HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS"]),
    "gemm/mma_byte.cu": ("sm_80", ["IMMA.16832.S8.S8", "IMMA.16832.U8.U8", "LDSM.16.M88.4", "LDGSTS"]),
    "gemm/limb_tile.cu": ("sm_80", ["IMMA.16832.S8.S8", "IMMA.16832.U8.U8", "LDSM.16.M88.4"]),
    "gemm/limb_wgmma.cu": ("sm_90a", ["IGMMA.64x256x32.S8.S8", "IGMMA.64x128x32.U8.U8", "UTMALDG.5D"]),
    "gemm/tiny.cu": ("sm_80", ["LDGSTS", "LDS.128", "STG.E.128"]),
    "gemm/skinny_half.cu": ("sm_80", ["HMMA.16816.F32.BF16", "HMMA.16816.F32", "LDG.E.128"]),
}


def find_cuobjdump() -> Path | None:
    """Beside nvcc, on PATH, or in triton's wheel, which has it with a disassembler; the toolkit from PyPI has neither."""
    places = [Path(found).parent for name in ("nvcc", "cuobjdump") if (found := shutil.which(name))]
    if NVCC is not None:
        places.append(Path(NVCC).parent)
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return next((p / "cuobjdump" for p in places if (p / "cuobjdump").exists() and (p / "nvdisasm").exists()), None)


def machine_code(unit: str, object_file: Path) -> str | None:
    """The disassembly for the architecture in INSTRUCTIONS, None where there is no disassembler."""
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        return None
    environment = {**os.environ, "PATH": f"{cuobjdump.parent}:{os.environ.get('PATH', '')}"}
    command = [str(cuobjdump), "-sass", "-arch", INSTRUCTIONS[unit][0], str(object_file)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=600).stdout


def compile_unit(unit: str, output: Path) -> str:
    from torch.utils.cpp_extension import include_paths

    command = [NVCC, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror", HOPPER]
    command += [] if unit in HOST_ONLY else [AMPERE]
    command += ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage", "-Werror", "all-warnings"]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
    for path in include_paths():
        command += ["-isystem", path]
    result = subprocess.run(
        [*command, "-c", str(CUDA / unit), "-o", str(output)], capture_output=True, text=True, timeout=1200
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, f"{' '.join(command)}\n{log}"
    return log


def object_of(unit: str, folder: Path) -> Path:
    return folder / unit.replace("/", "_").replace(".cu", ".o")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def logs(request: pytest.FixtureRequest, folder: Path) -> Iterator[dict[str, Future[str]]]:
    """The compiler's output for each unit that is tested: all are under way at once, a unit for a core."""
    tested = [item.callspec.params["unit"] for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {unit: pool.submit(compile_unit, unit, object_of(unit, folder)) for unit in tested}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("unit", UNITS)
def test_unit_compiles_without_spills(unit, logs, folder):
    log = logs[unit].result()
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert all(frame == ("0", "0", "0") for frame in frames), log
    shared = [int(n) for n in re.findall(r"(\d+) bytes smem", log)]
    assert all(n <= STATIC_SHARED_LIMIT for n in shared), log
    assert bool(frames) == (unit not in HOST_ONLY), "HOST_ONLY above names the units without kernels"
    code = machine_code(unit, object_of(unit, folder)) if unit in INSTRUCTIONS else None
    if code is not None:
        missing = [name for name in INSTRUCTIONS[unit][1] if name not in code]
        assert not missing, f"{unit} does not use {missing}"
        assert not re.search(r"\b(LDL|STL)\b", code), f"{unit} uses local memory"
        # ACQBULK waits for the kernel in front: a fence before it would be paid at every launch.
        prologues = [kernel.split("ACQBULK")[0] for kernel in code.split("Function :")[1:] if "UTMALDG" in kernel]
        assert not any("MEMBAR" in prologue for prologue in prologues), f"{unit} fences all memory at its start"
