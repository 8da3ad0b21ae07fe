"""myops.sparse: every pair of layouts, reductions, gradients in the layout of their argument, memory, errors.

Whole numbers are compared bit for bit with dense products; native torch is asked only where it is right.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy
import pytest
import torch
from conftest import wide
from sparse_data import LAYOUTS, exact_mm, in_layout, operators_of, pairs, random_dense, real_matrix
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import myops

pytestmark = [pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning"), pytest.mark.usefixtures("on_device")]
INDEX = pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)


def dense_of(t: Tensor) -> Tensor:
    """On the CPU, which makes every layout of every dtype dense."""
    return t.to("cpu").to_dense() if isinstance(t, myops.CSR) or t.layout != torch.strided else t.cpu()


def index_dtype(t: Tensor) -> torch.dtype:
    return (t.ccol_indices() if t.layout in (torch.sparse_csc, torch.sparse_bsc) else t.crow_indices()).dtype


@INDEX
@pytest.mark.parametrize(("left", "right"), list(pairs()))
def test_every_pair_of_layouts(left: str, right: str, index: torch.dtype, dtype: torch.dtype) -> None:
    a, b = random_dense(8, 12, dtype), random_dense(12, 6, dtype)
    x, y = in_layout(a, left, index), in_layout(b, right, index)
    expected = exact_mm(dense_of(x) if left != "bsr" else a, dense_of(y))
    got = myops.sparse.mm(x, y)
    assert got.dtype == dtype
    assert torch.equal(dense_of(got), expected.to(dtype))
    assert torch.equal(dense_of(torch.ops.myops.sparse_mm(x, y)), expected.to(dtype))
    if "strided" in (left, right):
        assert got.layout == torch.strided
        return
    coo = {"coo", "uncoalesced"}
    if {left, right} <= coo:
        assert got.layout == torch.sparse_coo
        assert got.is_coalesced()
    elif left == right == "csc":
        assert got.layout == torch.sparse_csc
    else:
        assert got.layout == torch.sparse_csr
    if not {left, right} & coo:
        assert index_dtype(got) == index


def test_csc_times_csc_is_not_zero() -> None:
    """torch.sparse.mm(csc, csc) returns an empty matrix without a word (torch 2.11 to 2.14)."""
    a, b = random_dense(5, 6, torch.float32), random_dense(6, 4, torch.float32)
    got = myops.sparse.mm(a.to_sparse_csc(), b.to_sparse_csc())
    assert torch.equal(got.to_dense(), a @ b)
    assert bool((a @ b).any())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(0, 6, 4), (4, 0, 6), (4, 6, 0), (0, 0, 0)], ids=str)
def test_empty(layout: str, shape: tuple[int, int, int]) -> None:
    m, k, n = (6 * x // 2 if layout in ("bsr", "bsc") else x for x in shape)
    a = in_layout(torch.zeros(m, k), layout) if layout != "uncoalesced" else torch.zeros(m, k).to_sparse_coo()
    assert torch.equal(myops.sparse.mm(a, torch.ones(k, n)), torch.zeros(m, n))
    assert torch.equal(myops.sparse.mm(torch.ones(n, m), a), torch.zeros(n, k))
    product = myops.sparse.mm(a, torch.zeros(k, n).to_sparse_csr())
    assert torch.equal(product.to_dense(), torch.zeros(m, n))


@pytest.mark.parametrize("reduce", ["mean", "amax", "amin"])
@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr"])
def test_reductions(layout: str, reduce: str) -> None:
    a, b = random_dense(8, 12, torch.float64), torch.randn(12, 5, dtype=torch.float64)
    a[3] = 0
    expected = torch.sparse.mm(a.cpu().to_sparse_csr(), b.cpu(), reduce).to(b.device)
    if layout == "bsr":  # whose blocks store zeros, which count
        stored = (a.view(4, 2, 4, 3) != 0).any(3, keepdim=True).any(1, keepdim=True).expand(4, 2, 4, 3).reshape(8, 12)
        terms = torch.where(stored.unsqueeze(2), a.unsqueeze(2) * b, {"mean": 0, "amax": -1e9, "amin": 1e9}[reduce])
        expected = {
            "mean": terms.sum(1) / stored.sum(1, keepdim=True).clamp(min=1),
            "amax": terms.amax(1),
            "amin": terms.amin(1),
        }[reduce]
        expected = torch.where(stored.any(1, keepdim=True), expected, 0)
    torch.testing.assert_close(myops.sparse.mm(in_layout(a, layout), b, reduce=reduce), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_addmm(layout: str) -> None:
    for dtype in (torch.float64, torch.complex128, torch.int64):
        a, b, c = random_dense(8, 12, dtype), random_dense(12, 6, dtype), random_dense(8, 6, dtype)
        x = in_layout(a, layout)
        a = dense_of(x).to(a.device) if layout != "bsr" else a
        alpha: Any = {torch.complex128: 2 - 1j, torch.int64: 2**60 + 1}.get(dtype, 0.5)
        expected = 3 * c + alpha * exact_mm(a, b).to(c.device)
        torch.testing.assert_close(myops.sparse.addmm(c, x, b, beta=3, alpha=alpha), expected)
        torch.testing.assert_close(myops.sparse.addmm(c[:1], x, b), c[:1] + exact_mm(a, b).to(c.device))
        y = in_layout(b, layout)
        b = dense_of(y).to(b.device) if layout != "bsr" else b
        torch.testing.assert_close(
            myops.sparse.addmm(c, a, y, beta=3, alpha=alpha), 3 * c + alpha * exact_mm(a, b).to(c.device)
        )
        torch.testing.assert_close(myops.sparse.addmm(c[0], a, y), c[0] + exact_mm(a, b).to(c.device))


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_sampled_addmm(layout: str, dtype: torch.dtype) -> None:
    s, a, b = random_dense(6, 9, dtype), random_dense(6, 4, dtype), random_dense(4, 9, dtype)
    pattern = in_layout(s, layout, torch.int32)
    got = myops.sparse.sampled_addmm(pattern, a, b, beta=2, alpha=3)
    s = s.cpu()
    expected = torch.where(s != 0, 2 * s.to(wide(dtype)) + 3 * exact_mm(a, b), 0)
    assert got.layout == pattern.layout
    assert torch.equal(dense_of(got), expected.to(dtype))


@pytest.mark.parametrize("layout", ["coo", "csr", "uncoalesced"])
def test_bmm(layout: str) -> None:
    mask = random_dense(6, 9, torch.float64) != 0
    a = torch.where(mask, torch.randn(3, 6, 9, dtype=torch.float64), 0)
    b = torch.randn(3, 9, 5, dtype=torch.float64)
    batch = a.to_sparse_csr() if layout == "csr" else a.to_sparse_coo()
    if layout == "uncoalesced":
        order = torch.randperm(batch._nnz())
        batch = torch.sparse_coo_tensor(batch.indices()[:, order], batch.values()[order], batch.shape)
    torch.testing.assert_close(myops.sparse.bmm(batch, b), a @ b)
    if layout != "csr":
        batch = batch.requires_grad_()
        (grad,) = torch.autograd.grad(myops.sparse.bmm(batch, b).square().sum(), batch)
        expected = 2 * (a @ b) @ b.mT
        torch.testing.assert_close(grad.to_dense(), torch.where(a != 0, expected, 0))


# Gradients.


def masked_gradient(x: Tensor, gradient: Tensor, stored: Tensor) -> None:
    """`x` is a gradient on the pattern `stored`, equal to the dense `gradient` there."""
    torch.testing.assert_close(x.to_dense(), torch.where(stored, gradient, 0))


def stored_of(t: Tensor) -> Tensor:
    """Which entries of a sparse tensor are stored."""
    if t.layout == torch.sparse_coo:
        t = t.coalesce()
        return torch.sparse_coo_tensor(t.indices(), torch.ones_like(t.values()), t.shape).to_dense() != 0
    ones = torch.sparse_compressed_tensor(*indices_of(t), torch.ones_like(t.values()), t.shape, layout=t.layout)
    return ones.to_dense() != 0


def indices_of(t: Tensor) -> tuple[Tensor, Tensor]:
    if t.layout in (torch.sparse_csr, torch.sparse_bsr):
        return t.crow_indices(), t.col_indices()
    return t.ccol_indices(), t.row_indices()


@INDEX
@pytest.mark.parametrize("dtype64", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("left", "right"), list(pairs()))
def test_gradients_keep_layout_and_pattern(left: str, right: str, dtype64: torch.dtype, index: torch.dtype) -> None:
    a, b = random_dense(8, 12, dtype64), random_dense(12, 6, dtype64)
    x, y = (in_layout(t, layout, index).requires_grad_() for t, layout in ((a, left), (b, right)))
    product = myops.sparse.mm(x, y)
    values = (
        product
        if product.layout == torch.strided
        else product._values()
        if product.layout == torch.sparse_coo
        else product.values()
    )
    values = myops.sparse._values_of(product) if product.layout != torch.strided else values
    weight = torch.randn_like(values)
    grads = torch.autograd.grad(
        (values * weight.conj()).real.sum() if dtype64.is_complex else (values * weight).sum(), (x, y)
    )
    if product.layout == torch.strided:
        outer = weight
    else:
        outer = myops.sparse._assemble(
            product.layout,
            (product._indices(),) if product.layout == torch.sparse_coo else indices_of(product),
            weight,
            product.shape,
        ).to_dense()
    dense_a, dense_b = x.detach().to_dense(), y.detach().to_dense()
    for leaf, grad, expected in ((x, grads[0], outer @ dense_b.mH), (y, grads[1], dense_a.mH @ outer)):
        assert grad.layout == leaf.layout
        if leaf.layout == torch.strided:
            torch.testing.assert_close(grad, expected)
            continue
        masked_gradient(grad, expected, stored_of(leaf.detach()))
        if leaf.layout == torch.sparse_coo:
            assert grad.is_coalesced()
        else:
            assert all(map(torch.equal, indices_of(grad), indices_of(leaf)))
            assert indices_of(grad)[0].dtype == index


@pytest.mark.parametrize("layout", ["coo", "uncoalesced", "csr"])
def test_backward_fills_grad(layout: str) -> None:
    """CSC, BSR and BSC leaves cannot accumulate in torch itself; torch.autograd.grad has their gradients."""
    a = in_layout(random_dense(8, 12, torch.float64), layout).requires_grad_()
    b = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    myops.sparse.mm(a, b).square().sum().backward()
    assert a.grad is not None
    assert a.grad.layout == a.layout
    masked_gradient(a.grad, 2 * (a.detach().to_dense() @ b.detach()) @ b.detach().mT, stored_of(a.detach()))


def with_values(layout: str, index: torch.dtype = torch.int64) -> tuple[Any, Tensor]:
    """A function from values to a sparse tensor, and values."""
    made = in_layout(random_dense(8, 12, torch.float64), layout, index)
    indices = (made.indices(),) if layout == "coo" else indices_of(made)
    values = torch.randn_like(made.values())
    return lambda v: myops.sparse._assemble(made.layout, indices, v, made.shape), values


@pytest.mark.parametrize("reduce", myops.sparse.REDUCTIONS)
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_gradcheck_through_native_tensors(layout: str, reduce: str) -> None:
    make, values = with_values(layout)
    x = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    function = lambda v, x: myops.sparse.mm(make(v), x, reduce=reduce)  # noqa: E731
    assert gradcheck(function, (values.requires_grad_(), x))
    assert gradgradcheck(function, (values.requires_grad_(), x))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_gradcheck_of_sparse_products(layout: str) -> None:
    make, values = with_values(layout)
    other = in_layout(random_dense(12, 5, torch.float64), layout)

    def function(v: Tensor) -> Tensor:
        return myops.sparse._values_of(myops.sparse.mm(make(v), other))

    assert gradcheck(function, (values.requires_grad_(),))
    assert gradgradcheck(function, (values.requires_grad_(),))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_masked_gradcheck_of_native_leaves(layout: str) -> None:
    a = in_layout(random_dense(4, 6, torch.float64), layout).requires_grad_()
    b = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a, b: myops.sparse.mm(a, b), (a, b), masked=True, check_undefined_grad=False)


def test_forward_mode() -> None:
    a, b = random_dense(5, 6, torch.float64), torch.randn(6, 3, dtype=torch.float64)
    tangent = torch.randn(6, 3, dtype=torch.float64)
    with forward_ad.dual_level():
        for layout in LAYOUTS[:4]:
            x = in_layout(a, layout)
            got = forward_ad.unpack_dual(myops.sparse.mm(x, forward_ad.make_dual(b, tangent))).tangent
            torch.testing.assert_close(got, x.to_dense() @ tangent)
            hidden = forward_ad.make_dual(torch.ones(5, 3, dtype=torch.float64), torch.full((5, 3), math.nan).double())
            got = myops.sparse.addmm(hidden, x, forward_ad.make_dual(b, tangent), beta=0)
            torch.testing.assert_close(forward_ad.unpack_dual(got).tangent, x.to_dense() @ tangent)


def test_transforms_over_the_dense_argument() -> None:
    for layout in [*LAYOUTS, "container"]:
        a, b = random_dense(4, 6, torch.float64), torch.randn(3, 6, 2, dtype=torch.float64)
        a = myops.CSR.from_torch(a) if layout == "container" else in_layout(a, layout)
        dense = a.to_dense()
        torch.testing.assert_close(torch.vmap(lambda x, a=a: myops.sparse.mm(a, x))(b), dense @ b)
        if layout in ("csr", "csc", "bsr", "bsc"):
            continue  # torch.func.grad cannot look at a native compressed tensor at all: it asks for strides
        loss = lambda x, a=a: myops.sparse.mm(a, x).sin().sum()  # noqa: E731
        expected = torch.func.grad(lambda x, dense=dense: (dense @ x).sin().sum())(b[0])
        torch.testing.assert_close(torch.func.grad(loss)(b[0]), expected)


class TestTheOneOperator:
    """myops::native_mm, which a product of a native and a strided tensor is where nothing is recorded."""

    LAYOUT = pytest.mark.parametrize("layout", ["csr", "csc", "coo", "uncoalesced"])

    def operands(self, layout: str = "csr") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dense = random_dense(5, 7, torch.float64)
        return dense, in_layout(dense, layout, torch.int32), torch.ones(7, 3).double(), torch.arange(3.0).double()

    @staticmethod
    def called(run: Any) -> set[str]:
        return operators_of(run) & {"myops::native_mm", "myops::spmm"}

    @LAYOUT
    def test_is_taken_where_nothing_is_recorded(self, layout: str) -> None:
        _, a, x, c = self.operands(layout)
        for run in (
            lambda: myops.sparse.mm(a, x),
            lambda: myops.sparse.mm(a, x, reduce="mean"),
            lambda: myops.sparse.addmm(c, a, x, beta=2, alpha=3),
        ):
            assert self.called(run) == {"myops::native_mm"}
            with torch.inference_mode():
                assert self.called(run) == {"myops::native_mm"}
        assert self.called(lambda: myops.sparse.mm(a, x.requires_grad_())) == {"myops::spmm"}

    @LAYOUT
    @pytest.mark.parametrize("inference", [False, True])
    def test_values(self, layout: str, inference: bool) -> None:
        dense, a, x, c = self.operands(layout)
        with torch.inference_mode(inference):
            assert torch.equal(torch.ops.myops.native_mm(a, x), dense @ x)
            got = torch.ops.myops.native_mm(a, x, c, beta=2, alpha=-3)
            count = torch.zeros_like(dense).index_put(tuple(a.to_sparse_coo()._indices()), x.new_ones(()), True).sum(1)
            for_mean = a
            if layout == "uncoalesced":
                with pytest.raises(RuntimeError, match="a must be coalesced where mean is True"):
                    torch.ops.myops.native_mm(a, x, mean=True)
                for_mean = a.coalesce()
                count = (dense != 0).sum(1)
            mean = torch.ops.myops.native_mm(for_mean, x, mean=True)
        assert torch.equal(got, 2 * c - 3 * (dense @ x))
        torch.testing.assert_close(mean, dense @ x / count.clamp(min=1).unsqueeze(1))

    @pytest.mark.usefixtures("on_cpu_only")
    @pytest.mark.parametrize("index", [-1, 5, 2**40])
    def test_bad_rows_in_any_order(self, index: int) -> None:
        x = torch.ones(7, 3)
        a = torch.sparse_coo_tensor([[4, index, 0], [6, 1, 2]], [1.0, 2, 3], (5, 7), check_invariants=False)
        with pytest.raises(RuntimeError, match=r"outside \[0, 5\)"):
            torch.ops.myops.native_mm(a, x)
        a = torch.sparse_coo_tensor([[4, 1, 0], [6, index + 2, 2]], [1.0, 2, 3], (5, 7), check_invariants=False)
        if not 0 <= index + 2 < 7:
            with pytest.raises(RuntimeError, match=r"outside \[0, 7\)"):
                torch.ops.myops.native_mm(a, x)

    @pytest.mark.parametrize("layout", ["coo", "uncoalesced"])
    @pytest.mark.parametrize("n", [1, 3, 40])
    def test_far_more_rows_than_entries(self, layout: str, n: int, dtype: torch.dtype) -> None:
        """A product of its own on the CPU, where rows of D are written once and added to entry by entry."""
        a = torch.zeros(900, 7, dtype=dtype)
        a[torch.randint(900, (60,)), torch.randint(7, (60,))] = random_dense(60, 1, dtype, density=1)[:, 0]
        s, b = in_layout(a, layout), random_dense(7, n, dtype)
        product = exact_mm(a, b)
        wider = torch.full((7, n + 3), 9, dtype=dtype)
        wider[:, 1 : n + 1] = b
        for dense in (b, b.mT.contiguous().mT, wider[:, 1 : n + 1], b.repeat_interleave(2, 1)[:, ::2]):
            assert torch.equal(myops.sparse.mm(s, dense).cpu(), product.to(dtype))
        for shape in ((900, n), (n,), (1, n), (900, 1), (n, 900)):
            c = random_dense(*shape, dtype) if len(shape) == 2 else random_dense(1, n, dtype)[0]
            c = c.t() if shape == (n, 900) else c
            got = myops.sparse.addmm(c, s, b, beta=2, alpha=3)
            assert torch.equal(got.cpu(), (2 * c.cpu().to(product) + 3 * product).to(dtype))
        assert torch.equal(myops.sparse.addmm(c * torch.nan if dtype.is_floating_point else c, s, b, beta=0).cpu(),
                           product.to(dtype))  # fmt: skip
        x = random_dense(n, 7, dtype)
        assert torch.equal(myops.sparse.mm(x, in_layout(a.t(), layout)).cpu(), exact_mm(x, a.t()).to(dtype))

    @pytest.mark.parametrize(("at", "words"), [((-1, 0), "row"), ((900, 0), "row"), ((0, -1), "col"), ((0, 7), "col")])
    def test_bad_indices_of_far_more_rows_than_entries(
        self, at: tuple[int, int], words: str, on_cpu_only: None
    ) -> None:
        s = torch.sparse_coo_tensor([[5, at[0]], [6, at[1]]], torch.ones(2), (900, 7), check_invariants=False)
        with pytest.raises(RuntimeError, match=f"{words} holds an index outside"), torch.inference_mode():
            torch.ops.myops.native_mm(s, torch.ones(7, 3))

    def test_an_infinite_alpha_and_far_more_rows_than_entries(self) -> None:
        s = torch.sparse_coo_tensor([[5], [6]], torch.ones(1), (900, 7)).coalesce()
        for alpha in (math.inf, math.nan):
            got = myops.sparse.addmm(torch.zeros(1), s, torch.ones(7, 3), alpha=alpha)
            expected = alpha * (s.to_dense() @ torch.ones(7, 3))  # NaN where there is nothing
            torch.testing.assert_close(got, expected, equal_nan=True)

    @pytest.mark.parametrize("layout", ["csr", "csc", "coo", "uncoalesced", "bsc"])
    @pytest.mark.parametrize("n", [1, 3, 40])
    def test_values_on_the_right(self, layout: str, n: int, dtype: torch.dtype) -> None:
        if layout == "bsc" and torch.get_default_device().type != "cpu":
            pytest.skip("there blocks take several calls")
        dense, x = random_dense(6, 9, dtype), random_dense(n, 6, dtype)
        b = in_layout(dense, layout, torch.int32)
        row, column, c = random_dense(1, 9, dtype), random_dense(n, 1, dtype), random_dense(n, 9, dtype)
        addends = (c, c.mT.contiguous().mT, random_dense(2 * n, 18, dtype)[::2, ::2], row, row[0], column, c[0, 0])
        product = exact_mm(x, dense)
        for a in (x, x.mT.contiguous().mT, random_dense(n, 12, dtype)[:, ::2].copy_(x)):
            got = myops.sparse.mm(a, b)
            assert torch.equal(got, product.to(x))
            assert (got.mT if layout in ("coo", "uncoalesced") else got).is_contiguous()
            for addend in addends:
                got = myops.sparse.addmm(addend, a, b, beta=2, alpha=-3)
                assert torch.equal(got, (2 * addend.cpu().to(product) - 3 * product).to(x))
            hidden = torch.full_like(c, float("nan")) if dtype.is_floating_point else c
            assert torch.equal(myops.sparse.addmm(hidden, a, b, beta=0), product.to(x))
            assert torch.equal(myops.sparse.addmm(c, a, b, beta=2, alpha=0), 2 * c)
        assert self.called(lambda: myops.sparse.addmm(c, x, b)) == {"myops::native_mm"}

    def test_bad_operands_on_the_right(self) -> None:
        b, x = torch.ones(7, 3).to_sparse_csr(), torch.ones(5, 7)
        for args, message in (
            ((x[:, :6], b), r"a and b shapes cannot be multiplied \(5x6 and 7x3\)"),
            ((x.double(), b), "a and b must have the same dtype, but got float64 and float32"),
            ((x[0], b), "a must be a matrix, got 1-D tensor"),
            ((x, b, torch.ones(5)), r"input of shape \[5\] cannot be broadcast to the result's shape \[5, 3\]"),
            ((x, b, torch.ones(3).double()), "values and input must have the same dtype"),
        ):
            with pytest.raises(RuntimeError, match=message), torch.inference_mode():
                torch.ops.myops.native_mm(*args)
        with pytest.raises(RuntimeError, match="mean must be False where a is strided"), torch.inference_mode():
            torch.ops.myops.native_mm(x, b, mean=True)

    @LAYOUT
    def test_gradients_when_called_by_name(self, layout: str) -> None:
        dense, a, x, c = self.operands(layout)
        leaves = [t.detach().requires_grad_() for t in (a, x, c)]
        # Not backward(), which cannot accumulate in CSC.
        grads = torch.autograd.grad(torch.ops.myops.native_mm(*leaves, beta=2, alpha=-3).sum(), leaves)
        assert torch.equal(grads[1], -3 * dense.mT @ torch.ones(5, 3).double())
        assert torch.equal(grads[2], torch.full((3,), 10.0).double())
        assert grads[0].layout == a.layout
        assert torch.equal(grads[0].to_dense(), -9 * dense.bool().double())
        leaves = [t.detach().requires_grad_() for t in (x.mT, in_layout(dense.mT.contiguous(), layout), c[:1])]
        grads = torch.autograd.grad(torch.ops.myops.native_mm(*leaves, beta=2, alpha=-3).sum(), leaves)
        assert torch.equal(grads[0], -3 * torch.ones(3, 5).double() @ dense)
        assert torch.equal(grads[1].to_dense(), -9 * dense.mT.bool().double())
        assert torch.equal(grads[2], torch.tensor([30.0]).double())

    @LAYOUT
    def test_autocast(self, layout: str, device: str) -> None:
        _, a, x, c = (t.float() for t in self.operands(layout))
        with torch.autocast(device, dtype=torch.bfloat16):
            assert torch.ops.myops.native_mm(a, x).dtype == torch.bfloat16
            assert myops.sparse.mm(a, x).dtype == torch.bfloat16
            assert myops.sparse.addmm(c, a, x).dtype == torch.bfloat16

    @LAYOUT
    def test_flops(self, layout: str) -> None:
        _, a, x, _ = self.operands(layout)
        with FlopCounterMode(display=False) as counter:
            myops.sparse.mm(a, x)
        assert counter.get_total_flops() == 2 * a._nnz() * 3

    def test_other_layouts(self) -> None:
        dense, _, x, _ = self.operands()
        with pytest.raises((RuntimeError, NotImplementedError)), torch.inference_mode():
            torch.ops.myops.native_mm(dense, x)
        with pytest.raises(RuntimeError, match="b must be strided where a is sparse"), torch.inference_mode():
            torch.ops.myops.native_mm(dense.to_sparse_csr(), x.to_sparse_csr())
        for batched in (torch.stack([dense, dense]).to_sparse_csr(), torch.stack([dense, dense]).to_sparse()):
            with pytest.raises(RuntimeError, match="a must be a matrix, got 3-D tensor"), torch.inference_mode():
                torch.ops.myops.native_mm(batched, x)
        hybrid = torch.sparse_coo_tensor(torch.zeros(1, 2, dtype=torch.int64), torch.ones(2, 7).double(), (5, 7))
        for a in (hybrid, hybrid.coalesce()):
            with pytest.raises(RuntimeError, match="a must have scalar entries"), torch.inference_mode():
                torch.ops.myops.native_mm(a, x)


class TestOneOperatorEach:
    """myops::native_bmm, native_sampled_addmm and native_spgemm, where nothing is recorded."""

    @staticmethod
    def batch(dtype: torch.dtype, uncoalesced: bool) -> tuple[Tensor, Tensor]:
        a = torch.stack([random_dense(6, 9, dtype), random_dense(6, 9, dtype)])
        sparse = a.to_sparse_coo()
        if uncoalesced:
            order = torch.randperm(sparse._nnz())
            indices, values = sparse.indices()[:, order], sparse.values()[order]
            sparse = torch.sparse_coo_tensor(indices, values, sparse.shape)
        return a, sparse

    @pytest.mark.usefixtures("on_cpu_only")
    @pytest.mark.parametrize("uncoalesced", [False, True])
    def test_bmm(self, uncoalesced: bool, dtype: torch.dtype) -> None:
        a, sparse = self.batch(dtype, uncoalesced)
        b = torch.stack([random_dense(9, 4, dtype), random_dense(9, 4, dtype)])
        expected = torch.stack([exact_mm(x, y) for x, y in zip(a, b, strict=True)]).to(dtype)
        for dense in (b, b.mT.contiguous().mT, b.transpose(0, 1).contiguous().transpose(0, 1), b[:, :, ::2]):
            got = myops.sparse.bmm(sparse, dense)
            assert torch.equal(got, expected[:, :, :: b.shape[2] // dense.shape[2]])
            assert got.is_contiguous()
        first = myops.sparse.bmm(sparse, b[:1].expand_as(b))
        assert torch.equal(first[1], exact_mm(a[1], b[0]).to(dtype))
        assert "myops::native_bmm" in operators_of(lambda: myops.sparse.bmm(sparse, b))

    @pytest.mark.usefixtures("on_cpu_only")
    def test_bmm_of_many_entries(self) -> None:
        item, row, col = (torch.randint(n, (100_000,)) for n in (50, 70, 90))
        a = torch.sparse_coo_tensor(torch.stack([item, row, col]), torch.ones(100_000), (50, 70, 90))
        b = torch.randint(-3, 4, (50, 90, 3)).float()
        assert torch.equal(myops.sparse.bmm(a, b), a.to_dense() @ b)

    @pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
    @pytest.mark.parametrize("k", [0, 1, 5, 70])
    @pytest.mark.parametrize("scalars", [{}, {"beta": 0}, {"alpha": 0, "beta": -2}, {"alpha": 3, "beta": 2}], ids=str)
    def test_sampled_addmm(self, layout: str, k: int, scalars: dict[str, int], dtype: torch.dtype) -> None:
        s, a, b = random_dense(6, 9, dtype), random_dense(6, k, dtype), random_dense(k, 9, dtype)
        pattern = in_layout(s, layout, torch.int32)
        product = exact_mm(a, b)
        alpha, beta = scalars.get("alpha", 1), scalars.get("beta", 1)
        expected = torch.where(s.cpu() != 0, beta * s.cpu().to(product) + alpha * product, 0).to(dtype)
        for left, right in ((a, b), (a.mT.contiguous().mT, b.mT.contiguous().mT)):
            got = myops.sparse.sampled_addmm(pattern, left, right, **scalars)
            assert torch.equal(dense_of(got), expected)
            assert got.layout == pattern.layout
            assert got.dtype == dtype
            assert got.shape == pattern.shape
        if layout == "coo":
            assert got.is_coalesced()
        else:
            assert index_dtype(got) == torch.int32
        run = lambda: myops.sparse.sampled_addmm(pattern, a, b, **scalars)  # noqa: E731
        assert operators_of(run) == {"myops::native_sampled_addmm"}

    def test_sampled_addmm_of_a_long_row(self) -> None:
        """Its entries are shared out; every one has its own addend."""
        s, a = torch.arange(1, 9001.0).view(1, -1), torch.ones(1, 40)
        got = myops.sparse.sampled_addmm(s.to_sparse_csr(), a, torch.ones(40, 9000), beta=2, alpha=3)
        assert torch.equal(got.values(), 2 * s[0] + 120)

    @pytest.mark.parametrize("layout", ["csr", "coo", "uncoalesced"])
    def test_spgemm(self, layout: str, dtype: torch.dtype) -> None:
        a, b = random_dense(6, 9, dtype), random_dense(9, 7, dtype)
        x, y = in_layout(a, layout, torch.int32), in_layout(b, layout, torch.int32)
        got = myops.sparse.mm(x, y)
        assert torch.equal(dense_of(got), exact_mm(dense_of(x), dense_of(y)).to(dtype))
        assert operators_of(lambda: myops.sparse.mm(x, y)) == {"myops::native_spgemm"}
        assert torch.equal(dense_of(torch.ops.myops.native_spgemm(x, y)), dense_of(got))
        if layout == "csr":
            assert index_dtype(got) == torch.int32
        else:
            assert got.is_coalesced()

    def test_spgemm_of_sorted_entries_that_are_not_coalesced(self) -> None:
        indices, values = torch.tensor([[0, 0, 2, 2], [3, 1, 0, 0]]), torch.arange(1.0, 5)
        a = torch.sparse_coo_tensor(indices, values, (3, 4))
        got = myops.sparse.mm(a, a.t())
        assert torch.equal(got.to_dense(), a.to_dense() @ a.to_dense().t())

    @pytest.mark.parametrize("reduce", ["amax", "amin"])
    @pytest.mark.parametrize("layout", ["csr", "coo"])
    def test_extremum(self, layout: str, reduce: str) -> None:
        a, x = random_dense(6, 9, torch.float32), random_dense(9, 5, torch.float32)
        a[2] = 0
        s = in_layout(a, layout, torch.int32)
        products = (a.unsqueeze(2) * x).masked_fill(
            (a == 0).unsqueeze(2), -torch.inf if reduce == "amax" else torch.inf
        )
        expected = getattr(products, reduce)(1)
        expected[2] = 0
        for dense in (x, x.mT.contiguous().mT):
            assert torch.equal(myops.sparse.mm(s, dense, reduce=reduce), expected)
        assert operators_of(lambda: myops.sparse.mm(s, x, reduce=reduce)) == {"myops::native_extremum"}
        leaf = s.detach().requires_grad_()
        product = torch.ops.myops.native_extremum(leaf, x, minimum=reduce == "amin")
        assert torch.equal(product, expected)
        (grad,) = torch.autograd.grad(product.sum(), leaf)
        assert (grad.values() * s.values()).sum() == product.sum()  # of degree one in the values

    def test_int32_with_int64(self) -> None:
        a = random_dense(6, 6, torch.float32)
        x, y = in_layout(a, "csr", torch.int32), in_layout(a, "csr", torch.int64)
        got = myops.sparse.mm(x, y)
        assert index_dtype(got) == torch.int64
        assert torch.equal(dense_of(got), exact_mm(a, a).float())

    @pytest.mark.usefixtures("on_cpu_only")
    def test_recorded_calls_by_name(self) -> None:
        ops = torch.ops.myops
        a = random_dense(6, 6, torch.float64)
        batch, c = torch.stack([a, 2 * a]), torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(ops.native_bmm(batch.to_sparse_coo(), c).sum(), c)
        torch.testing.assert_close(grad, batch.mT @ torch.ones_like(c))
        x = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
        for layout in ("csr", "csc", "coo"):
            s = in_layout(a, layout).requires_grad_()
            product = ops.native_sampled_addmm(s, x, x, beta=2, alpha=3)
            grads = torch.autograd.grad(product.to_dense().sum(), (s, x))
            torch.testing.assert_close(grads[0].to_dense(), 2 * (a != 0).double())
            (expected,) = torch.autograd.grad(torch.where(a != 0, 3 * (x @ x), 0).sum(), x)
            torch.testing.assert_close(grads[1], expected)
        for layout in ("csr", "coo"):
            s = in_layout(a, layout).requires_grad_()
            (grad,) = torch.autograd.grad(ops.native_spgemm(s, in_layout(a, layout)).to_dense().sum(), s)
            ones = (exact_mm((a != 0).double().cpu(), (a != 0).double().cpu()) != 0).double()
            torch.testing.assert_close(grad.to_dense().cpu(), torch.where(a.cpu() != 0, ones @ a.cpu().mT, 0))

    @pytest.mark.usefixtures("on_cpu_only")
    def test_flops(self) -> None:
        a, batch = self.batch(torch.float32, False)
        for run, flops in (
            (lambda: myops.sparse.bmm(batch, torch.ones(2, 9, 3)), 2 * batch._nnz() * 3),
            (lambda: myops.sparse.sampled_addmm(a[0].to_sparse_csr(), torch.ones(6, 5), torch.ones(5, 9)), 10 * int((a[0] != 0).sum())),
        ):  # fmt: skip
            with FlopCounterMode(display=False) as counter:
                run()
            assert counter.get_total_flops() == flops

    @pytest.mark.usefixtures("on_cpu_only")
    def test_bad_operands(self) -> None:
        ops, x = torch.ops.myops, torch.ones(6, 6)
        csr, coo, bsr = x.to_sparse_csr(), x.to_sparse_coo(), x.to_sparse_bsr((2, 2))
        batch, y = torch.ones(2, 6, 6).to_sparse_coo(), torch.ones(2, 6, 3)
        hybrid = torch.ones(2, 6, 6).to_sparse(2)
        cases: list[tuple[Any, tuple[Any, ...], str]] = [
            (ops.native_extremum, (csr, x[:5]), "a and b shapes cannot be multiplied (6x6 and 5x6)"),
            (ops.native_extremum, (csr, csr), "b must be strided"),
            (ops.native_extremum, (bsr, x), "a must be CSR or COO"),
            (ops.native_extremum, (coo.t(), x), "a must be coalesced"),
            (ops.native_extremum, (csr, x.double()), "values and dense must have the same dtype"),
            (ops.native_bmm, (batch, y[0]), "a and b must be 3-D, got 3-D and 2-D"),
            (ops.native_bmm, (batch, y[:, :5]), "b must have shape [2, 6, N], but got [2, 5, 3]"),
            (ops.native_bmm, (batch, y[:1]), "b must have shape [2, 6, N], but got [1, 6, 3]"),
            (ops.native_bmm, (batch, y.double()), "a and b must have the same dtype, but got float32 and float64"),
            (ops.native_bmm, (hybrid, y), "a must have scalar entries"),
            (ops.native_bmm, (torch.ones(2, 6, 6).to_sparse_csr(), y), "a must be COO and b strided"),
            (ops.native_bmm, (y, torch.ones(2, 3, 6).to_sparse_coo()), "a must be COO and b strided"),
            (ops.native_bmm, (batch.bool(), y.bool()), "not implemented for values of dtype bool"),
            (ops.native_sampled_addmm, (csr, x, x[:5]), "mat1 and mat2 shapes cannot be multiplied (6x6 and 5x6)"),
            (ops.native_sampled_addmm, (csr, x[:5], x), "input must have the shape of mat1 @ mat2, [5, 6], but got [6, 6]"),
            (ops.native_sampled_addmm, (csr, x, x[:, :4]), "input must have the shape of mat1 @ mat2, [6, 4], but got [6, 6]"),
            (ops.native_sampled_addmm, (csr, x.double(), x.double()), "mat1 and input must have the same dtype, but got float64 and float32"),
            (ops.native_sampled_addmm, (csr, x, x.double()), "mat1 and mat2 must have the same dtype, but got float32 and float64"),
            (ops.native_sampled_addmm, (csr, x, csr), "mat1 and mat2 must be strided"),
            (ops.native_sampled_addmm, (csr, x, x[0]), "mat2 must be a matrix, got 1-D tensor"),
            (ops.native_sampled_addmm, (bsr, x, x), "input must be COO, CSR or CSC"),
            (ops.native_sampled_addmm, (torch.ones(6, 6, 2).to_sparse_csr(dense_dim=1), x, x), "input must be a matrix"),
            (ops.native_sampled_addmm, (coo.t(), x, x), "input must be coalesced"),
            (ops.native_spgemm, (csr, torch.ones(5, 6).to_sparse_csr()), "a and b shapes cannot be multiplied (6x6 and 5x6)"),
            (ops.native_spgemm, (csr, coo), "a and b must have one layout"),
            (ops.native_spgemm, (bsr, bsr), "a and b must be CSR or COO"),
            (ops.native_spgemm, (coo, torch.ones(6, 3).to_sparse(1)), "b must have scalar entries"),
            (ops.native_spgemm, (csr, csr.double()), "a_values and b_values must have the same dtype"),
        ]  # fmt: skip
        for op, args, words in cases:
            with pytest.raises(RuntimeError, match=re.escape(words)), torch.inference_mode():
                op(*args)
        for scalars in ({"alpha": 1.5}, {"beta": 1.5}):
            (name,) = scalars
            with pytest.raises(RuntimeError, match=f"argument {name} must not be"), torch.inference_mode():
                ops.native_sampled_addmm(csr.long(), x.long(), x.long(), **scalars)
        for at, words in (((2, 0, 0), "row"), ((0, 6, 0), "row"), ((0, 0, -1), "col")):
            wrong = torch.sparse_coo_tensor([[0, i] for i in at], torch.ones(2), (2, 6, 6), check_invariants=False)
            with pytest.raises(RuntimeError, match=f"{words} holds an index outside"), torch.inference_mode():
                ops.native_bmm(wrong, y)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_backward_takes_memory_for_the_entries_only(layout: str) -> None:
    """100000 x 100000 with 300000 entries: the dense gradient that native torch forms would take 40 GB."""
    n, nnz = 100_000, 300_000
    indices = torch.randint(n, (2, nnz))
    a = torch.sparse_coo_tensor(indices, torch.randn(nnz), (n, n)).coalesce()
    a = {"coo": a, "csr": a.to_sparse_csr(), "csc": a.to_sparse_csc()}[layout].requires_grad_()
    b = torch.randn(n, 4, requires_grad=True)
    grad, _ = torch.autograd.grad(myops.sparse.mm(a, b).sum(), (a, b))
    assert grad.layout == a.layout
    row, col = a.detach().to_sparse_coo().coalesce().indices()[:, 7]
    got = grad.to_sparse_coo().coalesce()
    at = ((got.indices()[0] == row) & (got.indices()[1] == col)).nonzero()
    torch.testing.assert_close(got.values()[at].item(), b[col].sum().item())


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_a_gradient_with_other_entries_than_the_product(layout: str) -> None:
    """What the gradient stores outside of the product's pattern is masked, what it does not store is zero."""
    dense = torch.tensor([[1.0, 2, 0], [0, 3, 0], [0, 0, 6]], dtype=torch.float64)
    incoming = torch.tensor([[0.0, 5, 7], [0, 0, 0], [0, 0, -2]], dtype=torch.float64)
    a, b = (in_layout(dense, layout).requires_grad_() for _ in range(2))
    product = myops.sparse.mm(a, b)
    got = torch.autograd.grad(product, (a, b), in_layout(incoming, layout))
    masked = incoming * ((dense != 0).double() @ (dense != 0).double() != 0)
    for mine, expected in zip(got, (masked @ dense.mT, dense.mT @ masked), strict=True):
        torch.testing.assert_close(mine.to_dense(), expected * (dense != 0))


