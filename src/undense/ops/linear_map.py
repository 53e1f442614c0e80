"""The contract of a structured linear map: y = W x + b, with W never stored whole."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from undense.cost import Cost


class LinearMap(nn.Module, ABC):
    """(..., fan_in) -> (..., fan_out), cheaper than a dense matrix of that shape."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.fan_in = fan_in
        self.fan_out = fan_out

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., fan_in) -> (..., fan_out)."""

    @abstractmethod
    def cost(self, name: str, tokens: int) -> Cost:
        """What one call on `tokens` rows costs."""

    @abstractmethod
    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Set the factors so that the map is closest to `weight` (fan_out, fan_in) on inputs whose
        second moment is `gram` (fan_in, fan_in)."""

    @abstractmethod
    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Set the factor nearest to the output, and the bias, by least squares on a sample:
        `inputs` (rows, fan_in), `targets` (rows, fan_out)."""
