"""A learned filter over a few modes of each token's feature vector. Token-local.
Related: GFNet, https://arxiv.org/abs/2107.00645 (filters along tokens; this filters features)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.fourier import cosine_basis, fourier_basis
from undense.ops.regression import reduced_rank

Basis = Literal["fourier", "cosine", "eigen"]


@register("spectral")
class SparseSpectral(FFNComponent):
    """y = S^T (gain * c + twist * swap(c)), c = A x, with only the kept modes in A and S.

    Fourier: rows of A = S are the cosine and sine of the kept frequencies, and `swap` exchanges the
    two of a pair, so that gain and twist are the complex response of that frequency. Cosine: one
    row a frequency, no twist. Eigen: A and S are given by the data (see `start_from`), no twist.
    Shapes: `analysis`, `synthesis` (modes, dim), `gain`, `twist` (modes,).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`k_freq`: frequencies (fourier, cosine) or modes (eigen) kept; all others cost nothing.

        At random start fourier (from 1 on) and cosine (from 0 on) keep the lowest, eigen a random
        orthonormal set; a start from dense weights keeps those that explain most of its output.
        """

        k_freq: int = 20
        basis: Basis = "fourier"

        def __post_init__(self) -> None:
            if self.k_freq < 1:
                raise UndenseError(f"spectral: k_freq={self.k_freq} must be at least 1")
            if self.basis not in ("fourier", "cosine", "eigen"):
                raise UndenseError(
                    f"spectral: basis={self.basis!r} must be 'fourier', 'cosine' or 'eigen'"
                )

    config: Config
    analysis: Tensor
    synthesis: Tensor
    frequencies: Tensor
    partner: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        limit = (dim - 1) // 2 if config.basis == "fourier" else dim
        if config.k_freq > limit:
            raise UndenseError(
                f"spectral: k_freq={config.k_freq} exceeds the {limit} frequencies that dim={dim}"
                f" has in the {config.basis} basis; use k_freq <= {limit}"
            )
        self.modes = config.k_freq * (2 if config.basis == "fourier" else 1)
        first = 1 if config.basis == "fourier" else 0  # the mean is no frequency of a pair
        self.register_buffer("analysis", torch.empty(self.modes, dim))
        self.register_buffer("synthesis", torch.empty(self.modes, dim))
        self.register_buffer("frequencies", torch.arange(first, first + config.k_freq))
        partner = torch.arange(self.modes)
        if config.basis == "fourier":
            partner = partner.view(-1, 2).flip(1).flatten()
        self.register_buffer("partner", partner)
        # Random responses of unit power: ones would hand the input on, which the host adds already.
        paired = config.basis == "fourier"
        std = 0.5**0.5 if paired else 1.0
        self.gain = nn.Parameter(torch.randn(self.modes) * std)
        self.twist = nn.Parameter(torch.randn(self.modes) * std) if paired else None
        if self.analysis.is_meta:
            return  # sizes without memory: there is nothing to fill
        if config.basis == "eigen":
            rows = nn.init.orthogonal_(torch.empty(self.modes, dim))
            self.analysis.copy_(rows)
            self.synthesis.copy_(rows)
        else:
            self._keep(list(range(first, first + config.k_freq)))

    def _keep(self, frequencies: list[int]) -> None:
        """Fill both bases with the rows of the given frequencies, pairs kept together."""
        rows, of_row = self._full_basis()
        order = torch.cat([(of_row == f).nonzero().flatten() for f in frequencies])
        self.frequencies.copy_(torch.tensor(frequencies))
        self.analysis.copy_(rows[order])
        self.synthesis.copy_(rows[order])

    def _full_basis(self) -> tuple[Tensor, Tensor]:
        build = fourier_basis if self.config.basis == "fourier" else cosine_basis
        return build(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        spectrum = nn.functional.linear(x, self.analysis)
        filtered = spectrum * self.gain
        if self.twist is not None:
            filtered = filtered + spectrum[..., self.partner] * self.twist
        return filtered @ self.synthesis

    def outputs(self) -> list[nn.Parameter]:
        return [self.gain] if self.twist is None else [self.gain, self.twist]

    def cost(self, tokens: int) -> Cost:
        numbers = tokens * self.modes
        parts = [
            cost.linear("analysis", tokens, self.dim, self.modes, bias=False, trainable=False),
            cost.gain("gain", tokens, self.modes, size=self.modes),
        ]
        if self.twist is not None:
            parts += [
                cost.gather("partners", numbers, stored=self.modes),
                cost.gain("twist", tokens, self.modes, size=self.modes),
                cost.add("sum", numbers),
                cost.fan_out("spectrum read twice", numbers, 2),
            ]
        parts.append(
            cost.linear("synthesis", tokens, self.modes, self.dim, bias=False, trainable=False)
        )
        return Cost.total("spectral", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """Least squares on the sample, both sides centred.

        Eigen: the best linear map of this rank, its output directions as `synthesis` and its input
        directions as `analysis`. Fourier and cosine: the response of every frequency is solved by
        itself, and the `k_freq` frequencies that explain most variance are kept.
        """
        inputs, targets = (statistics.inputs, statistics.wanted(dense))
        if self.config.basis == "eigen":
            out, into, gains = reduced_rank(inputs, targets, self.modes)
            self.analysis.copy_(into.T)
            self.synthesis.copy_(out.T)
            self.gain.data.copy_(gains)
            return
        rows, of_row = self._full_basis()
        usable = torch.arange(1, (self.dim - 1) // 2 + 1)
        if self.twist is None:
            usable = torch.arange(self.dim)
        spectrum = (inputs - inputs.mean(0)) @ rows.T
        wanted = (targets - targets.mean(0)) @ rows.T
        responses: list[Tensor] = []
        explained = []
        for frequency in usable.tolist():
            own = (of_row == frequency).nonzero().flatten()
            response, energy = _response(spectrum[:, own], wanted[:, own])
            responses.append(response)
            explained.append(energy)
        best = torch.stack(explained).topk(self.config.k_freq).indices.sort().values
        self._keep(usable[best].tolist())
        solved = torch.stack([responses[i] for i in best.tolist()])  # (k_freq, 2, rows of one)
        self.gain.data.copy_(solved[:, 0].flatten())
        if self.twist is not None:
            self.twist.data.copy_(solved[:, 1].flatten())

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, SparseSpectral.Config)
        return config.replace(k_freq=size)


def _response(spectrum: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and twist of one frequency: each output row regressed on itself and its partner.

    `spectrum`, `wanted` (samples, rows of one frequency: 1 or 2). Returns (2, rows), first the
    gains, then the twists, and the variance that they explain.
    """
    gram = spectrum.T @ spectrum
    ridge = 1e-6 * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
    solved = torch.linalg.solve(
        gram + ridge * torch.eye(len(gram)), spectrum.T @ wanted
    )  # (inputs, outputs)
    energy = (spectrum @ solved).square().sum()
    gains = solved.diagonal()
    twists = solved.flip(0).diagonal() if len(gram) == 2 else torch.zeros_like(gains)
    return torch.stack([gains, twists]), energy
