"""`estimate`: what a model could gain on this machine with other FFNs, before anything is trained.

A few blocks of the model with random weights are enough: they are timed dense, without FFNs, and
with each kind of FFN, all in turn. The whole model is as many of them as it has layers, and its
head. Nothing of the model is read but its config.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, DynamicCache, PreTrainedConfig, PreTrainedModel

import undense.ffn  # noqa: F401  (registers the components)
from undense.convert.sites import find_sites
from undense.errors import UndenseError
from undense.measure.ffn_arms import TORCH_DTYPES
from undense.measure.oracle import check
from undense.measure.ratios import amdahl
from undense.measure.rotation import free_memory, last_level_cache
from undense.measure.timing import SAMPLE_SECONDS, Timing, environment, interleaved, seconds_of
from undense.pipeline.bench_settings import CeilingSettings
from undense.pipeline.model_arms import DENSE, NO_FFN, ffn_of, timed_config, with_ffn

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
HEAD = "head"
LAYERS = "num_hidden_layers"
# More rows of the head than this are not held in memory: its time grows with them in proportion.
HEAD_ROWS = 32_768
# The blocks' own vocabulary, which plays no part: they are given embeddings.
VOCABULARY = 64
MEMORY_SHARE = 0.5
# So many times the last-level cache, so that a block's weights are not found there.
SPANNED = 2


def ceiling(settings: CeilingSettings) -> dict[str, Any]:
    """Figures by number of tokens, each with a verdict; plain JSON values.

    Raises `UndenseError` for a model whose config or family is not known, or whose width no arm
    fits.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    config: Any = timed_config(settings.model)
    layers: int = getattr(config, LAYERS)
    possible, too_long = _lengths(config, settings)
    arms, left_out = _arms(config, settings)
    left_out |= too_long
    held = len(find_sites(arms[DENSE]))
    heads = _head(config, settings)
    by_tokens = {}
    for tokens in possible:
        right, wrong = _right(arms, tokens)
        calls = {name: _call(model, tokens, settings) for name, model in right.items()}
        calls[HEAD] = _on_one_row(heads[0])
        once = sum(max(seconds_of(call), SAMPLE_SECONDS) for call in calls.values())
        fits = int(settings.seconds / len(possible) / once)
        rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, fits))
        with torch.no_grad():
            times = interleaved(calls, rounds=rounds, warmup=1)
        scale: dict[str, float] = {**dict.fromkeys(calls, layers / held), HEAD: heads[1]}
        figures = whole(times, scale)
        by_tokens[str(tokens)] = figures | verdict(figures, settings.worth) | {"rounds": rounds}
        left_out |= wrong
    site = find_sites(arms[DENSE])[0].shape
    return {
        "model": settings.model,
        "model_type": config.model_type,
        "layers": layers,
        "layers_timed": held,
        "width": site.dim,
        "hidden": site.hidden,
        "dtype": settings.dtype,
        "past": settings.past,
        "worth": settings.worth,
        "environment": environment(),
        "tokens": by_tokens,
        "left_out": left_out,
    }


def whole(times: Mapping[str, Timing], scale: Mapping[str, float]) -> dict[str, Any]:
    """The whole model from its pieces: blocks times their number, and the head.

    `ffn_time_share`: of the dense model's time; `ceiling`: the speed-up if they took none;
    `speedup`, `ffn_speedup` by arm: of the whole model, and of its FFNs alone.
    """
    parts = {name: times[name].median_ms * scale[name] for name in times}
    head = parts.pop(HEAD)
    dense, bare = (parts[DENSE] + head, parts[NO_FFN] + head)
    share = max(0.0, 1 - bare / dense)
    arms = {}
    for name, blocks in parts.items():
        if name in (DENSE, NO_FFN):
            continue
        ffns = blocks - parts[NO_FFN]
        arms[name] = {
            "milliseconds": blocks + head,
            "speedup": dense / (blocks + head),
            "ffn_speedup": (parts[DENSE] - parts[NO_FFN]) / ffns if ffns > 0 else None,
        }
    return {
        "milliseconds": dense,
        "ffn_time_share": share,
        "ceiling": amdahl(share, 0.0),
        "arms": arms,
    }


def verdict(figures: Mapping[str, Any], worth: float) -> dict[str, Any]:
    """Go where an arm makes the whole model at least `worth` times as fast, and which. A narrow
    dense FFN is what the arms are held against: it is named beside, and makes no go."""
    candidates = {n: a["speedup"] for n, a in figures["arms"].items() if not n.startswith("narrow")}
    best = max(candidates, key=lambda name: candidates[name], default=None)
    go = best is not None and candidates[best] >= worth
    return {"verdict": "go" if go else "no-go", "best": best}


