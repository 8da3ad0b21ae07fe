"""The sparse family of benchmarks/gpu.py: correctness, graphs, timing and memory of the sparse products.

Matrices are made on the CPU once a process: uniform (a mesh-like graph), power-law (a social graph: one row in a
hundred holds most entries), a pruned weight, and one full row; the class `real` has real ones too, where MYOPS_DATA
names their folder. `moved` is what the bound of the notes counts: a row of
the dense matrix for each entry, indices and values, the result (benchmarks/notes/sparse-cuda.md).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import myops
from myops.bench import sparse as matrices

from .gpu_cases import FAMILIES, Case, Device, equal, random, short, whole
from .gpu_cusparse import Product
from .gpu_timing import Work, peak_bytes, timed

Parts = tuple[Tensor, Tensor, Tensor]  # crow, col, values
ops = torch.ops.myops


@functools.lru_cache(maxsize=4)
def pattern(name: str, dry: bool) -> tuple[Tensor, Tensor, int]:
    """crow, col (int32, on the CPU) and the number of columns, as many as rows."""
    if name in matrices.REAL:
        real_crow, real_col, n = matrices.pattern(name)
        return torch.from_numpy(real_crow).int(), torch.from_numpy(real_col).int(), n
    generator = torch.Generator().manual_seed(0)
    n = 60 if dry else 100_000
    if name == "uniform":
        lengths = torch.full((n,), 4 if dry else 20)
    elif name == "power law":  # lengths of a Zipf law with exponent 1.8, cut at a tenth of the columns
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        lengths = (4 * u.pow(-1 / 0.8)).clamp(max=n // 10).long()
    elif name == "pruned":  # 10 % of a square weight
        n = 64 if dry else 4096
        lengths = torch.full((n,), n // 10)
    elif name == "full row":
        lengths = torch.full((n,), 2)
        lengths[n // 2] = n
    else:
        raise ValueError(name)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    col = torch.randint(n, (int(crow[-1]),), generator=generator)
    col[crow[n // 2] : crow[n // 2 + 1]] = torch.arange(n)[: int(lengths[n // 2])]
    # In order and once each: MKL crashes on repeated columns, and nobody says what cuSPARSE does.
    keys = (torch.repeat_interleave(torch.arange(n), lengths) * n + col).unique()
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(keys // n, minlength=n).cumsum(0)])
    return crow.int(), (keys % n).int(), n


def parts(device: Device, name: str, dtype: torch.dtype, exact: bool = False) -> Parts:
    crow, col, _ = pattern(name, device.dry)
    make = whole if exact else random
    return crow.to(device.name), col.to(device.name), make(device, col.numel(), dtype=dtype)


def native_csr(crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    n = crow.numel() - 1
    if values.is_cpu:  # a dry run: MKL has no 16-bit floats, and crashes on products of CSR with 32-bit indices
        crow, col, values = crow.long(), col.long(), values.float() if values.itemsize == 2 else values
    return torch.sparse_csr_tensor(crow, col, values, (n, n), check_invariants=False)


def native_coo(crow: Tensor, col: Tensor, values: Tensor) -> Tensor:
    n = crow.numel() - 1
    row = torch.repeat_interleave(torch.arange(n, device=crow.device), crow.diff(), output_size=col.numel())
    indices = torch.stack([row, col.long()])
    return torch.sparse_coo_tensor(indices, values, (n, n), is_coalesced=True, check_invariants=False)


# ---- correctness -----------------------------------------------------------------------------------------------------


def exact_products(device: Device, dtype: torch.dtype, name: str, index: torch.dtype) -> dict[str, Any]:
    """Against the CPU's own kernels, on whole numbers."""
    crow, col, v = parts(device, name, dtype, exact=True)
    ours = crow.to(index), col.to(index), v
    n = crow.numel() - 1
    for width in (1, 3, 16, 33, 64, 256):
        x, y = (whole(device, n, width, dtype=dtype, seed=s, limit=2) for s in (1, 2))
        (crow, col, v), on_cpu, y_on_cpu = (t.cpu() for t in ours), x.cpu(), y.cpu()
        equal(ops.spmm(*ours, x, y, beta=2, alpha=-1), ops.spmm(crow, col, v, on_cpu, y_on_cpu, beta=2, alpha=-1))
        keywords: dict[str, Any] = {"columns": n, "transpose": True}
        equal(ops.spmm(*ours, x, **keywords), ops.spmm(crow, col, v, on_cpu, **keywords))
        equal(ops.sddmm(*ours[:2], x, y), ops.sddmm(crow, col, on_cpu, y_on_cpu))
        for minimum in () if dtype.is_complex else (False, True):
            expected = ops.spmm_extremum(crow, col, v, on_cpu, minimum=minimum)
            for got, wanted in zip(ops.spmm_extremum(*ours, x, minimum=minimum), expected, strict=True):
                equal(got, wanted)
    return {}


