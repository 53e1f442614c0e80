"""The composition: its knobs, its gates, its starts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from undense.contract import (
    DenseFFN,
    Statistics,
    build,
    components,
    config_from_dict,
    from_dense,
)
from undense.errors import UndenseError
from undense.ffn import (
    Dense,
    MicroFeedback,
    Projection,
    RandomProjection,
    SparseMicroRefine,
    SparsePolynomial,
    SparseSpectral,
    TensorFactor,
    TokenPolynomial,
    TokenSpectral,
    UltraEfficientSparseFFN,
)
from undense.measure.flops import count_flops

Config = UltraEfficientSparseFFN.Config
STAGES = ("spectral", "polynomial", "micro", "projection")

VARIANTS = [
    Config(spectral=None, micro=None, norm_in=False),
    Config(polynomial=None, projection=None, norm_out=False),
    Config(spectral=None, polynomial=None, micro=None, norm_in=False, norm_out=False),
]


def test_the_short_form_has_four_stages_and_both_norms() -> None:
    ffn = UltraEfficientSparseFFN(d=96)
    assert list(ffn.stages) == ["spectral", "polynomial", "micro", "projection"]
    assert ffn.norm_in is not None and ffn.norm_out is not None
    assert ffn(torch.randn(2, 3, 96)).shape == (2, 3, 96)


def test_the_default_width_is_768() -> None:
    assert UltraEfficientSparseFFN().dim == 768


def test_knobs_reach_the_stages() -> None:
    ffn = UltraEfficientSparseFFN(
        d=96,
        k_freq=5,
        poly_degree=2,
        poly_keep_ratio=0.125,
        micro_steps=3,
        micro_keep_ratio=0.5,
        dropout=0.25,
    )
    spectral, polynomial, micro = (ffn.stages[n] for n in ("spectral", "polynomial", "micro"))
    assert isinstance(spectral, SparseSpectral) and spectral.config.k_freq == 5
    assert isinstance(polynomial, SparsePolynomial) and polynomial.terms == 2 * 12
    assert isinstance(micro, SparseMicroRefine) and micro.features == 48
    assert ffn.config.dropout == 0.25


def test_a_knob_of_a_missing_stage_is_refused() -> None:
    with pytest.raises(UndenseError, match=r"k_freq.*spectral stage is None"):
        UltraEfficientSparseFFN(96, Config(spectral=None), k_freq=5)


def test_no_stage_at_all_is_refused() -> None:
    with pytest.raises(UndenseError, match="all four stages are None"):
        Config(spectral=None, polynomial=None, micro=None, projection=None)


@pytest.mark.parametrize("stage", ["spectral", "polynomial", "micro", "projection"])
def test_a_stage_whose_gate_is_zero_adds_nothing(stage: str) -> None:
    ffn = UltraEfficientSparseFFN(96, Config(norm_out=False)).double()
    x = torch.randn(7, 96, dtype=torch.float64)
    ffn.gates[stage].data.zero_()
    without = UltraEfficientSparseFFN(96, Config(norm_out=False, **{stage: None})).double()
    kept = {k: v for k, v in ffn.state_dict().items() if stage not in k.split(".")}
    without.load_state_dict(kept)
    assert torch.allclose(ffn(x), without(x), atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    ffn = UltraEfficientSparseFFN(d=96, dropout=0.5)
    x = torch.randn(64, 96)
    assert ffn.train()(x).eq(0).float().mean() > 0.3
    assert ffn.eval()(x).eq(0).float().mean() < 0.01


def _dense(dim: int) -> DenseFFN:
    return DenseFFN(
        up=torch.randn(4 * dim, dim) * dim**-0.5,
        up_bias=torch.randn(4 * dim) * 0.1,
        down=torch.randn(dim, 4 * dim) * (4 * dim) ** -0.5,
        down_bias=torch.zeros(dim),
        activation="gelu_tanh",
    )


def _error(ffn: UltraEfficientSparseFFN, dense: DenseFFN, rows: torch.Tensor) -> float:
    wanted = dense(rows)
    spread = (wanted - wanted.mean(0)).square().sum()
    return float((ffn(rows).detach() - wanted).square().sum() / spread)


def test_every_added_stage_improves_the_closed_form_start() -> None:
    """Backfitting: the projection alone is never better than with a stage fitted to its rest."""
    torch.manual_seed(1)
    dim = 48
    dense = _dense(dim)
    rows = torch.randn(4096, dim) @ (torch.randn(dim, dim) * 0.2)
    narrow = Dense.Config(hidden=32)
    plain = {"micro": None, "norm_in": False, "norm_out": False, "projection": narrow}
    alone = Config(spectral=None, polynomial=None, **plain)
    eigen = Config(
        spectral=SparseSpectral.Config(k_freq=8, basis="eigen"), polynomial=None, **plain
    )
    errors = [
        _error(from_dense(dense, config, Statistics(inputs=rows)), dense, rows)  # type: ignore[arg-type]
        for config in (alone, eigen)
    ]
    assert errors[1] < errors[0]


def test_stages_that_would_hurt_start_closed() -> None:
    """On fewer rows than features an added stage only learns noise: what is left is exactly the
    projection fitted alone on the rows that are not held back."""
    dim = 48
    dense = _dense(dim)
    rows = torch.randn(24, dim)
    narrow = Dense.Config(hidden=32)
    config = Config(
        spectral=None, micro=None, norm_in=False, norm_out=False, projection=narrow,
        polynomial=SparsePolynomial.Config(poly_keep_ratio=1.0),
    )  # fmt: skip
    ffn = from_dense(dense, config, Statistics(inputs=rows))
    assert isinstance(ffn, UltraEfficientSparseFFN)
    assert {name: gate.item() for name, gate in ffn.gates.items()} == {
        "polynomial": 0.0,
        "projection": 1.0,
    }
    seen = rows[torch.arange(len(rows)) % 8 != 7]
    alone = from_dense(dense, narrow, Statistics(inputs=seen))
    assert torch.equal(ffn(rows), alone(rows))


def test_the_start_survives_both_norms() -> None:
    dim = 48
    dense = _dense(dim)
    rows = torch.randn(2048, dim)
    config = Config(
        spectral=None, polynomial=None, micro=None, projection=Dense.Config(hidden=4 * dim)
    )
    ffn = from_dense(dense, config, Statistics(inputs=rows))
    assert isinstance(ffn, UltraEfficientSparseFFN)
    assert _error(ffn, dense, rows) < 0.1


# The rows of the original proposal's table of mixtures, "method: sparsity option", each by itself.
ROWS: dict[str, dict[str, Any]] = {
    "spectral FFN: top-k frequency coefficients": {"spectral": SparseSpectral.Config(k_freq=6)},
    "spectral FFN: each token's top-k": {"spectral": TokenSpectral.Config(k_freq=6)},
    "polynomial: sparse coefficients": {"polynomial": SparsePolynomial.Config(poly_keep_ratio=0.1)},
    "polynomial: active coefficients per token": {
        "polynomial": TokenPolynomial.Config(poly_keep_ratio=0.1)
    },
    "token feedback: selected features": {"micro": SparseMicroRefine.Config(micro_keep_ratio=0.25)},
    "token feedback: low-rank": {"micro": MicroFeedback.Config(rank=4)},
    "tensor FFN: sparse factor matrices": {
        "projection": TensorFactor.Config(factor="kronecker+low_rank", rank=4, terms=2, keep=0.25)
    },
    "sparse random projections": {"projection": RandomProjection.Config(rank=4)},
}
FIXED = (0, 2, 4, 6)  # one row of each stage, chosen once for all tokens
CHOSEN = (1, 3, 5, 6)  # and with what each token chooses or feeds back for itself
WORKFLOWS = [
    {stage: child for row in rows for stage, child in list(ROWS.values())[row].items()}
    for rows in (FIXED, CHOSEN)
]


@pytest.mark.parametrize(
    "children", [*ROWS.values(), *WORKFLOWS], ids=[*ROWS, "all four in turn", "token by token"]
)
def test_every_row_of_the_table_of_mixtures_can_be_described(children: dict[str, Any]) -> None:
    """Built from JSON, run, counted both ways to the integer, started from dense weights."""
    config = Config(**dict.fromkeys(STAGES, None) | children)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    dense, rows = _dense(48), torch.randn(1024, 48)
    ffn = from_dense(dense, config, Statistics(inputs=rows))
    assert isinstance(ffn, UltraEfficientSparseFFN)
    assert list(ffn.stages) == [stage for stage in STAGES if stage in children]
    assert _error(ffn, dense, rows) < 1.0, "no closer than a constant"
    x = torch.randn(2, 3, 48, requires_grad=True)
    count = count_flops(lambda: ffn(x), backward=True, strict=True)
    cost = ffn.cost(6)
    assert (count.forward, count.backward) == (cost.forward, cost.backward)


@pytest.mark.parametrize("name", [n for n in components() if n != "none"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_takes_every_component(stage: str, name: str) -> None:
    """Beside a linear projection (or, as the projection, beside the default micro-steps)."""
    child = config_from_dict({"component": name})
    beside = {"projection": Projection.Config(blocks=4), "micro": SparseMicroRefine.Config()}
    other = "micro" if stage == "projection" else "projection"
    config = Config(**dict.fromkeys(STAGES, None) | {other: beside[other], stage: child})
    again = config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    ffn = build(48, again).train()
    x = torch.randn(2, 3, 48, requires_grad=True)
    count = count_flops(lambda: ffn(x), backward=True, strict=True)
    cost = ffn.cost(6)
    assert (count.forward, count.backward) == (cost.forward, cost.backward)


def test_a_stage_may_be_a_composition_itself() -> None:
    inner = Config(spectral=None, polynomial=None, norm_out=False)
    config = Config(polynomial=None, micro=None, projection=inner)
    ffn = build(48, config)
    with torch.no_grad():
        count = count_flops(ffn, torch.randn(5, 48))
    assert count.dispatched == ffn.cost(5).forward
