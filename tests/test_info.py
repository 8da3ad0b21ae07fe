"""`python -m myops.info` and `TORCH_LOGS="+myops"`: what people are told about an installation and a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import myops
from myops import _libraries, info
from myops.registration import COMPONENTS, OPERATORS


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = str(Path(myops.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, timeout=600,
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


def test_a_library_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_libraries, "cpu_error", "its words")
    found = info.collect()
    for row in found["operators"].values():
        assert row["overloads"] == []
        assert row["cpu"] == row["cuda"] == _libraries.load_failure("CPU", "its words")
    assert "its words" in info.text(found)


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
