import pytest
import torch
from torch import nn
from transformers import GPT2Model

from undense.convert.convert import convert_
from undense.convert.settle import settle_
from undense.convert.sites import find_sites
from undense.errors import UndenseError
from undense.ffn import NoFFN, SparseSpectral


def test_class_and_config_follow_the_modules_both_ways(gpt2):
    stock, config = type(gpt2), gpt2.config
    dense = gpt2.transformer.h[0].mlp
    gpt2.transformer.h[0].mlp = SparseSpectral(48, SparseSpectral.Config(k_freq=3))
    settle_(gpt2)
    assert gpt2.config.undense["ffns"]["h.0.mlp"]["k_freq"] == 3
    gpt2.transformer.h[0].mlp = NoFFN(48, NoFFN.Config())
    settle_(gpt2)
    assert gpt2.config.undense["ffns"] == {"h.0.mlp": {"component": "none"}}
    gpt2.transformer.h[0].mlp = dense
    settle_(gpt2)
    assert type(gpt2) is stock and type(gpt2.config) is type(config)
    assert gpt2.config.to_dict() == config.to_dict()


def test_what_users_added_to_the_config_stays(gpt2):
    gpt2.config.pad_token_id = 5
    gpt2.config.my_note = "mine"
    gpt2.transformer.h[0].mlp = NoFFN(48, NoFFN.Config())
    settle_(gpt2)
    assert gpt2.config.pad_token_id == 5 and gpt2.config.my_note == "mine"


def test_a_base_model_converted_by_itself_belongs_to_its_head_again(gpt2, text):
    convert_(gpt2.transformer, "none", targets="0", calibration=text)
    assert type(gpt2.transformer).__name__ == "UndenseGPT2Model"
    settle_(gpt2)
    assert type(gpt2).__name__ == "UndenseGPT2LMHeadModel"
    assert type(gpt2.transformer) is GPT2Model
    assert gpt2.config is gpt2.transformer.config is gpt2.transformer.h[1].attn.config
    assert list(gpt2.config.undense["ffns"]) == ["h.0.mlp"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: nn.Sequential(NoFFN(48, NoFFN.Config())), "has no FFN"),
        (lambda: NoFFN(64, NoFFN.Config()), "dim=64.*48 features"),
    ],
)
def test_what_could_not_be_built_again_is_refused_and_nothing_changed(gpt2, wrong, message):
    stock = type(gpt2)
    gpt2.transformer.h[1].mlp = wrong()
    with pytest.raises(UndenseError, match=message):
        settle_(gpt2)
    assert type(gpt2) is stock and gpt2.config.model_type == "gpt2"


def test_a_model_that_holds_no_component_is_left_as_it_is(llama, prompt):
    config, wanted = llama.config.to_dict(), llama(prompt).logits
    settle_(llama)
    assert llama.config.to_dict() == config
    assert torch.equal(llama(prompt).logits, wanted)
    assert len(find_sites(llama)) == 2
