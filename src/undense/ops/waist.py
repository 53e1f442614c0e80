"""Two thin factors with a nonlinearity between them: low-rank, and no longer linear.
Source: CoLA, https://arxiv.org/abs/2502.10940."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.activation import activate
from undense.ops.block_linear import BlockLinear
from undense.ops.regression import reduced_rank, ridge

SCALES = (0.1, 0.25, 0.5, 1.0, 2.0)  # std of what the nonlinearity receives, tried at the start


class Waist(nn.Module):
    """x -> A act(B x) + b with B (rank, fan_in), A (fan_out, rank).

    Random start as in the paper's linear case: both factors of std
    (rank * (fan_in + fan_out))^(-1/4).
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, rank: int, activation: str, bias: bool
    ) -> None:
        super().__init__()
        self.activation = activation
        self.first = BlockLinear(fan_in, rank, blocks=1, bias=False)
        self.last = BlockLinear(rank, fan_out, blocks=1, bias=bias)
        for factor in (self.first, self.last):
            factor.reset((rank * (fan_in + fan_out)) ** -0.25)

    def features(self, x: Tensor) -> Tensor:
        """What the last factor reads: (..., fan_in) -> (..., rank)."""
        return activate(self.first(x), self.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))

    def outputs(self) -> list[nn.Parameter]:
        """What the output is linear in together."""
        return self.last.outputs()

    def cost(self, name: str, tokens: int) -> Cost:
        return Cost.total(
            name,
            self.first.cost("first factor", tokens),
            cost.activation("waist", tokens * self.first.fan_out, self.activation),
            self.last.cost("last factor", tokens),
        )

    def fit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Towards a sample: `inputs` (rows, fan_in), `targets` (rows, fan_out).

        B reads the input directions of the best linear map of this rank. Two ways to pass them on
        are tried, A solved by ridge regression for each, and the better one is kept: all
        directions, scaled to one of a few sizes (small ones see a nearly linear piece of a smooth
        nonlinearity); or half of them with both signs (act(z) - act(-z) is z for GELU, SiLU, ReLU).
        """
        rank = self.first.fan_out
        _, into, _ = reduced_rank(inputs, targets, min(rank, *inputs.shape[1:], targets.shape[1]))
        spread = (inputs @ into).std(0).clamp_min(1e-12)
        directions = self.first.weight.data[0].clone()  # past the last direction: as drawn
        directions[: into.shape[1]] = (into / spread).T
        tried = [scale * directions for scale in SCALES]
        if rank > 1:
            half = directions[: rank // 2]
            tried.append(torch.cat([half, -half, directions[rank // 2 : rank - rank // 2]]))
        fits = [self._residual(candidate, inputs, targets) for candidate in tried]
        best = fits.index(min(fits))
        self.first.set_blocks_(tried[best][None])
        self.refit_(inputs, targets)

    def _residual(self, directions: Tensor, inputs: Tensor, targets: Tensor) -> float:
        features = activate(inputs @ directions.T, self.activation)
        weight, shift = ridge(features, targets, intercept=self.last.bias is not None)
        return float((features @ weight + shift - targets).square().mean())

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """The directions stay: the last factor and its bias are solved again."""
        self.last.refit_(self.features(inputs).detach(), targets)
