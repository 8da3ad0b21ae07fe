"""How the demo shows its results: rich tables on the terminal, one chart as PNG. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from myops.bench import timing

from . import sentences
from .measure import Result

VARIANT_NAMES = ("native", "myops")


def ratio_text(ratio: float) -> str:
    """A speed-up with its colour: green above 1, red below."""
    style = "green" if ratio >= 1.01 else "red" if ratio < 0.99 else "default"
    return f"[{style}]{ratio:.2f}x[/{style}]"


def spread_text(samples_ns: Sequence[float]) -> str:
    """Median and interquartile range in ms, with the number of runs."""
    spread = timing.spread(samples_ns)
    if spread.count == 1:
        return f"{spread.median / 1e6:.2f} (1 run)"
    half = 50 * (spread.q3 - spread.q1) / spread.median
    return f"{spread.median / 1e6:.2f} ±{half:.0f}% ({spread.count})"


def best_matches(embeddings: Tensor, count: int) -> list[tuple[int, float]]:
    """For each row after the first `count`: index of the nearest of those, and the cosine; rows have unit length."""
    scores = embeddings[count:].double() @ embeddings[:count].double().T
    best = scores.max(dim=1)
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def neighbour_rows(results: Sequence[Result]) -> list[tuple[str, str, str, float, float, bool]]:
    """(query, wanted topic, best sentence under myops, native cosine, myops cosine, all agree) per query.

    Cosines are those of the first result; all agree means that native and myops name the same sentence in
    every dtype.
    """
    count = len(sentences.corpus())
    found = [[best_matches(result.outputs[name], count) for name in VARIANT_NAMES] for result in results]
    rows = []
    for position, (query, topic) in enumerate(sentences.QUERIES):
        pairs = [(native[position], ours[position]) for native, ours in found]
        agree = all(native[0] == ours[0] for native, ours in pairs)
        (_, native_cosine), (index, cosine) = pairs[0]
        rows.append((query, topic, sentences.corpus()[index], native_cosine, cosine, agree))
    return rows


def show_neighbours(console: Console, results: Sequence[Result]) -> None:
    """The nearest sentence to every query."""
    dtypes = ", ".join(result.dtype for result in results)
    title = f"Nearest sentence to each query (cosines in {results[0].dtype}; agreement over {dtypes})"
    table = Table(title=title, title_justify="left")
    for title in ("query", "nearest of 40 sentences, myops"):
        table.add_column(title, overflow="fold")
    for title in ("native", "myops", "topic", "native = myops?"):
        table.add_column(title, justify="right")
    topics = {sentence: sentences.topic_of(index) for index, sentence in enumerate(sentences.corpus())}
    for query, topic, sentence, native, ours, agree in neighbour_rows(results):
        found = topics[sentence]
        mark = f"[green]{found}[/]" if found == topic else f"[red]{found}, wanted {topic}[/]"
        same = "[green]same sentence[/]" if agree else "[red]differ[/]"
        table.add_row(query, sentence, f"{native:.6f}", f"{ours:.6f}", mark, same)
    console.print(table)


def show_operators(console: Console, results: Sequence[Result]) -> None:
    """The profiler's comparison, operator by operator."""
    table = Table(title="torch.profiler, CPU time per run (children included)", title_justify="left")
    table.add_column("dtype")
    table.add_column("operator")
    for title in ("calls", "reached myops", "native ms", "myops ms", "ratio"):
        table.add_column(title, justify="right")
    for result in results:
        native, ours = result.profiles["native"], result.profiles["myops"]
        for name in sorted(set(native.ops) | set(ours.ops)):
            before, after = native.ops.get(name), ours.ops.get(name)
            served, kept = result.reached.get(name.removeprefix("aten::"), (0, 0))
            either = before or after
            calls = f"{either.calls:.0f}" if either else "0"
            served, kept = served // result.profiled_runs, kept // result.profiled_runs
            reached = f"{served} of {served + kept}" if served + kept else "0"
            table.add_row(
                result.dtype, name, calls, reached,
                f"{before.ms:.2f}" if before else "-", f"{after.ms:.2f}" if after else "-",
                ratio_text(before.ms / after.ms) if before and after and after.ms else "-",
            )  # fmt: skip
        for label, first, second in (
            ("all matrix products", native.family_ms, ours.family_ms),
            ("whole run", native.total_ms, ours.total_ms),
        ):
            table.add_row(
                result.dtype, f"[bold]{label}[/]", "", "", f"{first:.2f}", f"{second:.2f}",
                ratio_text(first / second) if second else "-", end_section=label == "whole run",
            )  # fmt: skip
    console.print(table)


