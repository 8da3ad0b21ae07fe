"""The dense suite: mm, addmm, bmm, baddbmm, matmul, linear and add over the classes of shapes that matter.

Classes: squares, odd, skinny, decode (a few rows against a weight matrix; the sets rotate through 4 x L3, so that every
weight comes from memory), vector (a matrix times a vector), batched (tiny cubes by the thousand, attention), integers,
add, addmm, fused (linear with an activation, with and without gradients), packed (linear with a packed weight), and
fixed (the cost of a call). This file chooses what is measured; how is in `runner` and `timing`.

The other side is native torch, or with `--against myops` myops itself as it is without `--batch-invariant` and without
packed weights: what these two cost or give.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

import myops

from ..activation import keyword
from . import accuracy, machine, runner, suite
from .problem import (
    Problem,
    flop_count,
    make_inputs,
    native_call,
    output_bytes,
    rotate,
    stored_bytes,
    with_gradients,
)
from .timing import Side

HELP = "dense operators against native torch, interleaved"

FLOATS = ("float32", "float64", "bfloat16", "float16")
MODEL_DTYPES = ("float32", "bfloat16", "float16")
ROUTES = ("function", "op", "switch")
"""How the myops side is called: `myops.mm`, `torch.ops.myops.mm`, or `torch.mm` under `myops.use()`."""

QUICK_SECONDS = 48.0
ROTATE_BYTES = 4 << 20
"""Least bytes that the input sets of an ordinary case cover together."""
PACKED_ROTATE_BYTES = 256 << 20
"""Of a case with a packed weight: beyond what cores have to themselves."""


@dataclass(frozen=True)
class Case:
    """A problem in its class. quick: also in the short run; routes: overrides the route of the command line; packed:
    the myops side has the weight packed.
    """

    group: str
    problem: Problem
    quick: bool = False
    routes: tuple[str, ...] = ()
    packed: bool = False


@dataclass(frozen=True)
class Options:
    """Who is compared: myops in which mode, against what, and which peers take part."""

    against: str = "native"
    batch_invariant: bool = False
    peers: bool = False


def _mm(dtype: str, m: int, n: int, k: int, layout: str = "NN") -> Problem:
    return Problem("mm", dtype, m, n, k, layout=layout)


def _bmm(dtype: str, batch: int, m: int, n: int, k: int, layout: str = "NN") -> Problem:
    return Problem("bmm", dtype, m, n, k, batch=batch, layout=layout)


def squares() -> Iterable[Case]:
    """Cubes of 256 to 4096; all four layouts from 512 to 2048; complex up to 2048.

    float16 from 2048 on runs transposed only: natively the row-major product would take 20 s a call and more.
    """
    four = ("NN", "NT", "TN", "TT")
    for dtype in FLOATS:
        for n in (256, 512, 1024, 2048, 4096):
            layouts = four if n in (512, 1024, 2048) else ("NN",)
            for layout in ("NT",) if dtype == "float16" and n >= 2048 else layouts:
                quick = n == (256 if dtype == "float16" else 512) and layout == "NN"
                yield Case("squares", _mm(dtype, n, n, n, layout), quick)
    for dtype, sizes in (("complex64", (256, 512, 1024, 2048)), ("complex128", (256, 512, 1024))):
        for n in sizes:
            for layout in four if n == 512 else ("NN",):
                yield Case("squares", _mm(dtype, n, n, n, layout), n == 256)


def odd() -> Iterable[Case]:
    """Sizes that fit no tile: primes, powers of two plus or minus one, N or K of 1 to 15 over a multiple of 16."""
    for dtype in FLOATS:
        for n in (17, 31, 63, 127, 129, 251, 257, 509, 511):
            yield Case("odd", _mm(dtype, n, n, n), n in (17, 127) or (n == 257 and dtype == "float32"))
        for m, n, k in ((127, 511, 251), (509, 17, 257), (17, 509, 257)):
            yield Case("odd", _mm(dtype, m, n, k))
        for over in (1, 3, 7, 9, 15):
            yield Case("odd", _mm(dtype, 192, 192 + over, 192))
            yield Case("odd", _mm(dtype, 192, 192, 192 + over))


def skinny() -> Iterable[Case]:
    """Tall and thin, long inner products, few columns (heads of classifiers), their gradients, and short sums."""
    for dtype in FLOATS:
        for m, n, k in ((4096, 64, 64), (100000, 16, 16), (16, 16, 100000), (64, 4096, 64)):
            yield Case("skinny", _mm(dtype, m, n, k), m != 64 and dtype in ("float32", "float64"))
        for m, n, k, layout in (
            (2048, 2, 768, "NT"), (2048, 10, 1024, "NT"), (2048, 10, 1024, "NN"), (768, 10, 2048, "TN"),
            (1024, 64, 2048, "TN"), (4096, 32, 2028, "TT"), (4, 1024, 24, "NT"), (4096, 64, 3, "NN"),
            (1, 1, 100000, "NN"), (100000, 3, 3, "NN"), (2048, 2048, 1, "NN"),
        ):  # fmt: skip
            yield Case("skinny", _mm(dtype, m, n, k, layout))


def decode() -> Iterable[Case]:
    """M = 1..16 rows against weights W (NN) and W.T (NT), the matrices of models of 768 to 8192 channels."""
    weights: tuple[tuple[int, int, tuple[int, ...]], ...] = (
        (768, 768, (1, 8)), (3072, 768, (1, 2, 4, 8, 16)), (768, 3072, (1, 8)), (2048, 2048, (1, 8)),
        (4096, 4096, (1, 2, 4, 8, 16)), (8192, 8192, (1, 16)),
    )  # fmt: skip
    for dtype in MODEL_DTYPES:
        for n, k, rows in weights:
            for m in rows:
                for layout in ("NN", "NT"):
                    quick = (n, m) in ((3072, 1), (3072, 8)) and dtype != "float16"
                    yield Case("decode", _mm(dtype, m, n, k, layout), quick)
    for dtype in ("int8", "int16", "int32", "int64"):
        for (n, k), m, layout in itertools.product(((3072, 768), (4096, 4096)), (1, 4, 16), ("NN", "NT")):
            product = _mm(dtype, m, n, k, layout)
            yield Case("decode", product, (dtype, n, m) == ("int8", 3072, 1))
            if dtype == "int8":
                yield Case("decode", replace(product, out_dtype="int32"))


def vector() -> Iterable[Case]:
    """A matrix, row-major and transposed, times a vector: natively one thread."""
    for dtype in (*FLOATS, "complex64", "int8", "int32", "int64"):
        for m, k in ((64, 64), (768, 768), (768, 3072), (4096, 4096)):
            for layout in ("NN", "TN"):
                quick = (m, k) == (768, 3072) and dtype in ("float32", "bfloat16")
                yield Case("vector", Problem("mv", dtype, m, 1, k, layout=layout), quick)


def batched() -> Iterable[Case]:
    """Tiny cubes by the thousand, 3-D rotations, attention shapes, broadcast and strided batches."""
    for dtype in FLOATS:
        yield Case("batched", _bmm(dtype, 10000, 3, 1, 3))
        yield Case("batched", _bmm(dtype, 1000, 1, 1, 512))
        for n, batch in ((4, 10000), (8, 10000), (16, 4096), (32, 1024)):
            yield Case("batched", _bmm(dtype, batch, n, n, n), dtype == "float32" or (n == 16 and dtype == "float64"))
        yield Case("batched", _bmm(dtype, 4096, 16, 16, 16, "NB"))
        yield Case("batched", _bmm(dtype, 4096, 16, 16, 16, "SN"))
    for dtype in MODEL_DTYPES:
        for batch, m, n, k, layout in (
            (96, 64, 64, 64, "NT"), (48, 128, 128, 64, "NT"), (48, 128, 64, 128, "NN"), (12, 512, 512, 64, "NT"),
            (12, 512, 64, 512, "NN"), (12, 128, 128, 64, "HT"), (12, 128, 64, 128, "NH"), (64, 128, 64, 64, "NB"),
        ):  # fmt: skip
            quick = dtype != "float16" and (m, n, layout) in ((128, 128, "NT"), (128, 64, "NH"))
            yield Case("batched", _bmm(dtype, batch, m, n, k, layout), quick)
        yield Case("batched", Problem("baddbmm", dtype, 128, 128, 64, batch=48, layout="NT", c="full"))


def integers() -> Iterable[Case]:
    """Integer products, and int8 with an int32 result (natively `torch._int_mm`)."""
    for dtype in ("int8", "uint8", "int16", "int32", "int64"):
        for n in (64, 256):
            yield Case("integers", _mm(dtype, n, n, n), n == 256 and dtype in ("int8", "int32"))
    for n in (256, 512, 1024):
        yield Case("integers", replace(_mm("int8", n, n, n), out_dtype="int32"), n == 256)
    yield Case("integers", _bmm("int32", 256, 32, 32, 32))
    yield Case("integers", _bmm("int64", 256, 32, 32, 32))


def add() -> Iterable[Case]:
    """Element-wise sums: contiguous, broadcast row and column, transposed; squares and three columns."""
    for dtype in (*FLOATS, "int32"):
        for m, n in ((1024, 1024), (4096, 4096), (300000, 3)):
            for layout in ("NN", "NR", "NC", "NT"):
                quick = m == 1024 and dtype == "float32"
                yield Case("add", Problem("add", dtype, m, n, layout=layout), quick)


def addmm() -> Iterable[Case]:
    """addmm with a bias row and with a full C, linear, and 3-D matmul folded into one product."""
    shapes = ((64, 768, 768), (64, 3072, 768), (512, 768, 3072), (1024, 1024, 1024))
    for dtype in FLOATS:
        for m, n, k in shapes if dtype != "float16" else shapes[:2]:
            for c in ("row", "full"):
                quick = (m, n) == (64, 768) and c == "row" and dtype in ("float32", "bfloat16")
                yield Case("addmm", Problem("addmm", dtype, m, n, k, c=c), quick)
    for dtype in MODEL_DTYPES:
        for m, n, k in ((64, 768, 768), (512, 3072, 768)):
            yield Case("addmm", Problem("linear", dtype, m, n, k, c="row"), m == 64)
        yield Case("addmm", Problem("matmul", dtype, 256, 768, 768), dtype == "float32")


def fused() -> Iterable[Case]:
    """linear with a bias and an activation, against torch's linear and activation; and a step of training with it."""
    for dtype in MODEL_DTYPES:
        for n in (256, 512, 1024, 2048):
            for activation in ("relu", "gelu", "gelu_tanh", "silu"):
                problem = Problem("linear", dtype, n, n, n, c="row", activation=activation)
                yield Case("fused", problem, n == 512 and activation == "gelu")
                if n <= 1024:
                    yield Case("fused", replace(problem, training=True))
        for activation in ("gelu", "silu"):  # the first layers of BERT and of a Llama of 1B parameters
            m, n, k = (128, 3072, 768) if activation == "gelu" else (128, 5632, 2048)
            yield Case("fused", Problem("linear", dtype, m, n, k, c="row", activation=activation))


