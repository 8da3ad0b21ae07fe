"""BSR @ dense: every size of block, width, dtype and stride against exact references, long rows, errors, threads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import OTHER_LEVELS, run_on_level
from sparse_data import exact_mm, operators_of, random_dense
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import myops

pytestmark = [
    pytest.mark.usefixtures("on_device"),
    pytest.mark.filterwarnings("ignore:Sparse BSR tensor support is in beta state"),
]
ON_CPU = pytest.mark.usefixtures("on_cpu_only")


def blocks(
    rows: int, cols: int, height: int, width: int, dtype: torch.dtype, density: float = 0.4, index: Any = torch.int64
) -> tuple[Tensor, Tensor]:
    """A BSR matrix of so many blocks of small integers, and the same as a strided tensor."""
    there = torch.rand(rows, cols) < density
    count, col = there.sum(1), there.nonzero()[:, 1]
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    values = random_dense(col.shape[0] * height, width, dtype, 0.8).view(-1, height, width)
    dense = torch.zeros(rows, cols, height, width, dtype=dtype)
    dense[there] = values
    size = (rows * height, cols * width)
    made = torch.sparse_bsr_tensor(crow.to(index), col.to(index), values, size, check_invariants=True)
    return made, dense.transpose(1, 2).reshape(size)


def taken(run: Any) -> bool:
    """Whether blocks are multiplied as such: by native_mm, without spmm."""
    return {"myops::native_mm", "myops::spmm"} & operators_of(run) == {"myops::native_mm"}


@pytest.mark.parametrize("n", [1, 3, 16, 33, 70])
def test_values(dtype: torch.dtype, n: int) -> None:
    for height, width in ((1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (7, 1), (8, 8), (11, 6), (16, 16), (31, 2)):
        a, dense = blocks(5, 4, height, width, dtype, index=torch.int32 if height % 2 else torch.int64)
        x = random_dense(4 * width, n, dtype, 1.0)
        assert torch.equal(myops.sparse.mm(a, x), exact_mm(dense, x).to(x)), (height, width)


@pytest.mark.parametrize("n", [1, 3, 16, 33])
def test_values_of_bsc(dtype: torch.dtype, n: int) -> None:
    for height, width in ((1, 5), (2, 3), (3, 2), (8, 8), (16, 16)):
        a, dense = blocks(5, 4, height, width, dtype)
        x, addend = random_dense(4 * width, n, dtype, 1.0), random_dense(5 * height, n, dtype)
        product = exact_mm(dense, x)
        for made in (a.to_dense().to_sparse_bsc((height, width)), a.t().to_dense().to_sparse_bsr((width, height)).t()):
            assert torch.equal(myops.sparse.mm(made, x), product.to(x)), (height, width)
            added = myops.sparse.addmm(addend, made, x, beta=2, alpha=3)
            assert torch.equal(added, (2 * addend.cpu().to(product) + 3 * product).to(x))


@pytest.mark.parametrize("n", [1, 3, 16, 33])
def test_values_on_the_right(dtype: torch.dtype, n: int) -> None:
    """x @ weight.t() of a BSR weight, a linear layer, is dense @ BSC; its gradient is dense @ BSR."""
    for height, width in ((1, 5), (2, 3), (3, 2), (8, 8), (16, 16)):
        weight, dense = blocks(5, 4, height, width, dtype)
        x, bias = random_dense(n, 4 * width, dtype, 1.0), random_dense(1, 5 * height, dtype)[0]
        product = exact_mm(x, dense.mT)
        stored = weight.t().to_dense()
        for b in (weight.t(), stored.to_sparse_bsc((width, height)), stored.to_sparse_bsr((width, height))):
            got = myops.sparse.mm(x, b)
            assert torch.equal(got, product.to(x)), (height, width)
            assert got.is_contiguous()
            with_bias = myops.sparse.addmm(bias, x, b, beta=2, alpha=3)
            assert torch.equal(with_bias, (2 * bias.cpu().to(product) + 3 * product).to(x))


@pytest.mark.parametrize("beta", [0, 2])
def test_values_with_an_addend(dtype: torch.dtype, beta: int) -> None:
    a, dense = blocks(6, 5, 3, 4, dtype)
    x = random_dense(20, 37, dtype, 1.0)
    stepped = random_dense(36, 74, dtype)[::2, ::2]
    column_major = random_dense(37, 18, dtype).mT
    vector, column = random_dense(1, 37, dtype)[0], random_dense(18, 1, dtype)
    for c in (random_dense(18, 37, dtype), vector, column, stepped, column_major, x[0, 0]):
        expected = beta * c.cpu().to(exact_mm(dense, x).dtype) - 3 * exact_mm(dense, x)
        assert torch.equal(myops.sparse.addmm(c, a, x, beta=beta, alpha=-3), expected.to(x))
        assert torch.equal(myops.sparse.addmm(c, a, x, beta=beta, alpha=0), (beta * c).expand(18, 37).to(dtype))


@pytest.mark.parametrize("few", [False, True])  # elements, fewer than x has rows
def test_values_of_any_strides(dtype: torch.dtype, few: bool) -> None:
    a, dense = blocks(2, 40, 1, 1, dtype, density=0.1) if few else blocks(6, 5, 2, 4, dtype)
    k = a.shape[1]
    for x in (
        random_dense(2 * k, 21, dtype)[::2],
        random_dense(k, 42, dtype)[:, ::2],
        random_dense(21, k, dtype).mT,
        random_dense(1, 21, dtype).expand(k, 21),
        random_dense(k, 1, dtype).expand(k, 21),
        random_dense(k, 2, dtype)[:, 1:],
    ):
        assert torch.equal(myops.sparse.mm(a, x), exact_mm(dense, x).to(x))
    x = random_dense(k, 21, dtype)
    apart = torch.stack([a.values(), torch.zeros_like(a.values())], -1)[..., 0]
    a = torch.sparse_bsr_tensor(a.crow_indices(), a.col_indices(), apart, a.shape, check_invariants=True)
    assert torch.equal(myops.sparse.mm(a, x), exact_mm(dense, x).to(x))


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 300), (1, 3, 3000)])
def test_values_of_long_rows(dtype: torch.dtype, height: int, width: int, count: int) -> None:
    """A row of blocks that is cut into segments, beside a short one and an empty one."""
    crow, col = torch.tensor([0, 1, 1, 1 + count]), torch.cat([torch.tensor([2]), torch.arange(count)])
    values = random_dense((1 + count) * height, width, dtype).view(-1, height, width)
    a = torch.sparse_bsr_tensor(crow, col, values, (3 * height, count * width), check_invariants=False)
    x = random_dense(count * width, 40, dtype, 0.1)
    long_row = values[1:].transpose(0, 1).reshape(height, -1)
    expected = torch.zeros(3 * height, 40, dtype=exact_mm(long_row, x).dtype, device="cpu")
    expected[:height] = exact_mm(values[0], x[2 * width : 3 * width])
    expected[2 * height :] = exact_mm(long_row, x)
    assert torch.equal(myops.sparse.mm(a, x), expected.to(x))


def test_error_of_floats(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        pytest.skip("integers are exact, complex numbers have the sums of their parts")
    a, _ = blocks(16, 64, 4, 8, dtype)
    values = torch.randn(a.values().shape, dtype=torch.float64).to(dtype)
    x = torch.randn(512, 50, dtype=torch.float64).to(dtype)
    a = torch.sparse_bsr_tensor(a.crow_indices(), a.col_indices(), values, a.shape, check_invariants=True)
    dense = torch.sparse_bsr_tensor(
        a.crow_indices(), a.col_indices(), values.double(), a.shape, check_invariants=True
    ).to_dense()
    exact, bound = dense @ x.double(), dense.abs() @ x.double().abs()
    accumulated = torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps * bound * 512**0.5
    rounded = torch.finfo(dtype).eps * exact.abs()
    assert ((myops.sparse.mm(a, x).double() - exact).abs() <= rounded + accumulated).all()


@ON_CPU
def test_is_taken_where_nothing_is_recorded() -> None:
    a, dense = blocks(3, 3, 2, 3, torch.float64)
    x = torch.ones(9, 4).double()
    assert taken(lambda: myops.sparse.mm(a, x))
    assert taken(lambda: myops.sparse.addmm(x[0], a, x, alpha=2))
    with myops.use(strict=True):
        assert taken(lambda: torch.mm(a, x))
        assert torch.equal(torch.mm(a, x), dense @ x)
        assert taken(lambda: torch.nn.functional.linear(x.mT, a, x[:6, 0]))
        assert torch.equal(torch.nn.functional.linear(x.mT, a), x.mT @ dense.mT)
    assert not taken(lambda: myops.sparse.mm(a, x.requires_grad_()))


def test_flops() -> None:
    a, _ = blocks(3, 3, 2, 3, torch.float32)
    with FlopCounterMode(display=False) as counter:
        myops.sparse.mm(a, torch.ones(9, 4))
    assert counter.get_total_flops() == 2 * a.values().numel() * 4


@ON_CPU
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_malformed_blocks_are_errors(index: torch.dtype) -> None:
    def product(
        crow: list[int], col: list[int], values: Tensor, size: tuple[int, int], x: Tensor, **scalars: Any
    ) -> Any:
        parts = torch.tensor(crow, dtype=index), torch.tensor(col, dtype=index)
        a = torch.sparse_bsr_tensor(*parts, values, size, check_invariants=False)
        with torch.inference_mode():
            return torch.ops.myops.native_mm(a, x, **scalars)

    ones, x = torch.ones(2, 2, 3), torch.ones(6, 4)
    assert product([0, 1, 2], [0, 1], ones, (4, 6), x).tolist() == [[3.0] * 4] * 4
    for crow in ([0, -5, 2], [0, 100000, 2], [0, 1, 1], [1, 1, 2]):
        with pytest.raises(RuntimeError, match="crow must start at 0, never decrease and end at 2"):
            product(crow, [0, 1], ones, (4, 6), x)
    for col in (-1, 2, 2**31 - 1):
        with pytest.raises(RuntimeError, match=r"col holds an index outside \[0, 2\)"):
            product([0, 1, 2], [0, col], ones, (4, 6), x)
    with pytest.raises(RuntimeError, match="a must consist of whole blocks"):
        product([0, 1, 2], [0, 1], ones, (4, 7), torch.ones(7, 4))
    with pytest.raises(RuntimeError, match=r"a and b shapes cannot be multiplied \(4x6 and 7x4\)"):
        product([0, 1, 2], [0, 1], ones, (4, 6), torch.ones(7, 4))
    with pytest.raises(RuntimeError, match="a and b must have the same dtype, but got float32 and float64"):
        product([0, 1, 2], [0, 1], ones, (4, 6), x.double())
    with pytest.raises(RuntimeError, match="not implemented for values of dtype bool"):
        product([0, 1, 2], [0, 1], ones.bool(), (4, 6), x.bool())
    with pytest.raises(RuntimeError, match="mean must be False for blocks"):
        product([0, 1, 2], [0, 1], ones, (4, 6), x, mean=True)
    with pytest.raises(RuntimeError, match=r"input of shape \[3\] cannot be broadcast"):
        product([0, 1, 2], [0, 1], ones, (4, 6), x, input=torch.ones(3))


def test_no_rows_columns_or_blocks() -> None:
    for rows, cols, n in ((0, 3, 4), (3, 0, 4), (3, 3, 0)):
        a, dense = blocks(rows, cols, 2, 3, torch.float32)
        x = torch.ones(cols * 3, n)
        assert torch.equal(myops.sparse.mm(a, x), dense @ x)
    a, _ = blocks(3, 3, 2, 3, torch.float32, density=-1.0)
    assert torch.equal(myops.sparse.addmm(torch.ones(4), a, torch.ones(9, 4)), torch.ones(6, 4))


@ON_CPU
def test_results_do_not_depend_on_threads() -> None:
    a, _ = blocks(70, 90, 8, 4, torch.float32)
    a.values().normal_()
    x = torch.randn(360, 130)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = myops.sparse.mm(a, x)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(myops.sparse.mm(a, x), expected)
    finally:
        torch.set_num_threads(before)


@ON_CPU
@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The values again in a process that is forced to another level of this machine."""
    run_on_level(level, __file__, "values or error or threads or rows")
