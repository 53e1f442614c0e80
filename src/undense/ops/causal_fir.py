"""One-sided filters along time, one a channel: short ones directly, long ones by overlap-save.

y[t] = sum_{j < taps} kernel[j] x[t - j]; the taps - 1 inputs before the chunk are its state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.windows import BANDS, WindowMix, octave_of_bins


def direct(joined: Tensor, kernel: Tensor) -> Tensor:
    """`joined` (batch, taps - 1 + time, channels), the state and the chunk; `kernel` (taps,
    channels) -> (batch, time, channels)."""
    taps, channels = kernel.shape
    weight = kernel.flip(0).T.reshape(channels, 1, taps, 1)
    columns = joined.transpose(1, 2)[..., None]  # a picture one pixel wide, channels last
    return nn.functional.conv2d(columns, weight, groups=channels)[..., 0].transpose(1, 2)


def direct_cost(name: str, tokens: int, taps: int, channels: int) -> Cost:
    """A multiply-add a tap."""
    numbers = tokens * channels
    return Cost(
        name=name,
        forward=2 * taps * numbers,
        useful=2 * taps * numbers,
        macs=taps * numbers,
        weights=taps * channels,
        activations=2 * numbers,
    )


def frame_of(taps: int) -> int:
    """Length of the transforms, a power of two of which at least half is useful. Longer frames
    would spread rounding further back than a token reaches; shorter ones waste work."""
    return max(256, 1 << (2 * taps - 1).bit_length())


def overlap_save(before: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    """As `direct`, of `before` (batch, taps - 1, channels) and `x` (batch, time, channels), by real
    transforms of frames of which the first taps - 1 samples are dropped.

    Source: Oppenheim & Schafer, Discrete-Time Signal Processing, overlap-save. O(log taps) a token.
    """
    taps = kernel.shape[0]
    batch, time, channels = x.shape
    frame = min(frame_of(taps), 1 << (time + taps - 2).bit_length())
    hop = frame - taps + 1
    frames = -(-time // hop)
    silence = x.new_zeros(batch, frames * hop - time, channels)
    padded = torch.cat([before, x, silence], 1)
    spectra = torch.fft.rfft(padded.unfold(1, frame, hop))  # time -> frequency
    response = torch.fft.rfft(kernel.T, n=frame)
    filtered = torch.fft.irfft(spectra * response, n=frame)[..., taps - 1 :]
    return filtered.transpose(2, 3).flatten(1, 2)[:, :time]


def overlap_save_cost(name: str, batch: int, time: int, taps: int, channels: int) -> Cost:
    """Both transforms of every frame, the product between them, and the kernel's transform."""
    frame = min(frame_of(taps), 1 << (time + taps - 2).bit_length())
    frames = batch * -(-time // (frame - taps + 1)) * channels
    bins = frame // 2 + 1
    return Cost.total(
        name,
        cost.real_fft("kernel to response", channels, frame),
        cost.real_fft("frames to spectra", frames, frame),
        cost.elementwise("response", frames * bins, forward=6, macs=4),
        cost.real_fft("spectra to frames", frames, frame),
    )


class BandedKernel(nn.Module):
    """kernel = window * sum_b scale[head, b] octave_b(raw): (taps, channels), one-sided.

    The octaves are those of the discrete Fourier transform of `raw`; the window (its decreasing
    half) comes after them, so that whatever the scales are, no tap looks ahead.
    """

    octave: Tensor

    def __init__(self, channels: int, heads: int, *, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.channels = channels
        decay = torch.exp(-4 * torch.arange(taps) / taps)[:, None]
        self.raw = nn.Parameter(torch.randn(taps, channels) * decay * taps**-0.5)
        self.scale = nn.Parameter(torch.ones(heads, BANDS))
        self.window = WindowMix(taps, half=True)
        self.register_buffer("octave", octave_of_bins(taps))

    def forward(self) -> Tensor:
        raw = self.raw.float() if self.raw.dtype != torch.float64 else self.raw
        scale = self.scale.to(raw.dtype)[:, self.octave]  # (heads, bins)
        scale = scale.repeat_interleave(self.channels // len(self.scale), 0).T
        spectrum = torch.fft.rfft(raw, dim=0) * scale
        return torch.fft.irfft(spectrum, n=self.taps, dim=0) * self.window().to(raw.dtype)[:, None]

    def cost(self, name: str) -> Cost:
        numbers = self.taps * self.channels
        bins = (self.taps // 2 + 1) * self.channels
        return Cost.total(
            name,
            cost.real_fft("analysis", self.channels, self.taps),
            cost.elementwise("band scales", bins, forward=2),
            cost.real_fft("synthesis", self.channels, self.taps),
            window_cost("window", self.taps),
            cost.elementwise("windowing", numbers),
        )


def window_cost(name: str, length: int) -> Cost:
    """Softmax of three numbers, the floor, and the mix of three shapes."""
    return cost.elementwise(name, 1, forward=5 * 3 + 3 + 3 + 3 + 6 * length, macs=3 * length)