# Errors.


def csr(m: int, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return random_dense(m, k, dtype).to_sparse_csr()


@pytest.mark.parametrize(
    ("call", "exception", "words"),
    [
        (lambda: myops.sparse.mm(csr(3, 4), torch.ones(3, 2)), RuntimeError, "shapes cannot be multiplied (3x4 and 3x2)"),
        (lambda: myops.sparse.mm(csr(3, 4), torch.ones(4)), RuntimeError, "a and b must be matrices, got 2-D sparse_csr of float32 and 1-D strided of float32"),
        (lambda: myops.sparse.mm(csr(3, 4), torch.ones(4, 2).double()), RuntimeError, "a and b must have the same dtype, but got float32 and float64"),
        (lambda: myops.sparse.mm(csr(3, 4), torch.ones(4, 2), reduce="max"), ValueError, "reduce must be one of sum, mean, amax, amin, but got 'max'"),
        (lambda: myops.sparse.mm(torch.ones(2, 3), csr(3, 4), reduce="mean"), ValueError, "needs a sparse a and a strided b"),
        (lambda: myops.sparse.mm(csr(3, 4).to(torch.bool), torch.ones(4, 2).bool()), NotImplementedError, "not implemented for values of dtype bool"),
        (lambda: myops.sparse.mm(torch.ones(3, 4, 2).to_sparse(2), torch.ones(4, 2)), RuntimeError, "a and b must be matrices, got 3-D sparse_coo"),
        (lambda: myops.sparse.addmm(csr(3, 2), csr(3, 4), torch.ones(4, 2)), RuntimeError, "addmm takes a strided input, one sparse and one strided matrix"),
        (lambda: myops.sparse.addmm(None, csr(3, 4), torch.ones(4, 2)), TypeError, "input must be a Tensor, but got NoneType"),
        (lambda: myops.sparse.addmm(2.0, csr(3, 4), torch.ones(4, 2)), TypeError, "input must be a Tensor, but got float"),
        (lambda: myops.sparse.addmm(torch.ones(5), csr(3, 4), torch.ones(4, 2)), RuntimeError, "input of shape [5] cannot be broadcast to the result's shape [3, 2]"),
        (lambda: myops.sparse.sampled_addmm(torch.ones(3, 2), torch.ones(3, 4), torch.ones(4, 2)), RuntimeError, "input must be COO, CSR, CSC or myops.CSR, got 2-D strided of float32"),
        (lambda: myops.sparse.sampled_addmm(csr(3, 3), torch.ones(3, 4), torch.ones(4, 2)), RuntimeError, "input must have the shape of mat1 @ mat2, [3, 2], but got [3, 3]"),
        (lambda: myops.sparse.bmm(csr(3, 4), torch.ones(1, 4, 2)), RuntimeError, "a and b must be 3-D, a sparse and b strided"),
    ],
)  # fmt: skip
def test_bad_calls(call: Any, exception: type[Exception], words: str) -> None:
    with pytest.raises(exception, match=re.escape(words)) as raised:
        call()
    assert type(raised.value) is exception


@INDEX
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_indices_out_of_range_are_found(layout: str, index: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # so that products wait for what their kernels found
    kind = torch.sparse_csr if layout == "csr" else torch.sparse_csc
    for bad in ([0, 1, 5], [0, -1, 2]):
        parts = torch.tensor([0, 1, 3], dtype=index), torch.tensor(bad, dtype=index), torch.ones(3)
        a = torch.sparse_compressed_tensor(
            *parts, (2, 3) if layout == "csr" else (3, 2), layout=kind, check_invariants=False
        )
        with pytest.raises(RuntimeError, match=re.escape("col holds an index outside [0, 3)")):
            myops.sparse.mm(a, torch.ones(a.shape[1], 4))


# Real matrices.


@pytest.mark.parametrize(
    "name", ["cora", "musae_git", "wiki_vote", "bcsstk16", "bayer10", "arrow", "p2p_gnutella31", "helmholtz_2D"]
)
def test_real_matrices(name: str, device: str) -> None:
    matrix = real_matrix(name)
    double = torch.complex128 if matrix.dtype.kind == "c" else torch.float64
    crow, col, values = (torch.from_numpy(x).to(device) for x in (matrix.indptr, matrix.indices, matrix.data))
    a = torch.sparse_csr_tensor(crow, col, values, matrix.shape)
    x = torch.randn(matrix.shape[1], 17, dtype=values.dtype)
    exact = matrix.astype(str(double).removeprefix("torch.")) @ x.to(double).cpu().numpy()
    scale = abs(matrix).astype("float64") @ x.abs().double().cpu().numpy()
    for layout in (a, a.to_sparse_coo(), a.to_sparse_csc()):
        error = (myops.sparse.mm(layout, x).cpu().to(double) - torch.from_numpy(exact)).abs()
        assert bool((error <= 1e-5 * torch.from_numpy(scale) + 1e-30).all())
    if matrix.nnz < 150_000 and name != "arrow":
        ones = matrix.copy()
        ones.data[:] = 1
        got = myops.sparse.mm(*[torch.sparse_csr_tensor(crow, col, torch.ones(matrix.nnz), matrix.shape)] * 2)
        expected = (ones @ ones).tocsr()
        expected.sort_indices()
        assert torch.equal(got.crow_indices().cpu(), torch.from_numpy(expected.indptr).to(crow.dtype))
        assert torch.equal(got.col_indices().cpu(), torch.from_numpy(expected.indices).to(col.dtype))
        assert torch.equal(got.values().cpu(), torch.from_numpy(expected.data.real.astype("float32")))


@pytest.mark.usefixtures("on_cpu_only")
def test_threads_do_not_change_a_full_row() -> None:
    """One row of a third of all entries."""
    n = 20_000
    row = torch.cat([torch.zeros(n, dtype=torch.int64), torch.arange(n)])
    col = torch.cat([torch.arange(n), torch.arange(n)])
    a = torch.sparse_coo_tensor(torch.stack([row, col]), torch.randn(2 * n), (n, n))
    before, results = torch.get_num_threads(), []
    for threads, width in itertools.product((1, 2, 3), (1, 20)):
        torch.set_num_threads(threads)
        results.append(myops.sparse.mm(a, torch.ones(n, width) * torch.arange(n).view(-1, 1) / n))
    torch.set_num_threads(before)
    for i in (0, 1):
        assert torch.equal(results[i], results[i + 2])
        assert torch.equal(results[i], results[i + 4])


@pytest.mark.parametrize(("batch", "m", "k", "n"), [(0, 2, 3, 4), (2, 3, 0, 4), (2, 0, 3, 4), (2, 2, 3, 0)])
def test_empty_batches(batch: int, m: int, k: int, n: int) -> None:
    a, b = torch.zeros(batch, m, k).to_sparse_coo(), torch.zeros(batch, k, n)
    torch.testing.assert_close(myops.sparse.bmm(a, b), torch.zeros(batch, m, n))


@pytest.mark.parametrize(("kind", "scalar"), [(torch.int64, 1.5), (torch.float32, 1j)], ids=str)
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_sampled_scalars_that_do_not_fit(kind: torch.dtype, scalar: complex, name: str) -> None:
    a = torch.ones(2, 2, dtype=kind)
    with pytest.raises(RuntimeError, match=f"argument {name} must not be"):
        myops.sparse.sampled_addmm(a.to_sparse_csr(), a, a, **{name: scalar})


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc], ids=str)
def test_gradients_beside_a_constant_complex_matrix(layout: torch.layout) -> None:
    """Values of a constant are a view of a sparse tensor, which has no conj() of its own."""
    a = torch.randn(4, 4, dtype=torch.complex128)
    x = torch.randn(4, 3, dtype=torch.complex128, requires_grad=True)
    constant = a.to_sparse(layout=layout)
    for ours, dense in (
        (lambda: myops.sparse.mm(constant, x), lambda: a @ x),
        (lambda: myops.sparse.addmm(x, constant, x, alpha=2j), lambda: x + 2j * (a @ x)),
        (lambda: myops.sparse.mm(x.mT, constant), lambda: x.mT @ a),
    ):
        grads = [torch.autograd.grad(f().abs().sum(), x)[0] for f in (ours, dense)]
        torch.testing.assert_close(*grads)
    trained = constant.clone().requires_grad_()
    grad = torch.autograd.grad(myops.sparse.mm(trained, constant).to_dense().abs().sum(), trained)[0]
    leaf = a.clone().requires_grad_()
    torch.testing.assert_close(grad.to_dense(), torch.autograd.grad((leaf @ a).abs().sum(), leaf)[0])


