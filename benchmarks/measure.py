"""What the demo measures about one task in one dtype: latency, operators, accuracy, memory, calls that reached myops.

Every measurement runs the same unmodified model natively and under `myops.use()`. Nothing is printed here.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import myops
from myops.bench import machine, memory, report, timing

from .models import Task, cast

FAMILY = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation")
"""Matrix products as the profiler names them; the names stay under the switch."""

PROFILE_SECONDS = 1.0
MAX_PROFILED_RUNS = 4
"""A task is profiled for about so many seconds per variant and at most so many runs: traces grow with every run."""

VARIANTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "native": contextlib.nullcontext,
    "myops": lambda: myops.use(),
}


@dataclass(frozen=True)
class OpTime:
    """Calls of one operator per run and their summed time in milliseconds, children included."""

    calls: float
    ms: float


@dataclass(frozen=True)
class Profile:
    """Time per run by matrix-product operator, and of all operators together, in milliseconds."""

    ops: dict[str, OpTime]
    total_ms: float

    @property
    def family_ms(self) -> float:
        """Time in all matrix products."""
        return sum(op.ms for op in self.ops.values())


@dataclass(frozen=True)
class Accuracy:
    """Against the float64 run: largest absolute difference, and smallest cosine over the rows."""

    max_error: float
    min_cosine: float


@dataclass(frozen=True)
class MemoryUse:
    """Of a fresh process: resident bytes at the peak of its first run, and growth over the loaded model."""

    peak: int
    growth: int


@dataclass
class Result:
    """Everything about one task in one dtype, by variant (`native`, `myops`)."""

    task: str
    title: str
    unit: str
    units: int
    dtype: str
    latency_ns: dict[str, list[float]]
    outputs: dict[str, Tensor]
    accuracy: dict[str, Accuracy]
    profiles: dict[str, Profile]
    reached: dict[str, tuple[int, int]]
    profiled_runs: int = 1
    memory: dict[str, MemoryUse] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> timing.Ratio:
        """End-to-end native time / myops time."""
        return timing.ratio_of_pairs(self.latency_ns["native"], self.latency_ns["myops"])

    def median_ms(self, variant: str) -> float:
        """Median latency of a run in milliseconds."""
        return timing.spread(self.latency_ns[variant]).median / 1e6


def call_counts(stats: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """{operator: (calls that myops served, calls handed to native torch)} from what `myops.stats()` returns.

    The one place that knows the shape of the statistics: {operator: {"myops": n, "native": n, ...}}.
    """
    counts = {}
    for name, entry in stats.items():
        if isinstance(entry, Mapping) and "myops" in entry:
            counts[str(name)] = (int(entry["myops"]), int(entry.get("native", 0)))
    return counts


def _counts_since(before: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    after = call_counts(myops.stats())
    differences = {
        name: (served - before.get(name, (0, 0))[0], native - before.get(name, (0, 0))[1])
        for name, (served, native) in after.items()
    }
    return {name: pair for name, pair in differences.items() if pair != (0, 0)}


def accuracy(output: Tensor, reference: Tensor) -> Accuracy:
    """Compare rows with the float64 reference."""
    wide = output.double()
    cosine = torch.nn.functional.cosine_similarity(wide, reference, dim=-1)
    return Accuracy(float((wide - reference).abs().max()), float(cosine.min()))


def operator_times(events: Any, runs: int = 1) -> Profile:
    """Sum the events of `runs` profiled runs by outermost matrix product; the result is per run.

    Time includes children, because natively part of the work is a child (the copy of a bias into the result) and
    under a plugin all of it may be; a product inside another counts once, for the outer.
    """
    ops: dict[str, OpTime] = {}
    total_us = 0.0
    for event in events:
        if event.name.startswith("[memory]"):
            continue
        total_us += event.self_cpu_time_total
        if event.name in FAMILY and not _inside_family(event):
            old = ops.get(event.name, OpTime(0, 0.0))
            ops[event.name] = OpTime(old.calls + 1 / runs, old.ms + event.time_range.elapsed_us() / 1e3 / runs)
    return Profile(ops, total_us / 1e3 / runs)


def _inside_family(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in FAMILY:
            return True
        parent = parent.cpu_parent
    return False


def _profile(run: Callable[[], Any], runs: int, trace: Path) -> Profile:
    """Profile some runs and write their chrome trace."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        for _ in range(runs):
            run()
    profiler.export_chrome_trace(str(trace))
    return operator_times(profiler.events(), runs)


