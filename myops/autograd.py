"""The kernels on the Autograd and Autocast keys, out of torch's private names.

Why by hand, and not `torch.library.register_autograd` and `register_autocast`: the former has no forward-mode AD (it
drops tangents silently), fails under `torch.func`, and costs three times as much a call; the latter refuses keyword
arguments and ignores the dtype of the autocast context. Names that move in a future torch fail here, at import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowADInplaceOrView,
    _AutoDispatchBelowAutograd,
    _dispatch_tls_local_exclude_set,
    _dispatch_tls_local_include_set,
    _ExcludeDispatchKeyGuard,
    _has_torch_function,
    _is_tracing,
    _set_fwd_grad_enabled,
    _set_grad_enabled,
)
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
from torch._C._functorch import unwrap_if_dead
from torch._functorch.utils import enable_single_level_autograd_function
from torch._ops import OpOverload
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.autograd.graph import increment_version

from .errors import translate

if TYPE_CHECKING:
    from .registration import Operator, Row

Kernel = Callable[..., Any]
_BELOW_VERSIONS = _after_autograd_keyset.remove(DispatchKey.ADInplaceOrView)


def _local_keys() -> tuple[DispatchKeySet, DispatchKeySet]:
    """What this thread adds to the keys of the arguments and takes from them: autocast, transforms, modes, guards."""
    return _dispatch_tls_local_include_set(), _dispatch_tls_local_exclude_set()


def _keys_of_a_fresh_thread() -> tuple[DispatchKeySet, DispatchKeySet]:
    found: list[tuple[DispatchKeySet, DispatchKeySet]] = []
    thread = Thread(target=lambda: found.append(_local_keys()))
    thread.start()
    thread.join()
    return found[0]


_USUAL_KEYS = _keys_of_a_fresh_thread()
without_autocast = partial(
    _ExcludeDispatchKeyGuard, DispatchKeySet(DispatchKey.AutocastCPU) | DispatchKeySet(DispatchKey.AutocastCUDA)
)


def untraced(kernel: Any) -> Any:
    """`kernel`, which torch calls from C++, left alone by Dynamo with all that it calls.

    Where a compiled function has left its graph, as for `loss.backward()`, Dynamo compiles whatever Python comes next:
    our backward, once for each shape. Graphs that it traces through us are not concerned.
    """
    set_code_exec_strategy(kernel.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))
    return kernel


def needs_graph(args: tuple[Any, ...]) -> bool:
    """Whether an operator called with `args` has to record a graph, a tangent or a transform."""
    return (
        (torch.is_grad_enabled() and _any_requires_grad(*args))
        or forward_ad._current_level >= 0
        or _are_functorch_transforms_active()
    )


def keep_factors(ctx: Any, a: Tensor, b: Tensor, *more: Tensor | None, first: int = 0) -> None:
    """Keeps what the gradients of a product need: each factor where the other one (arguments `first` and `first + 1`)
    needs a gradient. A tangent, of which the context does not know yet, may need both.
    """
    needs_a, needs_b = ctx.needs_input_grad[first : first + 2]
    # In a graph that Dynamo captured, torch.func.jvp does not count levels; but there no argument needs a gradient.
    tangents = forward_ad._current_level >= 0 or not any(ctx.needs_input_grad)
    kept = (a if needs_b or tangents else None, b if needs_a or tangents else None, *more)
    ctx.keeps = any(t is not None for t in kept)
    ctx.save_for_backward(*kept)
    ctx.save_for_forward(*kept)


def call_by_shortest_way(row: Row, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator, past the Python kernel on the Autograd key: 3 us less."""
    args = alive(args)
    if not is_recorded(args):
        return call_unrecorded(row.call, args, kwargs)
    if _local_keys() == _USUAL_KEYS and not _has_torch_function(args):  # nothing comes before the Autograd key
        return row.record(args, kwargs)
    return row.call(*args, **kwargs)


