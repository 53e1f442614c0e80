"""FFN of factored projections: expansion, activation, optional gate, contraction, none dense.
Sources: Monarch, https://arxiv.org/abs/2204.00595; structured FFNs, https://arxiv.org/abs/2406.16450;
Kronecker products, https://arxiv.org/abs/2109.06243 (of FFN weights).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, DenseShape, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops import neurons, structured
from undense.ops.activation import activate, canonical
from undense.ops.monarch import shuffle
from undense.ops.structured import Structure, check_structure


@register("tensor_factor")
class TensorFactor(FFNComponent):
    """y = V act(U x), gated: y = V (act(G x) * U x); U, G, V factored.

    `factor` is one kind of factored matrix, or a sum such as "block+low_rank":
    "block": block-diagonal, with a perfect shuffle of the neurons between U and V.
    "monarch": two block-diagonal factors with a shuffle of their own.
    "filtered": two block-diagonal factors with a learned filter in frequency between them.
    "low_rank": two thin factors.
    "kronecker": a sum of `terms` Kronecker products W1 x W2.
    With `keep` below 1 each row of every factor stores and computes that share of its entries only.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`blocks`: diagonal blocks of the factors. `rank`: of the low-rank ones; None is dim / 8.
        `terms`: Kronecker products in each sum. `keep`: share of the entries of each factor's rows.
        `hidden`: neurons; None is 4 x dim."""

        factor: str = "block"
        blocks: int = 4
        rank: int | None = None
        terms: int = 4
        keep: float = 1.0
        hidden: int | None = None
        activation: str = "gelu_tanh"
        gated: bool = False
        bias: bool = True

        def __post_init__(self) -> None:
            canonical(self.activation)
            check_structure(
                "tensor_factor",
                "factor",
                self.factor,
                keep=self.keep,
                counts={
                    "blocks": self.blocks,
                    "rank": self.rank,
                    "terms": self.terms,
                    "hidden": self.hidden,
                },
            )

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.hidden = config.hidden or 4 * dim
        self.activation = canonical(config.activation)
        structure = Structure(
            kinds=config.factor,
            blocks=config.blocks,
            rank=config.rank or max(1, dim // 8),
            terms=config.terms,
            keep=config.keep,
        )
        # a block-diagonal U and a block-diagonal V alone would never mix their blocks
        self.groups = config.blocks if "block" in structure.names else 1
        self.up = structure.build(dim, self.hidden, bias=config.bias)
        self.gate = structure.build(dim, self.hidden, bias=config.bias) if config.gated else None
        self.down = structure.build(self.hidden, dim, bias=config.bias)

    def neurons(self, x: Tensor) -> Tensor:
        """Hidden activations in the order in which `down` reads them."""
        inner = self.up(x)
        if self.gate is None:
            hidden = activate(inner, self.activation)
        else:
            hidden = activate(self.gate(x), self.activation) * inner
        return shuffle(hidden, self.groups) if self.groups > 1 else hidden

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.down(self.neurons(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.down.outputs()

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.hidden
        parts = [self.up.cost("up", tokens)]
        if self.gate is not None:
            parts.append(cost.fan_out("input read twice", tokens * self.dim, 2))
            parts.append(self.gate.cost("gate", tokens))
            parts.append(cost.product("gating", numbers))
        parts.append(cost.activation("activation", numbers, self.activation))
        parts.append(self.down.cost("down", tokens))
        return Cost.total("tensor_factor", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Neurons kept by output energy (past those of `dense`, random ones), each projection
        approximated in closed form on the inputs that it sees, the factor nearest to the output
        solved again on the sample."""
        rows = statistics.inputs
        targets = statistics.wanted(dense)
        dense = _widened(dense, self.hidden)
        kept = neurons.keep(dense.neurons(rows), dense.down, self.hidden)
        gram = rows.T @ rows / len(rows)
        if dense.gate is None:
            fires, fires_bias = (dense.up[kept], _rows(dense.up_bias, kept))
            scales, scales_bias = (None, None)
        else:
            fires, fires_bias = (dense.gate[kept], _rows(dense.gate_bias, kept))
            scales, scales_bias = (dense.up[kept], _rows(dense.up_bias, kept))
        if self.gate is None:
            self.up.approximate_(fires, fires_bias, gram)
        else:
            if scales is None and not self.config.bias:
                raise UndenseError(
                    "tensor_factor: gated=True can start from a plain dense FFN only with bias=True"
                    " (the up branch starts as the constant 1)"
                )
            self.gate.approximate_(fires, fires_bias, gram)
            if scales is None:
                scales, scales_bias = (fires.new_zeros(fires.shape), fires.new_ones(len(kept)))
            self.up.approximate_(scales, scales_bias, gram)
        order = self._order(kept)
        features = self.neurons(rows)
        seen = features.T @ features / len(rows)
        self.down.approximate_(dense.down[:, order], dense.down_bias, seen)
        self.down.refit_(features, targets)

    def _order(self, kept: Tensor) -> Tensor:
        """The kept neurons in the order in which `down` reads them."""
        return shuffle(kept, self.groups) if self.groups > 1 else kept

    @classmethod
    def fitted(cls, shape: DenseShape) -> contract.Config:
        """Gated where the host is; on a plain host with biases."""
        return cls.Config(
            activation=shape.activation, gated=shape.gated, bias=shape.bias or not shape.gated
        )

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        """The rank or the number of Kronecker terms where there is one; else `size` multiplies
        the smallest number of neurons that the blocks divide."""
        assert isinstance(config, TensorFactor.Config)
        return config.replace(**structured.sized(config.factor, config.blocks, size))


def _widened(dense: DenseFFN, hidden: int) -> DenseFFN:
    """`dense` with random neurons, which its output ignores, up to `hidden` of them."""
    more = hidden - dense.hidden
    if more <= 0:
        return dense

    def grown(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        drawn = torch.randn(more, dense.dim) * dense.dim**-0.5
        return torch.cat([weight, drawn]), None if bias is None else torch.cat([bias, zeros])

    zeros = dense.up.new_zeros(more)
    up, up_bias = grown(dense.up, dense.up_bias)
    gate, gate_bias = (None, None)
    if dense.gate is not None:
        gate, gate_bias = grown(dense.gate, dense.gate_bias)
    return replace(
        dense,
        up=up,
        up_bias=up_bias,
        gate=gate,
        gate_bias=gate_bias,
        down=torch.cat([dense.down, dense.down.new_zeros(dense.dim, more)], 1),
    )


def _rows(bias: Tensor | None, kept: Tensor) -> Tensor | None:
    return None if bias is None else bias[kept]
