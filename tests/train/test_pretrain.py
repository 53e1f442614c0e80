import dataclasses
import json
import math
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from interrupted import KilledAt
from undense.errors import UndenseError
from undense.train.build import build_model
from undense.train.corpus import load_corpus
from undense.train.heldout import heldout_loss
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import BlockDataset, batches_hash, encode

pytestmark = pytest.mark.usefixtures("one_thread")


class SteppedFrom(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


@pytest.fixture(scope="module")
def recipe(text_folder) -> PretrainRecipe:
    return PretrainRecipe(
        hidden_size=16,
        layers=1,
        heads=2,
        context=16,
        vocab_size=280,
        data=str(text_folder),
        steps=6,
        batch=4,
        learning_rate=1e-2,
        save_every=3,
        eval_every=6,
        log_every=1,
        eval_limit=8,
    )


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, pretrain(recipe, folder)


def _weights(folder):
    return load_file(folder / "model.safetensors")


def _same_weights(one, two) -> bool:
    one, two = _weights(one), _weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_ends_with_a_stock_folder_and_its_metrics(finished, recipe):
    folder, metrics = finished
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert PretrainRecipe.load(folder / "recipe.json") == recipe
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.use_cache
    tokenizer = AutoTokenizer.from_pretrained(folder)
    heldout = encode(load_corpus(recipe.data), "heldout", tokenizer)
    dataset = BlockDataset(heldout, recipe.context, limit=recipe.eval_limit)
    assert metrics["loss"] == heldout_loss(model, dataset)
    assert metrics["perplexity"] == math.exp(metrics["loss"])
    assert metrics["batches_sha256"] == batches_hash(dataset)
    assert not list(folder.glob(".*"))


def test_the_card_shows_the_loss_beside_the_ngrams(finished):
    folder, metrics = finished
    card = (folder / "README.md").read_text()
    assert list(metrics["baselines"]) == ["unigram", "bigram", "5-gram"]
    for loss in (metrics["loss"], *metrics["baselines"].values()):
        assert f"| {loss:.4f} |" in card


def test_training_lowers_the_loss(finished, recipe):
    folder, metrics = finished
    tokenizer = AutoTokenizer.from_pretrained(folder)
    heldout = encode(load_corpus(recipe.data), "heldout", tokenizer)
    dataset = BlockDataset(heldout, recipe.context, limit=recipe.eval_limit)
    assert metrics["loss"] < heldout_loss(build_model(recipe, tokenizer), dataset) - 0.05


def test_the_trainers_own_heldout_loss_is_ours(finished):
    folder, metrics = finished
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    logged = next(entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry)
    assert logged == pytest.approx(metrics["loss"], rel=1e-5)


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(
    recipe, finished, tmp_path, killed_at
):
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path, callbacks=[KilledAt(killed_at)])
    assert not (tmp_path / "metrics.json").exists()
    # As a kill in the middle of a save leaves it: weights, but no state.
    half_written = tmp_path / "checkpoint-4"
    shutil.copytree(tmp_path / "checkpoint-3", half_written)
    (half_written / "trainer_state.json").unlink()
    steps = SteppedFrom()
    again = pretrain(recipe, tmp_path, callbacks=[steps])
    assert steps.steps == [3, 4, 5]
    seconds = [metrics.pop("training_seconds") for metrics in (again, dict(finished[1]))]
    assert again == {k: v for k, v in finished[1].items() if k != "training_seconds"}
    assert all(0 < s < 60 for s in seconds)
    assert _same_weights(tmp_path, finished[0])


def test_running_a_finished_folder_again_trains_no_further(recipe, finished, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished[0], folder)
    steps = SteppedFrom()
    assert pretrain(recipe, folder, callbacks=[steps]) == finished[1]
    assert steps.steps == []
    assert _same_weights(folder, finished[0])


def test_another_seed_gives_other_weights(recipe, finished, tmp_path):
    pretrain(dataclasses.replace(recipe, seed=1), tmp_path)
    assert not _same_weights(tmp_path, finished[0])


def test_a_folder_of_another_recipe_is_refused_by_field(recipe, finished):
    with pytest.raises(UndenseError, match="another run \\(differs in learning_rate, seed\\)"):
        pretrain(dataclasses.replace(recipe, seed=1, learning_rate=0.1), finished[0])


def test_a_folder_with_checkpoints_is_not_started_over(recipe, finished):
    with pytest.raises(UndenseError, match="already holds checkpoint-6"):
        pretrain(recipe, finished[0], resume=False)


def test_weights_stored_in_half_load_as_float32_and_are_what_was_evaluated(recipe, tmp_path):
    half = dataclasses.replace(recipe, stored="fp16", steps=1, host="llama", dtype="bf16")
    metrics = pretrain(half, tmp_path)
    assert {tensor.dtype for tensor in _weights(tmp_path).values()} == {torch.float16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    heldout = encode(load_corpus(recipe.data), "heldout", tokenizer)
    dataset = BlockDataset(heldout, recipe.context, limit=recipe.eval_limit)
    assert metrics["loss"] == heldout_loss(model, dataset)


def test_rates_and_scales_of_the_recipe_reach_the_run(recipe, tmp_path):
    """At a rate of zero nothing moves: the start is what is saved."""
    still = dataclasses.replace(
        recipe, rates={"*": 0.0}, scales={"*.ln_1.weight": 3.0}, save_every=1, steps=1
    )
    pretrain(still, tmp_path)
    assert (_weights(tmp_path)["transformer.h.0.ln_1.weight"] == 3.0).all()
    assert (_weights(tmp_path)["transformer.h.0.ln_2.weight"] == 1.0).all()


def test_only_matrices_decay(recipe, finished):
    folder, _ = finished
    groups = torch.load(folder / "checkpoint-6" / "optimizer.pt", weights_only=True)["param_groups"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    matrices = sum(parameter.ndim >= 2 for parameter in model.parameters())
    decays = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert decays == {0.1: matrices, 0.0: len(list(model.parameters())) - matrices}
