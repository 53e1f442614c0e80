"""Micro-steps of gated low-rank feedback among a few features of one token, in groups or as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.gated_waist import GatedWaist


@register("micro_feedback")
class MicroFeedback(FFNComponent):
    """h <- h + sigmoid(C z + c) * (B silu(z) + b), z = A h, step by step, on selected features.

    Every step feeds the selected features back to one another through a waist of `rank`: low rank
    where `groups` is 1, else micro-groups of features that see their own group only. The update is
    exactly 0 at the other features, which are not read either. The token sees itself alone.
    Shapes: `selected` (features,); A (rank, features), B, C (features, rank), a block a group.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`micro_steps`: number of steps. `micro_keep_ratio`: share of the features that are read
        and written. `rank`: waist of each group. `groups`: equal groups of features.

        At random start the features are evenly spaced; a start from dense weights selects those
        whose output varies most.
        """

        micro_steps: int = 2
        micro_keep_ratio: float = 0.25
        rank: int = 4
        groups: int = 1

        def __post_init__(self) -> None:
            for name in ("micro_steps", "rank", "groups"):
                if getattr(self, name) < 1:
                    raise UndenseError(
                        f"micro_feedback: {name}={getattr(self, name)} must be at least 1"
                    )
            if not 0 < self.micro_keep_ratio <= 1:
                raise UndenseError(
                    f"micro_feedback: micro_keep_ratio={self.micro_keep_ratio} must be above 0 and"
                    " at most 1"
                )

    config: Config
    selected: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        size = max(1, round(dim * config.micro_keep_ratio / config.groups))
        self.features = size * config.groups
        if self.features > dim:
            raise UndenseError(
                f"micro_feedback: {config.groups} groups of {size} features exceed dim={dim}; use"
                " fewer groups or a smaller micro_keep_ratio"
            )
        self.register_buffer("selected", torch.arange(self.features) * dim // self.features)
        self.steps = nn.ModuleList(
            GatedWaist(self.features, config.rank, groups=config.groups)
            for _ in range(config.micro_steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        before = x.index_select(-1, self.selected)
        update: Tensor | None = None
        for step in self.steps:  # summed by itself: a difference of states would cancel in bf16
            assert isinstance(step, GatedWaist)
            added = step.respond(step.waist(before if update is None else before + update))
            update = added if update is None else update + added
        assert update is not None
        return torch.zeros_like(x).index_copy(-1, self.selected, update)

    def outputs(self) -> list[nn.Parameter]:
        steps = [step for step in self.steps if isinstance(step, GatedWaist)]
        return [weight for step in steps for weight in step.out.outputs()]

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.features
        parts = [cost.gather("selected features", numbers, stored=self.features)]
        for t, step in enumerate(self.steps):
            assert isinstance(step, GatedWaist)
            parts.append(step.waist.cost("waist", tokens))
            parts.append(step.respond_cost(f"step {t}", tokens))
            if t > 0:
                parts.append(cost.elementwise("state", numbers, macs=0))
                parts.append(cost.elementwise("update", numbers, macs=0))
                parts.append(cost.fan_out("update read twice", numbers, 2))
        parts.append(cost.fan_out("first state", numbers, len(self.steps)))
        return Cost.total("micro_feedback", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """First step: waists of the best linear map of their rank, the output solved behind the
        nonlinearity, the gate half open; later steps start at rest."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        self.selected.copy_(targets.var(0).topk(self.features).indices.sort().values)
        x, y = inputs[:, self.selected], targets[:, self.selected]
        for step in self.steps:
            assert isinstance(step, GatedWaist)
            step.rest_()
        first = self.steps[0]
        assert isinstance(first, GatedWaist)
        first.start_(x, y)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, MicroFeedback.Config)
        return config.replace(rank=size)
