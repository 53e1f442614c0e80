"""Spectral language models over every causal mixer: decoding, padding, caches, saving, training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import undense
from undense.errors import UndenseError
from undense.mixing import mixers
from undense.models import spectral
from undense.models.cache import SpectralCache
from undense.models.config import PRESETS, SpectralConfig
from undense.models.spectral import SpectralForCausalLM

ARMS: dict[str, dict[str, Any]] = {name: {"mixer": name} for name in mixers()}
ARMS["hybrid"] = {"mixer": "attention", "attention_every": 2, "attention_window": 5}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "sampled": {"do_sample": True, "top_p": 0.9},
}


def build(**changes: Any) -> SpectralForCausalLM:
    """A small model whose parameters are far from their start: a start may hide what is wrong."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SpectralConfig(**{**sizes, "eos_token_id": 1, "pad_token_id": 0, **changes})
    model = SpectralForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=ARMS)
def model(request: pytest.FixtureRequest) -> SpectralForCausalLM:
    return build(**ARMS[request.param])


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(2, 48, (2, 11))


@pytest.mark.parametrize("how", SAMPLING)
def test_decoding_with_a_state_equals_recomputation(
    model: SpectralForCausalLM, ids: torch.Tensor, how: str
) -> None:
    texts = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "use_cache": use_cache}
        texts.append(model.generate(ids, **options, **SAMPLING[how]))
    assert torch.equal(*texts)


def test_left_padding_changes_no_text(model: SpectralForCausalLM, ids: torch.Tensor) -> None:
    alone = model.generate(ids[:1, 4:], max_new_tokens=6, min_new_tokens=6)[0, 7:]
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids[:1, 4:]], 1)
    both = torch.cat([padded, ids[1:]])
    mask = torch.ones_like(both)
    mask[0, :4] = 0
    together = model.generate(both, attention_mask=mask, max_new_tokens=6, min_new_tokens=6)
    assert torch.equal(together[0, 11:], alone)


def test_future_tokens_change_no_logit(model: SpectralForCausalLM, ids: torch.Tensor) -> None:
    other = ids.clone()
    other[:, 6:] = torch.randint(2, 48, (2, 5))
    with torch.no_grad():
        one, two = model(ids).logits, model(other).logits
    assert torch.allclose(one[:, :6], two[:, :6], atol=1e-5)
    assert not torch.allclose(one[:, 6:], two[:, 6:], atol=1e-2)


def test_a_cache_goes_through_a_file_in_mid_generation(
    model: SpectralForCausalLM, ids: torch.Tensor, tmp_path: Path
) -> None:
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :7], use_cache=True)
        save_file(first.past_key_values.to_tensors(), tmp_path / "cache.safetensors")
        cache = SpectralCache.from_tensors(load_file(tmp_path / "cache.safetensors"))
        rest = model(ids[:, 7:], past_key_values=cache)
    assert torch.allclose(rest.logits, whole[:, 7:], atol=1e-5)
    assert cache.get_seq_length() == 11


def test_a_long_text_in_pieces_is_the_same_text(
    model: SpectralForCausalLM, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        for given in (None, mask):
            whole = model(ids, attention_mask=given, use_cache=True)
            monkeypatch.setattr(spectral, "PREFILL", 4)
            pieces = model(ids, attention_mask=given, use_cache=True)
            monkeypatch.undo()
            assert torch.allclose(pieces.logits, whole.logits, atol=1e-5)
            assert pieces.past_key_values.get_seq_length() == 11


def test_one_cache_continues_two_texts(model: SpectralForCausalLM, ids: torch.Tensor) -> None:
    """States are replaced, never written into: a copy stays what it was."""
    with torch.no_grad():
        cache = model(ids[:, :7], use_cache=True).past_key_values
        kept = copy.deepcopy(cache)
        first = model(ids[:, 7:], past_key_values=cache).logits
        again = model(ids[:, 7:], past_key_values=kept).logits
    assert torch.equal(first, again)


def test_saved_and_loaded_by_stock_code(
    model: SpectralForCausalLM, ids: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, SpectralForCausalLM)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_checkpointing_gives_the_same_gradients(
    model: SpectralForCausalLM, ids: torch.Tensor
) -> None:
    # evaluation mode: what is drawn at random in training would differ for another reason
    ends = []
    for checkpointed in (False, True):
        fresh = copy.deepcopy(model).train()
        for module in fresh.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointed:
            fresh.activation_checkpointing_enable()
        torch.manual_seed(2)
        fresh(ids, labels=ids).loss.backward()
        ends.append({n: p.grad for n, p in fresh.named_parameters() if p.grad is not None})
    assert ends[0].keys() == ends[1].keys()
    for name, gradient in ends[0].items():
        assert torch.allclose(gradient, ends[1][name], atol=1e-6), name


def test_any_ffn_component_stands_inside(ids: torch.Tensor) -> None:
    model = build(mixer="attention", ffn="tensor_factor-25")
    dense = build(mixer="attention")
    assert model.config.ffn["component"] == "tensor_factor"
    assert model.num_parameters() < dense.num_parameters()
    assert model(ids).logits.shape == (2, 11, 48)


def test_presets_name_sizes_and_contexts() -> None:
    assert {name: sizes[3] for name, sizes in PRESETS.items()} == {
        "tiny": 16_384, "small": 65_536, "base": 131_072, "medium": 204_800, "large": 204_800,
        "xlarge": 204_800,
    }  # fmt: skip
    config = SpectralConfig.preset("tiny", mixer="attention", vocab_size=99)
    assert (config.hidden_size, config.vocab_size) == (128, 99)
    with torch.device("meta"):
        SpectralForCausalLM(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixer": "atention"}, r"unknown mixer 'atention'.*attention"),
        ({"mixer": {"component": "attention", "causal": False}}, r"attention.*causal=False"),
        ({"ffn": "ultr-25"}, r"unknown FFN.*ultra"),
        ({"hidden_size": 0}, r"hidden_size=0"),
        ({"attention_every": 0}, r"attention_every=0"),
        ({"dropout": 1.0}, r"dropout=1.0"),
        ({"initializer_range": 0.02}, r"initializer_range.*another model"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UndenseError, match=words):
        SpectralConfig(**{"mixer": "attention", **changes})


def test_misuse_is_refused(ids: torch.Tensor) -> None:
    model = build(mixer="attention")
    with pytest.raises(UndenseError, match="exactly one of input_ids"):
        model()
    with pytest.raises(UndenseError, match="SpectralCache of 2 layers"):
        model(ids, past_key_values=SpectralCache(3))
    with pytest.raises(UndenseError, match="attention_mask of shape"):
        model(ids, attention_mask=torch.ones(2, 4))
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(UndenseError, match="cannot be shortened"):
        cache.crop(2)
    with pytest.raises(UndenseError, match=r"lacks|no cache"):
        SpectralCache.from_tensors({"x": ids})


def test_public_names() -> None:
    assert undense.SpectralForCausalLM is SpectralForCausalLM
    assert undense.SpectralConfig is SpectralConfig
