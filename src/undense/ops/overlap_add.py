"""Filters on overlapping frames that are put together again without a seam: for encoders.

Frames of `frame` samples begin every `frame` - `overlap` samples. Each is windowed, filtered in the
frequency domain by a learned response and four octave scales, divided by its window, and faded:
  y = sum_i fade * irfft(response * scale * rfft(window * frame_i)) / window.
Where two frames overlap, the fade of one is p and that of the other 1 - p, p = sigmoid of a learned
number for each place, so that an identity filter returns its input at every point of training. The
window has a floor (see `windows`), so the division is safe. Two-sided: a token sees later ones of
its frame, which is why the causal form uses one-sided kernels instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.causal_fir import fft_cost, inverse_fft_cost, window_cost
from undense.ops.windows import BANDS, WindowMix, octave_of_bins


class OverlapAddFilter(nn.Module):
    """(batch, channels, time) -> the same, any length; starts as the identity."""

    octave: Tensor

    def __init__(self, channels: int, heads: int, *, frame: int, overlap: float) -> None:
        super().__init__()
        assert 0 <= overlap <= 0.5, overlap
        self.frame = frame
        self.overlap = int(frame * overlap)
        self.hop = frame - self.overlap
        self.window = WindowMix(frame, half=False)
        rise = (torch.arange(self.overlap) + 0.5) / max(self.overlap, 1)
        self.fade = nn.Parameter(torch.logit(rise)) if self.overlap else None
        self.scale = nn.Parameter(torch.ones(heads, BANDS))
        bins = frame // 2 + 1
        self.response = nn.Parameter(
            torch.stack([torch.ones(bins), torch.zeros(bins)], -1).repeat(channels, 1, 1)
        )
        self.register_buffer("octave", octave_of_bins(frame))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, time = x.shape
        frames = -(-(time + self.overlap) // self.hop)
        padded = nn.functional.pad(x, (self.overlap, frames * self.hop - time))
        window = self.window().to(x.dtype)
        spectra = torch.fft.rfft(padded.unfold(-1, self.frame, self.hop) * window)
        response = torch.view_as_complex(self._response(channels).to(x.dtype))
        spectra = spectra * response[:, None]
        filtered = torch.fft.irfft(spectra, n=self.frame) * (self._fades(x) / window)
        body, tail = filtered.split([self.hop, self.overlap], -1)
        if self.overlap:
            before = nn.functional.pad(tail[..., :-1, :], (0, 0, 1, 0))
            body = torch.cat([body[..., : self.overlap] + before, body[..., self.overlap :]], -1)
        return body.flatten(-2)[..., self.overlap : self.overlap + time]

    def _fades(self, x: Tensor) -> Tensor:
        """(frame,): rising over the first overlap, its complement over the last, 1 between."""
        if self.fade is None:
            return x.new_ones(self.frame)
        rising = self.fade.to(x.dtype).sigmoid()
        return torch.cat([rising, x.new_ones(self.frame - 2 * self.overlap), 1 - rising])

    def _response(self, channels: int) -> Tensor:
        scale = self.scale[:, self.octave].repeat_interleave(channels // len(self.scale), 0)
        return self.response * scale[..., None]

    def cost(self, name: str, batch: int, time: int) -> Cost:
        channels, bins, _ = self.response.shape
        frames = batch * -(-(time + self.overlap) // self.hop) * channels
        samples = frames * self.frame
        octaves = len(self.scale) * bins
        return Cost.total(
            name,
            window_cost("window", self.frame),
            cost.gather("frames", samples),
            cost.elementwise("windowing", samples, backward=3),
            fft_cost("frames to spectra", frames, self.frame),
            cost.elementwise("scaled response", channels * bins, forward=2, backward=2 + 2 + 2 + 1),
            cost.gather("bands of bins", octaves),
            cost.elementwise("response", frames * bins, forward=6, backward=6 + 6 + 2, macs=4),
            inverse_fft_cost("spectra to frames", frames, self.frame),
            cost.elementwise("fades", self.overlap, forward=4 + 1, backward=3 + 1 + 1),
            cost.elementwise("fades over window", self.frame, backward=4 + bool(self.overlap)),
            cost.fan_out("window used", self.frame, 2),
            cost.elementwise("fading", samples, backward=3),
            cost.add("overlap", frames * self.overlap),
            cost.fan_out("body used", frames * self.hop * bool(self.overlap), 2),
        )
