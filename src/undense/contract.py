"""What a component is: its `Config`, the registry, `FFNComponent`, and the dense FFN it replaces.

A component is one file. It registers a class under a name; the class nests a frozen `Config`, the
only home of its defaults; everything else (FLOP accounting, conversion, saving, contract tests,
commands, benchmark arms, report rows) goes through what is declared here.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.activation import activate
from undense.registry import Config, Part, Registry


@dataclass(frozen=True, kw_only=True)
class DenseFFN:
    """A dense FFN in one orientation whatever the host: rows of a weight are its outputs.

    y = down(act(up x))  or, gated,  y = down(act(gate x) * up x).
    Shapes: `up`, `gate` (hidden, dim); `down` (dim, hidden); biases (hidden,) or (dim,) or None.
    """

    up: Tensor
    down: Tensor
    activation: str
    gate: Tensor | None = None
    up_bias: Tensor | None = None
    gate_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.up.shape[1]

    @property
    def hidden(self) -> int:
        """Number of hidden neurons."""
        return self.up.shape[0]

    @property
    def shape(self) -> DenseShape:
        """The sizes alone, which are enough to count what the FFN costs."""
        return DenseShape(
            dim=self.dim,
            hidden=self.hidden,
            gated=self.gate is not None,
            activation=self.activation,
            bias=self.down_bias is not None,
        )

    @property
    def branches(self) -> tuple[Tensor, Tensor]:
        """The first layer, the gate before `up`: weights (1 or 2, hidden, dim), biases (1 or 2,
        hidden), zeros where there are none."""
        parts = [(self.up, self.up_bias)]
        if self.gate is not None:
            parts.insert(0, (self.gate, self.gate_bias))
        none = self.up.new_zeros(self.hidden)
        biases = [none if bias is None else bias for _, bias in parts]
        return torch.stack([weight for weight, _ in parts]), torch.stack(biases)

    def neurons(self, x: Tensor) -> Tensor:
        """Hidden activations of the rows of `x`: (rows, dim) -> (rows, hidden)."""
        inner = nn.functional.linear(x, self.up, self.up_bias)
        if self.gate is None:
            return activate(inner, self.activation)
        return activate(nn.functional.linear(x, self.gate, self.gate_bias), self.activation) * inner

    def __call__(self, x: Tensor) -> Tensor:
        """The dense output: (rows, dim) -> (rows, dim)."""
        return nn.functional.linear(self.neurons(x), self.down, self.down_bias)


@dataclass(frozen=True, kw_only=True)
class DenseShape:
    """The sizes of a dense FFN: what a share of its FLOPs refers to."""

    dim: int
    hidden: int
    gated: bool = False
    activation: str = "gelu_tanh"
    bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a calibration pass saw at one site: a sample of the FFN's inputs, (rows, dim), fp32.

    `targets`, (rows, dim), is what the component shall put out there, where that is not the dense
    output itself: a stage of a composite starts towards what the stages before it left over.
    """

    inputs: Tensor
    targets: Tensor | None = None

    def wanted(self, dense: DenseFFN) -> Tensor:
        """The outputs to start towards: (rows, dim)."""
        return dense(self.inputs) if self.targets is None else self.targets


@dataclass(kw_only=True)
class Past:
    """What a host tells a component that is not token-local about one call, and is told back.

    `state`: what the component left here after the tokens before, the batch first; None at the
    start of the sequences. `mask` (batch, tokens), its last columns those of the call: False for
    padding; None where there is none.
    """

    state: Tensor | None = None
    mask: Tensor | None = None


class FFNComponent(Part, ABC):
    """A map (..., dim) -> (..., dim) that stands where a dense FFN stood.

    It returns the update only: the host block adds the residual. Token-local, unless its config
    says otherwise; then it is causal along (..., time, dim), and a host that calls it with anything
    but whole sequences, unpadded on the left, sets `past` for the call.
    """

    past: Past | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""

    @abstractmethod
    def cost(self, tokens: int) -> Cost:
        """What one call on `tokens` tokens costs, in the order of `forward`, in the mode that the
        component is in: where training takes another path, it has its own cost."""

    @abstractmethod
    def outputs(self) -> list[nn.Parameter]:
        """What decides how loud the output is: scaled together by s, the output is scaled by s
        (nearly, where a step reads what the step before it put out). Empty for no output at all."""

    @abstractmethod
    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Set the parameters in closed form so that the output approximates `dense`."""

    @classmethod
    @abstractmethod
    def sized(cls, config: Config, dim: int, size: int) -> Config:
        """`config` with its one sizing knob at step `size` (1, 2, 3 …), cost increasing in it.

        Budgets ("25 % of the dense FLOPs") are met by searching over it. A component without such
        a knob raises an `UndenseError` that says so.
        """

    @classmethod
    def fitted(cls, shape: DenseShape) -> Config:
        """The defaults for a host of this shape: its activation and biases where there are such
        fields. A component that needs more of the host overrides this."""
        known = {field.name for field in dataclasses.fields(cls.Config)}
        host: dict[str, Any] = {"activation": shape.activation, "bias": shape.bias}
        return cls.Config(**{name: value for name, value in host.items() if name in known})

    @classmethod
    def untrained(cls, config: Config) -> Config:
        """`config`, a default, as it trains best from a random start and not from dense weights."""
        return config

    def check(self, x: Tensor) -> None:
        """Refuse an input of another width; the message names both."""
        if x.shape[-1] != self.dim:
            raise UndenseError(
                f"{self.component}: input has {x.shape[-1]} features but the component was built"
                f" for dim={self.dim}; pass dim={x.shape[-1]}, the width of the residual stream"
                " (not the hidden width of the FFN)"
            )


class GainedFFN(FFNComponent, ABC):
    """A component that multiplies its output by a learned number as part of its own work."""

    @abstractmethod
    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """(..., dim) -> (..., dim), times `gain` (1), which `cost` leaves to whoever gives it."""


_REGISTRY: Registry[FFNComponent] = Registry("component", "an FFN config")
register = _REGISTRY.register
components = _REGISTRY.classes
component_class = _REGISTRY.named
config_from_dict = _REGISTRY.config
build = _REGISTRY.build


def from_dense(dense: DenseFFN, config: Config, statistics: Statistics) -> FFNComponent:
    """A component whose parameters start, in closed form, as close to `dense` as it can be."""
    component = build(dense.dim, config)
    with torch.no_grad():
        component.start_from(dense, statistics)
    return component


def abstract_cost(dim: int, config: Config, tokens: int = 1) -> Cost:
    """The inference cost of a component that is never given memory (built on the meta device)."""
    with torch.device("meta"):
        return build(dim, config).eval().cost(tokens)
