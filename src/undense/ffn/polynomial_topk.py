"""A channel-mixing Chebyshev polynomial of each token's own largest channels.
Related: ChebyKAN, https://github.com/SynodicMonth/ChebyKAN (all channels, dense)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.chebyshev import bounded, bounded_cost, chebyshevs, clenshaw, clenshaw_cost
from undense.ops.regression import ridge


@register("polynomial_topk")
class TokenPolynomial(FFNComponent):
    """y = sum over the token's channels c of W_c p_c(u_c) + b, p_c(u) = sum_k a_kc T_k(u).

    u = z / sqrt(1 + z^2), z = scale x, in [-1, 1] for every input. A token's channels are those of
    its largest |z_c|, which costs a product, a sign and a comparison a channel; the others' powers
    are not computed and their rows of W not read, in training neither. The coefficients of a
    channel are active together: Clenshaw's sum goes through all of its degrees. Nothing but z
    decides, so the choice gets its gradient only through what it lets pass; y jumps where two
    channels change places.
    Shapes: `scale` (dim,), `coefficients` (poly_degree, dim), W (dim, dim), `bias` (dim,).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`poly_degree`: of each channel's series. `poly_keep_ratio`: share of the channels that a
        token keeps."""

        poly_degree: int = 3
        poly_keep_ratio: float = 0.3

        def __post_init__(self) -> None:
            if not 1 <= self.poly_degree <= 16:
                raise UndenseError(
                    f"polynomial_topk: poly_degree={self.poly_degree} must be between 1 and 16"
                )
            if not 0 < self.poly_keep_ratio <= 1:
                raise UndenseError(
                    f"polynomial_topk: poly_keep_ratio={self.poly_keep_ratio} must be above 0 and"
                    " at most 1"
                )

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.kept = max(1, round(dim * config.poly_keep_ratio))
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        degree = config.poly_degree
        self.coefficients = nn.Parameter(torch.randn(degree, dim) * degree**-0.5)
        self.weight = nn.Parameter(torch.randn(dim, dim) * self.kept**-0.5)
        self.bias = nn.Parameter(torch.zeros(dim))

    def channels(self, x: Tensor) -> Tensor:
        """The channels that each token keeps, largest |z| first: (..., dim) -> (..., kept)."""
        return self._largest(x * self.scale)

    def _largest(self, z: Tensor) -> Tensor:
        return z.detach().abs().topk(self.kept, -1).indices

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        z = (x * self.scale).reshape(-1, self.dim)
        kept = self._largest(z)
        series = clenshaw(bounded(z.gather(-1, kept)), self.coefficients[:, kept])
        # A weighted sum of rows where they are stored: a copy of them would be tokens x kept x dim.
        y = nn.functional.embedding_bag(kept, self.weight, per_sample_weights=series, mode="sum")
        return (y + self.bias).view_as(x)

    def outputs(self) -> list[nn.Parameter]:
        return [self.weight, self.bias]

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.kept
        degree = self.config.poly_degree
        series = clenshaw_cost("series", numbers, degree)
        multiplies = numbers * self.dim
        mix = Cost(
            name="mix",
            forward=2 * multiplies,
            backward=4 * multiplies,
            useful=2 * multiplies,
            macs=multiplies,
            weights=self.dim * self.dim,
            activations=numbers + tokens * self.dim,
        )
        bias = cost.elementwise("bias", tokens * self.dim, backward=1, macs=0)
        return Cost.total(
            "polynomial_topk",
            cost.gain("scale", tokens, self.dim, size=self.dim),
            cost.elementwise("selection", tokens * self.dim, forward=2, macs=0),
            cost.gather("kept channels", numbers),
            bounded_cost("into [-1, 1]", numbers),
            cost.gather("kept coefficients", numbers * degree),
            replace(series, weights=degree * self.dim),
            mix,
            replace(bias, weights=self.dim),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Least squares over the terms that the tokens keep; a channel's terms share one row of W
        by their best rank-one fit, and the rows are solved again behind the series."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        degree = self.config.poly_degree
        self.scale.data.copy_(1 / (2 * inputs.std(0)).clamp_min(1e-6))
        z = inputs * self.scale
        active = torch.zeros_like(z).scatter(-1, self._largest(z), 1.0)
        terms = torch.stack([t * active for t in chebyshevs(bounded(z), degree)], 1)
        weight, _ = ridge(terms.flatten(1), targets)
        spread = terms.std(0).T.unsqueeze(-1)  # (dim, degree, 1)
        shares = weight.view(degree, self.dim, -1).transpose(0, 1) * spread
        first = torch.linalg.svd(shares, full_matrices=False).U[..., :1]
        # unit variance, about: what a term varies by is divided out again
        coefficients = (first / spread.clamp_min(1e-6))[..., 0].T
        self.coefficients.data.copy_(coefficients)
        series = (terms * coefficients).sum(1)
        rows, bias = ridge(series, targets)
        self.weight.data.copy_(rows)
        self.bias.data.copy_(bias)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, TokenPolynomial.Config)
        if size > dim:
            raise UndenseError(f"polynomial_topk: {size} channels exceed dim={dim}")
        return config.replace(poly_keep_ratio=size / dim)
