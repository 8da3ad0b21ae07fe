"""torch.compile with myops: the backend "myops", and the pass that other users of Inductor can add to their own.

The work is done by graph.py, after Inductor's own passes: these fuse mm and add to addmm, and the partitioner that
divides forward and backward knows the cost of aten's operators. Nothing of Inductor is imported before it is needed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from . import _libraries

if TYPE_CHECKING:
    from torch._inductor.custom_graph_pass import CustomGraphPass

log = logging.getLogger(__name__)

FIELD = "post_grad_custom_post_pass"
GraphPass = Callable[[torch.fx.Graph], None]


def inductor_pass(before: GraphPass | Iterable[GraphPass] | None = None) -> CustomGraphPass:
    """An Inductor pass that makes aten's mm, addmm, bmm and baddbmm, forward and backward, myops operators.

        torch.compile(model, options={"post_grad_custom_post_pass": myops.inductor_pass()})
        torch._inductor.config.post_grad_custom_post_pass = myops.inductor_pass(before=theirs)

    A product whose only use is the addition of a tensor becomes one operator with the addition in it. What myops does
    not take stays as it is. Compiled code is cached: the key has the sources and the version of myops and the passes
    `before`. Under `MYOPS_DISABLE=1` it replaces nothing.

    Args:
        before: what the field held so far, a pass or several, to run first. torch 2.11 takes only one pass in
            the field, so they are composed here.

    Raises:
        ImportError: the CPU library is missing.
    """
    _libraries.require()
    from .inductor import MyopsPass

    passes = () if before is None else (before,) if callable(before) else tuple(before)
    return MyopsPass(passes)


def backend(
    module: torch.fx.GraphModule,
    inputs: list[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    """`torch.compile(model, backend="myops")`: Inductor, with its matrix products on myops, for this model only.

    `mode` and `options` are those of the backend "inductor"; a pass in `post_grad_custom_post_pass`, whether in the
    options or in Inductor's configuration, runs before ours. Where myops is not installed but on the path, pass this
    function itself as `backend`.

    Warns:
        UserWarning: Inductor runs no passes, as in mode "lite", so that nothing goes to myops.
    """
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    patches = torch._TorchCompileInductorWrapper(mode, options, dynamic=None).config  # spelled and checked as there
    if not patches.get("use_post_grad_passes", config.use_post_grad_passes):
        warnings.warn("nothing of this model goes to myops: use_post_grad_passes of Inductor is off", stacklevel=2)
    patches[FIELD] = inductor_pass(before=patches.get(FIELD, getattr(config, FIELD)))
    return compile_fx(module, inputs, config_patches=patches)
