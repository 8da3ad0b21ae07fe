"""Large results lie on memory for which large pages are asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import myops

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def asked_for(address: int) -> bool:
    """Whether the mapping that holds the address has the advice."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.skipif(not SETTING.is_file() or "[never]" in SETTING.read_text(), reason="this kernel has no large pages")
def test_large_results_ask_for_large_pages() -> None:
    x, y = torch.ones(3000, 3000), torch.ones(8, 3000)
    for result in (myops.add(x, x), myops.mm(y.mT, y)):
        assert asked_for(result.data_ptr() + result.nbytes // 2)
    large = torch.empty(40 << 20, dtype=torch.uint8)  # torch does not ask, so the test can fail
    assert not asked_for(large.data_ptr() + large.nbytes // 2)
