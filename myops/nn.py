"""Modules on myops, and `swap_`, which puts the modules of a model on them.

A module is swapped by changing its class and nothing else: parameters, hooks, tied weights, optimisers, names in the
state_dict and what holds a reference to the module all stay. Not here: modules whose products torch calls from C++ or
through functions (nn.MultiheadAttention, GRU, Bilinear); the switch (override.py) reaches those.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import _disabled_torch_function_impl
from torch.nn.utils import parametrize

from . import _libraries
from .activation import keyword
from .ops.addmm import addmm
from .ops.linear import linear
from .ops.linear_packed import linear_packed
from .packed import PackedWeight, pack_weight

__all__ = ["Linear", "PackedLinear", "swap_", "unswap_"]

log = logging.getLogger(__name__)

_PLAIN = (torch.nn.Parameter, Tensor)
HF_CONV1D = "transformers.pytorch_utils"


def _leaf(module: torch.nn.Module, input: Any) -> Any:
    """`module` as one node of what torch.fx traces, as torch's own are; None for the root, and without a trace."""
    if not isinstance(input, fx.Proxy) or not isinstance(input.tracer, fx.Tracer):
        return None
    name = input.tracer.path_of_module(module)
    return input.tracer.create_proxy("call_module", name, (input,), {}) if name else None


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` through `myops.linear`: `input @ weight.T + bias`, the same parameters and state_dict.

    An input or weight that is sparse or nested, or a weight of a class with functions of its own (quantized ones), goes
    to torch's function.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            leaf = _leaf(self, input)
            return torch.nn.functional.linear(input, self.weight, self.bias) if leaf is None else leaf
        weight = self.weight
        if (
            input.layout is not torch.strided
            or input.is_nested
            or weight.layout is not torch.strided
            or (weight.__class__ not in _PLAIN and type(weight).__torch_function__ is not _disabled_torch_function_impl)
        ):
            return torch.nn.functional.linear(input, weight, self.bias)
        return linear(input, weight, self.bias)


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference, its weight packed: the bias is a parameter, the panels a buffer.

        f(input @ weight.T + bias)      input: (..., in_features); the result: (..., out_features)

    Args:
        weight: (out_features, in_features), on the CPU; `pack_weight` says what it raises.
        bias: (out_features,) or None.
        activation: what the kernel applies to the sum, by its name in `myops.linear`.

    The state_dict holds the panels. One from a machine with another instruction set is repacked when it is loaded, and
    one of a `Linear` (with `weight`) is packed. `to(dtype)` does not reach the panels: pack a weight of that dtype.
    """

    panels: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> None:
        super().__init__()
        keyword(activation)  # which raises for another name
        self.activation = activation
        packed = pack_weight(weight.detach())
        self.out_features, self.in_features = packed.shape
        self.dtype = packed.dtype
        self.register_buffer("panels", packed.panels)
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)

    @classmethod
    def from_linear(cls, module: torch.nn.Linear, activation: str = "none") -> PackedLinear:
        """The same layer, its weight packed, with the activation that follows it."""
        return cls(module.weight, module.bias, activation).train(module.training)

    @property
    def packed(self) -> PackedWeight:
        """The weight as `myops.linear` takes it."""
        return PackedWeight(self.panels, (self.out_features, self.in_features), self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        leaf = _leaf(self, input)
        if leaf is not None:
            return leaf
        return linear_packed(input, self.panels, self.bias, self.out_features, self.dtype, self.activation)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.panels = self.packed.panels  # of a machine with another instruction set

    def extra_repr(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"dtype={dtype}, activation={self.activation}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight, panels = state_dict.pop(prefix + "weight", None), state_dict.get(prefix + "panels")
        if weight is not None and weight.shape != (self.out_features, self.in_features):
            *_, errors = args
            errors.append(
                f"size mismatch for {prefix}weight: copying a param with shape {weight.shape} from checkpoint, the "
                f"shape in current model is {torch.Size((self.out_features, self.in_features))}."
            )
            panels = self.panels
        elif weight is not None:
            panels = pack_weight(weight.detach().to(self.dtype)).panels
        if panels is not None:
            packed = PackedWeight(panels, (self.out_features, self.in_features), self.dtype)
            state_dict[prefix + "panels"] = packed.panels
        super()._load_from_state_dict(state_dict, prefix, *args)


def __getattr__(name: str) -> Any:
    """`Conv1D`, made when it is asked for, as a pickle does: importing myops must not import transformers."""
    if name != "Conv1D":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    try:
        base: Any = importlib.import_module(HF_CONV1D).Conv1D
    except ImportError as error:
        raise AttributeError("myops.nn.Conv1D takes the place of a class of transformers, which is missing") from error

    class Conv1D(base):
        """The linear layer of GPT-2 in transformers, whose weight is (in_features, out_features), through addmm."""

        def forward(self, x: Tensor) -> Tensor:
            product = addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
            return product.view(x.shape[:-1] + (self.nf,))  # noqa: RUF005

    Conv1D.__module__, Conv1D.__qualname__ = __name__, "Conv1D"  # so that instances can be pickled
    globals()["Conv1D"] = Conv1D
    return Conv1D


@dataclass
class Report:
    """What `swap_` did: names of modules, in the order of `named_modules()`."""

    swapped: dict[str, str] = field(default_factory=dict)  # name -> class that it has now
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}, skipped {len(self.skipped)}"]
        lines += [f"  {name or '(the model)'}: {new}" for name, new in self.swapped.items()]
        lines += [f"  {name or '(the model)'} skipped: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


def _replacements() -> dict[type, type]:
    found: dict[type, type] = {torch.nn.Linear: Linear}
    if HF_CONV1D in sys.modules:
        found[sys.modules[HF_CONV1D].Conv1D] = getattr(sys.modules[__name__], "Conv1D")  # noqa: B009
    return found


def _why_not(module: torch.nn.Module) -> str | None:
    """Why a module whose class has a replacement keeps its class."""
    if "forward" in vars(module):
        return "its forward is patched on the instance"
    for name, parameter in module.named_parameters(recurse=False):
        if type(parameter) not in _PLAIN:
            return f"its {name} is a {type(parameter).__name__}"
        if parameter.dtype not in _libraries.DTYPE_CODES:
            return f"its {name} is of dtype {parameter.dtype}"
        if parameter.layout is not torch.strided:
            return f"its {name} is of layout {parameter.layout}"
    return None


def swap_(model: torch.nn.Module, filter_fn: Callable[[torch.nn.Module, str], bool] | None = None) -> Report:
    """Put the `nn.Linear` modules of `model` (and transformers' `Conv1D`) on myops, in place.

    Args:
        model: any module; it may itself be a Linear.
        filter_fn: `filter_fn(module, name)` says whether to swap a module whose class has a replacement; `name` is the
            one in `named_modules()`. Default: all.

    Returns:
        A `Report`; print it. Subclasses of Linear, parametrized, quantized and patched modules are skipped, with the
        reason; other classes are not mentioned. Under `MYOPS_DISABLE=1` nothing is swapped.

    Warns:
        UserWarning: nothing was swapped.

    Raises:
        ImportError: the CPU library is missing.
    """
    _libraries.require()
    report, replacements = Report(), _replacements()
    for name, module in model.named_modules():
        new = replacements.get(type(module))
        if new is None:
            base = next((base for base in replacements if isinstance(module, base)), None)
            if base is not None and type(module) not in replacements.values():
                report.skipped[name] = f"{type(module).__name__} is a subclass of {base.__name__}"
            continue
        if filter_fn is not None and not filter_fn(module, name):
            report.skipped[name] = "filter_fn"
        elif _libraries.flag("MYOPS_DISABLE"):
            report.skipped[name] = "MYOPS_DISABLE=1"
        elif (reason := _why_not(module)) is not None:
            report.skipped[name] = reason
        else:
            module.__class__ = new
            report.swapped[name] = f"myops.nn.{new.__name__}"
    log.info("%s: %s", type(model).__name__, report)
    if not report.swapped and not _libraries.flag("MYOPS_DISABLE"):
        warnings.warn(f"swap_ replaced nothing in {type(model).__name__}: {report}", stacklevel=2)
    return report


def unswap_(model: torch.nn.Module) -> None:
    """Undo `swap_`: every module of a class of this file gets torch's own class back.

    Also a module that has been parametrized since (weight_norm): torch has made it a class of its own.
    """
    originals = {new: old for old, new in _replacements().items()}
    for module in model.modules():
        cls = type(module)
        if parametrize.is_parametrized(module) and cls.__bases__[0] in originals:
            contents = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls.__name__, (originals[cls.__bases__[0]],), contents)  # copies have the old one
        else:
            module.__class__ = originals.get(cls, cls)
