"""A sparse channel-mixing Chebyshev polynomial whose terms are chosen in training.
Related: ChebyKAN, https://github.com/SynodicMonth/ChebyKAN (all terms, dense)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.chebyshev import bounded, bounded_cost, chebyshev, chebyshev_cost, chebyshevs
from undense.ops.regression import ridge
from undense.ops.soft_top_k import LearnedSelection

# After a start from dense the scores are this many times further apart than `start_` puts them: the
# least squares know most of the choice, and terms that come and go cost a short distillation more
# than they bring (docs/log.md has the figures).
SETTLED = 10.0


@register("polynomial_learned")
class LearnedPolynomial(FFNComponent):
    """y = W^T [T_k(u_c) for the best terms (c, k)] + b, u = z / sqrt(1 + z^2), z = scale x.

    The terms of the kept share, the same number for every degree, are learned with the rest (see
    `ops/soft_top_k.py`). In training every term is evaluated and multiplied, with exactly 0 for
    those that are out: the same function, at the cost of all terms, which `cost()` says. In
    evaluation mode only the kept ones are read, evaluated and multiplied; all stay stored.
    Shapes: `weight` (poly_degree, dim, dim), a term's row its share of each output; `scale` (dim,).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`poly_degree`: highest degree. `poly_keep_ratio`: share of the terms that is kept."""

        poly_degree: int = 3
        poly_keep_ratio: float = 0.3

        def __post_init__(self) -> None:
            if not 1 <= self.poly_degree <= 16:
                raise UndenseError(
                    f"polynomial_learned: poly_degree={self.poly_degree} must be between 1 and 16"
                )
            if not 0 < self.poly_keep_ratio < 1:
                raise UndenseError(
                    f"polynomial_learned: poly_keep_ratio={self.poly_keep_ratio} must be above 0"
                    " and below 1; with every term there is nothing to choose: use 'polynomial'"
                )

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        degree = config.poly_degree
        self.kept = max(1, round(dim * config.poly_keep_ratio))
        if self.kept >= dim:
            raise UndenseError(
                f"polynomial_learned: poly_keep_ratio={config.poly_keep_ratio} keeps all {dim}"
                f" channels of a degree; use at most {(dim - 1) / dim:.4g}, or 'polynomial'"
            )
        self.selection = LearnedSelection(degree, dim, self.kept)
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        # Those that are out start at 0: a wrong weight would drive its term's score away.
        inside = (torch.arange(dim) < self.kept).unsqueeze(-1) * (degree * self.kept) ** -0.5
        self.weight = nn.Parameter(torch.randn(degree, dim, dim) * inside)
        self.bias = nn.Parameter(torch.zeros(dim))

    def channels(self) -> Tensor:
        """The channels that each degree keeps now, ascending: (poly_degree, kept per degree)."""
        return self.selection.kept()

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if self.training:
            terms = chebyshevs(bounded(x * self.scale), self.config.poly_degree)
            weight = self.selection.choose(self.weight)
        else:
            channels = self.channels()
            inside = bounded(x[..., channels] * self.scale[channels]).unbind(-2)
            terms = [chebyshev(u, k) for k, u in enumerate(inside, 1)]
            weight = self.weight[torch.arange(len(terms), device=x.device)[:, None], channels]
        return nn.functional.linear(torch.cat(terms, -1), weight.flatten(0, 1).T, self.bias)

    def outputs(self) -> list[nn.Parameter]:
        return [self.weight, self.bias]

    def cost(self, tokens: int) -> Cost:
        degree, dim = self.config.poly_degree, self.dim
        if self.training:
            return Cost.total(
                "polynomial_learned",
                self.selection.cost("selection", dim),
                cost.gain("scale", tokens, dim, size=dim),
                bounded_cost("into [-1, 1]", tokens * dim),
                chebyshev_cost("terms", tokens * dim, degree, all_terms=True),
                cost.linear("mix", tokens, degree * dim, dim, bias=True),
            )
        terms = degree * self.kept
        powers = [
            chebyshev_cost(f"degree {k}", tokens * self.kept, k) for k in range(2, degree + 1)
        ]
        return Cost.total(
            "polynomial_learned",
            cost.elementwise("selection", degree * dim, macs=0),
            cost.gather("kept channels", tokens * terms),
            cost.gather("kept scales", terms),
            cost.gain("scale", tokens, terms, size=terms),
            bounded_cost("into [-1, 1]", tokens * terms),
            *powers,
            cost.gather("kept weights", terms * dim),
            cost.linear("mix", tokens, terms, dim, bias=True),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Least squares over all terms, scores by what each carries; the kept solved again, the
        others at 0 as at random start."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        self.scale.data.copy_(1 / (2 * inputs.std(0)).clamp_min(1e-6))
        terms = torch.cat(chebyshevs(bounded(inputs * self.scale), self.config.poly_degree), -1)
        weight, _ = ridge(terms, targets)
        strength = terms.var(0) * weight.square().sum(1)
        self.selection.start_(strength.view_as(self.selection.score))
        self.selection.score.data.mul_(SETTLED)
        offsets = torch.arange(self.config.poly_degree)[:, None] * self.dim
        kept = (self.channels() + offsets).flatten()
        alone, bias = ridge(terms[:, kept], targets)
        weight = torch.zeros_like(weight).index_copy(0, kept, alone)
        self.weight.data.copy_(weight.view_as(self.weight))
        self.bias.data.copy_(bias)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, LearnedPolynomial.Config)
        if size >= dim:
            raise UndenseError(f"polynomial_learned: {size} terms a degree leave none of {dim} out")
        return config.replace(poly_keep_ratio=size / dim)
