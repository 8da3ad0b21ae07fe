"""The switch: reroutes aten's matrix products, dense and sparse, to myops at the backend keys, for unmodified models.

At a backend key everything above stays torch's own: autograd formulas, autocast, functorch, compile. A call that myops
does not take, for whatever reason, goes to the captured native kernel, so errors, warnings and resizes are native.

Not here: linear and matmul, which torch builds from these; what runs at the sparse keys (override_sparse.py); compile
backends (compile.py); modules (nn.py).
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _libraries, override_sparse
from .activation import GELU, GELU_TANH, RELU
from .autograd import untraced, without_autocast
from .registration import OPERATORS

log = logging.getLogger(__name__)
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # the child has no thread that would release it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)

MAX_REASONS = 64  # kept for each operator: messages name shapes, so a long run has any number of them


# How each overload of aten is built from an operator of the table. Positional arguments and keywords are those of aten.


def _functional(name: str) -> Callable[..., Tensor]:
    return OPERATORS[name].call


def _out(name: str) -> Callable[..., Tensor]:
    op = OPERATORS[name].call_out

    def call(*args: Any, out: Tensor, **kwargs: Any) -> Tensor:
        op(*args, **kwargs, out=out)
        return out

    return call


def _in_place(name: str) -> Callable[..., Tensor]:
    op = OPERATORS[name].call_in_place

    def call(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        op(input, *args, **kwargs)
        return input

    return call


def _past_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which calls operators that autocast knows, from an overload that it does not know."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with without_autocast():
            return function(*args, **kwargs)

    return call


# A matrix times a vector: mv as matmul, addmv as addmm of one column.


def _check_vector(mat: Tensor, vec: Tensor) -> None:
    if mat.dim() != 2 or vec.dim() != 1:
        raise RuntimeError(f"a matrix and a vector are needed, got {mat.dim()}-D and {vec.dim()}-D tensors")


def _mv(name: str) -> Callable[..., Tensor]:
    matmul = _past_autocast(_functional("matmul"))

    def call(mat: Tensor, vec: Tensor) -> Tensor:
        _check_vector(mat, vec)
        return matmul(mat, vec)

    return call


def _columns(input: Tensor, mat: Tensor, vec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check_vector(mat, vec)
    if input.dim() > 1:
        raise RuntimeError(f"vector + matrix @ vector expected, got {input.dim()}, {mat.dim()}, {vec.dim()}")
    return input.unsqueeze(1) if input.dim() == 1 else input, mat, vec.unsqueeze(1)


def _addmv(name: str) -> Callable[..., Tensor]:
    addmm = _past_autocast(_functional("addmm"))
    return lambda *args, **scalars: addmm(*_columns(*args), **scalars).squeeze(1)


def _addmv_out(name: str) -> Callable[..., Tensor]:
    addmm = _out("addmm")

    def call(*args: Tensor, out: Tensor, **scalars: Any) -> Tensor:
        if out.dim() != 1:
            raise RuntimeError(f"out must be a vector, got {out.dim()}-D tensor")
        addmm(*_columns(*args), **scalars, out=out.unsqueeze(1))
        return out

    return call


def _addmv_(name: str) -> Callable[..., Tensor]:
    call = _addmv_out(name)
    return lambda input, *args, **scalars: call(input, *args, **scalars, out=input)


def _activated(form: Callable[[str], Callable[..., Tensor]]) -> Callable[[str], Callable[..., Tensor]]:
    """`_addmm_activation`, which inference of nn.TransformerEncoderLayer calls: relu, or gelu where it is asked for."""

    def build(name: str) -> Callable[..., Tensor]:
        product = form(name)

        def call(*args: Any, use_gelu: bool = False, **kwargs: Any) -> Tensor:
            gelu = GELU if args[0].device.type == "cpu" else GELU_TANH  # as cuBLASLt has it
            return product(*args, **kwargs, activation=gelu if use_gelu else RELU)

        return call

    return build


def _sparse(function: Callable[..., Any]) -> Callable[[str], Callable[..., Any]]:
    return lambda name: _past_autocast(function)


@dataclass(frozen=True)
class Reroute:
    """One overload of aten that the switch takes over."""

    name: str  # the operator, as in `ops` and in `stats()`
    overload: str
    build: Callable[[str], Callable[..., Any]]  # our kernel, from `name`
    keys: tuple[str, ...] = ("CPU", "CUDA")
    nested: bool = False  # whether the native kernel is made of others that the switch takes over


_SPARSE = ("SparseCPU", "SparseCsrCPU", "SparseCUDA", "SparseCsrCUDA")
_COO, _COMPRESSED = _SPARSE[::2], _SPARSE[1::2]


def _sparse_reroutes() -> Iterator[Reroute]:
    """torch.sparse.mm arrives as addmm with beta=0, or as one of the last three of sparse.mm."""
    ours = override_sparse
    for name, overload, function, keys in (
        ("sparse.mm", "mm", ours.mm, _SPARSE),
        ("sparse.mm", "mm.out", ours.out(ours.mm), _SPARSE),
        ("sparse.mm", "_sparse_sparse_matmul", ours.sparse_sparse_matmul, _COO),
        ("sparse.mm", "_sparse_mm_reduce_impl", ours.sparse_mm_reduce, _COMPRESSED[:1]),
        ("sparse.mm", "_sparse_mm_reduce_impl_backward", ours.sparse_mm_reduce_backward, _COMPRESSED[:1]),
        ("sparse.addmm", "addmm", ours.addmm, _SPARSE),
        ("sparse.addmm", "addmm.out", ours.out(ours.addmm), _SPARSE),
        ("sparse.addmm", "addmm_", ours.addmm_, _COO),
        ("sparse.bmm", "bmm", ours.bmm, _COO),
        ("sparse.bmm", "bmm.out", ours.out(ours.bmm), _COO),
        ("sparse.sampled_addmm", "sparse_sampled_addmm", ours.sampled_addmm, _COMPRESSED),
        ("sparse.sampled_addmm", "sparse_sampled_addmm.out", ours.sampled_addmm_out, _COMPRESSED),
    ):
        yield Reroute(name, overload, _sparse(function), keys, nested=True)


_VECTOR = {"mv": _mv, "addmv": _addmv, "addmv.out": _addmv_out, "addmv_": _addmv_}

# Never linear or matmul: an override of these loses their gradients.
REROUTES = (
    Reroute("mm", "mm", _functional),
    Reroute("mm", "mm.out", _out),
    Reroute("addmm", "addmm", _functional),
    Reroute("addmm", "addmm.out", _out),
    Reroute("addmm", "addmm_", _in_place),
    Reroute("addmm", "_addmm_activation", _activated(_functional)),
    Reroute("addmm", "_addmm_activation.out", _activated(_out)),
    Reroute("bmm", "bmm", _functional),
    Reroute("bmm", "bmm.out", _out),
    Reroute("baddbmm", "baddbmm", _functional),
    Reroute("baddbmm", "baddbmm.out", _out),
    Reroute("baddbmm", "baddbmm_", _in_place),
    *(Reroute("addmv", overload, build, ("CPU",), nested=True) for overload, build in _VECTOR.items()),
    *_sparse_reroutes(),
)
OPS = tuple(dict.fromkeys(reroute.name for reroute in REROUTES))


class _Tally:
    """What became of the calls of one operator. `took` is one call into C, so that threads lose no count."""

    def __init__(self) -> None:
        self._calls = itertools.count()
        self._not_calls = 0  # how many of them were reads and what was reset
        self.took: Callable[[], int] = self._calls.__next__
        self.reasons: Counter[str] = Counter()

    def taken(self) -> int:
        with _lock:
            self._not_calls += 1
            return self.took() + 1 - self._not_calls

    def decline(self, reason: str) -> bool:
        """Count a call that goes to native; whether this reason is new."""
        with _lock:
            new = reason not in self.reasons
            if new and len(self.reasons) >= MAX_REASONS:
                reason, new = "other reasons", False
            self.reasons[reason] += 1
            return new

    def reset(self) -> None:
        with _lock:
            taken = self.taken()
            self._not_calls += taken
            self.reasons.clear()


# What is switched like an operator and counted like one, but reroutes nothing.
BATCH_INVARIANT = "batch_invariant"

_tallies = {name: _Tally() for name in OPS}
_users: dict[str, list[bool]] = {name: [] for name in (*OPS, BATCH_INVARIANT)}  # whether each user is strict
_installed: dict[str, list[_Installed]] = {}
# Kernels that were taken back. A thread may have looked one up and still wait for the interpreter, and torch 2.11 frees
# it under that thread: so the last ones are kept, of several hundred times that everything was switched off.
_retired: deque[Any] = deque(maxlen=8192)
_told = False  # torch has had its one warning about overrides


class _Declined(threading.local):
    """Whether this thread is inside a native kernel that runs a call of ours and calls others of ours."""

    now = False


_declined = _Declined()


class _Installed:
    """A reroute in force at one key: our kernel, and the native one that it stands in for."""

    def __init__(self, reroute: Reroute, key: str) -> None:
        self.reroute, self.key = reroute, key
        self.call = reroute.build(reroute.name)
        self.install()

    def install(self) -> None:
        self.native = torch.library.get_kernel(f"aten::{self.reroute.overload}", self.key)
        self.library = torch.library.Library("aten", "IMPL", self.key)
        self.register((self.reroute.overload, self.router(), self.key))
        self.kernel = torch.library.get_kernel(f"aten::{self.reroute.overload}", self.key)

    def register(self, arguments: tuple[Any, ...]) -> None:
        global _told
        if _told and not torch.is_warn_always_enabled():
            self.library.impl(*arguments, with_keyset=True, allow_override=True)
            return
        # Up to 2.13 torch warns once in a process, although the override is declared. Only then are the filters of
        # the process touched, which is not safe among threads.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel")
            self.library.impl(*arguments, with_keyset=True, allow_override=True)
        _told = True

    def remove(self) -> None:
        _retired.append(self.kernel)
        self.library._destroy()
        del self.kernel  # which holds the router, which holds this: no collector sees a circle through C++

    def router(self) -> Callable[..., Any]:
        """The kernel that stands in: ours, and where ours refuses the call, the native one.

        The checks of our operators are complete and come before anything is written, so they are also the test of
        whether myops takes a call; asking twice would cost a microsecond on every call that is taken.
        """
        call, took, refuse = self.call, _tallies[self.reroute.name].took, self.refuse

        @untraced
        def router(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                result = call(*args, **kwargs)
            except (RuntimeError, TypeError) as error:
                refuse(error)
            else:
                took()
                return result
            return self.run_declined(keyset, args, kwargs)

        @untraced
        def outermost(keyset: Any, *args: Any, **kwargs: Any) -> Any:
            if _declined.now:  # a part of a call that was declined, and counted, as a whole
                return self.run_native(keyset, args, kwargs)
            return router(keyset, *args, **kwargs)

        return outermost if self.reroute.nested else router

    def refuse(self, error: Exception) -> None:
        """Count a call that goes to native for this reason; raises where the switch is strict."""
        name, overload = self.reroute.name, self.reroute.overload
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if _tallies[name].decline(reason):
            log.debug("aten::%s on %s goes to native: %s", overload, self.key, reason)
        if any(_users[name]):
            raise RuntimeError(f"myops does not take this call of aten::{overload}, and the switch is strict: {reason}")

    def run_declined(self, keyset: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.reroute.nested:
            return self.run_native(keyset, args, kwargs)
        _declined.now = True
        try:
            return self.run_native(keyset, args, kwargs)
        finally:
            _declined.now = False

    def run_native(self, keyset: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        native = self.native
        try:
            return native.call_boxed(keyset, *args, **kwargs)
        except RuntimeError as failure:
            # The kernel below was another library's, which is gone: what it had overridden is native now.
            if "SafeKernelFunction has been invalidated" not in str(failure):
                raise
            with _lock:
                if self.native is native and self in _installed.get(self.reroute.name, ()):
                    self.remove()
                    self.install()
            return self.native.call_boxed(keyset, *args, **kwargs)


def _install(name: str) -> None:
    if name == BATCH_INVARIANT:
        _libraries.set_batch_invariant(True)
        return
    found: list[_Installed] = []
    try:
        for reroute in REROUTES:
            for key in reroute.keys if reroute.name == name else ():
                if _libraries.is_available("cuda" if key.endswith("CUDA") else "cpu"):
                    found.append(_Installed(reroute, key))
    except BaseException:
        for one in found:
            one.remove()
        raise
    _installed[name] = found
    log.info("aten's %s goes to myops: %s", name, ", ".join(f"{one.reroute.overload} ({one.key})" for one in found))


def _checked(ops: Iterable[str] | None, batch_invariant: bool) -> tuple[str, ...]:
    names = OPS if ops is None else (ops,) if isinstance(ops, str) else tuple(ops)
    for name in names:
        if name not in OPS:
            raise ValueError(f"ops must be among {', '.join(OPS)}, but got {name!r}")
    return (*names, BATCH_INVARIANT) if batch_invariant else names


def _add_users(names: tuple[str, ...], strict: bool) -> tuple[str, ...]:
    """The names that gained a user: all, or only what reroutes nothing where MYOPS_DISABLE=1 forbids the rest."""
    _libraries.require()
    _libraries.isa()  # these raise where the environment is wrong: every call would silently go to native
    _libraries.cpu_gemm()
    if _libraries.flag("MYOPS_DISABLE"):
        log.info("MYOPS_DISABLE=1: the switch stays off")
        names = tuple(name for name in names if name == BATCH_INVARIANT)
    with _lock:
        done: list[str] = []
        try:
            for name in names:
                if not _users[name]:
                    _install(name)
                _users[name].append(strict)
                done.append(name)
        except BaseException:
            _remove_users(tuple(done), strict)
            raise
    return names


def _remove_users(names: tuple[str, ...], strict: bool | None = None) -> None:
    """Removes one user of each operator: the last one with this strictness, or simply the last."""
    with _lock:
        for name in names:
            users = _users[name]
            if not users:
                continue
            users.reverse()
            users.remove(users[0] if strict is None else strict)
            users.reverse()
            if users:
                continue
            if name == BATCH_INVARIANT:
                _libraries.set_batch_invariant(False)
                continue
            for one in _installed.pop(name):
                one.remove()
            log.info("aten's %s is native again", name)


def enable(ops: Iterable[str] | None = None, *, strict: bool = False, batch_invariant: bool = False) -> None:
    """Reroute aten's matrix products (or those in `ops`) to myops, process-wide, until `disable`.

    Calls nest: the native kernels come back with the last `disable`. `MYOPS_ENABLE=1` in the environment does this when
    myops, or torch in an environment that has myops installed, is imported; under `MYOPS_DISABLE=1` it does nothing.

    Args:
        ops: "mm", "addmm" (with `_addmm_activation`), "bmm", "baddbmm"; "addmv" (and so torch.mv, on the CPU);
            "sparse.mm" (torch.mm of a sparse matrix, and torch.sparse.mm of two COO matrices or with a reduction),
            "sparse.addmm" (with every other torch.sparse.mm, which is addmm with beta=0), "sparse.bmm",
            "sparse.sampled_addmm". Each with its out= and in-place forms.
        strict: a call that myops does not take is a RuntimeError that says why, where it would go to the native kernel.
            The operator stays strict while any of its users is.
        batch_invariant: while any user asks for it, every product of myops in the process, called directly or through
            the switch, has this property: the bits of `out[..., i, j]` depend on row i of the left operand, column j of
            the right one, what is added there, alpha, beta, K, the dtypes and the instruction set; not on the other
            rows, columns and batch items, how many there are, strides or threads. Calls left to the native kernels have
            it only as far as torch does; `strict=True` refuses those. Asking for it alone: `enable((),
            batch_invariant=True)`, which MYOPS_DISABLE=1 does not forbid.

    Raises:
        ImportError: the CPU library is missing.
        ValueError: an operator that cannot be rerouted.
    """
    _add_users(_checked(ops, batch_invariant), strict)


def disable(ops: Iterable[str] | None = None, *, batch_invariant: bool = False) -> None:
    """Undo one `enable` of the same operators and mode. Does nothing for what is not enabled."""
    _remove_users(_checked(ops, batch_invariant))


@contextmanager
def use(ops: Iterable[str] | None = None, *, strict: bool = False, batch_invariant: bool = False) -> Iterator[None]:
    """`enable` for a block, undone on every way out of it. All of it is process-wide while the block runs."""
    names = _add_users(_checked(ops, batch_invariant), strict)
    try:
        yield
    finally:
        _remove_users(names, strict)


def stats() -> dict[str, dict[str, Any]]:
    """What ran since the start or `reset_stats()`, for each rerouted operator.

    `{"mm": {"myops": 12, "native": 1, "reasons": {"input must be a matrix, got 1-D tensor": 1}}, ...}`: calls that
    myops took, calls left to the native kernel, and why.
    """
    with _lock:
        return {
            name: {"myops": tally.taken(), "native": tally.reasons.total(), "reasons": dict(tally.reasons)}
            for name, tally in _tallies.items()
        }


def reset_stats() -> None:
    """Set every count of `stats` to zero."""
    for tally in _tallies.values():
        tally.reset()


def explain() -> str:
    """`stats()` for people: whether the switch is on, for which devices, what ran on myops, what did not and why."""
    with _lock:
        on = [f"{name} (strict)" if any(users) else name for name, users in _users.items() if users]
    state = "on for " + ", ".join(on) if on else "off"
    if _libraries.flag("MYOPS_DISABLE"):
        state += ", MYOPS_DISABLE=1"
    lines = [
        f"switch: {state}",
        f"CPU: {_libraries.cpu_error or 'loaded'}",
        f"CUDA: {_libraries.cuda_error or 'loaded'}",
    ]
    for name, entry in stats().items():
        lines.append(f"{name}: {entry['myops']} calls on myops, {entry['native']} native")
        lines += [f"  {count} native: {reason}" for reason, count in Counter(entry["reasons"]).most_common()]
    lines.append(
        "not counted: what torch does without these, as convolutions, LSTM, scaled_dot_product_attention on its flash "
        "kernel, sparse matrices times vectors, fake and meta tensors, and the myops operators themselves"
    )
    return "\n".join(lines)
