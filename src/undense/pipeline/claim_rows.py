"""The rows of the original proposal's cost tables: what it claims, and what does it here.

Nothing is counted in this file; `claims.py` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from undense.contract import Config, DenseShape
from undense.ffn.presets import fitted, resolve

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


def _spectral(share: float, name: str = "spectral") -> Made:
    def make(shape: DenseShape) -> Config:
        frequencies = (shape.dim - 1) // 2
        return fitted(name, shape).replace(k_freq=max(1, round(share * frequencies)))

    return make


def _feedback(share: float) -> Made:
    def make(shape: DenseShape) -> Config:
        settings = {"micro_keep_ratio": 1.0, "groups": 1, "rank": round(share * shape.dim)}
        return fitted("micro_feedback", shape).replace(**settings)

    return make


def _spec(name: str) -> Made:
    return lambda shape: resolve(name, shape)


_DEFAULT = "its defaults"
_DENSE = "Alternatives"
_SPARSE = "Sparse variants"
_POLYNOMIAL = {
    "degree 3, all terms": _of("polynomial", poly_degree=3, poly_keep_ratio=1.0),
    "degree 3, 30 % of the terms": _of("polynomial", poly_degree=3, poly_keep_ratio=0.3),
}
_LEARNED = {"30 % of the terms, learned": _spec("polynomial_learned")}
_TOKEN = {
    "each token's own 30 % of the channels": _spec("polynomial_topk"),
    "each token's own 12.5 %": _of("polynomial_topk", poly_keep_ratio=0.125),
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
        method="Spectral FFN, top-k frequencies learned",
        less=(10, 20),
        component="spectral_learned",
        settings={"k = 20 of 128 features": _spectral(40 / 127, "spectral_learned")},
    ),
    Claim(
        table=_SPARSE,
        method="Spectral FFN, top-k frequencies of each token",
        less=(10, 20),
        component="spectral_topk",
        settings={"k = 20 of 128 features": _spectral(40 / 127, "spectral_topk")},
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
        method="Polynomial / Chebyshev, sparse coefficients",
        less=(4, 8),
        component="polynomial_learned",
        settings=_LEARNED,
    ),
    Claim(
        table=_SPARSE,
        method="Polynomial / Chebyshev, active coefficients per token",
        less=(4, 8),
        component="polynomial_topk",
        settings=_TOKEN,
    ),
    Claim(
        table=_SPARSE,
        method="Token-feedback FFN, sparse feedback / low-rank",
        less=(3, 5),
        component="micro_feedback",
        settings={
            _DEFAULT: _spec("micro_feedback"),
            "every feature, rank d / 16": _feedback(1 / 16),
        },
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
