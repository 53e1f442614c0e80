import json

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2LMHeadModel

from undense.convert.convert import convert_
from undense.errors import UndenseError


@pytest.fixture
def folder(gpt2, text, tmp_path):
    """A converted model on disk."""
    convert_(gpt2, "narrow-50", calibration=text)
    gpt2.save_pretrained(tmp_path)
    return tmp_path


def edit(folder, change):
    """Apply `change` to the dictionary of saved tensors."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


KEY = "transformer.h.1.mlp.up.weight"
EDITS = {
    "a missing FFN weight": (lambda t: t.pop(KEY), rf"1 missing: {KEY}"),
    "a missing weight of the host": (
        lambda t: t.pop("transformer.h.0.ln_1.weight"),
        r"1 missing: transformer\.h\.0\.ln_1\.weight",
    ),
    "an extra weight": (
        lambda t: t.update({"transformer.h.1.mlp.gate.weight": torch.zeros(2)}),
        r"1 unexpected: transformer\.h\.1\.mlp\.gate\.weight",
    ),
    "another shape": (
        lambda t: t.update({KEY: t[KEY][:, :-1].contiguous()}),
        rf"1 of another shape: {KEY} \(file \(1, 94, 48\), model \(1, 95, 48\)\)",
    ),
    "a dense FFN in place of the component": (
        lambda t: t.update({"transformer.h.1.mlp.c_fc.weight": t.pop(KEY)}),
        r"1 missing: .*up\.weight; 1 unexpected: .*c_fc\.weight",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_keys_that_do_not_match_are_errors_that_name_them(folder, case, caplog):
    change, message = EDITS[case]
    edit(folder, change)
    with pytest.raises(UndenseError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)
    assert "LOAD REPORT" not in caplog.text  # the error said it


def test_many_keys_are_counted_and_some_named(folder):
    edit(folder, lambda t: [t.pop(key) for key in list(t) if ".mlp." in key])
    with pytest.raises(UndenseError, match=r"8 missing: .* and 2 more"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_another_head_may_be_new_but_the_backbone_may_not(folder, caplog):
    AutoModelForSequenceClassification.from_pretrained(folder)
    assert "LOAD REPORT" in caplog.text  # transformers' own word on the new head
    edit(folder, lambda t: t.pop(KEY))
    with pytest.raises(UndenseError, match=KEY):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_a_head_of_another_size_is_accepted_only_when_asked(folder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model.save_pretrained(tmp_path / "two")
    load = AutoModelForSequenceClassification.from_pretrained
    with pytest.raises(UndenseError, match=r"score\.weight \(file \(2, 48\), model \(3, 48\)\)"):
        load(tmp_path / "two", num_labels=3)
    three = load(tmp_path / "two", num_labels=3, ignore_mismatched_sizes=True)
    assert three.score.weight.shape == (3, 48)


def test_the_ffn_in_the_config_must_be_that_of_the_weights(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["undense"]["ffns"]["h.0.mlp"]["hidden"] = 7
    path.write_text(json.dumps(values))
    with pytest.raises(UndenseError, match=r"h\.0\.mlp\.up\.weight \(file .*, model \(1, 7, 48\)"):
        AutoModelForCausalLM.from_pretrained(folder)
    values["undense"]["ffns"]["h.0.mlp"]["component"] = "densse"
    path.write_text(json.dumps(values))
    with pytest.raises(UndenseError, match="did you mean dense"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_a_truncated_file_is_one_clear_error(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UndenseError, match="truncated or damaged") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_file_of_garbage_is_one_clear_error(folder):
    (folder / "model.safetensors").write_bytes(b"garbage " * 100)
    with pytest.raises(UndenseError, match="truncated or damaged"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_a_folder_without_weights_is_one_clear_error(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UndenseError, match=r"the folder holds: config\.json"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_the_loading_info_is_given_when_asked(folder, prompt):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert isinstance(model, GPT2LMHeadModel)


def test_a_stock_class_refuses_a_converted_folder(folder):
    with pytest.raises(UndenseError, match="random weights; load it with an Auto class"):
        GPT2LMHeadModel.from_pretrained(folder)
