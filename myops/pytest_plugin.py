"""Runs any test files under the switch: `pytest -p myops.pytest_plugin test_linalg.py -k "addmm or bmm"`.

Meant for PyTorch's own test files, unmodified. Says how many calls reached myops, and fails a run in which none did: a
pass of that would prove nothing. Works with pytest-xdist, whose workers are told by theirs.
"""

from __future__ import annotations

from typing import Any

import pytest

import myops

_REROUTED = pytest.StashKey[int]()  # of the workers that have ended


def pytest_configure(config: Any) -> None:
    config.stash[_REROUTED] = 0
    myops.reset_stats()
    myops.enable()


def pytest_unconfigure(config: Any) -> None:
    myops.disable()


def rerouted(config: Any) -> int:
    return config.stash[_REROUTED] + sum(entry["myops"] for entry in myops.stats().values())


def proves_nothing(config: Any, exitstatus: int) -> bool:
    return exitstatus == 0 and rerouted(config) == 0 and not config.option.collectonly


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    node.config.stash[_REROUTED] += getattr(node, "workeroutput", {}).get("myops_rerouted", 0)


@pytest.hookimpl(tryfirst=True)  # before xdist sends what a worker leaves
def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["myops_rerouted"] = rerouted(config)
    elif proves_nothing(config, exitstatus):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: Any) -> None:
    terminalreporter.section("myops")
    terminalreporter.write_line(f"rerouted calls: {rerouted(config)}")
    if proves_nothing(config, exitstatus):
        terminalreporter.write_line("no call reached myops, so that this run fails")
    if config.stash[_REROUTED] == 0:  # else this process knows little of it
        terminalreporter.write_line(myops.explain())
