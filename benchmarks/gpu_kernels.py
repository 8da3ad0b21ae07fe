"""What benchmarks/gpu.py knows of single kernels: each against float64, and each against the others.

Reaches kernels/cuda/gemm/by_name.cpp through ctypes, so that a kernel runs whether or not the plan would choose it. On
a dry run the library is the emulated one (tests/emulation). Not here: operators (gpu_cases.py), torch's times
(gpu_timing.py).
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from myops import _libraries

from .gpu_cases import Case, Device, equal, layouts, random, short, tf32, whole

TILES = ["small tile", "narrow tile", "medium tile", "large tile"]
KERNELS = [*TILES, "skinny", "tiny", "small mma", "large mma"]
WGMMA = ["narrow wgmma", "small wgmma", "large wgmma", "pingpong wgmma"]
LIMB = ["small limb", "large limb"]
KERNELS += [*WGMMA, *LIMB]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
DTYPES = {
    "narrow tile": [torch.float32],
    "medium tile": [torch.float32],
    "skinny": FLOATS,
    "tiny": FLOATS,
    "mma": [*HALVES, torch.float32, torch.int8, torch.uint8],
    "wgmma": [*HALVES, torch.float32, *INTEGERS],
    "pingpong wgmma": [*HALVES, torch.float32],
    "limb": INTEGERS,
}
SHAPES = {  # batch, M, N, K: whole tiles, tails of every side, more steps of K than stages, unaligned rows
    "tile": [(1, 128, 128, 64), (2, 129, 257, 65), (1, 1, 300, 17)],
    "skinny": [(1, 1, 4096, 4096), (1, 16, 1000, 3000), (3, 5, 130, 1155), (1, 777, 8, 2050), (1, 3, 64, 100000)],
    "tiny": [(1000, 4, 4, 4), (1000, 3, 5, 7), (777, 8, 8, 8), (300, 16, 16, 16), (300, 32, 32, 32), (99, 20, 32, 50)],
    "mma": [(1, 128, 128, 64), (1, 256, 384, 512), (2, 130, 264, 72), (1, 65, 33, 37), (1, 300, 1000, 1157)],
    "wgmma": [(1, 128, 128, 64), (1, 256, 512, 1024), (2, 130, 264, 72), (1, 65, 33, 37), (1, 3000, 2000, 1160)],
    "limb": [(1, 128, 128, 64), (1, 256, 384, 512), (2, 130, 264, 72), (1, 65, 33, 37), (1, 20, 70, 9000)],
}


@cache
def library(dry: bool) -> ctypes.CDLL:
    if dry:
        from tests.emulation import build

        found = ctypes.CDLL(str(build.build()))
        found.emulation_machine(132, 90)
    else:
        _libraries.require()
        found = ctypes.CDLL(str(_libraries._CUDA_LIBRARY))
    found.myops_cuda_gemm.restype = found.myops_cuda_plan.restype = ctypes.c_char_p
    return found


class ByName:
    """D = f(A @ B + C) of 3-D operands by a named kernel, ready to be called again and again.

    activation: f, as the operators count them.
    """

    def __init__(
        self, device: Device, kernel: str, a: Tensor, b: Tensor, c: Tensor | None = None, activation: int = 0
    ) -> None:
        batch, m, k = a.shape
        n = b.shape[2]
        poison = float("nan") if a.is_floating_point() else 77
        self.out = torch.full((batch, m, n), poison, dtype=a.dtype, device=a.device)
        self.operands = (a, b, self.out)  # keeps them alive
        self.c, self.activation = c, activation
        self.device, self.kernel = device, kernel
        # Both operands packed, with rounded pitches, and what skinny keeps of split sums.
        room = 2 * (a.numel() + b.numel()) * a.element_size() + 64 * (m + n + k + 512) * min(batch, 64) * 16 + (1 << 24)
        self.workspace = torch.full((room,), 0xFF, dtype=torch.uint8, device=a.device)
        self.sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
        views = self.operands if c is None else (*self.operands, c.expand(self.out.shape))
        self.strides = (ctypes.c_int64 * (3 * len(views)))(
            *(s for t in views for s in (t.stride(1), t.stride(2), t.stride(0)))
        )

    def __call__(self) -> str:
        stream = 0 if self.device.dry else torch.cuda.current_stream().cuda_stream
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*self.operands, self.workspace)]
        text = (
            library(self.device.dry)
            .myops_cuda_gemm(
                _libraries.DTYPE_CODES[self.out.dtype], self.sizes, self.strides, *pointers[:3],
                ctypes.c_void_p(None if self.c is None else self.c.data_ptr()), None, self.activation,
                self.kernel.encode(), ctypes.c_int64(2**31 - 1), pointers[3], ctypes.c_int64(self.workspace.numel()),
                ctypes.c_void_p(stream),
            )
            .decode()
        )  # fmt: skip
        assert not text.startswith("error: "), text
        return text


def operand(device: Device, *shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Whole numbers: of floats small, so that sums are exact; of integers all, because sums are modular.

    Half of the rows of integers are small, whose upper bytes some kernels leave out.
    """
    if dtype.is_floating_point:
        return whole(device, *shape, dtype=dtype, seed=seed)
    info = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(info.min, info.max, shape, dtype=dtype, generator=generator)
    t[..., : shape[-2] // 2, :].remainder_(100).sub_(0 if dtype == torch.uint8 else 50)
    return t.to(device.name)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Of whole numbers, exact: in float64 on the operands' device, integers 16 bits at a time, modulo their width."""
    if a.is_floating_point():
        return a.double() @ b.double()
    digits = (a.element_size() + 1) // 2

    def digit(t: Tensor, i: int) -> Tensor:
        return (t.to(torch.int64) >> 16 * i & 0xFFFF).double()

    pairs = [(i, j) for i in range(digits) for j in range(digits - i)]
    result = torch.zeros((), dtype=torch.int64, device=a.device)
    for i, j in pairs:
        result = result + ((digit(a, i) @ digit(b, j)).to(torch.int64) << 16 * (i + j))
    return result.to(a.dtype)


def kernel_exact(device: Device, kernel: str, dtype: torch.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    """Whole numbers, bit for bit, in every pair of layouts; twice, because a race may miss once."""
    batch, m, n, k = shape if not device.dry else (min(shape[0], 3), *(min(s, 40 + s % 8) for s in shape[1:]))
    a, b = operand(device, batch, m, k, dtype=dtype, seed=1), operand(device, batch, k, n, dtype=dtype, seed=2)
    expected = product(a, b)
    for (i, x), (j, y) in itertools.product(enumerate(layouts(a)), enumerate(layouts(b))):
        call = ByName(device, kernel, x, y)
        for _ in range(2):
            plan = call()
            try:
                equal(call.out, expected.to(dtype).cpu())
            except AssertionError as error:
                names = ("contiguous", "transposed", "strided")
                raise AssertionError(f"A {names[i]}, B {names[j]}: {error}; {plan}") from None
            call.out.fill_(0)
    return {"plan": plan}


def kernel_error(device: Device, kernel: str, dtype: torch.dtype) -> dict[str, Any]:
    """Random numbers: the error against float64 is at most twice that of torch's kernel. 30 runs give the same bits.

    float32 on tensor cores is TF32, for torch too; its CPU kernels, on a dry run, have none.
    """
    m, n, k = {"skinny": (7, 1000, 4096), "tiny": (30, 30, 60)}.get(kernel, (515, 776, 1032))
    m, n, k = (device.size(s) if s > 64 else s for s in (m, n, k))
    batch = device.size(500) if kernel == "tiny" else 1
    torch.manual_seed(1)
    a, b = random(device, batch, m, k, dtype=dtype), random(device, batch, k, n, dtype=dtype)
    call, reference = ByName(device, kernel, a, b), a.double() @ b.double()
    call()
    first = call.out.clone()

    def error(t: Tensor) -> float:
        return float((t.double() - reference).abs().max() / reference.abs().max())

    rounds = dtype == torch.float32 and kernel.endswith("mma")
    with tf32(rounds):
        ours, native = error(first), error(a @ b)
    slack = 1e-3 if rounds and device.dry else 1e-13 if dtype == torch.float64 else 1e-6
    assert ours <= 2 * native + slack, f"error {ours:.3g}, native {native:.3g}"
    for _ in range(2 if device.dry else 30):
        call()
        assert torch.equal(call.out, first), "another run gave other bits"
    return {"error": ours, "native_error": native}


def kernel_rows(device: Device, kernel: str, dtype: torch.dtype) -> dict[str, Any]:
    """A row has the same bits whatever M, within one family of kernels and over its tiles."""
    torch.manual_seed(2)
    rows, k = device.size(700), device.size(1032)
    a, b = random(device, 1, rows, k, dtype=dtype), random(device, 1, k, device.size(520), dtype=dtype)
    call = ByName(device, kernel, a, b)
    call()
    others = WGMMA if kernel.endswith("wgmma") else [kernel, kernel.replace("small", "large")]
    for other, m in itertools.product(others, (1, 17, 64, rows - 1)):
        part = ByName(device, other, a[:, :m], b)
        part()
        assert torch.equal(part.out, call.out[:, :m]), f"{m} rows by {other} have other bits"
    return {}


def dtypes_of(kernel: str) -> list[torch.dtype]:
    found = DTYPES.get(kernel) or DTYPES.get(kernel.split()[-1], [*FLOATS, torch.int32])
    return [t for t in found if (kernel, t) != ("large wgmma", torch.int64)]  # its sums do not fit in registers


def kernel_cases(kind: str) -> Iterator[Case]:
    kernels = [kernel for kernel in KERNELS if kernel.split()[-1] == kind]
    for kernel, dtype in [(name, dtype) for name in kernels for dtype in dtypes_of(name)]:
        for shape in SHAPES[kind]:
            yield f"{kernel} {short(dtype)} {shape}", partial(kernel_exact, kernel=kernel, dtype=dtype, shape=shape)
        if dtype.is_floating_point:
            yield f"{kernel} {short(dtype)} error", partial(kernel_error, kernel=kernel, dtype=dtype)
        if kernel.startswith("small") and dtype.is_floating_point:
            yield f"{kernel} {short(dtype)} rows", partial(kernel_rows, kernel=kernel, dtype=dtype)


def sanitizer_cases(tool: str) -> Iterator[Case]:
    """Every kernel once at a small shape: a tool slows it down a hundred times."""
    for kernel in KERNELS:
        kind = kernel.split()[-1]
        for dtype in (dtypes_of(kernel)[0], dtypes_of(kernel)[-1]):
            batch, m, n, k = min(SHAPES[kind], key=math.prod)
            shape = (min(batch, 70), m, n, k)
            yield f"{tool} {kernel} {short(dtype)}", partial(kernel_exact, kernel=kernel, dtype=dtype, shape=shape)


# ---- Which kernel where: what the weights and thresholds of plan.h are to be made of --------------------------------


def tuning(
    device: Device, dtype: torch.dtype, shape: tuple[int, ...], kernels: list[str], c: str = "", activation: int = 0
) -> dict[str, Any]:
    """Times of f(A @ B + C). c: "row" or "matrix"."""
    from .gpu_timing import launch_time

    batch, m, n, k = shape if not device.dry else tuple(min(s, 24) for s in shape)
    rows = {"": None, "row": 1, "matrix": m}[c]
    copies = 1 if device.dry else max(1, min(16, (180 << 20) // max(1, (m * k + k * n + m * n) * batch * 2)))
    found: dict[str, Any] = {}
    for kernel in kernels:
        calls = []
        for _ in range(copies):
            a, b = (random(device, batch, *s, dtype=dtype, every_value=True) for s in ((m, k), (k, n)))
            added = None if rows is None else random(device, batch, rows, n, dtype=dtype, every_value=True)
            calls.append(ByName(device, kernel, a, b, added, activation))
        measure = launch_time(device, lambda call: call(), [(call,) for call in calls])
        found[f"{kernel} us"] = min(measure() for _ in range(2 if device.dry else 10)) * 1e6
    return found


def tuning_cases(family: str) -> Iterator[Case]:
    squares = [(1, n, n, n) for n in (256, 512, 1024, 2048, 4096)]
    others = [(1, 9477, 1152, 588), (64, 512, 512, 64), (1, 64, 4096, 4096), (1, 17, 4096, 4096), (8, 1024, 1024, 1024)]
    for shape in squares + others:
        yield (
            f"tuning bfloat16 {shape}",
            partial(
                tuning,
                dtype=torch.bfloat16,
                shape=shape,
                kernels=["small mma", "large mma", *WGMMA],
            ),
        )
    # What the ping-pong consumers of wgmma are for: long ends beside few products.
    ends = {"row gelu": ("row", 2), "row silu": ("row", 4), "matrix": ("matrix", 0), "plain": ("", 0)}
    for (name, (c, activation)), k in itertools.product(ends.items(), (256, 512, 1024, 2048, 4096)):
        shape = (1, 4096, 4096, k)
        yield (
            f"tuning bfloat16 {shape} {name}",
            partial(tuning, dtype=torch.bfloat16, shape=shape, kernels=WGMMA[1:], c=c, activation=activation),
        )
    for dtype, shape in [(torch.bfloat16, (1, 4096, 2048, 1024)), (torch.float32, (1, 4096, 4096, 512))]:
        yield (
            f"tuning {short(dtype)} {shape} row gelu",
            partial(tuning, dtype=dtype, shape=shape, kernels=WGMMA[1:], c="row", activation=2),
        )
    for dtype, shape in itertools.product(INTEGERS, [(1, n, n, n) for n in (512, 1024, 2048)]):
        if dtype == torch.uint8:  # as int8
            continue
        mma = ["small mma", "large mma"] if dtype == torch.int8 else []
        kernels = [kernel for kernel in [*LIMB, *WGMMA, *mma] if dtype in dtypes_of(kernel)]
        yield f"tuning {short(dtype)} {shape}", partial(tuning, dtype=dtype, shape=shape, kernels=kernels)
    for shape in [(1, 128, 128, 128), *squares]:
        kernels = [*TILES, "small mma", "large mma", *WGMMA]
        yield f"tuning float32 {shape}", partial(tuning, dtype=torch.float32, shape=shape, kernels=kernels)
    for shape in [(1, 16, 4096, 4096), (1, 8, 4096, 4096), (1, 1, 4096, 4096), (512, 1, 2048, 128)]:
        yield (
            f"tuning bfloat16 few rows {shape}",
            partial(
                tuning,
                dtype=torch.bfloat16,
                shape=shape,
                kernels=["skinny", "small mma", "narrow wgmma"],
            ),
        )
    for shape in [(100000, 4, 4, 4), (20000, 16, 16, 16), (4096, 32, 32, 32)]:
        yield (
            f"tuning float32 {shape}",
            partial(tuning, dtype=torch.float32, shape=shape, kernels=["tiny", "small tile"]),
        )
