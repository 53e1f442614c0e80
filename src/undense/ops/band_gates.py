"""Gates of every token on four frequency bands: how strongly a band speaks, turned by which phase.

With logits l = W x (heads * bands, magnitude and phase), heads in exchange, l <- l + W2 gelu(W1 l):
  m = sigmoid(l_m), then softly thresholded: m <- m sigmoid(sharp_h (m - theta_h mean_b m)),
  phi = pi tanh(l_p) + sum_{j < 4} a_hj sin(w_hj l_p + s_hj),
  gate = rho_hb + m e^(i phi): the first term is the residual connection in the spectral domain.
What the gates of a head and band multiply is that band's complex output, so they are causal.

The exchange, thresholds and sinusoids magnify the rounding of l, up to ninetyfold where weights are
large, and products of one token, of a piece and of a whole call sum in different orders. Outside
training l must not depend on that: it is summed in fp64, product and exchange, and rounded once
each; the compiled mixers, which took 3 to 10 % longer so, sum in fp32 but always in the same order
(spectral_math.inc). In training, which knows one form only, l is summed in fp32 as it comes, for
speed: what differs is rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.auxiliary import with_loss
from undense.ops.projections import along
from undense.ops.windows import BANDS

WAVES = 4  # sinusoids of the learned phase function


class BandGates(nn.Module):
    """Logits (batch, 2 * heads * bands, time) -> real and imaginary part of the gates, (batch,
    heads, bands, time) each. The bias of the logits is here, their product is not.

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
        self.bias = nn.Parameter(torch.empty(self.fan, 1).uniform_(-(dim**-0.5), dim**-0.5))
        self.exchange = None
        if exchange:
            self.exchange = nn.Sequential(
                nn.Linear(self.fan, 2 * self.fan),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * self.fan, self.fan),
            )
        self.threshold = nn.Parameter(torch.zeros(heads, 1, 1)) if thresholds else None
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), 2.0)) if thresholds else None
        self.residual = nn.Parameter(torch.ones(heads, BANDS, 1))
        self.amplitude = self.frequency = self.shift = None
        if phases:
            self.amplitude = nn.Parameter(0.1 * torch.randn(heads, 1, WAVES, 1))
            octaves = 2.0 ** torch.arange(WAVES)[:, None]
            self.frequency = nn.Parameter(octaves.expand(heads, 1, -1, -1).clone())
            self.shift = nn.Parameter(2 * math.pi * torch.rand(heads, 1, WAVES, 1))

    def forward(
        self, logits: Tensor, *, silence: Tensor | None = None, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """`silence`: what `silenced` drew for the sequence; `share`: of its tokens that are here,
        so that the auxiliary loss of the parts is that of the whole."""
        kept = logits.dtype
        if not self.training:
            logits = logits.double()
        logits = logits + self.bias
        if self.exchange is not None:
            up, gelu, dropout, down = self.exchange
            dtype = self.bias.dtype
            logits = logits + along(down, dropout(gelu(along(up, logits, dtype))), dtype)
        strength, turn = logits.to(kept).unflatten(1, (2, self.heads, BANDS)).unbind(1)
        size = strength.sigmoid()
        if self.threshold is not None and self.sharpness is not None:
            level = self.threshold.sigmoid() * size.mean(2, keepdim=True)
            size = size * torch.sigmoid(self.sharpness * (size - level))
        phase = math.pi * turn.tanh()
        if self.frequency is not None:
            assert self.amplitude is not None and self.shift is not None
            waves = torch.sin(turn[:, :, :, None] * self.frequency + self.shift)
            phase = phase + (waves * self.amplitude).sum(3)
        regularise = self.training and self.entropy > 0 and torch.is_grad_enabled()
        entropy = _entropy(size) if regularise else None
        if silence is not None:
            size = size * silence
        real, imaginary = self.residual + size * phase.cos(), size * phase.sin()
        if entropy is not None:
            self.last_entropy = entropy.detach()
            real = with_loss(real, share * self.entropy * (1 - entropy))
        return real, imaginary

    def silenced(self, batch: int) -> Tensor | None:
        """Factors (batch, heads, bands, 1) that silence whole bands in training, or None."""
        if not self.training or self.band_dropout == 0:
            return None
        ones = torch.ones(batch, *self.residual.shape, device=self.residual.device)
        return nn.functional.dropout(ones, self.band_dropout).to(self.residual.dtype)

    def cost(self, name: str, batch: int, time: int) -> Cost:
        """Of the gates, their logits given; without what only training adds."""
        tokens, fan = batch * time, self.fan
        numbers = tokens * self.heads * BANDS
        parts = [cost.elementwise("bias", tokens * fan, backward=1, macs=0)]
        if self.exchange is not None:
            parts += [
                _along_cost("exchange up", batch, time, fan, 2 * fan),
                cost.activation("exchange gelu", tokens * 2 * fan, "gelu"),
                _along_cost("exchange down", batch, time, 2 * fan, fan),
                cost.elementwise("exchange sum", tokens * fan, backward=1, macs=0),
            ]
        parts.append(cost.activation("magnitudes", numbers, "sigmoid"))
        if self.threshold is not None:
            # mean; times the threshold, a head and token; subtract, sharpen, sigmoid, multiply
            parts += [
                cost.elementwise("thresholds", self.heads, forward=4, backward=3),
                cost.elementwise("levels", tokens * self.heads, backward=3),
                cost.elementwise("thresholding", numbers, forward=8, backward=1 + 2 + 3 + 3 + 2),
                cost.fan_out("magnitudes used", numbers, 3),
            ]
        parts.append(cost.elementwise("phases", numbers, forward=2, backward=4))
        if self.frequency is not None:
            # times the frequency, plus the shift, sin, times the amplitude, sum
            parts += [
                cost.elementwise("waves", numbers * WAVES, forward=5, backward=4 + 1 + 2 + 3),
                cost.elementwise("warped phases", numbers, backward=1, macs=0),
            ]
        # cos, times, plus the residual; sin, times
        parts += [
            cost.elementwise("gates", numbers, forward=5, backward=6 + 4, macs=4),
            cost.fan_out("phases and magnitudes used", 2 * numbers, 2),
        ]
        return Cost.total(name, *parts)


def _entropy(size: Tensor) -> Tensor:
    """Mean entropy of the bands' shares of a head's magnitude, 1 when all bands speak alike."""
    share = size / size.sum(2, keepdim=True).clamp_min(1e-6)
    return -(share * share.clamp_min(1e-6).log()).sum(2).mean() / math.log(BANDS)


def _along_cost(name: str, batch: int, time: int, fan_in: int, fan_out: int) -> Cost:
    """As a linear map; back, the weight's gradient is summed over the rows of the batch too."""
    product = cost.linear(name, batch * time, fan_in, fan_out, bias=True)
    return replace(product, backward=product.backward + batch * fan_in * fan_out)
