"""What benchmarks/gpu.py checks: the cases of smoke, correctness and graphs. Not here: processes and output (gpu.py),
timing and memory (gpu_timing.py).

A case takes a Device and returns a dictionary of what it measured; it raises AssertionError where a promise is broken.
On a dry run the device is the CPU and shapes shrink, so that every line here runs without a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import myops
import myops.compile
from myops.activation import ACTIVATIONS, apply

FAMILIES = {
    "float": [torch.float32, torch.float64, torch.bfloat16, torch.float16],
    "complex": [torch.complex64, torch.complex128],
    "integer": [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64],
}
WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.int8: torch.int32, torch.uint8: torch.int32}


@dataclass(frozen=True)
class Device:
    name: str  # "cuda", or "cpu" on a dry run
    dry: bool
    seconds: float = 1.0  # that a timed case measures

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def size(self, n: int) -> int:
        """A side, shrunk on a dry run."""
        return min(n, 24 + n % 8) if self.dry else n


Case = tuple[str, Callable[[Device], dict[str, Any]]]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether torch and myops may round float32 operands to TF32."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def whole(device: Device, *shape: int, dtype: torch.dtype, seed: int = 0, limit: int = 3) -> Tensor:
    """Small whole numbers, so that sums are exact; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(0 if dtype == torch.uint8 else -limit, limit + 1, shape, generator=generator)
    if dtype.is_complex:
        t = torch.complex(t.double(), t.roll(1).double())
    return t.to(dtype).to(device.name)


def random(device: Device, *shape: int, dtype: torch.dtype, every_value: bool = False) -> Tensor:
    """Integers from 0 to 99, or from the whole range of their dtype; other numbers of a normal distribution."""
    if not dtype.is_floating_point and not dtype.is_complex:
        low, high = (torch.iinfo(dtype).min, torch.iinfo(dtype).max) if every_value else (0, 100)
        return torch.randint(low, high, shape, dtype=dtype, device=device.name)
    if dtype.is_complex or dtype == torch.float64:
        return torch.randn(*shape, device=device.name, dtype=dtype)
    return torch.randn(*shape, device=device.name).to(dtype)


def exact(c: Tensor | None, a: Tensor, b: Tensor, beta: float = 0, alpha: float = 1) -> Tensor:
    """The product of whole numbers on the CPU, in a type that holds it."""
    wide = torch.complex128 if a.is_complex() else torch.float64 if a.is_floating_point() else torch.int64
    result = (a.cpu().to(wide) @ b.cpu().to(wide)) * alpha
    return result if c is None or beta == 0 else result + c.cpu().to(wide) * beta


def equal(actual: Tensor, expected: Tensor) -> None:
    expected = expected.to(actual.dtype)
    got = actual.cpu().resolve_conj()
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    wrong = int((got != expected).sum())
    assert wrong == 0, f"{wrong} of {got.numel()} elements differ"


# ---- smoke -----------------------------------------------------------------------------------------------------------


def smoke_library(device: Device) -> dict[str, Any]:
    assert myops.is_available(device.name), myops.build_info()[device.name]
    return {k: str(v) for k, v in myops.build_info().items()}


def smoke_dispatch(device: Device) -> dict[str, Any]:
    a = torch.ones(40, 30, device=device.name)
    equal(myops.mm(a, a.t()), torch.full((40, 40), 30.0))
    equal(myops.add(a, a, alpha=2), torch.full((40, 30), 3.0))
    equal(torch.ops.myops.mm(a, a.t()), torch.full((40, 40), 30.0))
    x = a.clone().requires_grad_()
    myops.mm(x, a.t()).sum().backward()
    assert x.grad is not None
    equal(x.grad, torch.full((40, 30), 40.0))
    return {}


