"""The demo's pure parts, and a smoke run on the trained model where it is installed. Nothing here judges a time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ is not an installed package

pytest.importorskip("rich", reason="the demo prints with rich")
pytest.importorskip("numpy")

from benchmarks import demo, measure, models, sentences, show


def missing(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


LACKING = missing("transformers", "matplotlib", models.MODEL_PACKAGE)
needs_model = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


def event(name: str, us: float, parent: Any = None) -> Any:
    return SimpleNamespace(
        name=name, cpu_parent=parent, self_cpu_time_total=us / 2, time_range=SimpleNamespace(elapsed_us=lambda: us)
    )


def test_corpus_is_forty_distinct_sentences_in_known_topics() -> None:
    corpus = sentences.corpus()
    assert len(corpus) == len(set(corpus)) == 40
    assert sentences.topic_of(0) == "cooking"
    assert sentences.topic_of(39) == "money"
    assert {topic for _, topic in sentences.QUERIES} <= set(sentences.TOPICS)


def test_operator_times_count_outermost_products_with_their_children() -> None:
    linear = event("aten::linear", 120)
    bmm = event("aten::bmm", 100, linear)
    copy = event("aten::copy_", 30, bmm)
    events = [linear, bmm, copy, event("aten::addmm", 60, copy), event("aten::addmm", 50), event("[memory]", 9)]
    profile = measure.operator_times(events)
    assert profile.ops == {"aten::bmm": measure.OpTime(1, 0.1), "aten::addmm": measure.OpTime(1, 0.05)}
    assert profile.family_ms == pytest.approx(0.15)
    assert profile.total_ms == pytest.approx((120 + 100 + 30 + 60 + 50) / 2000)
    assert measure.operator_times(events * 2, runs=2).ops == profile.ops


def test_call_counts_read_the_statistics() -> None:
    stats = {"mm": {"myops": 3, "native": 1, "reasons": {"dtype": 1}}, "bmm": {"myops": 2}, "enabled": True}
    assert measure.call_counts(stats) == {"mm": (3, 1), "bmm": (2, 0)}


def test_accuracy_is_the_largest_difference_and_the_smallest_cosine() -> None:
    reference = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    output = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = measure.accuracy(output, reference)
    assert found.max_error == 1.0
    assert found.min_cosine == pytest.approx(0.5**0.5)


def test_mean_pool_ignores_padding_and_scales_to_unit_length() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [100.0, 100.0]]], dtype=torch.bfloat16)
    pooled = models.mean_pool(hidden, torch.tensor([[1, 1, 0]]))
    assert torch.allclose(pooled, torch.tensor([[0.6, 0.8]]))


def test_best_matches_name_the_nearest_row() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    (match,) = show.best_matches(rows, 2)
    assert match[0] == 1
    assert match[1] == pytest.approx(0.8)


def test_missing_model_package_is_named() -> None:
    with pytest.raises(models.MissingModelError, match=models.MODEL_DISTRIBUTION):
        models.model_folder("no_such_package_here")


@pytest.mark.skipif(bool(missing("transformers")), reason="not installed: transformers")
def test_missing_model_ends_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert demo.main(["--quick", "--tasks", "embed", "--model", str(tmp_path / "empty")]) == 2
    assert "demo:" in capsys.readouterr().err


@needs_model
def test_smoke_run_writes_tables_traces_and_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "PROFILE_SECONDS", 0.0)
    threads = torch.get_num_threads()
    try:
        arguments = ["--quick", "--seconds", "0.1", "--dtypes", "float32", "--threads", "2", "--output", str(tmp_path)]
        assert demo.main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    for text in ("Nearest sentence", "same sentence", "aten::addmm", "whole run", "min cosine", "geometric mean"):
        assert text in printed
    assert (tmp_path / "demo.png").stat().st_size > 0
    traces = {path.name for path in tmp_path.glob("*.json")}
    assert {"embed_float32_native.json", "embed_float32_myops.json", "decode_float32_myops.json"} <= traces
