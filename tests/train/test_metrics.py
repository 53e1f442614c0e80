"""What metrics.json says of a run, each figure held against another way to it."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from undense.convert.sites import find_components
from undense.measure.flops import count_flops
from undense.pipeline.figures import model_flops_per_token
from undense.pipeline.pretraining import build_from
from undense.train.corpus import load_corpus
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import BlockDataset, encode, end_of_text

pytestmark = pytest.mark.usefixtures("one_thread")

FFN = {"component": "block_topk", "hidden": 64, "block": 8, "chosen": 2}


class Watched(TrainerCallback):
    """Tokens that went in, as the embedding saw them, and time outside the steps."""

    def __init__(self) -> None:
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        def note(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self.tokens += arguments[0].numel() if kwargs["model"].training else 0

        self.handle = kwargs["model"].get_input_embeddings().register_forward_pre_hook(note)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.5)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(0.5)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.handle.remove()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:
    """The last batch of each pass is smaller than the others."""
    folder = tmp_path_factory.mktemp("words")
    for number in range(6):
        (folder / f"{number}.txt").write_text("héllo wörld, some words " * 2)
    return PretrainRecipe(
        hidden_size=32, layers=2, heads=2, context=32, data=str(folder), steps=4, batch=5,
        save_every=4, eval_every=4, tokenizer="bytes", ffn=FFN,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    recipe: PretrainRecipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], Watched]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    watched = Watched()
    return folder, pretrain(recipe, folder, build=build_from, callbacks=[watched]), watched


Finished = tuple[Path, dict[str, Any], Watched]


def test_tokens_seen_are_those_that_went_in(recipe: PretrainRecipe, finished: Finished) -> None:
    _, metrics, watched = finished
    assert metrics["tokens_seen"] == watched.tokens < 4 * recipe.batch * recipe.context


def test_training_flops_are_those_of_the_steps(recipe: PretrainRecipe, finished: Finished) -> None:
    folder, metrics, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    blocks = metrics["train_tokens"] // recipe.context
    passes = -(-blocks // recipe.batch)
    total = ffns = 0
    for step in range(recipe.steps):
        rows = min(recipe.batch, blocks - step % passes * recipe.batch)
        ids = torch.randint(0, 258, (rows, recipe.context))
        total += count_flops(
            lambda ids=ids: model(input_ids=ids, labels=ids), model=model, backward=True
        ).dispatched
        for component in find_components(model).values():
            cost = component.cost(rows * recipe.context)
            ffns += cost.forward + cost.backward
    assert metrics["training_flops"] == metrics["training_flops_without_guide"] == total
    assert metrics["ffn_training_flops"] == ffns
    assert metrics["ffn_training_share"] == ffns / total
    assert metrics["uncounted_operations"] == []


def test_the_cost_of_use_is_that_of_other_verbs(recipe: PretrainRecipe, finished: Finished) -> None:
    folder, metrics, _ = finished
    model = AutoModelForCausalLM.from_pretrained(folder)
    ffn = find_components(model)["transformer.h.0.mlp"]
    assert metrics["ffn_flops_per_token"] == ffn.eval().cost(1).forward
    assert metrics["model_flops_per_token"] == model_flops_per_token(model, recipe.context)
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    assert metrics["ffn_parameters"] == 2 * sum(p.numel() for p in ffn.parameters())
    assert 0 < metrics["ffn_share"] < 1


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_the_hosts_own_ffn_is_the_whole_of_itself(
    recipe: PretrainRecipe, tmp_path: Path, host: Any
) -> None:
    dense = dataclasses.replace(recipe, host=host, ffn=None, steps=1)
    metrics = pretrain(dense, tmp_path / "run", build=build_from)
    assert metrics["ffn_share"] == 1
    assert 0.3 < metrics["ffn_training_share"] < 0.9
    assert 0 < metrics["ffn_parameters"] < metrics["parameters"]


def test_bits_are_for_every_byte_that_was_predicted(
    recipe: PretrainRecipe, finished: Finished
) -> None:
    folder, metrics, _ = finished
    tokenizer = AutoTokenizer.from_pretrained(folder)
    heldout = encode(load_corpus(recipe.data), "heldout", tokenizer)
    rows = BlockDataset(heldout, recipe.context).blocks[:, 1:]
    ends = int((rows == end_of_text(tokenizer)).sum())
    assert metrics["heldout_bytes"] == rows.numel() - ends
    nats = metrics["loss"] * metrics["heldout_predictions"]
    assert metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / metrics["heldout_bytes"])


def test_time_is_that_of_the_steps_alone_and_adds_up(
    recipe: PretrainRecipe, finished: Finished, tmp_path: Path
) -> None:
    _, metrics, _ = finished
    # an evaluation and a saving slept half a second each
    assert 0 < metrics["training_seconds"] < 0.5

    class Slow(TrainerCallback):
        def __init__(self, until: int) -> None:
            self.until = until

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            time.sleep(0.2)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.until:
                raise KeyboardInterrupt

    run = dataclasses.replace(recipe, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(run, tmp_path, build=build_from, callbacks=[Slow(3)])
    again = pretrain(run, tmp_path, build=build_from, callbacks=[Slow(9)])
    assert 0.8 < again["training_seconds"] < 1.3  # four steps; the fifth was lost with the kill
