"""What README.md and benchmarks/README.md say is what is found, and what the committed results hold. Needs the checkout."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

import myops
from benchmarks import sparse_support

ROOT = Path(__file__).parents[1]

# The support matrix of the README, which `python -m benchmarks.sparse_support` prints.


def support_rows() -> dict[str, list[str]]:
    """Operands: the six answers of the README's table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, table = text.split("| operands | native: dtypes |")
    lines = table.split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {operands: answers for operands, *answers in rows}


def test_readme_has_every_row_of_the_support_matrix() -> None:
    assert list(support_rows()) == [f"{left} @ {right}" for left, right in sparse_support.PAIRS]


@pytest.mark.parametrize(("left", "right"), sparse_support.PAIRS)
def test_readme_says_what_is_found(left: str, right: str) -> None:
    """Of myops; what native torch does changes with its version."""
    assert support_rows()[f"{left} @ {right}"][3:] == sparse_support.cells(myops.sparse.mm, left, right)


# The tables of benchmarks/README.md, against the results that they are made of.

CLASSES = {
    "squares 256..4096, six dtypes": "squares", "odd and medium": "odd", "tall-skinny, few columns, inner and outer products": "skinny", "decode, 1 to 16 rows": "decode",
    "a matrix times a vector": "vector",
    "batched, 3x3 to attention": "batched", "integers": "integers", "`add`": "add", "addmm, linear": "addmm",
    "linear with an activation": "fused", "packed weights against torch's linear": "packed",
}  # fmt: skip
MODELS = {
    "16 families under `myops.use()`, 4 x 64 tokens, forward": "models-zen5-2threads",
    '13 of them with `backend="myops"` against Inductor, forward': "models-compiled-zen5-2threads",
}


def results(name: str) -> list[dict[str, Any]]:
    file = ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    if not file.parent.is_dir():
        pytest.skip("an sdist has no results")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["ratio"] and row["verdict"] in ("win", "tie", "loss")]


def numbers(title: str, after: str = "") -> list[str]:
    """The cells of a row of a table, without its title."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    rest = text[text.index(after) :]
    line = next(line for line in rest.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def close(said: str, found: float) -> bool:
    """Whether `said` is `found` as it is printed, the last digit rounded either way."""
    digits = len(said.partition(".")[2])
    return abs(float(said) - found) <= 0.6 * 10.0**-digits


@pytest.mark.parametrize("title", CLASSES)
def test_classes_of_products(title: str) -> None:
    ratios = [row["ratio"] for row in results("dense-zen5-2threads") if row["group"] == CLASSES[title]]
    said, worst, *_ = numbers(title)
    assert close(said, mean(ratios))
    assert close(worst, min(ratios))


SPARSE = {
    "COO @ dense": "coo", "COO @ dense, bfloat16": "bf16", "COO @ dense, backward": "coo_grad", "CSR @ dense, against MKL": "csr",
    "CSR @ dense, backward": "csr_grad", "CSR @ dense, int64 indices": "csr_int64", "addmm of CSR": "addmm", "sampled_addmm": "sddmm",
    "batches of COO": "bmm", "BSR @ dense": "bsr", "sparse @ dense, against scipy": "scipy", "COO @ COO": "spgemm_coo",
    "COO @ COO, backward": "spgemm_grad", "CSR @ CSR, against MKL": "spgemm_csr", "sparse @ sparse, against scipy": "spgemm_scipy",
    "linear layers with a CSR or BSR weight": "linear", "a layer without 90 or 98 % of its weights, against the whole one": "pruned",
    "the same in bfloat16": "pruned_bf16",
}  # fmt: skip


@pytest.mark.parametrize("title", SPARSE)
def test_classes_of_sparse_products(title: str) -> None:
    files = ("sparse-zen5-2threads", "sparse-avx2-zen5-2threads", "sparse-spr-2threads")
    for name, cell in zip(files, numbers(title, after="### Sparse"), strict=True):
        ratios = [row["ratio"] for row in results(name) if row["group"] == SPARSE[title]]
        said = re.findall(r"[\d.]+", cell)
        assert len(said) == (2 if ratios else 0)
        assert not ratios or (close(said[0], mean(ratios)) and close(said[1], min(ratios))), (
            name,
            mean(ratios),
            min(ratios),
        )


@pytest.mark.parametrize("kind", ["forward", "training"])
@pytest.mark.parametrize("title", MODELS)
def test_families_of_models(title: str, kind: str) -> None:
    name = MODELS[title]
    rows = [row for row in results(name) if row["op"] == kind and row["group"] != "real"]
    cells = numbers(title) if kind == "forward" else numbers("the same, training step", after=title)
    for dtype, cell in zip(("float32", "bfloat16", "float16"), cells, strict=True):
        ratios = [row["ratio"] for row in rows if row["dtype"] == dtype]
        said, worst = re.findall(r"[\d.]+", cell)
        assert close(said, mean(ratios)), (dtype, mean(ratios))
        assert close(worst, min(ratios)), (dtype, min(ratios))


def test_the_readme_says_of_other_cpus_what_their_rows_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for title, name, wanted in (
        ("Intel Sapphire Rapids, 2 cores, with AMX: both", "models-xeon-amx-2threads", ("forward", "training")),
        ("AVX2 alone (Zen 5 held to it): products", "dense-avx2-zen5-2threads", None),
    ):
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
        for dtype, cell in zip(("float32", "bfloat16", "float16"), line.strip("|").split("|")[1:], strict=True):
            rows = [row for row in results(name) if row["dtype"] == dtype and row["group"] != "fixed"]
            ratios = [row["ratio"] for row in rows if wanted is None or row["group"] in wanted]
            said, worst = re.findall(r"[\d.]+", cell)[:2]
            assert close(said, mean(ratios)), (title, dtype, mean(ratios))
            assert close(worst, min(ratios)), (title, dtype, min(ratios))
    packed = numbers("packed weights against torch's linear")[0]
    assert f"a packed weight pays nothing and is {packed} times as fast" in " ".join(text.split())


def test_the_readme_says_what_the_numbers_say() -> None:
    """The first table of README.md has the same cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for cell in (
        *numbers("16 families under `myops.use()`, 4 x 64 tokens, forward")[::2],
        *numbers("the same, training step"),
    ):
        assert cell in text
