"""The contracts of structured linear maps: y = W x + b, with W never stored whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from undense.cost import Cost
from undense.errors import UndenseError


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
    def outputs(self) -> list[nn.Parameter]:
        """The factor nearest to the output, and the bias: y is linear in them together."""

    @abstractmethod
    def approximate_(self, weight: Tensor, bias: Tensor | None, gram: Tensor) -> None:
        """Set the factors so that the map is closest to `weight` (fan_out, fan_in) on inputs whose
        second moment is `gram` (fan_in, fan_in)."""

    @abstractmethod
    def refit_(self, inputs: Tensor, targets: Tensor) -> None:
        """Set the factor nearest to the output, and the bias, by least squares on a sample:
        `inputs` (rows, fan_in), `targets` (rows, fan_out)."""


class BlockMap(LinearMap):
    """A map that others are composed of: one stored matrix, its blocks on the diagonal, a bias."""

    def __init__(self, fan_in: int, fan_out: int, *, blocks: int, bias: bool) -> None:
        super().__init__(fan_in, fan_out)
        if blocks < 1 or fan_in % blocks or fan_out % blocks:
            raise UndenseError(
                f"block-diagonal map {fan_in} -> {fan_out}: blocks={blocks} must divide both;"
                f" try one of {divisors(math.gcd(fan_in, fan_out))}"
            )
        self.blocks = blocks
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None

    def outputs(self) -> list[nn.Parameter]:
        return list(self.parameters())

    @abstractmethod
    def reset(self, std: float | None = None) -> None:
        """Normal weights of a matrix without zeros of this std, by default sqrt(1 / inputs of a
        block), which keeps the RMS; bias 0."""

    @abstractmethod
    def set_blocks_(self, weight: Tensor) -> None:
        """Store the blocks (blocks, outputs, inputs), as far as this map can."""

    @abstractmethod
    def solve_(self, gram: Tensor, cross: Tensor) -> None:
        """The least-squares weights, given the second moment `gram` (fan_in, fan_in) of the inputs
        and `cross` (fan_out, fan_in), that of the targets with the inputs."""

    def set_bias_(self, bias: Tensor | None) -> None:
        """Store a bias, where there is one; None is 0."""
        if self.bias is not None:
            self.bias.data.copy_(torch.zeros_like(self.bias) if bias is None else bias)


class Leaf(Protocol):
    """How a composed map builds the block maps that it consists of."""

    def __call__(self, fan_in: int, fan_out: int, *, blocks: int, bias: bool) -> BlockMap: ...


def matrix(linear: LinearMap) -> Tensor:
    """The dense matrix (fan_out, fan_in) that a map stands for, read off the unit vectors."""
    like = next(linear.parameters())
    unit = torch.eye(linear.fan_in, dtype=like.dtype, device=like.device)
    return (linear(unit) - linear(unit.new_zeros(1, linear.fan_in))).detach().T


def divisors(number: int) -> list[int]:
    """The divisors of `number`, ascending, at most the first dozen."""
    return [k for k in range(1, number + 1) if number % k == 0][:12]
