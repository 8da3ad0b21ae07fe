"""`python -m myops.info` and `TORCH_LOGS="+myops"`: what people are told about an installation and a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import myops
from myops import _libraries, info
from myops.registration import COMPONENTS, OPERATORS


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(Path(myops.__file__).parents[1]), **environment}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=environment["PYTHONPATH"],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_json() -> None:
    found = json.loads(run("-m", "myops.info", "--json", MYOPS_DISABLE="0").stdout)
    assert found["myops"] == myops.__version__
    assert found["torch_running"] == torch.__version__
    assert list(found["operators"])[: len(OPERATORS) + len(COMPONENTS)] == [*OPERATORS, *COMPONENTS]
    assert {"csr_rows", "linear_packed", "native_mm", "sparse_mm"} <= set(found["operators"])
    assert found["operators"]["mm"]["others"].startswith("torch's own")
    assert found["operators"]["native_mm"]["others"] == "no"
    addmm = found["operators"]["addmm"]
    assert addmm["cpu"] == f"ok: {myops.isa()}"
    assert {"myops.addmm.default", "myops.addmm.out", "myops.addmm_.default"} <= set(addmm["overloads"])
    assert "aten._addmm_activation (CPU, CUDA)" in addmm["rerouted"]
    assert found["operators"]["linear"]["rerouted"] == []
    assert "aten._sparse_mm_reduce_impl (SparseCsrCPU)" in found["rerouted_others"]["sparse.mm"]
    assert found["rerouted_others"]["addmv"][0] == "aten.mv (CPU)"
    assert found["environment"]["MYOPS_DISABLE"] == "0"
    if not myops.is_available("cuda"):
        assert addmm["cuda"] == _libraries.cuda_error


def test_text_has_every_operator_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    info.main([])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    for name in (*OPERATORS, *COMPONENTS):
        assert any(line.startswith(f"{name} ") and " yes " in line for line in lines), name
    assert any(line.startswith("sparse.sampled_addmm ") and "aten.sparse_sampled_addmm" in line for line in lines)
    assert lines[next(i for i, line in enumerate(lines) if "aten.mv" in line) - 1].startswith("other calls of torch")
    for name in info.VARIABLES:
        assert any(line.startswith(f"{name} = ") for line in lines)
    if not myops.is_available("cuda"):
        assert f"cuda    {_libraries.cuda_error}" in lines


def test_full_has_what_torch_says_of_the_system() -> None:
    assert "PyTorch version" in run("-m", "myops.info", "--full").stdout


@pytest.mark.parametrize("library", [None, b"no library"], ids=["missing", "garbage"])
def test_a_library_that_does_not_load_is_said(tmp_path: Path, library: bytes | None) -> None:
    package = Path(myops.__file__).parent
    shutil.copytree(package, tmp_path / "myops", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if library is not None:
        (tmp_path / "myops" / "libmyops_cpu.so").write_bytes(library)
    found = json.loads(run("-m", "myops.info", "--json", PYTHONPATH=str(tmp_path)).stdout)
    assert found["path"] == str(tmp_path / "myops")
    assert {"addmm", "spmm"} <= set(found["operators"])
    for row in found["operators"].values():
        assert row["overloads"] == []
        assert row["cpu"] == row["cuda"]
        assert row["cpu"].startswith("the CPU library of myops is not loaded (built with torch ")
        assert row["others"] == "no"
    assert found["devices"]["cpu"] in run("-m", "myops.info", PYTHONPATH=str(tmp_path)).stdout


def test_variables_with_a_wrong_value_are_said() -> None:
    found = json.loads(run("-m", "myops.info", "--json", MYOPS_ISA="z80", MYOPS_CPU_GEMM="fast").stdout)
    assert found["isa"].startswith("MYOPS_ISA=z80 is not available here: ")
    assert found["devices"]["cpu"] == found["isa"]
    assert found["cpu_gemm"] == "MYOPS_CPU_GEMM must be own, native or auto, but is fast"


def test_a_torch_that_is_too_old_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs torch" not in _libraries.load_failure("CPU", "its words")
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    assert "running torch 2.10.1+cpu, and myops needs torch >= 2.11): its words" in _libraries.load_failure(
        "CPU", "its words"
    )


LOGGED = """
import torch, myops
a = torch.ones(2, 2)
with myops.use(("addmm",)):
    for _ in range(2):
        torch.addmm(a.int(), a.int(), a.int(), beta=0.5)
"""


def test_torch_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    quiet = run("-c", LOGGED)
    assert quiet.stderr == ""
    lines = run("-c", LOGGED, TORCH_LOGS="+myops").stderr.splitlines()
    assert [line.partition("] ")[2].partition(": ")[0] for line in lines if "override.py" in line] == [
        "aten's addmm goes to myops",
        "aten::addmm on CPU goes to native",  # once for each reason
        "aten's addmm is native again",
    ]
