"""Exception types for errors that were found below Python, where only RuntimeError exists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def translate(error: RuntimeError, name: str, args: tuple[Any, ...]) -> Exception:
    """The exception that torch raises for the same mistake; `error` itself where it is one already."""
    for position, value in enumerate(args):
        if "Expected a value of type 'Tensor'" in str(error) and not isinstance(value, Tensor | torch.dtype | None):
            return TypeError(f"myops.{name}: argument {position} must be a Tensor, but got {type(value).__name__}")
        if isinstance(value, Tensor) and value.layout != torch.strided:
            return NotImplementedError(
                f"myops.{name} takes strided tensors, but argument {position} has layout {value.layout}; "
                "see torch.sparse.mm for sparse operands"
            )
    if "is not implemented for" in str(error) and not isinstance(error, NotImplementedError):
        return NotImplementedError(str(error))
    return error
