"""The activations that addmm, baddbmm and linear can end in: names, torch's own forms, gradients, and their operators.

    relu       max(x, 0); NaN stays NaN
    gelu       x * Phi(x) = x * (1 + erf(x / sqrt(2))) / 2
    gelu_tanh  x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
    silu       x * sigmoid(x)

The kernels apply f to alpha * product + beta * addend before it is rounded, without a pass over the result. A gradient
needs the result of relu, and of the others what f was applied to: there `name_with_preactivation`, which writes both,
records the graph in the place of `name`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from .autograd import call_by_shortest_way, needs_graph
from .registration import BadCall, Decomposable, Operator, Sample, register, register_component

# The operators take the index: a string crosses the Stable ABI at the price of a leak.
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
RELU, GELU, GELU_TANH, SILU = 1, 2, 3, 4

_aten = torch.ops.aten


def _silu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    if not needs_graph((grad, x)):
        return _aten.silu_backward(grad, x)  # which has no derivative; as in torch, the formula has
    sigmoid = torch.sigmoid(x)
    return grad * sigmoid * (1 + x * (1 - sigmoid))


_FUNCTIONS: dict[int, Callable[[Tensor], Tensor]] = {
    RELU: torch.relu,
    GELU: torch.nn.functional.gelu,
    GELU_TANH: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    SILU: torch.nn.functional.silu,
}
_GRADIENTS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    RELU: lambda grad, kept: _aten.threshold_backward(grad, kept, 0),
    GELU: lambda grad, kept: _aten.gelu_backward(grad, kept),
    GELU_TANH: lambda grad, kept: _aten.gelu_backward(grad, kept, approximate="tanh"),
    SILU: lambda grad, kept: _silu_gradient(grad, kept),
}


def keyword(activation: str | int) -> dict[str, int]:
    """The operators' keyword for an activation by name or index; none for "none", so that it costs a call nothing."""
    if activation == "none":
        return {}
    if not isinstance(activation, str | int):
        raise TypeError(f"activation must be a str, but got {type(activation).__name__}")
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, but got {activation!r}")
        return {"activation": ACTIVATIONS.index(activation)}
    return {"activation": activation}


def check_activation(op: str, activation: int, operand: Tensor, name: str) -> None:
    """The checks of kernels/gemm_entry.h, in its words."""
    if not 0 <= activation < len(ACTIVATIONS):
        raise RuntimeError(
            "activation must be 0 (none), 1 (relu), 2 (gelu), 3 (gelu_tanh) or 4 (silu), but got " + str(activation)
        )
    dtype = operand.dtype
    if activation and not dtype.is_floating_point and (activation != RELU or dtype.is_complex):
        raise NotImplementedError(
            f"myops.{op}: activation {ACTIVATIONS[activation]} is not implemented for {name} of dtype "
            f"{str(dtype).removeprefix('torch.')}"
        )


def apply(activation: int, x: Tensor) -> Tensor:
    """The activation as torch has it."""
    return _FUNCTIONS[activation](x) if activation else x


def through(ctx: Any, grad: Tensor, kept: Any) -> Tensor:
    """A gradient, or a tangent, through the activation of a call: f'(x) * grad, with what was kept for it."""
    return _GRADIENTS[ctx.activation](grad, kept) if ctx.activation else grad


