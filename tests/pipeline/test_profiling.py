"""A whole model's profile: parts that sum to the whole, FLOPs that are the counter's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from undense.convert.convert import convert_
from undense.convert.folders import save
from undense.measure.flops import count_flops
from undense.pipeline.load import load_model
from undense.pipeline.profiling import FILES, ProfileSettings, profile_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    ids = torch.randint(50, (8, 32))
    convert_(model, "ultra-all-60", calibration=ids, keep_dense=False)
    save(model, tmp_path / "model")
    return tmp_path / "model"


def test_parts_sum_to_the_whole(folder: Path, tmp_path: Path) -> None:
    settings = ProfileSettings(model=str(folder), tokens=32, rounds=2, warmup=1)
    result = profile_model(settings, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    assert json.loads((tmp_path / "out/profile.json").read_text()) == result
    parts = {row["part"]: row for row in result["parts"]}
    assert sum(row["time_share"] for row in parts.values()) == pytest.approx(1)
    assert sum(row["flops"] for row in parts.values()) == result["flops"]
    model = load_model(str(folder))
    ids = torch.zeros(1, 32, dtype=torch.long)
    with torch.no_grad():
        count = count_flops(lambda: model(input_ids=ids, use_cache=False), model=model)
    ffns = [count.tree.part(f"transformer.h.{layer}.mlp").forward for layer in (0, 1)]
    assert parts["ffn"]["flops"] == sum(ffns)
    assert parts["head"]["flops"] == 2 * 32 * 32 * 50
    assert parts["norms"]["flops"] == 5 * 8 * 32 * 32
    inside = {(row["part"], row["component"]): row for row in result["components"]}
    assert inside["ffn", "stages.spectral"]["calls"] == 2
    assert inside["attention", "c_attn"]["flops"] == 2 * (2 * 32 * 32 + 32) * 96
