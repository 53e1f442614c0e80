"""Micro-steps on a few features: stacked per-feature corrections, the other features untouched."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.kernels.library import alike, serves
from undense.ops.micro_steps import micro_steps


@register("micro_refine")
class SparseMicroRefine(FFNComponent):
    """h <- h + out_t * silu(into_t * h + shift_t) + offset_t, t = 1 … steps, on selected features.

    Each step is Linear(1 -> 1), SiLU, Linear(1 -> 1) for every selected feature by itself. The
    update h_last - h_first is returned in place of those features, and exactly 0 elsewhere.
    Shapes: `selected` (features,), the four parameters (micro_steps, features).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`micro_steps`: number of steps. `micro_keep_ratio`: share of the features refined.

        At random start the features are evenly spaced; a start from dense weights selects those
        whose output such a step explains best.
        """

        micro_steps: int = 4
        micro_keep_ratio: float = 0.25

        def __post_init__(self) -> None:
            if self.micro_steps < 1:
                raise UndenseError(
                    f"micro_refine: micro_steps={self.micro_steps} must be at least 1"
                )
            if not 0 < self.micro_keep_ratio <= 1:
                raise UndenseError(
                    f"micro_refine: micro_keep_ratio={self.micro_keep_ratio} must be above 0 and"
                    " at most 1"
                )

    config: Config
    selected: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.features = max(1, round(dim * config.micro_keep_ratio))
        self.register_buffer("selected", torch.arange(self.features) * dim // self.features)
        shape = (config.micro_steps, self.features)
        self.into = nn.Parameter(torch.ones(shape))
        self.shift = nn.Parameter(torch.zeros(shape))
        # Small, not zero: a zero output would leave `into` and `shift` without a gradient.
        self.out = nn.Parameter(torch.full(shape, 0.1 / config.micro_steps))
        self.offset = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if not self.training and serves(x):
            held = (self.into, self.shift, self.out, self.offset)
            if alike(x, held):
                return micro_steps(x, self.selected, *held)
        before = x.index_select(-1, self.selected)
        # The update is summed by itself: h_last - h_first would cancel most of bf16's few digits.
        update: Tensor | None = None
        for into, shift, out, offset in zip(
            self.into, self.shift, self.out, self.offset, strict=True
        ):
            state = before if update is None else before + update
            step = nn.functional.silu(state * into + shift) * out + offset
            update = step if update is None else update + step
        assert update is not None
        return torch.zeros_like(x).index_copy(-1, self.selected, update)

    def outputs(self) -> list[nn.Parameter]:
        return [self.out, self.offset]

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.features
        return Cost.total(
            "micro_refine",
            cost.gather("selected features", numbers, stored=self.features),
            *(self._step_cost(t, tokens) for t in range(self.config.micro_steps)),
            cost.fan_out("first state", numbers, self.config.micro_steps),
        )

    def _step_cost(self, t: int, tokens: int) -> Cost:
        numbers = tokens * self.features
        # A product and a sum are one multiply-add; the two biases reduce their gradients.
        bias = replace(cost.elementwise("bias", numbers, backward=1, macs=0), weights=self.features)
        parts = [
            cost.gain("into", tokens, self.features, size=self.features),
            bias,
            cost.activation("silu", numbers, "silu"),
            cost.gain("out", tokens, self.features, size=self.features),
            bias,
        ]
        if t > 0:
            parts += [
                cost.elementwise("state", numbers, macs=0),
                cost.elementwise("update", numbers, macs=1),
                cost.fan_out("update read twice", numbers, 2),
            ]
        return Cost.total(f"step {t}", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """The first step solved feature by feature on a sample; the later ones start at rest."""
        inputs, targets = (statistics.inputs, statistics.wanted(dense))
        into = 1 / inputs.std(0).clamp_min(1e-6)
        bent = nn.functional.silu(inputs * into)
        x = bent - bent.mean(0)
        y = targets - targets.mean(0)
        slope = (x * y).sum(0) / x.square().sum(0).clamp_min(1e-12)
        explained = slope.square() * x.square().sum(0)
        best = explained.topk(self.features).indices.sort().values
        self.selected.copy_(best)
        self.into.data.copy_(into[best].expand_as(self.into))
        self.shift.data.zero_()
        self.out.data.zero_()
        self.offset.data.zero_()
        self.out.data[0] = slope[best]
        self.offset.data[0] = targets.mean(0)[best] - slope[best] * bent.mean(0)[best]

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, SparseMicroRefine.Config)
        if size > dim:
            raise UndenseError(f"micro_refine: {size} features exceed dim={dim}")
        return config.replace(micro_keep_ratio=size / dim)
