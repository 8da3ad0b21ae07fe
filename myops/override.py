"""The switch: reroutes aten's mm, addmm, bmm and baddbmm to myops at the backend keys, for any unmodified model.

At a backend key everything above stays torch's own: autograd formulas, autocast, functorch, compile. A call that myops
does not take, for whatever reason, goes to the captured native kernel, so errors, warnings and resizes are native.

Not here: linear and matmul, which torch builds from these; sparse operators; compile backends.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from . import _native
from .registration import OPERATORS

OPS = ("mm", "addmm", "bmm", "baddbmm")
# aten overload -> (operator, form). In-place forms of mm and bmm do not exist.
OVERLOADS = {
    **{name: (name, "functional") for name in OPS},
    **{f"{name}.out": (name, "out") for name in OPS},
    "addmm_": ("addmm", "in_place"),
    "baddbmm_": ("baddbmm", "in_place"),
}
_lock = threading.RLock()
_depth: Counter[str] = Counter()  # how many users each operator's reroute has
_libraries: dict[str, list[torch.library.Library]] = {}
_counts: Counter[tuple[str, str]] = Counter()  # (operator, "myops" or the reason why not)


def _reason(error: Exception) -> str:
    """What `stats` keeps of an error: its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _router(name: str, form: str, native: Any) -> Callable[..., Any]:
    """The kernel that stands in for an aten overload: ours, and where ours refuses the call, the native one.

    The checks of our operators are complete and come before anything is written, so they are also the test of whether
    myops takes a call; asking twice would cost a microsecond on every call that is taken.
    """
    row = OPERATORS[name]
    functional, out_op = row.op, row.packet.out
    taken = (name, "myops")

    def router(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if form == "functional":
                result = functional(*args, **kwargs)
            elif form == "out":
                result = kwargs["out"]
                out_op(*args, **kwargs)
            else:
                result = args[0]
                out_op(*args, **kwargs, out=result)
        except (RuntimeError, TypeError) as error:
            _counts[name, _reason(error)] += 1
            return native.call_boxed(keyset, *args, **kwargs)
        _counts[taken] += 1
        return result

    return router


def _install(name: str) -> None:
    libraries = []
    for key in ("CPU", "CUDA"):
        if not _native.is_available(key.lower()):
            continue
        for overload, (op, form) in OVERLOADS.items():
            if op != name:
                continue
            native = torch.library.get_kernel(f"aten::{overload}", key)
            library = torch.library.Library("aten", "IMPL", key)
            with warnings.catch_warnings():
                # torch 2.11 warns although the override is declared.
                warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
                library.impl(overload, _router(name, form, native), key, with_keyset=True, allow_override=True)
            libraries.append(library)
    _libraries[name] = libraries


def _checked(ops: Iterable[str] | None) -> tuple[str, ...]:
    names = OPS if ops is None else tuple(ops)
    for name in names:
        if name not in OPS:
            raise ValueError(f"ops must be among {', '.join(OPS)}, but got {name!r}")
    return names


def enable(ops: Iterable[str] | None = None) -> None:
    """Reroute aten's mm, addmm, bmm and baddbmm (or those in `ops`) to myops, process-wide, until `disable`.

    Calls nest: the native kernels come back with the last `disable`. Raises ImportError where the native library is
    missing, and ValueError for an operator that cannot be rerouted.
    """
    _native.require()
    names = _checked(ops)
    with _lock:
        for name in names:
            if _depth[name] == 0:
                _install(name)
            _depth[name] += 1


def disable(ops: Iterable[str] | None = None) -> None:
    """Undo one `enable` of the same operators. Does nothing for one that is not enabled."""
    names = _checked(ops)
    with _lock:
        for name in names:
            if _depth[name] == 0:
                continue
            _depth[name] -= 1
            if _depth[name] == 0:
                for library in _libraries.pop(name):
                    library._destroy()


@contextmanager
def use(ops: Iterable[str] | None = None) -> Iterator[None]:
    """`enable` for a block, undone on every way out of it. The reroute is process-wide while the block runs."""
    names = _checked(ops)
    enable(names)
    try:
        yield
    finally:
        disable(names)


def stats() -> dict[str, dict[str, Any]]:
    """What ran since the start or `reset_stats()`, for each rerouted operator.

    `{"mm": {"myops": 12, "native": 1, "reasons": {"input must be a matrix, got 1-D tensor": 1}}, ...}`: calls that
    myops took, calls left to the native kernel, and why.
    """
    result: dict[str, dict[str, Any]] = {name: {"myops": 0, "native": 0, "reasons": {}} for name in OPS}
    for (name, what), count in list(_counts.items()):
        entry = result[name]
        if what == "myops":
            entry["myops"] += count
        else:
            entry["native"] += count
            entry["reasons"][what] = count
    return result


def reset_stats() -> None:
    """Set every count of `stats` to zero."""
    _counts.clear()
