"""The sparse operators on the parts of a CSR matrix: values, gradients, batches, errors, fakes, compile, threads.

Iterates over the table (`registration.COMPONENTS`), as the tests of the dense operators do over theirs.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import FLOATS, OTHER_LEVELS, run_on_level
from sparse_data import (
    BAD_PATTERNS,
    agrees_with_reference,
    exact_mm,
    on_cpu,
    pattern,
    sparse_samples,
    tensors_of,
    widen,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

import myops
from myops.ops._csr import dense_of
from myops.ops._gemm import tensor
from myops.registration import COMPONENTS, Row, Sample

ops = torch.ops.myops
COMPONENT = pytest.mark.parametrize("component", list(COMPONENTS.values()), ids=list(COMPONENTS))
pytestmark = pytest.mark.usefixtures("on_device")
NOISE = 1e-12  # torch's own index_add and scatter_add, in the gradient of spmm_extremum, use atomics on CUDA
DTYPES64 = pytest.mark.parametrize("dtype64", [torch.float64, torch.complex128], ids=str)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def is_index(t: Tensor) -> bool:
    return t.dtype in (torch.int32, torch.int64)


@COMPONENT
def test_values(component: Row, dtype: torch.dtype, device: str) -> None:
    for sample in sparse_samples(component, dtype, device):
        got = tensors_of(component.packet(*sample.args, **sample.kwargs))
        agrees_with_reference(component, sample, got, dtype)


def integers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.randint(0 if dtype == torch.uint8 else -2, 3, shape)
    return (values + 1j * torch.randint(-2, 3, shape)).to(dtype) if dtype.is_complex else values.to(dtype)


WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 200, 257]


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_every_width_is_exact(dtype: torch.dtype, index: torch.dtype, device: str) -> None:
    """Every edge of tiles and vectors, repeated columns, a row beyond a piece; whole numbers, so bit for bit."""
    for n, (m, k) in itertools.product(WIDTHS, [(20, 30), (3, 3000)]):
        crow, col = pattern(m, k, 0.3, index, repeats=n % 2 == 0)
        v, x, y = integers((col.numel(),), dtype), integers((k, n), dtype), integers((m, n), dtype)
        dense = on_cpu(dense_of, crow, col, v, k)
        assert torch.equal(ops.spmm(crow, col, v, x), exact_mm(dense, x).to(device, dtype)), (n, m, k)
        expected = exact_mm(dense.mT, y).to(device, dtype)
        assert torch.equal(ops.spmm(crow, col, v, y, columns=k, transpose=True), expected), (n, m, k)
        expected = on_cpu(COMPONENTS["sddmm"].reference, crow, col, y, x).to(device, dtype)
        assert torch.equal(ops.sddmm(crow, col, y, x), expected), (n, m, k)
        expected = (2 * widen(y) - 3 * exact_mm(dense, x)).to(device, dtype)
        assert torch.equal(ops.spmm(crow, col, v, x, y, beta=2, alpha=-3), expected), (n, m, k)
        for transpose, operands in ((False, (x, y)), (True, (y, x))):
            options = {"columns": k, "transpose": transpose}
            expected_pair = on_cpu(COMPONENTS["spmm_backward"].reference, crow, col, v, *operands, **options)
            got_pair = ops.spmm_backward(crow, col, v, *operands, **options)
            for got, wanted in zip(got_pair, expected_pair, strict=True):
                assert torch.equal(got, wanted.to(device, dtype)), (n, m, k, transpose)


def csr_of_rows(lengths: Tensor, columns: int, index: torch.dtype) -> tuple[Tensor, Tensor]:
    """crow and col of rows of these lengths; columns at random, repeated ones too."""
    crow = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(index)
    return crow, torch.randint(columns, (int(crow[-1]),), dtype=index)


@pytest.mark.parametrize("n", [1, 2, 16, 20, 40, 64, 130])
def test_rows_of_any_length_and_width(n: int, dtype: torch.dtype) -> None:
    """Short rows are summed side by side, longer ones one by one: lengths 0 to 70 in any order, with every epilogue."""
    mixed = torch.cat([torch.randint(5, (64,)), torch.randint(71, (50,)), torch.zeros(20), torch.ones(5) * 33])
    orders = mixed, mixed.sort().values, torch.full((33,), 3), torch.full((7,), 40), torch.zeros(5)
    for index, lengths in itertools.product((torch.int32, torch.int64), orders):
        crow, col = csr_of_rows(lengths, 90, index)
        v, x, y = integers((col.numel(),), dtype), integers((90, n), dtype), integers((len(lengths), n), dtype)
        exact = exact_mm(on_cpu(dense_of, crow, col, v, 90), x).to(v.device)
        assert torch.equal(ops.spmm(crow, col, v, x), exact.to(dtype))
        for addend in (y, y.mT.contiguous().mT, y[:, :1], y[:1]):
            got = ops.spmm(crow, col, v, x, addend, beta=2, alpha=-3)
            assert torch.equal(got, (2 * widen(addend).to(exact.device) - 3 * exact).to(dtype))
        if dtype in (torch.float32, torch.float64):
            mean = exact / lengths.clamp(min=1).unsqueeze(1)
            torch.testing.assert_close(ops.spmm(crow, col, v, x, mean=True), mean.to(dtype))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 16, 17, 40])
def test_rows_that_are_mostly_empty(n: int, dtype: torch.dtype) -> None:
    """Their results are written at once, before the sums: with every epilogue, above and below a vector."""
    for index, share in itertools.product((torch.int32, torch.int64), (0.1, 0.7)):
        lengths = torch.where(torch.rand(3000) < share, 0, torch.randint(4, (3000,)))
        lengths[1000:1100] = 0
        crow, col = csr_of_rows(lengths, 90, index)
        v, x, y = integers((col.numel(),), dtype), integers((90, n), dtype), integers((3000, n), dtype)
        exact = exact_mm(on_cpu(dense_of, crow, col, v, 90), x).to(v.device)
        assert torch.equal(ops.spmm(crow, col, v, x), exact.to(dtype))
        for addend in (y, y.mT.contiguous().mT, y[:, :1], y[:1], y[:1, :1]):
            got = ops.spmm(crow, col, v, x, addend, beta=2, alpha=-3)
            assert torch.equal(got, (2 * widen(addend).to(exact.device) - 3 * exact).to(dtype))
        if dtype in (torch.float32, torch.float64):
            mean = exact / lengths.clamp(min=1).unsqueeze(1)
            torch.testing.assert_close(ops.spmm(crow, col, v, x, mean=True), mean.to(dtype))
            got = ops.spmm(crow, col, v, x, y, mean=True, beta=2, alpha=-3)
            torch.testing.assert_close(got, (2 * y.to(mean) - 3 * mean).to(dtype))


@pytest.mark.parametrize("n", [2, 7, 8, 9, 16, 33])
def test_columns_that_lie_apart(n: int, dtype: torch.dtype) -> None:
    """A dense operand by columns, with steps and with gaps, of many rows for few entries and of few for many."""
    rows = torch.cat([torch.randint(6, (200,)), torch.tensor([2300])]), torch.randint(4, (200,))
    for index, lengths, k in itertools.product((torch.int32, torch.int64), rows, (40, 4000)):
        crow, col = csr_of_rows(lengths, k, index)
        v, x, y = integers((col.numel(),), dtype), integers((k, n), dtype), integers((len(lengths), n), dtype)
        exact = exact_mm(on_cpu(dense_of, crow, col, v, k), x).to(v.device)
        dots = on_cpu(COMPONENTS["sddmm"].reference, crow, col, y, x).to(v.device, dtype)
        steps = integers((k, 2 * n), dtype)
        steps[:, ::2] = x
        padded = integers((n, k + 3), dtype)
        padded[:, :k] = x.mT
        for apart in (x.mT.contiguous().mT, steps[:, ::2], padded[:, :k].mT):
            assert torch.equal(ops.spmm(crow, col, v, apart), exact.to(dtype))
            got = ops.spmm(crow, col, v, apart, y, beta=2, alpha=-3)
            assert torch.equal(got, (2 * widen(y).to(exact.device) - 3 * exact).to(dtype))
            assert torch.equal(ops.sddmm(crow, col, y, apart), dots)
        assert torch.equal(ops.spmm(crow, col, v, x[:, :1].expand(k, n)), exact[:, :1].expand(-1, n).to(dtype))


@pytest.mark.parametrize("k", [2, 8, 15, 16, 33, 300])
def test_values_of_column_major_operands(k: int, dtype: torch.dtype) -> None:
    """An operand whose columns are contiguous comes out of a product with the identity as it went in."""
    crow, col, ones = torch.arange(k + 1), torch.arange(k), torch.ones(k, dtype=dtype)
    for n in (2, 7, 8, 16, 31, 100):
        stored = integers((n, k + 3), dtype)
        for x in (stored[:, :k].contiguous().mT, stored[:, 1 : k + 1].mT):
            assert torch.equal(ops.spmm(crow, col, ones, x), x)
            twice = ops.spmm(crow, col, ones, x, x)
            assert torch.equal(twice, x + x)


@pytest.mark.usefixtures("on_cpu_only")
@pytest.mark.parametrize("n", [2, 16, 20, 40, 64, 130, 300])
def test_width_by_width_a_row_does_not_depend_on_its_neighbours(n: int) -> None:
    """The rows in another order, summed beside others, have the same bits: of a near and of a far dense matrix."""
    for dtype, index in itertools.product((torch.float32, torch.bfloat16, torch.complex64), (torch.int32, torch.int64)):
        lengths = torch.cat([torch.randint(20, (300,)), torch.randint(71, (30,))])
        crow, col = csr_of_rows(lengths, 4000, index)
        v, x = tensor((col.numel(),), "cpu", dtype), tensor((4000, n), "cpu", dtype)
        order = torch.randperm(len(lengths))
        entries = torch.cat([torch.arange(int(crow[i]), int(crow[i + 1])) for i in order])
        shuffled = torch.cat([torch.zeros(1), lengths[order].cumsum(0)]).to(index)
        assert torch.equal(ops.spmm(shuffled, col[entries], v[entries], x), ops.spmm(crow, col, v, x)[order])


def test_extremum_of_a_long_row() -> None:
    for minimum, index in itertools.product((False, True), (torch.int32, torch.int64)):
        crow, col = pattern(3, 5000, 0.5, index)
        v, x = torch.randn(col.numel()), torch.randn(5000, 70)
        got, arg = ops.spmm_extremum(crow, col, v, x, minimum=minimum)
        expected, expected_arg = COMPONENTS["spmm_extremum"].reference(crow, col, v, x, minimum=minimum)
        assert torch.equal(got, expected)
        assert torch.equal(arg, expected_arg)


def test_extremum_of_nan_ties_and_infinities() -> None:
    crow, col, one = torch.tensor([0, 4]), torch.tensor([0, 1, 2, 3]), torch.ones(4)
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([[1.0, -inf, 1, 2], [nan, -inf, 3, 0], [nan, -inf, 3, 1], [5, -inf, 2, 2]])
    got, arg = ops.spmm_extremum(crow, col, one, x)
    assert bool(got[0, 0].isnan())
    assert torch.equal(got[0, 1:], torch.tensor([-inf, 3, 2]))
    assert arg.tolist() == [[1, 0, 1, 0]]


def test_extremum_without_its_entries(dtype: torch.dtype) -> None:
    """The same values bit for bit, NaN and infinities too: rows of any length, none, and one beyond a piece."""
    if dtype.is_complex:
        return
    lengths = torch.cat([torch.randint(5, (64,)), torch.randint(71, (50,)), torch.zeros(20), torch.tensor([5000])])
    for index, n, minimum in itertools.product((torch.int32, torch.int64), (1, 3, 16, 64, 130), (False, True)):
        crow, col = csr_of_rows(lengths[torch.randperm(len(lengths))], 300, index)
        v, x = integers((col.numel(),), dtype), integers((300, n), dtype)
        if dtype.is_floating_point:
            x = x.masked_fill(torch.rand(300, n) < 0.02, float("nan")).masked_fill(
                torch.rand(300, n) < 0.05, -torch.inf
            )
        expected, arg = ops.spmm_extremum(crow, col, v, x, minimum=minimum)
        got, none = ops.spmm_extremum(crow, col, v, x, minimum=minimum, with_arg=False)
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(7), expected.nan_to_num(7))
        assert none.shape == (0,)
        assert none.dtype == index
        assert arg.shape == got.shape


def test_extremum_needs_its_entries_for_a_gradient() -> None:
    crow, col = pattern(5, 6)
    v, x = torch.randn(col.numel()), torch.randn(6, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="with_arg must be True"):
        ops.spmm_extremum(crow, col, v, x, with_arg=False)
    batch = torch.randn(4, 6, 3)
    got, none = torch.func.vmap(lambda x: ops.spmm_extremum(crow, col, v, x, with_arg=False))(batch)
    assert torch.equal(got, torch.stack([ops.spmm_extremum(crow, col, v, x)[0] for x in batch]))
    assert none.shape == (4, 0)


def test_mean_of_large_sums() -> None:
    """Sums of uint8 from 2^31 on are no negative numbers."""
    n = 40_000
    crow, col = torch.tensor([0, n]), torch.zeros(n, dtype=torch.int64)
    for columns in (1, 2, 32):
        x = torch.full((1, columns), 255, dtype=torch.uint8)
        got = ops.spmm(crow, col, torch.full((n,), 255, dtype=torch.uint8), x, mean=True)
        assert got.tolist() == [[255 * 255 % 256] * columns]


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_sums_are_float32(low: torch.dtype) -> None:
    """4096 ones: a sum in 16 bits stops at 256 (2048)."""
    crow, col = torch.tensor([0, 4096]), torch.arange(4096)
    one, x = torch.ones(4096, dtype=low), torch.ones(4096, 3, dtype=low)
    assert torch.equal(ops.spmm(crow, col, one, x), torch.full((1, 3), 4096, dtype=low))
    assert torch.equal(ops.sddmm(torch.tensor([0, 1]), torch.tensor([0]), x[:, :1].mT, x[:, :1].mT), one[:1] * 4096)


@DTYPES64
@COMPONENT
def test_gradients(component: Row, dtype64: torch.dtype, device: str) -> None:
    """First order in both modes, batched, second order; indices and patterns are constants."""
    for i, sample in enumerate(sparse_samples(component, dtype64, device, requires_grad=True)[:14]):

        def function(*args: Tensor, sample: Sample = sample) -> Any:
            results = tensors_of(component.packet(*args, **sample.kwargs))
            return tuple(r for r in results if not is_index(r))

        args = [
            a.detach().clone().requires_grad_() if isinstance(a, Tensor) and not is_index(a) else a for a in sample.args
        ]
        assert gradcheck(function, args, check_forward_ad=True, check_batched_grad=i % 3 == 0, nondet_tol=NOISE), (
            sample.name
        )
        if i < 8:
            assert gradgradcheck(function, args, nondet_tol=NOISE), sample.name


@COMPONENT
def test_vmap(component: Row, device: str) -> None:
    sample = sparse_samples(component, torch.float64, device)[2]
    floats = [i for i, a in enumerate(sample.args) if isinstance(a, Tensor) and not is_index(a)]
    for count in range(1, len(floats) + 1):
        for chosen in itertools.combinations(floats, count):
            dims = tuple(-1 if i in chosen else None for i in range(len(sample.args)))
            args = [torch.stack([a, 2 * a, a + 1], -1) if i in chosen else a for i, a in enumerate(sample.args)]
            out_dims = (None, None, 0) if component.name == "spgemm" else 0
            call = lambda *xs: component.packet(*xs, **sample.kwargs)  # noqa: E731
            got = tensors_of(torch.vmap(call, in_dims=dims, out_dims=out_dims)(*args))
            each = [
                tensors_of(call(*(a.select(-1, i) if j in chosen else a for j, a in enumerate(args)))) for i in range(3)
            ]
            for position, x in enumerate(got):
                parts = [e[position] for e in each]
                expected = (
                    parts[0]
                    if component.batch_dims != 0 and component.name == "spgemm" and position < 2
                    else torch.stack(parts)
                )
                torch.testing.assert_close(x, expected)


@COMPONENT
def test_vmap_of_what_is_empty(component: Row, device: str) -> None:
    """No items; and matrices without rows, columns or entries."""
    for sample in sparse_samples(component, torch.float64, device):
        floats = [isinstance(a, Tensor) and not is_index(a) for a in sample.args]
        dims = tuple(0 if f else None for f in floats)
        out_dims = (None, None, 0) if component.name == "spgemm" else 0
        each = tensors_of(component.packet(*sample.args, **sample.kwargs))
        for size in (0, 2):
            args = [torch.stack([a] * 2)[:size] if f else a for f, a in zip(floats, sample.args, strict=True)]
            got = torch.vmap(lambda *xs: component.packet(*xs, **sample.kwargs), dims, out_dims)(*args)
            for position, (x, item) in enumerate(zip(tensors_of(got), each, strict=True)):
                expected = item if isinstance(out_dims, tuple) and position < 2 else torch.stack([item] * 2)[:size]
                torch.testing.assert_close(x, expected)
        if component.name == "spmm_extremum":
            wide = torch.stack([sample.args[3]] * 2)
            got = torch.vmap(lambda x: component.packet(*sample.args[:3], x, **sample.kwargs))(wide)
            for x, item in zip(got, each, strict=True):
                torch.testing.assert_close(x, torch.stack([item] * 2))


def test_vmap_over_patterns_of_a_product() -> None:
    """Those of the results differ too, of which one would stand for all."""
    crow, col, v = torch.tensor([0, 1]), torch.tensor([[0], [1]]), torch.ones(1)
    square = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2)
    with pytest.raises(RuntimeError, match="patterns cannot be batched"):
        torch.vmap(lambda c: ops.spgemm(crow, c, v, *square, 2), out_dims=(None, None, 0))(col)


def test_functional_transforms() -> None:
    crow, col = pattern(5, 4)
    v, x = torch.randn(col.numel(), dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    f = lambda v, x: ops.spmm(crow, col, v, x).sin().sum()  # noqa: E731
    g = lambda v, x: (dense_of(crow, col, v, 4) @ x).sin().sum()  # noqa: E731
    twice_forward = lambda f, i: torch.func.jacfwd(torch.func.jacfwd(f, i), 1 - i)  # noqa: E731
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd, twice_forward):
        for argnum in (0, 1):
            torch.testing.assert_close(transform(f, argnum)(v, x), transform(g, argnum)(v, x))


@pytest.mark.parametrize("requires_grad", [False, True])
@COMPONENT
def test_opcheck(component: Row, requires_grad: bool, device: str) -> None:
    found = sparse_samples(component, torch.float32, device, requires_grad)
    utils = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if component.name == "spgemm" and requires_grad:
        utils.pop()  # it adds up all results in place, beginning with integers; test_fullgraph_gradients instead
    for sample in [*found[:4], *found[4::7], found[-1]]:
        args = tuple(a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in sample.args)
        torch.library.opcheck(component.op, args, sample.kwargs, test_utils=utils)


def test_opcheck_transpose() -> None:
    for m, k in ((5, 7), (0, 3), (3, 0)):
        torch.library.opcheck(ops.csr_transpose.default, (*pattern(m, k), k))


@COMPONENT
def test_fullgraph(component: Row, device: str) -> None:
    sample = sparse_samples(component, torch.float64, device)[2]

    def f(*args: Any) -> Any:
        return [r * 2 for r in tensors_of(component.packet(*args, **sample.kwargs))]

    for dynamic in (False, True):
        compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for x, y in zip(compiled(*sample.args), f(*sample.args), strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@COMPONENT
def test_fullgraph_gradients(component: Row, backend: str, device: str) -> None:
    sample = sparse_samples(component, torch.float64, device, requires_grad=True)[2]
    leaves = [a for a in sample.args if isinstance(a, Tensor) and a.requires_grad]

    def f(*args: Any) -> Tensor:
        results = tensors_of(component.packet(*args, **sample.kwargs))
        return sum(r.square().sum() for r in results if not is_index(r))  # type: ignore[return-value]

    compiled = torch.compile(f, fullgraph=True, backend=backend)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*sample.args), leaves), torch.autograd.grad(f(*sample.args), leaves)
    )


@COMPONENT
def test_bad_calls(component: Row, device: str) -> None:
    for call in component.bad_calls(device):
        with pytest.raises(call.exception, match=re.escape(call.words)):
            component.packet(*call.sample.args, **call.sample.kwargs)
        meta = [a.to("meta") if isinstance(a, Tensor) else a for a in call.sample.args]
        if component.name != "spgemm":  # whose fake needs a tracer
            with pytest.raises(call.exception):
                component.packet(*meta, **call.sample.kwargs)


@COMPONENT
def test_fakes_agree_with_kernels(component: Row, dtype: torch.dtype, device: str) -> None:
    if component.name == "spgemm":
        pytest.skip("the size of its result is not known without the patterns")
    for sample in sparse_samples(component, dtype, device):
        real = tensors_of(component.packet(*sample.args, **sample.kwargs))
        fake = tensors_of(
            component.packet(*(a.to("meta") if isinstance(a, Tensor) else a for a in sample.args), **sample.kwargs)
        )
        for x, y in zip(real, fake, strict=True):
            assert (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride()), sample.name


def test_more_entries_than_indices_count(device: str) -> None:
    """Said before a copy of them is made: one element stands for all."""
    crow = torch.tensor([0, 1], dtype=torch.int32, device=device)
    col = torch.zeros(1, dtype=torch.int32, device=device).expand(2**31)
    v = torch.ones(1, device=device).expand(2**31)
    x = torch.ones(1, 4, device=device)
    for call in (
        lambda: ops.spmm(crow, col, v, x),
        lambda: ops.sddmm(crow, col, x, x),
        lambda: ops.csr_transpose(crow, col, 1),
        lambda: ops.spgemm(crow, col, v, crow, col, v, 1),
    ):
        with pytest.raises(RuntimeError, match="has 2147483648 entries, more than int32 indices can count"):
            call()


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("words", list(BAD_PATTERNS))
def test_bad_patterns_are_found(words: str, index: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # so that products wait for what their kernels found
    crow, col = (torch.tensor(x, dtype=index) for x in BAD_PATTERNS[words])
    v = torch.ones(3)
    good = torch.tensor([0, 1, 2, 3], dtype=index), torch.tensor([0, 1, 2], dtype=index), v
    calls = [
        lambda: ops.spmm(crow, col, v, torch.ones(3, 1)),
        lambda: ops.spmm(crow, col, v, torch.ones(3, 20)),
        lambda: ops.spmm(crow, col, v, torch.ones(2, 4), columns=3, transpose=True),
        lambda: ops.spmm_extremum(crow, col, v, torch.ones(3, 4)),
        lambda: ops.sddmm(crow, col, torch.ones(2, 4), torch.ones(3, 4)),
        lambda: ops.csr_transpose(crow, col, 3),
        lambda: ops.spmm_backward(crow, col, v, torch.ones(3, 4), torch.ones(2, 4)),
        lambda: ops.spmm_backward(crow, col, v, torch.ones(3, 200), torch.ones(2, 200)),
        lambda: ops.spmm_backward(crow, col, v, torch.ones(2, 200), torch.ones(3, 200), columns=3, transpose=True),
        lambda: ops.spgemm(crow, col, v, *good, 3),
        lambda: ops.spgemm(*good[:2], v, torch.cat([crow, crow[-1:]]), col, v, 3),
    ]
    for call in calls:
        with pytest.raises(
            RuntimeError,
            match=re.escape(words.split(" ", 1)[1] if "crow" in words or "col " in words else words).split("3,")[0],
        ):
            call()


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_bad_starts_of_rows_are_found_in_every_piece(index: torch.dtype, on_cpu_only: None) -> None:
    m, k, long = 6000, 50, 20_000  # pieces are of 2048 rows and entries; the last row is many of them
    crow = torch.cat([torch.arange(0, 2 * m + 1, 2), torch.tensor([2 * m + long])]).to(index)
    nnz = int(crow[-1])
    col = (torch.arange(nnz) % k).to(index)
    v, x, outer = torch.ones(nnz), torch.ones(k, 20), torch.ones(m + 1, 20)
    calls = [
        lambda bad: ops.spmm(bad, col, v, x[:, :1]),
        lambda bad: ops.spmm(bad, col - 1, v, x),  # columns are outside too: rows are named first
        lambda bad: ops.spmm(bad, col, v, x),
        lambda bad: ops.spmm_extremum(bad, col, v, x),
        lambda bad: ops.sddmm(bad, col, outer, x),
        lambda bad: ops.spmm_backward(bad, col, v, outer.repeat(1, 10), x.repeat(1, 10), columns=k, transpose=True),
    ]
    ends = torch.iinfo(index)
    for place in (1, 1024, 3000, m - 1, m):
        for value in (-1, ends.min, ends.max, ends.max - 1, nnz + 1, int(crow[place]) - 3):
            bad = crow.clone()
            bad[place] = value
            for call in calls:
                with pytest.raises(RuntimeError, match=f"crow must start at 0, never decrease and end at {nnz}"):
                    call(bad)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("k", [1, 50])
def test_bad_columns_are_found_in_every_place(k: int, index: torch.dtype, on_cpu_only: None) -> None:
    m, nnz, ends = 300, 3001, torch.iinfo(index)  # two pieces, and a last vector of columns that is not full
    crow = torch.arange(m + 1).mul(10).add(torch.arange(m + 1) // m).to(index)
    col = (torch.arange(nnz) % k).to(index)
    v, x, outer = torch.ones(nnz), torch.ones(k, 20), torch.ones(m, 20)
    calls = [
        lambda bad: ops.spmm(crow, bad, v, x[:, :1]),
        lambda bad: ops.spmm(crow, bad, v, x),
        lambda bad: ops.spmm_extremum(crow, bad, v, x),
        lambda bad: ops.sddmm(crow, bad, outer, x),
        lambda bad: ops.csr_transpose(crow, bad, k),
        lambda bad: ops.spgemm(crow, bad, v, torch.zeros(k + 1, dtype=index), col[:0], v[:0], 4),
    ]
    for place in (0, 7, 1500, nnz - 2, nnz - 1):
        for value in (-1, -k, k, ends.min, ends.max):
            bad = col.clone()
            bad[place] = value
            for call in calls:
                with pytest.raises(RuntimeError, match="outside"):
                    call(bad)
    # More columns than an index can name.
    wide = torch.ones(1, 1).expand(2**31 + 8, 1)
    last = torch.full_like(col, ends.max if index == torch.int32 else 2**31 + 7)
    assert bool((ops.spmm(crow, last, v, wide).flatten() == crow.diff()).all())
    last[5] = -1
    with pytest.raises(RuntimeError, match="outside"):
        ops.spmm(crow, last, v, wide)


def falling_crow(rows: int, index: torch.dtype) -> Tensor:
    """Of no entries. Falls where the search for the end of a piece looks beyond 100 rows, so that pieces are short."""
    starts, first, piece = {0: 0, rows: 0}, 0, 2048
    while first < rows:
        end, beyond = first, min(rows, first + piece) + 1
        while end + 1 < beyond:
            middle = end + (beyond - end) // 2
            if starts.setdefault(middle, 0 if middle - first <= 100 else -1) == 0:
                end = middle
            else:
                beyond = middle
        first = max(end, first + 1)
    crow = torch.zeros(rows + 1, dtype=index)
    crow[torch.tensor(list(starts))] = torch.tensor(list(starts.values()), dtype=index)
    return crow


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_starts_of_rows_that_make_too_many_pieces(index: torch.dtype, on_cpu_only: None) -> None:
    crow, col, v, x = falling_crow(60_000, index), torch.zeros(0, dtype=index), torch.zeros(0), torch.ones(4, 3)
    a = torch.sparse_csr_tensor(crow, col, v, (60_000, 4), check_invariants=False)
    with pytest.raises(RuntimeError, match="crow must start at 0, never decrease and end at 0"):
        myops.sparse.mm(a, x)
    with pytest.raises(RuntimeError, match="crow must start at 0, never decrease and end at 0"):
        ops.spmm(falling_crow(400_000, index), col, v, x)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("starts", [[0, 5], [1, 0], [0, -1, 0], [3]], ids=str)
def test_bad_patterns_without_entries(starts: list[int], index: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    crow, col, rows = torch.tensor(starts, dtype=index), torch.zeros(0, dtype=index), len(starts) - 1
    for n in (0, 1, 8, 200):
        with pytest.raises(RuntimeError, match="crow must start at 0, never decrease and end at 0"):
            ops.sddmm(crow, col, torch.ones(rows, n), torch.ones(4, n))
        assert ops.sddmm(crow * 0, col, torch.ones(rows, n), torch.ones(4, n)).shape == (0,)


def test_a_bad_transposed_pattern_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    crow, col = torch.tensor([0, 1, 3]), torch.tensor([0, 1, 2])
    t_crow, t_col, t_perm = ops.csr_transpose(crow, col, 3)
    for bad in (torch.tensor([0, 1, 3]), torch.tensor([0, 1, -1])):
        with pytest.raises(RuntimeError, match="outside"):
            ops.spmm(crow, col, torch.ones(3), torch.ones(2, 4), None, t_crow, t_col, bad, columns=3, transpose=True)
        with pytest.raises(RuntimeError, match="outside"):
            ops.spmm_backward(crow, col, torch.ones(3), torch.ones(3, 200), torch.ones(2, 200), t_crow, t_col, bad)
    with pytest.raises(RuntimeError, match="t_crow, t_col and t_perm must have 4, 3 and 3 elements"):
        ops.spmm(crow, col, torch.ones(3), torch.ones(2, 4), None, crow, t_col, t_perm, columns=3, transpose=True)


def test_more_entries_than_int32_counts_are_refused() -> None:
    many = torch.zeros(1, dtype=torch.int32).expand(2**31)
    with pytest.raises(RuntimeError, match="row has 2147483648 entries, more than int32 indices can count"):
        ops.csr_rows(many, 1)
    with pytest.raises(RuntimeError, match="col has 2147483648 entries, more than int32 indices can count"):
        ops.csr_transpose(torch.tensor([0, 0], dtype=torch.int32), many, 1)


def test_transpose_is_a_stable_sort() -> None:
    shapes = [*itertools.product((0, 1, 50), (1, 7, 400), (0.5,)), (300, 700, 0.5), (9000, 60, 0.03), (5, 30_000, 0.4)]
    for (m, k, density), index in itertools.product(shapes, (torch.int32, torch.int64)):
        crow, col = pattern(m, k, density, index, repeats=True)
        t_crow, t_col, t_perm = ops.csr_transpose(crow, col, k)
        assert {t_crow.dtype, t_col.dtype, t_perm.dtype} == {index}
        order = torch.sort(col, stable=True).indices
        rows = torch.repeat_interleave(torch.arange(m), crow.long().diff())
        assert torch.equal(t_perm.long(), order)
        assert torch.equal(t_col.long(), rows[order])
        assert torch.equal(
            t_crow.long(), torch.cat([torch.zeros(1), torch.bincount(col, minlength=k).cumsum(0)]).long()
        )


def test_nothing_is_read_that_a_zero_scalar_rules_out() -> None:
    crow, col = pattern(4, 5)
    v, x = torch.randn(col.numel()), torch.randn(5, 6)
    nan = torch.full((4, 6), float("nan"))
    assert torch.equal(ops.spmm(crow, col, v, x, nan, beta=0), ops.spmm(crow, col, v, x))
    assert torch.equal(
        ops.spmm(crow, col, v * float("nan"), x, torch.ones(4, 6), beta=3, alpha=0), torch.full((4, 6), 3.0)
    )
    no = torch.zeros(5, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    assert torch.equal(ops.spmm(*no, x, nan, beta=0), torch.zeros(4, 6))  # torch.sparse.addmm returns the NaNs


@pytest.mark.parametrize("columns", [1, 5, 8, 17, 64, 200])
def test_an_infinite_alpha(columns: int) -> None:
    """Times the empty sum of a row without entries it is a NaN, as in torch; where there is nothing to sum, nothing."""
    crow = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    one, x = torch.ones(1), torch.ones(4, columns)
    for alpha in (math.inf, -math.inf, math.nan):
        for c in (None, torch.ones(8, columns), torch.ones(columns)):
            got = ops.spmm(crow, torch.zeros(1, dtype=torch.int64), one, x, c, alpha=alpha)
            assert got[[0, 1, 3, 4, 5, 6, 7]].isnan().all()
            assert got[2].isnan().all() if math.isnan(alpha) else (got[2] == alpha).all()
        none = torch.zeros(9, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0), x[:0]
        assert torch.equal(ops.spmm(*none, torch.ones(8, columns), columns=0, alpha=alpha), torch.ones(8, columns))
        eye = torch.eye(2).to_sparse_csr()
        got = ops.native_sampled_addmm(eye, torch.ones(2, 0), torch.ones(0, 2), alpha=alpha, beta=1)
        assert torch.equal(got.values(), torch.ones(2))


def test_elements_behind_the_dense_operand_do_not_matter(dtype: torch.dtype) -> None:
    """Vectors may be read beyond a row, never used: NaN and whole-number poison around every row."""
    crow, col = pattern(9, 12, 0.6)
    poison = float("nan") if dtype.is_floating_point or dtype.is_complex else 77
    v = integers((col.numel(),), dtype)
    for n in (1, 3, 5, 17, 40, 137):
        buffer = torch.full((12, n + 7), poison, dtype=dtype)
        buffer[:, 3 : 3 + n] = integers((12, n), dtype)
        x = buffer[:, 3 : 3 + n]
        assert torch.equal(ops.spmm(crow, col, v, x), ops.spmm(crow, col, v, x.clone()))
        a = integers((9, n), dtype)
        assert torch.equal(ops.sddmm(crow, col, a, x), ops.sddmm(crow, col, a, x.clone()))
        for dense, grad in ((x, a), (a, x)):
            options = {"columns": 12, "transpose": dense is a}
            got = ops.spmm_backward(crow, col, v, dense, grad, **options)
            again = ops.spmm_backward(crow, col, v, dense.clone(), grad.clone(), **options)
            assert all(map(torch.equal, got, again))


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_dense_operands_without_rows(dtype: torch.dtype, index: torch.dtype) -> None:
    """Which have no address: make sanitize looks whether anything is added to it."""
    for rows, n in itertools.product((0, 1, 20), (0, 1, 5, 300)):
        crow, none = torch.zeros(rows + 1, dtype=index), torch.empty(0, dtype=index)
        values, dense = torch.empty(0, dtype=dtype), torch.empty(0, n, dtype=dtype)
        added = torch.ones(rows, n).to(dtype)
        assert torch.equal(ops.spmm(crow, none, values, dense, added, beta=2), 2 * added)
        assert torch.equal(ops.spmm(crow, none, values, dense, mean=True), torch.zeros_like(added))
        assert ops.sddmm(crow, none, added, dense).shape == (0,)
        for moved in (False, True):
            held, grad = (added, dense) if moved else (dense, added)
            got = ops.spmm_backward(crow, none, values, held, grad, columns=0, transpose=moved)
            assert [g.numel() for g in got] == [0, rows * n if moved else 0]
            assert not got[1].any()


@pytest.mark.usefixtures("on_cpu_only")
def test_results_do_not_depend_on_threads() -> None:
    before = torch.get_num_threads()
    for low, index in itertools.product([*FLOATS, torch.complex64], (torch.int32, torch.int64)):
        crow, col = pattern(300, 3000, 0.1, index)
        v, x, y = tensor((col.numel(),), "cpu", low), tensor((3000, 50), "cpu", low), tensor((300, 50), "cpu", low)
        t_crow, t_col, _ = ops.csr_transpose(crow, col, 3000)
        product = ops.spgemm(crow, col, v, t_crow, t_col, v, 300)
        results = []
        try:
            for threads in (1, 2, 3, 8, 2):
                torch.set_num_threads(threads)
                again = ops.spgemm(crow, col, v, t_crow, t_col, v, 300)
                wide_x, wide_y = x.repeat(1, 6), y.repeat(1, 6)  # both gradients in one walk
                results.append([
                    ops.spmm(crow, col, v, x), ops.spmm(crow, col, v, x[:, :1]), ops.sddmm(crow, col, y, x),
                    ops.spmm(crow, col, v, y, columns=3000, transpose=True), *ops.csr_transpose(crow, col, 3000),
                    *ops.spmm_backward(crow, col, v, x, y), *ops.spmm_backward(crow, col, v, wide_x, wide_y),
                    ops.spmm(crow, col, v, y[:, :1], columns=3000, transpose=True), ops.sddmm(crow, col, y[:, :1], x[:, :1]),
                    *again, *ops.spgemm_backward(crow, col, v, t_crow, t_col, v, *product, 300),
                ])  # fmt: skip
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True)), (low, index)


@pytest.mark.parametrize("dtype_", [torch.float32, torch.int64, torch.complex128])
def test_products_of_few_terms(dtype_: torch.dtype) -> None:
    """Rows of 0 to 60 terms, columns in any order and more than once: sorted, each column once."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    for columns in (7, 500, 3000, 2**25 + 9):
        lengths = torch.arange(61).repeat(2)
        crow = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        col = torch.randint(columns, (int(crow[-1]),), generator=generator)
        values = torch.randint(1, 5, col.shape, generator=generator).to(dtype_)
        one_each = torch.arange(len(lengths) + 1), torch.arange(len(lengths)).flip(0), torch.full((122,), 2).to(dtype_)
        got_crow, got_col, got = ops.spgemm(*one_each, crow, col, values, columns)
        for row in range(122):
            begin, end = int(crow[121 - row]), int(crow[122 - row])
            expected, where = torch.unique(col[begin:end], return_inverse=True)
            sums = torch.zeros(len(expected), dtype=dtype_).index_add_(0, where, values[begin:end] * 2)
            assert torch.equal(got_col[got_crow[row] : got_crow[row + 1]], expected)
            assert torch.equal(got[got_crow[row] : got_crow[row + 1]], sums)


