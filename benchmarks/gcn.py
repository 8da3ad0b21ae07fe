"""A graph convolutional network on Cora: test accuracy, and time per epoch with each kind of sparse matrix.

    MYOPS_DATA=... python -m benchmarks.gcn          # the folder that holds cora.npz, which is no part of the product

Two layers of 16 hidden features with dropout, Adam, 200 epochs, full batch. Adjacency and features (1.3 % of them are
not zero) are sparse, so that every product of the network is a sparse one; dropout of the features draws new values on
the same pattern in every epoch. Native COO and CSR, myops.CSR, and myops.CSR under torch.compile(fullgraph=True), which
takes no native sparse tensor. Epochs of all variants alternate, so that a busy machine slows them all.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import scipy.sparse  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

try:
    from rich.console import Console
    from rich.table import Table
except ImportError as error:
    raise SystemExit("the benchmark prints with rich: pip install '.[demo]'") from error

import myops
from myops.bench import machine

from . import show

EPOCHS = 200
WARM_UP = 5
"""Epochs that are not timed: the first ones compile."""

ACCURACY = (0.78, 0.82)
"""What the network reaches on Cora; outside, it has learnt something else."""

WIDTH = 100
"""Columns of the output when it is not a terminal."""


@dataclass(frozen=True)
class Cora:
    """The data set: bag of words by paper (rows add up to 1), classes, graph, and nodes to train and to test on."""

    features: myops.CSR
    classes: Tensor
    adjacency: myops.CSR
    train: Tensor
    test: Tensor


def load(path: Path) -> Cora:
    """The adjacency has self loops and is normalised on both sides."""
    z = numpy.load(path)
    x = scipy.sparse.csr_matrix((z["x_data"], z["x_indices"], z["x_indptr"]), shape=tuple(z["x_shape"]))
    x = scipy.sparse.diags(1 / numpy.asarray(x.sum(1)).ravel().clip(1)) @ x
    n = x.shape[0]
    edges = scipy.sparse.coo_matrix((numpy.ones(z["edge_index"].shape[1]), z["edge_index"]), shape=(n, n))
    graph = edges + scipy.sparse.eye(n)
    scale = scipy.sparse.diags(numpy.asarray(graph.sum(1)).ravel() ** -0.5)
    features, adjacency = (
        myops.CSR.from_scipy(matrix.tocsr().astype("float32")) for matrix in (x, scale @ graph @ scale)
    )
    train, test = (torch.from_numpy(z[f"{name}_idx"]).long() for name in ("train", "test"))
    return Cora(features, torch.from_numpy(z["y"]), adjacency, train, test)


@dataclass(frozen=True)
class Format:
    """A kind of sparse matrix: out of a myops.CSR, the same with other values, and its product with a dense one."""

    make: Callable[[myops.CSR], Any]
    with_values: Callable[[Any, Tensor], Any]
    product: Callable[[Any, Tensor], Tensor]


def _coo_with_values(a: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(a.indices(), values, a.shape, is_coalesced=True, check_invariants=False)


def _csr_with_values(a: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(a.crow_indices(), a.col_indices(), values, a.shape, check_invariants=False)


COO = Format(lambda a: a.to_torch().to_sparse_coo().coalesce(), _coo_with_values, torch.sparse.mm)
CSR = Format(myops.CSR.to_torch, _csr_with_values, torch.sparse.mm)
OURS = Format(lambda a: a, myops.CSR.with_values, torch.matmul)
VARIANTS = {
    "native COO": (COO, False),
    "native CSR": (CSR, False),
    "myops.CSR": (OURS, False),
    "myops.CSR, compiled": (OURS, True),
}


class Training:
    """One network with matrices of some format."""

    def __init__(self, data: Cora, kind: Format, compiled: bool) -> None:
        self.data, self.adjacency, self.features = data, kind.make(data.adjacency), kind.make(data.features)
        torch.manual_seed(1)
        first, second = nn.Linear(data.features.shape[1], 16, bias=False), nn.Linear(16, 7, bias=False)
        self.optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01, weight_decay=5e-4)
        drop = nn.functional.dropout

        def forward(adjacency: Any, features: Any, words: Tensor, training: bool) -> Tensor:
            dropped = kind.with_values(features, drop(words, 0.5, training))
            hidden = kind.product(adjacency, kind.product(dropped, first.weight.t())).relu()
            return kind.product(adjacency, second(drop(hidden, 0.5, training)))

        self.forward = torch.compile(forward, fullgraph=True) if compiled else forward
        self.seconds: list[float] = []

    def logits(self, training: bool) -> Tensor:
        return self.forward(self.adjacency, self.features, self.data.features.values, training)

    def epoch(self, number: int) -> None:
        torch.manual_seed(number)  # the same dropout for every variant that draws it from torch
        started = time.perf_counter()
        self.optimizer.zero_grad()
        train = self.data.train
        nn.functional.cross_entropy(self.logits(True)[train], self.data.classes[train]).backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)

    def timed(self) -> list[float]:
        return self.seconds[WARM_UP:]

    def accuracy(self) -> float:
        with torch.no_grad():
            found = self.logits(False).argmax(1)
        return (found == self.data.classes)[self.data.test].float().mean().item()


def show_table(console: Console, trainings: dict[str, Training], accuracies: dict[str, float]) -> None:
    """Time per epoch, its ratio to the native formats, and test accuracy."""
    table = Table(title=f"GCN on Cora, {EPOCHS} epochs, interleaved", title_justify="left")
    table.add_column("matrices")
    for title in ("ms an epoch ±IQR/2 (epochs)", "native COO / this", "native CSR / this", "test accuracy"):
        table.add_column(title, justify="right")
    medians = {name: statistics.median(training.timed()) for name, training in trainings.items()}
    for name, training in trainings.items():
        ratios = [show.ratio_text(medians[native] / medians[name]) for native in ("native COO", "native CSR")]
        inside = ACCURACY[0] <= accuracies[name] <= ACCURACY[1]
        accuracy = f"[{'green' if inside else 'red'}]{accuracies[name]:.3f}[/]"
        table.add_row(name, show.spread_text([1e9 * s for s in training.timed()]), *ratios, accuracy)
    console.print(table)


def main() -> int:
    """Train all variants and print a table; 1 where a network has not learnt what it should."""
    path = Path(os.environ.get("MYOPS_DATA", ".")) / "cora.npz"
    if not path.is_file():
        print(f"{path} is not there: MYOPS_DATA names the folder of cora.npz", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", message="Sparse .*")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    title = "a graph convolutional network on Cora"
    show.show_header(console, machine.describe(), torch.get_num_threads(), title)
    data = load(path)
    trainings = {name: Training(data, *variant) for name, variant in VARIANTS.items()}
    for number in range(EPOCHS):
        for training in trainings.values():
            training.epoch(number)
    accuracies = {name: training.accuracy() for name, training in trainings.items()}
    show_table(console, trainings, accuracies)
    missed = [name for name, accuracy in accuracies.items() if not ACCURACY[0] <= accuracy <= ACCURACY[1]]
    if missed:
        console.print(f"[red]outside {ACCURACY[0]} to {ACCURACY[1]}: {', '.join(missed)}[/]")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
