"""Families of unmodified models with seeded random weights, at any size: what the tests and the models suite run.

A family makes a model of a `Size` and calls it on inputs of its own; it knows neither myops nor a clock. Random weights
cost what trained ones do. Families from transformers and torch_geometric need those packages, and say so in `package`.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Of the inputs (batch, tokens) and of the model; graphs have batch * tokens nodes."""

    width: int
    heads: int
    layers: int
    batch: int
    tokens: int
    vocabulary: int


TINY = Size(width=16, heads=2, layers=2, batch=2, tokens=7, vocabulary=40)
MEDIUM = Size(width=256, heads=4, layers=2, batch=4, tokens=64, vocabulary=1000)


@dataclass(frozen=True)
class Family:
    """make(size) gives the model in float32, without dropout; run(model, size) its output, in the model's dtype.

    operators are the operators of the switch that a forward or a training step reaches, package what it needs.
    """

    make: Callable[[Size], nn.Module]
    run: Callable[[nn.Module, Size], Tensor]
    operators: tuple[str, ...]
    package: str | None = None


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _random(model: nn.Module, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(_dtype(model))


def _sequence(model: nn.Module, size: Size) -> Tensor:
    """Calls the model with a batch of sequences of vectors."""
    result = model(_random(model, size.batch, size.tokens, size.width))
    return result[0] if isinstance(result, tuple) else result


# Plain torch.


class Diffusers(nn.Module):
    """The attention scores of diffusers: baddbmm onto memory that nobody initialised, with beta=0."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size.width, size.width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in (self.query, self.key, self.value))
        empty = torch.full((q.shape[0], q.shape[1], k.shape[1]), float("nan"), dtype=q.dtype)
        scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=q.shape[2] ** -0.5)
        return torch.bmm(scores.softmax(-1), v)


class Masked(nn.Module):
    """nn.MultiheadAttention with a float mask and weights, which takes torch to baddbmm."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size.width, size.heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1],) * 2, float("-inf"), dtype=x.dtype).triu(1)
        return self.attention(x, x, x, attn_mask=mask, need_weights=True)[0]


class Recurrent(nn.Module):
    """A GRU cell in a Python loop; nn.GRU itself runs the same two linear layers from C++."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.cell = nn.GRUCell(size.width, size.width)
        self.gru = nn.GRU(size.width, size.width // 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states = [x.new_zeros(x.shape[0], self.cell.hidden_size)]
        for step in x.unbind(1):
            states.append(self.cell(step, states[-1]))
        return self.gru(torch.stack(states[1:], 1))[0]


class Seq2Seq(nn.Module):
    """nn.Transformer on one sequence as source and target."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        layers = max(1, size.layers // 2)
        self.inner = nn.Transformer(
            size.width, size.heads, layers, layers, 2 * size.width, dropout=0.0, batch_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x.flip(1))


PLAIN = {
    "Transformer": Family(Seq2Seq, _sequence, ("addmm", "mm")),
    "MultiheadAttention": Family(Masked, _sequence, ("addmm", "baddbmm", "bmm")),
    "GRU": Family(Recurrent, _sequence, ("addmm", "mm")),
    "diffusers": Family(Diffusers, _sequence, ("addmm", "baddbmm", "bmm")),
}


# transformers.

_QUIET = (
    "dropout", "attention_dropout", "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop", "activation_dropout",
)  # fmt: skip


def _configured(family: str, name: str, settings: dict[str, Any]) -> nn.Module:
    """A model of transformers without dropout. Eager attention: scaled_dot_product_attention has its own kernel."""
    import transformers

    configuration = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    for key in _QUIET:
        if hasattr(configuration, key):
            setattr(configuration, key, 0.0)
    model: nn.Module = getattr(transformers, name)(configuration)
    return model


def _tokens(size: Size) -> Tensor:
    return torch.arange(size.batch * size.tokens).view(size.batch, size.tokens) % size.vocabulary


def _output(result: Any) -> Tensor:
    output: Tensor = result.logits if hasattr(result, "logits") else result.last_hidden_state
    return output


def _encoder(model: nn.Module, size: Size) -> Tensor:
    return _output(model(input_ids=_tokens(size)))


def _decoder(model: nn.Module, size: Size) -> Tensor:
    return _output(model(input_ids=_tokens(size), use_cache=False))


def _both(model: nn.Module, size: Size) -> Tensor:
    return _output(model(input_ids=_tokens(size), decoder_input_ids=_tokens(size), use_cache=False))


def _image(size: Size) -> int:
    return 8 * math.isqrt(size.tokens)


def _vision(model: nn.Module, size: Size) -> Tensor:
    return _output(model(pixel_values=_random(model, size.batch, 3, _image(size), _image(size))))


def _usual(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary, "hidden_size": size.width, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "intermediate_size": 2 * size.width,
    }  # fmt: skip


def _short(size: Size) -> dict[str, Any]:
    return {"vocab_size": size.vocabulary, "n_layer": size.layers, "n_head": size.heads}


# class, its settings, how it is called, the operators that it reaches
_HUGGING_FACE: dict[str, tuple[str, Callable[[Size], dict[str, Any]], Callable[[nn.Module, Size], Tensor], str]] = {
    "Bert": ("BertModel", _usual, _encoder, "addmm bmm"),
    "GPT2": ("GPT2LMHeadModel", lambda s: {**_short(s), "n_embd": s.width}, _decoder, "addmm bmm mm"),
    "OPT": (
        "OPTForCausalLM",
        lambda s: {**_usual(s), "ffn_dim": 2 * s.width, "word_embed_proj_dim": s.width},
        _decoder,
        "addmm bmm mm",
    ),
    "Llama": ("LlamaForCausalLM", _usual, _decoder, "mm bmm"),
    "Bloom": ("BloomForCausalLM", lambda s: {**_short(s), "hidden_size": s.width}, _decoder, "addmm baddbmm mm"),
    "T5": (
        "T5ForConditionalGeneration",
        lambda s: {
            "vocab_size": s.vocabulary, "d_model": s.width, "d_kv": s.width // s.heads, "d_ff": 2 * s.width,
            "num_layers": max(1, s.layers // 2), "num_heads": s.heads,
        },
        _both,
        "mm bmm",
    ),
    "ViT": ("ViTModel", lambda s: {**_usual(s), "image_size": _image(s), "patch_size": 8}, _vision, "addmm bmm"),
    "DebertaV2": (
        "DebertaV2Model",
        lambda s: {
            **_usual(s), "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": s.tokens,
        },
        _encoder,
        "addmm bmm",
    ),
    "Mixtral": (
        "MixtralForCausalLM",
        lambda s: {
            **_usual(s), "num_key_value_heads": s.heads, "num_local_experts": 2, "num_experts_per_tok": 2,
            # torch's grouped product has no float64, in which the references are
            "experts_implementation": "eager",
        },
        _decoder,
        "mm bmm",
    ),
}  # fmt: skip


def _hugging_face(family: str) -> Family:
    name, settings, run, operators = _HUGGING_FACE[family]
    return Family(lambda size: _configured(family, name, settings(size)), run, tuple(operators.split()), "transformers")


# torch_geometric, with the graph as a native CSR matrix, which takes it to products of sparse matrices.


class Graph(nn.Module):
    """Two convolutions over one seeded random graph with self loops, about six neighbours a node."""

    crow: Tensor
    col: Tensor
    weight: Tensor

    def __init__(self, size: Size, make: Callable[[Any, int, int], nn.Module]) -> None:
        super().__init__()
        geometric = importlib.import_module("torch_geometric.nn")
        self.first, self.second = (make(geometric, size.width, size.width) for _ in range(2))
        nodes = size.batch * size.tokens
        generator = torch.Generator().manual_seed(2)
        edges = torch.rand(nodes, nodes, generator=generator) < min(0.5, 6 / nodes)
        graph = (edges | edges.T | torch.eye(nodes, dtype=torch.bool)).float().to_sparse_csr()
        for name, part in (("crow", graph.crow_indices()), ("col", graph.col_indices()), ("weight", graph.values())):
            self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.crow.shape[0] - 1
        adjacency = torch.sparse_csr_tensor(
            self.crow, self.col, self.weight.to(x.dtype), (nodes, nodes), check_invariants=False
        )
        return self.second(self.first(x, adjacency).relu(), adjacency)


def _nodes(model: nn.Module, size: Size) -> Tensor:
    result: Tensor = model(_random(model, size.batch * size.tokens, size.width))
    return result


def _gin(geometric: Any, inputs: int, outputs: int) -> nn.Module:
    layer: nn.Module = geometric.GINConv(nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU()))
    return layer


def _geometric(make: Callable[[Any, int, int], nn.Module], operators: str) -> Family:
    return Family(lambda size: Graph(size, make), _nodes, tuple(operators.split()), "torch_geometric")


GEOMETRIC = {
    "GCN": _geometric(lambda g, n, m: g.GCNConv(n, m), "mm sparse.addmm"),
    "SAGE": _geometric(lambda g, n, m: g.SAGEConv(n, m), "addmm mm sparse.mm"),
    "GIN": _geometric(_gin, "addmm sparse.addmm"),
}

FAMILIES: dict[str, Family] = {**PLAIN, **{name: _hugging_face(name) for name in _HUGGING_FACE}, **GEOMETRIC}


# Models as people run them, whatever the size asked for: prefill of 64 tokens, decode of 4 after 64, 8 sentences of 64
# tokens, a training step on 2 texts of 128.


def _gpt2(size: Size) -> nn.Module:
    return _configured("GPT2", "GPT2LMHeadModel", {})


def _prefill(model: nn.Module, size: Size) -> Tensor:
    return _decoder(model, Size(0, 0, 0, 1, 64, 1000))


_filled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def _decode(model: nn.Module, size: Size) -> Tensor:
    """Four tokens one by one after 64, whose keys and values are computed once for each model."""
    if model not in _filled:
        with torch.no_grad():
            _filled[model] = model(input_ids=_tokens(Size(0, 0, 0, 1, 64, 1000)), use_cache=True).past_key_values
    cache = copy.deepcopy(_filled[model])
    logits = [
        model(input_ids=torch.tensor([[step]]), past_key_values=cache, use_cache=True).logits[0, -1]
        for step in range(4)
    ]
    return torch.stack(logits)


_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_LLAMA = {
    "vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12,
    "intermediate_size": 2048,
}  # fmt: skip

REAL = {
    "GPT-2 124M prefill": Family(_gpt2, _prefill, ("addmm", "bmm", "mm"), "transformers"),
    "GPT-2 124M decode": Family(_gpt2, _decode, ("addmm", "bmm", "mm"), "transformers"),
    "Llama 106M prefill": Family(
        lambda size: _configured("Llama", "LlamaForCausalLM", _LLAMA), _prefill, ("mm", "bmm"), "transformers"
    ),
    "MiniLM 22M": Family(
        lambda size: _configured("Bert", "BertModel", _MINILM),
        lambda model, size: _encoder(model, Size(0, 0, 0, 8, 64, 1000)).mean(1),
        ("addmm", "bmm"),
        "transformers",
    ),
    "BERT-base": Family(
        lambda size: _configured("Bert", "BertModel", {}),
        lambda model, size: _encoder(model, Size(0, 0, 0, 2, 128, 1000)),
        ("addmm", "bmm", "mm"),
        "transformers",
    ),
}


def make(family: Family, size: Size, dtype: torch.dtype) -> nn.Module:
    """The model with its seeded weights, in `dtype`."""
    torch.manual_seed(0)
    return family.make(size).to(dtype)


def step(model: nn.Module, family: Family, size: Size) -> dict[str, Tensor]:
    """The output, and the gradient of every parameter that has one, of a training step's forward and backward."""
    model.zero_grad()
    y = family.run(model, size)
    (y if y.dtype == torch.float64 else y.float()).square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"output": y.detach(), **grads}
