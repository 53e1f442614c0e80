"""Fourier and cosine transform of one token's features: each one real FFT, whatever the width.

No basis is stored: single rows are read from a table of one period.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.transform import Transform, wide


def real_fft_flops(length: int) -> int:
    """Nominal FLOPs of one real FFT: 5 n ceil(log2 n) // 2. A complex one costs twice that."""
    return 5 * length * (length - 1).bit_length() // 2


def _rfft(x: Tensor) -> Tensor:
    """(..., dim) -> complex (..., dim // 2 + 1), orthonormal; MKL's FFT refuses a batch of none."""
    x = wide(x)
    if x.numel() == 0:
        half = x[..., : x.shape[-1] // 2 + 1]
        return torch.complex(half, half)
    return torch.fft.rfft(x, norm="ortho")


def _irfft(bins: Tensor, dim: int) -> Tensor:
    """The inverse of `_rfft`."""
    if bins.numel() == 0:
        return nn.functional.pad(bins.real, (0, dim - bins.shape[-1]))
    return torch.fft.irfft(bins, n=dim, norm="ortho")


class FourierTransform(Transform):
    """Frequencies 1 … below dim / 2, real and imaginary part each (the mean and, for an even dim,
    the alternating mode are left out: they are no pairs)."""

    tables: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, (dim - 1) // 2, 2)
        phase = 2 * math.pi * torch.arange(dim, dtype=torch.float64) / dim
        waves = torch.stack([phase.cos(), -phase.sin()]) * dim**-0.5
        self.register_buffer("tables", torch.stack([waves, 2 * waves]).float())

    def names(self) -> Tensor:
        return torch.arange(1, self.frequencies + 1)

    def analyse(self, x: Tensor) -> Tensor:
        spectrum = torch.view_as_real(_rfft(x))
        return spectrum[..., 1 : self.frequencies + 1, :].flatten(-2)

    def project(self, y: Tensor) -> Tensor:
        return self.analyse(y)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        pairs = wide(coefficients).unflatten(-1, (self.frequencies, 2))
        ends = (1, self.dim // 2 - self.frequencies)
        padded = nn.functional.pad(pairs, (0, 0, *ends))
        return _irfft(torch.view_as_complex(padded), self.dim)

    def analysis_rows(self, kept: Tensor) -> Tensor:
        return self._rows(self.tables[0], kept)

    def synthesis_rows(self, kept: Tensor) -> Tensor:
        return self._rows(self.tables[1], kept)

    def _rows(self, waves: Tensor, kept: Tensor) -> Tensor:
        places = torch.arange(self.dim, device=kept.device)
        phases = (kept + 1).unsqueeze(-1) * places % self.dim  # integers: exact at any frequency
        return torch.stack([waves[0][phases], waves[1][phases]], -2).flatten(-3, -2)

    def analysis_cost(self, tokens: int) -> Cost:
        return _fft_cost("analysis", tokens, self.dim, weights=self.tables.numel())

    def synthesis_cost(self, tokens: int) -> Cost:
        return _inverse_fft_cost("synthesis", tokens, self.dim)


class CosineTransform(Transform):
    """Frequencies 1 … dim - 1 of the orthonormal DCT-II (0, the mean, left out), one mode each.

    One FFT of the evenly, then oddly placed features, its bins turned by e^(-i pi k / 2 dim): bin k
    then holds coefficient k and, as the negative imaginary part, coefficient dim - k.
    Source: Makhoul 1980, https://doi.org/10.1109/TASSP.1980.1163351.
    """

    places = 2
    tables: Tensor
    order: Tensor
    back: Tensor
    turned: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim - 1, 1)
        phase = math.pi * torch.arange(4 * dim, dtype=torch.float64) / (2 * dim)
        self.register_buffer("tables", (phase.cos() * math.sqrt(2 / dim)).float())
        places = torch.arange(dim)
        self.register_buffer("order", torch.cat([places[::2], places[1::2].flip(0)]))
        self.register_buffer("back", self.order.argsort())
        bins = torch.arange(1, dim // 2 + 1)
        pairs = torch.stack([bins, dim - bins], -1).flatten()[: self.modes]
        self.register_buffer("turned", torch.stack([pairs, torch.arange(self.modes) % 2]))

    def names(self) -> Tensor:
        return self.turned[0]

    def analyse(self, x: Tensor) -> Tensor:
        spectrum = _rfft(x.index_select(-1, self.order))
        turned = spectrum * self._twiddles(spectrum, math.sqrt(2), -1)
        return torch.view_as_real(turned)[..., 1:, :].flatten(-2)[..., : self.modes]

    def project(self, y: Tensor) -> Tensor:
        return self.analyse(y)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        padded = nn.functional.pad(wide(coefficients), (2, self.dim // 2 * 2 - self.modes))
        bins = torch.view_as_complex(padded.unflatten(-1, (-1, 2)))
        turned = bins * self._twiddles(bins, math.sqrt(0.5), 1)
        placed = _irfft(turned, self.dim)
        return placed.index_select(-1, self.back)

    def _twiddles(self, like: Tensor, length: float, sign: int) -> Tensor:
        bins = torch.arange(self.dim // 2 + 1, device=like.device)
        lengths = torch.full(bins.shape, length, dtype=like.real.dtype, device=like.device)
        if sign > 0 and self.dim % 2 == 0:
            # the middle bin comes without its imaginary part, the mirror image of its real one
            lengths = torch.where(bins == self.dim // 2, 2 * length, lengths)
        angles = bins.to(lengths.dtype) * (sign * math.pi / (2 * self.dim))
        return torch.polar(lengths, angles)

    def analysis_rows(self, kept: Tensor) -> Tensor:
        frequency, negative = self.turned[0][kept], self.turned[1][kept]
        odd = 2 * torch.arange(self.dim, device=kept.device) + 1
        phases = frequency.unsqueeze(-1) * odd + 2 * self.dim * negative.unsqueeze(-1)
        return self.tables[phases % (4 * self.dim)]

    def synthesis_rows(self, kept: Tensor) -> Tensor:
        return self.analysis_rows(kept)

    def analysis_cost(self, tokens: int) -> Cost:
        return Cost.total(
            "analysis",
            cost.gather("order", tokens * self.dim, stored=self.dim),
            _fft_cost("fft", tokens, self.dim, weights=self.tables.numel()),
            self._turning_cost(tokens),
        )

    def synthesis_cost(self, tokens: int) -> Cost:
        return Cost.total(
            "synthesis",
            self._turning_cost(tokens),
            _inverse_fft_cost("fft", tokens, self.dim),
            cost.gather("order", tokens * self.dim, stored=self.dim),
        )

    def _turning_cost(self, tokens: int) -> Cost:
        bins = self.dim // 2 + 1
        turn = cost.elementwise("turn", tokens * bins, forward=6, backward=6, macs=4)
        return Cost.total("turn", turn, cost.elementwise("twiddles", bins, forward=5))


def _fft_cost(name: str, tokens: int, dim: int, *, weights: int) -> Cost:
    """Real FFT; autograd's way back is a complex one of the same length."""
    flops = tokens * real_fft_flops(dim)
    return Cost(
        name=name,
        forward=flops,
        backward=2 * flops,
        useful=flops,
        macs=flops // 2,
        weights=weights,
        activations=2 * tokens * dim,
    )


def _inverse_fft_cost(name: str, tokens: int, dim: int) -> Cost:
    """Inverse real FFT; back: a real FFT, and the doubling of every bin that stands for two."""
    forward = _fft_cost(name, tokens, dim, weights=0)
    doubling = 2 * tokens * ((dim - 1) // 2)
    return replace(forward, backward=forward.forward + doubling)
