"""A model dense beside replaced: what `undense flops` tells."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from undense.contract import abstract_cost, config_from_dict
from undense.convert.configs import recorded, recording
from undense.convert.convert import convert_, plan
from undense.convert.families import FAMILIES, PREFIX
from undense.errors import UndenseError
from undense.ffn.shares import dense_config
from undense.measure.whole_model import empty
from undense.pipeline.estimate import EstimateSettings, estimate


def compare(
    config: PreTrainedConfig,
    settings: EstimateSettings,
    *,
    ffn: str | None,
    targets: list[str] | None,
    exclude: list[str] | None,
    strict: bool,
) -> dict[str, Any]:
    """Figures of the model as it is and with `ffn` in place of the dense FFNs that are meant; a
    converted config stands beside the dense model that it came from.

    Raises `UndenseError` for a spec on a converted config or on a family that is not known, and
    with `strict` where an operation has no formula.
    """
    done = recorded(config)
    if done and ffn is not None:
        raise UndenseError("flops: this model is converted already; leave --ffn out")
    stock = recording(config, {}) if done else config
    replaced, described = (None, None)
    if done:
        replaced = config
    elif ffn is not None or config.model_type.removeprefix(PREFIX) in FAMILIES:
        described = plan(config, ffn or dense_config, targets=targets, exclude=exclude)
    if ffn is not None:
        model: Any = empty(config)
        convert_(model, ffn, targets=targets, exclude=exclude, keep_dense=False)
        replaced = model.config
    trees = _recorded_trees(stock, done) if done else _trees(described, replaced=ffn is not None)
    return {
        "model_type": stock.model_type,
        "ffn": "as converted" if done else ffn,
        "tokens": settings.tokens,
        "dense": _side(stock, settings, strict),
        "replaced": None if replaced is None else _side(replaced, settings, strict),
        "ffns": sum(len(kind["ffns"]) for kind in trees),
        "trees": trees,
    }


def _side(config: PreTrainedConfig, settings: EstimateSettings, strict: bool) -> dict[str, Any]:
    """The prefill's figures, as the other verbs name them, and the estimate."""
    figures = estimate(copy.deepcopy(config), settings)
    prefill = figures["workloads"]["prefill"]
    uncounted: dict[str, int] = {}
    for work in figures["workloads"].values():
        uncounted |= work["uncounted"]
    if strict and uncounted:
        raise UndenseError(
            "operations without a FLOP formula:"
            f" {', '.join(f'{op} ({calls} calls)' for op, calls in uncounted.items())}; count"
            " without --strict to get the figures of the others"
        )
    return {
        "flops": prefill["forward"],
        "flops_per_token": prefill["forward"] / prefill["rows"],
        "flops_per_sequence": prefill["forward"] / settings.batch,
        **{column: prefill[column] for column in ("analytic", "dispatched", "useful")},
        "zero_cost": prefill["zero_cost"],
        "macs": prefill["macs"],
        "macs_per_token": prefill["macs"] / prefill["rows"],
        "parameters": figures["parameters"],
        "uncounted": uncounted,
        "estimate": figures,
    }


def _trees(described: Any, *, replaced: bool) -> list[dict[str, Any]]:
    """One entry for each kind of FFN: how many there are, and its cost for one token."""
    kinds: dict[str, dict[str, Any]] = {}
    for site in described.sites if described is not None else ():
        key = f"{site.shape} {site.config}"
        if key not in kinds:
            kinds[key] = {
                "ffns": [],
                "dense": site.cost_before.to_dict(),
                "replaced": site.cost_after.to_dict() if replaced else None,
            }
        kinds[key]["ffns"].append(site.name)
    return list(kinds.values())


def _recorded_trees(
    stock: PreTrainedConfig, done: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The same for a config that records its FFNs."""
    sites = {site.name: site for site in plan(stock, dense_config).sites}
    kinds: dict[str, dict[str, Any]] = {}
    for key, values in done.items():
        site = next(site for name, site in sites.items() if name.endswith(key))
        kind = f"{site.shape} {values}"
        if kind not in kinds:
            cost = abstract_cost(site.shape.dim, config_from_dict(values))
            kinds[kind] = {
                "ffns": [],
                "dense": site.cost_before.to_dict(),
                "replaced": cost.to_dict(),
            }
        kinds[kind]["ffns"].append(site.name)
    return list(kinds.values())
