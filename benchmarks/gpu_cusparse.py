"""cuSPARSE's product of a CSR and a dense matrix, prepared once and called many times: the strongest peer of spmm.

torch calls cuSPARSE without its preprocessing and makes descriptors and a buffer for each call; here all of that
happens before the clock starts. Reached through ctypes in the library that torch has loaded.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

ALG2 = 6  # CUSPARSE_SPMM_CSR_ALG2: the one for row-major matrices that preprocessing helps
ROW_MAJOR, INT32, BASE_ZERO, NOT_TRANSPOSED, FLOAT32 = 2, 2, 0, 0, 0
TYPES = {torch.float32: FLOAT32, torch.float64: 1, torch.float16: 2, torch.bfloat16: 14}


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL("libcusparse.so.12")


def call(name: str, *arguments: object) -> None:
    status = getattr(library(), name)(*arguments)
    assert status == 0, f"{name} returned {status}"


@cache
def handle() -> ctypes.c_void_p:
    found = ctypes.c_void_p()
    call("cusparseCreate", ctypes.byref(found))
    return found


class Product:
    """D = A @ x with A of crow, col (int32) and values. Call it to compute D on the current stream."""

    def __init__(self, crow: Tensor, col: Tensor, values: Tensor, x: Tensor) -> None:
        rows, (columns, width) = crow.numel() - 1, x.shape
        self.out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
        self.alive = (crow, col, values, x)
        kind, big = TYPES[x.dtype], ctypes.c_int64
        pointer = [ctypes.c_void_p(t.data_ptr()) for t in (crow, col, values, x, self.out)]
        a, b, d = (ctypes.c_void_p() for _ in range(3))
        call(
            "cusparseCreateCsr", ctypes.byref(a), big(rows), big(columns), big(col.numel()), *pointer[:3], INT32, INT32,
            BASE_ZERO, kind,
        )  # fmt: skip
        for found, count, data in ((b, columns, pointer[3]), (d, rows, pointer[4])):
            call("cusparseCreateDnMat", ctypes.byref(found), big(count), big(width), big(width), data, kind, ROW_MAJOR)
        one, zero = (ctypes.byref(ctypes.c_double(v) if kind == 1 else ctypes.c_float(v)) for v in (1.0, 0.0))
        compute = 1 if kind == 1 else FLOAT32
        self.arguments = (handle(), NOT_TRANSPOSED, NOT_TRANSPOSED, one, a, b, zero, d, compute, ALG2)
        room = ctypes.c_size_t()
        call("cusparseSpMM_bufferSize", *self.arguments, ctypes.byref(room))
        self.buffer = torch.empty(max(room.value, 1), dtype=torch.uint8, device=x.device)
        self.room = ctypes.c_void_p(self.buffer.data_ptr())
        call("cusparseSpMM_preprocess", *self.arguments, self.room)

    def __call__(self) -> Tensor:
        call("cusparseSetStream", handle(), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        call("cusparseSpMM", *self.arguments, self.room)
        return self.out
