"""Runs any test files under the switch: `pytest -p myops.pytest_plugin test_linalg.py -k "addmm or bmm"`.

Meant for PyTorch's own test files, unmodified. Says how many calls reached myops, and fails a run in which none did: a
pass of that would prove nothing.
"""

from __future__ import annotations

from typing import Any

import myops


def pytest_configure(config: Any) -> None:
    myops.reset_stats()
    myops.enable()


def pytest_unconfigure(config: Any) -> None:
    myops.disable()


def rerouted() -> int:
    return sum(entry["myops"] for entry in myops.stats().values())


def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    if exitstatus == 0 and rerouted() == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("myops")
    terminalreporter.write_line(f"rerouted calls: {rerouted()}")
    terminalreporter.write_line(myops.explain())
