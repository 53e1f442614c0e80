"""A sparse channel-mixing Chebyshev polynomial: few (channel, degree) terms, one small product.
Related: ChebyKAN, https://github.com/SynodicMonth/ChebyKAN (all terms, dense)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.chebyshev import (
    bounded,
    bounded_cost,
    chebyshev,
    chebyshev_cost,
    chebyshevs,
)
from undense.ops.regression import ridge


@register("polynomial")
class SparsePolynomial(FFNComponent):
    """y = W [T_k(u_c) for the kept terms (c, k)] + b, u = z / sqrt(1 + z^2), z = scale x.

    Of the dim x poly_degree terms the share `poly_keep_ratio` is kept, the same number for every
    degree; the others are neither stored, evaluated nor multiplied. T_k is the Chebyshev
    polynomial of degree k; u is in its domain [-1, 1] for every input, with a gradient everywhere.
    Which are kept is settled by the start; `polynomial_learned` learns it, `polynomial_topk` lets
    every token choose.
    Shapes: `channels` (poly_degree, kept per degree), W (dim, terms), `scale` (dim,).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`poly_degree`: highest degree. `poly_keep_ratio`: share of the terms that is kept.

        At random start each degree keeps evenly spaced channels, another offset for each; a start
        from dense weights keeps the terms that carry most of its output.
        """

        poly_degree: int = 3
        poly_keep_ratio: float = 0.3

        def __post_init__(self) -> None:
            if not 1 <= self.poly_degree <= 16:
                raise UndenseError(
                    f"polynomial: poly_degree={self.poly_degree} must be between 1 and 16"
                )
            if not 0 < self.poly_keep_ratio <= 1:
                raise UndenseError(
                    f"polynomial: poly_keep_ratio={self.poly_keep_ratio} must be above 0 and at"
                    " most 1"
                )

    config: Config
    channels: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.degrees = range(1, config.poly_degree + 1)
        self.kept = max(1, round(dim * config.poly_keep_ratio))
        self.terms = self.kept * config.poly_degree
        spread = torch.arange(self.kept) * dim // self.kept
        offsets = torch.arange(config.poly_degree)[:, None]
        self.register_buffer("channels", ((spread + offsets) % dim).sort(-1).values)
        self.scale = nn.Parameter(torch.full((config.poly_degree, self.kept), 0.5))
        self.mix = BlockLinear(self.terms, dim, blocks=1, bias=True)

    def features(self, x: Tensor) -> Tensor:
        """The kept terms: (..., dim) -> (..., terms), degree by degree."""
        inside = bounded(x[..., self.channels] * self.scale)  # (..., degree, kept)
        pieces = [chebyshev(u, k) for u, k in zip(inside.unbind(-2), self.degrees, strict=True)]
        return torch.cat(pieces, -1)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.mix(self.features(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.mix.outputs()

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.terms
        powers = [
            chebyshev_cost(f"degree {k}", tokens * self.kept, k) for k in self.degrees if k > 1
        ]
        return Cost.total(
            "polynomial",
            cost.gather("kept channels", numbers, stored=self.terms),
            cost.gain("scale", tokens, self.terms, size=self.terms),
            bounded_cost("into [-1, 1]", numbers),
            *powers,
            self.mix.cost("mix", tokens),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Least squares over all terms on a sample, the strongest kept, then solved again."""
        inputs, targets = (statistics.inputs, statistics.wanted(dense))
        scale = 1 / (2 * inputs.std(0)).clamp_min(1e-6)
        strengths = []
        everything = torch.cat(chebyshevs(bounded(inputs * scale), self.config.poly_degree), -1)
        weight, _ = ridge(everything, targets)
        strength = everything.var(0) * weight.square().sum(1)
        for own in strength.chunk(len(self.degrees)):
            strengths.append(own.topk(self.kept).indices.sort().values)
        self.channels.copy_(torch.stack(strengths))
        self.scale.data.copy_(scale[self.channels])
        self.mix.refit_(self.features(inputs), targets)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, SparsePolynomial.Config)
        if size > dim:
            raise UndenseError(f"polynomial: {size} terms a degree exceed dim={dim}")
        return config.replace(poly_keep_ratio=size / dim)
