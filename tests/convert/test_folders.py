import errno
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from undense.convert.convert import convert_
from undense.convert.folders import load, save
from undense.errors import UndenseError


def test_a_saved_model_is_a_stock_folder_with_what_was_added(gpt2, text, prompt, tmp_path):
    convert_(gpt2, "ultra-25", calibration=text)
    vocabulary = {f"w{i}": i for i in range(97)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1")
    folder = save(gpt2, tmp_path / "out", tokenizer=tokenizer, files={"recipe.json": "{}"})
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert torch.equal(load(folder)(prompt).logits, gpt2(prompt).logits)
    assert AutoTokenizer.from_pretrained(folder)("w5").input_ids == [5]


def test_what_is_never_saved_is_filled_again(gpt2, text, prompt, tmp_path):
    convert_(gpt2, "random_projection", calibration=text)
    folder = save(gpt2, tmp_path / "out")
    assert not [name for name in gpt2.state_dict() if "places" in name]
    assert torch.equal(load(folder)(prompt).logits, gpt2(prompt).logits)


def test_stock_models_are_saved_and_loaded_as_well(llama, prompt, tmp_path):
    save(llama, tmp_path / "out")
    again = load(tmp_path / "out")
    assert type(again) is type(llama)
    assert torch.equal(again(prompt).logits, llama(prompt).logits)
    base = load(tmp_path / "out", auto=AutoModel, dtype=torch.bfloat16)
    assert type(base).__name__ == "LlamaModel" and base.dtype == torch.bfloat16


def test_an_earlier_model_is_replaced_whole(gpt2, llama, tmp_path):
    save(gpt2, tmp_path / "out", files={"old.md": "old"})
    save(llama, tmp_path / "out")
    assert load(tmp_path / "out").config.model_type == "llama"
    assert not (tmp_path / "out" / "old.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_may_be_used(gpt2, tmp_path):
    (tmp_path / "out").mkdir()
    assert load(save(gpt2, tmp_path / "out")).config.n_layer == 2


def holding(name, is_folder):
    def build(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}") if is_folder else None
        (folder / name).mkdir() if is_folder else (folder / name).write_text("mine")

    return build


@pytest.mark.parametrize(
    ("occupy", "message"),
    [
        (holding("thesis.txt", False), "has no config.json, so it is not overwritten"),
        (holding("checkpoint-500", True), r"has folders in it \(checkpoint-500\)"),
        (lambda folder: folder.write_text("mine"), "is a file"),
    ],
)
def test_what_is_no_plain_model_folder_is_not_overwritten(gpt2, tmp_path, occupy, message):
    folder = tmp_path / "out"
    occupy(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UndenseError, match=message):
        save(gpt2, folder)
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@contextmanager
def largest_file(size):
    """The nearest that a test comes to a full disk: writing past `size` bytes fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_disk_that_is_full_leaves_nothing_behind(gpt2, llama, prompt, tmp_path):
    save(llama, tmp_path / "there")
    for name in ("there", "new"):
        with largest_file(100_000), pytest.raises(UndenseError, match=r"cannot write .*File too"):
            save(gpt2, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert torch.equal(load(tmp_path / "there")(prompt).logits, llama(prompt).logits)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interruption_midway_leaves_what_was_there(gpt2, llama, tmp_path, monkeypatch, error):
    save(llama, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def interrupted(folder):
        (folder / "config.json").write_text("half")
        raise error

    monkeypatch.setattr(gpt2, "save_pretrained", interrupted)
    expected = UndenseError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save(gpt2, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_rename_that_fails_puts_the_old_folder_back(gpt2, llama, prompt, tmp_path, monkeypatch):
    save(llama, tmp_path / "out")
    rename = Path.rename

    def refuse_the_new(self, target):
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(UndenseError, match="cannot write"):
        save(gpt2, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert torch.equal(load(tmp_path / "out")(prompt).logits, llama(prompt).logits)


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"no config\.json \(it holds generation_config"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot load"),
        (write("model.safetensors", ""), "truncated or damaged"),
        (write("config.json", "{"), r"config\.json"),
        (write("config.json", "[]"), r"config\.json"),
        (write("config.json", '{"model_type": "llamma"}'), "llamma"),
        (write("config.json", '{"model_type": "llama", "hidden_size": "wide"}'), "hidden_size"),
        (write("config.json", '{"model_type": "gpt2", "n_embd": 48}'), "missing"),
    ],
)
def test_a_folder_that_is_no_sound_model_is_one_clear_error(llama, tmp_path, damage, message):
    folder = save(llama, tmp_path / "out")
    damage(folder)
    with pytest.raises(UndenseError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_at_all_is_one_clear_error(tmp_path):
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(UndenseError, match="it is a file"):
        load(tmp_path / "model.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UndenseError, match="it holds nothing"):
        load(tmp_path / "empty")
    with pytest.raises(UndenseError, match=r"cannot load .*nowhere"):
        load(tmp_path / "nowhere")
