"""PyTorch's own test files under the switch, and the pytest plugin that runs them.

    git clone --depth 1 --branch v2.13.0 https://github.com/pytorch/pytorch     # the version that is installed
    MYOPS_PYTORCH_TESTS=pytorch/test pytest tests/test_upstream.py

What fails there without myops as well is not held against it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import myops

FOLDER = os.environ.get("MYOPS_PYTORCH_TESTS")
SELECTED = {
    "test_sparse_csr.py": "mm or matmul or sampled",
    "test_sparse.py": "mm or matmul",
    "test_linalg.py": "addmm or baddbmm or bmm or matmul or mm_ or einsum or tensordot",
    "test_torch.py": "bmm or matmul or addmm",
    "test_nn.py": "Linear or MultiheadAttention or TransformerEncoderLayer or Bilinear",
    "test_transformers.py": "encoder and cpu",
}

SAMPLE = """
import torch
from torch.testing._internal.common_utils import TestCase, run_tests

class TestProducts(TestCase):
    def test_mm(self):
        self.assertEqual(torch.mm(torch.eye(3), torch.ones(3, 2)), torch.ones(3, 2))
        with self.assertRaisesRegex(RuntimeError, "mat1 and mat2 shapes cannot be multiplied"):
            torch.mm(torch.eye(3), torch.ones(2, 3))
    def test_other(self):
        self.assertEqual(torch.ones(2).sum(), torch.tensor(2.0))
    def test_broken(self):
        self.assertEqual(torch.mm(torch.eye(2), torch.eye(2)), torch.ones(2, 2))
"""


def run(file: Path, selected: str, *plugins: str, options: Sequence[str] = ()) -> tuple[int, str]:
    # Their conftest.py shards and reports for their own runs, in words of one version of pytest.
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--no-header", "--noconftest", file.name]
    command += ["-p", "no:cacheprovider"]
    command += [part for plugin in plugins for part in ("-p", plugin)]
    done = subprocess.run(
        [*command, *options, "-k", selected, "--tb=line", "-W", "ignore", "-o", "addopts="],
        cwd=file.parent, capture_output=True, text=True, timeout=1800,
        env={**os.environ, "PYTHONPATH": str(Path(myops.__file__).parents[1])},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def failures(text: str) -> set[str]:
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.M))


def calls(text: str) -> int:
    (found,) = re.findall(r"^rerouted calls: (\d+)$", text, re.M)
    return int(found)


def test_plugin(tmp_path: Path) -> None:
    pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
    file = tmp_path / "test_sample.py"
    file.write_text(SAMPLE)
    status, text = run(file, "test_mm", "myops.pytest_plugin")
    assert (status, calls(text)) == (0, 1), text
    assert "1 native: input and mat2 shapes cannot be multiplied (3x3 and 2x3)" in text
    status, text = run(file, "test_other", "myops.pytest_plugin")
    assert (status, calls(text)) == (1, 0), "a run that never reaches myops has to fail"
    assert "no call reached myops" in text
    status, text = run(file, "test", "myops.pytest_plugin")
    assert (status, failures(text)) == (1, {"test_sample.py::TestProducts::test_broken"})
    status, text = run(file, "test_mm or test_other")
    assert status == 0
    assert "rerouted" not in text
    status, text = run(file, "test_other", "myops.pytest_plugin", options=["--collect-only"])
    assert status == 0, text


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
def test_plugin_in_workers(tmp_path: Path) -> None:
    pytest.importorskip("expecttest", reason="torch.testing._internal needs it")
    file = tmp_path / "test_sample.py"
    file.write_text(SAMPLE)
    for selected, expected in (("test_mm or test_other", (0, 1)), ("test_other", (1, 0))):
        status, text = run(file, selected, "myops.pytest_plugin", options=["--numprocesses=2"])
        assert (status, calls(text)) == expected, text


@pytest.mark.skipif(FOLDER is None, reason="MYOPS_PYTORCH_TESTS does not name PyTorch's test folder")
@pytest.mark.parametrize("name", SELECTED)
def test_pytorchs_own_tests(name: str) -> None:
    file = Path(str(FOLDER)).resolve() / name
    _, native = run(file, SELECTED[name])
    _, ours = run(file, SELECTED[name], "myops.pytest_plugin")
    print(ours[-2000:])
    assert calls(ours) > 100, ours[-2000:]
    assert failures(ours) <= failures(native), sorted(failures(ours) - failures(native))
