"""Feedback from the previous token: streaming, padding, reordering, and what is refused."""

from __future__ import annotations

import pytest
import torch

import undense
from undense.errors import UndenseError
from undense.ffn import TokenFeedback
from undense.train.tiny import tiny_model

Config = TokenFeedback.Config

VARIANTS = [
    Config(micro_steps=1, micro_keep_ratio=1.0),
    Config(micro_steps=3, rank=2),
]


def component() -> TokenFeedback:
    return TokenFeedback(24, Config(micro_steps=3)).double().eval()


def test_parallel_is_a_loop_over_tokens() -> None:
    ffn = component()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    expected = torch.zeros_like(x)
    before = [torch.zeros(2, ffn.features, dtype=torch.float64) for _ in ffn.steps]
    for n in range(7):
        h = x[:, n, ffn.selected]
        for t, step in enumerate(ffn.steps):
            here = h
            z = here @ step.waist.weight[0].T + before[t] @ step.feedback.weight[0].T
            gate = torch.sigmoid(z @ step.gate.weight[0].T + step.gate.bias)
            h = h + gate * (z * torch.sigmoid(z) @ step.out.weight[0].T + step.out.bias)
            before[t] = here
        expected[:, n, ffn.selected] = h - x[:, n, ffn.selected]
    assert torch.allclose(ffn(x), expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 1, 3]])
def test_chunks_and_single_steps_equal_the_whole(sizes: list[int]) -> None:
    ffn = component()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    state = ffn.start(2)
    pieces = []
    for chunk in x.split(sizes, 1):
        y, state = ffn.step(chunk, state)
        pieces.append(y)
    assert torch.allclose(torch.cat(pieces, 1), ffn(x), atol=1e-12)


def test_it_reaches_as_many_tokens_back_as_it_has_steps() -> None:
    ffn = component()
    x = torch.randn(1, 9, 24, dtype=torch.float64)
    y = ffn(x)
    x[:, 2] += 1
    changed = (ffn(x) != y).any(-1)[0]
    assert changed.tolist() == [False, False, True, True, True, True, False, False, False]


@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing(left: bool) -> None:
    ffn = component()
    x = torch.randn(1, 5, 24, dtype=torch.float64)
    noise = torch.randn(1, 3, 24, dtype=torch.float64)
    padded = torch.cat([noise, x] if left else [x, noise], 1)
    mask = torch.tensor([[not left] * 3 + [True] * 2 + [left] * 3])
    y, state = ffn.step(padded, ffn.start(1), mask)
    whole, expected = ffn.step(x, ffn.start(1))
    assert torch.allclose(y[:, 3:] if left else y[:, :5], whole, atol=1e-12)
    assert torch.allclose(state, expected, atol=1e-12)


def test_beams_are_reordered_along_the_batch_axis_of_the_state() -> None:
    ffn = component()
    x = torch.randn(3, 4, 24, dtype=torch.float64)
    order = torch.tensor([2, 0, 0])
    _, state = ffn.step(x, ffn.start(3))
    following = torch.randn(3, 1, 24, dtype=torch.float64)
    y, _ = ffn.step(following, state.index_select(1, order))
    assert torch.allclose(y, ffn(torch.cat([x[order], following], 1))[:, -1:], atol=1e-12)


def test_a_token_of_unknown_past_and_a_strange_state_are_refused() -> None:
    ffn = component()
    with pytest.raises(UndenseError, match=r"nothing says whether others came before"):
        ffn(torch.randn(2, 1, 24, dtype=torch.float64))
    with pytest.raises(UndenseError, match=r"begin with start"):
        ffn.step(torch.randn(2, 1, 24, dtype=torch.float64), ffn.start(3))


def test_a_converted_model_generates_without_a_cache_and_refuses_one() -> None:
    model = tiny_model().eval()
    undense.convert_(model, ffn=Config(), keep_dense=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    with pytest.raises(UndenseError, match=r"use_cache=False"):
        model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    out = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, use_cache=False)
    for n in range(4, 7):
        assert model(out[:, :n], use_cache=False).logits[0, -1].argmax() == out[0, n]
    with pytest.raises(UndenseError, match=r"padding on the left"):
        model(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]), use_cache=False)
