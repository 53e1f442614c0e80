"""No FFN at all: the yardstick that every replacement must beat to be worth its FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import contract
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError


@register("none")
class NoFFN(FFNComponent):
    """y = 0: the block keeps its attention and its residual, and nothing else."""

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """No settings."""

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return torch.zeros_like(x)

    def outputs(self) -> list[nn.Parameter]:
        return []

    def cost(self, tokens: int) -> Cost:
        return Cost(name="none")

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """There is nothing to carry over."""

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        raise UndenseError("none: it has no size; a share of the dense FLOPs cannot be asked of it")