def exact_sort(device: Device, name: str, index: torch.dtype) -> dict[str, Any]:
    crow, col, _ = parts(device, name, torch.float32)
    got = ops.csr_transpose(crow.to(index), col.to(index), crow.numel() - 1)
    expected = ops.csr_transpose(crow.cpu().to(index), col.cpu().to(index), crow.numel() - 1)
    for mine, theirs in zip(got, expected, strict=True):
        equal(mine, theirs)
    return {}


def exact_spgemm(device: Device, dtype: torch.dtype, index: torch.dtype) -> dict[str, Any]:
    """Rows of every bin: from none to tens of thousands of products."""
    k, n, b_row = 300, 20_000, 70
    lengths = torch.tensor([0, 1, 2, 5, 14, 40, 116, 117, 300, 0, 700] * (1 if device.dry else 20))
    generator = torch.Generator().manual_seed(1)
    a_crow = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(index)
    a_col = torch.randint(k, (int(a_crow[-1]),), generator=generator).to(index)
    b_crow = (torch.arange(k + 1) * b_row).to(index)
    b_col = torch.randint(n, (k * b_row,), generator=generator).to(index)
    cpu = Device("cpu", device.dry)
    a, b = whole(cpu, a_col.numel(), dtype=dtype, seed=1), whole(cpu, b_col.numel(), dtype=dtype, seed=2)
    operands = [a_crow, a_col, a, b_crow, b_col, b]
    expected = ops.spgemm(*operands, n)
    got = ops.spgemm(*(t.to(device.name) for t in operands), n)
    for mine, theirs in zip(got, expected, strict=True):
        equal(mine, theirs)
    c = whole(cpu, expected[1].numel(), dtype=dtype, seed=3, limit=1)
    shuffled = torch.cat([expected[1][s:e].flip(0) for s, e in itertools.pairwise(expected[0].tolist())])
    for c_col in (expected[1], shuffled):
        call = (*operands, expected[0], c_col, c)
        theirs = ops.spgemm_backward(*call, n)
        for x, y in zip(ops.spgemm_backward(*(t.to(device.name) for t in call), n), theirs, strict=True):
            equal(x, y)
    return {}


def same_bits(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    for name in ("power law", "full row"):
        p = parts(device, name, dtype)
        n = p[0].numel() - 1
        x = random(device, n, 64, dtype=dtype)
        first = [ops.spmm(*p, x), ops.sddmm(*p[:2], x, x), ops.spmm(*p, x, columns=n, transpose=True)]
        for _ in range(20):
            again = [ops.spmm(*p, x), ops.sddmm(*p[:2], x, x), ops.spmm(*p, x, columns=n, transpose=True)]
            assert all(map(torch.equal, again, first)), f"{name}: a second run gave other bits"
    small = "pruned" if device.dry else "uniform"
    p = parts(device, small, dtype)
    product = ops.spgemm(*p, *p, p[0].numel() - 1)
    for _ in range(5):
        assert all(map(torch.equal, ops.spgemm(*p, *p, p[0].numel() - 1), product)), "spgemm: other bits"
    return {}


def bad_indices(device: Device) -> dict[str, Any]:
    """Found by what waits for its result, without losing the context."""
    crow, col = torch.tensor([0, 1, 3], device=device.name), torch.tensor([0, 1, 3], device=device.name)
    for call in (
        lambda: ops.csr_transpose(crow, col, 3),
        lambda: myops.CSR(crow, col, torch.ones(3, device=device.name), (2, 3), check_invariants=True),
    ):
        message = ""
        try:
            call()
        except RuntimeError as error:
            message = str(error)
        assert "outside [0, 3)" in message, f"an index outside the matrix was not found: {message!r}"
    return {}


def correctness_cases(family: str) -> Iterator[Case]:
    for dtype in itertools.chain.from_iterable(FAMILIES.values()):
        index = torch.int64 if dtype.itemsize in (1, 8) else torch.int32
        for name in ("uniform", "power law", "full row"):
            yield f"exact {name} {short(dtype)}", partial(exact_products, dtype=dtype, name=name, index=index)
        yield f"spgemm {short(dtype)}", partial(exact_spgemm, dtype=dtype, index=index)
    for name, index in itertools.product(("uniform", "power law", "full row"), (torch.int32, torch.int64)):
        yield f"transpose {name} {short(index)}", partial(exact_sort, name=name, index=index)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"bits {short(dtype)}", partial(same_bits, dtype=dtype)
    yield "bad indices", bad_indices


# ---- graphs ----------------------------------------------------------------------------------------------------------


def graph_replay(device: Device, dtype: torch.dtype) -> dict[str, Any]:
    crow, col, v = parts(device, "full row", dtype, exact=True)
    n = crow.numel() - 1
    ready = ops.csr_transpose(crow, col, n)
    x = whole(device, n, 32, dtype=dtype, seed=1, limit=1)
    results: list[Tensor] = []

    def step() -> None:
        results[:] = [
            ops.spmm(crow, col, v, x),
            ops.sddmm(crow, col, x, x),
            ops.spmm(crow, col, v, x, None, *ready, columns=n, transpose=True),
            *ops.csr_transpose(crow, col, n),
        ]

    if device.dry:
        step()
    else:
        with torch.cuda.stream(torch.cuda.Stream()):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        x.copy_(whole(device, n, 32, dtype=dtype, seed=2, limit=1))
        graph.replay()
    captured = [t.clone() for t in results]
    step()
    for got, expected in zip(captured, results, strict=True):
        equal(got, expected.cpu())
    return {}


def graph_cases(family: str) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.complex64, torch.int32):
        yield f"graph {short(dtype)}", partial(graph_replay, dtype=dtype)


