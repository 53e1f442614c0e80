"""Rotary positions: pairs of features turned by an angle that grows with the position.
Source: RoFormer, https://arxiv.org/abs/2104.09864 (halves paired as in Llama)."""

from __future__ import annotations

import torch
from torch import Tensor

from undense import cost
from undense.cost import Cost


def angles(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * base^(-2 i / width): (batch, time) -> (batch, time, width/2).

    Computed in fp32 whatever the model's dtype: bf16 cannot tell neighbouring positions apart.
    """
    steps = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    frequencies = base ** (-steps)
    turns = (positions.double()[..., None] * frequencies) % (2 * torch.pi)
    return turns.float().cos(), turns.float().sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `x` (batch, time, heads, width) by angles (batch, time, width/2)."""
    cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def angles_cost(name: str, numbers: int, width: int) -> Cost:
    """The angles of `numbers` positions; nothing of it needs a gradient."""
    exponents = width // 2
    frequencies = cost.elementwise("frequencies", exponents, forward=4)  # divide, negate, power
    turned = cost.elementwise("turns", numbers * exponents, forward=4)  # product, mod, cos, sin
    return Cost.total(name, frequencies, turned)


def rotate_cost(name: str, numbers: int) -> Cost:
    """Four products and two sums a pair; backward the four products, and a sign (x - y), and the
    sums over the two uses of each number."""
    return cost.elementwise(name, numbers // 2, forward=6, backward=4 + 1 + 2, macs=4)
