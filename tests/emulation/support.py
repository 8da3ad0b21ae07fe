"""What the tests of the emulated CUDA kernels share: the library, operands with poison around them, references.

Not here: tests (tests/test_cuda_emulation.py, tests/test_cuda_tiles.py), the build (build.py).
"""

from __future__ import annotations

import ctypes
from functools import cache

import pytest
import torch

from myops._libraries import DTYPE_CODES

from . import build

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COMPLEX = [torch.complex64, torch.complex128]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
DTYPES = FLOATS + COMPLEX + INTEGERS
WIDE = [
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
    (torch.int8, torch.int32),
    (torch.uint8, torch.int32),
]
LAYOUTS = ["contiguous", "transposed", "strided", "offset"]


@cache
def load_library():
    """Builds and loads the emulated kernels; registers torch.ops.myops_emulated."""
    try:
        path = build.build()
    except RuntimeError as error:
        pytest.fail(str(error))
    torch.ops.load_library(str(path))
    lib = ctypes.CDLL(str(path))
    for name in ("emulation_planted", "emulation_sort", "myops_cuda_gemm", "myops_cuda_plan"):
        getattr(lib, name).restype = ctypes.c_char_p
    lib.emulation_wgmmas.restype = lib.emulation_clusters.restype = ctypes.c_int64
    lib.emulation_from_half.restype = lib.emulation_from_bfloat16.restype = ctypes.c_float
    lib.emulation_to_half.restype = lib.emulation_to_bfloat16.restype = ctypes.c_uint16
    for name in ("emulation_to_half", "emulation_to_bfloat16"):
        getattr(lib, name).argtypes = [ctypes.c_float]
    lib.emulation_seed(ctypes.c_uint64(1))
    for name in ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear"):
        # Without this the dispatcher resolves conjugate views before the kernels see them.
        _fragment.impl(name, torch.library.fallthrough_kernel)
        _fragment.impl(f"{name}.out", torch.library.fallthrough_kernel)
    return lib


_fragment = torch.library.Library("myops_emulated", "IMPL", "Conjugate")


def integers(shape, kind, seed=0, low=-3, high=4):
    """Small whole numbers: every sum in the tests is exact in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high, shape, generator=generator)
    if kind.is_complex:
        values = torch.complex(values.double(), torch.randint(low, high, shape, generator=generator).double())
    return values.to(kind)


def poison(kind):
    return float("nan") if kind.is_floating_point or kind.is_complex else 77


def lay_out(t, layout):
    """The same values in another layout, with poison around them."""
    if layout == "contiguous" or t.dim() == 0:
        return t.clone()
    if layout == "transposed" and t.dim() > 1:
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    step = 3 if layout == "strided" else 1
    buffer = torch.full([*t.shape[:-1], t.shape[-1] * step + 5], poison(t.dtype), dtype=t.dtype)
    view = buffer[..., 3 : 3 + t.shape[-1] * step : step]
    view.copy_(t)
    return view


def wide(t):
    """For references: whole numbers are exact in these."""
    return t.to(torch.complex128 if t.dtype.is_complex else torch.float64 if t.dtype.is_floating_point else torch.int64)


def reference(c, a, b, beta, alpha, kind):
    product = wide(a) @ wide(b) * alpha
    if c is not None and beta != 0:
        product = product + wide(c) * beta
    return product.to(kind)


def same(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(actual, expected), f"{(actual != expected).sum()} of {actual.numel()} elements differ"


def contiguous(m, n, k):
    """The strides of row-major operands: row, column and batch of A, B and D."""
    return [k, 1, m * k, n, 1, k * n, n, 1, m * n]


def plan(
    library, kind, m, n, k, batch=1, strides=None, kernel="", multiprocessors=132, capability=80, batch_invariant=False,
    tf32=False, activation=0, matrix_c=False,
):  # fmt: skip
    """The plan of a product as a dictionary; strides: row, column and batch of A, B and D."""
    sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
    strides = (ctypes.c_int64 * 9)(*(strides or contiguous(m, n, k)))
    return parse(
        library.myops_cuda_plan(
            DTYPE_CODES[kind], sizes, strides, kernel.encode(), multiprocessors, capability, int(batch_invariant),
            int(tf32), activation, int(matrix_c),
        )
    )  # fmt: skip


def parse(text):
    assert not text.startswith(b"error: "), text.decode()
    pairs = dict(pair.split("=") for pair in text.decode().split())
    return {key: value if key in ("kernel", "size") else int(value) for key, value in pairs.items()}


def run_kernel(
    library, kernel, a, b, max_blocks=2**31 - 1, column_major=False, multiprocessors=132, c=None, activation=0,
    before=None, d=None,
):  # fmt: skip
    """A batch of f(a @ b + c) by a kernel of our choice: the result and the plan. The operands may have any strides.

    before: gets what the activation f is applied to. d: where the result goes, laid out as before.
    """
    batch, m, k = a.shape
    n = b.shape[2]
    if d is None:
        d = torch.full((batch, n, m) if column_major else (batch, m, n), 9, dtype=a.dtype)
        if column_major:
            d = d.transpose(1, 2)
    sizes = (ctypes.c_int64 * 4)(m, n, k, batch)
    views = [a, b, d] if c is None else [a, b, d, c.expand(d.shape)]
    strides = (ctypes.c_int64 * (3 * len(views)))(*(s for t in views for s in (t.stride(1), t.stride(2), t.stride(0))))
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (a, b, d, c, before)]
    workspace = torch.full((1 << 22,), 0xFF, dtype=torch.uint8)
    library.emulation_machine(multiprocessors, 90)
    try:
        text = library.myops_cuda_gemm(
            DTYPE_CODES[a.dtype], sizes, strides, *pointers, activation, kernel.encode(), ctypes.c_int64(max_blocks),
            ctypes.c_void_p(workspace.data_ptr()), ctypes.c_int64(workspace.numel()), None,
        )  # fmt: skip
    finally:
        library.emulation_machine(132, 80)
    return d, parse(text)


class Canary:
    """An output inside a larger buffer, none of which but the output may change."""

    def __init__(self, shape, kind, layout="offset"):
        rows, cols = shape[-2:]
        if layout == "transposed":
            self.buffer = torch.full([*shape[:-2], cols + 3, rows + 4], 9, dtype=kind)
            self.out = self.buffer[..., 1 : cols + 1, 2 : rows + 2].transpose(-1, -2)
        elif layout == "strided":
            self.buffer = torch.full([*shape[:-2], 2 * rows + 3, 3 * cols + 4], 9, dtype=kind)
            self.out = self.buffer[..., 1 : 2 * rows + 1 : 2, 2 : 3 * cols + 2 : 3]
        else:
            self.buffer = torch.full([*shape[:-2], rows + 3, cols + 5], 9, dtype=kind)
            self.out = self.buffer[..., 1 : rows + 1, 2 : cols + 2]

    def check(self):
        self.out.fill_(9)
        assert bool((self.buffer == 9).all()), "something outside the output was written"


def relative_error(actual, exact):
    return ((actual.to(exact.dtype) - exact).abs().max() / exact.abs().max()).item()
