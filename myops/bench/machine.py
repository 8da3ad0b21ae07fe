"""What a benchmark ran on: machine, versions, load, and the roofs measured in the same process.

Roofs are measured, never looked up: peak multiply-add rate by `myops.peak_gflops`, and read bandwidth from the sum over
a buffer that fits no cache (`dram`) or the last-level cache (`cache`).
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import myops

LOAD_WARNING = 0.5
"""Load average (runnable processes over one minute) above which a run is marked as disturbed."""

DRAM_BYTES = 512 << 20
DEFAULT_L3_BYTES = 32 << 20


def cpu_model() -> str:
    """Marketing name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def l3_bytes() -> int:
    """Size of the last-level cache in bytes; 32 MiB when the system does not say."""
    sizes = []
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            text = (index / "size").read_text().strip()
            sizes.append(int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0))
        except (OSError, ValueError):
            continue
    return max(sizes, default=DEFAULT_L3_BYTES)


def commit() -> str | None:
    """Commit of the checkout that the package lies in; None for one that is installed."""
    root = Path(myops.__file__).parents[1]
    if not (root / "setup.py").exists():
        return None  # the checkout around it is another's
    try:
        command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def load_average() -> float | None:
    """Runnable processes averaged over the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


@dataclass(frozen=True)
class CpuUse:
    """A moment's processor time in seconds: of the whole machine (None where unknown), of this process, and wall."""

    machine: float | None
    own: float
    wall: float

    @staticmethod
    def now() -> CpuUse:
        """Read the counters; Linux only for the machine's, whose step is a clock tick (usually 10 ms)."""
        busy = None
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, softirq, steal = (int(value) for value in fields[:8])
            busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            pass
        return CpuUse(busy, time.process_time(), time.perf_counter())

    def others_since(self) -> float | None:
        """Cores that everything else (stolen time included) kept busy on average since then; None where unknown."""
        now = CpuUse.now()
        if self.machine is None or now.machine is None or now.wall <= self.wall:
            return None
        return max(0.0, (now.machine - self.machine - (now.own - self.own)) / (now.wall - self.wall))


def describe() -> dict[str, Any]:
    """Machine and versions as plain values, ready for JSON."""
    load = load_average()
    return {
        "cpu": cpu_model(),
        "isa": myops.isa(),
        "cores": os.cpu_count(),
        "l3_bytes": l3_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "myops": myops.__version__,
        "commit": commit(),
        "load_average": load,
        "load_warning": load is not None and load > LOAD_WARNING,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@functools.cache
def fma_peak(dtype: str, threads: int) -> float | None:
    """Measured peak in GFLOP/s (a multiply-add is 2) of `threads` threads for a dtype name; None where it has none.

    Complex types are counted in real operations, float16 as the float32 in which it is computed.
    """
    try:
        return myops.peak_gflops(getattr(torch, dtype), threads)
    except NotImplementedError:
        return None


def _best_read(size: int, seconds: float = 0.25) -> float:
    """Best bandwidth in GB/s of `torch.sum` over `size` bytes of float32 in this thread setting."""
    buffer = torch.ones(size // 4)
    loops = max(1, (8 << 20) // size)
    best = float("inf")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter_ns()
        for _ in range(loops):
            torch.sum(buffer)
        best = min(best, (time.perf_counter_ns() - start) / loops)
    return size / best


@functools.cache
def read_bandwidth(level: str, threads: int) -> float:
    """Measured read bandwidth in GB/s with `threads` threads: `dram` (512 MiB buffer) or `cache` (a quarter of L3).

    The cache is never slower than memory: where a busy machine makes it look so, the bandwidth of memory stands.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if level == "dram":
            return _best_read(DRAM_BYTES)
        return max(_best_read(max(1 << 20, l3_bytes() // 4)), read_bandwidth("dram", threads))
    finally:
        torch.set_num_threads(previous)


@dataclass(frozen=True)
class Roof:
    """The binding bound of one call: its name (`fma`, `dram` or `cache`) and the least time it allows in ns."""

    bound: str
    ns: float

    def percent(self, ns: float) -> float:
        """Share of the roof reached by a call of `ns` nanoseconds, in percent."""
        return 100 * self.ns / ns


def roof(dtype: str, threads: int, flops: float, moved_bytes: float, working_set: float) -> Roof | None:
    """The slower of arithmetic and memory for one call.

    flops are per call, moved_bytes what the call has to read and write at least, working_set the bytes touched before
    the same data comes round again (which decides between the `dram` and the `cache` bandwidth). None when the FMA peak
    is unknown and memory is not surely the binding bound (more than two operations per byte).
    """
    level = "dram" if working_set > l3_bytes() else "cache"
    memory = Roof(level, moved_bytes / read_bandwidth(level, threads))
    peak = fma_peak(dtype, threads) if flops else None
    if peak is None:
        return memory if flops <= 2 * moved_bytes else None
    arithmetic = Roof("fma", flops / peak)
    return arithmetic if arithmetic.ns >= memory.ns else memory
