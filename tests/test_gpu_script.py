"""benchmarks/gpu.py without a GPU: its cases run on the CPU at tiny shapes, kernels in the emulation. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # benchmarks/ is not an installed package


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=REPOSITORY)


@pytest.mark.parametrize(("phase", "family"), [("smoke", "all"), ("kernels", "tiny"), ("timing", "epilogue")])
def test_a_phase_writes_a_record_for_each_case(tmp_path: Path, phase: str, family: str) -> None:
    out = tmp_path / "gpu.jsonl"
    result = run("--dry-run", "--phases", phase, "--families", family, "--out", str(out))
    assert result.returncode == 0, result.stdout + result.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert records
    assert all((r["phase"], r["family"], r["status"]) == (phase, family, "ok") for r in records)
    assert [r["index"] for r in records] == list(range(len(records)))


def test_a_wrong_kernel_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import gpu, gpu_kernels

    monkeypatch.setattr(gpu_kernels, "product", lambda a, b: a.double() @ b.double() + 1)
    monkeypatch.setattr(gpu_kernels, "SHAPES", {"tiny": [(2, 3, 3, 3)]})
    monkeypatch.setenv("MYOPS_CUDA_GEMM", "own")  # the worker sets it
    assert gpu.work("kernels", "tiny", 0, dry=True) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    exact = [r for r in records if r["status"] != "started" and "error" not in r["case"]]
    assert exact
    assert all(r["status"] == "wrong" and "elements differ" in r["message"] for r in exact)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = run("--phases", "smoke")
    assert result.returncode == 2
    assert "needs a GPU" in result.stdout
