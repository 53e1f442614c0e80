import copy
import pickle

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2DoubleHeadsModel,
)

from undense.convert import classes
from undense.convert.classes import model_class, stock_class
from undense.convert.convert import convert_
from undense.convert.revert import revert_
from undense.errors import UndenseError


def test_a_class_of_any_head_can_be_made_and_imported():
    cls = model_class(GPT2DoubleHeadsModel)
    assert cls is classes.UndenseGPT2DoubleHeadsModel
    assert cls.__module__ == classes.__name__
    for name in ("UndenseNothing", "UndenseGPT2Config", "nothing"):
        with pytest.raises((AttributeError, UndenseError)):
            getattr(classes, name)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_saved_and_loaded_by_auto_class_the_logits_are_bit_identical(
    make, family, text, prompt, tmp_path
):
    model = make(family)
    convert_(model, "ultra-25", calibration=text, targets="1")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again(prompt).logits, model(prompt).logits)
    assert again.config.undense == model.config.undense


def test_bf16_shards_and_tied_embeddings_survive(gpt2, text, prompt, tmp_path):
    gpt2.to(torch.bfloat16)
    convert_(gpt2, "ultra-all-25", calibration=text)
    gpt2.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again(prompt).logits, gpt2(prompt).logits)
    assert again.lm_head.weight is again.transformer.wte.weight


def test_the_backbone_can_take_another_head(gpt2, text, prompt, tmp_path):
    convert_(gpt2, "ultra-25", calibration=text)
    gpt2.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    wanted = gpt2.transformer(prompt).last_hidden_state
    assert torch.equal(base(prompt).last_hidden_state, wanted)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert type(classifier).__name__ == "UndenseGPT2ForSequenceClassification"
    assert torch.equal(classifier.transformer(prompt).last_hidden_state, wanted)
    base.save_pretrained(tmp_path / "base")
    language = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert torch.equal(language(prompt).logits, gpt2(prompt).logits)


def test_a_model_built_from_the_config_has_the_ffns_freshly_started(gpt2, text):
    convert_(gpt2, "tensor_factor-25", calibration=text)
    fresh = AutoModelForCausalLM.from_config(gpt2.config)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {
        n: t.shape for n, t in gpt2.state_dict().items()
    }
    weight = fresh.transformer.h[0].mlp.up.weight
    # the component's own start, sqrt(1 / inputs of a block), not the host's 0.15
    assert float(weight.detach().std()) == pytest.approx((48 / 4) ** -0.5, rel=0.1)


def test_a_site_that_the_model_lacks_is_named(gpt2, text):
    convert_(gpt2, "none", calibration=text)
    config = copy.deepcopy(gpt2.config)
    config.n_layer = 1
    with pytest.raises(UndenseError, match=r"records an FFN at 'h\.1\.mlp'.*it has h\.0\.mlp"):
        AutoModelForCausalLM.from_config(config)


def test_a_converted_model_can_be_copied_and_pickled(llama, text, prompt):
    convert_(llama, "ultra-25", calibration=text)
    for twin in (copy.deepcopy(llama), pickle.loads(pickle.dumps(llama))):
        assert torch.equal(twin(prompt).logits, llama(prompt).logits)
        assert stock_class(twin) is stock_class(llama)
        revert_(twin)  # the dense FFNs went along
        assert type(twin) is stock_class(llama)
    assert type(llama) is not stock_class(llama)
