"""Gates of every token on four frequency bands: how strongly a band speaks, turned by which phase.

With logits l = W x (heads * bands, magnitude and phase), heads in exchange, l <- l + W2 gelu(W1 l):
  m = sigmoid(l_m), then softly thresholded: m <- m sigmoid(sharp_h (m - theta_h mean_b m)),
  phi = pi tanh(l_p) + sum_{j < 4} a_hj sin(w_hj l_p + s_hj),
  gate = rho_hb + m e^(i phi): the first term is the residual connection in the spectral domain.
What the gates of a head and band multiply is that band's complex output, so they are causal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.auxiliary import with_loss
from undense.ops.windows import BANDS

WAVES = 4  # sinusoids of the learned phase function


class BandGates(nn.Module):
    """(batch, time, dim) -> conjugated gates (batch, time, heads, bands, 2) as real pairs.

    `hidden`: width of the exchange between heads. `dropout`: inside that exchange.
    `band_dropout`: whole bands of a head, silenced for a whole sequence in training.
    `entropy`: strength of the auxiliary loss 1 - H / log(bands), H the entropy of the bands'
    magnitudes, which keeps a head from listening to one band only.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        exchange: bool,
        phases: bool,
        thresholds: bool,
        dropout: float,
        band_dropout: float,
        entropy: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.band_dropout = band_dropout
        self.entropy = entropy
        self.last_entropy: Tensor | None = None
        self.fan = 2 * heads * BANDS
        self.logits = nn.Linear(dim, self.fan)
        self.exchange = None
        if exchange:
            self.exchange = nn.Sequential(
                nn.Linear(self.fan, 2 * self.fan),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * self.fan, self.fan),
            )
        self.threshold = nn.Parameter(torch.zeros(heads, 1)) if thresholds else None
        self.sharpness = nn.Parameter(torch.full((heads, 1), 2.0)) if thresholds else None
        self.residual = nn.Parameter(torch.ones(heads, BANDS))
        self.amplitude = self.frequency = self.shift = None
        if phases:
            self.amplitude = nn.Parameter(0.1 * torch.randn(heads, 1, WAVES))
            self.frequency = nn.Parameter(2.0 ** torch.arange(WAVES).expand(heads, 1, -1))
            self.shift = nn.Parameter(2 * math.pi * torch.rand(heads, 1, WAVES))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(x)
        if self.exchange is not None:
            logits = logits + self.exchange(logits)
        logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        strength, turn = logits.unflatten(-1, (2, self.heads, BANDS)).unbind(-3)
        size = strength.sigmoid()
        if self.threshold is not None and self.sharpness is not None:
            level = self.threshold.sigmoid() * size.mean(-1, keepdim=True)
            size = size * torch.sigmoid(self.sharpness * (size - level))
        phase = math.pi * turn.tanh()
        if self.frequency is not None:
            assert self.amplitude is not None and self.shift is not None
            waves = torch.sin(turn[..., None] * self.frequency + self.shift)
            phase = phase + (waves * self.amplitude).sum(-1)
        regularise = self.training and self.entropy > 0 and torch.is_grad_enabled()
        entropy = _entropy(size) if regularise else None
        if self.training and self.band_dropout > 0:
            shape = (size.shape[0], 1, self.heads, BANDS)
            size = size * nn.functional.dropout(size.new_ones(shape), self.band_dropout)
        gates = torch.stack([self.residual + size * phase.cos(), -size * phase.sin()], -1)
        if entropy is not None:
            self.last_entropy = entropy.detach()
            gates = with_loss(gates, self.entropy * (1 - entropy))
        return gates

    def cost(self, name: str, tokens: int, dim: int) -> Cost:
        numbers = tokens * self.heads * BANDS
        parts = [cost.linear("logits", tokens, dim, self.fan, bias=True)]
        if self.exchange is not None:
            parts += [
                cost.linear("exchange up", tokens, self.fan, 2 * self.fan, bias=True),
                cost.activation("exchange gelu", tokens * 2 * self.fan, "gelu"),
                cost.linear("exchange down", tokens, 2 * self.fan, self.fan, bias=True),
                cost.add("exchange sum", tokens * self.fan),
            ]
        parts.append(cost.activation("magnitudes", numbers, "sigmoid"))
        if self.threshold is not None:
            # mean; times the threshold, a head and token; subtract, sharpen, sigmoid, multiply
            parts += [
                cost.elementwise("thresholds", self.heads, forward=4),
                cost.elementwise("levels", tokens * self.heads),
                cost.elementwise("thresholding", numbers, forward=1 + 1 + 1 + 4 + 1),
            ]
        parts.append(cost.elementwise("phases", numbers, forward=2))
        if self.frequency is not None:
            parts += [
                cost.elementwise("waves", numbers * WAVES, forward=2 + 1 + 1 + 1),
                cost.add("warped phases", numbers),
            ]
        # cos, times, plus the residual; sin, negate, times
        parts.append(cost.elementwise("gates", numbers, forward=6, macs=4))
        return Cost.total(name, *parts)


def _entropy(size: Tensor) -> Tensor:
    """Mean entropy of the bands' shares of a head's magnitude, 1 when all bands speak alike."""
    share = size / size.sum(-1, keepdim=True).clamp_min(1e-6)
    return -(share * share.clamp_min(1e-6).log()).sum(-1).mean() / math.log(BANDS)