@pytest.mark.parametrize("outer", [[0, -5, 2], [0, 100000, 2], [0, 1, 1], [1, 1, 2]], ids=str)
@pytest.mark.parametrize("layout", [torch.sparse_bsr, torch.sparse_bsc], ids=str)
def test_malformed_blocks_are_errors(layout: torch.layout, outer: list[int]) -> None:
    size = (2, 3) if layout == torch.sparse_bsr else (3, 2)
    a = torch.sparse_compressed_tensor(
        torch.tensor(outer), torch.tensor([0, 1]), torch.ones(2, 1, 1), size, layout=layout, check_invariants=False
    )
    for _ in range(20):
        with pytest.raises(RuntimeError, match="must start at 0, never decrease and end at 2"):
            myops.sparse.mm(a, torch.ones(size[1], 2))


def test_more_columns_than_int32_indices_count(on_cpu_only: None) -> None:
    n, width = 2**32, 2**16
    x = torch.empty(n, 1, dtype=torch.int8)  # 4 GB, of which few pages are touched
    x[-width:], x[-4:] = 0, 1
    ones, first = torch.ones(1, 1, width, dtype=torch.int8), torch.tensor([0, 1], dtype=torch.int32)
    last = torch.tensor([n // width - 1], dtype=torch.int32)
    blocks = torch.sparse_compressed_tensor(first, last, ones, (1, n), layout=torch.sparse_bsr)
    assert myops.sparse.mm(blocks, x).item() == 4
    negative = torch.sparse_csr_tensor(
        first, torch.tensor([-(2**30)], dtype=torch.int32), ones.view(-1)[:1], (1, n), check_invariants=False
    )
    with pytest.raises(RuntimeError, match="col holds an index outside"):
        myops.sparse.mm(negative, x)


@pytest.mark.usefixtures("on_cpu_only")  # where a wrong index stops the grid
@pytest.mark.parametrize("at", [(0, 1, 4), (0, 1, -1), (0, 2, 0), (1, -1, 0)], ids=str)
def test_an_index_of_one_item_is_not_one_of_the_next(at: tuple[int, int, int]) -> None:
    indices = torch.tensor([(0, 0, 0), at]).mT
    a = torch.sparse_coo_tensor(indices, torch.ones(2), (2, 2, 3), check_invariants=False)
    with pytest.raises(RuntimeError, match="holds an index outside of"):
        myops.sparse.bmm(a, torch.ones(2, 3, 2))
    crow = torch.tensor([[0, 1, 1], [0, 0, 1]])
    a = torch.sparse_csr_tensor(crow, torch.tensor([[3], [0]]), torch.ones(2, 1), (2, 2, 3), check_invariants=False)
    with pytest.raises(RuntimeError, match="col holds an index outside of"):
        myops.sparse.bmm(a, torch.ones(2, 3, 2))


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16], ids=str)
def test_sampled_sums_of_sixteen_bits_are_rounded_once(narrow: torch.dtype) -> None:
    pattern = torch.eye(2, dtype=narrow).to_sparse_csr()
    m = torch.full((2, 2), 300.0, dtype=narrow)
    got = myops.sparse.sampled_addmm(pattern, m, m, alpha=0.001, beta=0).values()  # the product itself is 180,000
    assert torch.equal(got, torch.full((2,), 180.0, dtype=narrow))
    got = myops.sparse.sampled_addmm(pattern, m, m, alpha=1 / 180_000, beta=1).values()
    assert torch.equal(got, torch.full((2,), 2.0, dtype=narrow))


