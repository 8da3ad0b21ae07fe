"""The benchmark's own arithmetic: statistics, counts, rows, tables, and one tiny run. Nothing here judges a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("numpy")

import myops
from myops import _libraries
from myops.bench import __main__ as command
from myops.bench import (
    accuracy,
    dense,
    families,
    machine,
    memory,
    models,
    problem,
    report,
    runner,
    sparse,
    suite,
    timing,
)


def make_row(ratio: float | None, verdict: str, group: str = "squares", **changes: Any) -> report.Row:
    def side(ns: float) -> report.SideResult:
        return report.SideResult(ns, ns * 0.95, ns * 1.05, 1, [ns] * 6, 100.0, 50.0, 1e-7, 1_000_000)

    values: dict[str, Any] = {
        "suite": "dense", "group": group, "op": "mm", "shape": "512x512x512", "dtype": "float32", "layout": "NN",
        "route": "function", "dims": {"m": 512, "n": 512, "k": 512}, "threads": 2, "flops": 2.0 * 512**3,
        "moved_bytes": 3e6, "machine": {"cpu": "test"}, "native": None if ratio is None else side(1e6 * ratio),
        "myops": side(1e6), "ratio": ratio, "ratio_low": ratio and ratio * 0.98, "ratio_high": ratio and ratio * 1.02,
        "verdict": verdict,
    }  # fmt: skip
    return report.Row(**(values | changes))


# Statistics


def test_spread_gives_median_and_quartiles() -> None:
    assert timing.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(3.0, 2.0, 4.0, 5)
    assert timing.spread([7.0]) == timing.Spread(7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="no samples"):
        timing.spread([])


def test_geometric_mean() -> None:
    assert timing.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert timing.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert timing.geometric_mean([]) is None


def test_ratio_is_the_median_over_pairs_and_its_interval_holds_it() -> None:
    ratio = timing.ratio_of_pairs([20.0, 22.0, 24.0, 21.0, 23.0], [10.0, 10.0, 10.0, 10.0, 10.0])
    assert ratio.value == pytest.approx(2.2)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 2.0 <= ratio.low <= ratio.value <= ratio.high <= 2.4


def test_ratio_cancels_drift_that_hits_both_sides() -> None:
    drift = [1.0, 5.0, 2.0, 9.0, 3.0]
    ratio = timing.ratio_of_pairs([3 * value for value in drift], drift)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.0))


def test_ratio_without_enough_pairs_has_no_interval() -> None:
    assert timing.ratio_of_pairs([4.0, 4.0], [2.0, 2.0]) == timing.Ratio(2.0, None, None)
    assert timing.ratio_of_pairs([9.0], [1.0, 3.0, 5.0]) == timing.Ratio(3.0, None, None)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (timing.Ratio(1.5, 1.4, 1.6), "win"),
        (timing.Ratio(0.7, 0.6, 0.8), "loss"),
        (timing.Ratio(1.1, 0.9, 1.2), "tie"),
        (timing.Ratio(0.995, 0.994, 0.996), "tie"),
        (timing.Ratio(2.0, None, None), "win"),
        (timing.Ratio(0.5, None, None), "loss"),
        (timing.Ratio(0.95, None, None), "tie"),
    ],
)
def test_verdict(ratio: timing.Ratio, expected: str) -> None:
    assert timing.verdict(ratio) == expected


def test_compare_pairs_the_sides_inside_their_contexts() -> None:
    inside, seen = [False], []

    @contextlib.contextmanager
    def switch() -> Any:
        inside[0] = True
        yield
        inside[0] = False

    def call(value: int) -> None:
        seen.append((inside[0], value))

    sides = {"native": timing.Side(call), "myops": timing.Side(call, switch)}
    result = timing.compare(sides, [(0,), (1,), (2,)], 0.05)
    assert len(result.sides["native"].ns) == len(result.sides["myops"].ns) >= 1
    assert {within for within, _ in seen} == {True, False}
    assert {value for _, value in seen} == {0, 1, 2}
    assert not inside[0]


def test_calls_that_settle_a_context_are_not_timed() -> None:
    calls: list[None] = []  # the first two after entering are slow

    @contextlib.contextmanager
    def switch() -> Any:
        calls.clear()
        yield

    def call() -> None:
        calls.append(None)
        time.sleep(0.02 if len(calls) <= 2 else 0.001)

    for settle in (2, 0):
        side = timing.Side(call, switch, settle)
        samples = timing.compare({"native": side, "myops": side}, [()], 0.5).sides["myops"].ns
        assert (min(samples) < 10e6) == (settle == 2)


def test_compare_keeps_one_call_of_a_side_that_overruns_the_budget() -> None:
    calls = {"slow": 0, "fast": 0}

    def count(name: str) -> None:
        calls[name] += 1

    sides = {name: timing.Side(lambda name=name: count(name)) for name in calls}
    result = timing.compare(sides, [()], -1.0)
    assert calls == {"slow": 1, "fast": 1}
    assert [len(samples.ns) for samples in result.sides.values()] == [1, 1]
    assert all("one timed call" in note for note in result.notes)


def test_compare_samples_the_fast_side_again_when_the_slow_one_overruns(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> None: ...

    def fast() -> None: ...

    monkeypatch.setattr(timing, "_loop_ns", lambda call, arguments: 2e9 if call is slow else 1e6)
    result = timing.compare({"native": timing.Side(slow), "myops": timing.Side(fast)}, [()], 1.0)
    assert result.sides["native"].ns == [2e9]
    assert result.sides["myops"].ns == [1e6] * timing.FAST_SIDE_SAMPLES
    assert result.notes == ["native: one timed call of 2 s, time budget 1 s"]


def test_rotation_is_shared_between_the_sides() -> None:
    rotation = timing._Rotation([(0,), (1,), (2,)])
    assert rotation.take(2) == [(0,), (1,)]
    assert rotation.take(4) == [(2,), (0,), (1,), (2,)]


# Problems


@pytest.mark.parametrize(
    ("case", "flops"),
    [
        (problem.Problem("mm", "float32", 2, 3, 5), 60),
        (problem.Problem("mm", "complex64", 2, 3, 5), 240),
        (problem.Problem("bmm", "float64", 2, 3, 5, batch=7), 420),
        (problem.Problem("addmm", "bfloat16", 2, 3, 5, c="row"), 60),
        (problem.Problem("add", "float32", 4, 6), 24),
        (problem.Problem("add", "complex64", 4, 6), 48),
    ],
)
def test_flop_count(case: problem.Problem, flops: int) -> None:
    assert problem.flop_count(case) == flops


def test_bytes_count_distinct_elements_only() -> None:
    row = torch.zeros(1, 8).expand(100, 8)
    assert problem.stored_bytes(row) == 32
    assert problem.stored_bytes(torch.zeros(100, 8).t()) == 3200
    assert problem.output_bytes(problem.Problem("mm", "int8", 4, 5, 6, out_dtype="int32")) == 80


@pytest.mark.parametrize(
    ("letter", "shape", "strides"),
    [("N", (2, 3, 5), (15, 5, 1)), ("T", (2, 3, 5), (15, 1, 3)), ("S", (2, 3, 5), (30, 10, 1)),
     ("H", (2, 3, 5), (5, 10, 1)), ("B", (2, 3, 5), (0, 5, 1))],
)  # fmt: skip
def test_layout_letters_give_shape_and_strides(letter: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    first, _ = problem.make_inputs(problem.Problem("bmm", "float32", 3, 4, 5, batch=2, layout=f"{letter}N"))
    assert first.shape == shape
    assert first.stride() == strides


def test_unknown_layout_is_an_error() -> None:
    with pytest.raises(ValueError, match="layout letter"):
        problem.make_inputs(problem.Problem("mm", "float32", 3, 4, 5, layout="HN"))


def test_rotation_copies_keep_values_and_strides_in_memory_of_their_own() -> None:
    inputs = problem.make_inputs(problem.Problem("bmm", "float32", 3, 4, 5, batch=2, layout="BT"))
    sets = problem.rotate(inputs, 1 << 10)
    assert len(sets) > 2
    for copies in sets[1:]:
        for original, copy in zip(inputs, copies, strict=True):
            assert torch.equal(original, copy)
            assert original.stride() == copy.stride()
            assert original.data_ptr() != copy.data_ptr()


def test_every_case_has_a_native_counterpart_or_an_out_dtype() -> None:
    for case in dense.select():
        assert problem.flop_count(case.problem) > 0
        assert problem.native_call(case.problem) is not None or case.problem.out_dtype is not None


def test_cases_are_distinct() -> None:
    cases = dense.select()
    assert len({(case.group, case.problem) for case in cases}) == len(cases)


# Accuracy


@pytest.mark.parametrize("type_name", ["float32", "float64", "bfloat16", "float16", "complex64", "complex128"])
@pytest.mark.parametrize("operator", ["mm", "addmm", "linear", "add", "bmm", "baddbmm"])
def test_error_of_native_is_near_rounding(operator: str, type_name: str) -> None:
    c = "row" if operator in ("addmm", "linear") else "full" if operator == "baddbmm" else "none"
    case = problem.Problem(operator, type_name, 9, 7, 5, batch=3, layout="NT", c=c)
    inputs = problem.make_inputs(case)
    call = problem.native_call(case)
    assert call is not None
    output = call(*inputs)
    epsilon = torch.finfo(problem.torch_dtype(type_name)).eps
    assert accuracy.relative_error(case, inputs, output) <= 8 * epsilon
    output.view(-1)[0] += 1
    assert accuracy.relative_error(case, inputs, output) > 8 * epsilon


def test_integer_error_is_exact_and_wraps() -> None:
    case = problem.Problem("mm", "int8", 4, 4, 500)
    inputs = problem.make_inputs(case)
    output = torch.mm(*inputs)
    assert accuracy.relative_error(case, inputs, output) == 0
    output[0, 0] += 1
    assert accuracy.relative_error(case, inputs, output) > 0


# Rows and tables


def test_json_row_round_trips() -> None:
    row = make_row(1.25, "win", notes=["a note"])
    line = report.to_json(row)
    assert "\n" not in line
    assert report.from_json(line) == row
    with pytest.raises(ValueError, match="schema 0"):
        report.from_json(json.dumps(json.loads(line) | {"schema": 0}))


def test_json_row_has_the_fields_that_identify_it() -> None:
    values = json.loads(report.to_json(make_row(1.25, "win")))
    for key in ("suite", "group", "op", "shape", "dtype", "layout", "route", "threads", "machine", "verdict", "schema"):
        assert key in values
    assert values["native"]["samples_ns"]


def test_table_marks_a_loss() -> None:
    line = report.table_line(make_row(0.5, "loss"))
    assert line.endswith("LOSS")
    assert "0.49..0.51" in line


def test_table_marks_a_disturbed_row() -> None:
    assert report.table_line(make_row(0.5, "loss", other_cores=1.0)).endswith("LOSS~")


def test_table_hides_the_ratio_of_fixed_cost() -> None:
    line = report.table_line(make_row(0.5, "fixed"))
    assert "0.49..0.51" not in line
    assert line.endswith("fixed")


def test_summary_prints_means_worst_cases_and_every_loss() -> None:
    rows = [
        make_row(2.0, "win"),
        make_row(0.5, "loss", shape="17x17x17"),
        make_row(4.0, "win", group="decode"),
        make_row(None, "alone", notes=["native: RuntimeError: no"], other_cores=0.9),
        make_row(0.1, "fixed", shape="1x1x1"),
    ]
    summaries = {entry.group: entry for entry in report.summarize(rows)}
    assert set(summaries) == {"squares", "decode", "all"}
    assert summaries["squares"].mean == pytest.approx(1.0)
    assert summaries["all"].mean == pytest.approx(4.0 ** (1 / 3))
    assert (summaries["all"].wins, summaries["all"].losses) == (2, 1)
    text = "\n".join(report.summary_lines(rows, dropped=3))
    assert "Losses: 1" in text
    assert "0.500 [0.49..0.51] squares: mm 17x17x17" in text
    assert "worst 0.5" in text
    assert "native: RuntimeError: no" in text
    assert "3 cases did not run" in text
    assert "Disturbed (~): 1 of 5 rows" in text
    assert "Fixed cost per call" in text


def test_summary_without_rows_says_no_losses() -> None:
    assert "Losses: none" in report.summary_lines([])


# Machine and memory


def test_roof_is_the_slower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fma_peak", lambda dtype, threads: 100.0)
    monkeypatch.setattr(machine, "read_bandwidth", lambda level, threads: 10.0 if level == "dram" else 50.0)
    monkeypatch.setattr(machine, "l3_bytes", lambda: 1000)
    assert machine.roof("float32", 1, 10_000, 100, 500) == machine.Roof("fma", 100.0)
    assert machine.roof("float32", 1, 100, 500, 500) == machine.Roof("cache", 10.0)
    assert machine.roof("float32", 1, 100, 500, 5000) == machine.Roof("dram", 50.0)
    assert machine.Roof("fma", 100.0).percent(200.0) == 50.0


def test_the_peak_is_that_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    library = type("Library", (), {"myops_peak_rate": staticmethod(lambda code, seconds: 7.0)})
    monkeypatch.setattr(_libraries, "isa", lambda: "here")
    monkeypatch.setattr(_libraries, "_library", lambda: library)
    assert myops.peak_gflops(torch.float32, threads=3) == 21


def test_roof_without_a_peak_is_known_only_where_memory_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fma_peak", lambda dtype, threads: None)
    monkeypatch.setattr(machine, "read_bandwidth", lambda level, threads: 10.0)
    assert machine.roof("float32", 1, 1e6, 10, 10) is None
    assert machine.roof("float32", 1, 10, 10, 10) == machine.Roof("cache", 1.0)


def test_description_is_plain_json() -> None:
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert {"cpu", "isa", "torch", "myops", "commit", "load_average", "load_warning"} <= set(described)


def test_other_cores_leaves_out_this_process() -> None:
    now = machine.CpuUse.now()
    if now.machine is None:
        pytest.skip("the system does not tell its processor time")
    ten_seconds_ago = machine.CpuUse(now.machine - 15, now.own - 10, now.wall - 10)
    assert ten_seconds_ago.others_since() == pytest.approx(0.5, abs=0.1)
    assert machine.CpuUse(None, 0.0, 0.0).others_since() is None


def test_peak_growth_sees_a_large_allocation() -> None:
    size = 64 << 20
    peak = memory.peak_growth_bytes(lambda: torch.ones(size, dtype=torch.uint8))
    if peak is None:
        pytest.skip("the system does not tell the resident high-water mark")
    assert 0.9 * size <= peak <= 2 * size


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: the setting lasts."""
    code = """
        import resource
        from myops.bench import memory
        assert memory.keep_freed() == "malloc keeps freed blocks of up to 32 MB"
        import torch
        for _ in range(40):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            several = [torch.ones(1_000_000) for _ in range(8)]
            del several
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# Runs


def test_job_that_myops_cannot_run_is_skipped_with_its_reason() -> None:
    def refuse(*_: Any) -> Any:
        raise NotImplementedError("not this dtype")

    job = runner.Job(
        labels=dict.fromkeys(("suite", "group", "op", "shape", "layout", "route"), "x")
        | {"dtype": "float32", "dims": {}},
        native=timing.Side(lambda: torch.zeros(1)), myops=timing.Side(refuse), argument_sets=[()], flops=1,
        moved_bytes=1, error=lambda output: 0.0,
    )  # fmt: skip
    row = runner.run_job(job, 1, 0.01, {})
    assert row.verdict == "skipped"
    assert row.notes == ["myops: NotImplementedError: not this dtype"]


def test_jobs_after_the_deadline_are_dropped() -> None:
    def build() -> runner.Job:
        raise AssertionError("built too late")

    assert list(runner.run_jobs([build, build], 1, 1.0, 0.0, {})) == [None, None]


def test_no_arguments_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "dense" in capsys.readouterr().out


def test_thread_counts() -> None:
    assert suite.thread_counts("1,2") == (1, 2)
    with pytest.raises(Exception, match="start at 1"):
        suite.thread_counts("0")


def test_selection_filters() -> None:
    assert {case.group for case in dense.select(quick=True)} == set(dense.CLASSES)
    assert {case.problem.dtype for case in dense.select(["odd"], ["float64"])} == {"float64"}
    assert {case.problem.op for case in dense.select(ops=["baddbmm"])} == {"baddbmm"}
    assert dense.select(["odd"], ops=["add"]) == []


@pytest.mark.parametrize("switch", ["direct", "use"])
def test_tiny_run_end_to_end(
    switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tiny() -> list[dense.Case]:
        return [dense.Case("odd", problem.Problem("mm", "float32", 24, 16, 8, layout="NT"), True)]

    monkeypatch.setattr(dense, "CLASSES", {"odd": tiny})
    monkeypatch.setattr(machine, "read_bandwidth", lambda level, threads: 20.0)
    monkeypatch.setattr(machine, "fma_peak", lambda dtype, threads: None)
    path = tmp_path / "rows.jsonl"
    arguments = ["dense", "--quick", "--shapes", "odd", "--threads", "1", "--budget", "0.05", "--switch", switch]
    assert command.main([*arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    rows = [report.from_json(line) for line in path.read_text().splitlines()]
    assert len(rows) == 1
    row = rows[0]
    assert (row.op, row.shape, row.layout, row.threads) == ("mm", "24x16x8", "NT", 1)
    assert row.route == ("function" if switch == "direct" else "switch")
    assert row.native is not None
    assert row.myops is not None, row.notes
    assert row.myops.error < 1e-5
    assert row.machine["torch"] == torch.__version__
    assert "24x16x8" in printed
    assert "Losses:" in printed


def test_modes_peers_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packed weights, batch invariance against myops itself, a peer; and the rows again from their file."""
    pytest.importorskip("matplotlib")

    def tiny() -> list[dense.Case]:
        mm = [dense.Case("odd", problem.Problem("mm", "float32", n, n, n)) for n in range(100, 110)]
        return [*mm, dense.Case("odd", problem.Problem("linear", "bfloat16", 3, 40, 50), packed=True)]

    def peers(problem: problem.Problem) -> dict[str, timing.Side]:
        return {"peer": timing.Side(torch.mm)}

    monkeypatch.setattr(dense, "CLASSES", {"odd": tiny})
    monkeypatch.setattr(dense, "PACKED_ROTATE_BYTES", 1 << 16)
    monkeypatch.setattr(dense, "peer_sides", peers)
    monkeypatch.setattr(runner, "FIXED_COST_NS", 0)
    monkeypatch.setattr(machine, "read_bandwidth", lambda level, threads: 20.0)
    monkeypatch.setattr(machine, "fma_peak", lambda dtype, threads: 100.0)
    path, speed, roof = (tmp_path / name for name in ("rows.jsonl", "speed.png", "roof.png"))
    arguments = ["dense", "--threads", "1", "--budget", "0.03", "--batch-invariant", "--against", "myops", "--peers"]
    assert command.main([*arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "myops, batch-invariant against myops" in printed
    assert "peer time / myops time, geometric mean (rows): odd" in printed
    rows = [report.from_json(line) for line in path.read_text().splitlines()]
    assert {row.route for row in rows} == {"function+invariant"}
    assert all(row.native is not None and row.myops is not None for row in rows)
    assert [set(row.peers) for row in rows] == [{"peer"}] * 10 + [set()]
    assert rows[-1].myops.error < 0.1  # type: ignore[union-attr]
    assert report.roofs(rows[:10])[0] == pytest.approx(100.0)
    assert command.main(["show", str(path), "--plot", str(speed), "--roofline", str(roof)]) == 0
    assert "Speed-up by class" in capsys.readouterr().out
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in (speed, roof))
    with pytest.raises(SystemExit, match="at least ten judged products"):
        report.roofline(rows[:3], roof)


def test_peers() -> None:
    sides = dense.peer_sides(problem.Problem("mm", "float32", 4, 5, 6))
    assert set(sides) == {"torch.compile", "numpy"}
    a, b = torch.randn(4, 6), torch.randn(6, 5)
    torch.testing.assert_close(torch.from_numpy(sides["numpy"].call(a, b)), a @ b)
    assert set(dense.peer_sides(problem.Problem("mm", "bfloat16", 4, 5, 6))) == {"torch.compile"}
    assert dense.peer_sides(problem.Problem("add", "float32", 4, 5)) == {}


def test_sparse_suite(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One small case of every class, real folder or not; every row has both sides or says why it has one."""
    pytest.importorskip("scipy")
    monkeypatch.delenv("MYOPS_DATA", raising=False)
    np = sparse.np
    tiny = sparse._from_rows(np.full(40, 3), 40, np.random.default_rng(1))
    monkeypatch.setattr(sparse, "pattern", lambda name: tiny)
    monkeypatch.setattr(sparse, "GENERATED", ("tiny",))
    monkeypatch.setattr(sparse, "WIDTHS", (3,))
    assert {case.group for case in sparse.select()} == set(sparse.CLASSES)
    assert {case.matrix for case in sparse.select(["csr"])} == {"tiny"}
    rows = tmp_path / "rows.jsonl"
    assert command.main(["sparse", "--threads", "1", "--budget", "0.03", "--json", str(rows)]) == 0
    read = [report.from_json(line) for line in rows.read_text().splitlines()]
    assert {row.group for row in read} == set(sparse.CLASSES)
    assert all(row.myops is not None and row.native is not None for row in read)
    assert all(row.myops.error < 1e-2 for row in read if row.op == "spmm" and row.myops)
    assert "Speed-up by class" in capsys.readouterr().out


def test_models_suite(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A family of every class at a tiny size: both sides run, the errors are torch's, and the calls are counted."""
    assert len({case.family for case in models.select([], [], [], False)[0]} - set(families.REAL)) >= 4
    assert {case.dtype for case in models.select(["forward"], [], ["bfloat16"], False)[0]} == {"bfloat16"}
    monkeypatch.setattr(models, "MEDIUM", families.TINY)
    compiled = [models.Case("compiled", "diffusers", "float32", mode) for mode in ("forward", "training")]
    assert {(case.mode, case.dtype) for case in models.CLASSES["compiled"]()} == set(
        itertools.product(("forward", "training"), models.DTYPES)
    )
    monkeypatch.setitem(models.CLASSES, "compiled", lambda: compiled)
    monkeypatch.setattr(models, "REAL", dict.fromkeys(families.REAL, families.PLAIN["GRU"]))
    rows = tmp_path / "rows.jsonl"
    arguments = ["models", "--families", "diffusers", "gpt", "bert-base", "--dtypes", "float32"]
    assert command.main([*arguments, "--threads", "1", "--budget", "0.03", "--json", str(rows)]) == 0
    read = [report.from_json(line) for line in rows.read_text().splitlines()]
    assert {row.group for row in read} == set(models.CLASSES)
    for row in read:
        assert row.myops is not None, row.notes
        assert row.native is not None, row.notes
        assert row.myops.error < 1e-4
        assert row.dims["myops"] == row.dims["all"] > 0
    assert "Speed-up by class" in capsys.readouterr().out
