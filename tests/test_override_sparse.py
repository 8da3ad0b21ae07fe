"""The switch at the sparse keys: torch's products of sparse matrices, unmodified, on myops.

Every call is compared with native torch, or with the dense product where torch has none or a wrong one, down to layout,
strides and index dtype; one call is counted once, although torch's kernels call each other.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from conftest import wide
from sparse_data import LAYOUTS, in_layout, random_dense
from torch import Tensor, nn
from torch.autograd import gradcheck

import myops
from myops import override

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
OVERLOADS = sorted({r.overload for r in override.REROUTES if r.name.startswith("sparse.")})
# Two sparse matrices that torch multiplies. (csc, csc) it takes too, and gives zeros.
SPARSE_PAIRS = [("coo", "coo"), ("coo", "uncoalesced"), ("csr", "csr"), ("csr", "csc"), ("csc", "csr"), ("csc", "csc")]


@pytest.fixture(autouse=True)
def counted_from_zero() -> Iterator[None]:
    myops.reset_stats()
    yield
    assert not any(override._users.values()), "a test left the switch on"


def counts() -> dict[str, int]:
    return {name: entry["myops"] for name, entry in myops.stats().items() if entry["myops"]}


def declined() -> dict[str, dict[str, int]]:
    return {name: entry["reasons"] for name, entry in myops.stats().items() if entry["native"]}


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def form(t: Tensor) -> tuple[Any, ...]:
    """What code that goes on with a result may rely on."""
    if t.layout == torch.strided:
        return t.layout, t.shape, t.dtype, t.stride(), t.requires_grad
    if t.layout == torch.sparse_coo:
        return t.layout, t.shape, t.dtype, t.is_coalesced(), t._indices().dtype, t.requires_grad
    indices = t.crow_indices() if t.layout in (torch.sparse_csr, torch.sparse_bsr) else t.ccol_indices()
    return t.layout, t.shape, t.dtype, indices.dtype, t.requires_grad


def test_every_layout_times_dense(dtype: torch.dtype) -> None:
    a, b = random_dense(8, 12, dtype), random_dense(12, 6, dtype)
    for layout, function, left in itertools.product(LAYOUTS, (torch.mm, torch.sparse.mm), (True, False)):
        x, y = (in_layout(a, layout), b) if left else (a, in_layout(b, layout))
        expected = (x.to_dense() if left else a).to(wide(dtype)) @ (b if left else y.to_dense()).to(wide(dtype))
        native = outcome(lambda function=function, x=x, y=y: function(x, y))
        myops.reset_stats()
        with myops.use(strict=True):
            got = function(x, y)
        where = f"{function.__name__}, {layout} on the {'left' if left else 'right'}"
        assert sum(counts().values()) == 1, where
        assert torch.equal(got, expected.to(dtype)), where
        if isinstance(native, Tensor):
            assert form(got) == form(native), where


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_through_a_frozen_weight(layout: str) -> None:
    """Of blocks torch has the formulas, but not the product of the transpose that they call."""
    dense, bias = random_dense(8, 12, torch.float64), torch.ones(8).double()
    weight = in_layout(dense, layout)
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(5, 8, dtype=torch.float64)
    with myops.use(strict=True):
        layer = (weight @ x.t()).t() if layout in ("coo", "uncoalesced") else nn.functional.linear(x, weight, bias)
        for y in (layer, (weight @ x.t()).t(), torch.sparse.mm(weight, x.t()).t()):
            (grad,) = torch.autograd.grad(y, x, outer)
            torch.testing.assert_close(grad, outer @ dense)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_sparse_times_sparse(dtype: torch.dtype, index: torch.dtype) -> None:
    a, b = random_dense(8, 12, dtype), random_dense(12, 6, dtype)
    for (left, right), function in itertools.product(SPARSE_PAIRS, (torch.mm, torch.sparse.mm)):
        if function is torch.sparse.mm and (left, right) == ("csr", "csc"):
            continue  # which torch takes in torch.mm only
        x, y = in_layout(a, left, index), in_layout(b, right, index)
        expected = x.to_dense().to(wide(dtype)) @ y.to_dense().to(wide(dtype))
        native = outcome(lambda function=function, x=x, y=y: function(x, y))
        myops.reset_stats()
        with myops.use(strict=True):
            got = function(x, y)
        where = f"{function.__name__}, {left} @ {right}"
        assert sum(counts().values()) == 1, where
        assert torch.equal(got.to_dense(), expected.to(dtype)), where
        if isinstance(native, Tensor):
            assert form(got) == form(native), where


# Further calls that are taken: which operator counts them, and a function of fresh operands.


def taken_calls(layout: str) -> list[tuple[str, Callable[[], Any]]]:
    a, b, c = random_dense(8, 12, torch.float64), torch.randn(12, 6, dtype=torch.float64), torch.randn(8, 6).double()
    x, pattern = in_layout(a, layout), in_layout(random_dense(8, 6, torch.float64), "csr")
    batch = torch.stack([a, 2 * a]).to_sparse_coo()
    stacked = torch.stack([b, -b])
    wide_out = torch.zeros(16, 12).double()
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("sparse.addmm", lambda: torch.sparse.addmm(c, x, b)),
        ("sparse.addmm", lambda: torch.addmm(c, x, b, beta=2, alpha=-0.5)),
        ("sparse.addmm", lambda: torch.addmm(c, x, b, beta=0)),
        ("sparse.addmm", lambda: torch.addmm(c[0], x, b, beta=3)),
        ("sparse.addmm", lambda: torch.addmm(c, x, b, out=torch.zeros(8, 6).double())),
        ("sparse.addmm", lambda: torch.addmm(s := c.clone(), x, b, out=s)),
        ("sparse.addmm", lambda: c.clone().addmm_(x, b, beta=2)),
        ("sparse.mm", lambda: torch.mm(x, b, out=torch.zeros(8, 6).double())),
        ("sparse.mm", lambda: torch.mm(x, b, out=wide_out[::2, ::2])),
        ("sparse.mm", lambda: x @ b.t().contiguous().t()),
        ("sparse.mm", lambda: x @ b[:, :0]),
        ("sparse.bmm", lambda: torch.bmm(batch, stacked)),
        ("sparse.bmm", lambda: torch.bmm(batch, stacked, out=torch.zeros(2, 8, 6).double())),
        ("sparse.sampled_addmm", lambda: torch.sparse.sampled_addmm(pattern, a, b, beta=2, alpha=3)),
        ("sparse.sampled_addmm", lambda: torch.sparse.sampled_addmm(pattern, a, b, out=pattern.clone())),
    ]
    if layout == "csr":
        for reduce in ("sum", "mean", "amax", "amin"):
            calls.append(("sparse.mm", lambda reduce=reduce: torch.sparse.mm(x, b, reduce)))
        calls.append(("sparse.addmm", lambda: nn.functional.linear(b.t(), x, torch.ones(8).double())))
        calls.append(("sparse.mm", lambda: nn.functional.linear(b.t(), x)))
    return calls


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_taken_calls_equal_native(layout: str, mode: Any) -> None:
    with mode():
        for number, (name, call) in enumerate(taken_calls(layout)):
            native = call()
            myops.reset_stats()
            with myops.use(strict=True):
                got = call()
            assert counts() == {name: 1}, number
            assert form(got) == form(native), number
            torch.testing.assert_close(got, native, msg=lambda m, number=number: f"call {number}: {m}")


def test_lazy_bits() -> None:
    """Conjugate and negative views of the strided operand, which the dispatcher hands down as they are."""
    a, b = random_dense(8, 12, torch.complex128), torch.randn(12, 6, dtype=torch.complex128)
    for layout in ("coo", "csr"):
        x = in_layout(a, layout)
        for call in (
            lambda x=x: torch.mm(x, b.conj()),
            lambda x=x: torch.sparse.addmm(torch.ones(8, 6).to(b.dtype).conj(), x, b.conj(), alpha=2j),
        ):
            expected = call()
            with myops.use(strict=True):
                torch.testing.assert_close(call(), expected)
    real, negative = in_layout(a.real.contiguous(), "csr"), b.conj().imag
    assert negative.is_neg()
    with myops.use(strict=True):
        torch.testing.assert_close(torch.mm(real, negative), a.real @ negative)


def test_out_is_an_operand() -> None:
    a, b = random_dense(6, 6, torch.float64), torch.randn(6, 6).double()
    with myops.use(strict=True):
        torch.mm(a.to_sparse_csr(), target := b.clone(), out=target)
    torch.testing.assert_close(target, a @ b)


def test_writes_bump_the_version_once() -> None:
    coo, b = random_dense(6, 6, torch.float64).to_sparse_coo(), torch.randn(6, 6).double()
    for mode in (torch.enable_grad, torch.inference_mode):
        target = torch.zeros(6, 6).double()
        with mode(), myops.use(strict=True):
            for write in (lambda t=target: torch.mm(coo, b, out=t), lambda t=target: t.addmm_(coo, b)):
                version = target._version
                write()
                assert target._version == version + 1


# Calls that are left to native.


def declined_calls() -> list[tuple[str, Callable[[], Any]]]:
    a, b, c = random_dense(4, 6, torch.float32), torch.randn(6, 3), torch.randn(4, 3)
    csr, coo, csc = a.to_sparse_csr(), a.to_sparse_coo(), a.to_sparse_csc()
    pattern = random_dense(4, 3, torch.float32).to_sparse_csr()
    batch = torch.stack([a, a])
    hybrid = torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.randn(2, 6), (4, 6))
    return [
        ("sparse.mm", lambda: torch.mm(csr, c)),
        ("sparse.mm", lambda: torch.mm(coo, c)),
        ("sparse.addmm", lambda: torch.sparse.mm(csr, c)),
        ("sparse.addmm", lambda: torch.sparse.mm(coo, c)),
        ("sparse.mm", lambda: torch.mm(csr, b.double())),
        ("sparse.mm", lambda: torch.mm(coo, b.double())),
        ("sparse.mm", lambda: torch.mm(csr, b[0])),
        ("sparse.mm", lambda: torch.mm(csr, torch.tensor(1.0))),
        ("sparse.mm", lambda: torch.mm(coo, b[0], out=torch.zeros(4))),
        ("sparse.addmm", lambda: torch.addmm(c, coo, torch.tensor(1.0), beta=0)),
        ("sparse.mm", lambda: torch.mm(coo, csr.t())),
        ("sparse.mm", lambda: torch.mm(csr, coo.t())),
        ("sparse.mm", lambda: torch.mm(csr.to(torch.bool), b.to(torch.bool))),
        ("sparse.mm", lambda: torch.mm(csr, b, out=torch.zeros(4, 3).double())),
        ("sparse.mm", lambda: torch.mm(coo, b, out=torch.zeros(2, 2))),
        ("sparse.addmm", lambda: torch.addmm(torch.randn(2, 2), csr, b)),
        ("sparse.addmm", lambda: torch.addmm(c.double(), csr, b)),
        ("sparse.addmm", lambda: torch.addmm(pattern, csr, random_dense(6, 3, torch.float32).to_sparse_csr())),
        ("sparse.addmm", lambda: torch.addmm(c, csr, b, alpha=2j)),
        ("sparse.addmm", lambda: c[:1].clone().addmm_(coo, b)),
        ("sparse.addmm", lambda: torch.sparse.mm(hybrid, torch.randn(6, 2))),
        ("sparse.bmm", lambda: torch.bmm(batch.to_sparse_coo(), torch.randn(3, 6, 2))),
        ("sparse.bmm", lambda: torch.bmm(batch.to_sparse_coo(), torch.randn(2, 5, 2))),
        ("sparse.bmm", lambda: torch.bmm(batch, torch.randn(2, 6, 2).to_sparse_coo())),
        ("sparse.sampled_addmm", lambda: torch.sparse.sampled_addmm(pattern, a, b[:5])),
        ("sparse.sampled_addmm", lambda: torch.sparse.sampled_addmm(csc, a, b)),
        ("sparse.sampled_addmm", lambda: torch.sparse.sampled_addmm(pattern, a.double(), b.double())),
        ("sparse.mm", lambda: torch.sparse.mm(csr, b, "prod")),
        ("sparse.mm", lambda: torch.sparse.mm(csr, b, "foo")),
        ("sparse.mm", lambda: torch.sparse.mm(csr, c, "amax")),
    ]  # fmt: skip


def test_declined_calls_are_native_and_counted_once() -> None:
    for number, (name, call) in enumerate(declined_calls()):
        torch.manual_seed(number)
        expected = outcome(call)
        myops.reset_stats()
        torch.manual_seed(number)
        with myops.use():
            got = outcome(call)
        if isinstance(expected, Tensor):
            assert form(got) == form(expected), number
            torch.testing.assert_close(got, expected, equal_nan=True)
        else:
            assert got == expected, number
        assert not counts(), number
        assert {name: sum(reasons.values()) for name, reasons in declined().items()} == {name: 1}, number
        with myops.use(strict=True), pytest.raises(RuntimeError, match="the switch is strict"):
            call()


def test_after_a_declined_call_the_next_is_taken() -> None:
    csr = torch.eye(3).to_sparse_csr()
    with myops.use():
        with pytest.raises(RuntimeError):
            torch.mm(csr, torch.ones(2, 2))
        torch.mm(csr, torch.ones(3, 2))
    assert counts() == {"sparse.mm": 1}


def test_explain_and_restore() -> None:
    def tables() -> dict[str, str]:
        return {name: torch._C._dispatch_dump(f"aten::{name}") for name in OVERLOADS}

    before, csr = tables(), torch.eye(3).to_sparse_csr()
    with myops.use(("sparse.mm",)):
        torch.mm(csr, torch.ones(3, 2))
        torch.mm(torch.ones(3, 3), torch.ones(3, 2))
        lines = myops.explain().splitlines()
        assert torch._C._dispatch_dump("aten::_sparse_mm_reduce_impl") != before["_sparse_mm_reduce_impl"]
    assert lines[0] == "switch: on for sparse.mm"
    assert "sparse.mm: 1 calls on myops, 0 native" in lines
    assert counts() == {"sparse.mm": 1}
    with myops.use():
        assert all(dump != before[name] for name, dump in tables().items())
    assert tables() == before


# Gradients stay torch's own, and their products reach myops too.


def gradients(call: Callable[..., Tensor], *leaves: Tensor) -> list[Tensor]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    result = call(*leaves)
    if result.layout != torch.strided:
        result = result.coalesce().values() if result.layout == torch.sparse_coo else result.values()
    outer = torch.arange(result.numel()).view_as(result).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, outer)]


@pytest.mark.parametrize("dtype_", [torch.float32, torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_gradients_equal_native(layout: str, dtype_: torch.dtype) -> None:
    a, b, c = random_dense(8, 12, dtype_), torch.randn(12, 6, dtype=dtype_), torch.randn(8, 6, dtype=dtype_)
    x = in_layout(a, layout)
    cases: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (torch.sparse.mm, (x, b)),
        (lambda c, x, b: torch.sparse.addmm(c, x, b, beta=2, alpha=3), (c, x, b)),
        (lambda b: torch.mm(x, b), (b,)),
    ]
    if layout == "coo":
        cases.append((torch.sparse.mm, (x, random_dense(12, 5, dtype_).to_sparse_coo())))
    else:
        pattern = in_layout(random_dense(8, 6, dtype_), "csr")
        cases.append(
            (torch.sparse.sampled_addmm, (pattern, torch.randn(8, 3, dtype=dtype_), torch.randn(3, 6, dtype=dtype_)))
        )
        if not dtype_.is_complex:
            for reduce in ("sum", "mean", "amax", "amin"):
                cases.append((lambda x, b, reduce=reduce: torch.sparse.mm(x, b, reduce), (x, b)))
    for number, (call, leaves) in enumerate(cases):
        native = gradients(call, *leaves)
        myops.reset_stats()
        with myops.use(strict=True):
            ours = gradients(call, *leaves)
        assert sum(counts().values()) >= 2, number
        assert [form(t) for t in ours] == [form(t) for t in native], number
        for got, expected in zip(ours, native, strict=True):
            torch.testing.assert_close(got.to_dense(), expected.to_dense())


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
def test_gradients_of_reductions_one_at_a_time(reduce: str) -> None:
    x, b = random_dense(5, 7, torch.float64).to_sparse_csr(), torch.randn(7, 3).double()
    for matrix, dense in ((x, b.clone().requires_grad_()), (x.clone().requires_grad_(), b)):
        leaf = dense if dense.requires_grad else matrix
        (native,) = torch.autograd.grad(torch.sparse.mm(matrix, dense, reduce).square().sum(), leaf)
        with myops.use(strict=True):
            (ours,) = torch.autograd.grad(torch.sparse.mm(matrix, dense, reduce).square().sum(), leaf)
        torch.testing.assert_close(ours, native)


def test_gradcheck() -> None:
    x, b = random_dense(4, 5, torch.float64), torch.randn(5, 3).double().requires_grad_()
    for layout in ("coo", "csr"):
        with myops.use(strict=True):
            matrix = in_layout(x, layout).requires_grad_()
            assert gradcheck(torch.sparse.mm, (matrix, b), masked=True)
    assert counts()["sparse.addmm"] > 10


# A graph network of plain torch.


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, adjacency: Tensor, x: Tensor) -> Tensor:
        return adjacency @ self.second(torch.relu(torch.sparse.mm(adjacency, self.first(x))))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_training_follows_native(layout: str) -> None:
    adjacency, x = in_layout(random_dense(20, 20, torch.float64, 0.2), layout), torch.randn(20, 12).double()
    initial = Convolution().double()

    def train() -> list[float]:
        model, losses = copy.deepcopy(initial), []
        optimiser = torch.optim.SGD(model.parameters(), 1e-3)
        for _ in range(4):
            optimiser.zero_grad()
            loss = model(adjacency, x).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    native = train()
    with myops.use(strict=True):
        ours = train()
    assert ours == pytest.approx(native, rel=1e-10)
    assert counts()["sparse.mm"] + counts()["sparse.addmm"] >= 4 * 4


def test_autocast_changes_what_it_changes_natively() -> None:
    """It knows mm, addmm and bmm, and no other overload of them; ours below it have autocast kernels of their own."""
    dense = torch.randn(6, 6)
    csr, coo, x = dense.relu().to_sparse_csr(), dense.relu().to_sparse(), torch.randn(6, 6)
    calls: list[Any] = [
        lambda: torch.sparse.mm(csr, x, "mean"),
        lambda: torch.sparse.mm(csr, x, "amax"),
        lambda: torch.sparse.mm(coo, coo).to_dense(),
        lambda: torch.sparse.sampled_addmm(csr, x, x).to_dense(),
        lambda: torch.mm(csr, x, out=torch.empty(6, 6)),
        lambda: torch.ones(6, 6).addmm_(coo, x),
        lambda: torch.addmm(x, csr, x, out=torch.empty(6, 6)),
        lambda: torch.bmm(torch.stack([coo, coo]), torch.stack([x, x]), out=torch.empty(2, 6, 6)),
    ]
    for call in calls:
        with torch.autocast("cpu", torch.bfloat16):
            native = call()
            with myops.use(strict=True):
                ours = call()
        torch.testing.assert_close(ours, native)


def test_a_reduction_checks_inner_sizes_where_a_gradient_is_recorded() -> None:
    a = torch.ones(2, 3).to_sparse_csr().requires_grad_()
    with myops.use(), pytest.raises(RuntimeError):
        torch.sparse.mm(a, torch.ones(4, 5), "amax")


def same_as_native(call: Callable[[], Tensor]) -> None:
    """The same result under the switch as without it, or the same error."""
    native = outcome(call)
    with myops.use():
        ours = outcome(call)
    if isinstance(native, tuple):
        assert ours == native
    else:
        torch.testing.assert_close(ours.to_dense(), native.to_dense())


def counted(m: int, k: int) -> torch.Tensor:
    return torch.arange(1.0, m * k + 1).view(m, k).to_sparse_csr()


def empty(m: int, n: int) -> torch.Tensor:
    return torch.zeros(m, n).to_sparse_csr()


@pytest.mark.parametrize("shape", [(7, 7), (4,), (2, 4), (1, 2, 4)])
def test_addends_of_another_shape_that_are_not_read(shape: tuple[int, ...]) -> None:
    same_as_native(lambda: torch.addmm(torch.ones(shape), counted(2, 3), torch.ones(3, 4), beta=0))


@pytest.mark.parametrize(("beta", "alpha", "size"), [(0, 1, (2, 4)), (0, 2, (2, 4)), (1, 1, (2, 4)), (0, 1, (4, 4))])
def test_sums_of_sparse_matrices(beta: float, alpha: float, size: tuple[int, int]) -> None:
    same_as_native(lambda: torch.addmm(empty(*size), counted(2, 3), counted(3, 4), beta=beta, alpha=alpha))


def test_sampled_products_into_another_dtype() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    same_as_native(lambda: torch.sparse.sampled_addmm(counted(2, 4), a, b, out=counted(2, 4).double()))


def test_sampled_products_into_another_pattern() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    same_as_native(lambda: torch.sparse.sampled_addmm(counted(2, 4), a, b, out=torch.eye(2, 4).to_sparse_csr()))


@pytest.mark.parametrize("layout", ["csc", "coo"])
def test_sums_into_another_layout(layout: str) -> None:
    target = {"csc": torch.zeros(2, 4).to_sparse_csc(), "coo": torch.zeros(2, 4).to_sparse_coo()}[layout]
    same_as_native(lambda: torch.addmm(target, counted(2, 3), counted(3, 4), beta=0))


@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (1, 2)])
def test_matrices_added_to_vectors(shape: tuple[int, ...]) -> None:
    same_as_native(lambda: torch.addmv(torch.ones(shape), torch.ones(2, 3), torch.ones(3)))


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("shape", [(), (2, 1), (3,)])
def test_vectors_written_to_another_shape(shape: tuple[int, ...]) -> None:
    i, m, v = torch.ones(2), torch.ones(2, 3), torch.ones(3)
    same_as_native(lambda: torch.addmv(i, m, v, out=torch.zeros(shape)))


def test_no_warning_where_all_are_asked_for(recwarn: pytest.WarningsRecorder) -> None:
    with myops.use():
        pass
    torch.set_warn_always(True)
    try:
        with myops.use():
            pass
    finally:
        torch.set_warn_always(False)
    assert not [w for w in recwarn if "Overriding" in str(w.message)]


def test_other_reasons_are_not_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myops.override.MAX_REASONS", 0)
    myops.reset_stats()
    bad = torch.ones(2, 2).bool()
    with caplog.at_level("DEBUG", logger="myops.override"), myops.use():
        for _ in range(2):
            with pytest.raises(RuntimeError):
                torch.mm(bad, bad)
    assert not [r for r in caplog.records if "goes to native" in r.message]
    myops.reset_stats()
