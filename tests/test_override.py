"""The switch: `myops.use()`, `enable()` and `disable()` under unmodified torch code.

A call that myops takes has to be right, and counted; one that it does not take has to be native to the last word of the
error. Everything above the backend keys (autograd, functorch, autocast, compile) has to work as if nothing was there.
"""

from __future__ import annotations

import copy
import gc
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICES, declare_entry_points
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import myops
from myops import override
from myops.ops._gemm import tensor

ROOT = Path(__file__).resolve().parents[1]
OVERLOADS = sorted({reroute.overload for reroute in override.REROUTES})


@pytest.fixture(autouse=True)
def off_and_counted_from_zero() -> Iterator[None]:
    myops.reset_stats()
    yield
    left = {name: len(users) for name, users in override._users.items() if users}
    for name, users in left.items():
        for _ in range(users):
            myops.disable((name,))
    assert not left, f"a test left the switch on: {left}"


def hits(name: str | None = None) -> int:
    """Calls that myops took."""
    counts = myops.stats()
    return counts[name]["myops"] if name else sum(entry["myops"] for entry in counts.values())


def reasons() -> dict[str, int]:
    return {reason: n for entry in myops.stats().values() for reason, n in entry["reasons"].items()}


def tables() -> dict[str, str]:
    """What the dispatcher would call, for every key of every overload that the switch touches."""
    return {name: torch._C._dispatch_dump(f"aten::{name}") for name in OVERLOADS}


