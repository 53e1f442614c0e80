"""A learned filter over a few frequencies of each token's features, chosen in training.
Related: GFNet, https://arxiv.org/abs/2107.00645 (filters tokens, keeps every frequency)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.ops import spectrum
from undense.ops.soft_top_k import LearnedSelection
from undense.ops.spectrum import Basis


@register("spectral_learned")
class LearnedSpectral(FFNComponent):
    """y = S^T (gain * c + twist * mirrored(c)), c = A x, of the `k_freq` best frequencies.

    In training every frequency is analysed, filtered and synthesised (by one FFT each way; the
    eigenbasis as matrices) with responses of exactly 0 for those that are out: the same function,
    at the cost of the whole transform, which `cost()` says. Through the soft choice (see
    `ops/soft_top_k.py`) those that are out learn their responses, and come in where they serve the
    loss better. In evaluation mode only the rows of the kept ones are read and multiplied.
    Shapes: `gain`, `twist` (frequencies, width): width 2, a pair, in the Fourier basis, else 1.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`k_freq`: frequencies (eigen: modes) kept, the same for every token; fewer than there
        are. `basis`: see `ops/transform.py`; eigen chooses among the best 4 x k_freq modes."""

        k_freq: int = 8
        basis: Basis = "fourier"

        def __post_init__(self) -> None:
            spectrum.check(self.basis, self.k_freq, "spectral_learned")

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.transform = spectrum.transform(config.basis, dim, config.k_freq, self.component)
        self.selection = LearnedSelection(1, self.transform.frequencies, config.k_freq)
        shape = (self.transform.frequencies, self.transform.width)
        # Responses of unit power for those that are in at first. The others start at 0: a random
        # response is as often wrong as right, and a wrong one drives its score away.
        first = (torch.arange(shape[0]) < config.k_freq).unsqueeze(-1) * shape[1] ** -0.5
        self.gain = nn.Parameter(torch.randn(shape) * first)
        self.twist = nn.Parameter(torch.randn(shape) * first) if shape[1] == 2 else None

    @property
    def kept(self) -> list[int]:
        """The frequencies that are kept now, ascending."""
        return sorted(self.transform.names()[self.selection.kept()[0].cpu()].tolist())

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if self.training:
            responses: list[Tensor] = [self.gain]
            if self.twist is not None:
                responses.append(self.twist)
            chosen = self.selection.choose(torch.cat(responses, -1)[None])[0]
            gain, twist = chosen[:, : self.transform.width], None
            if self.twist is not None:
                twist = chosen[:, self.transform.width :]
            coefficients = self.transform.analyse(x).unflatten(-1, self.gain.shape)
            filtered = spectrum.respond(coefficients, gain, twist)
            return self.transform.synthesise(filtered.flatten(-2)).to(x.dtype)
        kept = self.selection.kept()[0]
        analysis = self.transform.analysis_rows(kept).to(x.dtype)
        coefficients = nn.functional.linear(x, analysis).unflatten(-1, (len(kept), -1))
        twist = None if self.twist is None else self.twist[kept]
        filtered = spectrum.respond(coefficients, self.gain[kept], twist)
        return filtered.flatten(-2) @ self.transform.synthesis_rows(kept).to(x.dtype)

    def outputs(self) -> list[nn.Parameter]:
        return [self.gain] if self.twist is None else [self.gain, self.twist]

    def cost(self, tokens: int) -> Cost:
        found, kept = self.transform, self.config.k_freq
        twisted = self.twist is not None
        if self.training:
            responses = found.modes * (1 + twisted)
            return Cost.total(
                "spectral_learned",
                self.selection.cost("selection", found.width * (1 + twisted)),
                cost.fan_out("gains and twists", responses, 1 + twisted),
                found.analysis_cost(tokens),
                spectrum.respond_cost(
                    "response", tokens, found.modes, twisted=twisted, stored=found.modes
                ),
                found.synthesis_cost(tokens),
            )
        modes = kept * found.width
        return Cost.total(
            "spectral_learned",
            cost.elementwise("selection", found.frequencies, macs=0),
            found.rows_cost("analysis", tokens, kept),
            cost.gather("kept responses", modes * (1 + twisted)),
            spectrum.respond_cost("response", tokens, modes, twisted=twisted, stored=modes),
            cost.linear("synthesis", tokens, modes, self.dim, bias=False, trainable=False),
        )

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Every frequency's response by least squares, its score by the variance that it explains;
        eigen: the modes are those of the best linear map of that rank."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        spectrum.fit_transform_(self.transform, inputs, targets)
        shape = self.gain.shape
        gain, twist, energy = spectrum.responses(
            self.transform.analyse(inputs).unflatten(-1, shape),
            self.transform.project(targets).unflatten(-1, shape),
        )
        self.gain.data.copy_(gain)
        if self.twist is not None:
            self.twist.data.copy_(twist)
        self.selection.start_(energy[None])

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, LearnedSpectral.Config)
        return config.replace(k_freq=size)
