"""The CUDA kernels, compiled as C++ and run on the CPU by tests/emulation, against the contract of matrix_view.h.

What a pass means: indexing, edges, strides, barriers and arithmetic are right for any order of threads and blocks. What
it does not: anything about speed, and nothing about the real compiler (tests/test_cuda_build.py, benchmarks/gpu.py).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from emulation import build
from emulation.support import (
    COMPLEX,
    DTYPES,
    FLOATS,
    INTEGERS,
    LAYOUTS,
    WIDE,
    Canary,
    integers,
    lay_out,
    load_library,
    reference,
    relative_error,
    same,
)

pytestmark = pytest.mark.usefixtures("own_kernels")


@pytest.fixture(scope="module")
def library():
    return load_library()


@pytest.fixture(scope="module")
def ops(library):
    return torch.ops.myops_emulated


# ---- mm, addmm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_mm_shapes(ops, kind):
    for m, n, k in [(1, 1, 1), (1, 40, 7), (40, 1, 17), (31, 33, 16), (32, 32, 32), (33, 65, 15), (7, 9, 49)]:
        a, b = integers((m, k), kind, 1), integers((k, n), kind, 2)
        same(ops.mm(a, b), reference(None, a, b, 0, 1, kind))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_addmm_layouts(ops, kind):
    m, n, k = 19, 35, 21
    a, b, c = integers((m, k), kind, 1), integers((k, n), kind, 2), integers((m, n), kind, 3)
    for la, lb, lc in itertools.product(LAYOUTS, LAYOUTS, ["contiguous", "transposed", "strided"]):
        got = ops.addmm(lay_out(c, lc), lay_out(a, la), lay_out(b, lb), beta=2, alpha=-3)
        same(got, reference(c, a, b, 2, -3, kind))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_out_keeps_its_surroundings(ops, kind):
    m, n, k = 37, 34, 5
    a, b, c = integers((m, k), kind, 1), integers((k, n), kind, 2), integers((m, n), kind, 3)
    for layout in ("offset", "transposed", "strided"):
        canary = Canary((m, n), kind, layout)
        ops.addmm.out(c, a, b, beta=1, alpha=2, out=canary.out)
        same(canary.out, reference(c, a, b, 1, 2, kind))
        canary.check()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.complex64, torch.int8, torch.int64], ids=str)
def test_broadcast_c_and_stride_zero(ops, kind):
    a, b = integers((6, 9), kind, 1), integers((9, 7), kind, 2)
    for shape in [(), (1,), (7,), (1, 1), (1, 7), (6, 1)]:
        c = integers(shape, kind, 3)
        same(ops.addmm(c, a, b, beta=3), reference(c, a, b, 3, 1, kind))
    row, column = integers((1, 9), kind, 4).expand(6, 9), integers((9, 1), kind, 5).expand(9, 7)
    one = integers((1, 1), kind, 6).expand(6, 9)
    for left, right in itertools.product([row, one, a], [column, b]):
        same(ops.mm(left, right), reference(None, left, right, 0, 1, kind))


@pytest.mark.parametrize("kind", COMPLEX, ids=str)
@pytest.mark.parametrize("inference", [False, True])
def test_conjugate_views(ops, kind, inference):
    a, b, c = integers((5, 18), kind, 1), integers((18, 33), kind, 2), integers((5, 33), kind, 3)
    for conj_a, conj_b, conj_c in itertools.product([False, True], repeat=3):
        x = a.t().contiguous().mH if conj_a else a
        y = b.conj().clone().conj() if conj_b else b
        z = c.conj() if conj_c else c
        expected = z.resolve_conj() * 2 + x.resolve_conj() @ y.resolve_conj()
        with torch.inference_mode(inference):
            got = ops.addmm(z, x, y, beta=2)
        same(got, expected)
    out = torch.zeros(5, 33, dtype=kind)
    ops.mm.out(a, b, out=out.conj())
    same(out.conj().resolve_conj(), a @ b)


@pytest.mark.parametrize("kind", FLOATS + COMPLEX, ids=str)
def test_what_is_never_read(ops, kind):
    nan = float("nan")
    a, b, c = integers((6, 9), kind, 1), integers((9, 7), kind, 2), integers((6, 7), kind, 3)
    bad = [torch.full_like(t, nan) for t in (a, b, c)]
    same(ops.addmm(bad[2], a, b, beta=0), reference(None, a, b, 0, 1, kind))
    same(ops.addmm(c, bad[0], bad[1], beta=2, alpha=0), c * 2)
    same(ops.addmm(bad[2], bad[0], bad[1], beta=0, alpha=0), torch.zeros_like(c))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_empty(ops, kind):
    c = integers((3, 4), kind, 1)
    same(ops.addmm(c, c.new_empty(3, 0), c.new_empty(0, 4), beta=3), c * 3)
    same(ops.mm(c.new_empty(3, 0), c.new_empty(0, 4)), torch.zeros_like(c))
    assert ops.mm(c.new_empty(0, 3), c).shape == (0, 4)
    assert ops.bmm(c.new_empty(0, 3, 5), c.new_empty(0, 5, 4)).shape == (0, 3, 4)
    same(ops.bmm(c.new_empty(2, 3, 0), c.new_empty(2, 0, 4)), c.new_zeros(2, 3, 4))


@pytest.mark.parametrize(("kind", "out_dtype"), WIDE)
def test_out_dtype(ops, kind, out_dtype):
    a, b = integers((35, 70), kind, 1, -99, 99), integers((70, 34), kind, 2, -99, 99)
    same(ops.mm(a, b, out_dtype), reference(None, a, b, 0, 1, out_dtype))
    for c_type in (kind, out_dtype):
        c = integers((35, 34), c_type, 3)
        same(ops.addmm(c, a, b, out_dtype, beta=2, alpha=3), reference(c, a, b, 2, 3, out_dtype))
    a3, b3 = a.view(5, 7, 70), integers((5, 70, 3), kind, 4)
    same(ops.bmm(a3, b3, out_dtype), reference(None, a3, b3, 0, 1, out_dtype))


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integers_are_modular(ops, kind):
    info = torch.iinfo(kind)
    a = torch.randint(info.min, info.max, (9, 33), dtype=kind)
    b = torch.randint(info.min, info.max, (33, 8), dtype=kind)
    c = torch.randint(info.min, info.max, (9, 8), dtype=kind)
    same(ops.addmm(c, a, b, beta=-5, alpha=7), reference(c, a, b, -5, 7, kind))
    big = 2.0**53 if kind == torch.int64 else 100.0
    same(ops.addmm(c, a, b, beta=big, alpha=-big), reference(c, a, b, int(big), -int(big), kind))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_in_place_and_aliases(ops, kind):
    a, b, c = integers((34, 34), kind, 1), integers((34, 34), kind, 2), integers((34, 34), kind, 3)
    expected = reference(c, a, b, 2, 1, kind)
    t = c.clone()
    assert ops.addmm_(t, a, b, beta=2) is None
    same(t, expected)
    t = c.clone()
    ops.addmm.out(t, a, b, beta=2, out=t)
    same(t, expected)
    t = lay_out(c, "transposed")
    ops.addmm_(t, a, b, beta=2)
    same(t, expected)
    for which in ("a", "b"):
        x, y = a.clone(), b.clone()
        out = x if which == "a" else y
        ops.addmm.out(c, x, y, beta=2, out=out)
        same(out, expected)
    t = c.clone()  # out is the input transposed: overlaps without being the same view
    ops.addmm.out(t, a, b, beta=2, out=t.t())
    same(t.t(), expected)


@pytest.mark.parametrize("kind", FLOATS + COMPLEX, ids=str)
def test_random_error_is_at_most_twice_torch(ops, kind):
    torch.manual_seed(5)
    precise = torch.complex128 if kind.is_complex else torch.float64
    for m, n, k in [(33, 20, 130), (4, 65, 300)]:
        a, b, c = (torch.randn(s, dtype=precise).to(kind) for s in ((m, k), (k, n), (m, n)))
        exact = 0.5 * c.to(precise) + 1.5 * (a.to(precise) @ b.to(precise))
        ours = relative_error(ops.addmm(c, a, b, beta=0.5, alpha=1.5), exact)
        native = relative_error(torch.addmm(c, a, b, beta=0.5, alpha=1.5), exact)
        if kind in (torch.float64, torch.complex128):
            # The reference has the same precision: both are compared with the bound of a sum of k terms.
            assert ours < 1e-15 * k
        else:
            assert ours <= 2 * native + 1e-6


def test_16_bit_sums_are_rounded_once(ops):
    a = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    same(ops.mm(a, a.t()), torch.tensor([[4096.0]], dtype=torch.bfloat16))
    c = torch.tensor([[-4095.5]], dtype=torch.float32)
    same(ops.addmm(c, a, a.t(), torch.float32), torch.tensor([[0.5]]))


# ---- bmm, baddbmm, matmul, linear ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_baddbmm(ops, kind):
    a, b, c = integers((3, 8, 17), kind, 1), integers((3, 17, 33), kind, 2), integers((3, 8, 33), kind, 3)
    expected = reference(c, a, b, 2, 3, kind)
    for la, lb in itertools.product(LAYOUTS, ["contiguous", "transposed"]):
        same(ops.baddbmm(c, lay_out(a, la), lay_out(b, lb), beta=2, alpha=3), expected)
    t = c.clone()
    ops.baddbmm_(t, a, b, beta=2, alpha=3)
    same(t, expected)
    canary = Canary((3, 8, 33), kind)
    ops.bmm.out(a, b, out=canary.out)
    same(canary.out, reference(None, a, b, 0, 1, kind))
    canary.check()
    shared = b[:1].expand(3, 17, 33)
    same(ops.baddbmm(c[0], a, shared, beta=1), reference(c[0], a, shared, 1, 1, kind))


def test_more_than_65535_batches(ops):
    count = 65537
    a, b = integers((count, 1, 2), torch.int32, 1), integers((count, 2, 1), torch.int32, 2)
    same(ops.bmm(a, b), a @ b)


MATMUL_SHAPES = [
    ((5,), (5,)),
    ((5,), (5, 7)),
    ((4, 5), (5,)),
    ((2, 3, 4, 5), (5,)),
    ((5,), (2, 5, 3)),
    ((2, 3, 4, 5), (5, 6)),
    ((4, 5), (2, 5, 3)),
    ((2, 1, 4, 5), (3, 5, 6)),
    ((2, 1, 2, 1, 2, 1, 3, 4), (1, 2, 1, 2, 1, 2, 4, 5)),  # six batch dimensions that do not merge
]


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.complex128, torch.int32], ids=str)
@pytest.mark.parametrize("shapes", MATMUL_SHAPES, ids=str)
def test_matmul(ops, kind, shapes):
    a, b = integers(shapes[0], kind, 1), integers(shapes[1], kind, 2)
    expected = reference(None, a, b, 0, 1, kind)
    for layout in LAYOUTS:
        same(ops.matmul(lay_out(a, layout), lay_out(b, layout)), expected)
    if expected.dim() >= 2:
        canary = Canary(expected.shape, kind, "strided")
        ops.matmul.out(a, b, out=canary.out)
        same(canary.out, expected)
        canary.check()


@pytest.mark.parametrize("kind", DTYPES, ids=str)
def test_linear(ops, kind):
    x, weight, bias = integers((2, 3, 18), kind, 1), integers((35, 18), kind, 2), integers((35,), kind, 3)
    plain = reference(None, x, weight.t(), 0, 1, kind)
    same(ops.linear(x, weight), plain)
    same(ops.linear(x, weight, bias), plain + bias)
    same(ops.linear(x[0, 0], weight, bias), plain[0, 0] + bias)
    same(ops.linear(x, weight[0]), plain[..., 0])
    same(ops.linear(lay_out(x, "strided"), lay_out(weight, "transposed"), lay_out(bias, "strided")), plain + bias)
    out = torch.empty_like(plain)
    ops.linear.out(x, weight, bias, out=out)
    same(out, plain + bias)


# ---- activations -----------------------------------------------------------------------------------------------------

ACTIVATIONS = [torch.relu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu]


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("activation", [1, 2, 3, 4])
def test_activation_of_floats(ops, kind, activation):
    # Whole numbers times 0.25: sums are exact, around zero, and all of them are met.
    a, b, c = integers((37, 18), kind, 1), integers((18, 66), kind, 2), integers((66,), kind, 3)
    for layout, out_dtype in itertools.product(LAYOUTS, {kind, dict(WIDE).get(kind, kind)}):
        before = reference(c, a, b, 0.5, 0.25, out_dtype)
        exact = ACTIVATIONS[activation - 1](before.double())
        args = (lay_out(c, layout), lay_out(a, layout), b, out_dtype)
        scalars = {"beta": 0.5, "alpha": 0.25, "activation": activation}
        got = ops.addmm(*args, **scalars)
        bound = torch.finfo(out_dtype).eps * (before.double().abs() + exact.abs()) + torch.finfo(out_dtype).tiny
        assert bool(((got.double() - exact).abs() <= bound).all())
        canary = Canary((37, 66), out_dtype, layout)
        ops.addmm.out(*args, **scalars, out=canary.out)
        same(canary.out, got)
        canary.check()
        result, kept = ops.addmm_with_preactivation(*args, **scalars)
        same(result, got)
        same(kept, before)
    special = torch.tensor([[float("inf"), float("-inf"), float("nan"), -0.0]], dtype=kind)
    got = ops.addmm(special, a[:1, :0], b[:0, :4], activation=activation)
    of_minus_infinity = 0.0 if activation == 1 else float("nan")
    expected = torch.tensor([[float("inf"), of_minus_infinity, float("nan"), 0]], dtype=kind)
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_relu_of_integers(ops, kind):
    info = torch.iinfo(kind)
    a = torch.randint(info.min, info.max, (9, 33), dtype=kind)
    b = torch.randint(info.min, info.max, (33, 8), dtype=kind)
    x = ops.mm(a, b)
    result, kept = ops.linear_with_preactivation(a, b.t(), activation=1)
    same(result, torch.relu(x))
    same(kept, x)
    with pytest.raises(RuntimeError, match="activation gelu is not implemented for"):
        ops.linear(a, b.t(), activation=2)


def test_activation_of_a_batch(ops):
    x, weight, bias = (integers(s, torch.float32, i) for i, s in enumerate([(2, 3, 18), (35, 18), (35,)]))
    plain = ops.linear(x, weight, bias)
    same(ops.linear(x, weight, bias, activation=1), plain.relu())
    a, b = integers((5, 4, 17), torch.float32, 4), integers((5, 17, 6), torch.float32, 5)
    result, kept = ops.baddbmm_with_preactivation(bias[:6], a, b, activation=1)
    same(kept, a @ b + bias[:6])
    same(result, kept.relu())
    column = torch.empty(35, 6).t()  # the transposed problem
    ops.linear.out(x.view(6, 18), weight, bias, activation=1, out=column)
    same(column, plain.relu().view(6, 35))


# ---- add -------------------------------------------------------------------------------------------------------------

ADD_DTYPES = [*DTYPES, torch.bool]


@pytest.mark.parametrize("kind", ADD_DTYPES, ids=str)
def test_add_promotes(ops, kind):
    x = integers((5, 7), torch.int64, 1, 0, 4).to(kind)
    for other in ADD_DTYPES:
        y = integers((5, 7), torch.int64, 2, 0, 4).to(other)
        same(ops.add(x, y), torch.add(x, y))
        if torch.bool not in (kind, other):
            same(ops.add(x, y, alpha=-3), torch.add(x, y, alpha=-3))
        zero_dim = integers((), torch.int64, 3, 0, 4).to(other)
        if torch.result_type(x, zero_dim) == torch.complex32:
            with pytest.raises(RuntimeError, match="not implemented for a result of dtype complex32"):
                ops.add(x, zero_dim)
            continue
        same(ops.add(x, zero_dim), torch.add(x, zero_dim))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 16, 1003])
def test_add_contiguous(ops, kind, count):
    x, y = integers((count,), kind, 1), integers((count,), kind, 2)
    same(ops.add(x, y, alpha=2), torch.add(x, y, alpha=2))
    canary = torch.full((count + 32,), 9, dtype=kind)
    ops.add.out(x, y, out=canary[16 : 16 + count])
    same(canary[16 : 16 + count], x + y)
    assert bool((canary[:16] == 9).all())
    assert bool((canary[16 + count :] == 9).all())


@pytest.mark.parametrize("kind", ADD_DTYPES, ids=str)
def test_add_strides_and_broadcast(ops, kind):
    x = integers((4, 1, 5, 3), torch.int64, 1, 0, 4).to(kind)
    y = integers((6, 1, 3), torch.int64, 2, 0, 4).to(kind)
    for lx, ly in itertools.product(LAYOUTS, LAYOUTS):
        same(ops.add(lay_out(x, lx), lay_out(y, ly)), x + y)
    t = integers((33, 31), torch.int64, 3, 0, 4).to(kind)
    expected = t + t.new_ones(31)
    ops.add_(t, t.new_ones(31))
    same(t, expected)
    many = x.reshape(2, 2, 1, 5, 3).permute(4, 0, 3, 1, 2)
    other = t[:2, :3].t()[:, :, None, None, None]
    same(ops.add(many, other), many + other)
    canary = Canary((33, 31), kind, "strided")
    ops.add.out(t, t, out=canary.out)
    same(canary.out, t + t)


@pytest.mark.parametrize("kind", ADD_DTYPES, ids=str)
def test_add_broadcasts_by_runs(ops, kind):
    """Rows, columns, scalars and middle dimensions beside a matrix of aligned rows, and one element off."""
    x = integers((3, 7, 64), torch.int64, 1, 0, 4).to(kind)
    others = [(64,), (7, 1), (1,), (3, 1, 64), (3, 1, 1), (1, 7, 64), (7, 64)]
    for shape, offset in itertools.product(others, [0, 1]):
        y = integers(shape, torch.int64, 2, 0, 4).to(kind)
        shifted = torch.empty(y.numel() + 1, dtype=kind)[offset:][: y.numel()].view(shape).copy_(y)
        same(ops.add(x, shifted), x + y)
        same(ops.add(shifted, x), x + y)
    for rows in (1, 2, 4, 5, 33):  # padded rows: what lies between them stays
        canary = Canary((rows, 32), kind, "strided" if rows == 5 else "offset")
        t = integers((rows, 32), torch.int64, 3, 0, 4).to(kind)
        ops.add.out(t, t[:1], out=canary.out)
        same(canary.out, t + t[:1])
        if kind != torch.bool:
            canary.check()


@pytest.mark.parametrize("kind", ADD_DTYPES, ids=str)
def test_add_short_rows(ops, kind):
    """Rows of few runs, of which a thread has several that lie apart; a vector that is not aligned is rows of one."""
    alpha = 1 if kind == torch.bool else 3
    for shape in [(1001, 3), (4, 3), (5, 1), (3, 67, 2), (130, 16), (1, 3), (66, 31)]:
        x = integers(shape, torch.int64, 1, 0, 4).to(kind)
        row = integers(shape[-1:], torch.int64, 2, 0, 4).to(kind)
        same(ops.add(x, row, alpha=alpha), torch.add(x, row, alpha=alpha))
        out = torch.zeros((*shape[:-1], shape[-1] + 2), dtype=kind)
        ops.add.out(row, x, alpha=alpha, out=out[..., 1:-1])
        same(out[..., 1:-1], torch.add(row, x, alpha=alpha))
        assert not out[..., 0].any()
        assert not out[..., -1].any()
    for count in (1, 2, 5, 1001):
        x, y = (integers((2 * count + 1,), torch.int64, seed, 0, 4).to(kind) for seed in (3, 4))
        same(ops.add(x[1 : count + 1], y[:count]), x[1 : count + 1] + y[:count])
        same(ops.add(x[::2], y[-count - 1 :]), x[::2] + y[-count - 1 :])


@pytest.mark.parametrize("kind", ADD_DTYPES, ids=str)
def test_add_turned(ops, kind):
    """One operand runs along another dimension than the result: tails of its tiles, batches, and a broadcast beside it."""
    alpha = 1 if kind == torch.bool else 3
    for shape in [(16, 16), (33, 70), (2, 65, 3, 64), (130, 2, 17)]:
        x = integers(shape, torch.int64, 1, 0, 4).to(kind)
        y = integers(shape, torch.int64, 2, 0, 4).to(kind)
        for dim in range(len(shape) - 1):
            turned = y.transpose(dim, -1).contiguous().transpose(dim, -1)
            same(ops.add(x, turned, alpha=alpha), torch.add(x, y, alpha=alpha))
            same(ops.add(x[..., :1], turned), x[..., :1] + y)
            out = torch.empty_like(x)
            ops.add.out(turned, x, alpha=alpha, out=out)
            same(out, torch.add(y, x, alpha=alpha))
            ops.add.out(turned, x[..., :1, :], out=out)
            same(out, y + x[..., :1, :])
            kept = x.clone()
            ops.add_(kept, turned)
            same(kept, x + y)


def test_add_aliases(ops):
    x = integers((20, 20), torch.float32, 1)
    t = x.clone()
    ops.add.out(t, t, alpha=2, out=t)
    same(t, x * 3)
    t = x.clone()
    ops.add.out(t, t.t(), out=t)
    same(t, x + x.t())
    flat = integers((40,), torch.float32, 2)
    t = flat.clone()
    ops.add.out(t[:-1], t[1:], out=t[1:])
    same(t[1:], flat[:-1] + flat[1:])


def test_add_random(ops):
    torch.manual_seed(1)
    for kind in FLOATS + COMPLEX:
        x, y = torch.randn(257, dtype=kind), torch.randn(257, dtype=kind)
        exact_type = torch.complex128 if kind.is_complex else torch.float64
        exact = x.to(exact_type) + 0.3 * y.to(exact_type)
        native = relative_error(torch.add(x, y, alpha=0.3), exact)
        assert relative_error(ops.add(x, y, alpha=0.3), exact) <= 2 * native + 1e-7


def test_reads_stay_inside_the_operands(library):
    """Operands that end, and then begin, at a page that may not be touched; in a process of its own."""
    command = [sys.executable, "-m", "emulation.guard_pages"]
    tests = Path(__file__).resolve().parent
    result = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize(("hopper", "capabilities"), [(0, "80 80 120"), (1, "80 90 120")])
def test_a_hopper_without_its_own_code_is_planned_for_as_what_came_before(tmp_path, hopper, capabilities):
    """Built for other architectures, kernels that only a Hopper has are empty: D would not be written."""
    source = tmp_path / "main.cpp"
    source.write_text("""
        #include <cstdio>
        int main() {
          for (int device : {80, 90, 120}) {
            emulation::capability = device;
            int capability = 0;
            if (myops::query_capability(0, &capability) != cudaSuccess) return 1;
            std::printf("%d ", capability);
          }
        }
    """)
    command = [os.environ.get("CXX", "g++"), "-std=c++17", "-DMYOPS_CUDA_EMULATION", f"-DMYOPS_SM90A={hopper}"]
    command += ["-include", str(Path(build.__file__).with_name("cuda_emulation.h")), str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "main")], check=True, timeout=600)
    found = subprocess.run([str(tmp_path / "main")], check=True, capture_output=True, text=True, timeout=600)
    assert found.stdout.split() == capabilities.split()
