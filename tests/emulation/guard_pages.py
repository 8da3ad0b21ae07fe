"""Products, sums and sparse products whose operands touch a page that may not be accessed: a stray access ends the process by a signal.

Run by tests/test_cuda_emulation.py as `python -m emulation.guard_pages` in tests/; prints the case before it runs, so
that the last line names the culprit.
"""

from __future__ import annotations

import itertools
import sys

import torch
from guarded import guarded

from . import build


def main() -> int:
    torch.ops.load_library(str(build.build()))
    ops = torch.ops.myops_emulated
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128, torch.int8, torch.int64]
    for dtype, at_end, (m, n, k) in itertools.product(dtypes, (True, False), [(33, 31, 17), (1, 5, 3), (3, 130, 16)]):
        a, b, c = (torch.ones(s).to(dtype) for s in ((m, k), (k, n), (m, n)))
        a, b, c, d = (guarded(t, at_end) for t in (a, b, c, c))
        a_t, b_t = guarded(a.t(), at_end).t(), guarded(b.t(), at_end).t()
        for x, y in itertools.product((a, a_t), (b, b_t)):
            print("addmm", dtype, at_end, (m, n, k), x.stride(), y.stride(), flush=True)
            ops.addmm.out(c, x, y, beta=1, alpha=1, out=d)
            assert bool((d == torch.full((), k + 1).to(dtype)).all())
        print("add", dtype, at_end, (m, n), flush=True)
        ops.add.out(c, c, out=d)
        assert bool((d == torch.full((), 2).to(dtype)).all())
        ops.add.out(c.t(), c.t(), out=d.t())
        assert bool((d == torch.full((), 2).to(dtype)).all())
    for dtype, at_end in itertools.product(dtypes, (True, False)):
        one, two = torch.ones((), dtype=dtype), torch.full((), 2).to(dtype)
        for shape, other in [((9, 32), (32,)), ((9, 32), (9, 1)), ((9, 31), (31,)), ((70, 40), (40, 70))]:
            print("add by rows and turned", dtype, at_end, shape, other, flush=True)
            x, y, d = (guarded(one.expand(s), at_end) for s in (shape, other, shape))
            ops.add.out(x, y.t() if len(other) == 2 and other[1] == shape[0] else y, out=d)
            assert bool((d == two).all())
        for m, n, k in [(3, 3, 3), (4, 4, 4), (32, 32, 32), (5, 7, 9)]:
            print("bmm", dtype, at_end, (m, n, k), flush=True)
            a, b, d = (guarded(one.expand(s), at_end) for s in ((301, m, k), (301, k, n), (301, m, n)))
            ops.bmm.out(a, b, out=d)
            assert bool((d == torch.full((), k).to(dtype)).all())
        print("mm of packed operands", dtype, at_end, flush=True)
        a, b, d = (guarded(one.expand(s), at_end) for s in ((70, 75), (75, 67), (70, 67)))
        ops.mm.out(a, b, out=d)
        assert bool((d == torch.full((), 75).to(dtype)).all())
    for dtype, at_end, n in itertools.product(dtypes, (True, False), (1, 5, 16)):
        # Rows of 2, 0 and 1100 entries; every sum is the length of its row.
        crow = guarded(torch.tensor([0, 2, 2, 1102], dtype=torch.int32), at_end)
        col = guarded((torch.arange(1102) * 7 % 9).to(torch.int32), at_end)
        v, x, y = (guarded(torch.ones(s).to(dtype), at_end) for s in ((1102,), (9, n), (3, n)))
        print("spmm", dtype, at_end, n, flush=True)
        lengths = crow.diff().unsqueeze(1).expand(3, n)
        assert torch.equal(ops.spmm(crow, col, v, x), lengths.to(dtype))
        assert torch.equal(ops.spmm(crow, col, v, x, y, beta=2, alpha=-1), (2 - lengths).to(dtype))
        print("sddmm", dtype, at_end, n, flush=True)
        assert torch.equal(ops.sddmm(crow, col, y, x), torch.full((1102,), n).to(dtype))
        if not dtype.is_complex:
            print("spmm_extremum", dtype, at_end, n, flush=True)
            ops.spmm_extremum(crow, col, v, x)
        print("csr_transpose and spgemm", dtype, at_end, flush=True)
        t_crow, t_col, _ = (guarded(t, at_end) for t in ops.csr_transpose(crow, col, 9))
        product = ops.spgemm(crow, col, v, t_crow, t_col, v, 3)
        grad_a, _ = ops.spgemm_backward(crow, col, v, t_crow, t_col, v, *(guarded(t, at_end) for t in product), 3)
        assert grad_a.shape == v.shape
    return 0


if __name__ == "__main__":
    sys.exit(main())
