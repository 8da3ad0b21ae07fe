"""Rows of a benchmark and the ways to show them: JSON lines, a plain table, a summary with the losses, a plot.

A row is one comparison: identity (suite, group, op, shape, dtype, layout, route, threads), both sides, their ratio, and
the machine it ran on. Losses and the worst case are printed beside every mean; no option hides them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .timing import geometric_mean

SCHEMA = 1
"""Version of the JSON row; raised when a field changes its meaning."""

FEW = 5
"""Pairs of samples below which a judged row is listed as thinly measured."""

DISTURBED_CORES = 0.25
"""Cores kept busy by other processes above which a row counts as disturbed: threads then wait for each other for whole
scheduler slices (milliseconds), which can decide a median."""

JUDGED = ("win", "tie", "loss")


@dataclass
class SideResult:
    """One side of a row: times in ns per call, GFLOP/s, percent of the roof, relative error, bytes at the peak."""

    median_ns: float
    q1_ns: float
    q3_ns: float
    calls_per_sample: int
    samples_ns: list[float]
    gflops: float
    roof_percent: float | None
    error: float
    peak_bytes: int | None


@dataclass
class Row:
    """One comparison. ratio is native time / myops time; verdict is win, tie, loss, fixed, alone or skipped.

    other_cores is what other processes kept busy meanwhile, in cores.
    """

    suite: str
    group: str
    op: str
    shape: str
    dtype: str
    layout: str
    route: str
    dims: dict[str, int]
    threads: int
    flops: float
    moved_bytes: float
    machine: dict[str, Any]
    native: SideResult | None = None
    myops: SideResult | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    roof_bound: str | None = None
    roof_ns: float | None = None
    other_cores: float | None = None
    verdict: str = "skipped"
    notes: list[str] = field(default_factory=list)
    peers: dict[str, SideResult] = field(default_factory=dict)
    schema: int = SCHEMA


def to_json(row: Row) -> str:
    """The row as one line of JSON."""
    return json.dumps(dataclasses.asdict(row), separators=(",", ":"))


def from_json(line: str) -> Row:
    """The row of one line written by `to_json`; ValueError for another schema."""
    values = json.loads(line)
    if values.get("schema") != SCHEMA:
        raise ValueError(f"row of schema {values.get('schema')}, this reads {SCHEMA}")
    for side in ("native", "myops"):
        if values[side] is not None:
            values[side] = SideResult(**values[side])
    values["peers"] = {name: SideResult(**side) for name, side in values.get("peers", {}).items()}
    return Row(**values)


def append_json(stream: TextIO, row: Row) -> None:
    """Write one line and flush it, so that an interrupted run keeps its rows."""
    stream.write(to_json(row) + "\n")
    stream.flush()


# Columns: title, width (negative: left-aligned).
_COLUMNS = (
    ("op", -8), ("shape", -18), ("dtype", -10), ("layout", -8), ("route", -8), ("thr", 3),
    ("native ms", 10), ("+-IQR", 6), ("myops ms", 10), ("+-IQR", 6), ("speed-up", 8), ("95 % interval", -14),
    ("GF/s nat", 8), ("myops", 7), ("% roof nat", 10), ("myops", 5), ("bound", -5),
    ("err native", 10), ("myops", 8), ("MB nat", 7), ("myops", 6), ("", -8),
)  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    parts = []
    for (_, width), cell in zip(_COLUMNS, cells, strict=True):
        parts.append(cell.ljust(-width) if width < 0 else cell.rjust(width))
    return " ".join(parts).rstrip()


def table_header() -> str:
    """Column titles of `table_line`."""
    return _line(title for title, _ in _COLUMNS)


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def _side_cells(side: SideResult | None) -> dict[str, str]:
    if side is None:
        return dict.fromkeys(("ms", "iqr", "gflops", "roof", "error", "memory"), "-")
    return {
        "ms": format(side.median_ns / 1e6, ".4g"),
        "iqr": f"{100 * (side.q3_ns - side.q1_ns) / side.median_ns:.0f}%",
        "gflops": format(side.gflops, ".4g"),
        "roof": _number(side.roof_percent, ".0f"),
        "error": format(side.error, ".1e"),
        "memory": "-" if side.peak_bytes is None else format(side.peak_bytes / 1e6, ".1f"),
    }


def _repetitions(row: Row) -> int:
    """Samples of the side that has fewer."""
    return min((len(side.samples_ns) for side in (row.native, row.myops) if side is not None), default=0)


def is_disturbed(row: Row) -> bool:
    """Whether other processes were busy enough to put the row in doubt."""
    return (row.other_cores or 0.0) > DISTURBED_CORES


def interval_text(row: Row) -> str:
    """The 95 % interval of the ratio, `n=...` when there are too few pairs for one."""
    if row.ratio is None:
        return "-"
    if row.ratio_low is None or row.ratio_high is None:
        return f"n={_repetitions(row)}"
    return f"{row.ratio_low:.3g}..{row.ratio_high:.3g}"


def table_line(row: Row) -> str:
    """One row as text; losses read LOSS, disturbed rows end in a tilde, fixed-cost rows have no ratio."""
    native, myops = _side_cells(row.native), _side_cells(row.myops)
    fixed = row.verdict == "fixed"
    return _line((
        row.op, row.shape, row.dtype, row.layout, row.route, str(row.threads),
        native["ms"], native["iqr"], myops["ms"], myops["iqr"],
        "-" if fixed else _number(row.ratio, ".3g"), "-" if fixed else interval_text(row),
        native["gflops"], myops["gflops"], native["roof"], myops["roof"], row.roof_bound or "-",
        native["error"], myops["error"], native["memory"], myops["memory"],
        ("LOSS" if row.verdict == "loss" else row.verdict) + ("~" if is_disturbed(row) else ""),
    )) + "".join(f"  {name} {side.median_ns / 1e6:.4g} ms" for name, side in row.peers.items())  # fmt: skip


def name_of(row: Row) -> str:
    """Short identity of a row."""
    threads = f"{row.threads} thread{'s' if row.threads != 1 else ''}"
    return f"{row.op} {row.shape} {row.dtype} {row.layout} ({row.route}, {threads})"


@dataclass(frozen=True)
class GroupSummary:
    """Geometric mean of the ratios of one class, its counts and its worst row."""

    group: str
    mean: float
    wins: int
    ties: int
    losses: int
    worst: Row


def summarize(rows: Sequence[Row]) -> list[GroupSummary]:
    """One summary per class with judged rows, in order of appearance, then one named `all`."""
    judged = [row for row in rows if row.verdict in JUDGED and row.ratio is not None]
    groups = list(dict.fromkeys(row.group for row in judged))
    summaries = []
    for group in [*groups, "all"] if judged else []:
        members = [row for row in judged if group in (row.group, "all")]
        verdicts = [row.verdict for row in members]
        mean = geometric_mean([row.ratio for row in members if row.ratio is not None])
        worst = min(members, key=lambda row: row.ratio or 0.0)
        counts = (verdicts.count("win"), verdicts.count("tie"), verdicts.count("loss"))
        summaries.append(GroupSummary(group, mean or 0.0, *counts, worst))
    return summaries


def _fixed_cost_lines(rows: Sequence[Row]) -> list[str]:
    """Fixed-cost rows in nanoseconds per call."""
    fixed = [row for row in rows if row.verdict == "fixed" and row.native and row.myops]
    if not fixed:
        return []
    lines = ["", f"Fixed cost per call, ns ({len(fixed)} rows under 5 us; ratios not judged)"]
    for row in fixed:
        assert row.native is not None
        assert row.myops is not None
        native, myops = row.native.median_ns, row.myops.median_ns
        lines.append(f"  {name_of(row):<58} native {native:7.0f}  myops {myops:7.0f}  {myops - native:+7.0f}")
    return lines


def _peer_lines(rows: Sequence[Row]) -> list[str]:
    """Geometric means of peer time / myops time, by class."""
    lines: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row.peers):
        ratios: dict[str, list[float]] = {}
        for row in rows:
            if name in row.peers and row.myops is not None and row.verdict in JUDGED:
                ratios.setdefault(row.group, []).append(row.peers[name].median_ns / row.myops.median_ns)
        means = (f"{group} {geometric_mean(found):.3g} ({len(found)})" for group, found in ratios.items())
        lines += ["", f"{name} time / myops time, geometric mean (rows): {', '.join(means)}"]
    return lines


def summary_lines(rows: Sequence[Row], dropped: int = 0) -> list[str]:
    """Means and worst case per class, every loss, fixed costs, rows without a counterpart, and what did not run."""
    lines = ["", "Speed-up by class (native / myops, geometric mean)"]
    for entry in summarize(rows):
        worst = f"worst {entry.worst.ratio or 0.0:.3g} at {name_of(entry.worst)}"
        counts = f"{entry.wins} wins {entry.ties} ties {entry.losses} losses"
        lines.append(f"  {entry.group:<10} {entry.mean:8.3g}   {counts:<28} {worst}")
    losses = sorted((row for row in rows if row.verdict == "loss"), key=lambda row: row.ratio or 0.0)
    lines += ["", f"Losses: {len(losses) or 'none'}"]
    for row in losses:
        doubt = " (disturbed)" if is_disturbed(row) else ""
        lines.append(f"  {row.ratio or 0.0:6.3f} [{interval_text(row)}] {row.group}: {name_of(row)}{doubt}")
    lines += _peer_lines(rows)
    lines += _fixed_cost_lines(rows)
    for verdict, title in (("alone", "Native cannot run"), ("skipped", "Not compared")):
        members = [row for row in rows if row.verdict == verdict]
        if members:
            lines += ["", f"{title}: {len(members)}"]
            lines += [f"  {name_of(row)}: {'; '.join(row.notes)}" for row in members]
    few = [row for row in rows if row.verdict in JUDGED and _repetitions(row) < FEW]
    if few:
        lines += ["", f"Fewer than {FEW} repetitions (slow calls within the time budget): {len(few)}"]
        lines += [f"  {name_of(row)}: {', '.join(row.notes)}" for row in few]
    disturbed = [row for row in rows if is_disturbed(row)]
    if disturbed:
        text = f"Disturbed (~): {len(disturbed)} of {len(rows)} rows while other processes used more than"
        lines += ["", f"{text} {DISTURBED_CORES} cores (other_cores in the JSON rows); repeat on a quiet machine"]
    if dropped:
        lines += ["", f"Out of time: {dropped} cases did not run"]
    return lines


def _pyplot(option: str) -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit(f"{option} needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: every judged speed-up by class on a log axis, with the geometric mean; needs matplotlib."""
    pyplot = _pyplot("--plot")
    entries = [entry for entry in summarize(rows) if entry.group != "all"]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.55 * len(entries)), layout="constrained")
    for position, entry in enumerate(entries):
        members = [row for row in rows if row.group == entry.group and row.verdict in JUDGED]
        colors = ["tab:red" if row.verdict == "loss" else "tab:blue" for row in members]
        axes.scatter([row.ratio or 1.0 for row in members], [position] * len(members), c=colors, s=14, alpha=0.6)
        axes.plot([entry.mean] * 2, [position - 0.3, position + 0.3], color="black", linewidth=2)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(entries)), [entry.group for entry in entries])
    axes.invert_yaxis()
    axes.set_xlabel("native time / myops time (black: geometric mean, red: loss)")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def roofs(rows: Sequence[Row]) -> tuple[float | None, dict[str, float]]:
    """The roofs that the rows of one dtype and thread count were set against: GFLOP/s, and GB/s by level of memory."""
    peak, bandwidths = None, {}
    for row in rows:
        if row.roof_bound is None or not row.roof_ns:
            continue
        if row.roof_bound == "fma":
            peak = row.flops / row.roof_ns
        else:
            bandwidths[row.roof_bound] = row.moved_bytes / row.roof_ns
    return peak, bandwidths


