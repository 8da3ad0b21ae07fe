"""What benchmarks/gpu.py measures: time and peak memory of myops beside torch. Not here: correctness (gpu_cases.py)."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import myops

from .gpu_cases import FAMILIES, Case, Device, random, short

L2_BYTES = 60 << 20  # inputs are rotated over more than this, so that a launch does not find its own data in the cache

Call = Callable[..., Any]


@dataclass(frozen=True)
class Work:
    """One timed product or sum: `make` gives the arguments, `ours` and `native` take them."""

    name: str
    make: Callable[[Device], tuple[Tensor, ...]]
    ours: Call
    native: Call
    flops: float = 0
    graph: bool = True  # False: one side waits for the device, which no graph can hold; timed as a stream of calls
    moved: Callable[..., int] | None = None  # bytes, of the arguments; None: what they and the result hold


def launch_time(
    device: Device, call: Call, inputs: list[tuple[Tensor, ...]], graph: bool = True
) -> Callable[[], float]:
    """A function that measures the seconds per call, once."""
    if device.dry:

        def measure() -> float:
            start = time.perf_counter()
            call(*inputs[0])
            return time.perf_counter() - start

        return measure

    def run_all() -> None:
        for arguments in inputs:
            call(*arguments)

    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):  # what a capture must not do first: load kernels, make handles
        run_all()
    torch.cuda.synchronize()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    run = run_all
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run_all()
        run = captured.replay
    run()
    torch.cuda.synchronize()

    def measure_run() -> float:
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) * 1e-3 / len(inputs)

    return measure_run


def timed(device: Device, work: Work, seconds: float = 1.5) -> dict[str, Any]:
    first = work.make(device)
    if work.moved is not None:
        moved = work.moved(*first)
    else:
        moved = sum(t.numel() * t.element_size() for t in first) + work.native(*first).nbytes
    copies = 1 if device.dry else max(1, min(64, math.ceil(3 * L2_BYTES / max(moved, 1))))
    inputs = [first] + [work.make(device) for _ in range(copies - 1)]
    while not device.dry and len(inputs) < 8:
        inputs.append(inputs[len(inputs) % copies])
    ours, native = (launch_time(device, call, inputs, work.graph) for call in (work.ours, work.native))
    ours(), native()
    ratios: list[float] = []
    times: dict[str, list[float]] = {"ours": [], "native": []}
    deadline = time.monotonic() + (0.01 if device.dry else seconds)
    while len(ratios) < 3 or (time.monotonic() < deadline and len(ratios) < 200):
        samples = [ours(), native(), native(), ours()]  # the symmetric order cancels a drift of the clock
        times["ours"] += [samples[0], samples[3]]
        times["native"] += samples[1:3]
        ratios.append((samples[1] + samples[2]) / (samples[0] + samples[3]))
    mine, theirs = statistics.median(times["ours"]), statistics.median(times["native"])
    return {
        "ours_us": mine * 1e6,
        "native_us": theirs * 1e6,
        "speedup": statistics.median(ratios),
        "ours_tflops": work.flops / mine * 1e-12,
        "ours_gbps": moved / mine * 1e-9,
        "native_gbps": moved / theirs * 1e-9,
        "graph": work.graph,
        "pairs": len(ratios),
    }


def through_double(call: Call) -> Call:
    """torch has no integer products on a GPU: the honest baseline converts, and is exact below 2^53."""
    return lambda *ts: call(*(t.double() for t in ts)).to(ts[0].dtype)


def product_work(name: str, op: str, dtype: torch.dtype, *shapes: tuple[int, ...], flip: str = "") -> Work:
    """flip: which of the last two operands are stored transposed, "a", "b" or "ab"."""

    def make(device: Device) -> tuple[Tensor, ...]:
        sized = [tuple(map(device.size, s)) for s in shapes]
        tensors = [random(device, *s, dtype=dtype) for s in sized]
        for letter, i in (("a", -2), ("b", -1)):
            if letter in flip:
                tensors[i] = tensors[i].mT.contiguous().mT
        return tuple(tensors)

    native = getattr(torch, op) if op != "linear" else torch.nn.functional.linear
    if not dtype.is_floating_point and not dtype.is_complex and op != "add":
        native = through_double(native)
    flops = 0.0
    if op != "add":
        a, b = (shapes[0], shapes[1]) if op == "linear" else shapes[-2:]
        columns = b[-2] if op == "linear" else b[-1]
        batch = math.prod(torch.broadcast_shapes(a[:-2], () if op == "linear" else b[:-2]))
        flops = 2.0 * batch * a[-2] * a[-1] * columns * (4 if dtype.is_complex else 1)
    return Work(f"{op} {short(dtype)} {name}", make, getattr(myops, op), native, flops)


def timing_works(family: str) -> Iterator[Work]:
    f32, bf16, f64 = torch.float32, torch.bfloat16, torch.float64
    if family == "float":
        for dtype in (f32, bf16):
            for n in (128, 512, 1024, 2048, 4096):
                yield product_work(f"{n}^3", "mm", dtype, (n, n), (n, n))
        yield product_work("2048^3 tt", "mm", f32, (2048, 2048), (2048, 2048), flip="ab")
        yield product_work("1024^3", "mm", f64, (1024, 1024), (1024, 1024))
        yield product_work("K=588", "mm", bf16, (9477, 588), (588, 1152))
        for m in (1, 16):
            yield product_work(f"M={m} 4096x4096", "mm", bf16, (m, 4096), (4096, 4096))
        yield product_work("2-D C 4096^2 K=512", "addmm", f32, (4096, 4096), (4096, 512), (512, 4096))
        yield product_work("2-D C 4096^2 K=512", "addmm", bf16, (4096, 4096), (4096, 512), (512, 4096))
        for count, n in ((100000, 4), (20000, 16), (4096, 32), (64, 512)):
            yield product_work(f"{count}x{n}^3", "bmm", f32, (count, n, n), (count, n, n))
        yield product_work("broadcast", "matmul", f32, (16, 1, 128, 256), (1, 16, 256, 128))
        yield product_work("4096x1024x1024", "linear", f32, (4096, 1024), (1024, 1024), (1024,))
    elif family == "complex":
        for dtype, n in itertools.product(FAMILIES["complex"], (512, 1024)):
            yield product_work(f"{n}^3", "mm", dtype, (n, n), (n, n))
    elif family == "integer":
        for dtype, n in itertools.product(FAMILIES["integer"], (512, 2048)):
            yield product_work(f"{n}^3", "mm", dtype, (n, n), (n, n))
    elif family == "add":
        n = 1 << 13
        for dtype in (f32, bf16, torch.int64):
            yield product_work("8192^2", "add", dtype, (n, n), (n, n))
        yield product_work("8192^2 + row", "add", f32, (n, n), (n,))
        yield product_work("8192^2 transposed", "add", f32, (n, n), (n, n), flip="b")
        yield product_work("1000", "add", f32, (1000,), (1000,))


def timing_cases(family: str) -> Iterator[Case]:
    for work in timing_works(family):
        yield work.name, partial(timed, work=work)


# ---- Peak memory -----------------------------------------------------------------------------------------------------


def peak_bytes(device: Device, call: Call, arguments: tuple[Tensor, ...]) -> int:
    """Bytes allocated during a call beyond what was there before, the result included."""
    if device.dry:
        call(*arguments)
        return 0
    call(*arguments)  # workspaces that stay
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*arguments)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def memory(device: Device, work: Work) -> dict[str, Any]:
    arguments = work.make(device)
    ours, native = peak_bytes(device, work.ours, arguments), peak_bytes(device, work.native, arguments)
    result = work.native(*arguments).nbytes
    assert device.dry or ours <= result + (1 << 20), f"{ours} bytes for a result of {result}"
    return {"ours_mib": ours / 2**20, "native_mib": native / 2**20, "result_mib": result / 2**20}


def memory_cases(family: str) -> Iterator[Case]:
    works = {
        "float": [
            product_work("2-D C", "addmm", torch.float32, (4096, 4096), (4096, 64), (64, 4096)),
            product_work("broadcast", "matmul", torch.float32, (16, 1, 256, 512), (1, 16, 512, 256)),
            product_work("tt", "mm", torch.bfloat16, (4097, 2047), (2047, 4097), flip="ab"),
        ],
        "integer": [product_work("2048^3", "mm", torch.int32, (2048, 2048), (2048, 2048))],
        "add": [product_work("transposed", "add", torch.float32, (4096, 4096), (4096, 4096), flip="b")],
    }
    for work in works.get(family, []):
        yield work.name, partial(memory, work=work)
