"""Batch invariance: what `use(batch_invariant=True)` promises, bit for bit, over dtypes, shapes, layouts and threads.

Every result of a small product is compared with the same element of a large one. Integers are exact in any order and
are not looked at.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from conftest import COMPLEX, FLOATS, OTHER_LEVELS, run_on_level
from torch import Tensor

import myops
from myops import override
from myops.ops._gemm import tensor

DTYPES = pytest.mark.parametrize("kind", [*FLOATS, *COMPLEX], ids=lambda d: str(d).removeprefix("torch."))
DEPTHS = [1, 2, 7, 31, 32, 33, 100, 385, 700, 1025, 2100, 4099]


@pytest.fixture
def mode() -> Iterator[None]:
    with myops.use((), batch_invariant=True):
        yield


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bits(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(bits(a), bits(b))


def laid_out(t: Tensor, layout: str) -> Tensor:
    """The same matrix as it is, row-major, column-major, or with gaps."""
    if layout == "view":
        return t
    if layout == "rows":
        return t.contiguous()
    if layout == "columns":
        return t.mT.contiguous().mT
    return t.repeat_interleave(3, -1)[..., ::3]


LAYOUTS = ("view", "rows", "columns", "gaps")


def pieces(rng: random.Random, m: int, n: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Ranges of rows and columns: single ones, tile edges, everything."""
    heights, widths = [1, 1, 2, 4, 5, 6, 7, 12, 13, 16, 17, 32, 33, 48, 49, m], [1, 1, 2, 3, 15, 16, 17, 33, 64, 65, n]
    for _ in range(count):
        h, w = min(rng.choice(heights), m), min(rng.choice(widths), n)
        i, j = rng.randrange(m - h + 1), rng.randrange(n - w + 1)
        yield slice(i, i + h), slice(j, j + w)


@DTYPES
@pytest.mark.parametrize("scalars", [(1.0, 1.0), (0.3, -1.7), (1.0, 0.0)], ids=str)
def test_elements_of_addmm(mode: None, kind: torch.dtype, scalars: tuple[float, float]) -> None:
    """Rows, columns, layouts of all four matrices, threads, with an addend and scalars that have to be rounded."""
    alpha, beta = scalars
    rng = random.Random(0)
    for k in DEPTHS:
        m, n = 70, 150
        a, b, c = (tensor(shape, "cpu", kind) for shape in ((m, k), (k, n), (m, n)))
        whole = myops.addmm(c, a, b, alpha=alpha, beta=beta)
        for rows, cols in pieces(rng, m, n, 25):
            torch.set_num_threads(rng.choice((1, 2, 3)))
            how = [rng.choice(LAYOUTS) for _ in range(4)]
            x, y, z = laid_out(a[rows], how[0]), laid_out(b[:, cols], how[1]), laid_out(c[rows, cols], how[2])
            out = laid_out(torch.full_like(z, float("nan")), how[3])
            assert same(myops.addmm(z, x, y, alpha=alpha, beta=beta), whole[rows, cols]), (k, rows, cols, how)
            assert same(myops.addmm(z, x, y, alpha=alpha, beta=beta, out=out), whole[rows, cols]), (k, rows, cols, how)
            assert same(myops.addmm_(z.clone(), x, y, alpha=alpha, beta=beta), whole[rows, cols]), (k, rows, cols, how)


@DTYPES
@pytest.mark.parametrize("order", ["NN", "NT"])
def test_few_rows_of_a_large_weight(mode: None, kind: torch.dtype, order: str) -> None:
    """Weights beyond the thresholds from which few rows are computed in other blocks, and many rows are packed."""
    for k, n in ((2100, 600), (600, 2100), (4200, 300)):
        weight = tensor((k, n), "cpu", kind) if order == "NN" else tensor((n, k), "cpu", kind).mT
        a = tensor((130, k), "cpu", kind)
        whole = myops.mm(a, weight)
        for m in (1, 2, 3, 5, 6, 7, 8, 12, 13, 16, 17, 32, 33, 48, 49, 64, 100):
            assert same(myops.mm(a[:m], weight), whole[:m]), (k, n, m)
        for j in (0, 1, 299):
            assert same(myops.mm(a, weight[:, j : j + 1]), whole[:, j : j + 1]), (k, n, j)
            assert same(myops.matmul(a, weight[:, j]), whole[:, j]), (k, n, j)


@DTYPES
def test_batches(mode: None, kind: torch.dtype) -> None:
    for k in (5, 33, 400, 2100):
        a, b, c = (tensor(shape, "cpu", kind) for shape in ((9, 13, k), (9, k, 20), (9, 13, 20)))
        whole = myops.baddbmm(c, a, b, beta=0.3, alpha=-1.7)
        product, folded = myops.bmm(a, b), myops.matmul(a, b[0])
        for i in range(9):
            assert same(myops.baddbmm(c[i : i + 1], a[i : i + 1], b[i : i + 1], beta=0.3, alpha=-1.7)[0], whole[i])
            assert same(myops.addmm(c[i], a[i], b[i], beta=0.3, alpha=-1.7), whole[i])
            assert same(myops.mm(a[i], b[i]), product[i])
            assert same(myops.matmul(a[i], b[0]), folded[i])
            assert same(myops.matmul(a[i, 3], b[0]), folded[i, 3])
            assert same(myops.matmul(a[i, :3], b[:1])[0], folded[i, :3])