def smoke_switch(device: Device) -> dict[str, Any]:
    """A model under the switch and compiled, and native sparse tensors, against torch."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 32)).to(device.name)
    x = torch.randn(48, 64, device=device.name)
    expected = model(x)
    with myops.use(strict=True):
        torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=myops.compile.backend)(x), expected)
    a = torch.randn(64, 64, device=device.name).relu()
    for sparse in (a.to_sparse_coo(), a.to_sparse_csr()):
        with myops.use(strict=True):
            torch.testing.assert_close(torch.sparse.mm(sparse, x.t()), a @ x.t())
        torch.testing.assert_close(myops.sparse.mm(sparse, x.t()), a @ x.t())
    return {}


def smoke_cases(family: str) -> Iterator[Case]:
    yield "library", smoke_library
    yield "dispatch", smoke_dispatch
    yield "switch", smoke_switch


# ---- correctness -----------------------------------------------------------------------------------------------------


def layouts(t: Tensor) -> list[Tensor]:
    """The same values contiguous, transposed in memory, and strided with poison in between."""
    poison = float("nan") if t.is_floating_point() or t.is_complex() else 77
    buffer = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), poison, dtype=t.dtype, device=t.device)
    buffer[..., 1::2] = t
    return [t, t.mT.contiguous().mT, buffer[..., 1::2]]


def product_exact(device: Device, dtype: torch.dtype, shape: tuple[int, int, int]) -> dict[str, Any]:
    m, n, k = shape
    a, b = whole(device, m, k, dtype=dtype, seed=1), whole(device, k, n, dtype=dtype, seed=2)
    c = whole(device, m, n, dtype=dtype, seed=3)
    equal(myops.mm(a, b), exact(None, a, b))
    expected = exact(c, a, b, 2, -3)
    for x, y, z in itertools.product(layouts(a), layouts(b), layouts(c)):
        equal(myops.addmm(z, x, y, beta=2, alpha=-3), expected)
    if dtype in WIDE:
        equal(myops.mm(a, b, out_dtype=WIDE[dtype]), exact(None, a, b))
    return {}


def product_edges(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    a, b = whole(device, 70, 33, dtype=dtype, seed=1), whole(device, 33, 45, dtype=dtype, seed=2)
    c = whole(device, 70, 45, dtype=dtype, seed=3)
    equal(myops.addmm(c, a[:, :0], b[:0], beta=3), c.cpu() * 3)
    equal(myops.mm(a[:, :0], b[:0]), torch.zeros(70, 45))
    assert myops.mm(a[:0], b).shape == (0, 45)
    if dtype.is_floating_point or dtype.is_complex:
        nan = [torch.full_like(t, float("nan")) for t in (a, b, c)]
        equal(myops.addmm(nan[2], a, b, beta=0), exact(None, a, b))
        equal(myops.addmm(c, nan[0], nan[1], alpha=0), c.cpu())
    canary = torch.full((76, 64), 9, dtype=dtype, device=device.name)
    places = [(slice(3, 73), slice(2, 47)), (slice(3, 73), slice(45)), (slice(3, 4), slice(45))]
    for (rows, columns), invariant in itertools.product(places, (False, True)):
        place = canary[rows, columns]
        with myops.use((), batch_invariant=invariant):  # on a Hopper wgmma alone
            myops.mm(a[: len(place)], b, out=place)
        equal(place, exact(None, a[: len(place)], b))
        place.fill_(9)
        assert bool((canary == 9).all()), f"something outside of [{rows}, {columns}] was written"
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.full((70, 40), float("nan"), dtype=dtype, device=device.name)
        wide[:, :33] = a
        equal(myops.mm(wide[:, :33], b), exact(None, a, b))
    square = a[:33, :33].contiguous()
    expected = exact(square, square, square, 2, 1)
    equal(myops.addmm(square, square, square, beta=2, out=square), expected)
    if dtype.is_complex:
        equal(myops.mm(a.conj(), b.conj().clone().conj()), exact(None, a.cpu().conj().resolve_conj(), b))
    return {}


def product_batches(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    a, b = whole(device, 5, 9, 17, dtype=dtype, seed=1), whole(device, 5, 17, 33, dtype=dtype, seed=2)
    c = whole(device, 9, 33, dtype=dtype, seed=3)
    equal(myops.baddbmm(c, a, b, beta=2), exact(c, a, b, 2))
    equal(myops.bmm(a, b[:1].expand(5, 17, 33)), exact(None, a, b[:1]))
    x = whole(device, 2, 1, 2, 1, 2, 1, 3, 4, dtype=dtype, seed=4)
    y = whole(device, 1, 2, 1, 2, 1, 2, 4, 5, dtype=dtype, seed=5)
    equal(myops.matmul(x, y), exact(None, x, y))
    weight, bias = whole(device, 35, 17, dtype=dtype, seed=6), whole(device, 35, dtype=dtype, seed=7)
    equal(myops.linear(a, weight, bias), exact(bias, a, weight.t(), 1))
    count = 100 if device.dry else 70000
    s, t = whole(device, count, 2, 3, dtype=dtype, seed=8), whole(device, count, 3, 2, dtype=dtype, seed=9)
    equal(myops.bmm(s, t), exact(None, s, t))
    return {}


def product_error(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(1)
    n, k = device.size(513), device.size(1025)
    precise = torch.complex128 if dtype.is_complex else torch.float64
    a, b, c = (random(device, *s, dtype=dtype) for s in ((n, k), (k, n), (n, n)))
    reference = 0.5 * c.to(precise) + a.to(precise) @ b.to(precise)

    def error(t: Tensor) -> float:
        return float((t.to(precise) - reference).abs().max() / reference.abs().max())

    ours, native = error(myops.addmm(c, a, b, beta=0.5)), error(torch.addmm(c, a, b, beta=0.5))
    bound = 1e-13 if dtype in (torch.float64, torch.complex128) else 2 * native + 1e-6
    assert ours <= bound, f"error {ours:.3g}, native {native:.3g}"
    return {"error": ours, "native_error": native}


def product_bits(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    a, b = (random(device, device.size(515), device.size(515), dtype=dtype) for _ in range(2))
    first = myops.mm(a, b)
    for _ in range(20):
        assert torch.equal(myops.mm(a, b), first), "a second run gave other bits"
    with myops.use((), batch_invariant=True):
        whole = myops.mm(a, b)
        for rows in (1, 2, 16, 17, 33, 129):
            assert torch.equal(myops.mm(a[:rows], b), whole[:rows]), f"rows depend on M, {rows} rows"
        assert torch.equal(myops.mm(a, b[:, 3:40]), whole[:, 3:40]), "columns depend on N and the strides"
    return {}


def product_beyond_2_31(device: Device) -> dict[str, Any]:
    rows, k = (70, 32) if device.dry else (70000, 32768)  # 2.3e9 elements of one byte
    a = torch.ones(rows, k, dtype=torch.int8, device=device.name)
    a[-1] = 3
    got = myops.mm(a, torch.ones(k, 8, dtype=torch.int8, device=device.name), out_dtype=torch.int32)
    equal(got[-1], torch.full((8,), 3 * k))
    equal(got[:-1].amin(), torch.tensor(k))
    return {}


def product_activations(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    """Every activation at the end of a large product with a bias, against float64."""
    m, n, k = (device.size(side) for side in (515, 260, 384))
    x, w, bias = (random(device, *shape, dtype=dtype) for shape in ((m, k), (n, k), (n,)))
    products = torch.nn.functional.linear(*(t.double() for t in (x, w, bias)))
    for index, name in enumerate(ACTIVATIONS):
        got, expected = myops.linear(x, w, bias, name).double(), apply(index, products)
        worst = float((got - expected).abs().max() / expected.abs().max())
        assert worst <= 4 * torch.finfo(dtype).eps * (8 if dtype.itemsize > 2 else 1), f"{name}: off by {worst:.3g}"
    return {}


def add_exact(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    x, y = whole(device, 33, 1, 40, dtype=dtype, seed=1), whole(device, 5, 40, dtype=dtype, seed=2)
    for u, v in itertools.product(layouts(x), layouts(y)):
        equal(myops.add(u, v, alpha=2), torch.add(x.cpu(), y.cpu(), alpha=2))
    flat = whole(device, 100003, dtype=dtype, seed=3)
    equal(myops.add(flat, flat), flat.cpu() * 2)
    equal(myops.add(flat[1:], flat[:-1]), flat.cpu()[1:] + flat.cpu()[:-1])
    equal(myops.add(flat, 3), flat.cpu() + 3)
    for other in (torch.int8, torch.float32, torch.bfloat16, torch.complex64, torch.bool):
        z = whole(device, 40, dtype=torch.int64, seed=4).abs().to(other)
        expected = torch.add(x.cpu(), z.cpu())
        got = myops.add(x, z)
        assert got.dtype == expected.dtype
        equal(got, expected)
    return {}


def correctness_cases(family: str) -> Iterator[Case]:
    if family == "add":
        for dtype in itertools.chain.from_iterable(FAMILIES.values()):
            yield f"add {short(dtype)}", partial(add_exact, dtype=dtype)
        return
    for dtype in FAMILIES[family]:
        for shape in [(1, 1, 1), (1, 257, 65), (31, 33, 17), (128, 128, 64), (129, 257, 63), (300, 500, 40)]:
            yield f"exact {short(dtype)} {shape}", partial(product_exact, dtype=dtype, shape=shape)
        yield f"edges {short(dtype)}", partial(product_edges, dtype=dtype)
        yield f"batches {short(dtype)}", partial(product_batches, dtype=dtype)
        yield f"bits {short(dtype)}", partial(product_bits, dtype=dtype)
        if dtype.is_floating_point or dtype.is_complex:
            yield f"error {short(dtype)}", partial(product_error, dtype=dtype)
        if dtype.is_floating_point:
            yield f"activations {short(dtype)}", partial(product_activations, dtype=dtype)
    if family == "integer":
        yield "beyond 2^31 elements", product_beyond_2_31


# ---- graphs and streams ----------------------------------------------------------------------------------------------


def graph_replay(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    a, b = (whole(device, 65, 65, dtype=dtype, seed=s) for s in (1, 2))
    out = torch.zeros_like(a)

    def step() -> None:
        myops.addmm(a, a, b, out=out)
        myops.add(out, a, out=out)

    if device.dry:
        step()
    else:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        a.copy_(whole(device, 65, 65, dtype=dtype, seed=3))
        graph.replay()
    equal(out, exact(a, a, b, 2))
    return {}


def side_stream(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    """The kernel must queue behind slow work of its own stream, and not run on the default one."""
    a = whole(device, 65, 65, dtype=dtype, seed=1)
    if device.dry:
        equal(myops.mm(a, a), exact(None, a, a))
        return {}
    b, stream = torch.zeros_like(a), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        b.copy_(a)
        product = myops.mm(b, b)
    stream.synchronize()
    equal(product, exact(None, a, a))
    return {}


def queued(device: Device) -> dict[str, Any]:
    """Kernels that begin while the one before them ends, and workspaces that the next product gets: nothing waits."""

    def whole_pair(m: int, k: int, n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        a = whole(device, device.size(m), device.size(k), dtype=dtype, seed=1)
        return a, whole(device, device.size(k), device.size(n), dtype=dtype, seed=2)

    pairs = [
        whole_pair(1024, 588, 1152, torch.bfloat16),  # packed first
        whole_pair(1024, 1024, 1024, torch.bfloat16),
        whole_pair(512, 500, 512, torch.int32),
        whole_pair(8, 4096, 4096, torch.bfloat16),
        whole_pair(777, 333, 555, torch.float32),
    ]
    c = whole(device, device.size(1024), device.size(1024), dtype=torch.bfloat16, seed=3)
    expected = [*(exact(None, *pair) for pair in pairs), exact(c, *pairs[1], 2)]

    def step() -> list[Tensor]:
        return [*(myops.mm(*pair) for pair in pairs), myops.addmm(c, *pairs[1], beta=2)]

    def check(results: list[Tensor]) -> None:
        for got, wanted in zip(results, expected, strict=True):
            equal(got, wanted)

    runs = [step() for _ in range(2 if device.dry else 10)]
    for results in runs:
        check(results)
    if not device.dry:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = [step() for _ in range(3)]
        for _ in range(5):
            graph.replay()
        for results in captured:
            check(results)
    return {}


def graph_cases(family: str) -> Iterator[Case]:
    if family == "float":
        yield "queued", queued
    for dtype in FAMILIES.get(family, []):
        yield f"graph {short(dtype)}", partial(graph_replay, dtype=dtype)
        yield f"side stream {short(dtype)}", partial(side_stream, dtype=dtype)
