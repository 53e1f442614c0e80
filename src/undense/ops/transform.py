"""Orthonormal transforms of one token's features: Fourier, cosine, and one given by data.

Fourier and cosine are in `ops/fft_transforms.py`. `analyse` and `synthesise` are in fp32 at least:
the CPU's FFT refuses bf16 and fp16, and this is where components learn nothing of it.

An FFT costs 2.5 d ceil(log2 d) FLOPs a token and k rows as a matrix 2 k d, so that all frequencies
together cost as much as 12.5 single rows at d = 768. Time is another matter: a matrix product runs
many more FLOPs a second than an FFT does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost


def wide(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Transform(nn.Module, ABC):
    """(..., dim) <-> (..., modes) coefficients of `frequencies` frequencies, `width` modes each.

    Synthesising single modes with `synthesis_rows` gives what `synthesise` gives of coefficients
    that are 0 elsewhere; analysing with `analysis_rows` gives those coefficients of `analyse`.
    `places`: integers that are stored for each mode to find its row by.
    """

    places: int = 0

    def __init__(self, dim: int, frequencies: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.frequencies = frequencies
        self.width = width
        self.modes = frequencies * width

    @abstractmethod
    def names(self) -> Tensor:
        """The frequency that each index stands for: (frequencies,) int64."""

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., modes), fp32 at least."""

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """The coefficients whose synthesis is nearest to `y`: (..., dim) -> (..., modes)."""

    @abstractmethod
    def synthesise(self, coefficients: Tensor) -> Tensor:
        """(..., modes) -> (..., dim), fp32 at least."""

    @abstractmethod
    def analysis_rows(self, kept: Tensor) -> Tensor:
        """Rows of the analysis: indices (..., kept) -> (..., kept * width, dim)."""

    @abstractmethod
    def synthesis_rows(self, kept: Tensor) -> Tensor:
        """Rows of the synthesis: indices (..., kept) -> (..., kept * width, dim)."""

    @abstractmethod
    def analysis_cost(self, tokens: int) -> Cost:
        """What `analyse` costs; with it the numbers that the transform stores."""

    @abstractmethod
    def synthesis_cost(self, tokens: int) -> Cost:
        """What `synthesise` costs."""

    def rows_cost(self, name: str, tokens: int, kept: int) -> Cost:
        """What a product with the rows of `kept` frequencies costs: the zeros are not computed."""
        modes = kept * self.width
        product = cost.linear(name, tokens, self.dim, modes, bias=False, trainable=False)
        return replace(product, indices=8 * self.places * modes)

    def picked_cost(self, name: str, tokens: int, kept: int) -> Cost:
        """The same where every token has its own `kept` frequencies, whose rows it reads."""
        modes = kept * self.width
        return replace(
            self.rows_cost(name, tokens, kept),
            weights=self.synthesis_cost(1).weights,
            indices=8 * self.places * self.modes,
            activations=tokens * (modes * self.dim + modes + self.dim),
        )


class GivenTransform(Transform):
    """`modes` rows to analyse with and as many to synthesise with, random orthonormal until placed.

    The rows to synthesise with stay orthonormal, those to analyse with need not be.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, dim: int, modes: int) -> None:
        super().__init__(dim, modes, 1)
        rows = torch.empty(modes, dim)
        self.register_buffer("analysis", rows if rows.is_meta else nn.init.orthogonal_(rows))
        self.register_buffer("synthesis", self.analysis.clone())

    def place_(self, analysis: Tensor, synthesis: Tensor) -> None:
        """Take these rows, both (modes, dim), `synthesis` orthonormal."""
        self.analysis.copy_(analysis)
        self.synthesis.copy_(synthesis)

    def names(self) -> Tensor:
        return torch.arange(self.modes)

    def analyse(self, x: Tensor) -> Tensor:
        return nn.functional.linear(wide(x), wide(self.analysis))

    def project(self, y: Tensor) -> Tensor:
        return nn.functional.linear(y, self.synthesis)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients @ self.synthesis.to(coefficients.dtype)

    def analysis_rows(self, kept: Tensor) -> Tensor:
        return self.analysis[kept]

    def synthesis_rows(self, kept: Tensor) -> Tensor:
        return self.synthesis[kept]

    def analysis_cost(self, tokens: int) -> Cost:
        return self.rows_cost("analysis", tokens, self.modes)

    def synthesis_cost(self, tokens: int) -> Cost:
        return cost.linear("synthesis", tokens, self.modes, self.dim, bias=False, trainable=False)
