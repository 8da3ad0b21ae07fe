"""A build stops at a kernel that spills, and the machine code of ours has the instructions that it was written for.

The build itself shows that every unit compiles, under MYOPS_WERROR=1 without warnings and spills. What the kernels
compute is tested by tests/test_cuda_emulation.py, without nvcc.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
OBJECTS = REPOSITORY / "build" / "ninja"


def find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and os.path.exists(os.path.join(home, "bin", "nvcc")):
            return os.path.join(home, "bin", "nvcc")
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


NVCC = find_nvcc()

SPILLS = """
__global__ void __launch_bounds__(1024) spills(const float* from, float* to, const int* order) {
  float held[256];
  for (int i = 0; i < 256; ++i) held[i] = from[threadIdx.x + 1024 * i];
  for (int i = 0; i < 256; ++i) to[threadIdx.x + 1024 * i] = held[INDEX];
}
"""


@pytest.mark.skipif(NVCC is None, reason="nvcc is neither in CUDA_HOME, nor on PATH, nor in /usr/local/cuda/bin")
@pytest.mark.skipif(not (REPOSITORY / "setup.py").is_file(), reason="the package is installed: setup.py is not here")
@pytest.mark.parametrize(
    ("index", "words"), [("255 - i", "Registers are spilled to local memory"), ("order[i]", "Local memory used")]
)
def test_a_kernel_in_local_memory_stops_the_build(tmp_path: Path, index: str, words: str) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "myops_autoload.py"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "kernels" / "cuda").mkdir(parents=True)
    (tmp_path / "kernels" / "empty.cpp").write_text("")
    (tmp_path / "kernels" / "cuda" / "spills.cu").write_text(SPILLS.replace("INDEX", index))

    def build(strict: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "built")]
        environment = {**os.environ, "MYOPS_WERROR": strict, "MYOPS_CUDA": "1"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    for strict in ("0", "1"):
        done = build(strict)
        assert words in done.stdout
        assert (done.returncode == 0) == (strict == "0"), done.stdout


# A kernel that fell back to something else would only be slow.
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


@pytest.mark.parametrize("unit", INSTRUCTIONS)
def test_machine_code(unit: str) -> None:
    compiled = OBJECTS / f"cuda_{unit.replace('/', '_')}.o"
    cuobjdump = find_cuobjdump()
    if not compiled.is_file() or cuobjdump is None:
        pytest.skip("needs the objects of a build in this checkout, cuobjdump and nvdisasm")
    architecture, instructions = INSTRUCTIONS[unit]
    command = [str(cuobjdump), "-sass", "-arch", architecture, str(compiled)]
    environment = {**os.environ, "PATH": f"{cuobjdump.parent}:{os.environ.get('PATH', '')}"}
    code = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=600).stdout
    missing = [name for name in instructions if name not in code]
    assert not missing, f"{unit} does not use {missing}"
    assert not re.search(r"\b(LDL|STL)\b", code), f"{unit} uses local memory"
    # ACQBULK waits for the kernel in front: a fence before it would be paid at every launch.
    prologues = [kernel.split("ACQBULK")[0] for kernel in code.split("Function :")[1:] if "UTMALDG" in kernel]
    assert not any("MEMBAR" in prologue for prologue in prologues), f"{unit} fences all memory at its start"
