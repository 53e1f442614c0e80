import copy
import functools

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from undense.contract import config_from_dict
from undense.convert import convert, self_sampling
from undense.convert.convert import convert_, plan
from undense.convert.sites import find_components, find_sites
from undense.convert.statistics import collect
from undense.errors import UndenseError


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_the_whole_dense_ffn_as_a_component_gives_the_same_logits(make, family, text, prompt):
    model = make(family)
    wanted = model(prompt).logits
    spec = "dense-100" if family == "gpt2" else "gated_dense-100"
    told = convert_(model, spec, calibration=text)
    assert told.flops_after == told.flops_before
    assert told.parameters_after == told.parameters_before
    assert len(find_components(model)) == 2 and not find_sites(model)
    assert all(site.relative_error < 1e-5 for site in told.sites)
    torch.testing.assert_close(model(prompt).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["tensor_factor-25", "low_rank", "none", "spectral", "ultra-25"])
def test_each_component_can_stand_in_either_host(make, name, text, prompt):
    for family in ("gpt2", "llama"):
        model = make(family)
        dense = model(prompt).logits
        told = convert_(model, name, calibration=text)
        logits = model(prompt).logits
        assert logits.isfinite().all()
        assert not torch.allclose(logits, dense)
        assert told.flops_after < told.flops_before
        assert all(0 < site.relative_error <= 1.5 for site in told.sites)


def test_a_closed_form_start_is_closer_than_no_ffn(gpt2, text):
    statistics = collect(gpt2, find_sites(gpt2), text)
    errors = {
        spec: convert_(copy.deepcopy(gpt2), spec, calibration=statistics).sites[0].relative_error
        for spec in ("none", "narrow-50", "narrow-80")
    }
    assert errors["narrow-80"] < errors["narrow-50"] < errors["none"] == 1


def test_without_calibration_the_model_writes_its_own_and_the_report_says_so(
    gpt2, prompt, monkeypatch
):
    brief = functools.partial(self_sampling.self_sampled, sequences=8, length=16)
    monkeypatch.setattr(convert, "self_sampled", brief)
    twin = copy.deepcopy(gpt2)
    told = convert_(gpt2, "ultra-25")
    assert told.calibration == "self-sampled"
    convert_(twin, "ultra-25")
    assert torch.equal(gpt2(prompt).logits, twin(prompt).logits)


def test_statistics_collected_once_serve_many_conversions(gpt2, text, prompt):
    twin = copy.deepcopy(gpt2)
    statistics = collect(twin, find_sites(twin), text)
    convert_(gpt2, "narrow-50", calibration=text)
    convert_(twin, "narrow-50", calibration=statistics)
    assert torch.equal(gpt2(prompt).logits, twin(prompt).logits)


