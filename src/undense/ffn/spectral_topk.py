"""A learned filter over each token's own largest frequencies.
Related: AFNO, https://arxiv.org/abs/2111.13587 (soft-shrinks spectra along tokens; mixes them)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.ops import spectrum
from undense.ops.spectrum import Basis


@register("spectral_topk")
class TokenSpectral(FFNComponent):
    """y = S^T (gain * c + twist * mirrored(c)), c = A x, of the `k_freq` largest |c| of the token.

    Which are largest is known only when all are analysed, so the analysis costs its full price (one
    FFT; the eigenbasis a matrix). Only the chosen are filtered. The inverse reads the chosen rows
    alone as long as that is the cheaper way (4 k d FLOPs against 2.5 d ceil(log2 d): up to six of
    768 features' frequencies), and is one inverse FFT of the chosen beyond.
    The map is nonlinear, and jumps where two frequencies change places.
    Shapes: `gain`, `twist` (frequencies, width): width 2, a pair, in the Fourier basis, else 1.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`k_freq`: frequencies (eigen: modes) that a token keeps; fewer than there are. `basis`:
        see `ops/transform.py`; eigen chooses among the best 4 x k_freq modes."""

        k_freq: int = 8
        basis: Basis = "fourier"

        def __post_init__(self) -> None:
            spectrum.check(self.basis, self.k_freq, "spectral_topk")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.transform = spectrum.transform(config.basis, dim, config.k_freq, self.component)
        shape = (self.transform.frequencies, self.transform.width)
        std = shape[1] ** -0.5  # responses of unit power
        self.gain = nn.Parameter(torch.randn(shape) * std)
        self.twist = nn.Parameter(torch.randn(shape) * std) if shape[1] == 2 else None
        whole = self.transform.synthesis_cost(1).forward
        self.by_rows = self.transform.rows_cost("", 1, config.k_freq).forward <= whole

    def kept(self, x: Tensor) -> Tensor:
        """The frequencies that each token keeps, largest first: (..., dim) -> (..., k_freq)."""
        names = self.transform.names().to(x.device)
        return names[self._largest(self._analyse(x))]

    def _analyse(self, x: Tensor) -> Tensor:
        return self.transform.analyse(x).unflatten(-1, self.gain.shape)

    def _largest(self, coefficients: Tensor) -> Tensor:
        power = (coefficients.detach() * coefficients.detach()).sum(-1)
        return power.topk(self.config.k_freq, -1).indices

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        coefficients = self._analyse(x)
        kept = self._largest(coefficients)
        places = kept.unsqueeze(-1).expand(*kept.shape, self.transform.width)
        twist = None if self.twist is None else self.twist[kept]
        filtered = spectrum.respond(coefficients.gather(-2, places), self.gain[kept], twist)
        if self.by_rows:
            rows = self.transform.synthesis_rows(kept).to(filtered.dtype)
            y = torch.matmul(filtered.flatten(-2).unsqueeze(-2), rows).squeeze(-2)
        else:
            chosen = torch.zeros_like(coefficients).scatter(-2, places, filtered)
            y = self.transform.synthesise(chosen.flatten(-2))
        return y.to(x.dtype)

    def outputs(self) -> list[nn.Parameter]:
        return [self.gain] if self.twist is None else [self.gain, self.twist]

    def cost(self, tokens: int) -> Cost:
        found, kept = self.transform, self.config.k_freq
        numbers = tokens * kept * found.width
        selection = Cost.total(
            "selection",
            cost.elementwise("power", tokens * found.modes),
            cost.elementwise("sum of a pair", tokens * found.modes, macs=0),
            cost.elementwise("largest", tokens * found.frequencies, macs=0),
        )
        responses = [
            cost.gather("kept coefficients", numbers),
            cost.gather("kept gains", numbers),
            replace(cost.product("gain", numbers), weights=found.modes),
        ]
        if self.twist is not None:
            responses += [
                cost.gather("kept twists", numbers),
                replace(cost.product("twist", numbers), weights=found.modes),
                cost.add("sum", numbers),
                cost.fan_out("coefficients read twice", numbers, 2),
            ]
        inverse = found.synthesis_cost(tokens)
        if self.by_rows:
            inverse = found.picked_cost("synthesis", tokens, kept)
        return Cost.total(
            "spectral_topk",
            found.analysis_cost(tokens),
            selection,
            Cost.total("response", *responses),
            inverse,
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Every frequency's response by least squares over the tokens that keep it; eigen: the
        modes are those of the best linear map of that rank."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        spectrum.fit_transform_(self.transform, inputs, targets)
        coefficients = self._analyse(inputs)
        kept = torch.zeros_like(coefficients[..., 0]).scatter(-1, self._largest(coefficients), 1.0)
        gain, twist, _ = spectrum.responses(
            coefficients * kept.unsqueeze(-1),
            self.transform.project(targets).unflatten(-1, self.gain.shape),
        )
        self.gain.data.copy_(gain)
        if self.twist is not None:
            self.twist.data.copy_(twist)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, TokenSpectral.Config)
        return config.replace(k_freq=size)
