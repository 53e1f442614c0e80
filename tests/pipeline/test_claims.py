"""The proposal's tables against arithmetic done by hand here."""

from __future__ import annotations

from typing import Any

import pytest

from undense.contract import components
from undense.pipeline.breakdowns import breakdown_128, one_token
from undense.pipeline.claims import claims

D, HIDDEN = 4096, 16384


@pytest.mark.parametrize("keys", [1, 2048])
def test_the_token_table_by_hand(keys: int) -> None:
    rows = {row["step"]: row for row in one_token(keys=keys)}
    assert rows["Q, K, V"]["macs"] == 3 * D * D
    assert rows["first linear layer"]["macs"] == rows["second linear layer"]["macs"] == D * HIDDEN
    assert rows["activation"]["macs"] == HIDDEN
    assert rows["scores and weighted sum"]["macs"] == 2 * keys * D + keys
    assert rows["total"]["macs"] == 4 * D * D + 2 * keys * D + keys + 2 * D * HIDDEN + (
        HIDDEN + 2 * 4 * D
    )
    assert rows["first linear layer"]["flops"] == 2 * D * HIDDEN


def test_the_token_table_is_wrong_by_what_the_page_says() -> None:
    rows = {row["step"]: row for row in one_token()}
    assert rows["activation"]["claimed_over_macs"] == pytest.approx(2000, rel=0.01)
    assert rows["FFN"]["claimed_over_macs"] == pytest.approx(167 / 134.23, rel=1e-3)


def test_the_breakdown_at_128_by_hand() -> None:
    rows = {row["part"]: row for row in breakdown_128()}
    assert rows["Total Dense"]["macs"] == 2 * 128 * 512 + 512
    assert rows["LayerNorm (In + Out)"]["macs"] == 2 * 4 * 128
    assert rows["Residual Projection"]["macs"] == 128 * 128 + 128  # and its gate
    parts = [row["macs"] for row in rows.values()]
    assert parts[-1] == sum(parts[4:-1])


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """Every claim at one small, odd width."""
    return claims((65,))


def test_claims_follow_the_registry(told: list[dict[str, Any]]) -> None:
    for claim in told:
        assert claim["missing"] == (claim["component"] not in components())
        assert bool(claim["rows"]) != claim["missing"]
    (projection,) = [c for c in told if "All four" in c["method"]]
    (sized,) = [row for row in projection["rows"] if "ultra-all-5" in row["setting"]]
    assert "unavailable" in sized or sized["flops"] <= 0.05 * sized["dense_flops"]


def test_a_saving_is_the_quotient_of_two_counts(told: list[dict[str, Any]]) -> None:
    (spectral,) = [c for c in told if c["method"] == "Fourier / Spectral"]
    (row,) = spectral["rows"]
    assert row["times_less"] == row["dense_flops"] / row["flops"]
    assert row["config"]["k_freq"] == 32
