"""Shared fixtures: the devices that exist here, a seed for every test, and the operator table as parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import myops
from myops.registration import OPERATORS

os.environ.setdefault("MYOPS_CPU_GEMM", "own")  # what is to be tested, also where torch's kernels are faster

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COMPLEX = [torch.complex64, torch.complex128]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *COMPLEX, *INTEGERS]
DEVICES = ["cpu"]
if torch.cuda.is_available() and myops.is_available("cuda"):
    DEVICES.append("cuda")

OTHER_LEVELS = [level for level in myops.isa_levels() if level != myops.isa()] if myops.is_available() else []


def run_on_level(level: str, file: str, chosen: str = "") -> None:
    """The tests of a file, those `chosen` as by -k, in a process that is forced to an instruction set level."""
    if os.environ.get("MYOPS_TEST_ONE_ISA") == "1":
        pytest.skip("already inside a forced level")
    command = [sys.executable, "-m", "pytest", "-x", "-q", file, "-p", "no:cacheprovider", "-k", chosen]
    environment = {**os.environ, "MYOPS_ISA": level, "MYOPS_TEST_ONE_ISA": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of references."""
    return torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else torch.int64


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", list(OPERATORS.values()), ids=list(OPERATORS))
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture
def on_device(device: str) -> Iterator[None]:
    """What factories make lies on `device`: for files of which every test runs on every device."""
    with nullcontext() if device == "cpu" else torch.device(device):
        yield


@pytest.fixture
def on_cpu_only(device: str) -> None:
    if device != "cpu":
        pytest.skip("threads and instruction sets are the CPU's")


@pytest.fixture
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA and in its emulation: not torch's kernels, which the library prefers for some products."""
    monkeypatch.setenv("MYOPS_CUDA_GEMM", "own")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def declare_entry_points(folder: Path, group: str) -> None:
    """The metadata of an installed myops with one group of its entry points, for a process that has `folder` in its path."""
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml, which Python 3.11 can")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    metadata = folder / "myops_as_installed-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: myops-as-installed\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in project["entry-points"][group].items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
