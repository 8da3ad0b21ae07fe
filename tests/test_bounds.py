"""No kernel touches what lies beside its operands, on any instruction set level of this machine.

Products and sums whose operands end, and then begin, at a page that may not be touched, in a process of their own, which
prints a case before it runs it: the last line names the one that did not end.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DTYPES
from guarded import guarded

import myops

# Rows of 1 to 19, sums of whole groups of 2 and 4 and of others, columns that fill vectors and panels or do not, few
# columns.
PRODUCTS = [(1, 1, 1), (1, 300, 64), (1, 257, 67), (2, 31, 34), (5, 129, 68), (7, 64, 16), (17, 48, 130), (19, 77, 21),
            (33, 65, 259), (130, 17, 64), (95, 7, 12), (9, 40, 305), (60, 3, 201), (37, 12, 307), (50, 20, 350)]  # fmt: skip


def main() -> None:
    for dtype, at_end, (m, n, k) in itertools.product(DTYPES, (True, False), PRODUCTS):
        one = torch.ones((), dtype=dtype)
        a, a_t, b, b_t, c, out = (
            guarded(one.expand(shape), at_end) for shape in ((m, k), (k, m), (k, n), (n, k), (m, n), (m, n))
        )
        expected = (
            torch.full((), k + 1, dtype=torch.int64).to(torch.float32 if dtype.itemsize == 2 else dtype).to(dtype)
        )
        every_second = [
            guarded(one.expand(rows, 2 * cols), at_end)[:, int(at_end) :: 2]
            for rows, cols in ((m, k), (k, m), (k, n), (n, k))
        ]
        for x, y in itertools.product(
            (a, a_t.t(), every_second[0], every_second[1].t()), (b, b_t.t(), every_second[2], every_second[3].t())
        ):
            print("addmm", dtype, at_end, (m, n, k), x.stride(), y.stride(), flush=True)
            myops.addmm(c, x, y, out=out)
            assert bool((out == expected).all())
        print("linear", dtype, at_end, (m, n, k), flush=True)
        myops.linear(a, b_t)
        myops.linear(a, myops.pack_weight(b_t))
        print("add", dtype, at_end, (m, n), flush=True)
        myops.add(c, c, out=out)
        myops.add(c, b[0], out=out)
    for dtype, at_end, (m, n, k) in itertools.product(
        DTYPES, (True, False), [(3, 1, 3), (4, 4, 4), (16, 16, 16), (5, 7, 9)]
    ):
        print("bmm", dtype, at_end, (m, n, k), flush=True)
        a, b = (guarded(torch.ones(301, *shape, dtype=dtype), at_end) for shape in ((m, k), (k, n)))
        assert bool((myops.bmm(a, b) == k).all())


@pytest.mark.parametrize("level", myops.isa_levels() if myops.is_available() else [])
def test_accesses_stay_inside_the_operands(level: str) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_bounds; test_bounds.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).resolve().parent)], cwd=Path(myops.__file__).parents[1],
        env={**os.environ, "MYOPS_ISA": level}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-300:]}{done.stderr[-2000:]}"