def test_sampled_scalars_that_are_zero_read_nothing() -> None:
    nan = torch.full((2, 2), float("nan"), requires_grad=True)
    pattern = torch.eye(2).to_sparse_csr().requires_grad_()
    got = myops.sparse.sampled_addmm(pattern, nan, nan, alpha=0)
    assert torch.equal(got.values(), torch.ones(2))
    assert torch.autograd.grad(got.to_dense().sum(), nan)[0].eq(0).all()
    empty = (pattern.detach() * float("nan")).requires_grad_()
    got = myops.sparse.sampled_addmm(empty, torch.ones(2, 2), torch.ones(2, 2), beta=0)
    assert torch.equal(got.detach().values(), torch.full((2,), 2.0))
    assert torch.autograd.grad(got.to_dense().sum(), empty)[0].values().eq(0).all()


def test_what_is_no_tensor_or_number() -> None:
    a, x = torch.eye(2).to_sparse_csr(), torch.ones(2, 2)
    calls: list[tuple[Any, str]] = [
        (lambda: myops.sparse.mm(a, 3), "b must be a Tensor, but got int"),
        (lambda: myops.sparse.mm(None, x), "a must be a Tensor, but got NoneType"),
        (lambda: myops.sparse.sampled_addmm(a, x, [1]), "mat2 must be a Tensor, but got list"),
        (lambda: myops.sparse.addmm(x, a, x, beta="2"), "beta must be a number, but got str"),
        (lambda: myops.sparse.addmm(x, a, x, alpha=[2]), "alpha must be a number, but got list"),
        (lambda: myops.sparse.sampled_addmm(a, x, x, beta="2"), "beta must be a number, but got str"),
        (lambda: myops.CSR.from_torch(numpy.ones((2, 2))), "matrix must be a Tensor, but got ndarray"),
    ]
    for call, words in calls:
        with pytest.raises(TypeError, match=words):
            call()
    half = a.to(torch.float16)
    assert not myops.sparse.addmm(x.half() * 0, half, x.half() * 0, alpha=2**60).any()
    assert torch.equal(myops.sparse.addmm(x, a, x, alpha=torch.tensor(2.0), beta=numpy.float32(3)), x * 5)


