"""Two block-diagonal factors with a learned filter in frequency between them.

W = R F^-1 diag(response) F L. The filter, a circulant matrix, stands where a Monarch matrix has its
permutation. Related: Monarch, https://arxiv.org/abs/2204.00595; ACDC, https://arxiv.org/abs/1511.05946
(diagonals around cosine transforms, without blocks).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.fft_transforms import FourierTransform
from undense.ops.linear_map import Leaf, LinearMap, divisors, matrix
from undense.ops.regression import whitened_svd
from undense.ops.spectrum import respond, respond_cost

SWEEPS = 4  # of the two factors in turns, at a start from dense weights


class FilteredLinear(LinearMap):
    """x -> L x -> filter -> R x + b, with `mid` features between the factors.

    The filter multiplies every frequency of the features, 1 to below mid / 2, by a response of its
    own, `gain` and `twist` (frequencies, 2), in fp32 at least; the mean over the features and, for
    an even `mid`, the alternating mode do not pass it.
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, blocks: int, bias: bool, leaf: Leaf = BlockLinear
    ) -> None:
        super().__init__(fan_in, fan_out)
        self.blocks = blocks
        self.mid = min(fan_in, fan_out)
        if self.mid < 3:
            raise UndenseError(
                f"filtered map {fan_in} -> {fan_out}: a filter needs at least 3 features"
            )
        if self.mid % blocks:
            raise UndenseError(
                f"filtered map {fan_in} -> {fan_out}: blocks={blocks} must divide the smaller"
                f" width; try one of {divisors(self.mid)}"
            )
        self.first = leaf(fan_in, self.mid, blocks=blocks, bias=False)
        self.transform = FourierTransform(self.mid)
        self.gain = nn.Parameter(torch.empty(self.transform.frequencies, 2))
        self.twist = nn.Parameter(torch.empty(self.transform.frequencies, 2))
        self.last = leaf(self.mid, fan_out, blocks=blocks, bias=bias)
        self._turn()

    def _turn(self) -> None:
        """Responses of modulus 1 and random phase: they mix the features and keep the RMS."""
        phase = torch.rand(self.transform.frequencies) * (2 * math.pi)
        self.gain.data.copy_(phase.cos().unsqueeze(-1).expand(-1, 2))
        self.twist.data.copy_(torch.stack([-phase.sin(), phase.sin()], -1))

    def features(self, x: Tensor) -> Tensor:
        """What the last factor reads: (..., fan_in) -> (..., mid)."""
        return self._filter(self.first(x))

    def _filter(self, x: Tensor) -> Tensor:
        spectrum = self.transform.analyse(x).unflatten(-1, (-1, 2))
        filtered = respond(spectrum, self.gain, self.twist).flatten(-2)
        return self.transform.synthesise(filtered).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.last.outputs()

    def cost(self, name: str, tokens: int) -> Cost:
        modes = self.transform.modes
        return Cost.total(
            name,
            self.first.cost("first factor", tokens),
            self.transform.analysis_cost(tokens),
            respond_cost("filter", tokens, modes, twisted=True, stored=modes),
            self.transform.synthesis_cost(tokens),
            self.last.cost("last factor", tokens),
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Of every input block the directions that the output depends on most, phases at random;
        then the last factor and the blocks of the first by least squares, in turns."""
        inputs, between = (self.fan_in // self.blocks, self.mid // self.blocks)
        first = weight.new_zeros(self.blocks, between, inputs)
        for block in range(self.blocks):
            columns = slice(block * inputs, (block + 1) * inputs)
            into = whitened_svd(weight[:, columns], gram[columns, columns], between)[1]
            first[block, : len(into)] = into
        self.first.set_blocks_(first)
        self._solve_last(weight, gram)
        for _ in range(SWEEPS):
            self._solve_first(weight, gram)
            self._solve_last(weight, gram)
        self.last.set_bias_(bias)

    def _solve_last(self, weight: Tensor, gram: Tensor) -> None:
        unit = torch.eye(self.fan_in, dtype=weight.dtype, device=weight.device)
        reading = self.features(unit).detach().T.double()  # (mid, fan_in)
        seen = reading @ gram.double()
        self.last.solve_(seen @ reading.T, weight.double() @ seen.T)

    def _solve_first(self, weight: Tensor, gram: Tensor) -> None:
        """Block after block, given the others: A_j^T A_j L_j G_jj = A_j^T (W - rest) G_j."""
        unit = torch.eye(self.mid, dtype=weight.dtype, device=weight.device)
        passed = self._filter(unit)
        after = (self.last(passed) - self.last(torch.zeros_like(unit))).detach().T.double()
        gram, left = (gram.double(), weight.double() - after @ matrix(self.first).double())
        inputs, between = (self.fan_in // self.blocks, self.mid // self.blocks)
        first = weight.new_zeros(self.blocks, between, inputs)
        before = matrix(self.first).double()
        for block in range(self.blocks):
            columns = slice(block * inputs, (block + 1) * inputs)
            rows = slice(block * between, (block + 1) * between)
            reach, own = (after[:, rows], before[rows, columns])
            left[:, columns] += reach @ own
            wanted = reach.T @ left @ gram[:, columns]
            found = _solve(reach.T @ reach, _solve(gram[columns, columns], wanted.T).T)
            first[block] = found.to(first.dtype)
            left[:, columns] -= reach @ found
        self.first.set_blocks_(first)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        self.last.refit_(self.features(inputs).detach(), targets)


def _solve(gram: Tensor, wanted: Tensor) -> Tensor:
    """gram^-1 wanted, for a gram matrix that need not have full rank."""
    ridge = 1e-6 * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), wanted)
