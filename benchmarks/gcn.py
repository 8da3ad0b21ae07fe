"""A graph convolutional network on Cora: test accuracy, and time per epoch with each kind of adjacency matrix.

    MYOPS_DATA=... python -m benchmarks.gcn          # the folder that holds cora.npz, which is no part of the product

Two layers of 16 hidden features with dropout, Adam, 200 epochs. Native COO and CSR, myops.CSR, and myops.CSR under
torch.compile(fullgraph=True), which takes no native sparse tensor. Epochs of all variants alternate, so that a busy
machine slows them all.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import scipy.sparse  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

import myops

EPOCHS = 200


def load(path: Path) -> tuple[Tensor, Tensor, Any, dict[str, Tensor]]:
    """Features, classes, the normalised adjacency with self loops (scipy), and the nodes to train and test on."""
    z = numpy.load(path)
    x = scipy.sparse.csr_matrix((z["x_data"], z["x_indices"], z["x_indptr"]), shape=tuple(z["x_shape"])).toarray()
    n = x.shape[0]
    edges = scipy.sparse.coo_matrix((numpy.ones(z["edge_index"].shape[1]), z["edge_index"]), shape=(n, n))
    graph = edges + scipy.sparse.eye(n)
    scale = scipy.sparse.diags(numpy.asarray(graph.sum(1)).ravel() ** -0.5)
    split = {name: torch.from_numpy(z[f"{name}_idx"]).long() for name in ("train", "test")}
    features = torch.from_numpy(x / x.sum(1, keepdims=True).clip(1)).float()
    return features, torch.from_numpy(z["y"]), (scale @ graph @ scale).tocsr().astype("float32"), split


class Training:
    """One network with an adjacency matrix of some kind."""

    def __init__(self, adjacency: Any, product: Callable[[Any, Tensor], Tensor], data: Any, compiled: bool) -> None:
        self.x, self.y, _, self.split = data
        self.adjacency = adjacency
        torch.manual_seed(1)
        first, second = nn.Linear(self.x.shape[1], 16, bias=False), nn.Linear(16, 7, bias=False)
        self.optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.01, weight_decay=5e-4)
        drop = nn.functional.dropout

        def forward(a: Any, x: Tensor, training: bool) -> Tensor:
            hidden = product(a, first(drop(x, 0.5, training))).relu()
            return product(a, second(drop(hidden, 0.5, training)))

        self.forward = torch.compile(forward, fullgraph=True) if compiled else forward
        self.seconds: list[float] = []

    def epoch(self) -> None:
        started = time.perf_counter()
        self.optimizer.zero_grad()
        train = self.split["train"]
        nn.functional.cross_entropy(self.forward(self.adjacency, self.x, True)[train], self.y[train]).backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)

    def accuracy(self) -> float:
        with torch.no_grad():
            found = self.forward(self.adjacency, self.x, False).argmax(1)
        return (found == self.y)[self.split["test"]].float().mean().item()


def main() -> int:
    """Train all variants and print a table."""
    path = Path(os.environ.get("MYOPS_DATA", ".")) / "cora.npz"
    if not path.is_file():
        print(f"{path} is not there: MYOPS_DATA names the folder of cora.npz")
        return 1
    warnings.filterwarnings("ignore", message="Sparse .*")
    data = load(path)
    ours = myops.CSR.from_scipy(data[2])
    native = ours.to_torch()
    variants = {
        "native COO": Training(native.to_sparse_coo().coalesce(), torch.sparse.mm, data, False),
        "native CSR": Training(native, torch.sparse.mm, data, False),
        "myops.CSR": Training(ours, torch.matmul, data, False),
        "myops.CSR, compiled": Training(ours, torch.matmul, data, True),
    }
    for _ in range(EPOCHS):
        for variant in variants.values():
            variant.epoch()
    print(f"torch {torch.__version__}, myops {myops.__version__} ({myops.isa()}), {torch.get_num_threads()} threads")
    for name, variant in variants.items():
        median = statistics.median(variant.seconds[5:]) * 1e3  # the first ones compile
        print(f"{name:20} {median:7.2f} ms an epoch, test accuracy {variant.accuracy():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