@DTYPES
def test_linear(mode: None, kind: torch.dtype) -> None:
    for k in (20, 64, 900, 2100):
        x, weight, bias = (tensor(shape, "cpu", kind) for shape in ((4, 20, k), (130, k), (130,)))
        whole = myops.linear(x, weight, bias)
        for i, j in itertools.product(range(4), (0, 1, 7, 19)):
            assert same(myops.linear(x[i, j], weight, bias), whole[i, j]), (k, i, j)
            assert same(myops.linear(x[i, : j + 1], weight, bias), whole[i, : j + 1]), (k, i, j)
            assert same(myops.linear(x[i], weight[j : j + 9], bias[j : j + 9]), whole[i, :, j : j + 9]), (k, i, j)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_wide_results_of_16_bits(mode: None, kind: torch.dtype) -> None:
    for k in (31, 700, 2100):
        a, b, c = tensor((50, k), "cpu", kind), tensor((k, 90), "cpu", kind), tensor((50, 90), "cpu", torch.float32)
        whole = myops.addmm(c, a, b, torch.float32, alpha=0.3, beta=0.7)
        for m, n in ((1, 90), (7, 90), (50, 1), (13, 33)):
            got = myops.addmm(c[:m, :n], a[:m], b[:, :n], torch.float32, alpha=0.3, beta=0.7)
            assert same(got, whole[:m, :n]), (k, m, n)


def test_subnormals_of_strided_results(mode: None) -> None:
    """Where bfloat16 instructions flush results, results that are scattered are flushed too."""
    a, b = torch.full((70, 64), 1e-20).bfloat16(), torch.full((64, 80), 1e-20).bfloat16()
    whole = myops.mm(a, b)
    assert same(myops.mm(a, b[:, :1]), whole[:, :1])
    assert same(myops.mm(a[:9], b.mT.contiguous().mT), whole[:9])


def test_under_the_switch_and_compiled() -> None:
    layer = torch.nn.Linear(700, 300)
    x = torch.randn(64, 700)
    compiled = torch.compile(lambda x: myops.linear(x, layer.weight, layer.bias), fullgraph=True, backend="aot_eager")
    with torch.no_grad(), myops.use(strict=True, batch_invariant=True):
        whole = myops.linear(x, layer.weight, layer.bias)
        assert same(layer(x), whole)
        for m in (1, 2, 9):
            assert same(layer(x[:m]), whole[:m])
            assert same(compiled(x[:m]), whole[:m])


def test_gradients_of_a_row() -> None:
    """A product's backward is made of products, so the gradient of a row has the property too."""
    weight = torch.randn(300, 700)
    rows, outer = torch.randn(64, 700), torch.randn(64, 300)
    with myops.use((), batch_invariant=True):
        grads = []
        for m in (64, 1):
            x = rows[:m].clone().requires_grad_()
            myops.linear(x, weight).backward(outer[:m])
            grads.append(x.grad)
    assert same(grads[0][:1], grads[1])


def test_without_the_mode_a_row_follows_its_batch() -> None:
    """So the tests above can fail. Each of these is a path that the mode closes."""
    differs = {}
    for kind, order in itertools.product((torch.float32, torch.float64, torch.bfloat16), ("NN", "NT")):
        a = tensor((64, 2100), "cpu", kind)
        weight = tensor((2100, 300), "cpu", kind) if order == "NN" else tensor((300, 2100), "cpu", kind).mT
        out_dtype = torch.float32 if kind == torch.bfloat16 else None
        results = [myops.mm(a[:m], weight, out_dtype) for m in (64, 1)]
        differs[kind, order] = not same(results[0][:1], results[1])
    assert differs[torch.float32, "NT"]
    assert differs[torch.float64, "NT"]
    assert differs[torch.bfloat16, "NT"]
    if myops.isa().startswith("amx"):
        assert differs[torch.bfloat16, "NN"]


def test_users_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(override._libraries, "set_batch_invariant", calls.append)
    myops.enable(batch_invariant=True)
    with myops.use((), batch_invariant=True), myops.use():
        assert calls == [True]
    myops.disable()
    assert calls == [True]
    assert "batch_invariant" in myops.explain()
    myops.disable((), batch_invariant=True)
    assert calls == [True, False]
    myops.disable((), batch_invariant=True)
    assert calls == [True, False]
    monkeypatch.setenv("MYOPS_DISABLE", "1")
    with myops.use(batch_invariant=True):
        assert calls == [True, False, True]
        assert not override._users["mm"]
    assert calls == [True, False, True, False]


@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The whole file again in a process that is forced to another level of this machine."""
    run_on_level(level, __file__)