class _Recorder:
    """A callable that keeps its last result."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._call = call
        self.output: Tensor | None = None

    def __call__(self) -> None:
        self.output = self._call()


def reference_output(task: Task) -> Tensor:
    """Result of the model in float64, native."""
    float_model = task.load()
    prepared = task.prepare(float_model, torch.float64)
    return task.run(cast(float_model, torch.float64), prepared).double()


def measure(
    task: Task, dtype: str, reference: Tensor, budget_s: float, folder: Path, step: Callable[[str], None]
) -> Result:
    """Latency (interleaved, about `budget_s` seconds), accuracy, profile and call counts of one task in one dtype."""
    torch_dtype = getattr(torch, dtype)
    float_model = task.load()
    model, prepared = cast(float_model, torch_dtype), task.prepare(float_model, torch_dtype)
    recorders = {name: _Recorder(lambda: task.run(model, prepared)) for name in VARIANTS}
    sides = {name: timing.Side(recorders[name], VARIANTS[name]) for name in VARIANTS}
    step("latency")
    use = machine.CpuUse.now()
    comparison = timing.compare(sides, [()], budget_s)
    others = use.others_since() or 0.0
    if others > report.DISTURBED_CORES:
        comparison.notes.append(f"disturbed: other processes kept {others:.1f} cores busy meanwhile")
    outputs = {}
    for name, recorder in recorders.items():
        assert recorder.output is not None  # compare calls every side at least once
        outputs[name] = recorder.output
    slowest_s = max(timing.spread(samples.ns).median for samples in comparison.sides.values()) / 1e9
    runs = max(1, min(MAX_PROFILED_RUNS, int(PROFILE_SECONDS / slowest_s)))
    profiles, reached = {}, {}
    for name, context in VARIANTS.items():
        step(f"profile {name}")
        before = call_counts(myops.stats())
        with context():
            profiles[name] = _profile(recorders[name], runs, folder / f"{task.name}_{dtype}_{name}.json")
        if name == "myops":
            reached = _counts_since(before)
    return Result(
        task=task.name,
        title=task.title,
        unit=task.unit,
        units=task.units,
        dtype=dtype,
        latency_ns={name: samples.ns for name, samples in comparison.sides.items()},
        outputs=outputs,
        accuracy={name: accuracy(output, reference) for name, output in outputs.items()},
        profiles=profiles,
        reached=reached,
        profiled_runs=runs,
        notes=comparison.notes,
    )


def first_run_memory(task: Task, dtype: str, variant: str) -> MemoryUse:
    """Resident peak of one run in this process, which should be fresh; the loading of the model is not counted."""
    torch_dtype = getattr(torch, dtype)
    model = task.load()
    prepared = task.prepare(model, torch_dtype)
    model = model.to(torch_dtype)
    memory.reset_high_water()
    before = memory.resident_bytes()
    with VARIANTS[variant]():
        task.run(model, prepared)
    peak = memory.high_water_bytes()
    return MemoryUse(peak, peak - before)


def start_probe(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a fresh process of the demo that prints one line of JSON with a `MemoryUse`."""
    command = [sys.executable, "-m", "benchmarks.demo", *arguments]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish_probe(process: subprocess.Popen[str], timeout_s: float = 120) -> MemoryUse | None:
    """The answer of a probe, None when it failed (no /proc, out of time)."""
    try:
        text, _ = process.communicate(timeout=timeout_s)
        return MemoryUse(**json.loads(text.strip().splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError, TypeError):
        process.kill()
        return None
