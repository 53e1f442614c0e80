"""What a pretraining run computed: FLOPs of forward and backward, counted on the model itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from undense.contract import FFNComponent
from undense.measure.count import Count
from undense.measure.flops import count_flops
from undense.train.guide import guides_of
from undense.train.recipe import PretrainRecipe


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs forward and backward of the model without guides, of its FFNs in them, and of guides.

    The optimizer's own arithmetic is in none, nor that of the operations in `uncounted`, for which
    there is no formula.
    """

    model: int = 0
    ffns: int = 0
    guides: int = 0
    uncounted: frozenset[str] = frozenset()


def blocks_in(step: int, blocks: int, batch: int) -> int:
    """Blocks in the batch of `step` 0, 1, …: the last one of a pass over all may be smaller."""
    passes = -(-blocks // batch)
    return min(batch, blocks - (step % passes) * batch)


def tokens_in(recipe: PretrainRecipe, steps: Iterable[int], *, blocks: int) -> int:
    """Tokens in the batches of `steps`, over a training set of so many blocks."""
    return recipe.context * sum(blocks_in(step, blocks, recipe.batch) for step in steps)


def work_of(
    model: PreTrainedModel, recipe: PretrainRecipe, steps: Iterable[int], *, blocks: int
) -> Work:
    """The work of `steps`, each as often as it was taken, over a training set of so many blocks.

    Every size of batch that there was is run once under the counter. Leaves gradients and the mode
    of `model` as they were.
    """
    guides = guides_of(model)
    total: Counter[str] = Counter()
    known: dict[int, Work] = {}
    for step in steps:
        rows = blocks_in(step, blocks, recipe.batch)
        if rows not in known:
            known[rows] = _step(model, rows, recipe.context)
        one = known[rows]
        speaking = 0 if guides is None else sum(guides.speaking(step))
        total.update(model=one.model, ffns=one.ffns, guides=speaking * one.guides)
    missed = frozenset[str]().union(*(one.uncounted for one in known.values()))
    return Work(**total, uncounted=missed)


def ffn_names(model: nn.Module) -> list[str]:
    """The paths of the FFNs of a model that a recipe describes: its components, or the modules that
    its host calls `mlp`."""
    components = [name for name, m in model.named_modules() if isinstance(m, FFNComponent)]
    if components:
        return [n for n in components if not any(n.startswith(f"{o}.") for o in components)]
    return [name for name, _ in model.named_modules() if name.endswith(".mlp")]


def _step(model: PreTrainedModel, rows: int, context: int) -> Work:
    """One step; `guides`: of one layer's guide."""
    guides = guides_of(model)
    layers = 0 if guides is None else len(guides.layers)
    alone = _counted(model, rows, context, speaking=0)
    guided = _counted(model, rows, context, speaking=layers) if layers else alone
    return Work(
        model=alone.dispatched,
        ffns=sum(alone.tree.part(name).flops for name in ffn_names(model)),
        guides=(guided.dispatched - alone.dispatched) // layers if layers else 0,
        uncounted=frozenset(guided.uncounted),
    )


def _counted(model: PreTrainedModel, rows: int, context: int, *, speaking: int) -> Count:
    guides = guides_of(model)
    if guides is not None:
        guides.set(0.5, [True] * speaking + [False] * (len(guides.layers) - speaking))
    ids = torch.zeros(rows, context, dtype=torch.long, device=model.device)
    before = model.training
    model.train()
    with torch.random.fork_rng(devices=[]):
        count = count_flops(lambda: model(input_ids=ids, labels=ids), model=model, backward=True)
    model.train(before)
    return count
