"""Turns the operator table into torch.library registrations: fakes, gradients, autocast, batching, flop counts.

The table (`OPERATORS`) has one row per operator, written in `myops/ops/`. Whatever a row has is registered here and
checked in tests/, which iterate over the same table; an operator without a fake, a gradient rule, a batching rule or
samples cannot exist, because the row is an abstract class.

    register             a dense operator: functional, out=, in place, .Scalar overloads; in OPERATORS
    register_component   one of a functional form alone; in COMPONENTS
    register_row         the same outside of the tables
    register_plain       one on indices: a fake and nothing else
    define_front         one whose kernels do at once what a general path of others does with gradients and autocast
    define_composite     one made of others
    implement            one more kernel of any of them
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils.flop_counter import register_flop_formula

from . import _libraries, autograd
from .errors import translate


class _Library(torch.library.Library):
    """A library whose kernels Dynamo leaves alone."""

    def impl(self, op_name: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return super().impl(op_name, autograd.untraced(fn), *args, **kwargs)


# Kept for the life of the process: dropping a Library unregisters what it holds.
_LIBRARY = _Library("myops", "FRAGMENT")

OPERATORS: dict[str, Operator] = {}
# Operators without out= or in-place forms: the sparse ones, on the parts of a matrix, and what dense ones record for
# their gradients.
COMPONENTS: dict[str, Row] = {}


@dataclass
class Sample:
    """One call: positional arguments and keywords, ready for the operator and for `Operator.reference`."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass
class BadCall:
    """One call that must fail, the exception type that torch raises for it, and words of our message."""

    sample: Sample
    exception: type[Exception]
    words: str


class Row(ABC):
    """What every operator has. Arguments are those of the schema, in its order, keyword-only ones last."""

    name: str
    tensors: int  # how many leading arguments are tensors (or None)
    in_place: bool = False  # whether `name_` exists
    autocast: bool = True  # whether autocast lowers the precision of the arguments
    reads_conjugates: bool = False  # whether the kernels read conjugate views in place
    batch_dims: Any = 0  # where `batch` puts the batch dimension: of the result, or of each of several

    def autocast_dtype(self, device: str, **kwargs: Any) -> torch.dtype | None:
        """What autocast casts floating arguments to, None: nothing; keywords are those of the call."""
        return torch.get_autocast_dtype(device)

    @abstractmethod
    def fake(self, *args: Any, **kwargs: Any) -> Any:
        """The result's shape, strides and dtype, with the checks of the real kernel; for symbolic shapes too."""

    @abstractmethod
    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        """Keep on `ctx` what `backward` and `jvp` need of the arguments and the result."""

    @abstractmethod  # **none is empty: it lets mypy accept overrides that name their gradients
    def backward(self, ctx: Any, *grads: Any, **none: Any) -> tuple[Tensor | None, ...]:
        """Gradients of the leading tensors, made of differentiable myops operators; None where not needed."""

    @abstractmethod
    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        """The tangent of the result, or of each of several."""

    @abstractmethod
    def batch(self, size: int, dims: tuple[int | None, ...], *args: Any, **kwargs: Any) -> Any:
        """The operator over a batch dimension (`dims` says where in each argument); the result has it in front."""

    @abstractmethod
    def flops(self, *shapes: Any, **kwargs: Any) -> int:
        """Operations, a multiply-add counted as two, from the arguments' shapes."""

    @abstractmethod
    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        """Small calls over shapes, layouts and scalars."""

    @abstractmethod
    def bad_calls(self, device: str) -> Iterator[BadCall]:
        """Calls that must fail before anything is written."""

    @abstractmethod
    def reference(self, *args: Any, **kwargs: Any) -> Any:
        """The same function made of torch operators, for tensors of float64, complex128 or int64."""

    def with_graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result from another differentiable operator, for a call whose gradient needs more than `keep` sees."""
        return None

    @cached_property
    def packet(self) -> Any:
        return getattr(torch.ops.myops, self.name)

    @cached_property
    def op(self) -> OpOverload:
        return self.packet.default

    @cached_property
    def call(self) -> Any:
        return autograd.without_wrapper(self.op)

    @cached_property
    def record(self) -> autograd.Kernel:
        return autograd.recorder(self.op, self)

    @property
    def in_place_packet(self) -> Any:
        return getattr(torch.ops.myops, f"{self.name}_")

    @property
    def overloads(self) -> list[OpOverload]:
        """Every overload that exists under this name, in-place ones included."""
        packets = [self.packet, self.in_place_packet] if self.in_place else [self.packet]
        return [getattr(packet, overload) for packet in packets for overload in packet.overloads()]


class Decomposable(Row):
    """A row whose operator can be made of aten's."""

    @abstractmethod
    def decompose(self, *args: Any, **kwargs: Any) -> Any:
        """The operator made of aten's: for devices without a kernel of ours, and for exported programs."""