def test_sampled_scalars_are_read_at_the_call() -> None:
    a, x = torch.eye(2).to_sparse_csr(), torch.ones(2, 2, requires_grad=True)
    alpha = torch.tensor(2.0)
    got = myops.sparse.sampled_addmm(a, x, x.detach(), alpha=alpha, beta=numpy.float32(3))
    alpha.fill_(7)
    got.to_dense().sum().backward()
    assert torch.equal(got.detach().values(), torch.full((2,), 7.0))
    assert torch.equal(x.grad, torch.full((2, 2), 2.0))
    assert torch.equal(myops.sparse.sampled_addmm(a, x, x, alpha=2 + 0j).values(), torch.full((2,), 5.0))


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_results_are_where_the_operands_are_whatever_the_default_device(layout: str, device: str) -> None:
    dense = random_dense(4, 4, torch.float64)
    a, csr = in_layout(dense, layout, torch.int64).requires_grad_(), dense.to_sparse_csr()
    with torch.device("meta"):
        product = myops.sparse.mm(a, a.detach())
        (grad,) = torch.autograd.grad(product, a, product.detach())
        sampled = myops.sparse.sampled_addmm(csr, dense, dense)
        native = myops.CSR.from_torch(csr).to_torch()
    assert {t.device.type for t in (product, grad, sampled, native)} == {device}
    assert torch.equal(dense_of(product.detach()), (dense @ dense).cpu())


