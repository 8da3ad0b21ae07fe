"""The CPU engines on other CPUs: they compile for 64-bit ARM and POWER, and compute in an emulator where there is one;
and those of AVX-512 and AMX compute where there is neither, by tests/emulation/x86.

apt-get install g++-aarch64-linux-gnu g++-powerpc64le-linux-gnu qemu-user-static
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import myops

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels"
INTRINSICS = re.compile(r'#\s*include\s*[<"](\w*intrin|arm_\w+|altivec)\.h[>"]|\b_mm\d*_|__builtin_ia32_')
ENGINES = ["gemm/plan", "gemm/panels", "sparse/partition"]
TARGETS = {"aarch64": ["gemm/isa/neon"], "powerpc64le": []}
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{KERNELS}"]


def test_intrinsics_stay_in_their_folder() -> None:
    found = {
        str(path.relative_to(KERNELS))
        for suffix in ("*.h", "*.cpp")
        for path in KERNELS.rglob(suffix)
        if INTRINSICS.search(path.read_text(encoding="utf-8"))
    }
    assert found, "the pattern finds nothing"
    assert {Path(name).parent.as_posix() for name in found} == {"cpu/gemm/isa"}
    portable = {"cpu/gemm/isa/" + name for name in ("portable.h", "engine.h", "baseline.cpp")}
    assert not found & portable


def build(program: Path, units: list[str], *command: str) -> None:
    sources = [*(KERNELS / "cpu" / f"{name}.cpp" for name in ENGINES + units), ROOT / "tests/cross/engine.cpp"]
    built = subprocess.run([*command, *FLAGS, *map(str, sources), "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-8000:]


@pytest.mark.parametrize("machine", list(TARGETS))
def test_engines_compile_and_compute(machine: str, tmp_path: Path) -> None:
    compiler, emulator = (
        shutil.which(f"{machine}-linux-gnu-g++"),
        shutil.which(f"qemu-{machine}-static".replace("powerpc", "ppc")),
    )
    if compiler is None:
        pytest.skip(f"no {machine}-linux-gnu-g++ here (Debian: g++-{machine}-linux-gnu)")
    program = tmp_path / "engine"
    build(program, ["gemm/dispatch", "gemm/isa/baseline", *TARGETS[machine]], compiler, "-O2", "-static")
    if emulator is None:
        pytest.skip(f"compiles; no qemu-{machine}-static to run it")
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"products on {'neon' if machine == 'aarch64' else 'baseline'}" in done.stdout


# tests/levels.sh runs the suite on them.
@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86")
def test_levels_that_this_machine_lacks_compute(tmp_path: Path) -> None:
    folder = ROOT / "tests/emulation/x86"
    levels = [f"gemm/isa/{level}" for level in ("avx512", "avx512_bf16", "amx")]
    build(tmp_path / "engine", levels, "g++", "-O0", "-Wno-psabi", f"-I{folder}", str(folder / "levels.cpp"))
    done = subprocess.run([tmp_path / "engine"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "products on amx_fp16" in done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction of x86")
def test_instructions_that_are_written_by_their_bytes() -> None:
    library = (Path(myops.__file__).parent / "libmyops_cpu.so").read_bytes()
    # tdpfp16ps tmm0, tmm4, tmm6; tmm1, tmm4, tmm7; tmm2, tmm5, tmm6; tmm3, tmm5, tmm7, by GNU as 2.40.
    for code in ("c4e24b5cc4", "c4e2435ccc", "c4e24b5cd5", "c4e2435cdd"):
        assert bytes.fromhex(code) in library
