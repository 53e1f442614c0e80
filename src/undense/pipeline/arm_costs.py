"""What the arms of a study cost: FLOPs and parameters by formula, times measured in turn."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from undense.contract import Config, DenseShape, abstract_cost, build
from undense.convert.sites import find_sites
from undense.errors import UndenseError
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_config
from undense.measure.decoder import Workload
from undense.measure.timing import environment, interleaved
from undense.measure.whole_model import count_workload
from undense.pipeline.pretraining import build_from
from undense.pipeline.study import Study
from undense.train.build import build_model
from undense.train.corpus import Corpus, load_corpus
from undense.train.fitting import optimizer_of
from undense.train.pretrain import tokenizer_of
from undense.train.recipe import PretrainRecipe

ROUNDS = 15
FEW_PARAMETERS = 0.35  # of the dense FFN's: the line between the two groups that are compared


def ffns(study: Study) -> dict[str, dict[str, Any]]:
    """By arm the config of its FFN in full, as in `costs`, without counting anything."""
    return {arm: _config(r, _shape(r)).to_dict() for arm, r in _recipes(study).items()}


def costs(study: Study) -> dict[str, dict[str, Any]]:
    """Of every arm: its FFN's config, the FLOPs and parameters of one FFN beside those of the dense
    one that `base` describes, and the FLOPs of a training step of the whole model, counted.

    No memory is taken. Raises `UndenseError` for an arm that cannot be built.
    """
    full = _shape(PretrainRecipe.from_dict(study.base))
    dense = dense_config(full)
    found = {}
    for arm, recipe in _recipes(study).items():
        shape = _shape(recipe)
        config = _config(recipe, shape)
        share = _parameters(shape.dim, config) / _parameters(full.dim, dense)
        work = Workload(batch=recipe.batch, tokens=recipe.context, labels=True)
        with torch.device("meta"):
            model = build_from(recipe, _tokenizer(recipe)).train()
        # With a padding token transformers looks for it in the values of the ids.
        model.config.pad_token_id = None
        found[arm] = {
            "ffn": config.to_dict(),
            "ffn_flops_share": abstract_cost(shape.dim, config).forward
            / abstract_cost(full.dim, dense).forward,
            "ffn_parameters": _parameters(shape.dim, config),
            "ffn_parameter_share": share,
            "group": "few parameters" if share <= FEW_PARAMETERS else "as many as dense or more",
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_flops_per_step": count_workload(model, work).count.dispatched,
        }
    return found


def times(study: Study, *, threads: int) -> dict[str, Any]:
    """Of every arm, measured in turn: a training step (forward, backward, clipping, AdamW), and the
    forward of one sequence and of one token, in milliseconds. Arms of one recipe, which differ in
    how long they train, have one measurement."""
    calls: dict[str, Callable[[], object]] = {}
    torch.manual_seed(study.sweep_seed)
    recipes = _recipes(study)
    alike = {arm: next(a for a in recipes if recipes[a] == recipes[arm]) for arm in recipes}
    for arm in dict.fromkeys(alike.values()):
        recipe = recipes[arm]
        model = build_from(recipe, _tokenizer(recipe))
        vocab = model.config.vocab_size
        rows = torch.randint(vocab, (recipe.batch, recipe.context))
        calls[f"step {arm}"] = _step(model.train(), recipe, rows)
        evaluated = build_from(recipe, _tokenizer(recipe)).eval()
        calls[f"sequence {arm}"] = _forward(evaluated, rows[:1])
        calls[f"token {arm}"] = _forward(evaluated, rows[:1, :1])
    found = interleaved(
        calls,
        rounds=ROUNDS,
        warmup=2,
        threads=threads,
        progress=lambda rounds: tqdm(rounds, desc="times"),
    )
    kinds = {"step_ms": "step", "sequence_ms": "sequence", "token_ms": "token"}
    return {
        "created": datetime.date.today().isoformat(),
        "environment": environment() | {"threads": threads},
        "rounds": ROUNDS,
        "arms": {
            arm: {key: found[f"{kind} {same}"].median_ms for key, kind in kinds.items()}
            | {f"{key}_iqr": list(found[f"{kind} {same}"].iqr_ms) for key, kind in kinds.items()}
            for arm, same in alike.items()
        },
    }


def _recipes(study: Study) -> dict[str, PretrainRecipe]:
    return {
        arm: study.recipe(arm, rate=study.rates[0], seed=study.sweep_seed) for arm in study.arms
    }


def _config(recipe: PretrainRecipe, shape: DenseShape) -> Config:
    """Of an arm's FFN."""
    return dense_config(shape) if recipe.ffn is None else resolve(recipe.ffn, shape, untrained=True)


def _shape(recipe: PretrainRecipe) -> DenseShape:
    """Of the dense FFN of a recipe's host."""
    if recipe.host == "spectral":
        raise UndenseError("study: host='spectral' has no dense FFN to compare with; use gpt2")
    with torch.device("meta"):
        return find_sites(build_model(recipe, _tokenizer(recipe)))[0].shape


def _parameters(dim: int, config: Config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(dim, config).parameters())


def _tokenizer(recipe: PretrainRecipe) -> PreTrainedTokenizerBase:
    return tokenizer_of(recipe, _corpus(recipe.data))


@lru_cache(maxsize=1)
def _corpus(data: str | None) -> Corpus:
    return load_corpus(data)


def _step(model: PreTrainedModel, recipe: PretrainRecipe, rows: Tensor) -> Callable[[], object]:
    optimizer = optimizer_of(model, recipe)
    half = recipe.dtype == "bf16"

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return call


def _forward(model: PreTrainedModel, rows: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(input_ids=rows, use_cache=False)

    return call
