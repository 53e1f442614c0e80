"""Low-rank FFN: all the neurons, each projection through a thin waist. A yardstick at equal FLOPs.
Source of the nonlinearity at the waist: CoLA, https://arxiv.org/abs/2502.10940."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, DenseShape, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.activation import activate, canonical
from undense.ops.low_rank import LowRankLinear
from undense.ops.waist import Waist

_Projection = LowRankLinear | Waist


@register("low_rank")
class LowRank(FFNComponent):
    """y = C w(D act(A w(B x) + b)) + c, waists of `rank`, w the function at the waist.

    The start is the whitened SVD of each projection, optimal for the inputs that it sees, with the
    factor nearest to the output solved again on what the first projection really passes on. With a
    nonlinear w each projection is fitted on the sample (see `ops/waist.py`).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`rank`: width of both waists; None is dim / 5. `waist`: function there, such as silu;
        `activation`: function of the neurons (identity: CoLA's variant without it). `hidden`:
        neurons; None is 4 x dim."""

        rank: int | None = None
        hidden: int | None = None
        activation: str = "gelu_tanh"
        waist: str = "identity"
        bias: bool = True

        def __post_init__(self) -> None:
            canonical(self.activation)
            canonical(self.waist)
            for name in ("rank", "hidden"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise UndenseError(f"low_rank: {name}={value} must be at least 1")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        rank = config.rank or max(1, dim // 5)
        self.hidden = config.hidden or 4 * dim
        self.activation = canonical(config.activation)
        waist = canonical(config.waist)
        self.up = _through(waist, dim, self.hidden, rank=rank, bias=config.bias)
        self.down = _through(waist, self.hidden, dim, rank=rank, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return self.down(activate(self.up(x), self.activation))

    def outputs(self) -> list[nn.Parameter]:
        return self.down.outputs()

    def cost(self, tokens: int) -> Cost:
        return Cost.total(
            "low_rank",
            self.up.cost("up", tokens),
            cost.activation("activation", tokens * self.hidden, self.activation),
            self.down.cost("down", tokens),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        if self.hidden != dense.hidden:
            raise UndenseError(
                f"low_rank: hidden={self.hidden} must equal the {dense.hidden} neurons of the dense"
                " FFN that it starts from; the rank is what makes it smaller"
            )
        rows = statistics.inputs
        targets = statistics.wanted(dense)
        gated = dense.gate is not None
        weight = dense.gate if gated else dense.up
        shift = dense.gate_bias if gated else dense.up_bias
        assert weight is not None
        if isinstance(self.up, Waist):
            self.up.fit_(rows, nn.functional.linear(rows, weight, shift))
        else:
            self.up.approximate_(weight, shift, rows.T @ rows / len(rows))
        features = activate(self.up(rows), self.activation)
        if isinstance(self.down, Waist):
            self.down.fit_(features, targets)
        else:
            gram = features.T @ features / len(rows)
            self.down.approximate_(dense.down, dense.down_bias, gram)
            self.down.refit_(features, targets)

    @classmethod
    def fitted(cls, shape: DenseShape) -> contract.Config:
        """With as many neurons as the host."""
        return cls.Config(hidden=shape.hidden, activation=shape.activation, bias=shape.bias)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, LowRank.Config)
        return config.replace(rank=size)


def _through(waist: str, fan_in: int, fan_out: int, *, rank: int, bias: bool) -> _Projection:
    if waist == "identity":
        return LowRankLinear(fan_in, fan_out, rank=rank, bias=bias)
    return Waist(fan_in, fan_out, rank=rank, activation=waist, bias=bias)