def integers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers in any dtype: products are exact, so that results can be compared bit for bit."""
    return torch.randint(0 if dtype == torch.uint8 else -3, 4, shape).to(dtype)


# Every call that the switch takes: name, function of fresh operands, operands.
def taken_calls(dtype: torch.dtype) -> list[tuple[str, str, Callable[[], Any]]]:
    a, b, c = integers(4, 5, dtype=dtype), integers(5, 6, dtype=dtype), integers(4, 6, dtype=dtype)
    x, y, z = integers(3, 4, 5, dtype=dtype), integers(3, 5, 6, dtype=dtype), integers(3, 4, 6, dtype=dtype)
    row, column = integers(6, dtype=dtype), integers(4, 1, dtype=dtype)
    wide = integers(8, 12, dtype=dtype)

    def strided_out() -> Tensor:
        storage = wide.clone()
        torch.mm(a, b, out=storage[::2, ::2])
        return storage

    return [
        ("mm", "mm", lambda: torch.mm(a, b)),
        ("mm", "operator @", lambda: a @ b),
        ("mm", "transposed", lambda: torch.mm(b.mT, a.mT)),
        ("mm", "sliced", lambda: torch.mm(a[1:, ::2], b[::2])),
        ("mm", "expanded", lambda: torch.mm(a[:1].expand(4, 5), b)),
        ("mm", "no depth", lambda: torch.mm(a[:, :0], b[:0])),
        ("mm", "out", lambda: torch.mm(a, b, out=torch.empty(4, 6, dtype=dtype))),
        ("mm", "out transposed", lambda: torch.mm(a, b, out=torch.empty(6, 4, dtype=dtype).mT)),
        ("mm", "out stepped", strided_out),
        ("addmm", "addmm", lambda: torch.addmm(c, a, b)),
        ("addmm", "row", lambda: torch.addmm(row, a, b, beta=2, alpha=3)),
        ("addmm", "column", lambda: torch.addmm(column, a, b, alpha=-1)),
        ("addmm", "beta 0", lambda: torch.addmm(c, a, b, beta=0)),
        ("addmm", "alpha 0", lambda: torch.addmm(c, a, b, alpha=0)),
        ("addmm", "linear", lambda: nn.functional.linear(a, b.mT, row)),
        ("addmm", "out", lambda: torch.addmm(c, a, b, beta=2, out=torch.empty(4, 6, dtype=dtype))),
        ("addmm", "out is the input", lambda: torch.addmm(s := c.clone(), a, b, out=s)),
        ("addmm", "in place", lambda: c.clone().addmm_(a, b, beta=2, alpha=2)),
        ("bmm", "bmm", lambda: torch.bmm(x, y)),
        ("bmm", "matmul", lambda: torch.matmul(x, y)),
        ("bmm", "einsum", lambda: torch.einsum("bij,bjk->bik", x, y)),
        ("bmm", "expanded batch", lambda: torch.bmm(x[:1].expand(3, 4, 5), y)),
        ("bmm", "out", lambda: torch.bmm(x, y, out=torch.empty(3, 4, 6, dtype=dtype))),
        ("baddbmm", "baddbmm", lambda: torch.baddbmm(z, x, y, beta=2, alpha=3)),
        ("baddbmm", "matrix", lambda: torch.baddbmm(c, x, y)),
        ("baddbmm", "out", lambda: torch.baddbmm(z, x, y, out=torch.empty(3, 4, 6, dtype=dtype))),
        ("baddbmm", "in place", lambda: z.clone().baddbmm_(x, y, alpha=2)),
    ]


def test_taken_calls_equal_native(dtype: torch.dtype) -> None:
    for name, what, call in taken_calls(dtype):
        expected = call()
        with myops.use():
            before = hits(name)
            got = call()
        assert hits(name) == before + 1, what
        assert got.dtype == expected.dtype, what
        assert torch.equal(got, expected), what
    assert not reasons()


def test_out_is_an_operand() -> None:
    """Native overwrites the operand while it reads it; myops must not."""
    a, b = integers(4, 4), integers(4, 4)
    expected = a @ b
    with myops.use():
        assert torch.equal(torch.mm(a, target := b.clone(), out=target), expected)
        assert torch.equal(torch.mm(target := a.clone(), b, out=target), expected)
        assert torch.equal((target := a.clone()).addmm_(target, b, beta=0), expected)
    assert hits() == 3


def test_lazy_bits() -> None:
    """Conjugate and negative views, as operands and as the tensor that is written."""
    a, b = (torch.randn(s, dtype=torch.complex128) for s in ((4, 5), (5, 6)))
    x, y = (torch.randn(s, dtype=torch.complex128) for s in ((3, 4, 5), (3, 5, 6)))
    c, z = torch.randn(4, 6, dtype=torch.complex128), torch.randn(3, 4, 6, dtype=torch.complex128)
    re, im = a.real.contiguous(), b.real.contiguous()

    def written(target: Tensor, view: Callable[[Tensor], Tensor], call: Callable[[Tensor], Any]) -> Tensor:
        target = target.clone()
        call(view(target))
        return target

    def negative(t: Tensor) -> Tensor:
        view = t.conj().imag
        assert view.is_neg()
        return view

    calls: list[Callable[[], Tensor]] = [
        lambda: torch.mm(a.conj(), b),
        lambda: torch.mm(a, b.conj()),
        lambda: torch.mm(b.mH, a.mH),
        lambda: torch.bmm(x.conj(), y.conj()),
        lambda: torch.addmm(c.conj(), a, b.conj(), alpha=2),
        lambda: torch.mm(a.conj().imag, im),
        lambda: written(c, torch.conj, lambda out: torch.mm(a, b, out=out)),
        lambda: written(c, torch.conj, lambda out: torch.addmm(c, a.conj(), b, out=out)),
        lambda: written(c, torch.conj, lambda out: out.addmm_(a, b, beta=2)),
        lambda: written(z, torch.conj, lambda out: torch.bmm(x, y, out=out)),
        lambda: written(z, torch.conj, lambda out: out.baddbmm_(x, y, beta=2)),
        lambda: written(c, negative, lambda out: torch.mm(re, im, out=out)),
        lambda: written(c, negative, lambda out: out.addmm_(re, im)),
    ]
    for i, call in enumerate(calls):
        expected = call()
        with myops.use():
            got = call()
        torch.testing.assert_close(got, expected, msg=lambda m, i=i: f"call {i}: {m}")
    assert hits() == len(calls)


def test_lazy_bits_of_what_myops_writes() -> None:
    """The operators themselves, which the switch calls: out= and in-place forms on conjugate and negative views."""
    a, b, c = (torch.randn(s, dtype=torch.complex128) for s in ((4, 5), (5, 6), (4, 6)))
    got, expected = c.clone(), c.clone()
    myops.add_(got.conj(), c.conj(), alpha=2)
    torch.testing.assert_close(got, expected.conj().add_(c.conj(), alpha=2).conj())
    myops.add(c, c.conj(), out=got.conj())
    torch.testing.assert_close(got, (c + c.conj()).conj())
    myops.addmm_(got.conj(), a, b, beta=0)
    torch.testing.assert_close(got, (a @ b).conj())
    myops.add_(got.conj().imag, torch.ones(4, 6, dtype=torch.float64))
    torch.testing.assert_close(got.imag, (a @ b).conj().imag - 1)
    myops.addmm(c, a, b, beta=2j, out=got.conj())
    torch.testing.assert_close(got, (2j * c + a @ b).conj())


# Calls that are left to native: the reason and the call.
def declined_calls() -> list[tuple[str, Callable[[], Any]]]:
    def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return integers(*shape, dtype=dtype)

    a, b, c = t(2, 3), t(3, 4), t(2, 4)
    x, y, z = t(2, 2, 3), t(2, 3, 4), t(2, 2, 4)
    f64, i64, i8 = torch.float64, torch.int64, torch.int8

    def out(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    return [
        # Errors of shape.
        ("shapes", lambda: torch.mm(a, t(4, 2))),
        ("shapes", lambda: torch.mm(t(3), b)),
        ("shapes", lambda: torch.mm(a, t(1, 3, 4))),
        ("shapes", lambda: torch.bmm(a, t(2, 3, 4))),
        ("shapes", lambda: torch.bmm(x, t(3, 3, 4))),
        ("shapes", lambda: torch.bmm(x, t(2, 5, 4))),
        ("shapes", lambda: torch.addmm(c, a, t(4, 2))),
        ("shapes", lambda: torch.addmm(t(3), a, b)),
        ("shapes", lambda: torch.addmm(t(1, 2, 4), a, b)),
        ("shapes", lambda: torch.addmm(c, t(3), b)),
        ("shapes", lambda: torch.baddbmm(z, x, t(2, 4, 4))),
        ("shapes", lambda: torch.baddbmm(t(3), x, y)),
        ("shapes", lambda: torch.mm(a, t(4, 2), out=out(2, 2))),
        # In-place results that would have to grow.
        ("shape of out", lambda: t(4).addmm_(a, b)),
        ("shape of out", lambda: t(2, 1).addmm_(a, b)),
        ("shape of out", lambda: t(4).baddbmm_(x, y)),
        # Dtypes.
        ("mixed dtypes", lambda: torch.mm(a, b.to(f64))),
        ("mixed dtypes", lambda: torch.mm(a, b.to(i64))),
        ("mixed dtypes", lambda: torch.bmm(x, y.to(f64))),
        ("mixed dtypes", lambda: torch.addmm(c.to(f64), a, b)),
        ("mixed dtypes", lambda: torch.addmm(c, a, b.to(f64))),
        ("mixed dtypes", lambda: torch.baddbmm(z.to(f64), x, y)),
        ("dtype torch.bool", lambda: torch.mm(a.bool(), b.bool())),
        ("dtype torch.bool", lambda: torch.bmm(x.bool(), y.bool())),
        ("dtype torch.bool", lambda: torch.addmm(c.bool(), a.bool(), b.bool())),
        ("dtype torch.float8_e4m3fn", lambda: torch.mm(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn))),
        ("dtype or device of out", lambda: torch.mm(a, b, out=out(2, 4, dtype=f64))),
        ("dtype or device of out", lambda: torch.addmm(c, a, b, out=out(2, 4, dtype=i64))),
        ("dtype or device of out", lambda: torch.bmm(x, y, out=out(2, 2, 4, dtype=f64))),
        # Scalars.
        ("scalar", lambda: torch.addmm(c, a, b, alpha=2j)),
        ("scalar", lambda: torch.addmm(c, a, b, alpha=1e300)),
        ("scalar", lambda: torch.addmm(c.half(), a.half(), b.half(), beta=1e39)),
        ("scalar", lambda: torch.addmm(c.to(i64), a.to(i64), b.to(i64), beta=0.5)),
        ("scalar", lambda: torch.addmm(c.to(i64), a.to(i64), b.to(i64), alpha=float("nan"))),
        ("scalar", lambda: torch.addmm(c.to(i64), a.to(i64), b.to(i64), alpha=float("inf"))),
        ("scalar", lambda: torch.addmm(c.to(i64), a.to(i64), b.to(i64), alpha=2**60 + 1)),
        ("scalar", lambda: torch.addmm(c.to(i8), a.to(i8), b.to(i8), alpha=300)),
        ("scalar", lambda: torch.baddbmm(z, x, y, beta=1j)),
        ("scalar", lambda: torch.baddbmm(z.to(i64), x.to(i64), y.to(i64), beta=1.5)),
        ("scalar", lambda: torch.addmm(c.cfloat(), a.cfloat(), b.cfloat(), alpha=1 + 1j)),
        ("scalar", lambda: c.cfloat().addmm_(a.cfloat(), b.cfloat(), beta=2j)),
        # Outputs that are resized, with a warning unless they were empty.
        ("shape of out", lambda: torch.mm(a, b, out=out(3, 3))),
        ("shape of out", lambda: torch.mm(a, b, out=out(0))),
        ("shape of out", lambda: torch.addmm(c, a, b, out=out(1, 4))),
        ("shape of out", lambda: torch.bmm(x, y, out=out(2, 4))),
        ("shape of out", lambda: torch.baddbmm(z, x, y, out=out(4))),
        ("out refers to one element twice", lambda: torch.mm(a, b, out=out(1, 4).expand(2, 4))),
        ("out refers to one element twice", lambda: torch.addmm(c, a, b, out=out(2, 1).expand(2, 4))),
    ]


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """Result or exception of a call, and what it warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = call()
        except Exception as error:
            return type(error), str(error), [(w.category, str(w.message)) for w in caught]
    return (result.shape, result.dtype, result.stride(), result), None, [(w.category, str(w.message)) for w in caught]


