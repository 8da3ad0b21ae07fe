"""Tensors that touch a page which may not be accessed: a stray access ends the process by a signal."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE


def guarded(t: Tensor, at_end: bool) -> Tensor:
    """A contiguous copy whose last byte is followed, or whose first byte is preceded, by an inaccessible page."""
    size = t.numel() * t.element_size()
    pages = -(-size // PAGE) + 2
    region = mmap.mmap(-1, pages * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, pages - 1):
        if libc.mprotect(ctypes.c_void_p(address + page * PAGE), ctypes.c_size_t(PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages - 1) * PAGE - size if at_end else PAGE
    view = torch.frombuffer(region, dtype=t.dtype, count=t.numel(), offset=offset).view(t.shape)
    view.copy_(t)
    return view
