"""Rows of an earlier run again: their summary, and pictures of them. Nothing is measured here."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import report, suite

HELP = "summary and plots of rows that a run wrote with --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the sub-command."""
    parser.add_argument("file", type=Path, help="JSON lines of one run")
    suite.add_plots(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary and write the plots that were asked for."""
    rows = [report.from_json(line) for line in arguments.file.read_text(encoding="utf-8").splitlines()]
    print("\n".join(report.summary_lines(rows)))
    suite.draw(rows, arguments)
    return 0