def test_declined_calls_are_native() -> None:
    for i, (reason, call) in enumerate(declined_calls()):
        (expected, words, warned), where = outcome(call), f"call {i} ({reason})"
        myops.reset_stats()
        with myops.use():
            got, got_words, got_warned = outcome(call)
        assert got_words == words, where
        assert got_warned == warned, where
        if isinstance(expected, tuple):
            *layout, value = expected
            *got_layout, got_value = got
            assert got_layout == layout, where
            torch.testing.assert_close(got_value, value, rtol=0, atol=0, equal_nan=True, msg=where)
        else:
            assert got is expected, where
        assert list(reasons().values()) == [1], where
        assert hits() == 0, where


def test_empty_results_are_taken() -> None:
    a, b = integers(0, 3), integers(3, 4)
    with myops.use():
        assert torch.mm(a, b).shape == (0, 4)
        assert torch.addmm(integers(4), a, b).shape == (0, 4)
        assert torch.bmm(integers(0, 2, 3), integers(0, 3, 4)).shape == (0, 2, 4)
        assert torch.mm(a, b, out=torch.zeros(0, 4)).shape == (0, 4)
    assert not reasons()


def test_out_that_requires_grad_is_refused_by_torch() -> None:
    a, b = torch.randn(2, 3, requires_grad=True), torch.randn(3, 4)
    expected = outcome(lambda: torch.mm(a, b, out=torch.empty(2, 4)))
    with myops.use():
        assert outcome(lambda: torch.mm(a, b, out=torch.empty(2, 4))) == expected
    assert expected[0] is RuntimeError


# The switch itself.


def test_restores_native_exactly() -> None:
    before = tables()
    with myops.use():
        during = tables()
        assert all(during[name] != before[name] for name in OVERLOADS)
    assert tables() == before
    a = torch.randn(3, 3)
    torch.mm(a, a)
    assert hits() == 0


def test_other_keys_are_untouched() -> None:
    keys = ("AutogradCPU", "AutocastCPU", "FuncTorchBatched", "SparseCPU", "SparseCsrCPU", "Meta", "Conjugate")
    dense = [name for name in override.OPS if not name.startswith("sparse.")]

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(keys)]

    before = {name: lines(dump) for name, dump in tables().items()}
    with myops.use(dense):
        assert {name: lines(dump) for name, dump in tables().items()} == before


def test_nesting() -> None:
    a, native = torch.randn(3, 3), tables()
    with myops.use():
        with myops.use(ops=("mm",)):
            torch.mm(a, a)
        torch.mm(a, a)
        torch.bmm(a[None], a[None])
    torch.mm(a, a)
    assert (hits("mm"), hits("bmm")) == (2, 1)
    assert tables() == native


def test_nesting_with_different_operators() -> None:
    a = torch.randn(3, 3)
    with myops.use(ops=("mm",)):
        with myops.use():
            torch.addmm(a, a, a)
            torch.mm(a, a)
        torch.addmm(a, a, a)
        torch.mm(a, a)
    assert (hits("addmm"), hits("mm")) == (1, 2)


