"""One sequence mixer a file, the attention yardstick included. A new one needs one line here."""

from undense.mixers.attention import Attention
from undense.mixers.frequency_selector import AdaptiveFrequencySelector
from undense.mixers.hierarchical_fft import HierarchicalFFT
from undense.mixers.spectral_gating import AdvancedSpectralGating
from undense.mixers.spectral_layer import SpectralLayer, all_parts

__all__ = [
    "AdaptiveFrequencySelector",
    "AdvancedSpectralGating",
    "Attention",
    "HierarchicalFFT",
    "SpectralLayer",
    "all_parts",
]
