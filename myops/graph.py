"""Rewrites FX graphs of aten operators to myops operators: products, sums of these with an addend, activations.

Works on functional graphs with fake values in `node.meta["val"]`, as AOTAutograd makes them, forward or backward. Knows
nothing of Inductor (compile.py); the way back, from myops to aten, is `Operator.decompose`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from . import _libraries
from .activation import GELU_TANH, SILU, activations_of, apply
from .registration import COMPONENTS, OPERATORS, fits_float

aten = torch.ops.aten

PRODUCTS: dict[Any, str] = {
    getattr(getattr(aten, name), overload): name
    for name in ("mm", "addmm", "bmm", "baddbmm")
    for overload in ("default", "dtype")
    if overload in getattr(aten, name).overloads()
}
ADDED = {"mm": "addmm", "bmm": "baddbmm"}
ACTIVATED = ("mm", "addmm", "baddbmm")
VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)

# How activations are written: by torch's functions, and by hand as in transformers (NewGELUActivation, of GPT-2).
FORMS: tuple[tuple[int, Callable[[Tensor], Tensor]], ...] = (
    *((activation, functools.partial(apply, activation)) for activation in activations_of(torch.float32)),
    (SILU, lambda x: x * torch.sigmoid(x)),
    (SILU, lambda x: torch.sigmoid(x) * x),
    (GELU_TANH, lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))),
)

# For a dtype and the target of the last node: activations, and the last nodes of the graphs that compute them.
Patterns = Mapping[torch.dtype, Mapping[Any, list[tuple[int, fx.Node]]]]


def activation_patterns(decompositions: Mapping[Any, Callable[..., Any]]) -> Patterns:
    """The activations as graphs that were made with these decompositions have them, in every floating dtype."""
    patterns: dict[torch.dtype, dict[Any, list[tuple[int, fx.Node]]]] = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for activation, form in FORMS:
            graph = make_fx(form, dict(decompositions), tracing_mode="fake")(torch.empty(2, 3, dtype=dtype)).graph
            last = graph.output_node().args[0]
            assert isinstance(last, fx.Node)
            patterns.setdefault(dtype, {}).setdefault(last.target, []).append((activation, last))
    return patterns


@functools.cache
def aten_patterns() -> Patterns:
    """The activations where nothing was decomposed."""
    return activation_patterns({})


def rewrite(graph: fx.Graph, patterns: Patterns | None = None) -> Counter[str]:
    """Replace what myops takes, in place, and return how many of each operator the graph gained.

    A product that is only used by `aten.add` of a tensor that broadcasts to it becomes addmm or baddbmm, also where a
    view stands between them and the tensor is a row, as in `linear` of a strided batch. An activation of a product or
    of such a sum goes into it; where something else reads what it is applied to, as a backward does, the operator
    returns both. The caller recompiles.

    Args:
        patterns: what activations look like in this graph; default: as aten's own operators.
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
                _replace(node, _call(graph, OPERATORS[name].op, node.args, scalars))
            made[name] += 1
    for node in list(graph.nodes):
        value = _value(node)
        if node.op == "call_function" and value is not None:
            for activation, last in (patterns or aten_patterns()).get(value.dtype, {}).get(node.target, ()):
                found: dict[fx.Node, fx.Node] = {}
                if _matches(last, node, found):
                    made += _activate(graph, node, activation, found)
                    break
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
    if device not in ("cpu", "cuda") or not _libraries.is_available(device):
        return False
    out_dtype = next((arg for arg in node.args if isinstance(arg, torch.dtype)), first.dtype)
    inexact = first.dtype.is_floating_point or first.dtype.is_complex
    return (
        first.dtype == second.dtype
        and first.dtype in _libraries.DTYPE_CODES
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
        viewed, addend, result = _value(one), _value(other), add.meta["val"]
        if viewed is None or addend is None or other is one:
            continue
        if addend.dtype != viewed.dtype or addend.device != result.device:
            continue
        if len(path) == 1:
            fits = addend.dim() <= len(shape) and _same(result.shape, shape)
        else:  # only a row is the same on both sides of a view
            columns = shape[-1:]
            fits = addend.dim() == 1 and _same(addend.shape, columns) and _same(viewed.shape[-1:], columns)
        if not fits:
            continue
        plain = next(name for name in ADDED if product.target is OPERATORS[name].op)
        name = ADDED[plain]
        with graph.inserting_before(add):
            new = _call(graph, OPERATORS[name].op, (other, *product.args), {})
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


def _matches(pattern: Any, value: Any, found: dict[fx.Node, fx.Node]) -> bool:
    """Whether `value` is computed as `pattern` is, from one tensor; `found` gets what stands for each of its nodes."""
    if isinstance(pattern, tuple | list):
        return len(pattern) == len(value) and all(_matches(p, v, found) for p, v in zip(pattern, value, strict=True))
    if not isinstance(pattern, fx.Node) or not isinstance(value, fx.Node):
        return not isinstance(pattern, fx.Node) and not isinstance(value, fx.Node) and bool(pattern == value)
    if pattern in found:
        return found[pattern] is value
    found[pattern] = value
    if pattern.op == "placeholder":
        return True
    return (
        pattern.target is value.target
        and pattern.kwargs.keys() == value.kwargs.keys()
        and _matches(pattern.args, value.args, found)
        and all(_matches(p, value.kwargs[key], found) for key, p in pattern.kwargs.items())
    )


def _activate(graph: fx.Graph, last: fx.Node, activation: int, found: dict[fx.Node, fx.Node]) -> Counter[str]:
    """The activation that `last` ends as part of the product below it; an empty count where there is none."""
    product = next(value for pattern, value in found.items() if pattern.op == "placeholder")
    views: list[fx.Node] = []
    while product.target in VIEWS and isinstance(product.args[0], fx.Node):
        views.append(product)
        product = product.args[0]
    plain = next((name for name in ACTIVATED if product.target is OPERATORS[name].op), None)
    if plain is None or product.kwargs.get("activation") or (plain == "mm" and len(product.args) > 2):
        return Counter()
    if product.meta["val"].dtype != last.meta["val"].dtype:  # casts on the way, from one dtype to another
        return Counter()
    computing = [value for pattern, value in found.items() if pattern.op != "placeholder"]
    inside = {product, *views, *computing}
    is_read = any(user not in inside for node in inside - {last} for user in node.users)
    name = "linear" if plain == "mm" else plain
    row = COMPONENTS[f"{name}_with_preactivation"] if is_read else OPERATORS[name]
    with graph.inserting_before(product):
        args = product.args
        if plain == "mm":
            columns = graph.call_function(aten.permute.default, (args[1], [1, 0]))
            columns.meta["val"] = args[1].meta["val"].permute(1, 0)  # type: ignore[union-attr]
            args = (args[0], columns)
        new = _call(graph, row.op, args, {**product.kwargs, "activation": activation})
        new.meta = _meta(product)
        if is_read:
            value = product.meta["val"]
            new.meta["val"] = (torch.empty_like(value), value)
            result, before = (graph.call_function(operator.getitem, (new, i)) for i in range(2))
            result.meta, before.meta = ({**_meta(product), "val": each} for each in new.meta["val"])
            product.replace_all_uses_with(before, delete_user_cb=lambda user: user is not new)
            new = result
    with graph.inserting_before(last):
        for view in reversed(views):
            new = graph.create_node("call_function", view.target, (new, *view.args[1:]))
            new.meta = _meta(view)
    _replace(last, new)
    for node in reversed(list(graph.nodes)):
        if node in inside and not node.users:
            graph.erase_node(node)
    made = Counter([row.name])
    made.subtract([plain])
    return made


def _call(graph: fx.Graph, op: Any, args: Any, kwargs: dict[str, Any]) -> fx.Node:
    """A call with every keyword: AOTInductor, as Inductor before it, wants the defaults of integers spelled out."""
    defaults = {a.name: a.default_value for a in op._schema.arguments if a.kwarg_only and a.has_default_value()}
    return graph.call_function(op, args, {**defaults, **kwargs})


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