def test_repeats_add_up_before_they_are_reduced() -> None:
    """Of an uncoalesced matrix, whether or not something is recorded: as of the same matrix in CSR."""
    a = torch.sparse_coo_tensor([[0, 0, 1], [0, 0, 1]], [1.0, 2.0, 5.0], (2, 2))
    x = torch.tensor([[1.0], [2.0]])
    for reduce in ("mean", "amax", "amin"):
        for grads in itertools.product((False, True), repeat=2):
            left, right = (t.clone().requires_grad_(grad) for t, grad in zip((a, x), grads, strict=True))
            assert myops.sparse.mm(left, right, reduce=reduce).tolist() == [[3.0], [10.0]], (reduce, grads)


def test_sixteen_bits_do_not_hold_what_gradients_pass_through() -> None:
    """Values times alpha, and how many entries a row has."""
    x = torch.tensor([[1e-3]], dtype=torch.float16, requires_grad=True)
    for requires_grad in (False, True):
        a = torch.sparse_csr_tensor([0, 1], [0], torch.ones(1, dtype=torch.float16), (1, 1)).requires_grad_(
            requires_grad
        )
        y = myops.sparse.addmm(torch.zeros(1, 1, dtype=torch.float16), a, x, alpha=1e5)
        (grad,) = torch.autograd.grad(y, x, torch.tensor([[1e-4]], dtype=torch.float16))
        torch.testing.assert_close(grad, torch.tensor([[10.0]], dtype=torch.float16), rtol=2e-3, atol=0)
    for dtype, n in ((torch.float16, 70_000), (torch.bfloat16, 259)):
        a = torch.sparse_csr_tensor([0, n], torch.zeros(n).long(), torch.ones(n, dtype=dtype), (1, 1))
        x = torch.ones(1, 1, dtype=dtype, requires_grad=True)
        (grad,) = torch.autograd.grad(myops.sparse.mm(a, x, reduce="mean").sum(), x)
        torch.testing.assert_close(grad.float(), torch.ones(1, 1), rtol=1e-2, atol=0)


