"""What benchmarks/gpu.py measures: time and peak memory of myops beside torch. Not here: correctness (gpu_cases.py)."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import myops

from .gpu_cases import FAMILIES, Case, Device, random, short, tf32
from .gpu_kernels import product

L2_BYTES = 60 << 20  # inputs are rotated over more than this, so that a launch does not find its own data in the cache

# How far a result may be from torch's, of the largest element, before anything is timed.
CLOSE = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-4, torch.complex64: 1e-4}

CLOSE_TF32 = 2e-3

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
    check: Call | None = None  # what the result is compared with; None: native's
    tf32: bool = False  # both may round float32
    packs: bool = False  # takes memory for operands that it has to align first


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


@contextmanager
def route(mode: str) -> Iterator[None]:
    """MYOPS_CUDA_GEMM for a block: whose kernels a product takes, "own", "native" or "auto"."""
    before = os.environ.get("MYOPS_CUDA_GEMM")
    os.environ["MYOPS_CUDA_GEMM"] = mode
    try:
        yield
    finally:
        if before is None:
            del os.environ["MYOPS_CUDA_GEMM"]
        else:
            os.environ["MYOPS_CUDA_GEMM"] = before


def check_close(mine: Tensor, theirs: Tensor, rounded: bool = False) -> None:
    """theirs: torch's result, in a wider dtype where torch's own sums are not to be trusted."""
    wide = torch.complex128 if mine.is_complex() else torch.float64
    worst = float((mine.to(wide) - theirs.to(wide)).abs().max() / theirs.to(wide).abs().max().clamp_min(1e-300))
    bound = CLOSE_TF32 if rounded else CLOSE.get(mine.dtype, 1e-12)
    assert worst <= bound, f"the result is {worst:.3g} of the largest element off torch's"


def timed(device: Device, work: Work) -> dict[str, Any]:
    with tf32(work.tf32):
        return interleaved(device, work)


def interleaved(device: Device, work: Work) -> dict[str, Any]:
    """Own kernels, what `auto` chooses, and torch's, in turn."""
    first = work.make(device)
    with route("own"):
        mine, theirs = work.ours(*first), (work.check or work.native)(*first)
        if isinstance(mine, Tensor) and theirs.layout == torch.strided:  # gpu_sparse.py compares sparse results
            check_close(mine, theirs, work.tf32)
    if work.moved is not None:
        moved = work.moved(*first)
    else:
        moved = sum(t.numel() * t.element_size() for t in first) + work.native(*first).nbytes
    # What the inputs take, and not what is moved: a gather reads the rows of a small matrix many times.
    held = sum(t.nbytes for t in first if isinstance(t, Tensor) and t.layout == torch.strided)
    copies = 1 if device.dry else max(1, min(256, math.ceil(3 * L2_BYTES / max(held, 1))))
    inputs = [first] + [work.make(device) for _ in range(copies - 1)]
    while not device.dry and len(inputs) < 8:
        inputs.append(inputs[len(inputs) % copies])
    with route("own"):
        own = launch_time(device, work.ours, inputs, work.graph)
    with route("auto"):
        auto = launch_time(device, work.ours, inputs, work.graph)
    native = launch_time(device, work.native, inputs, work.graph)
    for measure in (own, auto, native):
        measure()
    ratios: list[float] = []
    auto_ratios: list[float] = []
    times: dict[str, list[float]] = {"own": [], "native": []}
    deadline = time.monotonic() + (0.01 if device.dry else device.seconds)
    while len(ratios) < 3 or (time.monotonic() < deadline and len(ratios) < 200):
        # The symmetric order cancels a drift of the clock.
        samples = [own(), native(), auto(), auto(), native(), own()]
        times["own"] += [samples[0], samples[5]]
        times["native"] += [samples[1], samples[4]]
        ratios.append((samples[1] + samples[4]) / (samples[0] + samples[5]))
        auto_ratios.append((samples[1] + samples[4]) / (samples[2] + samples[3]))
    own_seconds, native_seconds = statistics.median(times["own"]), statistics.median(times["native"])
    return {
        "ours_us": own_seconds * 1e6,
        "native_us": native_seconds * 1e6,
        "speedup": statistics.median(ratios),
        "auto_speedup": statistics.median(auto_ratios),
        "ours_tflops": work.flops / own_seconds * 1e-12,
        "ours_gbps": moved / own_seconds * 1e-9,
        "native_gbps": moved / native_seconds * 1e-9,
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


def integer_works(dtype: torch.dtype, n: int) -> Iterator[Work]:
    """Small numbers, whose upper bytes some kernels leave out, and any: then torch's result is wrong beyond 2^53."""
    small = product_work(f"{n}^3, 0 to 99", "mm", dtype, (n, n), (n, n))
    yield small
    if dtype.itemsize == 1:
        return

    def make(device: Device) -> tuple[Tensor, ...]:
        return tuple(random(device, device.size(n), device.size(n), dtype=dtype, every_value=True) for _ in range(2))

    yield replace(small, name=f"mm {short(dtype)} {n}^3, every value", make=make, check=product)


def copy_work() -> Work:
    """The bandwidth that memory-bound rows are to be compared with: one read and one write of 512 MiB, by a kernel.

    torch.clone would be a copy node of the graph, at two thirds of this.
    """

    def make(device: Device) -> tuple[Tensor, ...]:
        return (random(device, device.size(1 << 27), dtype=torch.float32),)

    return Work("copy 512 MiB", make, torch.neg, torch.neg)


def invariant_work(n: int) -> Work:
    plain = product_work(f"{n}^3 batch-invariant", "mm", torch.bfloat16, (n, n), (n, n))

    def invariant(a: Tensor, b: Tensor) -> Tensor:
        with myops.use((), batch_invariant=True):
            return myops.mm(a, b)

    return replace(plain, ours=invariant)


def activated_work(activation: str, gradients: bool, dtype: torch.dtype = torch.bfloat16) -> Work:
    """linear + bias + activation of 4096 rows, alone or with the gradients of all three arguments."""
    plain = product_work(
        f"4096x4096x1024 bias {activation}{', training' if gradients else ''}",
        "linear",
        dtype,
        (4096, 1024),
        (4096, 1024),
        (4096,),
    )
    f = getattr(torch.nn.functional, activation)
    steps: list[Call] = [partial(myops.linear, activation=activation), lambda *ts: f(plain.native(*ts))]
    if not gradients:
        return replace(plain, ours=steps[0], native=steps[1])

    def step(call: Call, *tensors: Tensor) -> Tensor:
        leaves = [t.detach().requires_grad_() for t in tensors]
        result = call(*leaves)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(result, leaves, tensors[0].new_ones(()).expand_as(result))]
        )

    ours, native = (partial(step, call) for call in steps)
    return replace(plain, ours=ours, native=native, flops=3 * plain.flops)


