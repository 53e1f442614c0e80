"""The single steps: folder in, folder out, and an interrupted one continues as itself only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from undense.errors import UndenseError
from undense.pipeline.steps import (
    ConvertSettings,
    DataSettings,
    TrainSettings,
    convert,
    distill_folder,
    evaluate,
    finetune_folder,
    read_recipe,
)
from undense.train.settings import DistillSettings, FinetuneSettings
from undense.train.tokens import train_tokenizer

LINES = [f"def f{n}(x):\n    return x + {n}\n" * 30 for n in range(30)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense model with its tokenizer, text, and a converted folder."""
    root = tmp_path_factory.mktemp("steps")
    (root / "text").mkdir()
    for number, line in enumerate(LINES):
        (root / "text" / f"{number}.txt").write_text(line)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(root / "dense")
    train_tokenizer(LINES, vocab_size=300, context=32).save_pretrained(root / "dense")
    settings = ConvertSettings(model=str(root / "dense"), ffn="narrow-50", data=data(root))
    convert(settings, root / "converted")
    return root


def data(root: Path) -> DataSettings:
    return DataSettings(path=str(root / "text"), context=32, eval_blocks=4, calibration_blocks=16)


def source(root: Path, folder: str = "converted") -> TrainSettings:
    return TrainSettings(model=str(root / folder), data=data(root))


def test_a_converted_folder_says_what_it_is(place: Path) -> None:
    folder = place / "converted"
    recipe = read_recipe(str(folder))
    assert recipe["source"] == str(place / "dense")
    assert [step["step"] for step in recipe["steps"]] == ["convert"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["ffn_flops_per_token"] == sum(metrics["ffn_flops_by_site"].values()) / 2
    assert metrics["loss"] == evaluate(str(folder), data(place))["loss"]
    assert set(metrics["forward_ms"]) == {"1", "16", "128", "512"}
    for time in metrics["forward_ms"].values():
        low, high = time["iqr"]
        assert 0 < low <= time["median"] <= high
    assert "import undense" in (folder / "README.md").read_text()


def test_distilling_then_fine_tuning_adds_to_the_recipe(place: Path) -> None:
    short = DistillSettings(steps=2, batch=2)
    distill_folder(source(place), short, place / "distilled")
    tuned = FinetuneSettings(steps=2, batch=2)
    finetune_folder(source(place, "distilled"), tuned, place / "tuned")
    steps = [step["step"] for step in read_recipe(str(place / "tuned"))["steps"]]
    assert steps == ["convert", "distill", "finetune"]
    assert not list(place.glob("*.work"))


@pytest.mark.parametrize("step", ["distill", "finetune"])
def test_the_state_of_another_step_is_refused(
    place: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    out = place / f"cut-{step}"
    with monkeypatch.context() as patch:
        patch.setattr("undense.pipeline.steps._save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(step, source(place), 2, out)
    assert not out.exists()
    assert out.with_name(f"{out.name}.work").is_dir()
    with pytest.raises(UndenseError, match="differs in training"):
        _run(step, source(place), 3, out)
    _run(step, source(place), 2, out)
    assert (out / "model.safetensors").is_file()
    assert not out.with_name(f"{out.name}.work").exists()


@pytest.mark.parametrize("step", ["distill", "finetune"])
def test_a_step_cut_off_before_its_first_state_leaves_nothing(
    place: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"undense.pipeline.steps.{step}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(step, source(place), 2, place / "deep" / "down" / "out")
    assert not (place / "deep").exists()


def _run(step: str, settings: TrainSettings, steps: int, out: Path) -> None:
    if step == "distill":
        distill_folder(settings, DistillSettings(steps=steps, batch=2), out)
    else:
        finetune_folder(settings, FinetuneSettings(steps=steps, batch=2, save_every=1), out)


def test_a_folder_that_is_there_is_not_overwritten(place: Path) -> None:
    with pytest.raises(UndenseError, match="already exists"):
        convert(ConvertSettings(model="tiny"), place / "dense")
