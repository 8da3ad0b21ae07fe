"""The pass itself, apart from compile.py because its base class brings all of Inductor with it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.decomposition import select_decomp_table

from . import __version__, _libraries
from .compile import GraphPass, log
from .graph import Patterns, activation_patterns, rewrite

# What decides what compiled code looks like.
SOURCES = tuple(str(Path(__file__).with_name(f"{name}.py")) for name in ("activation", "compile", "graph", "inductor"))


@functools.cache
def patterns() -> Patterns:
    """The activations after Inductor's decompositions."""
    return activation_patterns(select_decomp_table())


class MyopsPass(CustomGraphPass):
    """Runs the passes given, then puts the graph on myops."""

    def __init__(self, before: tuple[GraphPass, ...]) -> None:
        self.before = before

    def __call__(self, graph: torch.fx.Graph) -> None:
        for each in self.before:
            each(graph)
        if _libraries.flag("MYOPS_DISABLE"):
            return
        made = rewrite(graph, patterns())
        log.info("graph of %d nodes: %s", len(graph.nodes), dict(made) or "no product that myops takes")

    def uuid(self) -> Any:
        """Changes with our sources, with what is loaded, and with the passes before; None, no caching, as theirs is."""
        theirs = [each.uuid() if isinstance(each, CustomGraphPass) else None for each in self.before]
        if None in theirs:
            return None
        state = (__version__, _libraries.cpu_error, _libraries.cuda_error, _libraries.flag("MYOPS_DISABLE"))
        return (get_hash_for_files(SOURCES), *map(str, state), *map(str, theirs))