def test_operators_given_twice_or_as_an_iterator() -> None:
    native = tables()
    with myops.use(ops=("mm", "mm")):
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    assert tables() == native
    with myops.use(ops=iter(["mm"])):
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    assert tables() == native
    assert hits("mm") == 2


def test_exception_in_the_block() -> None:
    native = tables()
    with pytest.raises(ZeroDivisionError), myops.use():
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))
        raise ZeroDivisionError
    assert hits("mm") == 1
    assert tables() == native


def test_generator_left_early_restores() -> None:
    native = tables()

    def work() -> Iterator[Tensor]:
        with myops.use():
            while True:
                yield torch.mm(torch.ones(2, 2), torch.ones(2, 2))

    generator = work()
    next(generator)
    generator.close()
    assert hits("mm") == 1
    assert tables() == native


@pytest.mark.parametrize("name", ["linear", "matmul", "Mm", "mm.out", ""])
def test_unknown_operator(name: str) -> None:
    native = tables()
    for switch in (myops.enable, myops.disable, lambda ops: myops.use(ops).__enter__()):
        with pytest.raises(ValueError, match="ops must be among mm, addmm, bmm, baddbmm"):
            switch(("mm", name))
    assert tables() == native


def test_enable_and_disable() -> None:
    native, a = tables(), torch.ones(2, 2)
    myops.enable()
    torch.mm(a, a)
    myops.enable(("mm",))
    myops.disable()
    torch.mm(a, a)  # one user of mm is left
    torch.addmm(a, a, a)
    myops.disable(("mm",))
    torch.mm(a, a)
    assert (hits("mm"), hits("addmm")) == (2, 0)
    myops.disable()  # of nothing: does nothing
    assert tables() == native


def test_use_as_a_decorator() -> None:
    @myops.use()
    def work() -> Tensor:
        return torch.mm(torch.ones(2, 2), torch.ones(2, 2))

    for _ in range(2):
        work()
    assert hits("mm") == 2


def test_only_the_named_operators() -> None:
    a = torch.randn(4, 4)
    with myops.use(ops=("mm",)):
        torch.mm(a, a)
        torch.addmm(a, a, a)
        torch.bmm(a[None], a[None])
        torch.baddbmm(a[None], a[None], a[None])
    assert {name: entry["myops"] for name, entry in myops.stats().items() if entry["myops"]} == {"mm": 1}


def test_many_times() -> None:
    """Libraries are made and destroyed; nothing may pile up."""
    native, a = tables(), torch.randn(3, 3)
    for _ in range(200):
        with myops.use():
            torch.mm(a, a)
    gc.collect()
    assert hits("mm") == 200
    assert tables() == native
    assert not override._installed


def test_stats() -> None:
    a = torch.ones(2, 2)
    with myops.use():
        torch.mm(a, a)
        torch.mm(a, a)
        torch.addmm(a.int(), a.int(), a.int(), alpha=0.5)
    assert myops.stats() == {
        "mm": {"myops": 2, "native": 0, "reasons": {}},
        "addmm": {
            "myops": 0,
            "native": 1,
            "reasons": {
                "For integral tensors, argument alpha must not be a floating point number, but got 0.5": 1,
            },
        },
        **{name: {"myops": 0, "native": 0, "reasons": {}} for name in override.OPS if name not in ("mm", "addmm")},
    }
    copied = myops.stats()
    copied["mm"]["reasons"]["mine"] = 1
    assert "mine" not in myops.stats()["mm"]["reasons"]
    myops.reset_stats()
    assert all(entry == {"myops": 0, "native": 0, "reasons": {}} for entry in myops.stats().values())


def test_reasons_are_bounded() -> None:
    """Messages name shapes: a run over any number of shapes must not keep any number of messages."""
    with myops.use(ops=("mm",)):
        for n in range(2 * override.MAX_REASONS):
            with pytest.raises(RuntimeError):
                torch.mm(torch.ones(1, n + 2), torch.ones(1, 1))
    entry = myops.stats()["mm"]
    assert entry["native"] == 2 * override.MAX_REASONS
    assert entry["reasons"]["other reasons"] == override.MAX_REASONS
    assert len(entry["reasons"]) == override.MAX_REASONS + 1


def test_explain() -> None:
    a = torch.ones(2, 2)
    assert myops.explain().startswith("switch: off\nCPU: loaded\n")
    with myops.use(("mm", "addmm")), myops.use(("mm",), strict=True):
        torch.mm(a, a)
        torch.addmm(a.int(), a.int(), a.int(), alpha=0.5)
        lines = myops.explain().splitlines()
    assert lines[0] == "switch: on for mm (strict), addmm"
    at = lines.index("addmm: 0 calls on myops, 1 native")
    assert lines[at - 1] == "mm: 1 calls on myops, 0 native"
    assert lines[at + 1] == "  1 native: " + next(iter(reasons()))


# Strict.


def test_strict_raises_where_native_would_run() -> None:
    a = torch.ones(2, 2)
    with myops.use(("addmm",), strict=True):
        torch.addmm(a, a, a)
        with pytest.raises(RuntimeError, match=r"aten::addmm, and the switch is strict: .*beta must not be a floating"):
            torch.addmm(a.int(), a.int(), a.int(), beta=0.5)
        with pytest.raises(RuntimeError, match=r"aten::addmm.out, and the switch is strict: Expected out"):
            torch.addmm(a, a, a, out=torch.empty(3))
        torch.mm(a.int(), a.int(), out=torch.empty(0, dtype=torch.int32))  # not among the operators of this switch
    torch.addmm(a.int(), a.int(), a.int(), beta=0.5)
    assert myops.stats()["addmm"]["native"] == 2


