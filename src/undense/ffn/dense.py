"""The dense FFN of GPT-2 at any width: the yardstick, and narrow dense at a FLOP budget."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops import neurons
from undense.ops.activation import activate, canonical
from undense.ops.block_linear import BlockLinear


@register("dense")
class Dense(FFNComponent):
    """y = W_down act(W_up x + b_up) + b_down.

    Starting from a wider dense FFN, it keeps the neurons of largest output energy and solves
    W_down and b_down again by least squares, so that they also say what the dropped ones said.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`hidden`: number of neurons; None is 4 x dim. `activation`: see `ops/activation.py`."""

        hidden: int | None = None
        activation: str = "gelu_tanh"
        bias: bool = True

        def __post_init__(self) -> None:
            canonical(self.activation)
            if self.hidden is not None and self.hidden < 1:
                raise UndenseError(f"dense: hidden={self.hidden} must be at least 1")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.hidden = config.hidden or 4 * dim
        self.activation = canonical(config.activation)
        self.up = BlockLinear(dim, self.hidden, blocks=1, bias=config.bias)
        self.down = BlockLinear(self.hidden, dim, blocks=1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.down(activate(self.up(x), self.activation))

    def outputs(self) -> list[nn.Parameter]:
        return self.down.outputs()

    def cost(self, tokens: int) -> Cost:
        return Cost.total(
            "dense",
            self.up.cost("up", tokens),
            cost.activation("activation", tokens * self.hidden, self.activation),
            self.down.cost("down", tokens),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        rows = statistics.inputs
        targets = statistics.wanted(dense)
        inner, shift = (dense.up, dense.up_bias)
        if dense.gate is not None:  # the gate decides when a gated neuron fires
            inner, shift = (dense.gate, dense.gate_bias)
        # Same neurons, same function: copied, not fitted.
        whole = self.hidden == dense.hidden and dense.gate is None and statistics.targets is None
        same = canonical(dense.activation) == self.activation
        biased = any(bias is not None for bias in (dense.up_bias, dense.down_bias))
        exact = whole and same and (self.config.bias or not biased)
        if exact:
            kept = slice(None)
        else:
            count = min(self.hidden, dense.hidden)
            kept = neurons.keep(dense.neurons(rows), dense.down, count)
        count = inner[kept].shape[0]
        self.up.weight.data[0, :count] = inner[kept]
        if self.up.bias is not None:
            self.up.bias.data[:count] = 0.0 if shift is None else shift[kept]
        if exact:
            self.down.set_blocks_(dense.down[None])
            self.down.set_bias_(dense.down_bias)
        else:
            self.down.refit_(activate(self.up(rows), self.activation), targets)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, Dense.Config)
        return config.replace(hidden=size)
