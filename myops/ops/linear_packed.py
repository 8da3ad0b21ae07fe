"""linear with a packed weight: pack_weight, unpack_weight and linear_packed, which `myops.linear` calls for one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import _libraries
from ..activation import activations_of, apply, check_activation, keyword
from ..autograd import refuse_gradients
from ..calls import call, ops
from ..registration import BadCall, Row, Sample, implement, register_plain, register_row
from ._gemm import (
    bad,
    batched,
    batched_addend,
    check_bias,
    check_dtype,
    check_same_dtype,
    name_of,
    sample,
    sum_to,
    tensor,
)


def _fake_pack(weight: Tensor) -> Tensor:
    torch._check(weight.dim() == 2, lambda: f"weight must be a matrix, got {weight.dim()}-D tensor")
    check_dtype("pack_weight", weight, "weight")
    size = _libraries.panel_bytes(weight.dtype, int(weight.shape[0]), int(weight.shape[1]))
    return weight.new_empty((size,), dtype=torch.uint8)


def _fake_unpack(panels: Tensor, out_features: int, in_features: int, *, dtype: torch.dtype) -> Tensor:
    return panels.new_empty((out_features, in_features), dtype=dtype)


class LinearPacked(Row):
    name = "linear_packed"
    tensors = 3
    reads_conjugates = True

    def autocast_dtype(self, device: str, **kwargs: Any) -> torch.dtype:
        dtype: torch.dtype = kwargs["dtype"]  # panels cannot be cast, so input and bias follow them
        return dtype

    def fake(
        self,
        input: Tensor,
        panels: Tensor,
        bias: Tensor | None = None,
        *,
        out_features: int,
        dtype: torch.dtype,
        activation: int = 0,
    ) -> Tensor:
        torch._check(input.dim() >= 1, lambda: "input must have at least one dimension, got a 0-D tensor")
        torch._check(
            input.dtype == dtype,
            lambda: f"input and weight must have the same dtype, but got {name_of(input.dtype)} and {name_of(dtype)}",
        )
        torch._check(
            panels.dtype == torch.uint8 and panels.dim() == 1,
            lambda: "panels must be a contiguous uint8 vector on the CPU, from myops.pack_weight",
        )
        check_bias(bias, out_features)
        if bias is not None:
            check_same_dtype(bias, "bias", input, "input")
        check_activation("linear", activation, input, "input")
        return input.new_empty((*input.shape[:-1], out_features))

    def with_graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Gradients and tangents go through an activation of torch's: a packed weight is for inference."""
        activation = kwargs.get("activation", 0)
        if not activation:
            return None
        check_activation("linear", activation, args[0], "input")
        return apply(activation, ops.linear_packed(*args, **{**kwargs, "activation": 0}))

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        input, panels, bias, ctx.out_features, ctx.dtype, _ = flat
        ctx.rows, ctx.in_features = input.shape[:-1], input.shape[-1]
        ctx.bias_shape = None if bias is None else bias.shape
        ctx.save_for_backward(panels)
        ctx.save_for_forward(panels)

    def backward(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (panels,) = ctx.saved_tensors
        grad_input = grad_bias = None
        if ctx.needs_input_grad[0]:
            weight = ops.unpack_weight(panels, ctx.out_features, ctx.in_features, dtype=ctx.dtype)
            grad_input = ops.matmul(grad, weight.conj())
        if ctx.needs_input_grad[2]:
            grad_bias = sum_to(grad, ctx.bias_shape)
        return grad_input, None, grad_bias

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Any:
        (panels,) = ctx.saved_tensors
        d_input, _, d_bias = tangents
        if d_input is None:
            return None if d_bias is None else d_bias.expand(*ctx.rows, ctx.out_features).clone()
        return ops.linear_packed(d_input, panels, d_bias, out_features=ctx.out_features, dtype=ctx.dtype)

    def batch(
        self, size: int, dims: Any, input: Tensor, panels: Tensor, bias: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if dims[1] is not None:
            raise RuntimeError("panels cannot be batched: every packed weight takes a call of its own")
        x = batched(input, dims[0], size)
        if bias is None or dims[2] is None:
            return ops.linear_packed(x, panels, bias, **kwargs)
        activation = kwargs.pop("activation", 0)
        check_activation("linear", activation, input, "input")
        result = ops.linear_packed(x, panels, **kwargs)
        return apply(activation, result + batched_addend(bias, dims[2], size, result.dim() - 1))

    def flops(self, x: Any, *args: Any, out_features: int, **kwargs: Any) -> int:
        return 2 * out_features * math.prod(x)

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        def packed(n: int, k: int) -> tuple[Tensor, dict[str, Any]]:
            return ops.pack_weight(tensor((n, k), device, dtype)), {"out_features": n, "dtype": dtype}

        for x in [(4, 3), (3,), (2, 4, 3), (2, 0, 3)]:
            panels, kwargs = packed(5, 3)
            yield sample(f"{list(x)} bias", t(*x), panels, t(5), **kwargs)
            yield sample(f"{list(x)}", t(*x), panels, **kwargs)
            for activation in activations_of(dtype):
                yield sample(f"{list(x)} f{activation}", t(*x), panels, t(5), **kwargs, activation=activation)
        for n, k in [(5, 0), (70, 65), (33, 40), (1, 9)]:
            panels, kwargs = packed(n, k)
            yield sample(f"{n} x {k}", t(33, k), panels, t(n), **kwargs)
            yield sample(f"{n} x {k} strided", tensor((k, 6), device, dtype).mT, panels, t(1), **kwargs)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        x, w = (tensor(shape, device, torch.float32) for shape in ((2, 3), (5, 3)))
        panels = ops.pack_weight(w)
        kwargs: dict[str, Any] = {"out_features": 5, "dtype": torch.float32}
        yield bad("input and weight must have the same dtype", x.double(), panels, **kwargs)
        yield bad("out_features and in_features are 5 and 4", tensor((2, 4), device, torch.float32), panels, **kwargs)
        yield bad("bias must have shape [5], but got [4]", x, panels, x.new_ones(4), **kwargs)
        yield bad("panels must be a contiguous uint8 vector", x, w, **kwargs)
        yield bad("do not hold a packed weight", x, panels[:-1], **kwargs)
        yield bad("do not hold a packed weight", x, torch.zeros_like(panels), **kwargs)
        yield bad("activation must be 0 (none), 1 (relu)", x, panels, **kwargs, activation=5)

    def reference(self, input: Tensor, panels: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
        shape = kwargs["out_features"], input.shape[-1]
        weight = ops.unpack_weight(panels, *shape, dtype=kwargs["dtype"]).to(input.dtype)
        result = torch.matmul(input, weight.mT)
        return apply(kwargs.get("activation", 0), result if bias is None else result + bias)


register_plain("pack_weight", _fake_pack)
register_plain("unpack_weight", _fake_unpack)
implement(
    "pack_weight",
    refuse_gradients(
        lambda: ops.pack_weight.default,
        "weight requires grad, and a packed weight is a constant: no gradient would reach it. Pack weight.detach(), "
        "or under torch.no_grad()",
    ),
    "Autograd",
)
_linear_packed = register_row(LinearPacked())


def linear_packed(
    input: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    out_features: int,
    dtype: torch.dtype,
    activation: str | int = "none",
) -> Tensor:
    """`myops.linear` for the parts of a `PackedWeight`."""
    if not isinstance(input, Tensor):
        raise TypeError(f"myops.linear: input must be a Tensor, but got {type(input).__name__}")
    if input.device != panels.device or panels.device.type == "cuda":
        raise RuntimeError(
            f"a packed weight is for products on the CPU, but weight is on {panels.device} and input on "
            f"{input.device}; on other devices pass the weight itself"
        )
    f = keyword(activation)
    return call(_linear_packed, input, panels, bias, out_features=out_features, dtype=dtype, **f)
