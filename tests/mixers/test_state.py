"""One long call, several short ones and one call a token: the same function, through the state."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixer_variants import (
    DIM,
    SHORT,
    SPECTRAL,
    TIME,
    distance,
    every_config,
    in_pieces,
    randomised,
)

from undense.measure.flops import count_flops
from undense.mixers import all_parts, attention
from undense.mixing import MixerConfig, build, default
from undense.ops import spectral_mixer


@every_config
@given(data=st.data())
@settings(max_examples=5)
def test_one_call_equals_any_split(config: MixerConfig, data: st.DataObject) -> None:
    time = data.draw(st.integers(2, 40))
    cuts = sorted(data.draw(st.lists(st.integers(1, time), max_size=6)))
    mixer = randomised(config, torch.float64)
    x = torch.randn(2, time, DIM, dtype=torch.float64)
    with torch.no_grad():
        whole, after = mixer(x)
        pieces, state = in_pieces(mixer, x, cuts)
    assert distance(pieces, whole) <= 1e-10
    for one, other in zip(state, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


@every_config
def test_one_call_equals_one_call_a_token(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(2, TIME, DIM)
    with torch.no_grad():
        whole, _ = mixer(x)
        steps, _ = in_pieces(mixer, x, list(range(1, TIME)))
    # fp32 rounds to 6e-8; a few hundred roundings in another order stay under 1e-5
    assert distance(steps, whole) <= 1e-5


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "config", [default("spectral_gating", exchange=True), all_parts()], ids=["gating", "all parts"]
)
def test_many_tokens_at_the_default_sizes_are_one_function_in_fp32(
    config: MixerConfig, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates of large weights magnify what rounding makes of their logits, from 4e-7 to 2e-5."""
    if not compiled:
        monkeypatch.setattr(spectral_mixer, "served", lambda *_: None)
    mixer = randomised(config, dim=64)
    x = torch.randn(1, 1500, 64)
    with torch.no_grad():
        whole, _ = mixer(x)
        pieces, _ = in_pieces(mixer, x, [1, 700, 1001, *range(1100, 1500)])
    assert distance(pieces, whole) <= 2e-6


@every_config
@given(data=st.data())
@settings(max_examples=3)
def test_padding_anywhere_changes_nothing(config: MixerConfig, data: st.DataObject) -> None:
    time = data.draw(st.integers(2, 30))
    rows = st.lists(st.booleans(), min_size=time, max_size=time).filter(any)
    mask = torch.tensor([data.draw(rows), [False] * (time // 2) + [True] * (time - time // 2)])
    cuts = sorted(data.draw(st.lists(st.integers(1, time), max_size=4)))
    mixer = randomised(config, torch.float64)
    x = torch.randn(2, time, DIM, dtype=torch.float64)
    with torch.no_grad():
        padded, state = mixer(x, None, mask)
        pieces, later = in_pieces(mixer, x, cuts, mask)
        nothing = torch.where(mask[..., None], x, torch.nan)
        other, _ = in_pieces(mixer, nothing, cuts, mask)
        assert distance(pieces, padded) <= 1e-9
        assert distance(other, pieces) <= 1e-12
        for row in range(2):
            alone, own = mixer(x[row : row + 1, mask[row]])
            assert distance(padded[row, mask[row]], alone[0]) <= 1e-9
            assert (padded[row, ~mask[row]] == 0).all()
            assert state[0][row] == own[0][0] == later[0][row] == mask[row].sum()


@every_config
def test_rows_of_a_batch_are_independent_and_reorder_by_their_state(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(3, TIME, DIM)
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        y, state = mixer(x)
        other, _ = mixer(x[order])
        assert distance(other, y[order]) <= 1e-6
        following = torch.randn(3, 5, DIM)
        picked = tuple(tensor.index_select(0, order) for tensor in state)
        wanted, _ = mixer(torch.cat([x[order], following], 1))
        got, _ = mixer(following, picked)
    assert distance(got, wanted[:, TIME:]) <= 1e-5


@every_config
def test_a_state_survives_saving(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(1, TIME, DIM)
    with torch.no_grad():
        _, state = mixer(x[:, :11])
        file = io.BytesIO()
        torch.save((state, mixer.state_dict()), file)
        file.seek(0)
        loaded, weights = torch.load(file)
        fresh = build(DIM, config).eval()
        fresh.load_state_dict(weights, strict=True)
        assert torch.equal(fresh(x[:, 11:], loaded)[0], mixer(x[:, 11:], state)[0])


@every_config
def test_the_initial_state_is_the_state_of_nothing(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(2, TIME, DIM)
    with torch.no_grad():
        given_state, _ = mixer(x, mixer.initial_state(2))
        assert distance(given_state, mixer(x)[0]) <= 1e-6


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize("masked", [False, True])
def test_segments_of_one_call_are_one_function(
    name: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixer = randomised(default(name, **SHORT[name]), torch.float64)
    x = torch.randn(2, 53, DIM, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 53) > 0.3 if masked else None
    found = []
    for segment in (2048, 16):
        monkeypatch.setattr(spectral_mixer, "SEGMENT", segment)
        y, state = mixer(x, None, mask)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        found.append((y, gradient, *state))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SPECTRAL)
def test_going_on_at_a_chunks_start_needs_no_offset(name: str) -> None:
    mixer = randomised(default(name, **SHORT[name]), torch.float64)
    x = torch.randn(2, 40, DIM, dtype=torch.float64)
    with torch.no_grad():
        whole, after = mixer(x)
        pieces, state = in_pieces(mixer, x, [16, 32])
    assert distance(pieces, whole) <= 1e-10
    for one, other in zip(state, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_windows_over_many_tokens_at_once_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a state or with padding; a mask of all tokens would grow with their square."""
    mixer = randomised(default("attention", window=4), torch.float64)
    x = torch.randn(2, 53, DIM, dtype=torch.float64)
    mask = torch.rand(2, 53) > 0.3
    _, before = mixer(x[:, :7])
    wanted = [mixer(x, before), mixer(x, None, mask), mixer(x, before, mask)]
    monkeypatch.setattr(attention, "PIECE", 5)
    widest: list[int] = []
    plain = attention._attend

    def watched(*given: Any) -> torch.Tensor:
        widest.append(given[0].shape[1])
        return plain(*given)

    monkeypatch.setattr(attention, "_attend", watched)
    got = [mixer(x, before), mixer(x, None, mask), mixer(x, before, mask)]
    assert max(widest) == 5
    for (y, state), (other, after) in zip(got, wanted, strict=True):
        assert distance(y, other) <= 1e-12
        assert torch.equal(state[0], after[0])
        assert all(distance(a, b) <= 1e-12 for a, b in zip(state[1:], after[1:], strict=True))
    with torch.no_grad():
        count = count_flops(lambda: mixer(x, before))
        assert count.dispatched == mixer.cost(2, 53, past=7).forward


def test_only_a_cache_grows() -> None:
    narrow = build(DIM, default("spectral_layer", conv_width=1))  # a slot of no numbers at all
    for mixer in (narrow, build(DIM, all_parts())):
        held = sum(part.numel() * part.element_size() for part in mixer.initial_state(1))
        assert mixer.state_bytes() == mixer.state_bytes(past=1000) == held
        assert not any(slot.grows for slot in mixer.layout())
    attention = build(DIM, default("attention"))
    _, state = attention(torch.randn(1, 7, DIM))
    held = sum(part.numel() * part.element_size() for part in state)
    assert attention.state_bytes(past=7) == held > attention.state_bytes(past=6)
