"""Rewrites FX graphs of aten operators to myops operators: products, and sums of a product and an addend.

Works on functional graphs with fake values in `node.meta["val"]`, as AOTAutograd makes them, forward or backward. Knows
nothing of Inductor (compile.py); the way back, from myops to aten, is `Operator.decompose`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx

from . import _native
from .registration import OPERATORS, fits_float

aten = torch.ops.aten

PRODUCTS: dict[Any, str] = {
    getattr(getattr(aten, name), overload): name
    for name in ("mm", "addmm", "bmm", "baddbmm")
    for overload in ("default", "dtype")
    if overload in getattr(aten, name).overloads()
}
ADDED = {"mm": "addmm", "bmm": "baddbmm"}
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)


def rewrite(graph: fx.Graph) -> Counter[str]:
    """Replace what myops takes, in place, and return how many of each operator the graph has got.

    A product that is only used by `aten.add` of a tensor that broadcasts to it becomes addmm or baddbmm, also where a
    view stands between them and the tensor is a row, as in `linear` of a strided batch. The caller recompiles.
    """
    made: Counter[str] = Counter()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.add.Tensor:
            made += _add_to_product(graph, node)
        elif node.target in PRODUCTS and _takes(node):
            name = PRODUCTS[node.target]
            scalars: dict[str, Any] = {key: float(value) for key, value in node.kwargs.items()}
            with graph.inserting_before(node):
                _replace(node, graph.call_function(OPERATORS[name].op, node.args, scalars))
            made[name] += 1
    return made


def _takes(node: fx.Node) -> bool:
    """Whether myops takes this call; what it would refuse stays as it is, with torch's own behaviour."""
    values = [_value(arg) for arg in node.args if isinstance(arg, fx.Node)]
    if any(value is None or value.layout != torch.strided for value in values):
        return False
    first, second = values[-2:]
    if first is None or second is None:
        return False
    device = first.device.type
    if device not in ("cpu", "cuda") or not _native.is_available(device):
        return False
    out_dtype = next((arg for arg in node.args if isinstance(arg, torch.dtype)), first.dtype)
    inexact = first.dtype.is_floating_point or first.dtype.is_complex
    return (
        first.dtype == second.dtype
        and first.dtype in _native.DTYPE_CODES
        and all(value is not None and value.dtype in (first.dtype, out_dtype) for value in values)
        and all(
            isinstance(scalar, int | float) and fits_float(scalar) and (inexact or float(scalar).is_integer())
            for scalar in node.kwargs.values()
        )
    )


def _add_to_product(graph: fx.Graph, add: fx.Node) -> Counter[str]:
    """`add` as one product with an addend; an empty count where it is not that."""
    if add.kwargs.get("alpha", 1) != 1 or not all(isinstance(arg, fx.Node) for arg in add.args):
        return Counter()
    for one, other in (add.args, reversed(add.args)):
        path = _product_below(one)
        if path is None:
            continue
        product, shape = path[-1], path[-1].meta["val"].shape
        addend, result = _value(other), add.meta["val"]
        if addend is None or addend.dtype != product.meta["val"].dtype or addend.device != result.device:
            continue
        if len(path) == 1:
            fits = addend.dim() <= len(shape) and _same(result.shape, shape)
        else:  # only a row is the same on both sides of a view
            fits = addend.dim() == 1 and _same(addend.shape, shape[-1:]) and _same(result.shape[-1:], shape[-1:])
        if not fits:
            continue
        plain = next(name for name in ADDED if product.target is OPERATORS[name].op)
        name = ADDED[plain]
        with graph.inserting_before(add):
            new = graph.call_function(OPERATORS[name].op, (other, *product.args))
            new.meta = _meta(product)
            for view in reversed(path[:-1]):
                new = graph.create_node("call_function", view.target, (new, *view.args[1:]))
                new.meta = _meta(view)
        _replace(add, new)
        for node in path:
            graph.erase_node(node)
        return Counter({name: 1, plain: -1})
    return Counter()


def _product_below(node: Any) -> list[fx.Node] | None:
    """The way from `node` down through views to a product of ours that nothing else uses, both ends included."""
    path: list[fx.Node] = []
    while isinstance(node, fx.Node) and len(node.users) == 1:
        path.append(node)
        if any(node.target is OPERATORS[name].op for name in ADDED):
            return path
        if node.target not in VIEWS:
            return None
        node = node.args[0]
    return None


def _same(a: Any, b: Any) -> bool:
    """Whether two shapes are known to be equal; no guard is added to find out."""
    known = torch.fx.experimental.symbolic_shapes.statically_known_true
    return len(a) == len(b) and all(known(x == y) for x, y in zip(a, b, strict=True))


def _value(node: Any) -> Tensor | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def _meta(node: fx.Node) -> dict[str, Any]:
    """What a replacement keeps of a node; not the strides that eager mode had, which our operators do not need."""
    return {key: value for key, value in node.meta.items() if key != "eager_input_vals"}


def _replace(old: fx.Node, new: fx.Node) -> None:
    if not new.meta:
        new.meta = _meta(old)
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)
