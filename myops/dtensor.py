"""Sharding rules for DTensor: how the products run on tensors that are spread over a device mesh.

Registered on request, by `myops.dtensor.register()`, because the rules import torch.distributed. Each rule below says,
for one mesh dimension, which placements of the result come from which placements of the operands; DTensor chooses by
the cost of redistribution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from .registration import COMPONENTS, OPERATORS

__all__ = ["register"]

# A mesh dimension over a dimension of the product: rows of the left operand, columns of the right one, the batch, or
# the depth, which leaves partial sums.
Choice = tuple[Any, Any, Any]  # placements of result, left, right


def _choices(n: int) -> list[Choice]:
    """Of a product of matrices, or of a batch of them, with rows in dimension `n`."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    return [
        (Replicate(), Replicate(), Replicate()),
        (Shard(n), Shard(n), Replicate()),
        (Shard(n + 1), Replicate(), Shard(n + 1)),
        (Partial(), Shard(n + 1), Shard(n)),
        *((Shard(i), Shard(i), Shard(i)) for i in range(n)),
    ]


def _addend(result: Any, shape: Any, of: Any) -> Any:
    """Where a tensor that broadcasts to the result has to lie for a placement of it."""
    from torch.distributed.tensor import Replicate, Shard

    if not isinstance(result, Shard):
        return result
    dim = result.dim - (len(of) - len(shape))
    return Shard(dim) if dim >= 0 and shape[dim] != 1 else Replicate()


def _plain(a: Any, b: Any, *rest: Any) -> list[tuple[list[Any], list[Any]]]:
    others = [None] * len(rest)
    return [([out], [left, right, *others]) for out, left, right in _choices(len(a.shape) - 2)]


def _activated(choices: list[Choice], scalars: dict[str, Any]) -> list[Choice]:
    """Those that an activation leaves: f of a sum is not the sum of f of its parts."""
    return [choice for choice in choices if not (scalars.get("activation") and choice[0].is_partial())]


def _added(c: Any, a: Any, b: Any, *rest: Any, **scalars: Any) -> list[tuple[list[Any], list[Any]]]:
    shape, others = (*a.shape[:-1], b.shape[-1]), [None] * (len(rest) + len(scalars))
    return [
        ([out], [_addend(out, c.shape, shape), left, right, *others])
        for out, left, right in _activated(_choices(len(a.shape) - 2), scalars)
    ]


def _rows(n: int, right: int, depth: int) -> list[Choice]:
    """Of rows in any number of dimensions before `n`, the depth, times a matrix (or a vector) of `right` dimensions."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    return [
        (Replicate(), Replicate(), Replicate()),
        (Partial(), Shard(n), Shard(depth)),
        *((Shard(i), Shard(i), Replicate()) for i in range(n)),
        *([(Shard(n), Replicate(), Shard(1 - depth))] if right == 2 else []),
    ]


def _divides(spec: Any) -> bool:
    dtype = spec.tensor_meta.dtype
    return len(spec.shape) > 0 and bool(dtype.is_floating_point or dtype.is_complex)


def _sum(a: Any, b: Any, **scalars: Any) -> list[tuple[list[Any], list[Any]]]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    shape, others = torch.broadcast_shapes(a.shape, b.shape), [None] * len(scalars)
    # An addend that becomes partial is divided by the size of the mesh: no integer is, and no number need be.
    results = (Replicate(), *([Partial()] if _divides(a) and _divides(b) else []), *map(Shard, range(len(shape))))
    return [([out], [_addend(out, a.shape, shape), _addend(out, b.shape, shape), *others]) for out in results]


def _linear(x: Any, w: Any, *bias: Any, **scalars: Any) -> list[tuple[list[Any], list[Any]]]:
    shape, others = (*x.shape[:-1], *w.shape[:-1]), [None] * len(scalars)
    return [
        ([out], [left, right, *(None if b is None else _addend(out, b.shape, shape) for b in bias), *others])
        for out, left, right in _activated(_rows(len(x.shape) - 1, len(w.shape), len(w.shape) - 1), scalars)
    ]


def _twice(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operator with its pre-activation beside its result."""
    return lambda *args, **scalars: [(out * 2, operands) for out, operands in rule(*args, **scalars)]


def _matmul(a: Any, b: Any) -> list[tuple[list[Any], list[Any]]]:
    n = len(a.shape)
    if len(b.shape) <= 2:
        choices = _rows(n - 1, len(b.shape), 0)
    elif a.shape[:-2] == b.shape[:-2]:
        choices = _choices(n - 2)
    else:  # a batch that broadcasts is not worth a rule
        choices = _choices(0)[:1]
    return [([out], [left, right]) for out, left, right in choices]


RULES: dict[str, Callable[..., Any]] = {
    "add": _sum, "mm": _plain, "addmm": _added, "bmm": _plain, "baddbmm": _added, "linear": _linear, "matmul": _matmul
}  # fmt: skip


@cache
def register() -> None:
    """Tell DTensor how to shard the operators, for the life of the process. Calling it again does nothing.

    Raises:
        ImportError: a torch without torch.distributed.
    """
    from torch.distributed.tensor.experimental import register_sharding

    for name, rule in RULES.items():
        row = OPERATORS[name]
        register_sharding(row.op)(rule)
        if (with_preactivation := COMPONENTS.get(f"{name}_with_preactivation")) is not None:
            register_sharding(with_preactivation.op)(_twice(rule))
