"""A run that the system kills goes on to the weights of one that was never interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from undense.pipeline.pretraining import build_from
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = {"component": "block_topk", "hidden": 64, "block": 8, "chosen": 2}
CASES: dict[str, dict[str, Any]] = {
    "gpt2, dense, in a step": {"host": "gpt2"},
    "gpt2, block_topk, guided, bf16, in a step": {
        "host": "gpt2",
        "ffn": BLOCKS,
        "guide": 0.9,
        "dtype": "bf16",
    },
    "llama, block_topk, bf16, in a saving": {
        "host": "llama",
        "ffn": {**BLOCKS, "gated": True},
        "dtype": "bf16",
        "factor_rates": True,
    },
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PretrainRecipe, Path]]:
    """Every case, begun and killed."""
    text, runs = (tmp_path_factory.mktemp(name) for name in ("text", "runs"))
    for number in range(30):
        (text / f"{number}.txt").write_text(f"def f{number}(x):\n    return x\n" * 40)
    tiny = PretrainRecipe(
        hidden_size=32, layers=2, heads=2, context=16, vocab_size=280, data=str(text), steps=6,
        batch=4, save_every=2, eval_every=3, log_every=1, eval_limit=4,
    )  # fmt: skip
    recipes = {name: replace(tiny, **values) for name, values in CASES.items()}
    jobs = [
        {
            "recipe": recipe.to_dict(),
            "folder": str(runs / str(number)),
            "moment": name.rpartition(" ")[2],
        }
        for number, (name, recipe) in enumerate(recipes.items())
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_run.py"))],
        input=json.dumps(jobs),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    ends = [line for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert ends == [str(-signal.SIGKILL)] * len(jobs), done.stderr[-2000:]
    return {name: (recipes[name], runs / str(n)) for n, name in enumerate(recipes)}


@pytest.mark.parametrize("name", CASES)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(
    killed: dict[str, tuple[PretrainRecipe, Path]], tmp_path: Path, name: str
) -> None:
    recipe, folder = killed[name]
    kept = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]
    assert (folder / "checkpoint-4" / "trainer_state.json").exists() == name.endswith("step")
    assert not (folder / "metrics.json").exists()
    again = pretrain(recipe, folder, build=build_from)
    whole = pretrain(recipe, tmp_path / "whole", build=build_from)
    one, other = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    seconds = [metrics.pop("training_seconds") for metrics in (again, whole)]
    assert again == whole
    assert min(seconds) > 0
