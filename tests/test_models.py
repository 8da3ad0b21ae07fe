"""Families of models, unmodified, with tiny random weights: forward and a training step natively and on myops.

Outputs and gradients have to be within twice torch's own error against float64. Nothing here judges a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import myops
from myops.compile import backend

Run = Callable[[nn.Module], Tensor]


class Recipe:
    """How to make a model and its inputs; `run` gives the output that is differentiated."""

    def __init__(self, make: Callable[[], nn.Module], run: Run, operators: str) -> None:
        self.make, self.run, self.operators = make, run, operators.split()


def with_input(*shape: int, **kwargs: Any) -> Run:
    """Calls the model with one random tensor of its own dtype."""

    def run(model: nn.Module) -> Tensor:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(next(model.parameters()).dtype)
        result = model(x, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    return run


class Diffusers(nn.Module):
    """The attention scores of diffusers: baddbmm onto memory that nobody initialised, with beta=0."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (self.query, self.key, self.value))
        empty = torch.full((q.shape[0], q.shape[1], k.shape[1]), float("nan"), dtype=q.dtype)
        scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=0.25)
        return torch.bmm(scores.softmax(-1), v)


class Masked(nn.Module):
    """nn.MultiheadAttention with a float mask and weights, which takes torch to baddbmm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1],) * 2, float("-inf"), dtype=x.dtype).triu(1)
        return self.attention(x, x, x, attn_mask=mask, need_weights=True)[0]


class Recurrent(nn.Module):
    """A GRU cell in a Python loop; nn.GRU itself runs the same two linear layers from C++."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.gru = nn.GRUCell(8, 16), nn.GRU(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states = [x.new_zeros(x.shape[0], 16)]
        for step in x.unbind(1):
            states.append(self.cell(step, states[-1]))
        return self.gru(torch.stack(states[1:], 1))[0]


class Seq2Seq(nn.Module):
    """nn.Transformer on one sequence as source and target."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.flip(1))


PLAIN = {
    "Transformer": Recipe(Seq2Seq, with_input(2, 5, 16), "addmm mm"),
    "MultiheadAttention": Recipe(Masked, with_input(2, 5, 16), "addmm baddbmm bmm"),
    "GRU": Recipe(Recurrent, with_input(2, 4, 8), "addmm mm"),
    "diffusers attention": Recipe(Diffusers, with_input(2, 5, 16), "addmm baddbmm bmm"),
}

# transformers: class, configuration, what it is called with, the operators that its forward reaches.
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MLP = {"intermediate_size": 32}
EXPERTS = {"experts_implementation": "eager"}  # torch's grouped product has no float64, in which the references are
HUGGING_FACE: dict[str, tuple[str, dict[str, Any], str]] = {
    "Bert": ("BertModel", {**SMALL, **MLP}, "addmm bmm"),
    "GPT2": ("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, "addmm bmm mm"),
    "OPT": ("OPTForCausalLM", {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16}, "addmm bmm mm"),
    "Llama": ("LlamaForCausalLM", {**SMALL, **MLP}, "mm bmm"),
    "Bloom": ("BloomForCausalLM", {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2}, "addmm baddbmm mm"),
    "T5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "mm bmm",
    ),
    "ViT": ("ViTModel", {**SMALL, **MLP, "image_size": 16, "patch_size": 8}, "addmm bmm"),
    "DebertaV2": (
        "DebertaV2Model",
        {**SMALL, **MLP, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8},
        "addmm bmm",
    ),
    "Mixtral": (
        "MixtralForCausalLM",
        {**SMALL, **MLP, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 2, **EXPERTS},
        "mm bmm",
    ),
}
QUIET = ("dropout", "attention_dropout", "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")
QUIET += ("dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop", "activation_dropout")


def hugging_face(family: str) -> Recipe:
    name, settings, operators = HUGGING_FACE[family]

    def make() -> nn.Module:
        import transformers

        configuration = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
        for key in QUIET:
            if hasattr(configuration, key):
                setattr(configuration, key, 0.0)
        return getattr(transformers, name)(configuration)

    def run(model: nn.Module) -> Tensor:
        tokens = torch.arange(14).view(2, 7) % 40
        if family == "ViT":
            pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
            return model(pixel_values=pixels.to(next(model.parameters()).dtype)).last_hidden_state
        inputs = {"input_ids": tokens, **({"decoder_input_ids": tokens} if family == "T5" else {})}
        result = model(**inputs, **({} if family in ("Bert", "DebertaV2") else {"use_cache": False}))
        return result.logits if hasattr(result, "logits") else result.last_hidden_state

    return Recipe(make, run, operators)


FAMILIES = [*PLAIN, *HUGGING_FACE]


def recipe(family: str) -> Recipe:
    if family in PLAIN:
        return PLAIN[family]
    pytest.importorskip("transformers", reason="the configurations are its own")
    return hugging_face(family)


def step(model: nn.Module, run: Run) -> dict[str, Tensor]:
    """The output, and the gradient of every parameter that has one, of one training step's forward and backward."""
    model.zero_grad()
    y = run(model)
    y.float().square().mean().backward() if y.dtype != torch.float64 else y.square().mean().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"output": y.detach(), **grads}