class Activated(Operator):
    """An operator that ends in an activation, its last argument, of a sum that it computes."""

    recorded: WithPreactivation

    # Saved tensors are read once a call: hooks on them, as checkpoints have, may not allow it twice.

    @abstractmethod
    def save(self, ctx: Any, *flat: Any) -> None:
        """Keep the two factors and, third, `flat[-1]`: what the activation's gradient needs, or None."""

    @abstractmethod
    def sum_backward(self, ctx: Any, factors: tuple[Any, Any], grad: Tensor) -> tuple[Tensor | None, ...]:
        """`backward` of the sum, with the factors that were kept."""

    @abstractmethod
    def sum_jvp(self, ctx: Any, factors: tuple[Tensor, Tensor], *tangents: Tensor | None) -> Tensor:
        """`jvp` of the sum."""

    @abstractmethod
    def activated_samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        """Samples that have an activation."""

    def with_graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("activation", 0) <= RELU:
            return None
        return call_by_shortest_way(self.recorded, args, kwargs)[0]

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        ctx.activation = flat[-1]
        self.save(ctx, *flat, result if ctx.activation else None)

    def backward(self, ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        # Where only the addend needs a gradient nothing is kept, and nothing is gone after the first backward.
        a, b, kept = ctx.saved_tensors if ctx.keeps else (None, None, None)
        return self.sum_backward(ctx, (a, b), through(ctx, grads[0], kept))

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> Tensor:
        a, b, kept = ctx.saved_tensors
        return through(ctx, self.sum_jvp(ctx, (a, b), *tangents), kept)


class WithPreactivation(Decomposable):
    """f(x) and x, for the sum x that another operator applies its activation f to."""

    reads_conjugates = True
    batch_dims = (0, 0)

    def __init__(self, of: Activated) -> None:
        self.of, self.name, self.tensors = of, f"{of.name}_with_preactivation", of.tensors
        of.recorded = self

    def fake(self, *args: Any, activation: int, **kwargs: Any) -> tuple[Tensor, Tensor]:
        result = self.of.fake(*args, **kwargs, activation=activation)
        if not activation:
            raise RuntimeError(f"activation must not be 0 (none) in myops.{self.of.name}")
        return result, torch.empty_like(result)

    def keep(self, ctx: Any, flat: tuple[Any, ...], result: Any) -> None:
        ctx.activation = flat[-1]
        ctx.set_materialize_grads(False)  # a gradient of x exists in second order only
        self.of.save(ctx, *flat, result[1])

    def backward(self, ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        outer, inner = grads
        a, b, kept = ctx.saved_tensors
        if outer is not None:
            inner = through(ctx, outer, kept) if inner is None else through(ctx, outer, kept) + inner
        return (None,) * self.tensors if inner is None else self.of.sum_backward(ctx, (a, b), inner)

    def jvp(self, ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b, kept = ctx.saved_tensors
        tangent = self.of.sum_jvp(ctx, (a, b), *tangents)
        return through(ctx, tangent, kept), tangent

    def _of_sum(self, sum_of: Callable[..., Tensor], *args: Any, activation: int, **kwargs: Any) -> Any:
        x = sum_of(*args, **kwargs)
        return apply(activation, x), x

    def batch(self, size: int, dims: tuple[int | None, ...], *args: Any, **kwargs: Any) -> Any:
        return self._of_sum(self.of.batch, size, dims, *args, **kwargs)

    def decompose(self, *args: Any, **kwargs: Any) -> Any:
        return self._of_sum(self.of.decompose, *args, **kwargs)

    def reference(self, *args: Any, **kwargs: Any) -> Any:
        return self._of_sum(self.of.reference, *args, **kwargs)

    def flops(self, *shapes: Any, **kwargs: Any) -> int:
        return self.of.flops(*shapes, **kwargs)

    def samples(self, device: str, dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Sample]:
        return self.of.activated_samples(device, dtype, requires_grad)

    def bad_calls(self, device: str) -> Iterator[BadCall]:
        for call in self.of.bad_calls(device):
            if not call.sample.kwargs.keys() & {"beta", "alpha"}:  # there is no .Scalar overload
                kwargs = {"activation": RELU, **call.sample.kwargs}
                yield BadCall(Sample(call.sample.args, kwargs, call.sample.name), call.exception, call.words)
        args = next(iter(self.of.activated_samples(device, torch.float32))).args
        words = "activation must not be 0 (none)"
        yield BadCall(Sample(args, {"activation": 0}, words), RuntimeError, words)


_Activated = TypeVar("_Activated", bound=Activated)


def register_activated(row: _Activated) -> _Activated:
    """`register`, and the operator that records its gradients."""
    register(row)
    register_component(WithPreactivation(row))
    return row


def activations_of(dtype: torch.dtype) -> tuple[int, ...]:
    """Those that a dtype has, "none" apart."""
    return (RELU, GELU, GELU_TANH, SILU) if dtype.is_floating_point else () if dtype.is_complex else (RELU,)


def bad_activations(args: tuple[Tensor, ...]) -> Iterator[BadCall]:
    """Calls with `args`, of float32, that fail for their activation."""

    def call(words: str, to: torch.dtype, activation: int, exception: type[Exception]) -> BadCall:
        return BadCall(Sample(tuple(t.to(to) for t in args), {"activation": activation}, words), exception, words)

    yield call("but got 5", torch.float32, 5, RuntimeError)
    yield call("but got -1", torch.float32, -1, RuntimeError)
    yield call("activation gelu is not implemented for", torch.int32, GELU, NotImplementedError)
    yield call("activation relu is not implemented for", torch.complex64, RELU, NotImplementedError)
