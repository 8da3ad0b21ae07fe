"""Random calls under the switch against native: shapes, strides, layouts, dtypes, scalars, views, out=, mistakes.

Ten thousand dense ones and a thousand of sparse matrices, or as many as a minute each has room for. A failure prints
the number of the call; `MYOPS_FUZZ_SEED` and `MYOPS_FUZZ_CALLS` choose others.
"""

from __future__ import annotations

import math
import operator
import os
import random
import time
import warnings
from typing import Any

import pytest
import torch
from sparse_data import LAYOUTS, exact_mm, in_layout
from torch import Tensor

import myops

SEED = int(os.environ.get("MYOPS_FUZZ_SEED", "20"))
CALLS = int(os.environ.get("MYOPS_FUZZ_CALLS", "10000"))
SPARSE_CALLS = CALLS // 10
BUDGET_S = 60  # a slow machine makes fewer calls, not a failure
DTYPES = [
    torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128,
    torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
]  # fmt: skip
SIZES = [0, 1, 1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 70]


class Caller:
    """Makes calls from one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def values(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Small whole numbers: every sum is exact in every dtype that has the range, so results compare bit for bit."""
        high = 2 if dtype == torch.bool else 3
        low = 0 if dtype in (torch.uint8, torch.bool) else -2
        made = torch.randint(low, high, shape, generator=self.generator)
        if dtype.is_complex:
            return torch.complex(made.double(), made.roll(1).double()).to(dtype)
        return made.to(dtype)

    def view(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape in one of the layouts that callers bring."""
        *batch, rows, columns = shape if len(shape) > 1 else (1, *shape) if shape else (1, 1)
        kind = self.random.choice(
            ["plain", "plain", "transposed", "stepped", "sliced", "offset", "expanded", "conjugated", "moved", "flat"]
        )
        if len(shape) < 2 or kind == "plain":
            return self.values(shape, dtype)
        if kind == "transposed":
            return self.values((*batch, columns, rows), dtype).mT
        if kind == "stepped":
            return self.values((*batch, rows * 2, columns * 3), dtype)[..., ::2, ::3]
        if kind == "sliced":
            return self.values((*batch, rows + 2, columns + 3), dtype)[..., 1 : rows + 1, 2 : columns + 2]
        if kind == "offset":
            flat = self.values((math.prod(shape) + 3,), dtype)[3:]
            return flat.view(shape)
        if kind == "expanded":
            return self.values((*(1 for _ in batch), 1, columns), dtype).expand(shape)
        if kind == "conjugated":
            made = self.values(shape, dtype)
            return made.conj() if dtype.is_complex else made
        if kind == "moved" and batch:
            return self.values((rows, columns, *batch), dtype).movedim(-1, 0)
        if kind == "flat" and not batch and rows + columns > 0:
            return (
                self.values((rows + columns,), dtype).as_strided(shape, (1, 1))
                if rows and columns
                else self.values(shape, dtype)
            )
        return self.values(shape, dtype)

    def call(self) -> tuple[str, tuple[Tensor, ...], dict[str, Any]]:
        pick = self.random
        name = pick.choice(["mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "addmm_", "baddbmm_"])
        dtype = pick.choice(DTYPES)
        m, k, n, b = (pick.choice(SIZES) for _ in range(4))
        batched = "bmm" in name or (name == "matmul" and pick.random() < 0.5)
        left, right = ((b % 4, m, k), (b % 4, k, n)) if batched else ((m, k), (k, n))
        if name == "linear":
            right = (n, k)
        if pick.random() < 0.05:  # a mistake: of shape, of rank or of dtype
            right = pick.choice([(*right[:-2], right[-2] + 1, right[-1]), right[1:], (2, *right)])
        other = pick.choice(DTYPES) if pick.random() < 0.03 else dtype
        operands = [self.view(left, dtype), self.view(right, other)]
        result = (*left[:-1], n)
        kwargs: dict[str, Any] = {}
        if "add" in name:
            whole = name.endswith("_")
            shape = result if whole else pick.choice([result, result[1:], (1,), (n,), (*result[:-1], 1), ()])
            addend = self.values(shape, dtype) if whole else self.view(shape, dtype)
            operands.insert(0, addend)
            scalars = [0, 1, 2, -1, 3] + ([0.5] if dtype.is_floating_point else []) + ([1j] if dtype.is_complex else [])
            for scalar in ("alpha", "beta"):
                if pick.random() < 0.5:
                    kwargs[scalar] = pick.choice(scalars)
        elif name == "linear" and pick.random() < 0.5:
            operands.append(self.values((n,), dtype))
        if name in ("mm", "addmm", "bmm", "baddbmm", "matmul") and pick.random() < 0.25:
            fitting = pick.random() < 0.8
            kwargs["out"] = (
                self.view(result, dtype).contiguous()
                if fitting
                else torch.zeros(pick.choice([(0,), (2, 2)]), dtype=dtype)
            )
        return name, tuple(operands), kwargs

    def sparse_call(self) -> tuple[str, tuple[Tensor, ...], dict[str, Any]]:
        """A product of a sparse matrix; its sides are multiples of the blocks of `in_layout`, or 0."""
        pick = self.random
        name = pick.choice(["mm", "mm", "mm", "addmm", "sparse.mm", "sparse.addmm", "sparse.sampled_addmm", "reduce"])
        dtype = pick.choice(DTYPES[:-1])
        m, k, n = (pick.choice([0, 6, 6, 12, 18, 66]) for _ in range(3))
        right = (k + (6 if pick.random() < 0.05 else 0), n)  # at times a mistake
        index = pick.choice([torch.int32, torch.int64])
        # What is stored counts for these two, so nothing of zeros in blocks and of sums of duplicates.
        layouts = ["csr", "csr", "csc", "coo"] if name in ("sparse.sampled_addmm", "reduce") else LAYOUTS

        def sparse(rows: int, columns: int) -> Tensor:
            kept = torch.rand(rows, columns, generator=self.generator) < pick.choice([0.02, 0.2, 0.9])
            return in_layout(kept * self.values((rows, columns), dtype), pick.choice(layouts), index)

        kind = pick.random() if name in ("mm", "sparse.mm") else 0.0
        if name == "sparse.sampled_addmm":
            operands = (sparse(m, n), self.view((m, k), dtype), self.view(right, dtype))
        elif kind > 0.7:
            operands = (sparse(m, k), sparse(*right))
        elif kind > 0.5:
            operands = (self.view((m, k), dtype), sparse(*right))
        else:
            operands = (sparse(m, k), self.view(right, dtype))
        kwargs: dict[str, Any] = {}
        if "addmm" in name:
            kwargs = {scalar: pick.choice([1, 2, -1]) for scalar in ("alpha", "beta") if pick.random() < 0.5}
        if name in ("addmm", "sparse.addmm"):
            operands = (self.view((m, n), dtype), *operands)
        if name == "reduce":  # of the mean, exactness is not to be had
            name, kwargs["reduce"] = "sparse.mm", pick.choice(["sum", "amax", "amin"])
        return name, operands, kwargs


def exact(name: str, operands: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Tensor:
    """A sparse call on dense matrices; reductions are over the entries that are not zero."""
    dense = [t.to_dense() for t in operands]
    *addend, a, b = dense
    if kwargs.get("reduce", "sum") != "sum":
        worst = math.inf if kwargs["reduce"] == "amin" else -math.inf
        terms = (a[:, :, None].double() * b.double()).masked_fill((a == 0)[:, :, None], worst)
        best = getattr(torch, kwargs["reduce"])(
            torch.cat([terms, terms.new_full((a.shape[0], 1, b.shape[1]), worst)], 1), 1
        )
        return torch.where(best.isinf(), 0, best).to(a.dtype)
    made = exact_mm(a, b) * kwargs.get("alpha", 1)
    if name == "sparse.sampled_addmm":
        made = made * (dense[0] != 0)
    if addend:
        made = made + kwargs.get("beta", 1) * addend[0]
    return made.to(a.dtype)


def outcome(name: str, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
    """Result or exception; what is written to is a copy."""
    args, kwargs = tuple(args), dict(kwargs)
    if name.endswith("_"):
        args = (args[0].clone(), *args[1:])
        function: Any = getattr(Tensor, name)
    else:
        function = torch.nn.functional.linear if name == "linear" else operator.attrgetter(name)(torch)
    if "out" in kwargs:
        kwargs["out"] = kwargs["out"].clone()
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.filterwarnings("ignore")
def test_random_calls() -> None:
    caller, start, done, refused = Caller(SEED), time.monotonic(), 0, 0
    myops.reset_stats()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(CALLS):
            name, args, kwargs = caller.call()
            expected = outcome(name, args, kwargs)
            with myops.use():
                got = outcome(name, args, kwargs)
            where = (
                f"call {number} of seed {SEED}: {name} "
                + ", ".join(f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)} strides {a.stride()}" for a in args)
                + f" { ({key: value if key != 'out' else list(value.shape) for key, value in kwargs.items()}) }"
            )
            done += 1
            if isinstance(expected, tuple):
                assert got == expected, where
                refused += 1
            elif kwargs.get("alpha", 1) != 0:  # of which torch has no one rule
                assert (got.shape, got.dtype) == (expected.shape, expected.dtype), where
                half = expected.dtype in (torch.bfloat16, torch.float16)  # of which torch rounds twice, myops once
                bounds = {"rtol": 2 * torch.finfo(expected.dtype).eps, "atol": 0.05} if half else {"rtol": 0, "atol": 0}
                torch.testing.assert_close(got, expected, **bounds, msg=where)
            if time.monotonic() - start > BUDGET_S:
                break
    taken = sum(entry["myops"] for entry in myops.stats().values())
    assert taken > done // 2
    assert refused > done // 50


@pytest.mark.filterwarnings("ignore")
def test_random_calls_of_sparse_matrices() -> None:
    caller, start, refused = Caller(SEED), time.monotonic(), 0
    myops.reset_stats()
    for number in range(SPARSE_CALLS):
        name, args, kwargs = caller.sparse_call()
        native = outcome(name, args, kwargs)
        with myops.use():
            got = outcome(name, args, kwargs)
        where = f"call {number} of seed {SEED}: {name} {kwargs} " + ", ".join(
            f"{str(a.layout).removeprefix('torch.')} {str(a.dtype).removeprefix('torch.')}{list(a.shape)}" for a in args
        )
        if isinstance(got, tuple):
            assert isinstance(native, tuple), where
            assert got[0] is native[0], where
            listed = " is only available for these backends"  # of which the switch is one
            assert got[1].partition(listed)[0] == native[1].partition(listed)[0], where
            refused += 1
            continue
        if not isinstance(native, tuple):
            assert (got.layout, got.shape, got.dtype) == (native.layout, native.shape, native.dtype), where
        # Rounded once, like the exact sum; natively 16-bit sums round at every term, and CSC @ CSC is zero.
        torch.testing.assert_close(got.to_dense(), exact(name, args, kwargs), rtol=0, atol=0, msg=where)
        if time.monotonic() - start > BUDGET_S:
            break
    assert sum(entry["myops"] for entry in myops.stats().values()) > number // 3
    assert refused > number // 50
