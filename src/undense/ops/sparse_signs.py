"""Fixed sparse random signs: every output is a signed sum of a few input features. Nothing stored.

Which features, and their signs, come from the seed alone, by the counter-based generator Philox
4x64-10 (https://doi.org/10.1145/2063384.2063405; numpy's raw 64-bit stream of it is the same on
every platform and in every version): no draw of torch's, no rounding.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.derived import Derived
from undense.ops.gathered_sum import gathered_sum


def signed_places(fan_in: int, fan_out: int, per_row: int, seed: int) -> Tensor:
    """For each output `per_row` features to add: (fan_out, per_row) int32, c for +x_c and
    fan_in + c for -x_c.

    The features are cut into `per_row` ranges of (nearly) the same length and one is taken from
    each, so that the features of a row are distinct. Number n of the stream, read row by row,
    gives the sign by its lowest bit and the feature by its upper 31 bits modulo the range.
    """
    stream = numpy.random.Philox(key=seed).random_raw(fan_out * per_row).reshape(fan_out, per_row)
    edges = numpy.arange(per_row + 1, dtype=numpy.uint64) * numpy.uint64(fan_in)
    edges = edges // numpy.uint64(per_row)
    feature = edges[:-1] + (stream >> numpy.uint64(33)) % (edges[1:] - edges[:-1])
    negative = stream & numpy.uint64(1)
    return torch.from_numpy((feature + negative * numpy.uint64(fan_in)).astype(numpy.int32))


class SparseSigns(Derived):
    """z_j = sum of `per_row` of the features x_c or -x_c; additions only.

    One gather-and-sum (`embedding_bag`) over the tokens and their negatives, both transposed.
    Shapes: `places` (fan_out, per_row), int32, rebuilt from the seed and never saved. Related:
    sparse random projections, https://doi.org/10.1145/1150402.1150436; sparse embeddings with one
    non-zero a range, https://arxiv.org/abs/1211.1002.
    """

    places: Tensor

    def __init__(self, fan_in: int, fan_out: int, *, per_row: int, seed: int) -> None:
        super().__init__()
        if not 1 <= per_row <= fan_in:
            raise UndenseError(
                f"sparse signs: {per_row} features a row must be between 1 and {fan_in}"
            )
        self.fan_in = fan_in
        self.fan_out = fan_out
        self.seed = seed
        empty = torch.empty(fan_out, per_row, dtype=torch.int32)
        self.per_row = per_row
        self.register_buffer("places", empty, persistent=False)
        self.rebuild()

    def rebuild(self) -> None:
        if not self.places.is_meta:
            self.places.copy_(signed_places(self.fan_in, self.fan_out, self.per_row, self.seed))

    def forward(self, x: Tensor) -> Tensor:
        features = x.reshape(-1, self.fan_in).t()
        signed = torch.cat([features, -features])  # (2 * fan_in, tokens)
        sums = gathered_sum(signed, self.places)
        return sums.t().reshape(*x.shape[:-1], self.fan_out)

    def cost(self, name: str, tokens: int) -> Cost:
        numbers = tokens * self.fan_in
        added = tokens * self.places.numel()
        return Cost.total(
            name,
            cost.elementwise("signs", numbers, backward=1, macs=0),
            cost.fan_out("input with both signs", numbers, 2),
            Cost(
                name="sums",
                forward=added,
                backward=added,
                useful=added,
                indices=self.places.element_size() * self.places.numel(),
                activations=2 * numbers + tokens * self.fan_out,
            ),
        )
