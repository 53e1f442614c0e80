"""Feedback from the previous token: streaming, padding, reordering, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

import undense
from undense.errors import UndenseError
from undense.ffn import TokenFeedback
from undense.measure.flops import count_flops
from undense.models.cache import SpectralCache
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
            z = here @ step.waist.weight[0].T + before[t] @ ffn.feedback[t].weight[0].T
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
    y, _ = ffn.step(following, state.index_select(0, order))
    assert torch.allclose(y, ffn(torch.cat([x[order], following], 1))[:, -1:], atol=1e-12)


def test_a_token_of_unknown_past_and_a_strange_state_are_refused() -> None:
    ffn = component()
    with pytest.raises(UndenseError, match=r"nothing says whether others came before"):
        ffn(torch.randn(2, 1, 24, dtype=torch.float64))
    with pytest.raises(UndenseError, match=r"begin with start"):
        ffn.step(torch.randn(2, 1, 24, dtype=torch.float64), ffn.start(3))


@pytest.fixture(scope="module")
def model():
    """The bundled model with feedback that matters, in fp64."""
    torch.manual_seed(0)
    model = tiny_model().eval()
    undense.convert_(model, ffn=Config(), keep_dense=False)
    for part in model.modules():
        if isinstance(part, TokenFeedback):
            for step, back in zip(part.steps, part.feedback, strict=True):
                back.weight.data.normal_(std=0.3)
                step.out.weight.data.normal_(std=0.3)
    return model.double()


def ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(5, 500, (rows, tokens), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_the_cache_of_a_converted_model_remembers_the_features(model) -> None:
    """One token, several tokens or all at once: the same logits, unlike without the states."""
    text = ids(2, 9)
    whole = model(text, use_cache=False).logits
    outputs = [model(text[:, :4], use_cache=True)]
    for chunk in text[:, 4:].split([1, 3, 1], 1):
        outputs.append(model(chunk, past_key_values=outputs[-1].past_key_values))
    found = torch.cat([out.logits for out in outputs], 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
    cache = outputs[-1].past_key_values
    assert cache.get_seq_length() == 9
    following = copy.deepcopy(cache)
    count = count_flops(lambda: model(text[:, :1], past_key_values=following), model=model)
    assert count.analytic == count.dispatched and len(count.components) == 4
    cache.layers[-1].state = None  # a cache that has forgotten
    other = model(ids(2, 1), past_key_values=cache).logits
    text = torch.cat([text, ids(2, 1)], 1)
    assert not torch.allclose(other[:, -1], model(text).logits[:, -1], atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=["greedy", "beams", "sampled"],
)
def test_a_converted_model_writes_with_its_cache_what_it_writes_without(model, options) -> None:
    """Beams and padding on the left too: recomputed from the whole text at every token."""
    prompt = ids(3, 6)
    mask = torch.ones_like(prompt)
    mask[1, :2] = 0
    written = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        written.append(
            model.generate(
                prompt,
                attention_mask=mask,
                max_new_tokens=6,
                min_new_tokens=6,
                pad_token_id=0,
                use_cache=use_cache,
                **options,
            )
        )
    assert torch.equal(*written)


def test_padding_on_the_left_changes_no_logits_of_a_converted_model(model) -> None:
    text = ids(1, 5)
    padded = torch.cat([ids(1, 3), text], 1)
    mask = torch.tensor([[0] * 3 + [1] * 5])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    found = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(found, model(text).logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_what_a_cache_cannot_remember_is_refused(model) -> None:
    text = ids(2, 4)
    cache = model(text, use_cache=True).past_key_values
    with pytest.raises(UndenseError, match="cannot be shortened"):
        copy.deepcopy(cache).crop(-1)
    strange = copy.deepcopy(cache)
    strange.layers[-1].state = strange.layers[-1].state[:2]
    with pytest.raises(UndenseError, match="states of 2 FFNs"):
        model(text[:, :1], past_key_values=strange)
    del strange.layers[-1]
    with pytest.raises(UndenseError, match="not what they left"):
        model(text[:, :1], past_key_values=strange)
    text_only = {"attention_mask": torch.ones_like(text[:1]), "pad_token_id": 0}
    with pytest.raises(UndenseError, match="a static cache"):
        model.generate(text[:1], max_new_tokens=2, cache_implementation="static", **text_only)
    with pytest.raises(UndenseError, match="as assisted decoding asks"):
        model.generate(text[:1], max_new_tokens=4, prompt_lookup_num_tokens=2, **text_only)
    with pytest.raises(UndenseError, match=r"attention_mask \(2, 1, 4, 4\)"):
        model(text, attention_mask=torch.ones(2, 1, 4, 4))
    model.train()
    try:
        with pytest.raises(UndenseError, match="in training mode: FFNs"):
            model(text[:, :1], past_key_values=cache)
        with pytest.raises(UndenseError, match="pad on the right"):
            model(text, attention_mask=torch.tensor([[0, 1, 1, 1], [1] * 4]))
    finally:
        model.eval()


def test_a_failed_call_leaves_nothing_behind(model) -> None:
    with pytest.raises(IndexError):
        model(torch.full((1, 4), 10**6))
    assert all(part.past is None for part in model.modules() if isinstance(part, TokenFeedback))


def test_a_spectral_model_remembers_the_features_in_its_cache(tmp_path) -> None:
    """Through a file in mid-text, and with padding on the left."""
    torch.manual_seed(0)
    config = undense.SpectralConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, ffn=Config().to_dict()
    )
    spectral = undense.SpectralForCausalLM(config).double().eval()
    text = torch.randint(50, (1, 8))
    whole = spectral(text, use_cache=False).logits
    first = spectral(text[:, :5], use_cache=True)
    save_file(first.past_key_values.to_tensors(), tmp_path / "cache.safetensors")
    cache = SpectralCache.from_tensors(load_file(tmp_path / "cache.safetensors"))
    rest = spectral(text[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, rtol=0, atol=1e-10)
    padded = torch.cat([torch.randint(50, (1, 3)), text], 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    found = spectral(padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
