"""Interleaved timing of two callables, and the statistics of its samples.

One *sample* is the mean time of a short loop of calls, in nanoseconds per call. Samples come in pairs, one per side, in
random order within the pair, so that slow drift (clock, load, temperature) hits both sides alike; the ratio is the
median over the pairs. Input sets rotate through one shared counter: a side never finds in cache what the other side has
just read. Nothing here knows torch.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

SAMPLE_NS = 1_000_000
"""Aimed length of one sample in nanoseconds: long against the clock's step, short against a scheduler tick."""

MAX_PAIRS = 60
MAX_LOOPS = 4096
FAST_SIDE_SAMPLES = 5
VERY_SLOW_BUDGETS = 6
"""A side whose cold call takes this many budgets is not called again."""

TIE_BAND = 0.01
"""Ratios within 1 +- this count as ties however narrow their interval: nobody notices one percent."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles, in the unit of the samples, and their number."""

    median: float
    q1: float
    q3: float
    count: int


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles of at least one sample."""
    if not samples:
        raise ValueError("spread of no samples")
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0], 1)
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, q1, q3, len(samples))


def geometric_mean(values: Sequence[float]) -> float | None:
    """Geometric mean of positive numbers, None when there are none."""
    if not values:
        return None
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


@dataclass(frozen=True)
class Ratio:
    """Native time divided by myops time (above 1: myops is faster) with a 95 % interval; no bounds below 3 pairs."""

    value: float
    low: float | None
    high: float | None


def ratio_of_pairs(native: Sequence[float], myops: Sequence[float], resamples: int = 800, seed: int = 0) -> Ratio:
    """Median of the per-pair ratios and its percentile-bootstrap 95 % interval over the pairs.

    Samples of unequal number are not pairs: the ratio is then that of the medians, without an interval.
    """
    if len(native) != len(myops):
        return Ratio(statistics.median(native) / statistics.median(myops), None, None)
    ratios = [a / b for a, b in zip(native, myops, strict=True)]
    value = statistics.median(ratios)
    if len(ratios) < 3:
        return Ratio(value, None, None)
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(resamples))
    return Ratio(value, medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1])


def verdict(ratio: Ratio) -> str:
    """`win`, `loss` or `tie`: the whole interval has to lie outside the tie band.

    Without an interval, the ratio itself has to leave 0.9..1.1.
    """
    low = ratio.low if ratio.low is not None else ratio.value / 1.1
    high = ratio.high if ratio.high is not None else ratio.value * 1.1
    return "win" if low > 1 + TIE_BAND else "loss" if high < 1 - TIE_BAND else "tie"


@dataclass(frozen=True)
class Side:
    """One contestant: a callable, and the context in which all of its calls run (entered outside the clock).

    `settle` calls come before each paired sample, outside the clock too: the first calls pay for what a context
    changes.
    """

    call: Callable[..., Any]
    context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    settle: int = 0


@dataclass
class Samples:
    """Nanoseconds per call, one entry per sample, and calls per sample."""

    ns: list[float] = field(default_factory=list)
    loops: int = 1


@dataclass
class Comparison:
    """Samples by side name, paired by index when there are two sides, and remarks on how they were taken."""

    sides: dict[str, Samples]
    notes: list[str] = field(default_factory=list)


class _Rotation:
    """Hands out argument sets in turn, to all sides from the same counter."""

    def __init__(self, argument_sets: Sequence[tuple[Any, ...]]) -> None:
        self._sets = argument_sets
        self._next = 0

    def take(self, count: int) -> list[tuple[Any, ...]]:
        start, size = self._next, len(self._sets)
        self._next = (start + count) % size
        return [self._sets[(start + i) % size] for i in range(count)]


def _loop_ns(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Mean nanoseconds per call over one call for each argument tuple."""
    start = time.perf_counter_ns()
    for values in arguments:
        kept = call(*values)  # until the next is there: where results lie does not hang on which side frees them first
    elapsed = time.perf_counter_ns() - start
    del kept
    return elapsed / len(arguments)


def compare(sides: dict[str, Side], argument_sets: Sequence[tuple[Any, ...]], budget_s: float) -> Comparison:
    """Sample all sides interleaved for about `budget_s` seconds, warm-up included.

    Every side is called cold once; then short loops fix the calls per sample, and pairs are taken until the budget is
    spent: at least one, at most `MAX_PAIRS`. Where one warm call of all sides overruns the budget, a slow side has that
    call as its only sample, a fast one is called a few times more, and the notes say so.
    """
    deadline = time.perf_counter() + budget_s
    rotation = _Rotation(argument_sets)
    comparison = Comparison({name: Samples() for name in sides})
    estimates = {name: _estimate_ns(side, rotation, budget_s) for name, side in sides.items()}
    if sum(estimates.values()) > budget_s * 1e9:
        _sample_apart(sides, comparison, estimates, rotation, budget_s)
        return comparison
    for name, estimate in estimates.items():
        comparison.sides[name].loops = max(1, min(MAX_LOOPS, int(SAMPLE_NS / max(estimate, 1.0))))
    left_s = max(deadline - time.perf_counter(), 0.5 * budget_s)  # a cold call may have used up the time
    _sample_pairs(sides, comparison.sides, rotation, time.perf_counter() + left_s)
    count = min(len(entry.ns) for entry in comparison.sides.values())
    if count < 5:
        comparison.notes.append(f"{count} repetition{'s' if count != 1 else ''} within the time budget")
    return comparison


def _estimate_ns(side: Side, rotation: _Rotation, budget_s: float) -> float:
    """Nanoseconds of a warm call, from a few calls; of the cold call where that took many budgets."""
    with side.context():
        cold = _loop_ns(side.call, rotation.take(1))
        if cold > VERY_SLOW_BUDGETS * max(budget_s, 0.0) * 1e9:
            return cold
        return _loop_ns(side.call, rotation.take(3 if cold < SAMPLE_NS * 20 else 1))


def _sample_apart(
    sides: dict[str, Side],
    comparison: Comparison,
    estimates: dict[str, float],
    rotation: _Rotation,
    budget_s: float,
) -> None:
    """The slow way out of `compare`: the estimate as the only sample, or a few unpaired ones of a fast side."""
    for name, side in sides.items():
        count = min(FAST_SIDE_SAMPLES, int(budget_s * 1e9 / estimates[name]))
        if count > 1:
            with side.context():
                comparison.sides[name].ns = [_loop_ns(side.call, rotation.take(1)) for _ in range(count)]
        else:
            comparison.sides[name].ns = [estimates[name]]
            comparison.notes.append(
                f"{name}: one timed call of {estimates[name] / 1e9:.2g} s, time budget {budget_s:.2g} s"
            )


def _sample_pairs(sides: dict[str, Side], samples: dict[str, Samples], rotation: _Rotation, deadline: float) -> None:
    """Take rounds of one sample per side in random order until the deadline; at least one round."""
    order, rng = list(sides), random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(MAX_PAIRS):
            started = time.perf_counter()
            rng.shuffle(order)
            for name in order:
                untimed, arguments = rotation.take(sides[name].settle), rotation.take(samples[name].loops)
                with sides[name].context():
                    for values in untimed:
                        sides[name].call(*values)
                    samples[name].ns.append(_loop_ns(sides[name].call, arguments))
            now = time.perf_counter()
            if now + 0.5 * (now - started) > deadline:
                break
    finally:
        if collecting:
            gc.enable()
