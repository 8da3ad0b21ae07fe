"""`python -m myops.info`: which operator runs where, and why not elsewhere; versions, instruction sets, environment.

python -m myops.info            a table
python -m myops.info --json     the same as one JSON object
python -m myops.info --full     and what `python -m torch.utils.collect_env` says
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import torch

from . import _libraries
from .override import REROUTES
from .registration import COMPONENTS, OPERATORS

VARIABLES = {
    "MYOPS_ENABLE": "1: the switch is on from the import of torch or myops",
    "MYOPS_DISABLE": "1: the switch and the compile pass do nothing",
    "MYOPS_ISA": "instruction set level of the CPU kernels",
    "MYOPS_CPU_GEMM": "own, native or auto: whose CPU kernels a dense product takes",
    "MYOPS_CUDA_GEMM": "the same on CUDA",
    "TORCH_LOGS": "+myops: what the switch, the compile pass and swap_ do",
}


def _devices() -> dict[str, str]:
    """Where the operators run: "ok" and what with, or the reason why not."""
    if _libraries.cpu_error is not None:
        cpu = cuda = _libraries.load_failure("CPU", _libraries.cpu_error)
    else:
        level = _libraries.said(_libraries.isa)
        cpu = f"ok: {level}" if level in _libraries.isa_levels() else level
        cuda = _libraries.cuda_error or ("ok" if torch.cuda.is_available() else "loaded, but torch finds no device")
        if cuda == "ok":
            cuda += ": " + ", ".join(
                f"{torch.cuda.get_device_name(i)} (sm_{''.join(map(str, torch.cuda.get_device_capability(i)))})"
                for i in range(torch.cuda.device_count())
            )
    return {"cpu": cpu, "cuda": cuda, "others": "torch's own operators, through the decomposition"}


def _rerouted(name: str) -> list[str]:
    """The overloads of aten that the switch takes under a name, and at which keys."""
    return [f"aten.{r.overload} ({', '.join(r.keys)})" for r in REROUTES if r.name == name]


def _overloads() -> dict[str, list[str]]:
    """Every operator of the namespace, those of the tables first; in-place forms under the name without `_`."""
    found: dict[str, list[str]] = {name: [] for name in (*OPERATORS, *COMPONENTS)}
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        if full.startswith("myops::"):
            name, _, overload = full.removeprefix("myops::").partition(".")
            found.setdefault(name.removesuffix("_"), []).append(f"myops.{name}.{overload or 'default'}")
    return found


def _has_kernel(name: str, *keys: str) -> bool:
    # Without the library there are no schemas, and torch cannot be asked.
    return _libraries.cpu_error is None and any(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"myops::{name}", key) for key in keys
    )


def _devices_of(name: str, devices: dict[str, str]) -> dict[str, str]:
    """`devices` without those that an operator has no kernel for."""
    made_of_others = _has_kernel(name, "CompositeImplicitAutograd")
    found = dict(devices)
    if devices["cuda"].startswith("ok") and not (
        made_of_others or _has_kernel(name, "CUDA", "SparseCsrCUDA", "SparseCUDA")
    ):
        found["cuda"] = "no"
    if not (made_of_others or _has_kernel(name, "CompositeExplicitAutograd")):
        found["others"] = "no"
    return found


def collect() -> dict[str, Any]:
    """Everything that is printed, as plain data. Never initialises CUDA beyond asking whether there is a device."""
    devices = _devices()
    operators = {
        name: {
            "overloads": overloads if _libraries.cpu_error is None else [],
            "rerouted": _rerouted(name),
            **_devices_of(name, devices),
        }
        for name, overloads in _overloads().items()
    }
    return {
        **_libraries.build_info(),
        "path": str(_libraries._FOLDER),
        "dtypes": [str(dtype).removeprefix("torch.") for dtype in _libraries.DTYPE_CODES],
        "devices": devices,
        "operators": operators,
        "rerouted_others": {r.name: _rerouted(r.name) for r in REROUTES if r.name not in OPERATORS},
        "environment": {name: os.environ.get(name) for name in VARIABLES},
    }


def text(info: dict[str, Any]) -> str:
    """`collect()` for people."""
    lines = [
        f"myops {info['myops']} at {info['path']}",
        f"torch {info['torch_running']}, myops built with {info['torch_built']}; {info['threads']} threads",
        f"instruction sets: {', '.join(info['isa_levels']) or 'unknown'}; in use: {info['isa']}",
        f"dtypes: {', '.join(info['dtypes'])}",
        "",
        *(f"{device:8}{state}" for device, state in info["devices"].items()),
        "",
        f"{'operator':28}{'cpu':6}{'cuda':6}{'overloads':11}under the switch",
    ]
    for name, row in info["operators"].items():
        cells = ["yes" if row[device].startswith("ok") else "no" for device in ("cpu", "cuda")]
        switch = ", ".join(dict.fromkeys(r.partition(" ")[0] for r in row["rerouted"])) or "-"
        lines.append(f"{name:28}{cells[0]:6}{cells[1]:6}{len(row['overloads']):<11}{switch}")
    lines += ["", "other calls of torch that the switch takes"]
    for name, rerouted in info["rerouted_others"].items():
        lines.append(f"{name:28}{', '.join(dict.fromkeys(r.partition(' ')[0] for r in rerouted))}")
    lines.append("")
    lines += [f"{name} = {info['environment'][name] or ''}  ({what})" for name, what in VARIABLES.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m myops.info", description="Which operator runs where, and why not.")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--full", action="store_true", help="add the output of torch.utils.collect_env")
    chosen = parser.parse_args(arguments)
    info = collect()
    if chosen.full:
        from torch.utils.collect_env import get_pretty_env_info

        info["collect_env"] = get_pretty_env_info()
    if chosen.json:
        print(json.dumps(info, indent=2))
        return
    print(text(info))
    if chosen.full:
        print("\n" + info["collect_env"])


if __name__ == "__main__":
    main()