class Operator(Decomposable):
    """A row of the table of dense operators: one result, which can also be written to an `out`."""

    reads_conjugates = True
    casts_out = False  # whether an `out` of another dtype is written to, where the result can be cast to it
    # For the .Scalar overloads: which operand a complex or very large integer scalar is folded into.
    folds: dict[str, int] = {}  # noqa: RUF012

    def folded(self, position: int, *args: Tensor) -> Tensor:
        """The operand that a scalar is multiplied into, in the dtype that this is done in."""
        return args[position]

    @abstractmethod
    def shape(self, *args: Any) -> tuple[Any, ...]:
        """The result's shape, after the checks on shapes."""

    @cached_property
    def call_out(self) -> Any:
        return autograd.without_wrapper(self.packet.out)

    @cached_property
    def call_in_place(self) -> Any:
        return autograd.without_wrapper(self.in_place_packet.default)

    @abstractmethod
    def save(self, ctx: Any, *flat: Any) -> None:
        """`keep`, for gradients that need no result."""

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        self.save(ctx, *flat)


def register(row: Operator) -> Operator:
    """Registers everything the row has. Does nothing but keep the row where the CPU library is missing."""
    OPERATORS[row.name] = row
    if _libraries.cpu_error is not None:
        return row
    op = row.op
    _register_functional(row, op)
    _register_mutable(row, f"{row.name}.out", row.packet.out, autograd.out_kernel(row.packet.out, row))
    if row.in_place:
        in_place = row.in_place_packet.default
        _register_mutable(row, f"{row.name}_", in_place, autograd.in_place_kernel(in_place, op, row))
    if row.folds:
        _register_scalar_overloads(row)
    _register_decomposition(row)
    # Last: on torch 2.11 a new overload changes the hash of the packet, the key of this registry.
    register_flop_formula(row.packet)(row.flops)
    _explain_missing_cuda(row.name, f"{row.name}.out", *([f"{row.name}_"] if row.in_place else []))
    return row


def register_component(row: Row) -> Row:
    """`register` for operators of one form, the functional one."""
    COMPONENTS[row.name] = row
    return register_row(row)


def register_row(row: Row) -> Row:
    """Registers everything that a row outside the two tables has."""
    if _libraries.cpu_error is not None:
        return row
    _register_functional(row, row.op)
    if isinstance(row, Decomposable):
        _register_decomposition(row)
    register_flop_formula(row.packet)(row.flops)
    _explain_missing_cuda(row.name)
    return row


def register_plain(name: str, fake: Any) -> None:
    """An operator on indices alone, which needs a fake and nothing else."""
    if _libraries.cpu_error is None:
        torch.library.register_fake(f"myops::{name}", fake, lib=_LIBRARY)
        _explain_missing_cuda(name)


def implement(name: str, kernel: autograd.Kernel, key: str) -> None:
    """One more kernel of an operator."""
    if _libraries.cpu_error is None:
        _LIBRARY.impl(name, kernel, key, with_keyset=True)


def define_composite(schema: str, function: Any) -> None:
    """An operator made of others in Python."""
    _LIBRARY.define(schema)
    _LIBRARY.impl(schema.split("(")[0], function, "CompositeImplicitAutograd")