def test_strict_as_long_as_one_user_is() -> None:
    a = torch.ones(2, 2).int()

    def raises() -> bool:
        try:
            torch.addmm(a, a, a, beta=0.5)
        except RuntimeError as error:
            assert "strict" in str(error)
            return True
        return False

    with myops.use():
        assert not raises()
        with myops.use(strict=True):
            assert raises()
            with myops.use():
                assert raises()
            assert raises()
            generator = myops.use()
            generator.__enter__()
        assert not raises()  # the strict user left before one that came later
        generator.__exit__(None, None, None)
        assert not raises()
    myops.enable(strict=True)
    assert raises()
    myops.disable()
    assert not raises()


# _addmm_activation, which has no public function.


def test_addmm_activation(dtype: torch.dtype) -> None:
    def integer(*shape: int) -> Tensor:
        return integers(*shape, dtype=dtype)

    op, c, a, b = torch.ops.aten._addmm_activation, integer(6), integer(4, 5), integer(5, 6)
    calls: list[Callable[[], Any]] = [
        lambda: op(c, a, b),
        lambda: op(c, a, b, beta=2, alpha=-1),
        lambda: op(c, a, b, use_gelu=True),
        lambda: op.out(c, a, b, beta=0, out=torch.zeros(4, 6, dtype=dtype)),
        lambda: op.out(c, a, b, use_gelu=True, out=torch.zeros(6, 4, dtype=dtype).mT),
    ]
    for i, call in enumerate(calls):
        expected = outcome(call)
        myops.reset_stats()
        with myops.use():
            got = outcome(call)
        if isinstance(expected[0], tuple):
            gelu = i in (2, 4)  # whose last bits are ours
            torch.testing.assert_close(got[0][-1], expected[0][-1], **({} if gelu else {"rtol": 0, "atol": 0}))
            assert got[0][:-1] == expected[0][:-1], i
            assert hits("addmm") == 1, i
        else:  # complex numbers have no relu, integers no gelu
            assert got == expected, i
            assert hits("addmm") == 0, i


# The environment.


