"""Fixed sparse random expansion, a light nonlinearity, a small learned read-out. Token-local.
Related: random kitchen sinks (Rahimi and Recht, 2008) and reservoir computing, here for each token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops import structured
from undense.ops.activation import activate, canonical
from undense.ops.regression import ridge
from undense.ops.sparse_signs import SparseSigns
from undense.ops.structured import Structure, check_structure


@register("random_projection")
class RandomProjection(FFNComponent):
    """y = R act(gain * (S x) + shift), S (hidden, dim) with `per_row` random entries +-1 a row.

    S is drawn from the seed, never learned and never saved; it costs additions only. Learned are
    gain and shift of the hidden features and the read-out R, which is factored: a dense R would
    cost what half a dense FFN costs.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`hidden`: random features; None is 4 x dim. `per_row`: features of the input that each
        of them adds up. `seed`: of the signs. `nonlinearity`: a light one, whatever the host's.
        `readout`: kinds of R as in `tensor_factor`, joined by "+"; `blocks`, `rank` (None is
        dim / 8), `terms` and `keep` are its sizes."""

        hidden: int | None = None
        per_row: int = 4
        seed: int = 0
        nonlinearity: str = "relu"
        readout: str = "low_rank"
        blocks: int = 4
        rank: int | None = None
        terms: int = 4
        keep: float = 1.0
        bias: bool = True

        def __post_init__(self) -> None:
            canonical(self.nonlinearity)
            if self.seed < 0:
                raise UndenseError(f"random_projection: seed={self.seed} must be at least 0")
            check_structure(
                "random_projection",
                "readout",
                self.readout,
                keep=self.keep,
                counts={
                    "hidden": self.hidden,
                    "per_row": self.per_row,
                    "blocks": self.blocks,
                    "rank": self.rank,
                    "terms": self.terms,
                },
            )

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.hidden = config.hidden or 4 * dim
        self.nonlinearity = canonical(config.nonlinearity)
        self.signs = SparseSigns(dim, self.hidden, per_row=config.per_row, seed=config.seed)
        self.gain = nn.Parameter(torch.full((self.hidden,), config.per_row**-0.5))
        self.shift = nn.Parameter(torch.zeros(self.hidden))
        structure = Structure(
            kinds=config.readout,
            blocks=config.blocks,
            rank=config.rank or max(1, dim // 8),
            terms=config.terms,
            keep=config.keep,
        )
        self.readout = structure.build(self.hidden, dim, bias=config.bias)

    def features(self, x: Tensor) -> Tensor:
        """The random features: (..., dim) -> (..., hidden)."""
        return activate(self.signs(x) * self.gain + self.shift, self.nonlinearity)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.readout(self.features(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.readout.outputs()

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.hidden
        shift = cost.elementwise("shift", numbers, backward=1, macs=0)
        return Cost.total(
            "random_projection",
            self.signs.cost("expansion", tokens),
            cost.gain("gain", tokens, self.hidden, size=self.hidden),
            replace(shift, weights=self.hidden),
            cost.activation("nonlinearity", numbers, self.nonlinearity),
            self.readout.cost("readout", tokens),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Features of unit variance whose thresholds cover the sample (the quantiles of a normal
        distribution, from one feature to the next), the ridge regression of the outputs on them,
        that dense read-out in the closed form of its structure, its last factor solved again
        towards what the dense read-out gives (the outputs themselves would be overfitted anew)."""
        rows, targets = (statistics.inputs, statistics.wanted(dense))
        sums = self.signs(rows)
        spread = sums.std(0).clamp_min(1e-6)
        quantiles = (torch.arange(self.hidden) * 0.6180339887 + 0.5) % 1  # evenly, out of order
        thresholds = torch.special.ndtri(0.02 + 0.96 * quantiles)
        self.gain.data.copy_(1 / spread)
        self.shift.data.copy_(-sums.mean(0) / spread - thresholds)
        features = self.features(rows)
        weight, shift = ridge(features, targets, intercept=self.config.bias)
        seen = features - features.mean(0) if self.config.bias else features
        self.readout.approximate_(weight.T.contiguous(), shift, seen.T @ seen / len(rows))
        self.readout.refit_(features, features @ weight + shift)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        """The rank of the read-out or its number of terms, else the number of random features."""
        assert isinstance(config, RandomProjection.Config)
        return config.replace(**structured.sized(config.readout, config.blocks, size))
