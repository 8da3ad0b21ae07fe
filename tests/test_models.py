"""Families of models, unmodified, with tiny random weights: forward and a training step natively and on myops.

Outputs and gradients have to be within twice torch's own error against float64. Nothing here judges a time.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import myops
from myops.bench.families import FAMILIES, TINY, Family, make, step
from myops.compile import backend

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")


def family_of(name: str) -> Family:
    found = FAMILIES[name]
    if found.package is not None:
        pytest.importorskip(found.package, reason="the model is its own")
    return found


def check(ours: dict[str, Tensor], native: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Every tensor within twice torch's own error, or one rounding of its largest value where torch has none."""
    assert ours.keys() == native.keys() == exact.keys()
    # Gradients that are zero but for rounding, such as of a bias before softmax, are judged by the whole model's scale.
    scale = max((float(t.abs().max()) for name, t in exact.items() if name != "output"), default=0.0)
    for name, reference in exact.items():
        eps = torch.finfo(ours[name].dtype).eps
        floor = eps * max(float(reference.abs().max()), 0.1 * scale if name != "output" else 0.0)
        theirs = float((native[name] - reference).abs().max())
        error = float((ours[name] - reference).abs().max())
        # Where torch has not one digit right the error is one draw of noise (0.6 to 4.5 times torch's over 16 seeds):
        # the mean square of what ViT ends with, a layernorm, depends on nothing before it.
        factor = 2 if theirs < float(reference.abs().max()) else 8
        assert error <= factor * theirs + floor, f"{name}: myops {error:.3g}, torch {theirs:.3g}"


def made(name: str, dtype: torch.dtype) -> tuple[Family, nn.Module, dict[str, Tensor]]:
    """The family, its model in `dtype`, and what that gives in float64, from the same rounded weights."""
    family = family_of(name)
    model = make(family, TINY, dtype).train()
    return family, model, step(copy.deepcopy(model).double(), family, TINY)


@pytest.mark.parametrize("dtype_", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_forward_and_training_step(name: str, dtype_: torch.dtype) -> None:
    family, model, exact = made(name, dtype_)
    try:
        native = step(model, family, TINY)
    except NotImplementedError:  # torch multiplies no CSR matrix of 16-bit floats; the output is judged by its rounding
        assert family.package == "torch_geometric"
        exact = {"output": exact["output"]}
        native = {"output": exact["output"] + 4 * torch.finfo(dtype_).eps * exact["output"].abs().max()}
    myops.reset_stats()
    with myops.use():
        ours = step(model, family, TINY)
    check({key: ours[key] for key in native}, native, exact)
    counts = myops.stats()
    for operator in family.operators:
        assert counts[operator]["myops"] > 0, (operator, counts)
    assert not any(entry["reasons"] for entry in counts.values()), counts


@pytest.mark.parametrize("name", ["diffusers", "GPT2", "Llama"])
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    family, model, exact = made(name, torch.float32)
    native = step(model, family, TINY)
    compiled = torch.compile(model, backend=backend)
    step(compiled, family, TINY)  # tracing calls torch's operators on fake tensors
    with torch.profiler.profile() as profiler:
        ours = {key.removeprefix("_orig_mod."): value for key, value in step(compiled, family, TINY).items()}
    check(ours, native, exact)
    names = [event.name for event in profiler.events()]
    assert any(event.startswith("myops::") for event in names)
    assert not any(event in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm") for event in names)


@pytest.mark.parametrize("name", ["Transformer", "GRU", "Bert", "GPT2", "Mixtral"])
def test_swapped(name: str) -> None:
    family, model, exact = made(name, torch.float32)
    native = step(model, family, TINY)
    assert myops.nn.swap_(model).swapped or name == "GRU"
    check(step(model, family, TINY), native, exact)


@pytest.mark.parametrize("name", ["Transformer", "Bert", "OPT"])
def test_inference_mode(name: str) -> None:
    """In eval mode torch has paths of its own, in C++."""
    family = family_of(name)
    model = make(family, TINY, torch.float32).eval()
    with torch.inference_mode():
        exact, native = family.run(copy.deepcopy(model).double(), TINY), family.run(model, TINY)
        myops.reset_stats()
        with myops.use():
            ours = family.run(model, TINY)
    assert (ours - exact).abs().max() <= 2 * (native - exact).abs().max() + 1e-6 * exact.abs().max()
    assert sum(entry["myops"] for entry in myops.stats().values()) > 0


@pytest.mark.parametrize("name", ["GCN", "SAGE", "GIN"])
def test_graph_convolutions_stay_unmodified(name: str) -> None:
    """torch_geometric's own layers on a native CSR matrix; its products, forward and backward, all reach myops."""
    family, model, exact = made(name, torch.float32)
    native = step(model, family, TINY)
    myops.reset_stats()
    with myops.use(strict=True):
        ours = step(model, family, TINY)
    check(ours, native, exact)
    sparse = sum(entry["myops"] for key, entry in myops.stats().items() if key.startswith("sparse."))
    assert sparse >= 3  # two forward, and the first layer's output's gradient


@pytest.mark.parametrize("precision", ["float32", "bfloat16 autocast", "float16"])
def test_training_reaches_the_same_accuracy(precision: str) -> None:
    """The handwritten digits of scikit-learn, a small network and a few epochs."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the data set comes with scikit-learn")
    data = datasets.load_digits()
    pixels = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    dtype = torch.float16 if precision == "float16" else torch.float32

    def accuracy() -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        x = pixels.to(dtype)
        for _ in range(15):
            for batch in range(0, 1500, 50):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled="autocast" in precision):
                    y = model(x[batch : batch + 50])
                nn.functional.cross_entropy(y.float(), labels[batch : batch + 50]).backward()
                optimizer.step()
        return float((model(x[1500:]).argmax(1) == labels[1500:]).float().mean())

    native = accuracy()
    with myops.use(strict=True):
        ours = accuracy()
    assert native > 0.85
    assert abs(ours - native) <= 0.02
