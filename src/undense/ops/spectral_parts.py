"""What spectral mixers are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from undense.mixing import MixerConfig
from undense.ops.band_gates import BandGates
from undense.ops.causal_fir import BandedKernel
from undense.ops.content_memory import ContentMemory
from undense.ops.modal_bank import ModalBank
from undense.ops.mode_selector import ModeSelector
from undense.ops.overlap_add import OverlapAddFilter


@dataclass(frozen=True, kw_only=True)
class SpectralMixerConfig(MixerConfig):
    """`heads`: share nothing but the projections. `chunk`: tokens between two states; modes are
    selected once a chunk. `conv_width`: taps of the short causal convolution."""

    heads: int = 4
    chunk: int = 64
    conv_width: int = 4


class SpectralParts(NamedTuple):
    """What a spectral mixer is made of; None where it has no such part."""

    kernel: BandedKernel | OverlapAddFilter | None = None
    memory: ContentMemory | None = None
    bank: ModalBank | None = None
    gates: BandGates | None = None
    selector: ModeSelector | None = None


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that recurrences run in: transforms and long sums cannot be done in half."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
