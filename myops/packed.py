"""Packed weights: a weight brought once into the order that the CPU kernels read, for products that repeat.

    packed = myops.pack_weight(layer.weight.detach())
    y = myops.linear(x, packed, bias)

A packed weight is a constant that the caller holds: nothing is packed, cached or replaced behind anybody's back, and a
weight that changes has to be packed again. Not here: the kernels (kernels/cpu/linear_packed.cpp).
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from . import _libraries
from .errors import translate

_HEADER = struct.Struct("=Qqqi7h22x")  # kernels/cpu/gemm/panels.h: PanelFormat


class PackedWeight:
    """A weight of shape (out_features, in_features) as the panels that `myops.linear` reads; from `myops.pack_weight`.

    It can be pickled, deep-copied, saved and loaded (`torch.load(weights_only=True)` included) and used inside
    torch.compile. Panels depend on the instruction set: those that come from a machine with another one are repacked,
    exactly, when they are loaded here. `linear` with it has the same bits for a row of the input however many rows
    there are, those of `use(batch_invariant=True)`.

    Attributes:
        panels: the packed elements behind a header that describes them; a uint8 vector.
        shape: (out_features, in_features).
        dtype: of the weight, and so of the inputs that it multiplies.
    """

    def __init__(self, panels: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.panels, self.shape, self.dtype = panels, torch.Size(shape), dtype
        if not self._fits():
            self.panels = torch.ops.myops.pack_weight(self.unpack())

    def _header(self) -> bytes:
        return bytes(self.panels[: _HEADER.size].tolist())

    def _fits(self) -> bool:
        """Whether the instruction set in use packs like this; of panels that hold nothing yet, yes."""
        if self.panels.is_meta:
            return True
        header, wanted = self._header(), _libraries.panel_header(self.dtype, *self.shape)
        return header == wanted or header[:8] != wanted[:8]  # no panels at all: the kernel says so

    @property
    def device(self) -> torch.device:
        """Where the panels are: the CPU, or meta."""
        return self.panels.device

    @property
    def nbytes(self) -> int:
        """Memory that the panels take."""
        return self.panels.numel()

    @property
    def format(self) -> str:
        """What of the panels depends on the instruction set, as text."""
        if self.panels.is_meta:
            return "meta"
        *_, kc, _, size, lanes, vectors, group, depth, shift = _HEADER.unpack(self._header())
        return f"kc={kc} panel={vectors}x{lanes} group={group} depth={depth} bytes={size}{' shifted' if shift else ''}"

    def unpack(self) -> Tensor:
        """The weight again, exactly, as a new row-major tensor."""
        out_features, in_features = self.shape
        return torch.ops.myops.unpack_weight(self.panels, out_features, in_features, dtype=self.dtype)

    def __repr__(self) -> str:
        out_features, in_features = self.shape
        dtype = str(self.dtype).removeprefix("torch.")
        return f"PackedWeight({out_features} x {in_features}, {dtype}, {self.nbytes} bytes, {self.format})"

    def __reduce__(self) -> Any:
        return PackedWeight, (self.panels, tuple(self.shape), self.dtype)


torch.serialization.add_safe_globals([PackedWeight])  # a plain tensor, two numbers and a dtype


def pack_weight(weight: Tensor) -> PackedWeight:
    """`weight` in the order in which the CPU kernels read it, as a constant, for `myops.linear(input, packed, bias)`.

    It pays where packing costs a good part of a product: for few to some dozens of rows, and for dtypes that are not
    multiplied where they lie (bfloat16, float16, integers of 8 and 16 bits). It takes as much memory as the weight,
    plus the padding of out_features to whole vectors (int8 and uint8 as int32 where no instructions multiply them).

    Args:
        weight: (out_features, in_features), any strides, on the CPU. The counterpart of `torch.nn.Linear.weight`; of a
            matrix that is multiplied from the right without being transposed, pack `.mT`.

    Returns:
        A `PackedWeight`, which shares no memory with `weight` and does not follow it.

    Raises:
        RuntimeError: a weight that is no matrix, not on the CPU (the CUDA kernels read a weight where it lies: pass
            it as it is), or requires grad while gradients are recorded: none would reach it.
        NotImplementedError: bool and other dtypes without a kernel.
    """
    _libraries.require()
    if not isinstance(weight, Tensor):
        raise TypeError(f"myops.pack_weight: weight must be a Tensor, but got {type(weight).__name__}")
    if weight.device.type != "cpu":
        raise RuntimeError(
            f"weight must be on the CPU to be packed, but is on {weight.device}, whose kernels read it where it lies: "
            "pass it to myops.linear as it is"
        )
    try:
        panels = torch.ops.myops.pack_weight(weight)
    except RuntimeError as error:
        raise translate(error, "pack_weight", (weight,)) from None
    return PackedWeight(panels, (weight.shape[0], weight.shape[1]), weight.dtype)