# ---- timing ----------------------------------------------------------------------------------------------------------

# Ours and native, of the same arguments. x stands for the outer gradient too.


def native_mm(crow: Tensor, col: Tensor, v: Tensor, x: Tensor) -> Tensor:
    return torch.sparse.mm(native_csr(crow, col, v), x.float() if x.is_cpu and x.itemsize == 2 else x)


def in_float32(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, *others: Any) -> Tensor:
    """cuSPARSE rounds 16-bit sums of long rows more than once."""
    return torch.sparse.mm(native_csr(crow, col, v.float()), x.float())


def only_parts(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, other: Any) -> Tensor:
    return ops.spmm(crow, col, v, x)


def prepared(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, product: Product) -> Tensor:
    return product()


def native_from_coo(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, coo: Tensor) -> Tensor:
    return torch.sparse.mm(coo, x)


def sampled(crow: Tensor, col: Tensor, v: Tensor, x: Tensor) -> Tensor:
    return ops.sddmm(crow, col, x, x)


def native_sampled(crow: Tensor, col: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """In float32 where x has 16 bits: natively there is no other."""
    v, x = (t.float() if t.itemsize == 2 else t for t in (v, x))
    return torch.sparse.sampled_addmm(native_csr(crow, col, v), x, x.mT, beta=0.0)


def backward(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, *ready: Tensor) -> Any:
    dense = ops.spmm(crow, col, v, x, None, *ready, columns=crow.numel() - 1, transpose=True)
    return dense, ops.sddmm(crow, col, x, x, *ready)


def native_backward(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, *ready: Tensor) -> Any:
    """By autograd, which wants the forward pass too: less than a tenth of it."""
    a, x = native_csr(crow, col, v).requires_grad_(), x.detach().requires_grad_()
    return torch.autograd.grad(torch.sparse.mm(a, x), (a, x), x.detach())


def transpose(crow: Tensor, col: Tensor, v: Tensor) -> Any:
    return ops.csr_transpose(crow, col, crow.numel() - 1)


def native_transpose(crow: Tensor, col: Tensor, v: Tensor) -> Tensor:
    return native_csr(crow, col, v).to_sparse_csc()


def squared(crow: Tensor, col: Tensor, v: Tensor) -> Any:
    return ops.spgemm(crow, col, v, crow, col, v, crow.numel() - 1)


def native_squared(crow: Tensor, col: Tensor, v: Tensor) -> Tensor:
    a = native_csr(crow, col, v)
    return torch.sparse.mm(a, a)


def entry_bytes(crow: Tensor, col: Tensor, v: Tensor, *rest: Tensor) -> int:
    return crow.nbytes + col.nbytes + v.nbytes


def gather_bytes(crow: Tensor, col: Tensor, v: Tensor, x: Tensor, *rest: Tensor) -> int:
    """A row of x for each entry, and one matrix of x's size read (sddmm) or written (spmm)."""
    return entry_bytes(crow, col, v) + col.numel() * x.shape[1] * x.element_size() + x.nbytes


def gradient_bytes(*arguments: Tensor) -> int:
    return 2 * gather_bytes(*arguments)


def with_dense(name: str, dtype: torch.dtype, width: int, more: str = "") -> Callable[[Device], tuple[Any, ...]]:
    """Parts, a dense matrix, and what no clock sees made: a COO tensor, cuSPARSE's analysis, the transposed pattern."""

    def make(device: Device) -> tuple[Any, ...]:
        p = parts(device, name, dtype)
        n = p[0].numel() - 1
        x = random(device, n, width, dtype=dtype)
        if more == "coo":
            return (*p, x, native_coo(*p))
        if more == "cuSPARSE":
            return (*p, x, Product(*p, x))
        if more == "transpose":
            return (*p, x, *ops.csr_transpose(*p[:2], n))
        return (*p, x)

    return make


def timing_works(family: str) -> Iterator[Work]:
    f32, bf16 = torch.float32, torch.bfloat16
    real = [name for name in matrices.matrix_names() if name in matrices.REAL]
    names = real if family == "real" else ["uniform", "power law", "pruned", "full row"]
    gradient_widths = (64,) if family == "real" else (16, 64, 256)
    for name, width in itertools.product(names, (1, 16, 64, 256)):
        if name == "full row" and width != 64:
            continue
        flops = 2.0 * pattern(name, False)[1].numel() * width
        for dtype in (f32, bf16):
            label, make = f"{name} x{width} {short(dtype)}", with_dense(name, dtype, width)
            check = in_float32 if dtype.itemsize == 2 else None
            yield Work(f"spmm {label}", make, ops.spmm, native_mm, flops, moved=gather_bytes, check=check)
            if torch.cuda.is_available():
                make_both = with_dense(name, dtype, width, "cuSPARSE")
                yield Work(
                    f"spmm {label}, cuSPARSE", make_both, only_parts, prepared, flops, moved=gather_bytes, check=check
                )
            if width in gradient_widths:
                yield Work(f"sddmm {label}", make, sampled, native_sampled, flops, moved=gather_bytes)
        make = with_dense(name, f32, width, "coo")
        yield Work(
            f"spmm {name} x{width}, ready CSR to COO", make, only_parts, native_from_coo, flops, False, gather_bytes
        )
        if width in gradient_widths:
            make = with_dense(name, f32, width, "transpose")
            yield Work(
                f"backward {name} x{width}, ready transpose",
                make,
                backward,
                native_backward,
                2 * flops,
                False,
                gradient_bytes,
            )
    for name in real if family == "real" else ("uniform", "power law"):
        make_parts = partial(parts, name=name, dtype=f32)
        yield Work(f"csr_transpose {name}", make_parts, transpose, native_transpose, 0, False, entry_bytes)
    squares = [name for name in real if name not in ("arrow", "musae_git")]  # whose squares fill gigabytes
    for name in squares if family == "real" else ("uniform", "pruned"):
        make_parts = partial(parts, name=name, dtype=f32)
        yield Work(f"spgemm {name}", make_parts, squared, native_squared, 0, False, entry_bytes)


def timing_cases(family: str) -> Iterator[Case]:
    for work in timing_works(family):
        yield work.name, partial(timed, work=work)


# ---- memory ----------------------------------------------------------------------------------------------------------


def memory(device: Device, work: Work) -> dict[str, Any]:
    arguments = work.make(device)
    result = work.ours(*arguments)
    size = sum(t.nbytes for t in ((result,) if isinstance(result, Tensor) else result))
    del result
    ours, native = peak_bytes(device, work.ours, arguments), peak_bytes(device, work.native, arguments)
    return {"ours_mib": ours / 2**20, "native_mib": native / 2**20, "result_mib": size / 2**20}


def memory_cases(family: str) -> Iterator[Case]:
    f32 = torch.float32
    for work in (
        Work("spmm uniform x64", with_dense("uniform", f32, 64), ops.spmm, native_mm),
        Work("backward uniform x64", with_dense("uniform", f32, 64, "transpose"), backward, native_backward),
        Work("spgemm uniform", partial(parts, name="uniform", dtype=f32), squared, native_squared),
    ):
        yield work.name, partial(memory, work=work)


PHASES: dict[str, Callable[[str], Iterator[Case]]] = {
    "correctness": correctness_cases,
    "graphs": graph_cases,
    "timing": timing_cases,
    "memory": memory_cases,
}
