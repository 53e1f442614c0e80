"""Self-guided training: what is computed, what it costs, what is kept, and exact to resume."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from interrupted import KilledAt
from undense.contract import components
from undense.convert.folders import load
from undense.convert.sites import find_components
from undense.errors import UndenseError
from undense.measure.decoder_configs import decoder_of
from undense.pipeline.pretraining import build_from
from undense.train.guide import Guides, attach_guides_, guides_of
from undense.train.pretrain import pretrain
from undense.train.recipe import PretrainRecipe
from undense.train.tokens import train_tokenizer
from undense.train.work import blocks_in, ffn_names

pytestmark = pytest.mark.usefixtures("one_thread")

FFNS: dict[str, Any] = {
    "gpt2": {"component": "block_topk", "hidden": 64, "block": 8, "chosen": 2},
    "llama": {"component": "tensor_factor", "factor": "monarch", "blocks": 2, "gated": True},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:
    folder = tmp_path_factory.mktemp("text")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"def f{number}(x):\n    return x\n" * 40)
    return PretrainRecipe(
        hidden_size=32, layers=2, heads=2, context=16, vocab_size=280, data=str(folder), steps=8,
        batch=4, save_every=3, eval_every=8, log_every=1, eval_limit=4, guide=0.75,
        ffn=FFNS["gpt2"],
    )  # fmt: skip


def of_host(recipe: PretrainRecipe, host: Any, **more: Any) -> PretrainRecipe:
    return dataclasses.replace(recipe, host=host, ffn=FFNS[host], **more)


def test_the_weight_falls_by_a_cosine_and_guides_run_as_often_as_it_says() -> None:
    guides = Guides([nn.Identity()], [nn.Identity()], steps=4, seed=0)
    weights = [1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5), 0.0, 0.0]
    assert [guides.weight(step) for step in range(6)] == pytest.approx(weights)
    many = [nn.Identity() for _ in range(1000)]
    guides = Guides(many, many, steps=4, seed=3)
    for step, weight in enumerate(weights):
        # five standard deviations of the mean of a thousand draws
        assert sum(guides.speaking(step)) / 1000 == pytest.approx(weight, abs=0.08)
        assert guides.speaking(step) == guides.speaking(step)
    assert guides.speaking(2) != Guides(many, many, steps=4, seed=4).speaking(2)


def test_a_guide_is_blended_in_training_alone_and_leaves_without_a_trace() -> None:
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    ffns, dense = ([model["one"], model["two"]], [nn.Linear(3, 3), nn.Linear(3, 3)])
    before = list(model.state_dict())
    attach_guides_(model, ffns, dense, steps=4, seed=0)
    guides = guides_of(model)
    assert guides is not None
    assert set(dense[0].parameters()) <= set(model.parameters())
    x = torch.randn(5, 3)
    guides.set(0.25, [True, False])
    own = [nn.functional.linear(x, ffn.weight, ffn.bias) for ffn in ffns]
    torch.testing.assert_close(ffns[0](x), 0.25 * dense[0](x) + 0.75 * own[0])
    assert torch.equal(ffns[1](x), own[1])
    assert torch.equal(model.eval()["one"](x), own[0])
    model.train()
    guides.remove(model)
    assert torch.equal(ffns[0](x), own[0])
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_interrupted_while_guided_it_ends_bit_identical_and_without_guides(
    recipe: PretrainRecipe, tmp_path: Path, host: str
) -> None:
    guided = of_host(recipe, host)
    metrics = pretrain(guided, tmp_path / "whole", build=build_from)
    with pytest.raises(KeyboardInterrupt):
        pretrain(guided, tmp_path / "cut", build=build_from, callbacks=[KilledAt(5)])
    kept = load_file(tmp_path / "cut" / "checkpoint-3" / "model.safetensors")
    assert any(name.startswith("guides.layers.1.") for name in kept)
    again = pretrain(guided, tmp_path / "cut", build=build_from)
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert again["training_flops"] == metrics["training_flops"]
    assert not any("guide" in name for name in one)
    load(tmp_path / "whole")  # strict


@pytest.mark.parametrize("host", ["gpt2", "llama"])
def test_the_cost_of_the_run_counts_every_guide_that_spoke(
    recipe: PretrainRecipe, tmp_path: Path, host: str
) -> None:
    guided = of_host(recipe, host, steps=4)
    metrics = pretrain(guided, tmp_path / "guided", build=build_from)
    tokenizer = train_tokenizer(["def f(x): return x"] * 50, vocab_size=280, context=16)
    model = build_from(guided, tokenizer)
    guides, decoder = (guides_of(model), decoder_of(model.config))
    assert guides is not None and guides.steps == 3 and decoder is not None
    rows = guided.batch * guided.context
    dense = decoder.ffns[0](rows)
    # a W, (1 - a) y, their sum; back: both products, and the second gradient of x added
    blend = 6 * rows * guided.hidden_size
    spoke = sum(sum(guides.speaking(step)) for step in range(4))
    assert 0 < spoke <= 6
    extra = metrics["training_flops"] - metrics["training_flops_without_guide"]
    assert extra == spoke * (dense.forward + dense.backward + blend)
    alone = pretrain(dataclasses.replace(guided, guide=0.0), tmp_path / "alone", build=build_from)
    assert alone["training_flops"] == metrics["training_flops_without_guide"]
    assert alone["parameters"] == metrics["parameters"]
    assert alone["loss"] != metrics["loss"]
    component = model.get_submodule(ffn_names(model)[0]).train()
    cost = component.cost(rows)  # type: ignore[operator]
    assert metrics["ffn_training_flops"] == 4 * 2 * (cost.forward + cost.backward)


@pytest.mark.parametrize("name", list(components()))
def test_any_component_is_guided(recipe: PretrainRecipe, name: str) -> None:
    tokenizer = train_tokenizer(["def f(x): return x"] * 50, vocab_size=280, context=16)
    model = build_from(dataclasses.replace(recipe, hidden_size=64, ffn=name), tokenizer).train()
    guides = guides_of(model)
    assert guides is not None
    ids = torch.randint(0, len(tokenizer), (2, 16))
    plain = model(input_ids=ids).logits
    guides.set(0.5, [True, True])
    output = model(input_ids=ids, labels=ids)
    assert not torch.equal(output.logits, plain)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in guides.parameters())
    guides.remove(model)
    assert find_components(model).keys() == {f"transformer.h.{n}.mlp" for n in range(2)}


def test_the_last_batch_of_a_pass_is_what_is_left() -> None:
    assert [blocks_in(step, 10, 4) for step in range(7)] == [4, 4, 2, 4, 4, 2, 4]
    assert [blocks_in(step, 3, 4) for step in range(2)] == [3, 3]
    assert [blocks_in(step, 8, 4) for step in range(3)] == [4, 4, 4]


def test_a_guide_needs_something_to_guide(recipe: PretrainRecipe, tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match=r"recipe: guide needs an ffn"):
        dataclasses.replace(recipe, host="spectral", ffn="ultra-25")
    with pytest.raises(UndenseError, match="pass it as build="):
        pretrain(of_host(recipe, "gpt2"), tmp_path)