def test_mixed_dtypes_under_autocast(device: str) -> None:
    """A layer of a graph network: an adjacency of float32 times what autocast has made of its features."""
    native, linear, x = torch.eye(3).to_sparse_csr(), torch.nn.Linear(3, 3), torch.randn(3, 3)
    expected = linear(x)
    for grad in (True, False):
        with torch.autocast(device, dtype=torch.bfloat16), torch.set_grad_enabled(grad):
            for a in (native, native.to_sparse_coo(), native.to_sparse_csc(), myops.CSR.from_torch(native)):
                for got in (
                    myops.sparse.mm(a, linear(x)),
                    myops.sparse.mm(linear(x), a),
                    myops.sparse.addmm(torch.zeros(3), a, linear(x)),
                ):
                    assert got.dtype == torch.bfloat16
                    torch.testing.assert_close(got.float(), expected, atol=5e-2, rtol=5e-2)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        myops.sparse.mm(native, x.bfloat16())


def test_what_autocast_leaves_alone(device: str) -> None:
    """As natively: sampled products, reductions and products of two sparse matrices keep their precision."""
    a = torch.randn(6, 6).relu().to_sparse_csr()
    x, y = torch.randn(6, 4), torch.randn(4, 6)
    calls = [
        lambda: myops.sparse.sampled_addmm(a, x, y).values(),
        lambda: myops.sparse.mm(a, a).values(),
        *(lambda reduce=reduce: myops.sparse.mm(a, x, reduce=reduce) for reduce in ("mean", "amax", "amin")),
    ]
    for grad, call in itertools.product((False, True), calls):
        x.requires_grad_(grad)
        expected = call()
        with torch.autocast(device, dtype=torch.bfloat16):
            got = call()
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


