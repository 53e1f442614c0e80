"""The composition: its knobs, its gates, its starts."""

from __future__ import annotations

import pytest
import torch

from undense.contract import DenseFFN, Statistics, from_dense
from undense.errors import UndenseError
from undense.ffn import (
    Dense,
    SparseMicroRefine,
    SparsePolynomial,
    SparseSpectral,
    UltraEfficientSparseFFN,
)

Config = UltraEfficientSparseFFN.Config

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
