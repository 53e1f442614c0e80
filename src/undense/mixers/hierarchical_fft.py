"""Hierarchical FFT: windowed filters in octave bands by FFT, and a fusion across chunks.
The causal form filters one-sidedly by overlap-save and fuses over the past only."""

from __future__ import annotations

from dataclasses import dataclass

from undense.errors import UndenseError
from undense.mixing import register
from undense.ops.causal_fir import BandedKernel
from undense.ops.content_memory import ContentMemory
from undense.ops.overlap_add import OverlapAddFilter
from undense.ops.spectral_mixer import SpectralMixer
from undense.ops.spectral_parts import SpectralMixerConfig, SpectralParts
from undense.registry import Config


@register("hierarchical_fft")
class HierarchicalFFT(SpectralMixer):
    """Two ranges in one sum: kernels of `taps` tokens (a learned window times four octave bands
    with learned scales), and beyond them a memory read by queries, keys and values.

    Differs from the original proposal, which windows and fuses whole chunks: there a token sees
    later ones of its chunk. That form is kept for encoders (`causal=False`).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(SpectralMixerConfig):
        """`taps`: length of the kernels, or of the frames. `overlap`: share of a frame that it has
        in common with the next (only where not causal). `features`: of a query and key (None: 32,
        at most the head's width; 0: no fusion across chunks)."""

        taps: int = 128
        overlap: float = 0.125
        features: int | None = None

        def __post_init__(self) -> None:
            if self.taps < 2:
                raise UndenseError(f"hierarchical_fft: taps={self.taps} must be at least 2")
            if not 0 <= self.overlap <= 0.5:
                raise UndenseError(
                    f"hierarchical_fft: overlap={self.overlap} must be 0 to 0.5 of a frame (from 1"
                    " on frames would never move forward); the default is 0.125"
                )
            if self.features is not None and self.features < 0:
                raise UndenseError(
                    f"hierarchical_fft: features={self.features} must not be negative"
                )

    @classmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        assert isinstance(config, HierarchicalFFT.Config)
        features = min(32, dim // heads) if config.features is None else config.features
        if causal:
            kernel = BandedKernel(dim, heads, taps=config.taps)
        else:
            kernel = OverlapAddFilter(dim, heads, frame=config.taps, overlap=config.overlap)
        return SpectralParts(
            kernel=kernel,
            memory=ContentMemory(heads, features=features) if features else None,
        )