def test_errors_have_their_type_and_name_their_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # else a wrong row stops the grid, and all tests after this one
    flags = torch.eye(2).bool()
    for inference in (False, True):
        with torch.inference_mode(inference):
            for call in (lambda: myops.sparse.mm(flags, flags), lambda: myops.sparse.mm(flags.to_sparse(), flags)):
                with pytest.raises(NotImplementedError, match="dtype bool"):
                    call()
    bad_row = torch.sparse_coo_tensor([[5], [0]], [1.0], (2, 2), check_invariants=False)
    x = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="row holds an index outside"):
        myops.sparse.mm(bad_row, x)
    a = torch.eye(2).to_sparse_csr()
    with pytest.raises(RuntimeError, match="argument alpha must not be a complex number"):
        myops.sparse.addmm(x, a, x, alpha=1j)
    with pytest.raises(RuntimeError, match="input of shape .3. cannot be broadcast to the result's shape .2, 2."):
        myops.sparse.addmm(torch.ones(3), x, a)


def counted(m: int, k: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.arange(1, m * k + 1).view(m, k).to(dtype).to_sparse_csr()


def repeated(dtype: torch.dtype = torch.float64) -> Tensor:
    """An uncoalesced batch of two 2 x 3 matrices."""
    index = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 2, 0]])
    return torch.sparse_coo_tensor(index, torch.tensor([1.0, 2, 3, 4], dtype=dtype), (2, 2, 3))


@pytest.mark.parametrize("reduce", ["mean", "amax", "amin"])
@pytest.mark.parametrize("layout", ["csr", "coo"])
def test_reductions_need_a_strided_b(reduce: str, layout: str) -> None:
    a = counted(3, 3) if layout == "csr" else counted(3, 3).to_sparse_coo()
    with pytest.raises(ValueError, match="needs a sparse a and a strided b"):
        myops.sparse.mm(a, a, reduce=reduce)


def test_complex_and_large_scalars_of_the_addend() -> None:
    a, x, c = (
        counted(2, 3, torch.complex64),
        torch.ones(3, 4, dtype=torch.complex64),
        torch.ones(2, 4, dtype=torch.complex64),
    )
    torch.testing.assert_close(myops.sparse.addmm(c, a, x, beta=2j), 2j * c + a.to_dense() @ x)
    i, big = torch.ones(2, 4, dtype=torch.int64), 2**60 + 1
    got = myops.sparse.addmm(i, counted(2, 3, torch.int64), torch.ones(3, 4, dtype=torch.int64), beta=big)
    assert torch.equal(got, big * i + counted(2, 3, torch.int64).to_dense().sum(1, keepdim=True))


def test_scaled_samples_of_small_integers_are_modular() -> None:
    pattern, a, b = (
        counted(2, 2, torch.int8),
        torch.full((2, 3), 7, dtype=torch.int8),
        torch.full((3, 2), 9, dtype=torch.int8),
    )
    got = myops.sparse.sampled_addmm(pattern, a, b, alpha=2).values()
    assert torch.equal(got, (2 * 189 + pattern.values().long()).to(torch.int8))


def test_gradient_of_an_uncoalesced_batch() -> None:
    a, x = repeated().requires_grad_(), torch.randn(2, 3, 4, dtype=torch.float64)
    (grad,) = torch.autograd.grad(myops.sparse.bmm(a, x).square().sum(), a)
    dense = repeated().to_dense().requires_grad_()
    (wanted,) = torch.autograd.grad(torch.bmm(dense, x).square().sum(), dense)
    torch.testing.assert_close(grad.to_dense(), wanted * (repeated().to_dense() != 0))


def test_hybrid_batches_are_refused() -> None:
    a = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 3), (2, 2, 3)).coalesce()
    with pytest.raises(RuntimeError, match="it is hybrid"):
        myops.sparse.bmm(a, torch.ones(2, 3, 4))


@pytest.mark.parametrize("crow", [[[0, 1, 2], [0, 1, 1]], [[0, 1, 2], [1, 1, 2]]])
def test_batched_patterns_hold_all_their_entries(crow: list[list[int]]) -> None:
    a = torch.sparse_csr_tensor(
        torch.tensor(crow), torch.tensor([[0, 1], [0, 1]]), torch.ones(2, 2), (2, 2, 2), check_invariants=False
    )
    with pytest.raises(RuntimeError, match="crow must begin with 0 and end with nnz"):
        myops.sparse.bmm(a, torch.ones(2, 2, 3))


def test_an_alpha_without_an_addend() -> None:
    a, x = counted(2, 3).requires_grad_(), torch.ones(3, 4, dtype=torch.float64)
    got = torch.ops.myops.native_mm(a, x, alpha=2.0)
    assert got.requires_grad
    torch.testing.assert_close(got, 2 * a.detach().to_dense() @ x)


def test_recorded_products_have_torchs_strides() -> None:
    a, x = counted(3, 4).requires_grad_(), torch.ones(2, 3, dtype=torch.float64)
    assert myops.sparse.mm(x, a).stride() == myops.sparse.mm(x, a.detach()).stride() == (4, 1)


def test_autocast_casts_the_addend() -> None:
    a, x, c = counted(2, 3, torch.bfloat16), torch.ones(3, 4).bfloat16(), torch.ones(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert myops.sparse.addmm(c.requires_grad_(), a, x).dtype == torch.bfloat16


def test_gradients_of_sparse_products_that_repeat_entries() -> None:
    a = torch.eye(3, dtype=torch.float64).to_sparse_coo().requires_grad_()
    product = myops.sparse.mm(a, torch.eye(3, dtype=torch.float64).to_sparse_coo())
    index = torch.tensor([[0, 0, 1, 2], [0, 0, 2, 2]])
    outer = torch.sparse_coo_tensor(index, torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), (3, 3))
    (grad,) = torch.autograd.grad(product, a, outer)
    torch.testing.assert_close(grad.to_dense(), torch.diag(torch.tensor([3.0, 0, 4], dtype=torch.float64)))


def test_blocks_count_where_elements_do_not() -> None:
    wide, last = 2**16, 2**17 - 1
    a = torch.sparse_bsr_tensor(
        torch.tensor([0, 1, 1], dtype=torch.int32), torch.tensor([last], dtype=torch.int32), torch.ones(1, 1, wide),
        (2, wide * (last + 1)), check_invariants=False,
    )  # fmt: skip
    _, col, _ = myops.sparse.csr_parts(a)
    assert col[-1] == wide * (last + 1) - 1


def test_results_are_not_checked_again() -> None:
    a = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 2]), torch.tensor([1, 0]), torch.ones(2), (2, 2), check_invariants=False
    ).requires_grad_()
    product = myops.sparse.mm(a, torch.ones(2, 2))
    with torch.sparse.check_sparse_tensor_invariants():
        (grad,) = torch.autograd.grad(product.sum(), a)
    assert grad.col_indices().tolist() == [1, 0]
