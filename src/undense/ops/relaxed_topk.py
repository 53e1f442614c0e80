"""Differentiable choices of the k best: hard going forward, soft going back.

`sigmoid_topk`: p = sigmoid((s - theta) / tau) with theta such that sum p = k, for real k; exact
budget, smooth, deterministic (related: LapSum, https://arxiv.org/abs/2503.06242, the same with the
Laplace distribution). `gumbel_topk`: k softmax((s + noise) / tau), the relaxation of
https://arxiv.org/abs/1903.06059, biased and noisy; no noise outside training.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A bracket of some 30 temperatures becomes one of 2e-6; the Newton step behind it squares that.
BISECTIONS = 24


def sigmoid_topk(scores: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
    """Shares in (0, 1) that sum to `k` (…, 1) over the last dimension of `scores`.

    The threshold comes from bisection without gradients and one Newton step with them, whose
    derivative is that of the exact threshold.
    """
    with torch.no_grad():
        reach = temperature * 20 + 1
        low = scores.amin(-1, keepdim=True) - reach
        high = scores.amax(-1, keepdim=True) + reach
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = torch.sigmoid((scores - middle) / temperature).sum(-1, keepdim=True) > k
            low = torch.where(above, middle, low)
            high = torch.where(above, high, middle)
        threshold = (low + high) / 2
        share = torch.sigmoid((scores - threshold) / temperature)
        slope = (share * (1 - share)).sum(-1, keepdim=True).clamp_min(1e-6)
    excess = torch.sigmoid((scores - threshold) / temperature).sum(-1, keepdim=True) - k
    moved = threshold + temperature.detach() * excess / slope
    return torch.sigmoid((scores - moved) / temperature)


def gumbel_topk(scores: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
    """Shares that sum to at most `k`; `scores` with the noise already in them."""
    return (k * (scores / temperature).softmax(-1)).clamp(max=1)


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of `like`."""
    uniform = torch.rand_like(like).clamp(1e-9, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))