def packed() -> Iterable[Case]:
    """linear with a packed weight: from one row to the point where packing is a small part of the product."""
    for dtype in (*MODEL_DTYPES, "int8"):
        for n, k in ((768, 768), (3072, 768), (4096, 4096)):
            for m in (1, 4, 16, 64, 128, 512):
                quick = (m, n) in ((1, 768), (64, 768)) and dtype in ("float32", "bfloat16")
                yield Case("packed", Problem("linear", dtype, m, n, k), quick, packed=True)


def fixed() -> Iterable[Case]:
    """The cost of a call: 1x1 to 8x8 through every route."""
    for n in (1, 2, 4, 8):
        yield Case("fixed", _mm("float32", n, n, n), n in (1, 8), ROUTES)
    yield Case("fixed", Problem("addmm", "float32", 8, 8, 8, c="row"), True, ROUTES)
    yield Case("fixed", _bmm("float32", 2, 4, 4, 4), True, ROUTES)
    yield Case("fixed", Problem("baddbmm", "float32", 4, 4, 4, batch=2, c="full"), False, ROUTES)
    yield Case("fixed", Problem("linear", "float32", 8, 8, 8, c="row"), False, ("function", "op"))
    yield Case("fixed", Problem("matmul", "float32", 8, 8, 8), False, ("function", "op"))
    yield Case("fixed", Problem("add", "float32", 8, 8), False, ("function", "op"))


