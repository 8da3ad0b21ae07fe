"""What README.md says of the sparse products is what is found. Needs the checkout, not the installed package alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import myops
from benchmarks import sparse_support

# The support matrix of the README, which `python -m benchmarks.sparse_support` prints.


def support_rows() -> dict[str, list[str]]:
    """Operands: the six answers of the README's table."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    _, table = text.split("| operands | native: dtypes |")
    lines = table.split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {operands: answers for operands, *answers in rows}


def test_readme_has_every_row_of_the_support_matrix() -> None:
    assert list(support_rows()) == [f"{left} @ {right}" for left, right in sparse_support.PAIRS]


@pytest.mark.parametrize(("left", "right"), sparse_support.PAIRS)
def test_readme_says_what_is_found(left: str, right: str) -> None:
    """Of myops; what native torch does changes with its version."""
    assert support_rows()[f"{left} @ {right}"][3:] == sparse_support.cells(myops.sparse.mm, left, right)
