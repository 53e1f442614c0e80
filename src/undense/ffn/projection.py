"""One linear map of the features, dense or block-diagonal: no expansion, no nonlinearity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from undense import contract
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import divisors
from undense.ops.regression import ridge


@register("projection")
class Projection(FFNComponent):
    """y = W x + b, W (dim, dim) with `blocks` diagonal blocks.

    The start is the least-squares linear map from the FFN's inputs to its outputs.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`blocks`: diagonal blocks; 1 is a dense square matrix."""

        blocks: int = 1
        bias: bool = True

        def __post_init__(self) -> None:
            if self.blocks < 1:
                raise UndenseError(f"projection: blocks={self.blocks} must be at least 1")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.map = BlockLinear(dim, dim, blocks=config.blocks, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.map(x)

    def outputs(self) -> list[nn.Parameter]:
        return self.map.outputs()

    def cost(self, tokens: int) -> Cost:
        return Cost.total("projection", self.map.cost("map", tokens))

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        rows = statistics.inputs
        weight, shift = ridge(rows, statistics.wanted(dense))
        gram = rows.T @ rows / len(rows)
        self.map.approximate_(weight.T, shift, gram)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        """Larger sizes have fewer blocks: the divisors of dim, descending."""
        assert isinstance(config, Projection.Config)
        choices = divisors(dim)[::-1]
        if size > len(choices):
            raise UndenseError(f"projection: dim={dim} has only {len(choices)} sizes")
        return config.replace(blocks=choices[size - 1])
