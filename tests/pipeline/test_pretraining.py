"""Training from scratch with any FFN: built, interrupted, continued, loaded by stock code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

import undense.ffn
from interrupted import KilledAt
from undense.contract import build, config_from_dict
from undense.convert.sites import find_components
from undense.errors import UndenseError
from undense.pipeline.live import LiveCallback
from undense.pipeline.pretraining import build_from, pretrain_from
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:
    folder = tmp_path_factory.mktemp("text")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"def f{number}(x):\n    return x\n" * 40)
    return PretrainRecipe(
        hidden_size=32, layers=2, heads=2, context=16, vocab_size=280, data=str(folder), steps=6,
        batch=4, save_every=3, eval_every=6, log_every=1, eval_limit=8, factor_rates=True,
        ffn={"component": "tensor_factor", "factor": "monarch", "blocks": 2, "hidden": 64},
    )  # fmt: skip


def test_interrupted_equals_uninterrupted_and_loads(recipe: PretrainRecipe, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    metrics = pretrain(recipe, whole, build=build_from)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, cut, build=build_from, callbacks=[KilledAt(4)])
    assert pretrain(recipe, cut, build=build_from)["loss"] == metrics["loss"]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    loaded = AutoModelForCausalLM.from_pretrained(whole)
    found = list(find_components(loaded).values())
    assert [type(c) for c in found] == [undense.ffn.TensorFactor] * 2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_spectral_host_is_pretrained_interrupted_and_loaded(
    recipe: PretrainRecipe, tmp_path: Path, dtype: Any
) -> None:
    """A hybrid; in bf16 the Trainer puts autocast around the model."""
    spectral = dataclasses.replace(
        recipe, host="spectral", attention_every=2, ffn=None, dtype=dtype, steps=4, save_every=2
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    metrics = pretrain(spectral, whole, build=build_from)
    with pytest.raises(KeyboardInterrupt):
        pretrain(spectral, cut, build=build_from, callbacks=[KilledAt(3)])
    assert pretrain(spectral, cut, build=build_from)["loss"] == metrics["loss"]
    loaded = AutoModelForCausalLM.from_pretrained(whole)
    assert [type(b.mixer).__name__ for b in loaded.model.layers] == ["SpectralLayer", "Attention"]


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_a_share_refers_to_the_hosts_own_ffn(recipe: PretrainRecipe, host: Any) -> None:
    from undense.train.tokens import train_tokenizer

    tokenizer = train_tokenizer(["def f(x): return x"] * 50, vocab_size=280, context=16)
    narrow = dataclasses.replace(recipe, host=host, ffn="narrow-50")
    model = build_from(narrow, tokenizer)
    dense = build_from(dataclasses.replace(recipe, host=host, ffn=None), tokenizer)
    assert len(find_components(model)) == 2
    assert model.num_parameters() < dense.num_parameters()


def test_an_unknown_ffn_is_refused_before_training(recipe: PretrainRecipe, tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match=r"unknown FFN 'tensor_facto'.*tensor_factor"):
        pretrain(dataclasses.replace(recipe, ffn="tensor_facto"), tmp_path / "x", build=build_from)


@pytest.mark.parametrize("factor", ["monarch", "kronecker"])
def test_entries_left_out_have_no_weight_no_gradient_and_no_state(
    recipe: PretrainRecipe, tmp_path: Path, factor: str
) -> None:
    """A quarter of every row is kept: nothing of the other entries exists anywhere."""
    full = {"component": "tensor_factor", "factor": factor, "blocks": 2, "hidden": 64}
    spec = {**full, "keep": 0.25}
    sparse = dataclasses.replace(recipe, ffn=spec, steps=2, save_every=2, weight_decay=0.5)
    pretrain(sparse, tmp_path, build=build_from)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    optimizer = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt", weights_only=True)
    for moment in ("exp_avg", "exp_avg_sq"):
        held = [state[moment] for state in optimizer["state"].values()]
        assert sum(values.numel() for values in held) == model.num_parameters()
    component = find_components(model)["transformer.h.0.mlp"]
    dense = build(32, config_from_dict(full))
    stored = [p.numel() for n, p in component.named_parameters() if n.endswith(".values")]
    whole = [p.numel() for n, p in dense.named_parameters() if n.endswith(".weight")]
    assert stored == [n // 4 for n in whole]
    # what says which entries are kept is whole numbers, and stays where the start put it
    fresh = dict(build(32, config_from_dict(spec)).named_buffers())
    for name, columns in component.named_buffers():
        assert not columns.is_floating_point()
        assert torch.equal(columns, fresh[name])


class SpoiledOnce(TrainerCallback):
    def __init__(self) -> None:
        self.left = 1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4 and self.left:
            self.left = 0
            next(kwargs["model"].parameters()).data.fill_(float("nan"))


def test_a_run_that_went_back_is_watched_on(recipe: PretrainRecipe, tmp_path: Path) -> None:
    """The live view lets go of the model of the first attempt and follows that of the second."""
    live = LiveCallback(tmp_path / "live", every=1)
    callbacks = [live, SpoiledOnce()]
    metrics = pretrain(recipe, tmp_path / "run", build=build_from, callbacks=callbacks)
    assert [event["back_to"] for event in metrics["reverts"]] == [3]
    lines = (tmp_path / "live" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 4, 5, 6]


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_the_ffns_alone_are_saved_and_start_another_run(
    recipe: PretrainRecipe, tmp_path: Path, host: Any
) -> None:
    run = dataclasses.replace(recipe, host=host, save_ffns_every=2, guide=0.5)
    pretrain_from(run, tmp_path / "run")
    saved = tmp_path / "run" / "ffns"
    assert sorted(path.name for path in saved.iterdir()) == ["step-2", "step-4", "step-6"]
    whole = load_file(tmp_path / "run" / "model.safetensors")
    alone = load_file(saved / "step-6" / "ffns.safetensors")
    prefix = "transformer." if host == "gpt2" else "model."
    assert alone.keys() == {
        k.removeprefix(prefix) for k in whole if ".mlp." in k and "guides" not in k
    }
    assert all(torch.equal(value, whole[f"{prefix}{key}"]) for key, value in alone.items())
    earlier = load_file(saved / "step-2" / "ffns.safetensors")
    assert not all(torch.equal(value, earlier[key]) for key, value in alone.items())
    still = dataclasses.replace(
        run, ffns_from=str(saved / "step-6"), rates={"*": 0.0}, save_ffns_every=1, steps=1, seed=9
    )
    pretrain_from(still, tmp_path / "next")
    begun = load_file(tmp_path / "next" / "ffns" / "step-1" / "ffns.safetensors")
    assert all(torch.equal(value, alone[key]) for key, value in begun.items())


def test_ffns_of_another_kind_are_refused(recipe: PretrainRecipe, tmp_path: Path) -> None:
    run = dataclasses.replace(recipe, save_ffns_every=1, steps=1)
    pretrain_from(run, tmp_path / "run")
    saved = str(tmp_path / "run" / "ffns" / "step-1")
    other = dataclasses.replace(recipe, ffn="narrow-50", ffns_from=saved)
    with pytest.raises(UndenseError, match="saved from a run of another ffn"):
        pretrain_from(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UndenseError, match="needs save_ffns="):
        pretrain(run, tmp_path / "bare", build=build_from)
    with pytest.raises(UndenseError, match="save_ffns_every needs an ffn"):
        dataclasses.replace(run, ffn=None)