CLASSES: dict[str, Callable[[], Iterable[Case]]] = {
    "squares": squares, "odd": odd, "skinny": skinny, "decode": decode, "vector": vector, "batched": batched,
    "integers": integers, "add": add, "addmm": addmm, "fused": fused, "packed": packed, "fixed": fixed,
}  # fmt: skip


def select(
    classes: Sequence[str] = (), dtypes: Sequence[str] = (), ops: Sequence[str] = (), quick: bool = False
) -> list[Case]:
    """Cases of the named classes (all when empty) that pass the dtype and operator filters."""
    cases = [case for name in classes or CLASSES for case in CLASSES[name]()]
    return [
        case
        for case in cases
        if (not quick or case.quick)
        and (not dtypes or case.problem.dtype in dtypes)
        and (not ops or case.problem.op in ops)
    ]


def _with_out_dtype(call: Callable[..., Any], out_dtype: str | None) -> Callable[..., Any]:
    return call if out_dtype is None else functools.partial(call, out_dtype=getattr(torch, out_dtype))


def myops_side(problem: Problem, route: str) -> Side:
    """The myops contestant of a problem by route; the switch is entered and left outside the clock."""
    if route == "switch":
        native = native_call(replace(problem, out_dtype=None))
        assert native is not None  # only a problem with an out_dtype can be without one
        return Side(_with_out_dtype(native, problem.out_dtype), myops.use)
    name = "matmul" if problem.op == "mv" else problem.op
    call = _with_out_dtype(getattr(torch.ops.myops if route == "op" else myops, name), problem.out_dtype)
    if problem.activation != "none":
        call = functools.partial(call, **keyword(problem.activation))
    return Side(with_gradients(call) if problem.training else call)


