"""Names that users type, and the original proposal's table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from undense.contract import DenseShape, abstract_cost
from undense.errors import UndenseError
from undense.ffn import BlockTopK, Dense, SparseSpectral, UltraEfficientSparseFFN
from undense.ffn.presets import resolve, seed
from undense.ffn.shares import at_share, dense_config, dense_flops

SMALL = DenseShape(dim=128, hidden=512)

# The original proposal, d = 128, in multiply-adds: component, claimed, tolerance. The table rounds
# to the nearest thousand, the tolerance is that rounding plus each stage's gate.
CLAIMED = [
    ("spectral", 10_000, 600),
    ("polynomial", 15_000, 600),
    ("micro", 2_000, 600),
    ("projection", 16_000, 600),
]


@pytest.mark.parametrize(("stage", "claimed", "tolerance"), CLAIMED)
def test_seed_preset_costs_what_the_proposal_says_term_by_term(
    stage: str, claimed: int, tolerance: int
) -> None:
    tree = abstract_cost(128, seed(SMALL))
    assert abs(tree.part(stage).macs - claimed) <= tolerance


def test_seed_preset_norms_cost_about_a_thousand() -> None:
    tree = abstract_cost(128, seed(SMALL))
    assert tree.part("norm in").macs + tree.part("norm out").macs == 1024


def test_seed_preset_total_and_saving() -> None:
    tree = abstract_cost(128, seed(SMALL))
    dense = abstract_cost(128, dense_config(SMALL))
    assert dense.macs == pytest.approx(130_500, rel=0.01)
    assert tree.macs == pytest.approx(44_000, rel=0.04)
    assert 1 - tree.macs / dense.macs == pytest.approx(0.66, abs=0.01)


def test_seed_preset_multiplies_no_zeros() -> None:
    """Every stored weight of the matrices is used: none of the saving is a mask."""
    ffn = UltraEfficientSparseFFN(128, seed(SMALL))  # type: ignore[arg-type]
    sizes = {name: tuple(t.shape) for name, t in ffn.state_dict().items() if t.ndim >= 2}
    assert sizes["stages.spectral.analysis"] == (40, 128)  # cosine and sine of 20 frequencies
    assert sizes["stages.polynomial.mix.weight"] == (1, 128, 3 * 38)  # 30 % of 3 x 128 terms
    for name, tensor in ffn.state_dict().items():
        if name in sizes and tensor.is_floating_point() and "micro" not in name:
            assert (tensor == 0).float().mean() < 0.05, name


@pytest.mark.parametrize("dim", [128, 192, 576, 768])
@pytest.mark.parametrize("percent", [25, 12, 5])
def test_ultra_small_is_the_largest_within_its_share(dim: int, percent: int) -> None:
    shape = DenseShape(dim=dim, hidden=4 * dim)
    config = resolve(f"ultra-small-{percent}", shape)
    share = abstract_cost(dim, config).forward / dense_flops(shape)
    neuron = (4 * dim + 12) / dense_flops(shape)  # one more hidden neuron
    assert percent / 100 - 1.2 * neuron <= share <= percent / 100


@pytest.mark.parametrize("gated", [False, True])
def test_ultra_stores_what_dense_stores_and_ultra_small_its_share(gated: bool) -> None:
    shape = DenseShape(dim=192, hidden=768, gated=gated, bias=not gated)
    dense = abstract_cost(192, dense_config(shape)).weights
    assert 1.0 <= abstract_cost(192, resolve("ultra-25", shape)).weights / dense <= 1.1
    assert abstract_cost(192, resolve("ultra-small-25", shape)).weights <= 0.26 * dense


def test_fractional_shares_are_names_too() -> None:
    config = resolve("dense-12.5", SMALL)
    assert isinstance(config, Dense.Config)
    assert config.hidden == pytest.approx(64, abs=1)


def test_a_share_below_the_smallest_size_says_what_it_costs() -> None:
    with pytest.raises(UndenseError, match=r"0\.01 %.*ask for at least"):
        resolve("ultra-all-0.01", SMALL)


def test_none_has_no_size() -> None:
    with pytest.raises(UndenseError, match="no size"):
        resolve("none-25", SMALL)


def test_near_misses_are_named() -> None:
    with pytest.raises(UndenseError, match=r"did you mean .*ultra"):
        resolve("ulta-25", SMALL)


def test_json_file_and_inline_json_are_configs(tmp_path: Path) -> None:
    text = json.dumps({"component": "dense", "hidden": 7})
    path = tmp_path / "ffn.json"
    path.write_text(text)
    assert resolve(text, SMALL) == resolve(str(path), SMALL) == Dense.Config(hidden=7)


def test_unknown_setting_in_json_is_named() -> None:
    with pytest.raises(UndenseError, match=r"hiden.*did you mean hidden"):
        resolve('{"component": "dense", "hiden": 7}', SMALL)


def test_share_of_a_gated_host_refers_to_the_gated_ffn() -> None:
    shape = DenseShape(dim=96, hidden=256, gated=True, activation="silu", bias=False)
    narrow = at_share(dense_config(shape), shape, 50)
    assert narrow.to_dict()["hidden"] == 128


@pytest.mark.parametrize("spec", ["projection-50", "micro_refine-25"])
def test_a_share_beyond_the_largest_size_is_refused(spec: str) -> None:
    with pytest.raises(UndenseError, match=r"largest size at dim=128 costs .* % was asked for"):
        resolve(spec, SMALL)


def test_bare_ultra_is_fitted_to_the_host() -> None:
    shape = DenseShape(dim=96, hidden=256, gated=True, activation="silu", bias=False)
    config = resolve("ultra", shape)
    assert isinstance(config, UltraEfficientSparseFFN.Config)
    assert config.projection is not None
    assert config.projection.to_dict()["activation"] == "silu"
    assert config.projection.to_dict()["gated"] is True


def test_like_says_only_what_differs() -> None:
    plain = resolve("ultra-25", SMALL)
    assert resolve({"like": "ultra", "percent": 25}, SMALL) == plain
    found = resolve('{"like": "ultra", "percent": 25, "projection": {"block": 16}}', SMALL)
    assert isinstance(found, UltraEfficientSparseFFN.Config)
    assert isinstance(found.projection, BlockTopK.Config)
    assert found.projection.block == 16
    assert abstract_cost(SMALL.dim, found).forward <= dense_flops(SMALL) / 4


def test_like_replaces_adds_and_removes_stages() -> None:
    spectral = {"component": "spectral", "k_freq": 8}
    found = resolve({"like": "ultra-small", "micro": None, "spectral": spectral}, SMALL)
    assert isinstance(found, UltraEfficientSparseFFN.Config)
    assert found.micro is None
    assert isinstance(found.spectral, SparseSpectral.Config)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"like": "ultra-25"}, "without a share"),
        ({"like": 3}, "expected a name"),
        ({"like": "ultra", "colour": 1}, "unknown field 'colour'"),
        ({"like": "ultra", "spectral": {"k_freq": 3}}, "name its component"),
        ({"like": "ultra", "projection": {"blocks": 3}}, "unknown field 'blocks'"),
        ({"like": "ultra", "percent": 0}, "share 0"),
        ({"like": "ultra", "percent": True}, "share True"),
        ({"like": "ultr"}, "did you mean"),
    ],
)
def test_a_wrong_like_is_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(UndenseError, match=message):
        resolve(spec, SMALL)
