"""Command line of the benchmarks: ``python -m myops.bench SUITE [options]``; without a suite it prints help.

Only dispatch lives here. A new suite is one module with ``HELP: str``, ``add_arguments(parser)`` and
``run(arguments) -> int``, and one line in ``SUITES``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

SUITES = {
    "dense": "myops.bench.dense",
    "sparse": "myops.bench.sparse",
    "models": "myops.bench.models",
    "show": "myops.bench.show",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser with one sub-command per suite."""
    parser = argparse.ArgumentParser(
        prog="python -m myops.bench", description="Compare myops with native torch, interleaved in one process."
    )
    commands = parser.add_subparsers(dest="suite", metavar="SUITE")
    for name, module_name in SUITES.items():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise SystemExit(
                f"the benchmarks need {error.name} (the extra `bench` of myops has all they need)"
            ) from error
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one suite; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.suite is None:
        parser.print_help()
        return 0
    return int(importlib.import_module(SUITES[arguments.suite]).run(arguments))


if __name__ == "__main__":
    sys.exit(main())
