"""Exception types for errors that were found below Python, where only RuntimeError exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_tensors(name: str, args: tuple[Any, ...]) -> None:
    """Raises where one of `args` is no tensor, and the operator takes one there."""
    declared = getattr(torch.ops.myops, name).default._schema.arguments
    for argument, value in zip(declared, args, strict=False):
        wanted = str(argument.type) == "Tensor" or (str(argument.type) == "Optional[Tensor]" and value is not None)
        if wanted and not isinstance(value, Tensor):
            raise TypeError(f"myops.{name}: {argument.name} must be a Tensor, but got {type(value).__name__}")


def translate(error: RuntimeError, name: str, args: tuple[Any, ...]) -> Exception:
    """The exception that torch raises for the same mistake; `error` itself where it is one already."""
    if "Expected a value of type" in str(error):  # the schema's words, which are the same for every argument
        for position, value in enumerate(args):
            if "type 'Tensor'" in str(error) and not isinstance(value, Tensor | torch.dtype | None):
                return TypeError(f"myops.{name}: argument {position} must be a Tensor, but got {type(value).__name__}")
        return TypeError((str(error).splitlines() or [""])[0])
    declared = getattr(torch.ops.myops, name).default._schema.arguments
    for position, value in enumerate(args):
        # None passes the schema as an undefined tensor, and fails somewhere behind it.
        if value is None and str(declared[position].type) == "Tensor":
            return TypeError(f"myops.{name}: argument {position} must be a Tensor, but got NoneType")
        if isinstance(value, Tensor) and value.layout != torch.strided:
            return NotImplementedError(
                f"myops.{name} takes strided tensors, but argument {position} has layout {value.layout}; "
                "see myops.sparse.mm for sparse operands"
            )
    if "is not implemented for" in str(error) and not isinstance(error, NotImplementedError):
        return NotImplementedError(str(error))
    return error
