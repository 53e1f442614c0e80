"""A spectral model is pretrained from a recipe like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from undense.errors import UndenseError
from undense.models.spectral import SpectralForCausalLM
from undense.pipeline.live import blocks_of
from undense.pipeline.pretraining import pretrain_from
from undense.train.recipe import PretrainRecipe


def test_a_recipe_makes_a_spectral_model(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"def f{number}(x):\n    return x\n" * 40)
    recipe = PretrainRecipe(
        host="spectral", mixer="attention", ffn="ultra-50", hidden_size=32, layers=2, heads=2,
        context=16, vocab_size=280, data=str(tmp_path), steps=3, batch=2, eval_limit=8,
    )  # fmt: skip
    metrics = pretrain_from(recipe, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert isinstance(model, SpectralForCausalLM)
    assert model.config.ffn["component"] == "ultra"
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    blocks = blocks_of(model)
    assert [block.layer for block in blocks] == [0, 1]
    assert all(0 < b.cost(16).forward <= 0.5 * b.dense(16).forward for b in blocks)
    torch.testing.assert_close(model.lm_head.weight, model.model.embed_tokens.weight)


def test_a_mixer_in_another_host_is_refused() -> None:
    with pytest.raises(UndenseError, match="host='spectral'"):
        PretrainRecipe(mixer="attention")
