"""The models suite: unmodified models natively and under `myops.use()`, forward and training step.

Classes: forward and training (every family of `families.py` at one size, 4 x 64 x 256), compiled (torch.compile with
Inductor against `backend="myops"`), real (GPT-2, Llama, MiniLM and BERT at their own sizes, random weights). The error
column is against the same model in float64. The layout column says how many of the model's products reached myops, of
how many under the switch. Bytes are the parameters', read once.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import myops
from myops.compile import backend

from . import runner, suite
from .families import FAMILIES, MEDIUM, REAL, Family, make, step
from .timing import Side

HELP = "unmodified models under the switch and compiled, against native torch"

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Case:
    """One model, in one dtype, in one class; real models run forward or training as `mode` says."""

    group: str
    family: str
    dtype: str
    mode: str
    quick: bool = False


def _families(group: str) -> list[Case]:
    quick = ("Bert", "GPT2", "Transformer", "GCN")
    return [Case(group, name, dtype, group, name in quick) for name in FAMILIES for dtype in DTYPES]


def _compiled() -> list[Case]:
    # Not torch_geometric's: Dynamo takes none of torch's sparse tensors.
    names = [name for name, family in FAMILIES.items() if family.package != "torch_geometric"]
    modes = ("forward", "training")
    return [Case("compiled", name, dtype, mode) for mode in modes for name in names for dtype in DTYPES]


def _real() -> list[Case]:
    rows = {
        "GPT-2 124M prefill": ("forward", DTYPES),
        "GPT-2 124M decode": ("forward", DTYPES[:2]),
        "Llama 106M prefill": ("forward", DTYPES[2:]),
        "MiniLM 22M": ("forward", DTYPES[2:]),
        "BERT-base": ("training", DTYPES),
    }
    return [Case("real", name, dtype, mode) for name, (mode, dtypes) in rows.items() for dtype in dtypes]


CLASSES: dict[str, Callable[[], list[Case]]] = {
    "forward": functools.partial(_families, "forward"),
    "training": functools.partial(_families, "training"),
    "compiled": _compiled,
    "real": _real,
}


def family_of(case: Case) -> Family:
    """The family of a case."""
    return (REAL if case.group == "real" else FAMILIES)[case.family]


def select(
    classes: Sequence[str], families: Sequence[str], dtypes: Sequence[str], quick: bool
) -> tuple[list[Case], set[str]]:
    """Cases that pass the filters, and the packages that are missing for others."""
    cases = [case for name in classes or CLASSES for case in CLASSES[name]()]
    cases = [
        case
        for case in cases
        if (not families or any(case.family.lower().startswith(name.lower()) for name in families))
        and (not dtypes or case.dtype in dtypes)
        and (case.quick or not quick)
    ]
    packages = {family_of(case).package for case in cases} - {None}
    missing = {str(name) for name in packages if importlib.util.find_spec(str(name)) is None}
    return [case for case in cases if family_of(case).package not in missing], missing


def _call(case: Case, model: nn.Module) -> dict[str, Tensor]:
    """One forward, or forward and backward."""
    family = family_of(case)
    if case.mode == "training":
        return step(model, family, MEDIUM)
    with torch.no_grad():
        return {"output": family.run(model, MEDIUM)}


def relative_error(exact: dict[str, Tensor], results: dict[str, Tensor]) -> float:
    """Of the output and of all gradients together, in the 2-norm: the larger one."""

    def part(names: list[str]) -> float:
        difference = sum(float((results[name].double() - exact[name]).square().sum()) for name in names)
        size = sum(float(exact[name].square().sum()) for name in names)
        return (difference / size) ** 0.5 if size else 0.0

    results = {name.removeprefix("_orig_mod."): value for name, value in results.items()}
    return max(part(["output"]), part([name for name in exact if name != "output"]))


def _reached(call: Callable[[], Any]) -> tuple[int, int]:
    """How many products of one call reach myops under the switch, and how many come to the switch at all."""
    before = myops.stats()
    with myops.use():
        call()
    after = myops.stats()
    taken, left = (sum(after[name][kind] - before[name][kind] for name in after) for kind in ("myops", "native"))
    return taken, taken + left


def build_job(case: Case) -> runner.Job:
    """The model, its float64 reference and the two sides."""
    family, dtype = family_of(case), getattr(torch, case.dtype)
    model = make(family, MEDIUM, dtype)
    training = case.mode == "training"
    model.train(training).requires_grad_(training)
    exact = _call(case, copy.deepcopy(model).double())
    with myops.use():
        _call(case, model)  # what a model computes once is not counted
        with FlopCounterMode(display=False) as counter:
            _call(case, model)
    # A model that is switched on stays so: its calls are timed from the fourth on, natively too. Where a call takes
    # longer than some milliseconds that makes no difference.
    native = Side(functools.partial(_call, case, model), settle=0 if case.group == "real" else 3)
    taken, total = _reached(native.call)
    ours = dataclasses.replace(native, context=myops.use)
    if case.group == "compiled":
        torch._dynamo.reset()
        native = Side(functools.partial(_call, case, cast(nn.Module, torch.compile(model))))
        ours = Side(functools.partial(_call, case, cast(nn.Module, torch.compile(model, backend=backend))))
        native.call(), ours.call()  # what compiling takes is not of a case's budget
    labels = {
        "suite": "models", "group": case.group, "op": case.mode, "shape": case.family, "dtype": case.dtype,
        "layout": f"{taken}/{total}",
        "route": "compile" if case.group == "compiled" else "switch", "dims": {"myops": taken, "all": total},
    }  # fmt: skip
    # Torch's formulas take a sparse matrix for a dense one.
    flops = 0 if family.package == "torch_geometric" else counter.get_total_flops()
    moved = sum(p.numel() * p.element_size() for p in model.parameters())
    return runner.Job(labels, native, ours, [()], flops, moved, functools.partial(relative_error, exact))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the suite."""
    parser.add_argument("--quick", action="store_true", help="four families, forward and training, within a minute")
    parser.add_argument("--classes", nargs="+", default=[], choices=sorted(CLASSES), metavar="CLASS",
                        help=f"classes to run: {', '.join(CLASSES)}")  # fmt: skip
    parser.add_argument("--families", nargs="+", default=[], metavar="NAME", help="beginnings of names: bert gpt")
    parser.add_argument("--dtypes", nargs="+", default=[], choices=DTYPES, metavar="DTYPE")
    suite.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the selected cases and print rows, then the summary; 1 when the filters leave nothing."""
    started = time.perf_counter()
    warnings.filterwarnings("ignore", message="Sparse (CSR tensor support is in beta|invariant checks are implicitly)")
    if importlib.util.find_spec("transformers") is not None:
        from transformers.utils import logging

        logging.set_verbosity_error()  # of special tokens that random weights do not have
    cases, missing = select(arguments.classes, arguments.families, arguments.dtypes, arguments.quick)
    for package in sorted(missing):
        print(f"{package} is not installed: its families are left out")
    if not cases:
        print("no case passes these filters")
        return 1
    limit = arguments.limit or (48.0 if arguments.quick else None)
    return suite.run_suite([functools.partial(build_job, case) for case in cases], arguments, started, limit)