def timing_works(family: str) -> Iterator[Work]:
    f32, bf16, f16, f64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
    if family == "square":
        yield copy_work()
        for dtype, n in itertools.product((bf16, f16), (1024, 2048, 4096, 8192)):
            yield product_work(f"{n}^3", "mm", dtype, (n, n), (n, n))
        yield product_work("4096^3 nt", "mm", bf16, (4096, 4096), (4096, 4096), flip="b")
        yield product_work("4096^3 tt", "mm", bf16, (4096, 4096), (4096, 4096), flip="ab")
        yield invariant_work(4096)
        for n in (128, 512, 1024, 4096):
            yield product_work(f"{n}^3", "mm", f32, (n, n), (n, n))
        yield product_work("1024^3", "mm", f64, (1024, 1024), (1024, 1024))
    elif family == "epilogue":
        for dtype, k in ((bf16, 256), (bf16, 512), (bf16, 1024), (f32, 512)):
            yield product_work(f"2-D C 4096^2 K={k}", "addmm", dtype, (4096, 4096), (4096, k), (k, 4096))
        yield product_work("2-D C", "baddbmm", bf16, (64, 512, 512), (64, 512, 256), (64, 256, 512))
        for dtype in (bf16, f32):
            yield product_work("4096x1024x1024 bias", "linear", dtype, (4096, 1024), (1024, 1024), (1024,))
        for activation, gradients in itertools.product(("gelu", "silu"), (False, True)):
            yield activated_work(activation, gradients)
    elif family == "tf32":
        squares = [product_work(f"{n}^3", "mm", f32, (n, n), (n, n), flip="b") for n in (512, 1024, 2048, 4096)]
        others = [
            product_work("4096^3 nn", "mm", f32, (4096, 4096), (4096, 4096)),
            product_work("2-D C 4096^2 K=512", "addmm", f32, (4096, 4096), (4096, 512), (512, 4096)),
            product_work("K=588", "mm", f32, (9477, 588), (588, 1152)),
            product_work("K=1157", "mm", f32, (4096, 1157), (1157, 1024)),
            product_work("4096x1024x1024 bias", "linear", f32, (4096, 1024), (1024, 1024), (1024,)),
            product_work("broadcast 16x16", "matmul", f32, (16, 1, 128, 256), (1, 16, 256, 128)),
        ]
        activated = [activated_work(f, g, f32) for f, g in itertools.product(("gelu", "silu"), (False, True))]
        for work in [*squares, *others, *activated]:
            yield replace(work, name=f"tf32 {work.name}", tf32=True)
    elif family == "odd":
        for dtype in (bf16, f16):
            yield product_work("K=588", "mm", dtype, (9477, 588), (588, 1152))
        yield product_work("K=1157", "mm", bf16, (4096, 1157), (1157, 1024))
        yield product_work("N=1157", "mm", bf16, (4096, 1024), (1024, 1157))
        yield product_work("K=588 nt", "mm", bf16, (9477, 588), (588, 1152), flip="b")
        yield product_work("1023^3", "mm", bf16, (1023, 1023), (1023, 1023))
    elif family == "decode":
        for m, (k, n) in itertools.product((1, 2, 4, 8, 16), ((4096, 4096), (7168, 2112))):
            yield product_work(f"M={m} K={k} N={n} nt", "mm", bf16, (m, k), (k, n), flip="b")
        for m in (1, 8):
            yield product_work(f"M={m} K=4096 N=14336 nt", "mm", bf16, (m, 4096), (4096, 14336), flip="b")
            yield product_work(f"M={m} K=4096 N=4096", "mm", bf16, (m, 4096), (4096, 4096))
            yield product_work(f"M={m} K=4096 N=4096", "mm", f32, (m, 4096), (4096, 4096))
        yield product_work("M=1 K=7168 N=576 nt", "mm", bf16, (1, 7168), (7168, 576), flip="b")
        yield product_work("N=1", "mm", f32, (16384, 4096), (4096, 1))
        for dtype in (f32, bf16, torch.complex64):
            yield product_work("inner, K=2^20", "mm", dtype, (1, 1 << 20), (1 << 20, 1))
        yield product_work("M=32 K=4096 N=1024 nt", "mm", f32, (32, 4096), (4096, 1024), flip="b")
        yield product_work("M=33 K=2^18 N=33", "mm", bf16, (33, 1 << 18), (1 << 18, 33))
    elif family == "batch":
        for n in (4, 8, 16, 32):
            yield product_work(f"100000x{n}^3", "bmm", f32, (100000, n, n), (100000, n, n))
        yield product_work("100000x3^3", "bmm", f32, (100000, 3, 3), (100000, 3, 3))
        yield product_work("100000x8x8x65", "bmm", f32, (100000, 8, 65), (100000, 65, 8))
        yield product_work("4096x49x32x49", "bmm", bf16, (4096, 49, 32), (4096, 32, 49))
        yield product_work("512x1x8192x64", "bmm", f32, (512, 1, 8192), (512, 8192, 64))
        yield product_work("100000x16^3", "bmm", bf16, (100000, 16, 16), (100000, 16, 16))
        yield product_work("100000x4^3, one B", "matmul", f32, (100000, 4, 4), (1, 4, 4))
        for dtype in (f32, bf16):
            yield product_work("broadcast 16x16", "matmul", dtype, (16, 1, 128, 256), (1, 16, 256, 128))
        yield product_work("8x1024^3", "bmm", bf16, (8, 1024, 1024), (8, 1024, 1024))
        yield product_work("64x512x64x512", "bmm", bf16, (64, 512, 64), (64, 64, 512))
        yield product_work("decode attention", "bmm", bf16, (512, 1, 128), (512, 128, 2048))
    elif family == "integer":
        for dtype, n in itertools.product((torch.int8, torch.int16, torch.int32, torch.int64), (512, 2048)):
            yield from integer_works(dtype, n)
    elif family == "rest":
        for dtype, n in itertools.product(FAMILIES["complex"], (512, 1024)):
            yield product_work(f"{n}^3", "mm", dtype, (n, n), (n, n))
        n = 1 << 13
        for dtype in (f32, bf16, torch.int64):
            yield product_work("8192^2", "add", dtype, (n, n), (n, n))
        yield product_work("8192^2 + row", "add", f32, (n, n), (n,))
        yield product_work("8192^2 transposed", "add", f32, (n, n), (n, n), flip="b")


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
    with route("own"):
        ours = peak_bytes(device, work.ours, arguments)
    native = peak_bytes(device, work.native, arguments)
    result = work.native(*arguments).nbytes
    # Rows that are not aligned are packed first: as many bytes again as the operands have.
    packed = sum(t.nbytes for t in arguments) * (17 / 16) if work.packs else 0
    assert device.dry or ours <= result + packed + (2 << 20), f"{ours} bytes for a result of {result}"
    return {"ours_mib": ours / 2**20, "native_mib": native / 2**20, "result_mib": result / 2**20}


def memory_cases(family: str) -> Iterator[Case]:
    works = {
        "float": [
            product_work("2-D C", "addmm", torch.float32, (4096, 4096), (4096, 64), (64, 4096)),
            product_work("broadcast", "matmul", torch.float32, (16, 1, 256, 512), (1, 16, 512, 256)),
            replace(product_work("tt", "mm", torch.bfloat16, (4097, 2047), (2047, 4097), flip="ab"), packs=True),
        ],
        "integer": [replace(product_work("2048^3", "mm", torch.int32, (2048, 2048), (2048, 2048)), packs=True)],
        "add": [product_work("transposed", "add", torch.float32, (4096, 4096), (4096, 4096), flip="b")],
    }
    for work in works.get(family, []):
        yield work.name, partial(memory, work=work)