def _digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _megabytes(result: Result, name: str) -> str:
    use = result.memory.get(name)
    return "-" if use is None else f"{use.peak / 1e6:.0f} (+{use.growth / 1e6:.0f})"


def show_end_to_end(console: Console, results: Sequence[Result]) -> None:
    """Latency, throughput, memory and accuracy of whole runs."""
    table = Table(title="End to end, interleaved runs", title_justify="left")
    table.add_column("dtype")
    table.add_column("variant")
    for title in (
        "ms per run ±IQR/2 (runs)", "speed-up", "95 % interval", f"{results[0].unit}/s", f"ms/{results[0].unit[:-1]}",
        "peak MB (+run)", "max |err| vs f64", "min cosine",
    ):  # fmt: skip
        table.add_column(title, justify="right")
    for result in results:
        ratio = result.ratio
        interval = "-" if ratio.low is None or ratio.high is None else f"{ratio.low:.2f}..{ratio.high:.2f}"
        for name in VARIANT_NAMES:
            ms = result.median_ms(name)
            error = result.accuracy[name]
            ours = name == "myops"
            table.add_row(
                result.dtype, name, spread_text(result.latency_ns[name]), ratio_text(ratio.value) if ours else "",
                interval if ours else "", f"{1e3 * result.units / ms:.1f}", _digits(ms / result.units),
                _megabytes(result, name), f"{error.max_error:.2e}", f"{error.min_cosine:.8f}", end_section=ours,
            )  # fmt: skip
    console.print(table)
    for result in results:
        for note in result.notes:
            console.print(f"  [yellow]{result.dtype}: {note}[/]")


def show_summary(console: Console, results: Sequence[Result]) -> None:
    """Geometric mean of the end-to-end speed-ups, the worst one, and every loss."""
    ratios = {f"{result.task} {result.dtype}": result.ratio for result in results}
    mean = timing.geometric_mean([ratio.value for ratio in ratios.values()]) or 0.0
    worst = min(ratios, key=lambda name: ratios[name].value)
    losses = [f"{name} {ratio.value:.2f}x" for name, ratio in ratios.items() if timing.verdict(ratio) == "loss"]
    console.print(
        f"end to end: geometric mean {ratio_text(mean)}, worst {ratio_text(ratios[worst].value)} ({worst}), "
        f"losses: {', '.join(losses) or 'none'}"
    )


def show_header(console: Console, described: dict[str, Any], threads: int, title: str) -> None:
    """Title, versions, machine and threads."""
    console.rule(f"[bold]{title}")
    versions = f"myops {described['myops']} (commit {described['commit']}, ISA {described['isa']})"
    host = (
        f"{described['cpu']}, {described['cores']} cores, L3 {described['l3_bytes'] >> 20} MiB, {described['system']}"
    )
    console.print(f"{versions}, torch {described['torch']}, Python {described['python']}", highlight=False)
    console.print(f"{host}; {threads} threads", highlight=False)
    if described["load_warning"]:
        console.print(f"[yellow]load average {described['load_average']:.2f} before the run: expect wide spreads[/]")


def write_chart(results: Sequence[Result], path: Path) -> None:
    """Bars of latency and of time in matrix products, native and myops, on a log axis, with the speed-up on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, figsize=(1.4 + 1.1 * len(results), 8), layout="constrained")
    labels = [f"{result.task}\n{result.dtype}" for result in results]
    panels = (
        ("end to end, ms per run", [[result.median_ms(name) for result in results] for name in VARIANT_NAMES]),
        ("matrix products, ms", [[result.profiles[name].family_ms for result in results] for name in VARIANT_NAMES]),
    )
    for axis, (title, (native, ours)) in zip(axes, panels, strict=True):
        positions = range(len(results))
        axis.bar([position - 0.2 for position in positions], native, 0.4, label="native torch", color="#9aa5b1")
        axis.bar([position + 0.2 for position in positions], ours, 0.4, label="myops", color="#1f77b4")
        for position, (before, after) in enumerate(zip(native, ours, strict=True)):
            if after:
                axis.text(position, max(before, after), f"{before / after:.2f}x", ha="center", va="bottom", fontsize=9)
        axis.set_yscale("log")
        axis.margins(y=0.15)
        axis.set_ylabel(title)
        axis.set_xticks(list(positions), labels)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