def peer_sides(problem: Problem) -> dict[str, Side]:
    """numpy with its BLAS, and torch.compile as it tunes itself, where they have the operator and the dtype."""
    if problem.op not in ("mm", "bmm", "matmul", "addmm", "linear") or problem.out_dtype is not None:
        return {}
    native = native_call(problem)
    assert native is not None
    sides = {"torch.compile": Side(torch.compile(native, mode="max-autotune-no-cudagraphs", dynamic=False))}
    if problem.op in ("mm", "bmm", "matmul") and problem.dtype not in ("bfloat16", "float16"):
        import numpy

        sides["numpy"] = Side(lambda a, b: numpy.matmul(a.numpy(), b.numpy()))
    return sides


def build_job(case: Case, route: str, options: Options = Options()) -> runner.Job:
    """Operands, callables and counts of one case; large cases rotate through several sets in memory."""
    problem = case.problem
    inputs = make_inputs(problem)
    least = 4 * machine.l3_bytes() if case.group == "decode" else ROTATE_BYTES
    ours = myops_side(problem, route)
    call = native_call(problem)
    other = None if call is None else Side(call)
    if options.against == "myops":
        other = ours
    if options.batch_invariant:
        outer = ours.context
        ours = Side(ours.call, lambda: _both(outer(), myops.use((), batch_invariant=True)))
    argument_sets: list[tuple[Any, ...]]
    argument_sets = [inputs] if case.group == "fixed" else rotate(inputs, PACKED_ROTATE_BYTES if case.packed else least)
    if case.packed:
        argument_sets = [(*values, myops.pack_weight(values[1])) for values in argument_sets]
        plain = other.call if other is not None else ours.call
        other = Side(lambda x, weight, packed: plain(x, weight))
        ours = Side(lambda x, weight, packed: myops.linear(x, packed), ours.context)
    labels = {
        "suite": "dense", "group": case.group, "op": problem.op, "shape": problem.shape,
        "dtype": problem.dtype, "layout": problem.layout_name + (f">{problem.out_dtype}" if problem.out_dtype else ""),
        "route": route + ("+invariant" if options.batch_invariant else ""),
        "dims": {"m": problem.m, "n": problem.n, "k": problem.k, "batch": problem.batch},
    }  # fmt: skip
    return runner.Job(
        labels=labels,
        native=other,
        myops=ours,
        peers=peer_sides(problem) if options.peers and not case.packed else {},
        notes=() if options.against == "native" else ("against myops itself",),
        argument_sets=argument_sets,
        flops=flop_count(problem),
        moved_bytes=sum(stored_bytes(tensor) for tensor in inputs) + output_bytes(problem),
        error=functools.partial(accuracy.relative_error, problem, inputs),
    )


@contextlib.contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the suite."""
    parser.add_argument("--quick", action="store_true", help="a few cases of every class, done within a minute")
    parser.add_argument("--shapes", nargs="+", default=[], choices=sorted(CLASSES), metavar="CLASS",
                        help=f"classes to run: {', '.join(CLASSES)}")  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", default=[], metavar="DTYPE", help="for example float32 bfloat16")
    parser.add_argument("--ops", nargs="+", default=[], metavar="OP", help="for example mm addmm")
    parser.add_argument("--switch", choices=("direct", "use"), default="direct",
                        help="call myops.X (direct) or torch.X under myops.use()")  # fmt: skip
    parser.add_argument("--batch-invariant", action="store_true", help="the myops side under batch_invariant=True")
    parser.add_argument("--against", choices=("native", "myops"), default="native",
                        help="the other side: torch, or myops without packed weights and batch invariance")  # fmt: skip
    parser.add_argument("--peers", action="store_true",
                        help="also time numpy and torch.compile (max-autotune; compiles every case)")  # fmt: skip
    suite.add_arguments(parser)


def _jobs(cases: Sequence[Case], switch: str, options: Options) -> list[Callable[[], runner.Job]]:
    """One builder per case and route."""
    default = "switch" if switch == "use" else "function"
    return [functools.partial(build_job, case, route, options) for case in cases for route in case.routes or (default,)]


def run(arguments: argparse.Namespace) -> int:
    """Run the selected cases and print rows, then the summary; 1 when the filters leave nothing."""
    started = time.perf_counter()
    cases = select(arguments.shapes, arguments.dtypes, arguments.ops, arguments.quick)
    if not cases:
        print("no case passes these filters")
        return 1
    limit = arguments.limit or (QUICK_SECONDS if arguments.quick else None)
    options = Options(arguments.against, arguments.batch_invariant, arguments.peers)
    if options != Options():
        print(f"myops{', batch-invariant' if options.batch_invariant else ''} against {options.against}")
    return suite.run_suite(_jobs(cases, arguments.switch, options), arguments, started, limit)