def in_process(code: str, **environment: str) -> str:
    """What Python code prints in a process of its own, to both streams."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(Path(myops.__file__).parents[1]), **environment},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


COUNT = "a = torch.ones(2, 2); torch.mm(a, a); print(myops.stats()['mm']['myops'], myops.explain().splitlines()[0])"


@pytest.mark.parametrize(
    ("environment", "code", "printed"),
    [
        ({}, "", "0 switch: off"),
        ({"MYOPS_ENABLE": "1"}, "", "1 switch: on for mm, addmm, bmm, baddbmm"),
        ({"MYOPS_ENABLE": "0"}, "", "0 switch: off"),
        ({"MYOPS_ENABLE": "1", "MYOPS_DISABLE": "1"}, "", "0 switch: off, MYOPS_DISABLE=1"),
        ({"MYOPS_DISABLE": "1"}, "myops.enable(); myops.use().__enter__()", "0 switch: off, MYOPS_DISABLE=1"),
        ({"MYOPS_DISABLE": "0"}, "myops.enable(strict=True)", "1 switch: on for mm (strict), addmm (strict), "),
    ],
)
def test_environment(environment: dict[str, str], code: str, printed: str) -> None:
    assert in_process(f"import torch, myops\n{code}\n{COUNT}", **environment).startswith(printed)


def test_environment_that_is_neither_yes_nor_no() -> None:
    code = "try:\n import myops\nexcept ValueError as error: print(error)"
    assert in_process(code, MYOPS_ENABLE="on").strip() == "MYOPS_ENABLE must be 0 or 1, but is 'on'"


def test_an_instruction_set_that_is_not_here() -> None:
    """The switch would leave every call to native, each for this reason."""
    code = "import myops\ntry:\n    myops.enable()\nexcept RuntimeError as error:\n    print(error)"
    assert in_process(code, MYOPS_ISA="none").startswith("MYOPS_ISA=none is not available here")


def test_enabled_without_an_import(tmp_path: Path) -> None:
    """Installed, myops is asked by `import torch` itself; not asked for, it is not even imported."""
    declare_entry_points(tmp_path, "torch.backends")
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(Path(myops.__file__).parents[1])])
    code = f"import sys, torch\nassert 'myops' in sys.modules\nimport myops\n{COUNT}"
    assert in_process(code, PYTHONPATH=path, MYOPS_ENABLE="1").startswith("1 switch: on")
    assert in_process("import sys, torch\nprint('myops' in sys.modules)", PYTHONPATH=path).strip() == "False"


# Other libraries that override the same kernels.


def other_library(overload: str, marker: list[str]) -> torch.library.Library:
    """A library that overrides a kernel, notes that it was called, and goes on to what was there."""
    below = torch.library.get_kernel(f"aten::{overload}", "CPU")
    library = torch.library.Library("aten", "IMPL", "CPU")

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        marker.append(overload)
        return below.call_boxed(keyset, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl(overload, kernel, "CPU", with_keyset=True, allow_override=True)
    return library


def test_the_native_kernel_is_whatever_was_there() -> None:
    a, seen = torch.ones(2, 2).bool(), []
    before = tables()
    library = other_library("mm", seen)
    theirs = outcome(lambda: torch.mm(a, a))
    with myops.use(("mm",)):
        assert outcome(lambda: torch.mm(a, a)) == theirs
        assert len(seen) == 2
        torch.mm(a.float(), a.float())
        assert len(seen) == 2
    torch.mm(a.float(), a.float())
    assert len(seen) == 3
    library._destroy()
    assert tables() == before


def test_a_captured_kernel_may_go_away() -> None:
    """The library below is unloaded while the switch is on: what it had overridden is native then."""
    a, seen = torch.ones(2, 2).bool(), []
    before, expected = tables(), outcome(lambda: torch.mm(a, a))
    library = other_library("mm", seen)
    with myops.use(("mm",)):
        library._destroy()
        for _ in range(2):
            assert outcome(lambda: torch.mm(a, a)) == expected
        torch.mm(a.float(), a.float())
    assert not seen
    assert hits("mm") == 1
    assert reasons() == {"myops.mm is not implemented for input of dtype bool": 2}
    assert tables() == before


def test_myops_itself_is_not_counted_and_does_not_recurse() -> None:
    a = torch.randn(3, 3)
    with myops.use():
        torch.testing.assert_close(myops.mm(a, a), a @ a)
    assert hits() == 1


# What is above the backend keys.


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def test_gradients() -> None:
    cases: list[tuple[Any, tuple[Tensor, ...]]] = [
        (torch.mm, (leaf(3, 4), leaf(4, 2))),
        (lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=-1), (leaf(2), leaf(3, 4), leaf(4, 2))),
        (torch.bmm, (leaf(2, 3, 4), leaf(2, 4, 2))),
        (lambda c, a, b: torch.baddbmm(c, a, b, beta=2), (leaf(3, 2), leaf(2, 3, 4), leaf(2, 4, 2))),
        (torch.mm, (leaf(3, 4, dtype=torch.complex128), leaf(4, 2, dtype=torch.complex128))),
        (lambda c, a, b: c.clone().addmm_(a, b), (leaf(3, 2), leaf(3, 4), leaf(4, 2))),
    ]
    with myops.use():
        for function, args in cases:
            assert gradcheck(function, args, check_forward_ad=True, check_batched_grad=True)
            assert gradgradcheck(function, args)
    assert hits("mm") > 100
    assert hits("bmm") > 10


def test_grad_fn_is_torchs_own() -> None:
    with myops.use():
        assert type(torch.mm(leaf(2, 2), leaf(2, 2)).grad_fn).__name__ == "MmBackward0"
        assert type(nn.Linear(2, 2)(torch.ones(2, 2)).grad_fn).__name__ == "AddmmBackward0"


def test_double_backward() -> None:
    w = leaf(4, 3)

    def penalty() -> Tensor:
        x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
        (gx,) = torch.autograd.grad((x @ w).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(gx.square().sum(), w)[0]

    expected = penalty()
    with myops.use():
        torch.testing.assert_close(penalty(), expected)
    assert hits("mm") >= 4


def test_forward_ad() -> None:
    a, b, ta, tb = (torch.randn(s, dtype=torch.float64) for s in ((3, 4), (4, 2), (3, 4), (4, 2)))
    with myops.use(), forward_ad.dual_level():
        result = torch.mm(forward_ad.make_dual(a, ta), forward_ad.make_dual(b, tb))
        value, tangent = forward_ad.unpack_dual(result)
    torch.testing.assert_close(value, a @ b)
    torch.testing.assert_close(tangent, ta @ b + a @ tb)
    assert hits("mm") == 3


def test_functorch() -> None:
    x, w = torch.randn(5, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)

    def f(v: Tensor) -> Tensor:
        return (v[None] @ w).sin().sum()

    def everything() -> tuple[Tensor, ...]:
        return (
            torch.vmap(torch.func.grad(f))(x),
            torch.vmap(torch.mm, in_dims=(0, None))(x.reshape(5, 1, 3), w),
            torch.func.jacrev(f)(x[0]),
            torch.func.jacfwd(f)(x[0]),
            torch.func.hessian(f)(x[0]),
        )

    expected = everything()
    with myops.use():
        got = everything()
    torch.testing.assert_close(got, expected)
    assert hits() > 5


def test_autocast() -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(5, 8)

    def run() -> tuple[Tensor, Tensor | None]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        return y, model[0].weight.grad

    expected, expected_grad = run()
    with myops.use():
        got, got_grad = run()
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got_grad, expected_grad, rtol=2e-2, atol=2e-2)
    assert hits("addmm") == 2
    assert hits("mm") >= 3
    assert not reasons()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_grad(mode: Any) -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    expected = model(x)
    with myops.use(), mode():
        got = model(x)
        mode_tensor = torch.ones(2, 2)
        torch.mm(mode_tensor, mode_tensor, out=torch.empty(2, 2))
        torch.empty(2, 2).addmm_(mode_tensor, mode_tensor, beta=0)
    assert not got.requires_grad
    torch.testing.assert_close(got, expected.detach())
    assert hits() == 3


def test_writes_are_seen_by_autograd() -> None:
    """A tensor that was saved for backward and then overwritten is an error, not a wrong gradient."""
    x, w = leaf(2, 2), torch.eye(2, dtype=torch.float64)
    with myops.use():
        for write in (lambda t: t.addmm_(w, w), lambda t: torch.mm(w, w, out=t)):
            saved = w.clone()
            y = x * saved
            version = saved._version
            write(saved)
            assert saved._version == version + 1
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()


def test_threads() -> None:
    """Forward and backward from threads, while the switch is turned on and off by others; every call is counted."""
    a = torch.randn(24, 24, dtype=torch.float64)
    expected, failures, steps = a @ a, [], []
    stop = threading.Event()

    def compute() -> None:
        try:
            while not stop.is_set():
                x = a.clone().requires_grad_()
                y = x @ a
                y.sum().backward()
                steps.append(2)
                torch.testing.assert_close(y.detach(), expected)
                torch.testing.assert_close(x.grad, a.sum(1).expand_as(a))
        except Exception as error:
            failures.append(error)

    def scoped() -> None:
        try:
            for _ in range(30):
                with myops.use(ops=("mm",)):
                    torch.testing.assert_close(a @ a, expected)
                    steps.append(1)
        except Exception as error:
            failures.append(error)

    with myops.use():  # held for the whole test: the inner blocks of other threads must not end it
        workers = [threading.Thread(target=compute) for _ in range(2)] + [
            threading.Thread(target=scoped) for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers[2:]:
            worker.join(timeout=600)
        stop.set()
        for worker in workers:
            worker.join(timeout=600)
        assert not any(worker.is_alive() for worker in workers)
    assert not failures
    assert hits("mm") == sum(steps) > 60


def test_threads_while_the_kernels_come_and_go() -> None:
    """No one holds the switch: reroutes are made and destroyed under the calls of other threads."""
    a = torch.randn(24, 24, dtype=torch.float64)
    native, expected, failures = tables(), a @ a, []
    stop = threading.Event()

    def compute() -> None:
        try:
            while not stop.is_set():
                torch.testing.assert_close(torch.mm(a, a), expected)
                with pytest.raises(RuntimeError, match="cannot be multiplied"):
                    torch.mm(a, a[:3])
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=compute) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(100):
        with myops.use(ops=("mm",)):
            torch.mm(a, a)
    stop.set()
    for worker in workers:
        worker.join(timeout=600)
    assert not failures
    assert hits("mm") >= 100
    assert tables() == native


class Encoder(nn.Module):
    """The classes of calls that models make: attention, linear layers with and without bias, einsum, explicit out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bsd,bse->bde", self.head(self.layer(x)), x)


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().mean().backward()
    grads = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    return [y.detach(), x.grad, *grads]  # type: ignore[list-item]


