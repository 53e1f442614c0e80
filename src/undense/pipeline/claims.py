"""The original proposal's cost tables beside what our components cost; figures only, no prose.

Every figure of ours comes from a component's own `cost()` at the width asked for, against the dense
FFN of GPT-2 (4 x dim, GELU). A method that no registered component does is reported as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from undense.contract import Config, DenseShape, abstract_cost, components, config_from_dict
from undense.errors import UndenseError
from undense.ffn.presets import at_share, dense_config, fitted, resolve
from undense.pipeline.breakdowns import breakdown_128, dense_shape, one_token

WIDTHS = (768, 2048, 4096, 8192)
Made = Callable[[DenseShape], Config]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of a table of the proposal: "`less`[0] to `less`[1] times less" (no upper end: None).

    `component`: what does it here. `settings`: how it is set, by the words of the proposal.
    """

    table: str
    method: str
    less: tuple[float, float | None]
    component: str
    settings: Mapping[str, Made]


def _of(name: str, **values: Any) -> Made:
    return lambda shape: fitted(name, shape).replace(**values)


def _spectral(share: float) -> Made:
    def make(shape: DenseShape) -> Config:
        frequencies = (shape.dim - 1) // 2
        return fitted("spectral", shape).replace(k_freq=max(1, round(share * frequencies)))

    return make


def _from(values: Mapping[str, Any]) -> Made:
    return lambda shape: config_from_dict(values)


def _spec(name: str) -> Made:
    return lambda shape: resolve(name, shape)


_DEFAULT = "its defaults"
_DENSE = "Alternatives"
_SPARSE = "Sparse variants"
_POLYNOMIAL = {
    "degree 3, all terms": _of("polynomial", poly_degree=3, poly_keep_ratio=1.0),
    "degree 3, 30 % of the terms": _of("polynomial", poly_degree=3, poly_keep_ratio=0.3),
}
_FACTORS = {
    "block-diagonal, 4 blocks": _of("tensor_factor", blocks=4),
    "Monarch, 4 blocks": _of("tensor_factor", factor="monarch", blocks=4),
    "Kronecker": _of("tensor_factor", factor="kronecker"),
}

CLAIMS: tuple[Claim, ...] = (
    Claim(
        table=_DENSE,
        method="Fourier / Spectral",
        less=(3, 10),
        component="spectral",
        settings={"every frequency": _spectral(1.0)},
    ),
    Claim(
        table=_DENSE,
        method="Polynomial Expansion",
        less=(4, 8),
        component="polynomial",
        settings=_POLYNOMIAL,
    ),
    Claim(
        table=_DENSE,
        method="Sparse Random Projections",
        less=(2, 5),
        component="random_projection",
        settings={_DEFAULT: _spec("random_projection")},
    ),
    Claim(
        table=_DENSE,
        method="Self-Conditioned / Token Feedback",
        less=(3, 4),
        component="token_feedback",
        settings={_DEFAULT: _spec("token_feedback")},
    ),
    Claim(
        table=_DENSE,
        method="Tensor Factorization",
        less=(4, 10),
        component="tensor_factor",
        settings=_FACTORS,
    ),
    Claim(
        table=_SPARSE,
        method="Spectral FFN, top-k frequencies",
        less=(10, 20),
        component="spectral",
        settings={
            "k = 20 of 128 features": _spectral(40 / 127),
            "k = d / 64": _spectral(2 / 64),
        },
    ),
    Claim(
        table=_SPARSE,
        method="Polynomial / Chebyshev, sparse coefficients",
        less=(4, 8),
        component="polynomial",
        settings=_POLYNOMIAL,
    ),
    Claim(
        table=_SPARSE,
        method="Token-feedback FFN, sparse feedback / low-rank",
        less=(3, 5),
        component="micro_refine",
        settings={
            "4 steps on every feature": _of("micro_refine", micro_steps=4, micro_keep_ratio=1.0),
            _DEFAULT: _spec("micro_refine"),
        },
    ),
    Claim(
        table=_SPARSE,
        method="Tensor FFN, sparse factor matrices",
        less=(4, 10),
        component="tensor_factor",
        settings=_FACTORS,
    ),
    Claim(
        table=_SPARSE,
        method="All four combined, large embeddings (~4k)",
        less=(20, None),
        component="ultra",
        settings={
            "the proposal's own parts (`seed`)": _spec("seed"),
            "its defaults (`ultra`)": _spec("ultra"),
            "all four stages at 5 % (`ultra-all-5`)": _spec("ultra-all-5"),
        },
    ),
    Claim(
        table="Not in the proposal",
        method="Token-chosen blocks of neurons",
        less=(1, None),
        component="block_topk",
        settings={_DEFAULT: _spec("block_topk")},
    ),
)


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
