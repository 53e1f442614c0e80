"""Mixers in the place of attention: what they compute, how they generate, save and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hosts import VOCABULARY, calibration, inputs, outputs, tiny
from transformers import AutoModelForCausalLM, PreTrainedModel

import undense
from undense.convert.attention import find_mixers
from undense.errors import UndenseError
from undense.mixing import default
from undense.pipeline.plan import convert_plan
from undense.pipeline.settings import ConvertSettings

FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]
SPECTRAL = {"component": "spectral_layer", "heads": 4, "chunk": 8}


def converted(host: str, mixer: object = SPECTRAL, **options: object) -> PreTrainedModel:
    model = tiny(host)
    undense.convert_mixers_(model, mixer, **options)  # type: ignore[arg-type]
    with torch.no_grad():  # away from the start, which could hide what is wrong
        for site in find_mixers(model).values():
            for parameter in site.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("host", FAMILIES)
def test_saved_and_loaded_again_it_gives_the_same_logits(host: str, tmp_path: Path) -> None:
    model = converted(host)
    assert type(model).__name__.startswith("Undense")
    batch = inputs(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(find_mixers(loaded)) == 2
    assert torch.equal(outputs(loaded, batch), outputs(model, batch))
    assert not any("attn.c_attn" in k or "q_proj" in k for k in loaded.state_dict())


@pytest.mark.parametrize("host", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generation_with_a_cache_equals_recomputation(host: str, options: dict[str, int]) -> None:
    for targets in (None, [1]):  # all layers, or a hybrid with attention in the first
        model = converted(host, targets=targets)
        ids = inputs(model)["input_ids"]
        texts = [
            model.generate(
                ids, max_new_tokens=12, min_new_tokens=12, use_cache=use, do_sample=False, **options
            )
            for use in (True, False)
        ]
        assert torch.equal(*texts)


@pytest.mark.parametrize("host", ["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_changes_no_text(host: str, attention: str) -> None:
    model = converted(host)
    model.set_attn_implementation(attention)
    ids = torch.randint(2, VOCABULARY, (2, 9))
    alone = model.generate(ids[:1, 4:], max_new_tokens=6, min_new_tokens=6, do_sample=False)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    both = model.generate(
        ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False
    )
    assert torch.equal(both[0, 9:], alone[0, 5:])


@pytest.mark.parametrize("host", ["gpt2", "mistral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("targets", [None, [1]])
def test_a_cache_of_fixed_size_changes_no_text(
    host: str, attention: str, targets: list[int] | None
) -> None:
    """Its masks have keys for tokens still to come; padding stands on the left."""
    model = converted(host, targets=targets)
    model.set_attn_implementation(attention)
    ids = torch.randint(2, VOCABULARY, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    for given in (None, mask):
        wanted = model.generate(ids, attention_mask=given, use_cache=False, **options)
        got = model.generate(ids, attention_mask=given, cache_implementation="static", **options)
        assert torch.equal(got, wanted)


def test_no_logit_depends_on_the_future() -> None:
    model = converted("llama")
    ids = inputs(model)["input_ids"]
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % VOCABULARY
    one, two = (outputs(model, {"input_ids": x}) for x in (ids, other))
    assert torch.allclose(one[:, :6], two[:, :6], atol=1e-5)
    assert not torch.allclose(one[:, 6:], two[:, 6:], atol=1e-2)


def test_ffns_and_mixers_together_and_back(tmp_path: Path) -> None:
    model = tiny("gpt2")
    batch = inputs(model)
    before = outputs(model, batch)
    undense.convert_mixers_(model, "hierarchical_fft")
    undense.convert_(model, "narrow-50", calibration=calibration(model))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(outputs(loaded, batch), outputs(model, batch))
    undense.revert_(model)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert torch.equal(outputs(model, batch), before)


def test_it_trains() -> None:
    model = converted("gpt2").train()
    batch = inputs(model)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(p.grad is not None for s in find_mixers(model).values() for p in s.parameters())


@pytest.mark.parametrize(
    ("host", "mixer", "words"),
    [
        ("gpt2", {**SPECTRAL, "causal": False}, r"spectral_layer.*causal=False"),
        ("llama", default("hierarchical_fft", causal=False), r"hierarchical_fft.*causal=False"),
        ("gpt2", "spectral_later", r"unknown mixer 'spectral_later'.*spectral_layer"),
        ("bert", "spectral_layer", r"'bert': no mixer"),
        ("gpt2", {**SPECTRAL, "heads": 5}, r"heads=5"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    host: str, mixer: object, words: str
) -> None:
    model = tiny(host)
    with pytest.raises(UndenseError, match=words):
        undense.convert_mixers_(model, mixer)  # type: ignore[arg-type]
    assert not find_mixers(model) and not type(model).__name__.startswith("Undense")


def test_a_second_conversion_is_refused() -> None:
    with pytest.raises(UndenseError, match="no attention left"):
        undense.convert_mixers_(converted("gpt2"), "spectral_layer")


def test_the_command_refuses_before_it_reads_weights(tmp_path: Path) -> None:
    tiny("gpt2").config.save_pretrained(tmp_path / "model")  # no weights beside it
    model, out = str(tmp_path / "model"), tmp_path / "out"
    for mixer, words in {
        '{"component": "attention", "causal": false}': "attention.*causal=False",
        "spectral_later": "unknown mixer",
        '{"component":': "not valid JSON",
    }.items():
        with pytest.raises(UndenseError, match=words):
            convert_plan(ConvertSettings(model=model, ffn="narrow-50", mixer=mixer), out)
    convert_plan(ConvertSettings(model=model, ffn="narrow-50", mixer="spectral_layer"), out)