@pytest.mark.parametrize("dtype_", [torch.float32, torch.int64, torch.complex64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("columns", [200, 3000, 2**21], ids=str)
def test_products_whose_columns_rise(dtype_: torch.dtype, columns: int) -> None:
    """One term of rising columns is copied, several that rise one after the other are taken as they are, up to the last
    column, which may repeat the one before it or fall behind it."""
    rows, terms, last = [], [], (1, 0, -1)  # its distance to the column before it
    for length, parts, step in itertools.product(range(1, 60), (1, 2, 3), last):
        if length >= parts and (length > 1 or step == 1):
            col = torch.randperm(198)[:length].sort().values * (columns // 200) + 1
            col[-1] = col[-2] + step if length > 1 else col[-1]
            rows.append(col)
            terms.append(parts)
    pieces = [piece for col, parts in zip(rows, terms, strict=True) for piece in col.tensor_split(parts)]
    b_crow = torch.tensor([0, *(len(piece) for piece in pieces)]).cumsum(0)
    b_col, k = torch.cat(pieces), len(pieces)
    values = torch.randint(1, 5, b_col.shape).to(dtype_)
    a = torch.tensor([0, *terms]).cumsum(0), torch.arange(k), torch.full((k,), 2).to(dtype_)
    got_crow, got_col, got = ops.spgemm(*a, b_crow, b_col, values, columns)
    end = 0
    for i, col in enumerate(rows):
        begin, end = end, end + len(col)
        expected, where = torch.unique(col, return_inverse=True)
        sums = torch.zeros(len(expected), dtype=dtype_).index_add_(0, where, values[begin:end] * 2)
        assert torch.equal(got_col[got_crow[i] : got_crow[i + 1]], expected)
        assert torch.equal(got[got_crow[i] : got_crow[i + 1]], sums)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("bad", [-1, 9])
def test_bad_columns_of_a_second_factor(bad: int, index: torch.dtype, on_cpu_only: None) -> None:
    """Found in every row that the first one meets. Where those are few, the others are not looked at, nor read."""
    b = torch.tensor([0, 2, 4, 6], dtype=index), torch.tensor([0, 1, 2, bad, 3, 4], dtype=index), torch.ones(6)
    for col, words in (
        ([0], None),
        ([2, 0], None),
        ([1], "b_col holds"),
        ([2, 1], "b_col holds"),
        ([0] * 9, "b_col holds"),
    ):
        a = torch.tensor([0, len(col)], dtype=index), torch.tensor(col, dtype=index), torch.ones(len(col))
        if words is None:
            assert ops.spgemm(*a, *b, 9)[1].tolist() == [[0, 1], [0, 1, 3, 4]][len(col) - 1]
        else:
            with pytest.raises(RuntimeError, match=words):
                ops.spgemm(*a, *b, 9)


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_starts_of_sorted_rows(index: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in use, empty ones, one of all entries, and rows that go through the shares of several threads."""
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # else a wrong row stops the grid, and all tests after this one
    many = torch.randint(60_000, (100_000,))
    for row, rows in (
        (many, 60_000), (many // 100 * 100, 60_001), (many // 20_000 * 20_000, 70_000), (many * 0 + 5, 9), (many[:0], 4),
        (many[:3], 60_000), (torch.cat([many, torch.full((50_000,), 777)]), 60_000),
    ):  # fmt: skip
        row = row.sort().values
        expected = torch.cat([torch.zeros(1), torch.bincount(row, minlength=rows).cumsum(0)]).long()
        assert torch.equal(ops.csr_rows(row.to(index), rows).long(), expected)
        for at in (0, len(row) // 2, len(row) - 1):
            if len(row) > 3:
                wrong = row.to(index)
                wrong[at] = -1 if at < len(row) - 1 else rows
                with pytest.raises(RuntimeError, match="must be sorted|holds an index outside"):
                    ops.csr_rows(wrong, rows)


def test_hashed_rows() -> None:
    """More columns than the dense accumulator takes."""
    n = 2**20 + 5
    crow, col = torch.tensor([0, 2, 2, 4]), torch.tensor([0, 1, 1, 0])
    b_col = torch.randint(n, (400,))
    b_col[0], b_col[399] = n - 1, b_col[1]
    b = torch.tensor([0, 200, 400]), b_col, torch.randint(1, 4, (400,)).double()
    got = ops.spgemm(crow, col, torch.ones(4).double(), *b, n)
    expected = (torch.sparse_csr_tensor(crow, col, torch.ones(4).double(), (3, 2)).to_sparse_coo()
                @ torch.sparse_csr_tensor(*b, (2, n)).to_sparse_coo()).coalesce()  # fmt: skip
    assert torch.equal(got[1], expected.indices()[1])
    assert torch.equal(got[2], expected.values())
    assert got[0].tolist() == [0, 399 - int(399 - expected._nnz() // 2), expected._nnz() // 2, expected._nnz()]


@pytest.mark.parametrize("dtype_", [torch.float32, torch.complex64, torch.int16], ids=str)
def test_gradients_of_hashed_rows(dtype_: torch.dtype, on_cpu_only: None) -> None:
    """The bits of the dense rows, whatever the gradient's pattern."""
    m, k, n = 40, 30, 2**20
    a, b, c = ((*pattern(*shape), shape) for shape in ((m, k), (k, 200), (m, 190)))
    parts: list[Tensor] = []
    for crow, col, _ in (a, b, c):
        parts += [crow, col * 5000 if crow is not a[0] else col, tensor((col.numel(),), "cpu", dtype_)]
    parts[7] = parts[7][torch.randint(col.numel(), (col.numel(),))]  # in any order, some twice
    expected = ops.spgemm_backward(*parts, n)
    for columns in (n + 1, 2**45):
        got = ops.spgemm_backward(*parts, columns)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


def test_gradients_of_very_many_columns(on_cpu_only: None) -> None:
    one = torch.tensor([0, 1])
    a = torch.sparse_csr_tensor(one, [0], torch.tensor([2.0]), (1, 1)).requires_grad_()
    b = torch.sparse_csr_tensor(one, [5], torch.tensor([3.0]), (1, 2**45)).requires_grad_()
    myops.sparse.mm(a, b).values().sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.values().item(), b.grad.values().item()) == (3, 2)


OUT_OF_MEMORY = """
import resource, torch, myops
torch.set_num_threads(2)
n, rows = 2**20, 4000
a = torch.arange(rows + 1), torch.zeros(rows, dtype=torch.int64), torch.ones(rows)
b = torch.tensor([0, n]), torch.arange(n), torch.ones(n)
torch.ops.myops.spgemm(*a, torch.tensor([0, 9]), b[1][:9], b[2][:9], n)  # starts the threads
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
try:
    torch.ops.myops.spgemm(*a, *b, n)
except MemoryError:
    print("MemoryError")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory")
def test_an_error_of_a_thread_keeps_its_type(on_cpu_only: None) -> None:
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=600)
    assert done.stdout == "MemoryError\n", done.stdout + done.stderr


def test_autocast(device: str) -> None:
    crow, col = pattern(4, 5)
    v, x = torch.randn(col.numel()), torch.randn(5, 6)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = ops.spmm(crow, col, v, x)
    assert torch.equal(got, ops.spmm(crow, col, v.bfloat16(), x.bfloat16()))


def test_flops_are_counted() -> None:
    crow, col = pattern(4, 5)
    with FlopCounterMode(display=False) as counter:
        ops.spmm(crow, col, torch.ones(col.numel()), torch.ones(5, 6))
    assert counter.get_total_flops() == 2 * col.numel() * 6


@pytest.mark.usefixtures("on_cpu_only")
@pytest.mark.parametrize("level", OTHER_LEVELS)
def test_other_isa_levels(level: str) -> None:
    """The values again in a process that is forced to another level of this machine."""
    run_on_level(level, __file__, "values or width or column or extremum or sixteen or elements or threads")


@pytest.mark.parametrize("columns", [1, 4, 20])
def test_equal_rows_have_equal_bits(columns: int) -> None:
    """Wherever they are: among rows that are summed side by side, or the last ones, which are too few for that."""
    for rows, entries in itertools.product((5, 23, 70), (1, 3, 4, 7, 15, 40)):
        col = torch.arange(entries).repeat(rows)
        values = torch.randn(entries).repeat(rows)
        crow = torch.arange(rows + 1) * entries
        got = ops.spmm(crow, col, values, torch.randn(entries, columns))
        assert torch.equal(got, got[:1].expand(rows, columns)), (rows, entries)


@pytest.mark.parametrize("name", ["csr_transpose", "csr_rows"])
def test_sizes_that_no_memory_has(name: str) -> None:
    index = torch.zeros(2, dtype=torch.int64)
    args = (index, index[:0]) if name == "csr_transpose" else (index,)
    with pytest.raises(RuntimeError, match=r"must be less than 2\^63 - 1"):
        getattr(ops, name)(*args, 2**63 - 1)
