"""The embedding of a spectral model: tokens enter the residual stream at unit power."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class UnitEmbedding(nn.Embedding):
    """sqrt(width) E[ids]: (batch, time) ids -> (batch, time, width), E of variance 1 / width.

    Every feature starts at unit power, so that what the first sublayers add does not drown the
    token, and a head tied to E still starts with logits of unit power.
    Source: https://arxiv.org/abs/1706.03762, section 3.4.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__(tokens, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A fresh E."""
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.embedding_dim**0.5
