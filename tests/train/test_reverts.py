"""A run that diverges goes back to its last good checkpoint, says so, and does not for ever."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from interrupted import KilledAt
from undense.errors import UndenseError
from undense.train.pretrain import pretrain
from undense.train.progress import Progress
from undense.train.recipe import PretrainRecipe

pytestmark = pytest.mark.usefixtures("one_thread")


class Spoil(TrainerCallback):
    """At some steps, so many times each: the weights become NaN, or their gradients infinite."""

    def __init__(self, times: dict[int, int], *, gradient: bool = False) -> None:
        self.times = dict(times)
        self.gradient = gradient
        self.rates: list[tuple[int, float]] = []

    def _spoils(self, step: int) -> bool:
        self.times[step] = self.times.get(step, 0) - 1
        return self.times[step] >= 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append((state.global_step, kwargs["optimizer"].param_groups[0]["lr"]))
        if not self.gradient and self._spoils(state.global_step):
            next(kwargs["model"].parameters()).data.fill_(math.nan)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.gradient and self._spoils(state.global_step):
            next(kwargs["model"].parameters()).grad.fill_(math.inf)


@pytest.fixture(scope="module")
def recipe(text_folder: Path) -> PretrainRecipe:
    return PretrainRecipe(
        hidden_size=16, layers=1, heads=2, context=16, vocab_size=280, data=str(text_folder),
        steps=6, batch=4, learning_rate=1e-2, save_every=2, eval_every=6, log_every=1,
        eval_limit=4,
    )  # fmt: skip


def test_it_goes_back_halves_the_rate_and_says_so(
    recipe: PretrainRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil = Spoil({3: 1})
    metrics = pretrain(recipe, tmp_path, callbacks=[spoil])
    (event,) = metrics["reverts"]
    assert event["seconds_lost"] > 0
    wanted = {"step": 4, "what": "loss nan", "back_to": 2, "rate_factor": 0.5, "steps_lost": 2}
    assert {k: event[k] for k in wanted} == wanted
    said = capsys.readouterr().out
    assert "diverged at step 4: loss nan; back to step 2, from there at x0.5" in said
    rates = dict(spoil.rates[:4])
    assert [step for step, _ in spoil.rates] == [0, 1, 2, 3, 2, 3, 4, 5]
    assert [rate for _, rate in spoil.rates[4:6]] == [rates[2] / 2, rates[3] / 2]
    assert metrics["training_seconds"] > event["seconds_lost"]
    assert math.isfinite(metrics["loss"])
    logged = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert [e["step"] for e in logged["log_history"] if "loss" in e] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_is_not_finite_is_never_saved(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    metrics = pretrain(recipe, tmp_path, callbacks=[Spoil({3: 1}, gradient=True)])
    (event,) = metrics["reverts"]
    assert (event["step"], event["what"], event["back_to"]) == (4, "weights not finite", 2)
    assert math.isfinite(metrics["loss"])


def test_killed_after_a_return_it_continues_at_the_lower_rate(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    pretrain(recipe, tmp_path / "whole", callbacks=[Spoil({3: 1})])
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "cut", callbacks=[Spoil({3: 1}), KilledAt(5)])
    metrics = pretrain(recipe, tmp_path / "cut")
    assert len(metrics["reverts"]) == 1
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_before_the_first_checkpoint_it_starts_again(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    spoil = Spoil({1: 1})
    metrics = pretrain(recipe, tmp_path, callbacks=[spoil])
    assert metrics["reverts"][0]["back_to"] == 0
    assert [step for step, _ in spoil.rates] == [0, 1, 0, 1, 2, 3, 4, 5]
    for checkpoint in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    # what it noted is this run's alone
    with pytest.raises(UndenseError, match=r"another run \(differs in seed\)"):
        pretrain(dataclasses.replace(recipe, seed=1), tmp_path)


def test_a_checkpoint_it_diverged_from_twice_is_given_up(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    metrics = pretrain(recipe, tmp_path, callbacks=[Spoil({5: 2})])
    assert [event["back_to"] for event in metrics["reverts"]] == [4, 2]
    assert [event["rate_factor"] for event in metrics["reverts"]] == [0.5, 0.25]


def test_after_the_last_return_the_run_ends_with_an_error(
    recipe: PretrainRecipe, tmp_path: Path
) -> None:
    says = r"diverged at step 3: loss nan; it has gone back 1 times.*the last is checkpoint-2"
    with pytest.raises(UndenseError, match=says):
        pretrain(dataclasses.replace(recipe, reverts=1), tmp_path, callbacks=[Spoil({2: 9})])
    assert (tmp_path / "checkpoint-2").is_dir()
    assert not (tmp_path / "metrics.json").exists()


def test_the_rule_lets_a_bad_batch_pass_and_not_a_lost_run() -> None:
    progress = Progress()
    assert not any(progress.judge(loss, jump=1.0) for loss in (8.0, 6.0, *[4.0] * 40, 9.0, 4.0))
    said = [progress.judge(7.6, jump=1.0) for _ in range(10)]
    assert said[0] is None
    assert "1 nats above its lowest" in str(said[-1])
    assert Progress().judge(math.inf, jump=1.0) == "loss inf"