def alive(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` without the wrappers of transforms of torch.func that have ended, which do not say what requires grad.

    Whatever a backward gets out of a vjp function's graph is such a wrapper. Where gradients are off nobody asks.
    """
    if not torch.is_grad_enabled():
        return args
    return tuple([unwrap_if_dead(value) if value.__class__ is Tensor else value for value in args])


def is_recorded(args: tuple[Any, ...]) -> bool:
    """`needs_graph`, or someone observes the call: torch.jit.trace, which compares the lines that calls come from, or a
    `__torch_function__`, which may bring operands that need a graph.
    """
    return needs_graph(args) or _is_tracing() or _has_torch_function(args)


def call_unrecorded(op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`op(*args)` past the kernels on the Autograd key, for what is not recorded."""
    if torch.is_inference_mode_enabled():  # it has no Autograd key
        return op(*args, **kwargs)
    # Held, not entered: the guard works from when it is made until it is gone, and `with` takes 0.15 us more.
    guard = _AutoDispatchBelowAutograd()
    try:
        return op(*args, **kwargs)
    finally:
        del guard


def write_by_shortest_way(
    op: Callable[..., None], target: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """`op`, which writes to `target`, one of its arguments, past the Python kernels of two keys: 2 us less."""
    if torch.is_inference_mode_enabled() or is_recorded(alive((target, *args))) or not isinstance(target, Tensor):
        op(*args, **kwargs)
        return
    target = unwrap_if_dead(target)
    check_writable(target)
    with _AutoDispatchBelowADInplaceOrView():
        op(*args, **kwargs)
    increment_version(target)


def without_wrapper(op: OpOverload) -> Callable[..., Any]:
    """`op` as the dispatcher has it, without the Python object around it: 0.3 us less a call."""
    return op._op


def has_tangents(args: tuple[Any, ...]) -> bool:
    """Whether one of the arguments carries a tangent of forward-mode AD."""
    return forward_ad._current_level >= 0 and any(
        isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None for value in args
    )


class Signature:
    """Positional and keyword-only arguments of an overload, as one flat tuple and back."""

    def __init__(self, op: OpOverload) -> None:
        arguments = op._schema.arguments
        self.names = tuple(a.name for a in arguments)
        self.defaults = tuple((a.name, a.default_value) for a in arguments)
        self.positional = sum(not a.kwarg_only for a in arguments)

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        # The dispatcher leaves out trailing arguments that equal their defaults.
        return args + tuple(kwargs.get(name, default) for name, default in self.defaults[len(args) :])

    def call(self, op: Callable[..., Any], flat: tuple[Any, ...]) -> Any:
        positional = self.positional
        keywords = zip(self.defaults[positional:], flat[positional:], strict=True)
        # Without those that were left out: each takes the dispatcher 0.3 us.
        given = {name: value for (name, default), value in keywords if value is not default}
        return op(*flat[:positional], **given)


def recorder(op: OpOverload, row: Row) -> Kernel:
    """`op` of (args, kwargs), with `row.backward` and `row.jvp` recorded, as the Autograd kernel has them."""
    signature, call = Signature(op), without_wrapper(op)
    count, single = len(signature.names), len(op._schema.returns) == 1

    class Function(_SingleLevelFunction):
        @staticmethod
        @untraced
        def forward(ctx: Any, *flat: Any) -> Any:
            if len(flat) > count:
                # Function.apply has switched gradients off, and puts that back itself. The levels of torch.func below
                # this one get what the caller had: else second derivatives by nested transforms are silently zero.
                *arguments, gradients, tangents = flat
                flat = tuple(arguments)
                _set_grad_enabled(gradients)
                _set_fwd_grad_enabled(tangents)
            if single:
                ctx.set_materialize_grads(False)
            guard = _AutoDispatchBelowAutograd()
            try:
                result = signature.call(call, flat)
            finally:
                del guard
            row.keep(ctx, flat, result)
            return result

        @staticmethod
        @untraced
        def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
            grads = () if single and outer[0] is None else row.backward(ctx, *outer)
            return grads + (None,) * (len(ctx.needs_input_grad) - len(grads))

        @staticmethod
        @untraced
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            tangents = tangents[: row.tensors]
            if not _are_functorch_transforms_active():
                return row.jvp(ctx, *tangents)
            # Function.apply has switched tangents off, and puts that back itself. The levels of torch.func below this
            # one get them: else second derivatives by nested jvp are silently zero. This one itself is done.
            _set_fwd_grad_enabled(True)
            with _AutoDispatchBelowAutograd():
                return row.jvp(ctx, *tangents)

        @staticmethod
        def _compiled_autograd_key(ctx: Any) -> tuple[int, ...]:  # as torch.autograd.Function has it
            return (ctx._autograd_function_id,)

    apply: Kernel = Function.apply  # type: ignore[attr-defined]
    Function.__name__ = Function.__qualname__ = f"Myops{row.name.capitalize()}"
    node = Function._backward_cls  # what a result's grad_fn is printed as
    node.__name__ = node.__qualname__ = f"{Function.__name__}Backward"

    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if (other := row.with_graph(args, kwargs)) is not None:
            return other
        flat = signature.flatten(args, kwargs)
        if not _are_functorch_transforms_active():
            return apply(*flat)
        with enable_single_level_autograd_function():
            return apply(*flat, torch.is_grad_enabled(), forward_ad._is_fwd_grad_enabled())

    return record


def differentiable_kernel(op: OpOverload, row: Row) -> Kernel:
    """The Autograd kernel of a functional overload: `row.record` where a graph is needed."""
    redispatch, record, tensors = op._handle.redispatch_boxed, row.record, row.tensors

    def kernel(keyset: DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        try:
            if needs_graph(args[:tensors]):
                return record(args, kwargs)
            return redispatch(keyset & _after_autograd_keyset, *args, **kwargs)
        except RuntimeError as error:
            raise translate(error, row.name, args) from None

    return kernel


def check_undifferentiated(name: str, args: tuple[Any, ...]) -> None:
    """Refuses arguments, `out` among them, whose gradient a call with `out=` would lose."""
    words = f"{name}(): functions with out=... arguments don't support automatic differentiation"
    if torch.is_grad_enabled() and _any_requires_grad(*args):
        raise RuntimeError(f"{words}, but one of the arguments requires grad.")
    if has_tangents(args):
        raise NotImplementedError(f"{words}, but one of the arguments has a tangent.")


def out_kernel(op: OpOverload, row: Operator) -> Kernel:
    """The Autograd kernel of an `out` overload: refuses to differentiate, as torch does, and bumps the version."""
    redispatch = op._handle.redispatch_boxed

    def kernel(keyset: DispatchKeySet, *args: Any, **kwargs: Any) -> None:
        out = kwargs["out"]
        check_undifferentiated(row.name, (*args, out))
        check_writable(out)
        try:
            redispatch(keyset & _BELOW_VERSIONS, *args, **kwargs)
        except RuntimeError as error:
            raise translate(error, row.name, args) from None
        increment_version(out)

    return kernel


def in_place_kernel(op: OpOverload, functional: OpOverload, row: Operator) -> Kernel:
    """The Autograd kernel of an in-place overload: copies a differentiable result where a graph is needed."""
    redispatch = op._handle.redispatch_boxed

    def kernel(keyset: DispatchKeySet, *args: Any, **kwargs: Any) -> None:
        try:
            if needs_graph(args):
                args[0].copy_(check_in_place(args[0], functional(*args, **kwargs), row.name))
                return
            check_writable(args[0])
            redispatch(keyset & _BELOW_VERSIONS, *args, **kwargs)
        except RuntimeError as error:
            raise translate(error, row.name, args) from None
        increment_version(args[0])

    return kernel


def version_kernel(op: OpOverload) -> Kernel:
    """The ADInplaceOrView kernel of an overload that writes: bumps the version where the Autograd key is not asked.

    That is so in inference mode, where a tensor from outside of it still has its version.
    """
    redispatch = op._handle.redispatch_boxed

    def kernel(keyset: DispatchKeySet, *args: Any, **kwargs: Any) -> None:
        redispatch(keyset & _BELOW_VERSIONS, *args, **kwargs)
        target = kwargs["out"] if "out" in kwargs else args[0]
        if not target.is_inference():
            increment_version(target)

    return kernel


def lazy_bit_kernel(op: OpOverload, resolve: Callable[[Tensor], Tensor]) -> Kernel:
    """The Conjugate or Negative kernel of an overload that writes: `resolve` materialises the lazy bit of every tensor.

    Torch's own fallback finds the tensor to write back among the results, where these overloads return nothing.
    """
    written = next(a.name for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write)

    def kernel(*args: Any, **kwargs: Any) -> None:
        def plain(value: Any) -> Any:
            return resolve(value) if isinstance(value, Tensor) else value

        target = kwargs[written] if written in kwargs else args[0]
        values, keywords = [plain(value) for value in args], {name: plain(value) for name, value in kwargs.items()}
        with _AutoDispatchBelowAutograd():
            op(*values, **keywords)
            result = keywords[written] if written in keywords else values[0]
            if result is not target:
                target.copy_(result)

    return kernel


def check_writable(target: Tensor) -> None:
    """Refuses a tensor of inference mode outside of it, where torch writes first and then refuses."""
    if isinstance(target, Tensor) and target.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get a "
            "normal tensor before doing inplace update."
        )


def check_in_place(target: Tensor, result: Tensor, name: str) -> Tensor:
    """`result`, which an in-place `name` is about to copy to `target`; their shapes and dtypes have to fit."""
    if target.shape != result.shape:
        raise RuntimeError(
            f"Expected input to have shape {list(result.shape)}, but got {list(target.shape)}: an in-place {name}_ "
            "cannot broadcast its input"
        )
    if not torch.can_cast(result.dtype, target.dtype):
        raise RuntimeError(
            f"result type {result.dtype} can't be cast to the desired output type {target.dtype} of input"
        )
    return result


def refuse_gradients(op: Callable[[], OpOverload], message: str) -> Kernel:
    """The Autograd kernel of an operator whose result is a constant: fails where a gradient or tangent is asked for."""

    def kernel(keyset: DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        if (torch.is_grad_enabled() and _any_requires_grad(*args)) or has_tangents(args):
            raise RuntimeError(message)
        return op().redispatch(keyset & _after_autograd_keyset, *args, **kwargs)

    return kernel


def autocast_kernel(op: OpOverload, row: Row, device: str) -> Kernel:
    """The Autocast kernel: floating tensors of the device take the row's dtype; float64 and the rest stay."""
    keys = DispatchKeySet(DispatchKey.AutocastCPU if device == "cpu" else DispatchKey.AutocastCUDA)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = row.autocast_dtype(device, **kwargs)

        def cast(value: Any) -> Any:
            eligible = (
                dtype is not None
                and isinstance(value, Tensor)
                and value.is_floating_point()
                and value.dtype != torch.float64
                and value.device.type == device
            )
            return value.to(dtype) if eligible else value

        with _ExcludeDispatchKeyGuard(keys):
            return op(*map(cast, args), **kwargs)

    return kernel