def test_transformer_layer_is_as_accurate_as_native() -> None:
    model, x = Encoder(), torch.randn(3, 10, 32)
    exact = results(copy.deepcopy(model).double(), x.double())
    native = results(model, x)
    with myops.use():
        ours = results(model, x)
    counts = myops.stats()
    assert all(counts[name]["myops"] for name in ("mm", "addmm", "bmm"))
    assert not reasons()
    for got, theirs, reference in zip(ours, native, exact, strict=True):
        floor = torch.finfo(torch.float32).eps * reference.abs().max()
        assert (got - reference).abs().max() <= 2 * (theirs - reference).abs().max() + floor


def test_transformer_inference_fast_path() -> None:
    """In eval mode the layer calls C++ that is not made of Python calls."""
    model, x = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), torch.randn(3, 10, 32)
    with torch.no_grad():
        expected = model(x)
        with myops.use():
            got = model(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert hits() > 0


def test_training_follows_native() -> None:
    def train() -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        optimiser, x = torch.optim.SGD(model.parameters(), 0.1), torch.randn(32, 6, dtype=torch.float64)
        losses = []
        for _ in range(5):
            optimiser.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    expected = train()
    with myops.use():
        got = train()
    assert got == pytest.approx(expected, rel=1e-12)
    assert got[-1] < got[0]
    assert hits() == 5 * 5  # two addmm forward; backward one mm for each weight and one for the hidden layer


def test_checkpoint() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    x = torch.randn(2, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    with myops.use():
        y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        assert hits("addmm") == 2
        (got,) = torch.autograd.grad(y.sum(), x)
    assert hits("addmm") == 4  # the forward runs twice
    torch.testing.assert_close(got, expected)


def test_tensor_subclass_and_parameter() -> None:
    class Mine(Tensor):
        pass

    a = torch.randn(3, 3)
    with myops.use():
        got = a.as_subclass(Mine) @ nn.Parameter(a)
    assert type(got) is Mine
    torch.testing.assert_close(got.as_subclass(Tensor).detach(), a @ a)
    assert hits("mm") == 1


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a GPU")
def test_cuda_graph() -> None:
    """A graph that was captured under the switch replays what myops launched, on new inputs."""
    model, x = nn.Linear(32, 16).cuda(), torch.randn(8, 32, device="cuda")
    with torch.no_grad():
        with myops.use(strict=True):
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                model(x)  # libraries initialise outside the capture
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = model(x)
        assert hits("addmm") == 2
        x.copy_(torch.randn(8, 32))
        graph.replay()
        torch.testing.assert_close(y, model(x), rtol=1e-5, atol=1e-5)


class Products(torch.utils.data.Dataset):
    """What a data loader's workers compute: a product, and whether myops took it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        before = hits("mm")
        return torch.mm(torch.full((40, 40), float(index)), torch.ones(40, 40)), hits("mm") - before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method: str) -> None:
    """A forked worker inherits the switch; a spawned one is a new program, and has its own."""
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    with myops.use(strict=True):
        torch.mm(torch.ones(40, 40), torch.ones(40, 40))
        loader = torch.utils.data.DataLoader(
            Products(), batch_size=None, num_workers=2, multiprocessing_context=method, timeout=120
        )
        found = list(loader)
    for index, (product, taken) in enumerate(found):
        assert torch.equal(product, torch.full((40, 40), 40.0 * index))
        assert taken == (method == "fork")


def test_a_fork_while_a_thread_counts() -> None:
    """The child does not wait for a lock that a thread of its parent holds."""
    if "fork" not in torch.multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    held = threading.Event()

    def hold() -> None:
        with override._lock:
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = torch.multiprocessing.get_context("fork").Process(target=myops.stats)
    child.start()
    child.join(20)
    child.kill()
    thread.join()
    assert child.exitcode == 0


def test_fake_and_meta_tensors_do_not_come_here() -> None:
    from torch._subclasses import FakeTensorMode

    with myops.use():
        assert torch.mm(torch.ones(2, 3, device="meta"), torch.ones(3, 4, device="meta")).shape == (2, 4)
        with FakeTensorMode():
            assert torch.mm(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    assert hits() == 0


def test_profiler_shows_the_aten_call_and_ours_under_it() -> None:
    a = torch.randn(8, 8)
    with myops.use(), torch.profiler.profile() as profiler:
        torch.mm(a, a)
    names = {event.name for event in profiler.events()}
    assert {"aten::mm", "myops::mm"} <= names
    with torch.profiler.profile() as profiler:
        torch.mm(a, a)
    assert "myops::mm" not in {event.name for event in profiler.events()}


SILENT = """
import torch, myops
a = torch.randn(8, 8, requires_grad=True)
for _ in range(3):
    with myops.use():
        (a @ a).sum().backward()
        torch.addmm(a, a, a).sum().backward()
        torch.bmm(a[None], a[None]).sum().backward()
        torch.vmap(torch.mm)(a[None], a[None])
        torch.nn.functional.linear(a, a, a[0])
assert myops.stats()["mm"]["myops"] > 0
"""


def test_prints_nothing() -> None:
    for flags in (["-W", "error::UserWarning"], []):
        done = subprocess.run(
            [sys.executable, *flags, "-c", SILENT], cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_switching_keeps_no_more_than_the_last_kernels() -> None:
    """What was taken back is held for threads that still run it, and nothing but its kernel."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(o, override._Installed) for o in gc.get_objects())

    override._retired.clear()
    before = alive()
    for _ in range(20):
        with myops.use():
            pass
    held = len(override._retired)
    override._retired.clear()
    assert held > 20
    assert alive() <= before + held // 20  # those of the last time are torch's to free


def test_errors_of_native_have_no_other_context() -> None:
    with myops.use(), pytest.raises(RuntimeError) as raised:
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    assert raised.value.__context__ is None


VECTOR_CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mv": lambda a, v, c: torch.mv(a, v),
    "transposed": lambda a, v, c: a.mT.contiguous().mT @ v,
    "out": lambda a, v, c: torch.mv(a, v, out=torch.empty_like(c)),
    "resized": lambda a, v, c: torch.mv(a, v, out=c.new_empty(0)),
    "scalars": lambda a, v, c: torch.addmv(c, a, v, beta=2, alpha=3),
    "one element": lambda a, v, c: torch.addmv(c[:1], a, v) if a.shape[1] else c,
    "in place": lambda a, v, c: c.clone().addmv_(a, v, alpha=2),
    "addmv out": lambda a, v, c: torch.addmv(c, a, v, beta=2, out=torch.empty_like(c)),
    "no addend": lambda a, v, c: torch.addmv(c * math.nan if c.is_floating_point() else c, a, v, beta=0),
    "shapes": lambda a, v, c: torch.mv(a, a[0] if len(a) else a),
    "ranks": lambda a, v, c: torch.addmv(c, a, v.view(-1, 1)),
    "rank of the addend": lambda a, v, c: torch.addmv(c.view(-1, 1), a, v),
    "dtypes": lambda a, v, c: torch.mv(a, v.to(torch.int16)),
}


@pytest.mark.parametrize("name", VECTOR_CALLS)
def test_matrix_times_vector(name: str, dtype: torch.dtype) -> None:
    """What torch.mv and addmv give, the words of their errors included."""
    call = VECTOR_CALLS[name]

    def outcome(*args: Tensor) -> Any:
        try:
            return call(*args)
        except Exception as error:
            return type(error), str(error)

    for m, k in ((5, 7), (64, 33), (0, 3), (3, 0)):
        args = tensor((m, k), "cpu", dtype), tensor((k,), "cpu", dtype), tensor((m,), "cpu", dtype)
        native = outcome(*args)
        with myops.use(["addmv"]):
            ours = outcome(*args)
        if isinstance(native, tuple):
            assert ours == native
            continue
        bound = 4 * torch.finfo(dtype).eps * 33 if dtype.is_floating_point or dtype.is_complex else 0
        torch.testing.assert_close(ours, native, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype_", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", VECTOR_CALLS)
def test_matrix_times_vector_under_autocast(name: str, dtype_: torch.dtype) -> None:
    """Which torch casts in matmul and linear, but not in mv and addmv."""
    args = torch.randn(5, 7), torch.randn(7), torch.randn(5)

    def outcome() -> Any:
        try:
            return VECTOR_CALLS[name](*args)
        except Exception as error:
            return type(error), str(error)

    with torch.autocast("cpu", dtype_):
        native = outcome()
        with myops.use(["addmv"]):
            ours = outcome()
    if isinstance(native, tuple):
        assert ours == native
    else:
        torch.testing.assert_close(ours, native)


def test_which_vector_products_are_taken() -> None:
    a, v = torch.randn(4, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    expected = torch.autograd.grad((a @ v).square().sum(), (a, v))
    with myops.use(["addmv"], strict=True):
        myops.reset_stats()
        found = torch.autograd.grad((a @ v).square().sum(), (a, v))
        assert myops.stats()["addmv"]["myops"] == 2  # and the one of its backward
        with pytest.raises(RuntimeError, match="got 3-D and 1-D tensors"):
            torch.mv(torch.ones(2, 2, 2), torch.ones(2))
    with myops.use(["addmv"]):
        with pytest.raises(RuntimeError, match=r"vector \+ matrix @ vector expected"):
            torch.mv(torch.ones(2, 2, 2), torch.ones(2))
        assert myops.stats()["addmv"]["native"] == 2  # the refused one, and this: not the addmv_ that it is made of too
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_failed_switch_leaves_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from myops import override

    made, init = [], override._Installed.__init__

    def fails(self, reroute, key):
        if made:
            raise KeyboardInterrupt
        made.append(self)
        init(self, reroute, key)

    monkeypatch.setattr(override._Installed, "__init__", fails)
    with pytest.raises(KeyboardInterrupt):
        myops.enable("addmm")
    monkeypatch.undo()
    before = myops.stats()["addmm"]["myops"]
    a = torch.ones(2, 2)
    torch.addmm(a, a, a)
    assert myops.stats()["addmm"]["myops"] == before


def test_explain_tells_the_kill_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYOPS_DISABLE", "1")
    assert "switch: off, MYOPS_DISABLE=1" in myops.explain()
