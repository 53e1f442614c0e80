"""What a model costs in use and in training: counted as dispatched, and by formula beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PreTrainedConfig

from undense.contract import Config, abstract_cost, config_from_dict
from undense.convert.configs import recorded
from undense.convert.families import family
from undense.cost import Cost
from undense.errors import UndenseError
from undense.measure.decoder import Decoder, FFNCost, Workload, causal_pairs, decoder_cost
from undense.measure.decoder_configs import decoder_of
from undense.measure.whole_model import count_workload, decodes, empty, places

CACHE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class EstimateSettings:
    """What is asked: `tokens` in a sequence, `past` tokens in the cache when one is decoded."""

    batch: int = 1
    tokens: int = 256
    past: int = 256
    cache: str = "bf16"

    def __post_init__(self) -> None:
        if self.cache not in CACHE_BYTES:
            known = ", ".join(CACHE_BYTES)
            raise UndenseError(f"flops: cache={self.cache!r} must be one of {known}")
        for name, least in (("batch", 1), ("tokens", 1), ("past", 0)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise UndenseError(f"flops: {name}={value} must be at least {least}")

    def workloads(self) -> dict[str, Workload]:
        """Prefill of a sequence, one token after `past`, a training step."""
        return {
            "prefill": Workload(batch=self.batch, tokens=self.tokens),
            "decode": Workload(batch=self.batch, tokens=1, past=self.past),
            "training": Workload(batch=self.batch, tokens=self.tokens, labels=True),
        }


def estimate(config: PreTrainedConfig, settings: EstimateSettings) -> dict[str, Any]:
    """Figures of every workload, sizes and the cache; plain JSON values.

    `formula` is None for a family without one; elsewhere `agree` says whether it equals what was
    counted in forward, backward and MACs, to the integer.
    """
    model = empty(config)
    decoder = _decoder(config)
    works = settings.workloads()
    if not decodes(model):
        works.pop("decode")
    workloads = {name: _figures(model, decoder, work) for name, work in works.items()}
    return {
        "model_class": type(model).__name__,
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters_by_formula": decoder and decoder_cost(decoder, Workload(tokens=1)).weights,
        "workloads": workloads,
        "kv_cache": _cache(workloads["decode"], decoder, settings) if "decode" in works else None,
    }


def _cache(
    decode: dict[str, Any], decoder: Decoder | None, settings: EstimateSettings
) -> dict[str, Any]:
    """Size of the cache once the new token is in it, all sequences, read off the cache itself."""
    tokens = settings.past + 1
    formula = None if decoder is None else settings.batch * decoder.kv_cache_numbers(tokens)
    size = CACHE_BYTES[settings.cache] * decode["cached"]
    return {
        "tokens": tokens,
        "type": settings.cache,
        "numbers": decode["cached"],
        "numbers_by_formula": formula,
        "bytes": size,
        "bytes_per_token": size / (settings.batch * tokens),
    }


def _figures(model: Any, decoder: Decoder | None, work: Workload) -> dict[str, Any]:
    counted = count_workload(model, work)
    count = counted.count
    formula = None if decoder is None else decoder_cost(decoder, work)
    agree = None
    if formula is not None:
        by_formula = (formula.forward, formula.backward if work.labels else 0, formula.macs)
        agree = by_formula == (count.forward, count.backward, count.macs)
    full, past_only = causal_pairs(work)
    return {
        **asdict(work),
        "rows": work.rows,
        "forward": count.forward,
        "backward": count.backward,
        "macs": count.macs,
        "analytic": count.analytic,
        "dispatched": count.dispatched,
        "useful": count.useful,
        "flops_per_token": (count.forward + count.backward) / work.rows,
        "cached": counted.cached,
        "formula": None if formula is None else formula.to_dict(),
        "agree": agree,
        "attention_pairs": {"full_square": full, "causal": past_only},
        "places": [asdict(place) for place in places(count.tree)],
        "uncounted": count.uncounted,
        "zero_cost": count.zero_cost,
    }


def _decoder(config: PreTrainedConfig) -> Decoder | None:
    """The decoder of a config, with the FFNs that a converted one records in their places."""
    decoder = decoder_of(config)
    ffns = recorded(config)
    if decoder is None or not ffns:
        return decoder
    costs = list(decoder.ffns)
    for key, values in ffns.items():
        layer = family(config.model_type).layer(key)
        assert layer is not None, key
        costs[layer] = _component(decoder.dim, config_from_dict(values))
    return replace(decoder, ffns=tuple(costs))


def _component(dim: int, config: Config) -> FFNCost:
    def ffn(tokens: int) -> Cost:
        return abstract_cost(dim, config, tokens)

    return ffn
