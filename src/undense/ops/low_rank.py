"""Low-rank linear map: two thin factors."""

from __future__ import annotations

from torch import Tensor, nn

from undense.cost import Cost
from undense.ops.block_linear import BlockLinear
from undense.ops.linear_map import Leaf, LinearMap, matrix
from undense.ops.regression import whitened_svd


class LowRankLinear(LinearMap):
    """x -> A (B x) + b with B (rank, fan_in), A (fan_out, rank).

    At random start both factors have the std (rank * (fan_in + fan_out))^(-1/4), so that an entry
    of A B has the variance 1 / (fan_in + fan_out). Source: CoLA, https://arxiv.org/abs/2502.10940.
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, rank: int, bias: bool, leaf: Leaf = BlockLinear
    ) -> None:
        super().__init__(fan_in, fan_out)
        self.first = leaf(fan_in, rank, blocks=1, bias=False)
        self.last = leaf(rank, fan_out, blocks=1, bias=bias)
        for factor in (self.first, self.last):
            factor.reset((rank * (fan_in + fan_out)) ** -0.25)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.last.outputs()

    def cost(self, name: str, tokens: int) -> Cost:
        return Cost.total(
            name, self.first.cost("first factor", tokens), self.last.cost("last factor", tokens)
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Whitened SVD: the best factors of this rank on inputs with this second moment. The last
        one is then solved given the first, which a sparse first factor may need."""
        out, into = whitened_svd(weight, gram, self.first.fan_out)
        kept = into.shape[0]
        first = weight.new_zeros(1, self.first.fan_out, self.fan_in)
        last = weight.new_zeros(1, self.fan_out, self.first.fan_out)
        first[0, :kept] = into
        last[0, :, :kept] = out
        self.first.set_blocks_(first)
        self.last.set_blocks_(last)
        reading = matrix(self.first).double()
        seen = reading @ gram.double()
        self.last.solve_(seen @ reading.T, weight.double() @ seen.T)
        self.last.set_bias_(bias)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """The rank stays: only the factor nearest to the output is solved again."""
        self.last.refit_(self.first(inputs).detach(), targets)
