"""Exception types for errors that were found below Python, where only RuntimeError exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def check_tensors(name: str, args: tuple[Any, ...]) -> None:
    """Raises where one of `args` is no strided tensor, and the operator takes one there."""
    declared = getattr(torch.ops.myops, name).default._schema.arguments
    for argument, value in zip(declared, args, strict=False):
        wanted = str(argument.type) == "Tensor" or (str(argument.type) == "Optional[Tensor]" and value is not None)
        if wanted and not isinstance(value, Tensor):
            raise TypeError(f"myops.{name}: {argument.name} must be a Tensor, but got {type(value).__name__}")
        if wanted and value.layout != torch.strided:
            see = "; see myops.sparse.mm for sparse operands" if value.layout in _SPARSE else ""
            raise NotImplementedError(
                f"myops.{name} takes strided tensors, but {argument.name} has layout {value.layout}{see}"
            )


def translate(error: RuntimeError, name: str, args: tuple[Any, ...]) -> Exception:
    """The exception that torch raises for the same mistake; `error` itself where it is one already."""
    try:
        check_tensors(name, args)
    except (TypeError, NotImplementedError) as named:
        return named
    if "Expected a value of type" in str(error):  # the schema's words
        return TypeError((str(error).splitlines() or [""])[0])
    if "is not implemented for" in str(error):
        return NotImplementedError(str(error))
    if str(error) == "std::bad_alloc":  # MemoryError itself before torch 2.15
        return MemoryError(str(error))
    return error
