import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from undense.convert.adopt import guard
from undense.errors import UndenseError
from undense.ffn import NoFFN, SparseSpectral, UltraEfficientSparseFFN


def by_hand(model):
    """The swap that people write."""
    for layer in model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers:
        layer.mlp = UltraEfficientSparseFFN(d=48, k_freq=3)
    return model.eval()


def model_type(folder):
    return json.loads((folder / "config.json").read_text())["model_type"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_swap_by_hand_is_saved_as_what_it_is(make, family, prompt, tmp_path, caplog):
    model = by_hand(make(family))
    wanted = model(prompt).logits
    model.save_pretrained(tmp_path)
    assert model_type(tmp_path) == f"undense_{family}"
    assert "holds 2 undense FFNs or mixers" in caplog.text
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(prompt).logits, wanted)


def test_a_base_model_swapped_by_hand(gpt2, prompt, tmp_path):
    model = by_hand(gpt2.transformer)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(again(prompt).last_hidden_state, model(prompt).last_hidden_state)


def test_a_swap_by_hand_in_a_converted_model_is_recorded_when_saved(gpt2, text, prompt, tmp_path):
    by_hand(gpt2).save_pretrained(tmp_path)
    gpt2.transformer.h[1].mlp = NoFFN(48, NoFFN.Config())
    gpt2.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again.transformer.h[1].mlp, NoFFN)
    assert torch.equal(again(prompt).logits, gpt2(prompt).logits)


def test_trainers_save_is_covered(gpt2, prompt, tmp_path):
    model = by_hand(gpt2)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    Trainer(model=model, args=arguments).save_model(str(tmp_path / "out"))
    assert model_type(tmp_path / "out") == "undense_gpt2"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(again(prompt).logits, model(prompt).logits)


def test_stock_models_are_saved_as_ever(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    assert model_type(tmp_path) == "llama"
    assert type(llama).__name__ == "LlamaForCausalLM"


class Mine(GPT2LMHeadModel):
    """A user's class of a stock model type."""


SMALL = {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 1, "n_head": 2}


class MyConfig(GPT2Config):
    """A user's config of the stock type."""


class MineToo(GPT2LMHeadModel):
    config_class = MyConfig


def opt():
    config = OPTConfig(
        vocab_size=97,
        hidden_size=48,
        ffn_dim=48,
        num_attention_heads=2,
        num_hidden_layers=1,
        word_embed_proj_dim=48,
    )
    model = OPTForCausalLM(config)
    model.model.decoder.layers[0].fc1 = SparseSpectral(48, SparseSpectral.Config(k_freq=2))
    return model


def wrapped(gpt2):
    gpt2.transformer.h[0].mlp = nn.Sequential(NoFFN(48, NoFFN.Config()), nn.Dropout(0.1))
    return gpt2


REFUSED = {
    "another family": (lambda gpt2: opt(), "'opt': its FFNs are not known"),
    "inside another module": (wrapped, "has no FFN"),
    "a config of one's own": (
        lambda gpt2: by_hand(MineToo(MyConfig(**SMALL))),
        "MineToo is not one of",
    ),
    "a user's own class": (lambda gpt2: by_hand(Mine(gpt2.config)), "Mine is not one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_not_be_built_again_is_not_saved(gpt2, case, tmp_path):
    build, message = REFUSED[case]
    model = build(gpt2)
    with pytest.raises(UndenseError, match=f"not saved, because.*{message}.*save_ffns"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


class OwnConfig(PreTrainedConfig):
    model_type = "test_own"


class OwnModel(PreTrainedModel):
    """A model of its own type that builds what it holds, as ours in `models/` do."""

    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.ffn = NoFFN(8, NoFFN.Config())
        self.out = nn.Linear(8, 8)
        self.post_init()


def test_models_of_a_type_of_their_own_are_left_alone(tmp_path):
    OwnModel(OwnConfig()).save_pretrained(tmp_path)
    assert model_type(tmp_path) == "test_own"


def test_the_guard_stands_once():
    before = PreTrainedModel.save_pretrained
    guard()
    assert PreTrainedModel.save_pretrained is before
    assert before.__wrapped__.__module__ == "transformers.modeling_utils"
    assert before.__doc__ and "Save a model" in before.__doc__