def check(ours: dict[str, Tensor], native: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Every tensor within twice torch's own error, or one rounding of its largest value where torch has none."""
    assert ours.keys() == native.keys() == exact.keys()
    # Gradients that are zero but for rounding, such as of a bias before softmax, are judged by the whole model's scale.
    scale = max(float(t.abs().max()) for name, t in exact.items() if name != "output")
    for name, reference in exact.items():
        eps = torch.finfo(native[name].dtype).eps
        floor = eps * max(float(reference.abs().max()), 0.1 * scale if name != "output" else 0.0)
        theirs = float((native[name] - reference).abs().max())
        error = float((ours[name] - reference).abs().max())
        assert error <= 2 * theirs + floor, f"{name}: myops {error:.3g}, torch {theirs:.3g}"


def made(family: str, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor], Run]:
    """The model in `dtype` and what it gives in float64, from the same rounded weights."""
    found = recipe(family)
    torch.manual_seed(0)
    model = found.make().to(dtype).train()
    return model, step(copy.deepcopy(model).double(), found.run), found.run


@pytest.mark.parametrize("dtype_", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_training_step(family: str, dtype_: torch.dtype) -> None:
    model, exact, run = made(family, dtype_)
    native = step(model, run)
    myops.reset_stats()
    with myops.use():
        ours = step(model, run)
    check(ours, native, exact)
    counts = myops.stats()
    for name in recipe(family).operators:
        assert counts[name]["myops"] > 0, (name, counts)
    assert not any(entry["reasons"] for entry in counts.values()), counts


@pytest.mark.parametrize("family", ["diffusers attention", "GPT2", "Llama"])
def test_compiled(family: str) -> None:
    torch._dynamo.reset()
    model, exact, run = made(family, torch.float32)
    native = step(model, run)
    compiled = torch.compile(model, backend=backend)
    step(compiled, run)  # tracing calls torch's operators on fake tensors
    with torch.profiler.profile() as profiler:
        ours = {name.removeprefix("_orig_mod."): value for name, value in step(compiled, run).items()}
    check(ours, native, exact)
    names = [event.name for event in profiler.events()]
    assert any(name.startswith("myops::") for name in names)
    assert not any(name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm") for name in names)


@pytest.mark.parametrize("family", ["Transformer", "GRU", "Bert", "GPT2", "Mixtral"])
def test_swapped(family: str) -> None:
    model, exact, run = made(family, torch.float32)
    native = step(model, run)
    assert myops.nn.swap_(model).swapped or family == "GRU"
    check(step(model, run), native, exact)


@pytest.mark.parametrize("family", ["Transformer", "Bert", "OPT"])
def test_inference_mode(family: str) -> None:
    """In eval mode torch has paths of its own, in C++."""
    found = recipe(family)
    torch.manual_seed(0)
    model = found.make().eval()
    with torch.inference_mode():
        exact, native = found.run(copy.deepcopy(model).double()), found.run(model)
        myops.reset_stats()
        with myops.use():
            ours = found.run(model)
    assert (ours - exact).abs().max() <= 2 * (native - exact).abs().max() + 1e-6 * exact.abs().max()
    assert sum(entry["myops"] for entry in myops.stats().values()) > 0


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