def _lengths(config: Any, settings: CeilingSettings) -> tuple[list[int], dict[str, str]]:
    """The numbers of tokens that the model has positions for, and why the others are left out."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return list(settings.tokens), {}
    reason = f"with {settings.past} tokens in the cache they exceed the model's {limit} positions"
    over = [tokens for tokens in settings.tokens if settings.past + tokens > limit]
    if len(over) == len(settings.tokens):
        listed = ", ".join(map(str, over))
        raise UndenseError(f"estimate: tokens={listed}: {reason}; give less --past or --tokens")
    left_out = {f"{tokens} tokens": reason for tokens in over}
    return [tokens for tokens in settings.tokens if tokens not in over], left_out


def _arms(
    config: PreTrainedConfig, settings: CeilingSettings
) -> tuple[dict[str, PreTrainedModel], dict[str, str]]:
    """A few layers of the model, dense, with each spec and without FFNs; and why some are not
    there."""
    base = _blocks(config, _layers_held(config, settings), settings)
    arms = {DENSE: base}
    left_out = {}
    for spec in (*settings.arms, NO_FFN):
        try:
            arms[spec] = with_ffn(base, spec, settings.seed)
        except UndenseError as error:
            left_out[spec] = str(error)
    if set(arms) <= {DENSE, NO_FFN}:
        raise UndenseError(next(iter(left_out.values())))
    return arms, left_out


def _blocks(config: PreTrainedConfig, layers: int, settings: CeilingSettings) -> PreTrainedModel:
    """So many layers of the model, without its vocabulary, random weights."""
    torch.manual_seed(settings.seed)
    model = AutoModel.from_config(_shortened(config, layers))
    return model.to(TORCH_DTYPES[settings.dtype]).eval()


def _shortened(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    short: Any = copy.deepcopy(config)
    short.num_hidden_layers = layers
    if getattr(short, "layer_types", None):
        short.layer_types = short.layer_types[:layers]
    short.vocab_size = VOCABULARY
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(short, name, None)
    return short


def _layers_held(config: Any, settings: CeilingSettings) -> int:
    """Layers that are built: enough to span the last-level cache, no more than memory allows."""
    with torch.device("meta"):
        one = AutoModel.from_config(_shortened(config, 1))
        two = AutoModel.from_config(_shortened(config, 2))
    numbers = sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters())
    size = numbers * TORCH_DTYPES[settings.dtype].itemsize
    wanted = -(-SPANNED * (last_level_cache() or 0) // size)
    memory = free_memory()
    most = wanted if memory is None else int(MEMORY_SHARE * memory / (size * len(settings.arms)))
    return max(1, min(config.num_hidden_layers, wanted, most))


def _head(config: Any, settings: CeilingSettings) -> tuple[nn.Module, float]:
    """The map to the vocabulary, or as many of its rows as are held; how often it must be taken."""
    rows = min(config.vocab_size, HEAD_ROWS)
    head = nn.Linear(config.hidden_size, rows, bias=False, dtype=TORCH_DTYPES[settings.dtype])
    return head, config.vocab_size / rows


def _on_one_row(head: nn.Module) -> Callable[[], object]:
    """Only the last token's logits are needed, in prefill as in decoding."""
    weight = next(head.parameters())
    row = torch.randn(1, weight.shape[1]).to(weight.dtype)
    return lambda: head(row)


def _right(
    arms: Mapping[str, PreTrainedModel], tokens: int
) -> tuple[dict[str, PreTrainedModel], dict[str, str]]:
    """The arms whose FFN is right for so many tokens, and what is wrong with the others."""
    right, wrong = (dict(arms), {})
    for name, model in arms.items():
        if name == DENSE:
            continue
        ffn = ffn_of(model)
        x = torch.randn(1, tokens, ffn.dim).to(model.dtype)
        if not check(ffn, x, training=False).ok:
            wrong[name] = f"differs from its fp64 reference at {tokens} tokens; not timed"
            del right[name]
    return right, wrong


def _call(model: Any, tokens: int, settings: CeilingSettings) -> Callable[[], object]:
    """A forward pass of the blocks over new tokens after those in the cache."""
    width = model.config.hidden_size
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        if settings.past:
            seen = torch.randn(1, settings.past, width).to(model.dtype)
            model(inputs_embeds=seen, past_key_values=cache, use_cache=True)
    new = torch.randn(1, tokens, width).to(model.dtype)

    def call() -> object:
        with torch.no_grad():
            y = model(inputs_embeds=new, past_key_values=cache, use_cache=True)
            cache.crop(-tokens)
        return y.last_hidden_state

    return call
