"""Learned windows and octave bands, the same for filters along time and for frames.

Window: w = p_1 Hann + p_2 Hamming + p_3 rectangular, p = softmax of three learned numbers.
Bands: four octaves of the frequencies, coarse to fine: up to 1/8 of Nyquist, 1/4, 1/2, 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BANDS = 4
# The least share of the rectangular window. Frames are divided by theirs to be put together again,
# which amplifies rounding by up to 1 / share: in fp32 an identity filter returned its input to
# 1.9e-6 of its largest number at 0.05, to 6e-7 at 0.2. Nothing is divided by half a window.
FLOOR = 0.05
FRAME_FLOOR = 0.2


class WindowMix(nn.Module):
    """A window of `length` samples, (length,), symmetric for frames or its decreasing half."""

    shapes: Tensor

    def __init__(self, length: int, *, half: bool) -> None:
        super().__init__()
        steps = torch.arange(length, dtype=torch.float64)
        turn = (0.5 + 0.5 * steps / length) if half else (steps + 0.5) / length
        wave = torch.cos(2 * math.pi * turn)
        shapes = torch.stack([0.5 - 0.5 * wave, 0.54 - 0.46 * wave, torch.ones_like(wave)])
        self.register_buffer("shapes", shapes.float())
        self.logits = nn.Parameter(torch.zeros(3))
        self.floor = FLOOR if half else FRAME_FLOOR

    def forward(self) -> Tensor:
        return mixed_window(self.logits, self.shapes, self.floor)


def mixed_window(logits: Tensor, shapes: Tensor, floor: float = FLOOR) -> Tensor:
    """The window of these logits (3,) and shapes (3, length)."""
    shares = logits.softmax(0)
    shares = shares * (1 - floor) + floor * shapes.new_tensor([0.0, 0.0, 1.0])
    return shares @ shapes.to(shares.dtype)


def octave_of_bins(length: int) -> Tensor:
    """(length // 2 + 1,) int64: the band, 0 coarse to 3 fine, of every bin of a real transform."""
    bins = torch.arange(length // 2 + 1, dtype=torch.float64) / max(length / 2, 1)
    edges = torch.tensor([1 / 8, 1 / 4, 1 / 2], dtype=torch.float64)
    return torch.bucketize(bins, edges)
