import copy
import json

import pytest
import safetensors.torch
import torch

from undense.convert.convert import convert_
from undense.convert.ffns import load_ffns_, save_ffns
from undense.convert.revert import revert_
from undense.errors import UndenseError


@pytest.fixture
def saved(gpt2, text, tmp_path):
    """The FFNs of a converted copy of `gpt2`, and that copy."""
    converted = copy.deepcopy(gpt2)
    convert_(converted, "ultra-25", targets="1", calibration=text)
    return save_ffns(converted, tmp_path / "ffns"), converted


def test_into_the_dense_model_they_make_the_converted_one(gpt2, saved, prompt):
    folder, converted = saved
    assert sorted(path.name for path in folder.iterdir()) == ["ffns.json", "ffns.safetensors"]
    wanted = gpt2(prompt).logits
    load_ffns_(gpt2, folder)
    assert type(gpt2) is type(converted)
    assert torch.equal(gpt2(prompt).logits, converted(prompt).logits)
    assert [p.requires_grad for p in gpt2.transformer.h[1].mlp.parameters()] == [
        p.requires_grad for p in converted.transformer.h[1].mlp.parameters()
    ]
    revert_(gpt2)
    assert torch.equal(gpt2(prompt).logits, wanted)


def test_they_replace_other_ffns_and_what_training_made_of_them(saved, prompt):
    folder, model = saved
    wanted = model(prompt).logits
    for parameter in model.transformer.h[1].mlp.parameters():
        parameter.data += 1
    assert not torch.equal(model(prompt).logits, wanted)
    load_ffns_(model, folder)
    assert torch.equal(model(prompt).logits, wanted)


def test_the_base_model_takes_them_too(gpt2, saved, prompt):
    folder, converted = saved
    load_ffns_(gpt2.transformer, folder)
    wanted = converted.transformer(prompt).last_hidden_state
    assert torch.equal(gpt2.transformer(prompt).last_hidden_state, wanted)


def test_they_take_the_dtype_of_the_model(gpt2, saved):
    load_ffns_(gpt2.to(torch.bfloat16), saved[0])
    floating = {t.dtype for t in gpt2.state_dict().values() if t.is_floating_point()}
    assert floating == {torch.bfloat16}


def tensors(folder, change):
    found = safetensors.torch.load_file(folder / "ffns.safetensors")
    change(found)
    safetensors.torch.save_file(found, folder / "ffns.safetensors")


def description(folder, change):
    values = json.loads((folder / "ffns.json").read_text())
    change(values)
    (folder / "ffns.json").write_text(json.dumps(values))


KEY = "h.1.mlp.bias"
DAMAGE = {
    "missing tensor": (lambda f: tensors(f, lambda t: t.pop(sorted(t)[0])), "is missing"),
    "extra tensor": (
        lambda f: tensors(f, lambda t: t.update({"h.1.mlp.more": torch.zeros(1)})),
        r"h\.1\.mlp\.more is unexpected",
    ),
    "mis-shaped tensor": (
        lambda f: tensors(f, lambda t: t.update({sorted(t)[0]: torch.zeros(3, 5)})),
        r"is \(3, 5\), not \(",
    ),
    "truncated": (
        lambda f: (f / "ffns.safetensors").write_bytes((f / "ffns.safetensors").read_bytes()[:-4]),
        "truncated or damaged",
    ),
    "no tensors": (lambda f: (f / "ffns.safetensors").unlink(), "ffns.safetensors"),
    "no description": (lambda f: (f / "ffns.json").unlink(), "holds no saved FFNs"),
    "no JSON": (lambda f: (f / "ffns.json").write_text("{"), "holds no saved FFNs"),
    "another format": (lambda f: description(f, lambda v: v.update(format=9)), "not of format 1"),
    "another family": (
        lambda f: description(f, lambda v: v.update(family="llama")),
        "family='llama', but this one has 'gpt2'",
    ),
    "another width": (lambda f: description(f, lambda v: v.update(hidden_size=64)), "hidden_size"),
    "a site that is not there": (
        lambda f: description(f, lambda v: v["ffns"].update({"h.7.mlp": v["ffns"]["h.1.mlp"]})),
        r"'h\.7\.mlp', which this model does not have",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_does_not_fit_is_refused_and_the_model_left_alone(gpt2, saved, case, prompt):
    folder, _ = saved
    damage, message = DAMAGE[case]
    damage(folder)
    wanted, before = gpt2(prompt).logits, type(gpt2)
    with pytest.raises(UndenseError, match=message):
        load_ffns_(gpt2, folder)
    assert type(gpt2) is before
    assert torch.equal(gpt2(prompt).logits, wanted)


def test_a_dense_model_has_none_to_save(llama, tmp_path):
    with pytest.raises(UndenseError, match="holds no undense FFN"):
        save_ffns(llama, tmp_path / "ffns")
    assert not (tmp_path / "ffns").exists()


def test_saving_over_earlier_ones_replaces_them_and_nothing_else(saved, tmp_path):
    folder, model = saved
    save_ffns(model, folder)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UndenseError, match="not overwritten"):
        save_ffns(model, tmp_path / "notes")
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
