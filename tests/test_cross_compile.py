"""The CPU engines on other CPUs: they compile for 64-bit ARM and POWER, and compute in an emulator where there is one.

apt-get install g++-aarch64-linux-gnu g++-powerpc64le-linux-gnu qemu-user-static
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels"
INTRINSICS = re.compile(r'#\s*include\s*[<"](\w*intrin|arm_\w+|altivec)\.h[>"]|\b_mm\d*_|__builtin_ia32_')
ENGINES = ["gemm/dispatch", "gemm/plan", "gemm/panels", "gemm/isa/baseline", "sparse/partition"]
TARGETS = {"aarch64": ["gemm/isa/neon"], "powerpc64le": []}


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


@pytest.mark.parametrize("machine", list(TARGETS))
def test_engines_compile_and_compute(machine: str, tmp_path: Path) -> None:
    compiler, emulator = (
        shutil.which(f"{machine}-linux-gnu-g++"),
        shutil.which(f"qemu-{machine}-static".replace("powerpc", "ppc")),
    )
    if compiler is None:
        pytest.skip(f"no {machine}-linux-gnu-g++ here (Debian: g++-{machine}-linux-gnu)")
    program = tmp_path / "engine"
    sources = [
        *(KERNELS / "cpu" / f"{name}.cpp" for name in ENGINES + TARGETS[machine]),
        ROOT / "tests/cross/engine.cpp",
    ]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-static", f"-I{KERNELS}"]
    built = subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-8000:]
    if emulator is None:
        pytest.skip(f"compiles; no qemu-{machine}-static to run it")
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"products on {'neon' if machine == 'aarch64' else 'baseline'}" in done.stdout
