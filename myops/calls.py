"""How the public functions call their operators: scalars of any kind, `out=` with torch's resize rule, in place.

The common call (real scalars, no `out`) is one registered operator and nothing more.
"""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, _is_alias_of  # type: ignore[attr-defined]

from . import _libraries
from .autograd import call_by_shortest_way, check_in_place, check_undifferentiated, write_by_shortest_way
from .errors import check_tensors, translate
from .registration import COMPONENTS, OPERATORS, Operator, Row, check_out, fits_float

Number = int | float | complex | bool


def unless_one(**scalars: Number) -> dict[str, Number]:
    """Keywords without the scalars that are 1, which is their default: each takes the dispatcher 0.3 us."""
    return {name: value for name, value in scalars.items() if value.__class__ is not int or value != 1}


def as_number(value: Any, name: str) -> Any:
    """A number of NumPy's or in a 0-dim tensor as one of Python's. Anything else is left to others to refuse."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, complex):
        return complex(value)  # of NumPy's, which the dispatcher does not take
    if isinstance(value, Tensor) and (value.dim() != 0 or value.requires_grad):
        kind = f"{value.dim()}-D tensor" if value.dim() else "tensor that requires grad"
        raise TypeError(f"{name} must be a number or a 0-D tensor without gradient, but got a {kind}")
    if getattr(value, "ndim", None) == 0:
        return value.item()  # now: a tensor may change before the backward
    return value


def as_numbers(scalars: dict[str, Any]) -> bool:
    """`as_number` of each; whether all of them cross as floats."""
    exact = True
    for name, value in scalars.items():
        kind = value.__class__
        if kind is float:
            continue
        if kind is not int:
            value = scalars[name] = as_number(value, name)
        exact = exact and fits_float(value)
    return exact


def call(row: Row, *args: Any, **scalars: Any) -> Tensor:
    if _libraries.cpu_error is not None:
        _libraries.require()
    exact = not scalars or as_numbers(scalars)
    if torch.compiler.is_compiling():  # an error has Dynamo's type there, and our words
        return row.op(*args, **scalars) if exact else row.packet.Scalar(*args, **scalars)
    try:
        return call_by_shortest_way(row, args, scalars) if exact else row.packet.Scalar(*args, **scalars)
    except RuntimeError as error:
        raise translate(error, row.name, args) from None


class _Operators:
    """`torch.ops.myops` for gradients and batching rules: by the shortest way."""

    def __getattr__(self, name: str) -> Any:
        row = OPERATORS.get(name) or COMPONENTS.get(name)
        function = getattr(torch.ops.myops, name) if row is None else partial(_call_overload, row)
        setattr(self, name, function)
        return function


def _call_overload(row: Row, *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling():
        return row.op(*args, **kwargs)
    return call_by_shortest_way(row, args, kwargs)


ops = _Operators()


def _check_before_resize(row: Operator, out: Tensor, args: tuple[Any, ...]) -> None:
    """What the operator would refuse keeps its shape."""
    check_undifferentiated(row.name, (*args, out))
    check_tensors(row.name, args)
    if any(isinstance(value, Tensor) and _is_alias_of(value, out) for value in args):
        raise RuntimeError(
            f"myops.{row.name}: out has shape {list(out.shape)} and would be resized, but shares memory with an operand"
        )
    dtype = row.fake(*(value.to("meta") if isinstance(value, Tensor) else value for value in args)).dtype
    device = next((value.device for value in args if isinstance(value, Tensor) and value.dim() > 0), out.device)
    check_out(out, "out", SimpleNamespace(dtype=dtype, device=device, shape=out.shape), row.casts_out)


def call_out(row: Operator, out: Tensor, *args: Any, **scalars: Any) -> Tensor:
    if _libraries.cpu_error is not None:
        _libraries.require()
    if not isinstance(out, Tensor):
        raise TypeError(f"myops.{row.name}: out must be a Tensor, but got {type(out).__name__}")
    try:
        shape = row.shape(*args)
        exact = as_numbers(scalars)
        if out.shape != shape and not torch.compiler.is_compiling():
            _check_before_resize(row, out, args)
    except AttributeError:  # what is no tensor has no dim()
        check_tensors(row.name, args)
        raise
    except RuntimeError as error:
        raise translate(error, row.name, args) from None
    if out.shape != shape:
        if out.numel() != 0:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out.shape)}, which does not "
                f"match the required output shape {list(shape)}. This behavior is deprecated; resize it first.",
                stacklevel=3,
            )
        out.resize_(shape)
    scalars["out"] = out
    try:
        if exact and not torch.compiler.is_compiling():
            write_by_shortest_way(row.call_out, out, args, scalars)
        else:
            (row.packet.out if exact else row.packet.Scalar_out)(*args, **scalars)
    except RuntimeError as error:
        raise translate(error, row.name, args) from None
    return out


def call_in_place(row: Operator, input: Tensor, *args: Any, **scalars: Any) -> Tensor:
    if _libraries.cpu_error is not None:
        _libraries.require()
    # torch.func takes an operator that returns nothing for one that writes nothing, and would lose what it writes.
    functional = _are_functorch_transforms_active()
    exact = as_numbers(scalars)
    try:
        if exact and not functional and not torch.compiler.is_compiling():
            write_by_shortest_way(row.call_in_place, input, (input, *args), scalars)
            return input
        packet = row.packet if functional else row.in_place_packet
        result = (packet.default if exact else packet.Scalar)(input, *args, **scalars)
        if functional:
            input.copy_(check_in_place(input, result, row.name))
    except RuntimeError as error:
        raise translate(error, f"{row.name}_", (input, *args)) from None
    return input
