"""Sum of structured linear maps, such as a block-diagonal one plus one of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.linear_map import LinearMap, matrix

SWEEPS = 8  # at most; they stop when the error falls by less than a hundredth


class SumLinear(LinearMap):
    """x -> sum of the maps of x. At most the first map has a bias.

    Each map starts as its closed form of what the others leave, in turn (backfitting). Related:
    sparse plus low-rank, https://arxiv.org/abs/2306.11222 (for weights of a trained model).
    """

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        super().__init__(maps[0].fan_in, maps[0].fan_out)
        assert len(maps) > 1 and len({(m.fan_in, m.fan_out) for m in maps}) == 1
        self.maps = nn.ModuleList(maps)
        with torch.no_grad():
            for parameter in self.maps.parameters():  # so that the sum keeps the RMS
                parameter.mul_(len(maps) ** -0.5)

    def _maps(self) -> list[LinearMap]:
        return [linear for linear in self.maps if isinstance(linear, LinearMap)]

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.maps
        y = first(x)
        for linear in others:
            y = y + linear(x)
        return y

    def outputs(self) -> list[nn.Parameter]:
        return [weight for linear in self._maps() for weight in linear.outputs()]

    def cost(self, name: str, tokens: int) -> Cost:
        maps = self._maps()
        sums = len(maps) - 1
        return Cost.total(
            name,
            *(linear.cost(type(linear).__name__, tokens) for linear in maps),
            cost.add("sum", sums * tokens * self.fan_out),
            cost.fan_out("input read by each", tokens * self.fan_in, len(maps)),
        )

    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Sweeps of each map onto what the others leave of `weight`; the best sweep is kept."""
        maps = self._maps()
        parts = [torch.zeros_like(weight) for _ in maps]
        least, best = (float("inf"), deepcopy(self.state_dict()))
        for _ in range(SWEEPS):
            for place, linear in enumerate(maps):
                left = weight - sum(part for k, part in enumerate(parts) if k != place)
                linear.approximate_(left, bias if place == 0 else None, gram)
                parts[place] = matrix(linear)
            left = weight - sum(parts)
            error = float(((left @ gram) * left).sum())
            better = error < 0.99 * least
            if error < least:
                least, best = error, deepcopy(self.state_dict())
            if not better:
                break
        self.load_state_dict(best)

    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Sweeps of each map onto what the others leave of the targets, the one with the bias
        last."""
        maps = self._maps()
        outputs = [linear(inputs).detach() for linear in maps]
        for _ in range(3):
            for place in reversed(range(len(maps))):
                left = targets - sum(y for k, y in enumerate(outputs) if k != place)
                maps[place].refit_(inputs, left)
                outputs[place] = maps[place](inputs).detach()
