"""The gated dense FFN (SwiGLU, GeGLU) at any width. Source: https://arxiv.org/abs/2002.05202."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, DenseShape, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops import neurons
from undense.ops.activation import activate, canonical
from undense.ops.block_linear import BlockLinear


@register("gated_dense")
class GatedDense(FFNComponent):
    """y = W_down (act(W_gate x) * W_up x), biases where configured.

    Starting from a wider gated FFN it keeps the neurons of largest output energy; from a plain one
    the gate takes the neuron and the up branch starts at the constant 1 (its bias), so that the
    function is the same and the up branch is free to learn. W_down is then solved again.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`hidden`: number of neurons; None is 8/3 x dim. `activation`: silu is SwiGLU."""

        hidden: int | None = None
        activation: str = "silu"
        bias: bool = False

        def __post_init__(self) -> None:
            canonical(self.activation)
            if self.hidden is not None and self.hidden < 1:
                raise UndenseError(f"gated_dense: hidden={self.hidden} must be at least 1")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.hidden = config.hidden or 8 * dim // 3
        self.activation = canonical(config.activation)
        self.gate = BlockLinear(dim, self.hidden, blocks=1, bias=config.bias)
        self.up = BlockLinear(dim, self.hidden, blocks=1, bias=config.bias)
        self.down = BlockLinear(self.hidden, dim, blocks=1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.down(activate(self.gate(x), self.activation) * self.up(x))

    def outputs(self) -> list[nn.Parameter]:
        return self.down.outputs()

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.hidden
        return Cost.total(
            "gated_dense",
            cost.fan_out("input read twice", tokens * self.dim, 2),
            self.gate.cost("gate", tokens),
            cost.activation("activation", numbers, self.activation),
            self.up.cost("up", tokens),
            cost.product("gating", numbers),
            self.down.cost("down", tokens),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        rows = statistics.inputs
        targets = statistics.wanted(dense)
        if dense.gate is None and not self.config.bias:
            raise UndenseError(
                "gated_dense: a plain dense FFN can only be carried over with bias=True"
                " (the up branch starts as the constant 1)"
            )
        same = canonical(dense.activation) == self.activation
        whole = self.hidden == dense.hidden and same and statistics.targets is None
        kept = neurons.keep(dense.neurons(rows), dense.down, min(self.hidden, dense.hidden))
        count = len(kept)
        gate, gate_bias = (dense.gate, dense.gate_bias)
        up, up_bias = (dense.up, dense.up_bias)
        if gate is None:
            gate, gate_bias = (dense.up, dense.up_bias)
            up, up_bias = (dense.up.new_zeros(dense.up.shape), dense.up.new_ones(dense.hidden))
        for branch, weight, shift in ((self.gate, gate, gate_bias), (self.up, up, up_bias)):
            branch.weight.data[0, :count] = weight[kept]
            if branch.bias is not None:
                branch.bias.data[:count] = 0.0 if shift is None else shift[kept]
        if whole and (self.config.bias or dense.down_bias is None):
            self.down.weight.data[0] = dense.down
            if self.down.bias is not None:
                self.down.bias.data.copy_(targets.new_zeros(self.dim))
                if dense.down_bias is not None:
                    self.down.bias.data.copy_(dense.down_bias)
        else:
            features = activate(self.gate(rows), self.activation) * self.up(rows)
            self.down.refit_(features, targets)

    @classmethod
    def fitted(cls, shape: DenseShape) -> contract.Config:
        """On a plain host with biases, which the start of the up branch needs."""
        bias = shape.bias or not shape.gated
        return cls.Config(activation=shape.activation, bias=bias)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, GatedDense.Config)
        return config.replace(hidden=size)