def test_sites_can_have_different_components_and_stay_dense(gpt2, text, prompt):
    first = convert_(gpt2, "none", targets="0", calibration=text)
    assert [site.name for site in first.sites] == ["transformer.h.0.mlp"]
    assert [site.layer for site in find_sites(gpt2)] == [1]

    def few_modes(shape):
        return config_from_dict({"component": "spectral", "k_freq": shape.dim // 12})

    second = convert_(gpt2, few_modes, calibration=text)
    assert [site.name for site in second.sites] == ["transformer.h.1.mlp"]
    kinds = [component.component for component in find_components(gpt2).values()]
    assert kinds == ["none", "spectral"]
    assert set(gpt2.config.undense["ffns"]) == {"h.0.mlp", "h.1.mlp"}
    with pytest.raises(UndenseError, match="all 2 FFNs of this model are converted"):
        convert_(gpt2, "none", calibration=text)


def test_the_class_and_config_say_so_and_other_models_of_the_config_do_not(text):
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4)
    model, other = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    convert_(model, "none", calibration=text)
    assert type(model).__name__ == "UndenseGPT2LMHeadModel"
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.model_type == model.transformer.config.model_type == "undense_gpt2"
    assert model.transformer.h[0].attn.config is model.config
    assert other.config is config and config.model_type == "gpt2"
    assert not hasattr(config, "undense")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bf16_models_stay_bf16(make, family, text, prompt):
    model = make(family).to(torch.bfloat16)
    convert_(model, "ultra-25", calibration=text)
    floating = {t.dtype for t in model.state_dict().values() if t.is_floating_point()}
    assert floating == {torch.bfloat16}
    assert model(prompt).logits.isfinite().all()


def test_a_converted_model_trains_with_gradient_checkpointing(gpt2, text, prompt):
    convert_(gpt2, "ultra-small-25", calibration=text)
    gpt2.train()
    for module in gpt2.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            gpt2.activation_checkpointing_enable()
        gpt2.zero_grad()
        gpt2(prompt, labels=prompt, use_cache=False).loss.backward()
        (ffn,) = [m for n, m in find_components(gpt2).items() if "h.0" in n]
        gradients.append([p.grad.clone() for p in ffn.parameters() if p.grad is not None])
    assert gradients[0] and all(gradient.norm() > 0 for gradient in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_converted_model_generates(llama, text, prompt):
    convert_(llama, "ultra-25", calibration=text)
    tokens = llama.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
    )
    step = prompt
    for _ in range(tokens.shape[1] - prompt.shape[1]):  # without a cache, one token at a time
        best = llama(step).logits[:, -1].argmax(-1)
        ended = (step[:, prompt.shape[1] :] == llama.config.eos_token_id).any(1)
        best = torch.where(ended, torch.tensor(llama.config.pad_token_id), best)
        step = torch.cat([step, best[:, None]], 1)
    assert torch.equal(tokens, step)


def test_the_models_initialisation_does_not_touch_components(gpt2, text, prompt):
    convert_(gpt2, "ultra-all-25", calibration=text)
    before = {n: t.clone() for n, t in gpt2.state_dict().items() if ".mlp." in n}
    for module in gpt2.transformer.h[0].attn.modules():
        module._is_hf_initialized = False
    gpt2.transformer.wte._is_hf_initialized = False
    embedding = gpt2.transformer.wte.weight.clone()
    gpt2.initialize_weights()
    assert not torch.equal(embedding, gpt2.transformer.wte.weight)  # it did initialise
    for name, tensor in before.items():
        assert torch.equal(gpt2.state_dict()[name], tensor), name


def test_heads_other_than_a_language_model_need_text_given(gpt2, text):
    model = GPT2ForSequenceClassification(gpt2.config).eval()
    with pytest.raises(UndenseError, match="cannot write text"):
        convert_(model, "ultra-25")
    assert type(model) is GPT2ForSequenceClassification
    convert_(model, "ultra-25", calibration=text)
    assert type(model).__name__ == "UndenseGPT2ForSequenceClassification"


def test_a_plan_changes_nothing_and_agrees_with_the_conversion(llama, text, tmp_path):
    planned = plan(llama, "ultra-25", exclude="0")
    assert type(llama).__name__ == "LlamaForCausalLM"
    llama.config.save_pretrained(tmp_path)
    assert plan(tmp_path, "ultra-25", exclude="0") == planned
    assert plan(llama.config, "ultra-25", exclude="0") == planned
    done = convert_(llama, "ultra-25", exclude="0", calibration=text)
    assert done.flops_after == planned.flops_after
    (ffn,) = find_components(llama).values()
    assert sum(p.numel() for p in ffn.parameters()) == planned.parameters_after
    assert llama.num_parameters() == planned.model_parameters_after
    assert ffn.cost(1) == planned.sites[0].cost_after


def test_on_the_meta_device_it_is_converted_without_a_fit(gpt2):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpt2.config)
    told = convert_(model, "ultra-25")
    assert told.calibration == "none" and told.sites[0].relative_error is None
    assert model.config.model_type == "undense_gpt2"
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def refusals():
    class Mine(GPT2LMHeadModel):
        pass

    small = {"vocab_size": 97, "num_hidden_layers": 1}
    opt = OPTConfig(
        hidden_size=16, ffn_dim=16, num_attention_heads=2, word_embed_proj_dim=16, **small
    )
    gpt2 = GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4)
    return {
        "another family": (
            lambda: OPTForCausalLM(opt),
            "none",
            {},
            "'opt': its FFNs are not known",
        ),
        "a class of one's own": (lambda: Mine(gpt2), "none", {}, "Mine is not one of"),
        "no model": (lambda: nn.Linear(2, 2), "none", {}, "expected a Hugging Face model"),
        "an unknown FFN": (None, "ultraa-25", {}, "did you mean"),
        "a width that does not divide": (
            None,
            '{"component": "tensor_factor", "blocks": 7}',
            {},
            "blocks=7",
        ),
        "no such target": (None, "none", {"targets": "attn"}, "matches no FFN"),
        "statistics of other sites": (None, "none", {"calibration": {}}, "statistics given lack"),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_cannot_be_converted_is_refused_and_left_alone(gpt2, case):
    build, spec, options, message = refusals()[case]
    model = build() if build else gpt2
    before = type(model)
    with pytest.raises(UndenseError, match=message):
        convert_(model, spec, **options)
    assert type(model) is before
    assert not find_components(model)


def test_a_fit_that_fails_midway_leaves_the_model_as_it_was(gpt2, text, prompt):
    wanted = gpt2(prompt).logits
    gpt2.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    with pytest.raises(UndenseError, match=r"h\.1\.mlp\.c_fc\.weight"):
        convert_(gpt2, "none", calibration=text)
    assert type(gpt2) is GPT2LMHeadModel and len(find_sites(gpt2)) == 2
    gpt2.transformer.h[1].mlp.c_fc.weight.data[0, 0] = 0
    assert gpt2(prompt).logits.shape == wanted.shape
