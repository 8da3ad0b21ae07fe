"""From a job to a row: time both sides, measure memory and error, set the result against the roof.

A job is what a suite hands over; nothing here knows operators or shapes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from . import machine, memory, timing
from .report import Row, SideResult

FIXED_COST_NS = 5_000
"""Below this time per call (either side) a row reports the fixed cost of a call; its ratio is not judged."""

MEMORY_LIMIT_NS = 3e9
"""Calls longer than this are not repeated for the memory column."""


@dataclass(frozen=True)
class Job:
    """One comparison.

    labels are the identifying fields of the row (suite, group, op, shape, dtype, layout, route and dims); native is
    None where torch has no counterpart; peers are timed beside the two and judged by nobody. flops and moved_bytes are
    per call; error maps an output for the first argument set to a relative error.
    """

    labels: dict[str, Any]
    native: timing.Side | None
    myops: timing.Side
    argument_sets: Sequence[tuple[Any, ...]]
    flops: float
    moved_bytes: float
    error: Callable[[Any], float]
    notes: tuple[str, ...] = field(default=())
    peers: dict[str, timing.Side] = field(default_factory=dict)


def _side_result(
    job: Job, side: timing.Side, samples: timing.Samples, roof: machine.Roof | None, first_output: Any
) -> SideResult:
    """Statistics, rates, error and memory of one side."""
    spread = timing.spread(samples.ns)
    peak = None
    if spread.median < MEMORY_LIMIT_NS:
        with side.context():
            peak = memory.peak_growth_bytes(functools.partial(side.call, *job.argument_sets[0]))
    return SideResult(
        median_ns=spread.median,
        q1_ns=spread.q1,
        q3_ns=spread.q3,
        calls_per_sample=samples.loops,
        samples_ns=[round(value, 1) for value in samples.ns],
        gflops=job.flops / spread.median,
        roof_percent=roof.percent(spread.median) if roof is not None else None,
        error=job.error(first_output),
        peak_bytes=peak,
    )


def _first_outputs(sides: dict[str, timing.Side], arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """One output per side that can run the job, and the reason of each that cannot; warms both sides up."""
    outputs, reasons = {}, {}
    for name, side in sides.items():
        try:
            with side.context():
                outputs[name] = side.call(*arguments)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # NotImplementedError is a RuntimeError
            reasons[name] = f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return outputs, reasons


def run_job(job: Job, threads: int, budget_s: float, described: dict[str, Any]) -> Row:
    """Measure one job with the current thread setting for about `budget_s` seconds."""
    sides = {"myops": job.myops} if job.native is None else {"native": job.native, "myops": job.myops}
    sides.update(job.peers)
    row = Row(**job.labels, threads=threads, flops=job.flops, moved_bytes=job.moved_bytes, machine=described)
    row.notes.extend(job.notes)
    started = time.perf_counter()
    outputs, reasons = _first_outputs(sides, job.argument_sets[0])
    first_call_s = time.perf_counter() - started
    row.notes.extend(reasons.values())
    if "myops" not in outputs:
        row.verdict = "skipped"
        return row
    running = {name: side for name, side in sides.items() if name in outputs}
    use = machine.CpuUse.now()
    comparison = timing.compare(running, job.argument_sets, max(0.02, budget_s - first_call_s))
    row.other_cores = use.others_since()
    row.notes.extend(comparison.notes)
    working_set = len(job.argument_sets) * job.moved_bytes
    roof = machine.roof(job.labels["dtype"], threads, job.flops, job.moved_bytes, working_set)
    if roof is not None:
        row.roof_bound, row.roof_ns = roof.bound, roof.ns
    results = {
        name: _side_result(job, side, comparison.sides[name], roof, outputs[name]) for name, side in running.items()
    }
    row.native, row.myops = results.pop("native", None), results.pop("myops")
    row.peers = results
    _judge(row)
    return row


def _judge(row: Row) -> None:
    """Fill in ratio and verdict: win, tie, loss, fixed (cost of a call), alone (native cannot) or skipped."""
    if row.myops is None:
        row.verdict = "skipped"
        return
    if row.native is None:
        row.verdict = "alone"
        return
    ratio = timing.ratio_of_pairs(row.native.samples_ns, row.myops.samples_ns)
    row.ratio, row.ratio_low, row.ratio_high = ratio.value, ratio.low, ratio.high
    tiny = min(row.native.median_ns, row.myops.median_ns) < FIXED_COST_NS
    row.verdict = "fixed" if tiny else timing.verdict(ratio)


def run_jobs(
    jobs: Sequence[Callable[[], Job]],
    threads: int,
    case_budget_s: float,
    deadline: float | None,
    described: dict[str, Any],
) -> Iterator[Row | None]:
    """Rows in turn; None for each job that no longer fits before `deadline` (a `time.perf_counter()` value).

    With a deadline the remaining time is shared evenly, so a slow job shortens the ones after it instead of the run
    growing. Jobs are built one at a time because their rotating inputs are large.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for done, build in enumerate(jobs):
            budget = case_budget_s
            if deadline is not None:
                left = deadline - time.perf_counter()
                if left <= 0:
                    yield None
                    continue
                budget = min(case_budget_s, 0.6 * left / (len(jobs) - done))
            yield run_job(build(), threads, budget, described)
    finally:
        torch.set_num_threads(previous)
