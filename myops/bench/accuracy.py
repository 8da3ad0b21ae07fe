"""Error of a result against the same operation in a wider type.

Reference: float64 for types up to float32, numpy's long double for float64 and complex128 (80 bits on x86; where long
double is double, those errors read low), int64 cut to the type for integers. Large results are compared on an evenly
spread sample of rows and columns, so the reference costs little; this is a report, not a test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..activation import ACTIVATIONS, apply
from .problem import ADDED_FIRST, Problem

MAX_ROWS, MAX_COLUMNS, MAX_BATCHES = 24, 48, 8


def _pick(size: int, most: int) -> Tensor:
    """At most `most` indices spread over 0..size-1, both ends included."""
    count = min(size, most)
    return torch.tensor([index * (size - 1) // max(1, count - 1) for index in range(count)])


def _wide(tensor: Tensor) -> Any:
    """The tensor as a numpy array in the reference type."""
    tensor = tensor.resolve_conj().contiguous()
    if tensor.dtype == torch.float64:
        return tensor.numpy().astype(np.longdouble)
    if tensor.dtype == torch.complex128:
        return tensor.numpy().astype(np.clongdouble)
    if tensor.dtype.is_complex:
        return tensor.numpy().astype(np.complex128)
    if tensor.dtype.is_floating_point:
        return tensor.double().numpy()
    return tensor.numpy().astype(np.int64)


def _factors(problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor, Tensor]:
    """(added, mat1, mat2) with mat2 as (k, n)."""
    if problem.op == "linear":
        return (inputs[2] if len(inputs) > 2 else None), inputs[0], inputs[1].transpose(-1, -2)
    if problem.op in ADDED_FIRST:
        return inputs[0], inputs[1], inputs[2]
    return None, inputs[0], inputs[1]


def _sampled(problem: Problem, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Any, Tensor]:
    """Reference, and the part of the output that it stands for."""
    if problem.op == "mv":
        inputs, output = (inputs[0], inputs[1].unsqueeze(1)), output.unsqueeze(1)
    rows, columns = _pick(output.shape[-2], MAX_ROWS), _pick(output.shape[-1], MAX_COLUMNS)
    if output.dim() == 3:
        batches = _pick(output.shape[0], MAX_BATCHES)
        inputs = tuple(tensor[batches] if tensor.dim() == 3 else tensor for tensor in inputs)
        output = output[batches]
    part = output[..., rows, :][..., columns]
    if problem.op == "add":
        first, second = (tensor[..., rows, :][..., columns] for tensor in inputs)
        return _wide(first) + _wide(second), part
    added, mat1, mat2 = _factors(problem, inputs)
    reference = np.matmul(_wide(mat1[..., rows, :]), _wide(mat2[..., columns]))
    if added is not None:
        added = added[..., rows, :] if added.dim() > 1 else added
        reference = reference + _wide(added[..., columns])
    if problem.activation != "none":
        reference = apply(ACTIVATIONS.index(problem.activation), torch.from_numpy(reference)).numpy()
    return reference, part


def relative_error(problem: Problem, inputs: tuple[Tensor, ...], output: Tensor) -> float:
    """max |output - reference| / max |reference|, no unit; NaN or infinity where the output has them."""
    if output.numel() == 0:
        return 0.0
    reference, part = _sampled(problem, inputs, output)
    if not (part.dtype.is_floating_point or part.dtype.is_complex):
        wrapped = torch.from_numpy(reference).to(part.dtype)
        return float((wrapped.long() - part.long()).abs().max()) / max(1.0, float(np.abs(reference).max()))
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(_wide(part) - reference).max()) / scale
