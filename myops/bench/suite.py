"""What every suite does around its jobs: header, rows as they come, JSON lines, summary, plot."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from . import machine, memory, report, runner


def thread_counts(text: str) -> tuple[int, ...]:
    """`1,2` as (1, 2)."""
    counts = tuple(int(part) for part in text.split(","))
    if any(count < 1 for count in counts):
        raise argparse.ArgumentTypeError("thread counts start at 1")
    return counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that every suite has."""
    parser.add_argument("--threads", type=thread_counts, default=(), metavar="N[,N...]",
                        help="thread counts, each in turn (default: torch's)")  # fmt: skip
    parser.add_argument("--budget", type=float, default=1.0, metavar="S", help="seconds per case (default 1)")
    parser.add_argument("--limit", type=float, metavar="S", help="seconds for the whole run; cases share what is left")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON line per case")
    add_plots(parser)


def add_plots(parser: argparse.ArgumentParser) -> None:
    """Options for pictures of rows."""
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a plot of the speed-ups (needs matplotlib)")
    parser.add_argument("--roofline", type=Path, metavar="PNG",
                        help="write a plot of GFLOP/s over operations per byte (needs matplotlib)")  # fmt: skip


def draw(rows: Sequence[report.Row], arguments: argparse.Namespace) -> None:
    """The pictures that were asked for."""
    if arguments.plot:
        report.plot(rows, arguments.plot)
    if arguments.roofline:
        report.roofline(rows, arguments.roofline)


def header_lines(described: dict[str, Any], threads: Sequence[int], allocator: str) -> list[str]:
    """What it runs on, the measured roofs, a warning when the machine is busy, and how memory is kept and measured."""
    lines = [
        f"myops {described['myops']} (commit {described['commit']}, {described['isa']}) "
        f"against torch {described['torch']}, Python {described['python']}",
        f"{described['cpu']}, {described['cores']} cores, L3 {described['l3_bytes'] >> 20} MiB, {described['system']}",
    ]
    if described["load_warning"]:
        lines.append(f"WARNING: load average {described['load_average']:.2f} before the run; expect wide intervals")
    for count in threads:
        peaks = [(name, machine.fma_peak(name, count)) for name in ("float32", "float64", "bfloat16", "int8")]
        text = ", ".join(f"{name} {'-' if peak is None else format(peak, '.0f')}" for name, peak in peaks)
        reads = ", ".join(f"{level} {machine.read_bandwidth(level, count):.0f}" for level in ("dram", "cache"))
        lines.append(f"roofs, {count} thread{'s' if count > 1 else ''}: FMA GF/s {text}; read GB/s {reads}")
    return [*lines, f"memory column: {memory.METHOD}; {allocator}", ""]


def run_suite(
    jobs: Sequence[Callable[[], runner.Job]], arguments: argparse.Namespace, started: float, limit: float | None
) -> int:
    """Run the jobs at every thread count and print rows, then the summary. started: a time.perf_counter() value."""
    threads = arguments.threads or (torch.get_num_threads(),)
    described = machine.describe()
    allocator = memory.keep_freed()
    print("\n".join(header_lines(described, threads, allocator)), flush=True)
    rows: list[report.Row] = []
    dropped = 0
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(arguments.json.open("w", encoding="utf-8")) if arguments.json else None
        for index, count in enumerate(threads):
            share = None if limit is None else started + limit * (index + 1) / len(threads)
            print(report.table_header())
            results = runner.run_jobs(jobs, count, arguments.budget, share, described)
            for row in results:
                if row is None:
                    dropped += 1
                    continue
                rows.append(row)
                print(report.table_line(row), flush=True)
                if stream is not None:
                    report.append_json(stream, row)
    print("\n".join(report.summary_lines(rows, dropped)))
    draw(rows, arguments)
    return 0
