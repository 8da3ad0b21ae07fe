"""linear: row of the operator table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..activation import (
    Activated,
    activations_of,
    apply,
    bad_activations,
    check_activation,
    keyword,
    register_activated,
)
from ..calls import call, call_out, ops
from ..packed import PackedWeight
from ..registration import BadCall, Sample
from ._gemm import (
    bad,
    batched,
    batched_addend,
    check,
    check_bias,
    check_device,
    check_pair,
    check_same_dtype,
    product_tangent,
    rows,
    sample,
    save_product,
    sum_to,
    tensor,
    total,
)
from .linear_packed import linear_packed


def result_shape(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    check(input.dim() >= 1, lambda: "input must have at least one dimension, got a 0-D tensor")
    check(weight.dim() in (1, 2), lambda: f"weight must be a matrix or a vector, got {weight.dim()}-D tensor")
    check(
        input.shape[-1] == weight.shape[-1],
        lambda: (
            f"input and weight shapes cannot be multiplied ({list(input.shape)} and {list(weight.shape)} transposed)"
        ),
    )
    check_bias(bias, weight.shape[0] if weight.dim() == 2 else None)
    return (*input.shape[:-1], *(weight.shape[:1] if weight.dim() == 2 else ()))


class Linear(Activated):
    name = "linear"
    tensors = 3

    def shape(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> tuple[Any, ...]:
        return result_shape(input, weight, bias)

    def fake(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: int = 0) -> Tensor:
        shape = self.shape(input, weight, bias)
        check_same_dtype(input, "input", weight, "weight")
        if bias is not None:
            check_same_dtype(bias, "bias", input, "input")
        dtype = check_pair("linear", input, "input", weight, "weight", None)
        check_activation("linear", activation, input, "input")
        if bias is not None:
            check_device(bias, "bias", input, "input")
        return input.new_empty(shape, dtype=dtype)

    def save(self, ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, _: int, kept: Tensor | None) -> None:
        ctx.bias_shape = None if bias is None else bias.shape
        save_product(ctx, input, weight, kept)

    def sum_backward(self, ctx: Any, factors: tuple[Any, Any], grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = factors
        need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
        weight_shape = ctx.shapes[1]
        vector = len(weight_shape) == 1
        outer = grad.unsqueeze(-1) if vector else grad
        grad_input = grad_weight = grad_bias = None
        if need_input:
            grad_input = ops.matmul(outer, (weight.unsqueeze(0) if vector else weight).conj())
        if need_weight:
            grad_weight = ops.mm(rows(outer).mT, rows(input).conj())
            grad_weight = grad_weight.reshape(weight_shape) if vector else grad_weight
        if need_bias:
            grad_bias = sum_to(grad, ctx.bias_shape)
        return grad_input, grad_weight, grad_bias

    def sum_jvp(self, ctx: Any, factors: tuple[Tensor, Tensor], *tangents: Tensor | None) -> Tensor:
        input, weight = factors
        d_input, d_weight, d_bias = tangents
        shape = result_shape(input, weight, None)
        product = product_tangent(ops.linear, input, weight, d_input, d_weight, input.dtype)
        return total((product, None if d_bias is None else d_bias.expand(shape) * 1), input.new_zeros(shape))

    def batch(
        self, size: int, dims: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: int = 0
    ) -> Tensor:
        if dims[1] is None and (bias is None or dims[2] is None):
            return ops.linear(input.movedim(dims[0], 0), weight, bias, activation=activation)
        check_activation("linear", activation, input, "input")
        x = batched(input, dims[0], size)
        if dims[1] is None:
            result = ops.linear(x, weight)
        else:
            w = weight.movedim(dims[1], 0)
            matrix = w if w.dim() == 3 else w.unsqueeze(1)
            flat = ops.bmm(x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1), matrix.mT)
            result = flat.reshape(*x.shape[:-1], *(matrix.shape[1:2] if w.dim() == 3 else ()))
        if bias is not None:
            result = result + batched_addend(bias, dims[2], size, result.dim() - 1)
        return apply(activation, result)

    def decompose(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: int = 0) -> Tensor:
        check_activation("linear", activation, input, "input")
        if weight.dim() == 2:
            return apply(activation, torch.nn.functional.linear(input, weight, bias))
        product = torch.matmul(input, weight)
        return apply(activation, product if bias is None else product + bias)

    def flops(self, x: Any, w: Any, *args: Any, **kwargs: Any) -> int:
        count = 2 * (w[0] if len(w) == 2 else 1)
        for n in x:
            count *= n
        return count

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for x in [(4, 3), (3,), (2, 4, 3), (2, 0, 3), (2, 3, 4, 3)]:
            yield sample(f"{list(x)} bias", t(*x), t(5, 3), t(5))
            yield sample(f"{list(x)}", t(*x), t(5, 3))
            yield sample(f"{list(x)} vector weight", t(*x), t(3), t())
        yield sample("no features", t(4, 0), t(5, 0), t(5))
        yield sample("permuted", tensor((3, 4, 2), device, dtype).permute(2, 1, 0), t(5, 3), t(5))
        yield sample("transposed weight", t(4, 3), tensor((3, 5), device, dtype).mT, t(5))
        yield sample("one bias", t(4, 3), t(5, 3), t(1))
        yield sample("wide", t(33, 65), t(70, 65), t(70))
        yield from self.activated_samples(device, dtype, requires_grad)

    def activated_samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        def t(*shape: int) -> Tensor:
            return tensor(shape, device, dtype, requires_grad)

        for activation in activations_of(dtype):
            yield sample(f"bias activation={activation}", t(4, 3), t(5, 3), t(5), activation=activation)
            yield sample(f"batch activation={activation}", t(2, 4, 3), t(5, 3), activation=activation)
            yield sample(f"vector weight activation={activation}", t(3), t(3), t(), activation=activation)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        def t(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return tensor(shape, device, dtype)

        yield bad("input and weight shapes cannot be multiplied ([2, 3] and [5, 4] transposed)", t(2, 3), t(5, 4))
        yield bad("weight must be a matrix or a vector, got 3-D tensor", t(2, 3), t(1, 5, 3))
        yield bad("bias must have shape [5], but got [4]", t(2, 3), t(5, 3), t(4))
        yield bad("input and weight must have the same dtype", t(2, 3), t(5, 3).double())
        yield bad("must have the same dtype", t(2, 3), t(5, 3), t(5).double())
        yield bad("not implemented for", t(2, 3).bool(), t(5, 3).bool(), exception=NotImplementedError)
        yield from bad_activations((t(2, 3), t(5, 3)))

    def reference(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: int = 0) -> Tensor:
        result = torch.matmul(input, weight.mT if weight.dim() == 2 else weight)
        return apply(activation, result if bias is None else result + bias)


_linear = register_activated(Linear())


def linear(
    input: Tensor,
    weight: Tensor | PackedWeight,
    bias: Tensor | None = None,
    activation: str = "none",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """`f(input @ weight.T + bias)`; the counterpart of `torch.nn.functional.linear`, with an activation f.

    Args:
        input: (..., in_features), any strides.
        weight: (out_features, in_features) or (in_features,); the dtype and device of `input`. Or a `PackedWeight`,
            which is a constant: gradients reach `input` and `bias` only. Autocast then casts to its dtype.
        bias: (out_features,), or () for a vector weight. Read by the kernel, never expanded.
        activation: what the kernel applies to the sum before it rounds: "none", "relu" (floating and integral dtypes),
            "gelu", x * (1 + erf(x / sqrt(2))) / 2, "gelu_tanh", its approximation by tanh as in torch, or "silu",
            x * sigmoid(x); the operator takes the index in this order. For its gradient the result of relu is kept, and
            of the others what they are applied to.
        out: written to and returned; resized, with torch's warning, where its shape differs.

    Returns:
        (..., out_features), or (...) for a vector weight; rounded once after the bias and the activation.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or `out` with an argument that requires grad.
        NotImplementedError: bool and other dtypes without a kernel, sparse layouts, an activation of complex numbers or
            one of integers other than relu.
        ValueError: an unknown activation.
    """
    if isinstance(weight, PackedWeight):
        if out is not None:
            raise TypeError("myops.linear: out is not supported with a packed weight")
        if isinstance(input, Tensor) and input.shape[-1:] != weight.shape[1:]:
            raise RuntimeError(
                f"input and weight shapes cannot be multiplied: {list(input.shape)} and a packed {list(weight.shape)}"
            )
        return linear_packed(input, weight.panels, bias, weight.shape[0], weight.dtype, activation)
    if out is None:
        return call(_linear, input, weight, bias, **keyword(activation))
    return call_out(_linear, out, input, weight, bias, **keyword(activation))