def define_front(name: str, general: autograd.Kernel, flops: Any) -> Any:
    """An operator whose kernels do at once what `general` makes of operators that have gradients and autocast."""
    if _libraries.cpu_error is not None:
        return lambda *args, **kwargs: _libraries.require()
    for key in ("Autograd", "AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, general, key)
    packet = getattr(torch.ops.myops, name)
    register_flop_formula(packet, get_raw=True)(flops)
    for key in ("SparseCsrCUDA", "SparseCUDA"):
        _explain_missing_cuda(name, key=key)
    return autograd.without_wrapper(packet.default)


def _explain_missing_cuda(*names: str, key: str = "CUDA") -> None:
    """Kernels that say why there are none, where the library did not load under a torch with CUDA."""
    if _libraries.cuda_error is not None and torch.version.cuda is not None:
        for name in names:
            _LIBRARY.impl(name, _missing_cuda, key)


def _missing_cuda(*args: Any, **kwargs: Any) -> None:
    raise ImportError(_libraries.load_failure("CUDA", _libraries.cuda_error))


def _register_functional(row: Row, op: OpOverload) -> None:
    torch.library.register_fake(f"myops::{row.name}", row.fake, lib=_LIBRARY)
    _LIBRARY.impl(row.name, autograd.differentiable_kernel(op, row), "Autograd", with_keyset=True)
    if row.autocast:
        _LIBRARY.impl(row.name, autograd.autocast_kernel(op, row, "cpu"), "AutocastCPU")
        _LIBRARY.impl(row.name, autograd.autocast_kernel(op, row, "cuda"), "AutocastCUDA")
    if row.reads_conjugates:
        # The engines read conjugate views in place; without this, torch would copy them first.
        _LIBRARY.impl(row.name, torch.library.fallthrough_kernel, "Conjugate")
        torch.library.register_torch_dispatch(
            f"myops::{row.name}", ProxyTorchDispatchMode, _without_conjugates, lib=_LIBRARY
        )

    @autograd.untraced
    def batch_rule(info: Any, in_dims: tuple[int | None, ...], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return row.batch(info.batch_size, in_dims, *args, **kwargs), row.batch_dims

    torch.library.register_vmap(f"myops::{row.name}", batch_rule, lib=_LIBRARY)


def _without_conjugates(mode: Any, op: OpOverload, types: Any, args: Any, kwargs: Any) -> Any:
    """In a graph operands are conjugated in memory: Inductor gives them other strides by copies that forget the bit.

    The tag that would ask for none (flexible_layout) makes AOTInductor lose keywords that have their default.
    """
    with mode:
        args = [torch.resolve_conj(value) if isinstance(value, Tensor) else value for value in args]
    return mode.__torch_dispatch__(op, types, tuple(args), kwargs or {})


def check_out(out: Tensor, name: str, result: Any, casts: bool) -> None:
    """Raises unless `result` can be written to `out`, in the words of kernels/torch_bridge.h."""
    wanted, given = (str(t.dtype).removeprefix("torch.") for t in (result, out))
    torch._check(
        out.device == result.device,
        lambda: (
            f"Expected all tensors to be on the same device, but {name} is on {out.device} and the result on "
            f"{result.device}"
        ),
    )
    if casts:
        torch._check(
            torch.can_cast(result.dtype, out.dtype),
            lambda: f"result type {wanted} can't be cast to the desired output type {given} of {name}",
        )
    else:
        torch._check(wanted == given, lambda: f"Expected {name} tensor to have dtype {wanted}, but got {given} instead")
    torch._check(
        len(out.shape) == len(result.shape) and all(a == b for a, b in zip(out.shape, result.shape, strict=True)),
        lambda: f"Expected {name} to have shape {list(result.shape)}, but got {list(out.shape)}",
    )


def _register_mutable(row: Operator, name: str, op: OpOverload, kernel: autograd.Kernel) -> None:
    in_place = name.endswith("_")

    def fake(*args: Any, **kwargs: Any) -> None:
        out = args[0] if in_place else kwargs.pop("out")
        check_out(out, "input" if in_place else "out", row.fake(*args, **kwargs), row.casts_out)

    torch.library.register_fake(f"myops::{name}", fake, lib=_LIBRARY)
    _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)
    _LIBRARY.impl(name, autograd.version_kernel(op), "ADInplaceOrView", with_keyset=True)
    for key, resolve in (("Conjugate", torch.resolve_conj), ("Negative", torch.resolve_neg)):
        _LIBRARY.impl(name, autograd.lazy_bit_kernel(op, resolve), key)


def _register_decomposition(row: Decomposable) -> None:
    """The kernels of every device that has none of its own."""

    def checked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if any(isinstance(value, Tensor) and value.layout != torch.strided for value in args):
            raise translate(RuntimeError("sparse layouts take other operators"), row.name, args)
        return row.decompose(*args, **kwargs)

    def functional(*args: Any, **kwargs: Any) -> Any:
        return checked(args, kwargs)

    def out(*args: Any, out: Tensor, **kwargs: Any) -> None:
        result = checked(args, kwargs)
        torch._check(
            out.shape == result.shape,
            lambda: f"Expected out to have shape {list(result.shape)}, but got {list(out.shape)}",
        )
        out.copy_(result)

    def in_place(*args: Any, **kwargs: Any) -> None:
        args[0].copy_(autograd.check_in_place(args[0], checked(args, kwargs), row.name))

    _LIBRARY.impl(row.name, functional, "CompositeExplicitAutograd")
    if not isinstance(row, Operator):
        return
    _LIBRARY.impl(f"{row.name}.out", out, "CompositeExplicitAutograd")
    if row.in_place:
        _LIBRARY.impl(f"{row.name}_", in_place, "CompositeExplicitAutograd")


def decompositions() -> dict[OpOverload, autograd.Kernel]:
    """The operators as torch's own, for programs that have to run where myops is not: exporters and other compilers.

        program = torch.export.export(model, args)
        program.run_decompositions({**torch.export.default_decompositions(), **myops.decompositions()})

    Covers the functional forms of the dense operators. `out=` and the in-place forms, packed weights and the sparse
    operators stay in the program.
    """
    _libraries.require()
    rows = (*OPERATORS.values(), *COMPONENTS.values())
    return {row.op: row.decompose for row in rows if isinstance(row, Decomposable)}


def _register_scalar_overloads(row: Operator) -> None:
    """`.Scalar` and `.Scalar_out`: alpha and beta of any Python number, exact where a double is not.

    A real scalar goes to the float overload. A complex one, or an integer beyond 2^53, is multiplied into the operand
    that it scales: integers are modular, so that is exact for them too.
    """
    packets = [(row.packet, "default", "Scalar"), (row.packet, "out", "Scalar_out")]
    if row.in_place:
        packets.append((row.in_place_packet, "default", "Scalar"))
    for packet, overload, new in packets:
        target = getattr(packet, overload)
        schema = re.sub(r"float (?=beta|alpha)", "Scalar ", str(target._schema))
        name, rest = re.match(r"myops::([\w.]+)(\(.*)", schema).groups()  # type: ignore[union-attr]
        base = name.split(".")[0]
        _LIBRARY.define(f"{base}.{new}{rest}")
        _LIBRARY.impl(f"{base}.{new}", _fold_scalars(row, target), "CompositeImplicitAutograd")


def _fold_scalars(row: Operator, target: OpOverload) -> autograd.Kernel:
    signature = autograd.Signature(target)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        arguments = list(args)
        exact = {}
        for name, position in row.folds.items():
            value = kwargs.pop(name, 1)
            if isinstance(value, complex) and value.imag == 0:
                value = value.real
            if fits_float(value):
                exact[name] = float(value)
                continue
            operand = row.folded(position, *args)
            if operand.dtype == torch.bool and not isinstance(value, complex):
                exact[name] = float(bool(value))  # any number but 0 is true
                continue
            check_integer(value, name, operand.dtype)
            if isinstance(value, int) and (operand.is_floating_point() or operand.is_complex()):
                exact[name] = float(value)  # which is what torch makes of it
                continue
            check_complex(value, name, operand.dtype)
            arguments[position] = torch.mul(operand, value)
            exact[name] = 1.0
        mutated = signature.names[0] if target.overloadpacket.__name__.endswith("_") else None
        if mutated is not None and arguments[0] is not args[0]:
            # beta was folded into a new input, so the result has to be written to the old one.
            args[0].copy_(autograd.check_in_place(args[0], row.op(*arguments, **kwargs, **exact), row.name))
            return None
        return target(*arguments, **kwargs, **exact)

    return kernel


def check_complex(value: Any, name: str, dtype: torch.dtype) -> None:
    """Refuses a complex scalar where the dtype is not complex."""
    if isinstance(value, complex) and not dtype.is_complex:
        raise RuntimeError(
            f"For non-complex input tensors, argument {name} must not be a complex number, but got {value}"
        )


def check_integer(value: Any, name: str, dtype: torch.dtype) -> None:
    """Refuses an integer beyond an integral dtype (which takes the negatives of what fits), in the kernels' words."""
    if isinstance(value, int) and not (dtype.is_floating_point or dtype.is_complex):
        limits = torch.iinfo(dtype)
        if not min(limits.min, -limits.max) <= value <= limits.max:
            raise RuntimeError(f"{name} = {value} cannot be converted to {str(dtype)[6:]} without overflow")


def fits_float(value: Any) -> bool:
    """Whether a scalar crosses as a float without loss (what a float cannot hold of a float argument is no loss)."""
    if isinstance(value, int):
        return -(2**53) <= value <= 2**53
    return not isinstance(value, complex)
