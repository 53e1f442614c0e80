import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaForCausalLM

from undense.convert.convert import convert_
from undense.convert.revert import revert_
from undense.convert.sites import find_components
from undense.errors import UndenseError


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reverting_gives_back_the_same_model_bit_by_bit(make, family, dtype, text, prompt):
    model = make(family).to(dtype)
    stock, config, wanted = type(model), model.config.to_dict(), model(prompt).logits
    convert_(model, "none", targets="0", calibration=text)
    convert_(model, "ultra-25", calibration=text)
    assert not torch.equal(model(prompt).logits, wanted)
    revert_(model)
    assert type(model) is stock
    assert model.config.to_dict() == config
    assert torch.equal(model(prompt).logits, wanted)


def test_the_kept_originals_are_no_part_of_the_model(gpt2, text, tmp_path):
    convert_(gpt2, "none", calibration=text)
    kept = [name for name in gpt2.state_dict() if ".mlp." in name]
    assert not kept
    assert not [name for name, _ in gpt2.named_parameters() if ".mlp." in name]
    gpt2.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 4 * 1.1 * gpt2.num_parameters() + 9000


def test_what_was_trained_meanwhile_stays(gpt2, text):
    convert_(gpt2, "none", calibration=text)
    gpt2.transformer.wte.weight.data += 1
    wanted = gpt2.transformer.wte.weight.clone()
    revert_(gpt2)
    assert torch.equal(gpt2.transformer.wte.weight, wanted)


def test_the_dense_ffns_take_the_dtype_and_mode_of_the_model(gpt2, text):
    convert_(gpt2, "none", calibration=text)
    gpt2.to(torch.bfloat16).train()
    revert_(gpt2)
    assert {p.dtype for p in gpt2.parameters()} == {torch.bfloat16}
    assert gpt2.transformer.h[0].mlp.dropout.training


def test_after_a_reload_the_dense_model_must_be_named(gpt2, text, prompt, tmp_path):
    gpt2.save_pretrained(tmp_path / "dense")
    wanted = gpt2(prompt).logits
    convert_(gpt2, "ultra-25", calibration=text)
    gpt2.save_pretrained(tmp_path / "converted")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    with pytest.raises(UndenseError, match=r"h\.0\.mlp.*not in memory.*source="):
        revert_(again)
    assert len(find_components(again)) == 2
    revert_(again, tmp_path / "dense")
    assert type(again) is GPT2LMHeadModel
    assert torch.equal(again(prompt).logits, wanted)


def test_without_keeping_there_is_nothing_to_revert_to(llama, text):
    convert_(llama, "none", calibration=text, keep_dense=False)
    with pytest.raises(UndenseError, match="keep_dense=False"):
        revert_(llama)


def test_a_source_that_is_not_the_dense_model_is_refused(gpt2, llama, text, tmp_path):
    convert_(gpt2, "none", calibration=text)
    gpt2.save_pretrained(tmp_path / "converted")
    with pytest.raises(UndenseError, match="Auto class"):
        revert_(gpt2, tmp_path / "converted")
    other = copy.deepcopy(llama.config)
    other.hidden_size, other.head_dim = 24, 6
    LlamaForCausalLM(other).save_pretrained(tmp_path / "narrower")
    convert_(llama, "none", calibration=text)
    with pytest.raises(UndenseError, match="hidden_size=24 but this model has 48"):
        revert_(llama, tmp_path / "narrower")
    with pytest.raises(UndenseError, match="nowhere"):
        revert_(llama, tmp_path / "nowhere")


def test_a_dense_folder_that_lacks_weights_is_refused(gpt2, text, tmp_path):
    gpt2.save_pretrained(tmp_path, state_dict={"transformer.wte.weight": torch.zeros(97, 48)})
    convert_(gpt2, "none", calibration=text)
    with pytest.raises(UndenseError, match="missing"):
        revert_(gpt2, tmp_path)


def test_reverting_a_dense_model_changes_nothing(gpt2, prompt):
    wanted = gpt2(prompt).logits
    revert_(gpt2)
    assert torch.equal(gpt2(prompt).logits, wanted)