def roofline(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: GFLOP/s over operations per byte, a panel for each dtype, one point for each case and side.

    The roofs are those measured in the same run. Cases whose time is the cost of the call are left out; a point above
    the memory roof was served by a cache.
    """
    pyplot = _pyplot("--roofline")
    shown = [row for row in rows if row.verdict in JUDGED and row.flops and row.op != "add"]
    panels = list(dict.fromkeys((row.dtype, row.threads) for row in shown))
    panels = [panel for panel in panels if sum((row.dtype, row.threads) == panel for row in shown) >= 10]
    if not panels:
        raise SystemExit("--roofline needs at least ten judged products of one dtype")
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, grid = pyplot.subplots(
        down, across, figsize=(5.5 * across, 3.9 * down), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (dtype, threads) in zip(grid.flat, panels, strict=False):
        members = [row for row in shown if (row.dtype, row.threads) == (dtype, threads)]
        intensities = [row.flops / row.moved_bytes for row in members]
        for side, color, marker in (("native", "tab:orange", "o"), ("myops", "tab:blue", "x")):
            rates = [getattr(row, side).gflops for row in members]
            axes.scatter(intensities, rates, c=color, marker=marker, s=16, linewidths=1, alpha=0.7, label=side)
        peak, bandwidths = roofs([row for row in rows if (row.dtype, row.threads) == (dtype, threads)])
        span = [min(intensities) / 2, max(intensities) * 2]
        for level, bandwidth in bandwidths.items():
            end = span[1] if peak is None else min(span[1], max(span[0], peak / bandwidth))
            style = "--" if level == "cache" else ":"
            axes.plot([span[0], end], [bandwidth * span[0], bandwidth * end], style, color="black", linewidth=1,
                      label=f"{level} {bandwidth:.0f} GB/s")  # fmt: skip
        if peak is not None:
            axes.plot([min(span[1], peak / max(bandwidths.values(), default=peak / span[0])), span[1]], [peak] * 2,
                      color="black", linewidth=1, label=f"multiply-add {peak:.0f} GF/s")  # fmt: skip
        axes.set(xscale="log", yscale="log", title=f"{dtype}, {threads} thread{'s' if threads > 1 else ''}",
                 xlabel="operations per byte", ylabel="GFLOP/s")  # fmt: skip
        axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
