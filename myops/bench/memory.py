"""Peak memory of one call, seen by the operating system.

Linux keeps a high-water mark of the resident set and lets a process reset its own. That sees every library alike
(torch, MKL, oneDNN, myops), which the allocator's statistics do not. It does not see workspaces that a library keeps
between calls, because the call is measured warm, and its step is a page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

METHOD = "growth of the resident high-water mark during one warm call (/proc/self/status VmHWM)"


def _status_bytes(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def resident_bytes() -> int:
    """Resident set of this process in bytes (Linux; OSError elsewhere)."""
    return _status_bytes("VmRSS:")


def keep_freed() -> str:
    """Let malloc keep what is freed, up to 32 MB a block, and say so in one line.

    By default glibc returns the end of its heap when more than a changing threshold of it is free: whether a result of
    megabytes is new pages in every call (ten times the time of a product) hangs on which side was called before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    m_trim_threshold, m_mmap_threshold = -1, -3
    if mallopt is not None and mallopt(m_mmap_threshold, 32 << 20) and mallopt(m_trim_threshold, 2**31 - 1):
        return "malloc keeps freed blocks of up to 32 MB"
    return "malloc is as it is: results may be new pages by chance"


def reset_high_water() -> None:
    """Return freed heap pages to the system and restart the high-water mark at the current resident set."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
        control.write("5")


def high_water_bytes() -> int:
    """Largest resident set in bytes since the last reset (Linux; OSError elsewhere)."""
    return _status_bytes("VmHWM:")


def peak_growth_bytes(call: Callable[[], Any]) -> int | None:
    """Bytes by which the resident set grew at its peak during `call()`; None where the system cannot tell."""
    try:
        reset_high_water()
        before = resident_bytes()
        call()
        return max(0, high_water_bytes() - before)
    except (OSError, TypeError):
        return None
