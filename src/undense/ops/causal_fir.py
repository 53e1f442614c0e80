"""One-sided filters along time, one a channel: their kernels, and long ones by overlap-save.

y[t] = sum_{j < taps} kernel[j] x[t - j]; time is last, and the taps - 1 inputs before the chunk are
its state.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.windows import BANDS, WindowMix, octave_of_bins


def frame_of(taps: int) -> int:
    """Length of the transforms, a power of two of which at least half is useful. Longer frames
    would spread rounding further back than a token reaches; shorter ones waste work."""
    return max(256, 1 << (2 * taps - 1).bit_length())


def overlap_save(joined: Tensor, kernel: Tensor) -> Tensor:
    """The filter by real transforms of frames of which the first taps - 1 samples are dropped.

    `joined` (batch, channels, taps - 1 + time), the state and the chunk; `kernel` (channels,
    taps) -> (batch, channels, time).

    Source: Oppenheim & Schafer, Discrete-Time Signal Processing, overlap-save. O(log taps) a token.
    """
    taps = kernel.shape[1]
    time = joined.shape[-1] - taps + 1
    frame, hop, frames = _frames(time, taps)
    padded = nn.functional.pad(joined, (0, frames * hop - time))
    spectra = torch.fft.rfft(padded.unfold(-1, frame, hop))  # time -> frequency
    response = torch.fft.rfft(kernel, n=frame)[:, None]
    filtered = torch.fft.irfft(spectra * response, n=frame)[..., taps - 1 :]
    return filtered.flatten(-2)[..., :time]


def _frames(time: int, taps: int) -> tuple[int, int, int]:
    """Length of a frame, samples from one to the next, number of frames."""
    frame = min(frame_of(taps), 1 << (time + taps - 2).bit_length())
    hop = frame - taps + 1
    return frame, hop, -(-time // hop)


def overlap_save_cost(name: str, batch: int, time: int, taps: int, channels: int) -> Cost:
    """Both transforms of every frame, the product between them, and the kernel's transform."""
    frame, _, frames = _frames(time, taps)
    frames, bins = frames * batch * channels, frame // 2 + 1
    return Cost.total(
        name,
        fft_cost("kernel to response", channels, frame),
        fft_cost("frames to spectra", frames, frame),
        cost.elementwise("response", frames * bins, forward=6, backward=6 + 6 + 2, macs=4),
        inverse_fft_cost("spectra to frames", frames, frame),
        cost.gather("frames", frames * frame),
    )


class BandedKernel(nn.Module):
    """kernel = window * sum_b scale[head, b] octave_b(raw): (channels, taps), one-sided.

    The octaves are those of the discrete Fourier transform of `raw`; the window (its decreasing
    half) comes after them, so that whatever the scales are, no tap looks ahead.
    """

    octave: Tensor

    def __init__(self, channels: int, heads: int, *, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.channels = channels
        decay = torch.exp(-4 * torch.arange(taps) / taps)
        self.raw = nn.Parameter(torch.randn(channels, taps) * decay * taps**-0.5)
        self.scale = nn.Parameter(torch.ones(heads, BANDS))
        self.window = WindowMix(taps, half=True)
        self.register_buffer("octave", octave_of_bins(taps))

    def forward(self) -> Tensor:
        return banded(self.raw, self.scale, self.window(), self.octave)

    def cost(self, name: str) -> Cost:
        numbers = self.taps * self.channels
        bins = (self.taps // 2 + 1) * self.channels
        return Cost.total(
            name,
            fft_cost("analysis", self.channels, self.taps),
            cost.elementwise("band scales", bins, forward=2, backward=2 + 6 + 1),
            cost.gather("bands of bins", len(self.scale) * (self.taps // 2 + 1)),
            inverse_fft_cost("synthesis", self.channels, self.taps),
            window_cost("window", self.taps),
            cost.elementwise("windowing", numbers, backward=3),
        )


def banded(raw: Tensor, scale: Tensor, window: Tensor, octave: Tensor) -> Tensor:
    """The kernel of `raw` (channels, taps), `scale` (heads, bands), `window` (taps,), `octave`: the
    band of every bin."""
    raw = raw.float() if raw.dtype != torch.float64 else raw
    bins = scale.to(raw.dtype)[:, None, octave]  # (heads, 1, bins)
    spectrum = torch.fft.rfft(raw).unflatten(0, (len(bins), -1)) * bins
    kernel = torch.fft.irfft(spectrum, n=raw.shape[1]).flatten(0, 1)
    return kernel * window.to(raw.dtype)


def window_cost(name: str, length: int) -> Cost:
    """Softmax of three numbers, the floor, and the mix of three shapes."""
    forward, backward = 5 * 3 + 3 + 3 + 3 + 6 * length, 6 * length + 3 + 4 * 3
    return cost.elementwise(name, 1, forward=forward, backward=backward, macs=3 * length)


def fft_cost(name: str, rows: int, length: int) -> Cost:
    """A real transform; autograd's way back is a complex one of the same length."""
    forward = cost.real_fft(name, rows, length)
    return replace(forward, backward=2 * forward.forward)


def inverse_fft_cost(name: str, rows: int, length: int) -> Cost:
    """Back, a real transform and the doubling of every bin that stands for two."""
    forward = cost.real_fft(name, rows, length)
    return replace(forward, backward=forward.forward + 2 * rows * ((length - 1) // 2))
