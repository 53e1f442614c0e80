"""The figures of one model: what it costs, how well it predicts, how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from undense.measure.language_model import count_forward, empty_model
from undense.measure.timing import interleaved

TIMED_TOKENS = (1, 16, 128, 512)


def model_flops_per_token(model: PreTrainedModel, context: int) -> float:
    """Forward FLOPs of a full block of `context` tokens, divided by them; counted without memory,
    attention at the full price of every pair of positions."""
    return count_forward(empty_model(model.config), context).dispatched / context


def forward_times(
    models: Mapping[str, PreTrainedModel],
    context: int,
    *,
    rounds: int,
    warmup: int = 3,
    threads: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Whole-model forward times by arm and number of tokens, all arms in turn in every round; more
    tokens than `context` go in as several blocks of equal length."""

    def call(model: PreTrainedModel, tokens: int) -> Callable[[], object]:
        time = max(n for n in range(1, min(tokens, context) + 1) if tokens % n == 0)
        ids = torch.randint(model.config.vocab_size, (tokens // time, time))
        return lambda: model(input_ids=ids, use_cache=False)

    return _times(
        {arm: lambda n, m=model: call(m, n) for arm, model in models.items()},
        rounds=rounds,
        warmup=warmup,
        threads=threads,
    )


def ffn_times(
    ffns: Mapping[str, nn.Module], dim: int, *, rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Forward times of one FFN by arm and number of tokens, all arms in turn in every round."""

    def call(ffn: nn.Module, tokens: int) -> Callable[[], object]:
        x = torch.randn(tokens, dim)
        return lambda: ffn(x)

    return _times(
        {arm: lambda n, f=ffn: call(f, n) for arm, ffn in ffns.items()},
        rounds=rounds,
        warmup=3,
        threads=threads,
    )


def _times(
    makers: Mapping[str, Callable[[int], Callable[[], object]]],
    *,
    rounds: int,
    warmup: int,
    threads: int | None,
) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {arm: {} for arm in makers}
    for tokens in TIMED_TOKENS:
        arms = {arm: maker(tokens) for arm, maker in makers.items()}
        with torch.no_grad():
            timings = interleaved(arms, rounds=rounds, warmup=warmup, threads=threads)
        for arm, timing in timings.items():
            result[arm][str(tokens)] = {"median": timing.median_ms, "iqr": list(timing.iqr_ms)}
    return result
