import json
from pathlib import Path

import pytest
import torch

from undense.errors import UndenseError
from undense.train import tiny
from undense.train.recipe import PretrainRecipe
from undense.train.tiny import TINY_FOLDER, tiny_model, tiny_tokenizer

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "tiny-gpt2.json"
LIMIT = 6_000_000


def test_the_bundled_weights_are_those_of_the_recipe():
    assert PretrainRecipe.load(TINY_FOLDER / "recipe.json") == PretrainRecipe.load(RECIPE)


def test_the_bundled_files_stay_small():
    assert all(path.stat().st_size < LIMIT for path in TINY_FOLDER.iterdir())


def test_the_tiny_model_loads_as_float32_and_knows_some_python():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ids = tokenizer("import os\nimport sys\nfrom collections import", return_tensors="pt")
    with torch.no_grad():
        losses = model(input_ids=ids["input_ids"], labels=ids["input_ids"]).loss
    assert losses < 4.0  # a uniform guess costs 7.6


def test_the_card_shows_the_metrics():
    metrics = json.loads((TINY_FOLDER / "metrics.json").read_text())
    card = (TINY_FOLDER / "README.md").read_text()
    assert "undense train --recipe recipes/tiny-gpt2.json" in card
    assert metrics["corpus"]["python_version"] in card
    for loss in (metrics["loss"], *metrics["baselines"].values()):
        assert f"| {loss:.4f} |" in card


def test_a_missing_folder_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "TINY_FOLDER", tmp_path)
    with pytest.raises(UndenseError, match="bundled tiny model is missing"):
        tiny_model()
