"""The composition: spectral -> polynomial -> micro-refinement -> factored projection, gated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import (
    DenseFFN,
    FFNComponent,
    GainedFFN,
    Statistics,
    build,
    component_class,
    config_from_dict,
    register,
)
from undense.cost import Cost
from undense.errors import UndenseError
from undense.kernels.held import there
from undense.ops.regression import ridge

STAGES = ("spectral", "polynomial", "micro", "projection")


def _default(component: str) -> contract.Config:
    return config_from_dict({"component": component})


@register("ultra")
class UltraEfficientSparseFFN(FFNComponent):
    """h <- norm_in(x); for each stage: u = gate * stage(h), h <- h + u; y = norm_out(sum of u).

    Every stage is a gated residual update of one running state; the FFN's update is the sum of
    them, and the host block adds it to its residual stream. A stage that is None is not there. The
    four stages take any component's config, so that one config describes every mixture.

    `UltraEfficientSparseFFN(d=768)` builds the four default stages; the keyword knobs `k_freq`,
    `poly_degree`, `poly_keep_ratio`, `micro_steps`, `micro_keep_ratio`, `dropout` set theirs.
    Shapes: (..., d) -> (..., d); one scalar gate for each stage.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`spectral`, `polynomial`, `micro`, `projection`: child configs, or None to leave one out.
        `norm_in`, `norm_out`: LayerNorm before and after. `gate`: starting value of the gates of
        the first three stages; the projection's starts at 1. `dropout`: on the update."""

        spectral: contract.Config | None = field(default_factory=lambda: _default("spectral"))
        polynomial: contract.Config | None = field(default_factory=lambda: _default("polynomial"))
        micro: contract.Config | None = field(default_factory=lambda: _default("micro_refine"))
        projection: contract.Config | None = field(
            default_factory=lambda: _default("tensor_factor")
        )
        norm_in: bool = True
        norm_out: bool = True
        gate: float = 0.1
        dropout: float = 0.0

        def __post_init__(self) -> None:
            if all(getattr(self, stage) is None for stage in STAGES):
                raise UndenseError("ultra: all four stages are None; keep one, or use 'none'")
            if not 0 <= self.dropout < 1:
                raise UndenseError(f"ultra: dropout={self.dropout} must be at least 0 and below 1")

    config: Config

    def __init__(
        self,
        d: int = 768,
        config: Config | None = None,
        *,
        k_freq: int | None = None,
        poly_degree: int | None = None,
        poly_keep_ratio: float | None = None,
        micro_steps: int | None = None,
        micro_keep_ratio: float | None = None,
        dropout: float | None = None,
    ) -> None:
        config = config or self.Config()
        knobs = {
            "spectral": {"k_freq": k_freq},
            "polynomial": {"poly_degree": poly_degree, "poly_keep_ratio": poly_keep_ratio},
            "micro": {"micro_steps": micro_steps, "micro_keep_ratio": micro_keep_ratio},
        }
        for stage, values in knobs.items():
            given = {name: value for name, value in values.items() if value is not None}
            child = getattr(config, stage)
            if given and child is None:
                raise UndenseError(f"ultra: {sorted(given)} given, but the {stage} stage is None")
            if given:
                config = config.replace(**{stage: child.replace(**given)})
        if dropout is not None:
            config = config.replace(dropout=dropout)
        super().__init__(d, config)
        self.norm_in = nn.LayerNorm(d) if config.norm_in else None
        self.norm_out = nn.LayerNorm(d) if config.norm_out else None
        self.stages = nn.ModuleDict()
        self.gates = nn.ParameterDict()
        for stage in STAGES:
            child = getattr(config, stage)
            if child is not None:
                self.last = stage
                self.stages[stage] = build(d, child)
                start = 1.0 if stage == "projection" else config.gate
                self.gates[stage] = nn.Parameter(torch.tensor([start]))

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        state = x if self.norm_in is None else self.norm_in(x)
        update: Tensor | None = None
        for name, stage in self.stages._modules.items():
            assert stage is not None
            gate = there(self.gates, name)
            step = stage(state, gate) if isinstance(stage, GainedFFN) else stage(state) * gate
            update = step if update is None else update + step
            if name != self.last:
                state = state + step
        assert update is not None
        result = update if self.norm_out is None else self.norm_out(update)
        if not self.training:
            return result
        return nn.functional.dropout(result, self.config.dropout)

    def outputs(self) -> list[nn.Parameter]:
        if self.norm_out is not None:
            return [self.norm_out.weight, self.norm_out.bias]
        stages = [stage for stage in self.stages.values() if isinstance(stage, FFNComponent)]
        return [weight for stage in stages for weight in stage.outputs()]

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.dim
        parts = []
        if self.norm_in is not None:
            parts.append(cost.layer_norm("norm in", tokens, self.dim))
        names = list(self.stages.keys())
        for name in names:
            child = self.stages[name]
            assert isinstance(child, FFNComponent)
            pieces = [
                child.cost(tokens).named(child.component),
                cost.gain("gate", tokens, self.dim, size=1),
            ]
            if name != names[0]:
                pieces.append(cost.add("update", numbers))
            if name != names[-1]:
                # the state is read by the stage and by the sum, the step by the sum and the update
                pieces.append(cost.elementwise("state", numbers, macs=0))
                pieces.append(cost.fan_out("state read twice", numbers, 2))
                pieces.append(cost.fan_out("step read twice", numbers, 2))
            parts.append(Cost.total(name, *pieces))
        if self.norm_out is not None:
            parts.append(cost.layer_norm("norm out", tokens, self.dim))
        if self.training and self.config.dropout > 0:
            # divide the mask by 1 - p and apply it; only the product on the way back
            parts.append(cost.elementwise("dropout", numbers, forward=2, backward=1))
        return Cost.total("ultra", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Backfitting in closed form, on the running state that each stage will really see.

        The projection is fitted alone; the other stages are fitted, in order, to what it leaves of
        the dense output; then the projection is fitted again to what they leave, its dense weights
        re-expressed on its new input (the pre-activations regressed on the running state). Norms
        get the scale and shift that best restore what they normalise.

        The gates of the other stages start open (1) only if that lowers the error on the eighth of
        the sample that the fit does not see; otherwise they start closed (0) before the projection
        fitted alone, and training may open them.
        """
        rows = statistics.inputs
        targets = statistics.wanted(dense)
        if len(self.stages) == 1:  # nothing to decide on rows that the fit does not see
            self._backfit(dense, rows, targets, list(self.stages), torch.zeros_like(targets))
            return
        unseen = torch.arange(len(rows)) % 8 == 7
        seen, wanted = (rows[~unseen], targets[~unseen])
        alone = torch.zeros_like(wanted)
        closed, error = (None, math.inf)
        if "projection" in self.stages:
            alone = self._backfit(dense, seen, wanted, ["projection"], alone)
            if unseen.any():
                closed = {name: tensor.clone() for name, tensor in self.state_dict().items()}
                error = self._error(rows[unseen], targets[unseen])
        self._backfit(dense, seen, wanted, list(self.stages), alone)
        if closed is not None and not self._error(rows[unseen], targets[unseen]) < error:
            self.load_state_dict(closed)

    def _backfit(
        self, dense: DenseFFN, rows: Tensor, targets: Tensor, opened: list[str], alone: Tensor
    ) -> Tensor:
        """Fit the stages named in `opened`, gates at 1, and the norms; close the other gates.

        `alone`: what the projection puts out when fitted alone. Returns the sum of the updates.
        """
        for name, gate in self.gates.items():
            gate.data.fill_(1.0 if name in opened else 0.0)
        state = rows
        if self.norm_in is not None:
            self.norm_in.weight.data.copy_(rows.std(0))
            self.norm_in.bias.data.copy_(rows.mean(0))
            state = self.norm_in(rows)
        update = torch.zeros_like(targets)
        for name in opened:
            left = targets - update - (0.0 if name == "projection" else alone)
            step = self._fit(name, dense, rows, state, left)
            update = update + step
            state = state + step
        if self.norm_out is not None:
            spread = nn.functional.layer_norm(update, (self.dim,))
            centred = spread - spread.mean(0)
            wanted = targets - targets.mean(0)
            slope = (centred * wanted).sum(0) / centred.square().sum(0).clamp_min(1e-12)
            self.norm_out.weight.data.copy_(slope)
            self.norm_out.bias.data.copy_(targets.mean(0) - slope * spread.mean(0))
        return update

    def _error(self, rows: Tensor, targets: Tensor) -> float:
        return (self(rows) - targets).square().mean().item()

    def _fit(
        self, name: str, dense: DenseFFN, rows: Tensor, state: Tensor, targets: Tensor
    ) -> Tensor:
        """Start one stage on the running state towards `targets`; returns its output there."""
        stage = self.stages[name]
        assert isinstance(stage, FFNComponent)
        view = dense if state is rows else _rebased(dense, rows, state)
        stage.start_from(view, Statistics(inputs=state, targets=targets))
        return stage(state)

    @classmethod
    def untrained(cls, config: contract.Config) -> contract.Config:
        """Every stage as it trains best from a random start."""
        children = {stage: getattr(config, stage) for stage in STAGES}
        return config.replace(
            **{
                stage: component_class(child.component).untrained(child)
                for stage, child in children.items()
                if child is not None
            }
        )

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        """The projection's own knob; the other stages keep the size that the config gives them."""
        assert isinstance(config, UltraEfficientSparseFFN.Config)
        child = config.projection
        if child is None:
            raise UndenseError("ultra: a share of the dense FLOPs needs a projection to size")
        sized = component_class(child.component).sized(child, dim, size)
        return config.replace(projection=sized)


def _rebased(dense: DenseFFN, rows: Tensor, state: Tensor) -> DenseFFN:
    """`dense` with its input weights regressed so that it reads `state` where it read `rows`.

    Pre-activations are linear in the rows, so the rows are regressed, once for both weights;
    through the origin where there is no bias to take an offset.
    """
    intercept = dense.up_bias is not None
    mixing, offset = ridge(state.double(), rows.double(), strength=1e-7, intercept=intercept)

    def moved(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight = weight.double()
        shift = None if bias is None else (weight @ offset + bias).to(bias.dtype)
        return (weight @ mixing.T).to(dense.up.dtype), shift

    up, up_bias = moved(dense.up, dense.up_bias)
    gate, gate_bias = (None, None) if dense.gate is None else moved(dense.gate, dense.gate_bias)
    return replace(dense, up=up, up_bias=up_bias, gate=gate, gate_bias=gate_bias)
