"""The demo: unmodified models, natively and under `with myops.use():`; run it as ``python -m benchmarks.demo``.

It embeds sentences with a trained model, then runs GPT-2 124M (prefill and decode) with random weights, in float32,
bfloat16 and float16, and shows speed, operators, memory and accuracy side by side. Chrome traces and a chart go to the
output folder. This file is the command line and the order of events: tasks are in `models`, measurements in `measure`,
tables in `show`. Nothing here is a test, and nothing fails because it was slow.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The profiler writes two lines per session to stderr otherwise; read when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ImportError as error:
    raise SystemExit("the demo prints with rich: pip install '.[demo]'") from error

from myops.bench import machine

from . import measure, models, show

DTYPES = ("float32", "bfloat16", "float16")
WIDTH = 150
"""Columns of the output when it is not a terminal."""


def build_parser() -> argparse.ArgumentParser:
    """Options of the demo."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", help="another sentence encoder: hub id or local folder")
    parser.add_argument("--tasks", nargs="+", choices=("embed", "prefill", "decode"),
                        default=["embed", "prefill", "decode"])  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, help="threads (default: torch's)")
    parser.add_argument("--steps", type=int, default=12, help="tokens to decode (default 12)")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for the latency of each row (default 6)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for traces and chart")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory column (one process per entry)")
    parser.add_argument("--quick", action="store_true", help="smoke run: tiny GPT-2, short timings, no memory column")
    parser.add_argument("--probe", nargs=3, metavar=("TASK", "DTYPE", "VARIANT"), help=argparse.SUPPRESS)
    return parser


def make_task(name: str, arguments: argparse.Namespace) -> models.Task:
    """The task of this name under the options."""
    if name == "embed":
        return models.embedding_task(arguments.model)
    if name == "prefill":
        return models.gpt2_prefill_task(arguments.quick)
    return models.gpt2_decode_task(3 if arguments.quick else arguments.steps, arguments.quick)


def probe(arguments: argparse.Namespace) -> int:
    """In a fresh process: print the memory of one run as JSON."""
    name, dtype, variant = arguments.probe
    with torch.inference_mode():
        use = measure.first_run_memory(make_task(name, arguments), dtype, variant)
    print(json.dumps(dataclasses.asdict(use)))
    return 0


def _probe_arguments(arguments: argparse.Namespace, task: str, dtype: str, variant: str) -> list[str]:
    command = ["--probe", task, dtype, variant, "--threads", str(torch.get_num_threads())]
    if arguments.model:
        command += ["--model", os.path.abspath(arguments.model) if os.path.isdir(arguments.model) else arguments.model]
    return command


def add_memory(results: Sequence[measure.Result], arguments: argparse.Namespace, progress: Progress) -> None:
    """Fill in the memory of every result but decode (the prefill bounds it), two fresh processes at a time."""
    wanted = [result for result in results if result.task != "decode"]
    bar = progress.add_task("memory", total=len(wanted))
    for result in wanted:
        progress.update(bar, description=f"memory, fresh processes: {result.task} {result.dtype}")
        probes = {
            name: measure.start_probe(_probe_arguments(arguments, result.task, result.dtype, name))
            for name in measure.VARIANTS
        }
        for name, process in probes.items():
            use = measure.finish_probe(process)
            if use is not None:
                result.memory[name] = use
        progress.advance(bar)


def measure_all(
    tasks: Sequence[models.Task], arguments: argparse.Namespace, progress: Progress
) -> list[measure.Result]:
    """Every task in every dtype."""
    results = []
    bar = progress.add_task("models", total=len(tasks) * (len(arguments.dtypes) + 1))
    seconds = min(arguments.seconds, 0.8) if arguments.quick else arguments.seconds
    for task in tasks:
        progress.update(bar, description=f"{task.name}: float64 reference")
        reference = measure.reference_output(task)
        progress.advance(bar)
        for dtype in arguments.dtypes:

            def step(what: str, label: str = f"{task.name} {dtype}") -> None:
                progress.update(bar, description=f"{label}: {what}")

            results.append(measure.measure(task, dtype, reference, seconds, arguments.output, step))
            progress.advance(bar)
    return results


def show_all(console: Console, results: Sequence[measure.Result], arguments: argparse.Namespace) -> None:
    """Tables task by task, then the chart."""
    for name in arguments.tasks:
        members = [result for result in results if result.task == name]
        console.rule(f"[bold]{members[0].title}")
        if name == "embed":
            show.show_neighbours(console, members)
        show.show_operators(console, members)
        show.show_end_to_end(console, members)
        console.print()
    if not arguments.no_memory and not arguments.quick:
        console.print("peak MB: resident peak of the first run in a fresh process, over the loaded model in brackets")
    show.show_summary(console, results)
    chart = arguments.output / "demo.png"
    show.write_chart(results, chart)
    console.print(f"chart: {chart}; traces for chrome://tracing or ui.perfetto.dev: {arguments.output}/*.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 2 when a model or a library for it is missing."""
    arguments = build_parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    try:
        if arguments.probe:
            return probe(arguments)
        if importlib.util.find_spec("matplotlib") is None:
            raise models.MissingModelError("the chart needs matplotlib: pip install '.[demo]'")
        tasks = [make_task(name, arguments) for name in arguments.tasks]
    except models.MissingModelError as error:
        Console(stderr=True).print(f"[red]demo:[/] {error}", highlight=False)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    title = "myops demo: the same unmodified models, natively and under myops.use()"
    show.show_header(console, machine.describe(), torch.get_num_threads(), title)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, torch.inference_mode():
        results = measure_all(tasks, arguments, progress)
        if not arguments.no_memory and not arguments.quick:
            add_memory(results, arguments, progress)
    show_all(console, results, arguments)
    console.print(f"total time {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
