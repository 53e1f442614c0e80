"""The original proposal's cost tables beside what our components cost; figures only, no prose.

Every figure of ours comes from a component's own `cost()` at the width asked for, against the dense
FFN of GPT-2 (4 x dim, GELU). A method that no registered component does is reported as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undense.contract import abstract_cost, components
from undense.errors import UndenseError
from undense.ffn.shares import at_share, dense_config
from undense.pipeline.breakdowns import breakdown_128, dense_shape, one_token
from undense.pipeline.claim_rows import CLAIMS, Claim, Made

WIDTHS = (768, 2048, 4096, 8192)


def claims(widths: tuple[int, ...] = WIDTHS) -> list[dict[str, Any]]:
    """Every claim with ours at every width: FLOPs, MACs, and how many times less than dense."""
    return [_claim(claim, widths) for claim in CLAIMS]


def _claim(claim: Claim, widths: tuple[int, ...]) -> dict[str, Any]:
    known = claim.component in components()
    rows = [
        _row(name, make, dim, claim.less)
        for name, make in claim.settings.items()
        for dim in widths
        if known
    ]
    return {
        "table": claim.table,
        "method": claim.method,
        "claimed_times_less": list(claim.less),
        "component": claim.component,
        "missing": not known,
        "rows": rows,
        "knob": _knob(claim, 4096) if known else None,
    }


def _row(name: str, make: Made, dim: int, less: tuple[float, float | None]) -> dict[str, Any]:
    shape = dense_shape(dim)
    dense = abstract_cost(dim, dense_config(shape))
    row: dict[str, Any] = {"setting": name, "dim": dim, "dense_flops": dense.forward}
    try:
        config = make(shape)
        ours = abstract_cost(dim, config)
    except (UndenseError, TypeError) as error:  # an option that the component has not (yet)
        return row | {"unavailable": str(error)}
    times = dense.forward / ours.forward if ours.forward else None
    rounded = 0.0 if times is None else round(times, 1)
    within = less[0] <= rounded and (less[1] is None or rounded <= less[1])
    beyond = less[1] is not None and rounded > less[1]
    return row | {
        "config": config.to_dict(),
        "flops": ours.forward,
        "macs": ours.macs,
        "dense_macs": dense.macs,
        "times_less": times,
        "times_less_macs": dense.macs / ours.macs if ours.macs else None,
        "verdict": "as claimed" if within else "cheaper than claimed" if beyond else "dearer",
    }


def _knob(claim: Claim, dim: int) -> dict[str, Any]:
    """The sizing knob at both ends of the claimed range: a saving is a choice, not a finding."""
    shape = dense_shape(dim)
    ends: dict[str, Any] = {}
    for end in claim.less:
        if end is None or end <= 1:
            continue
        try:
            base = next(iter(claim.settings.values()))(shape)
            config = at_share(base, shape, 100 / end).to_dict()
            values = {k: v for k, v in config.items() if v != base.to_dict().get(k)}
            ends[f"{end:g}x"] = _changes(values, base.to_dict())
        except UndenseError as error:
            ends[f"{end:g}x"] = {"unreachable": str(error)}
    return ends


def _changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """What differs, nested configs by their own fields."""
    changed: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            changed |= {f"{key}.{k}": v for k, v in _changes(value, before).items()}
        elif value != before:
            changed[key] = value
    return changed


def proposal() -> dict[str, Any]:
    """All tables, as `undense flops --proposal` tells them."""
    return {
        "convention": "FLOPs: a multiply-add is 2; MACs: a multiply-add is 1",
        "one_token_4096": {str(keys): one_token(keys=keys) for keys in (1, 2048, 4096)},
        "breakdown_128": breakdown_128(),
        "claims": claims(),
        "widths": list(WIDTHS),
    }
