"""Every registered mixer in the sizes that tests use, and what several test files do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from undense.mixers import all_parts
from undense.mixing import MixerConfig, SequenceMixer, State, build, default, mixers

DIM = 16
TIME = 29
NAMES = list(mixers())
SPECTRAL = [name for name in NAMES if name != "attention"]

# Short chunks and kernels, so that a few tokens cross every boundary there is.
SHORT: dict[str, dict[str, Any]] = {
    "hierarchical_fft": {"chunk": 8, "taps": 8},
    "spectral_gating": {"chunk": 8},
    "frequency_selector": {"chunk": 8},
    "spectral_layer": {"chunk": 8},
    "attention": {},
}


def variants() -> list[MixerConfig]:
    """Every mixer with short chunks, and the branches that the defaults do not take."""
    more = [
        default("attention", window=5, kv_heads=2),
        default("attention", rope_base=None),
        default("hierarchical_fft", chunk=8, taps=5, features=0),
        default("spectral_gating", chunk=8, phases=False, thresholds=False),
        default("spectral_gating", chunk=8, exchange=True, entropy=1e-3),
        default("frequency_selector", chunk=8, method="gumbel"),
        default("spectral_layer", chunk=8, hierarchical=None, conv_width=1),
        all_parts(chunk=8),
        all_parts(chunk=8).replace(gating=None),
    ]
    found = [default(name, **SHORT.get(name, {})) for name in NAMES] + more
    assert all(isinstance(config, MixerConfig) for config in found)
    return found  # type: ignore[return-value]


def label(config: MixerConfig) -> str:
    plain = [f"{v}" for v in config.to_dict().values() if not isinstance(v, dict)]
    return "-".join(plain)


every_config = pytest.mark.parametrize("config", variants(), ids=label)


def randomised(
    config: MixerConfig, dtype: torch.dtype = torch.float32, dim: int = DIM
) -> SequenceMixer:
    """In evaluation mode, its parameters moved away from whatever start they have."""
    mixer = build(dim, config).to(dtype).eval()
    with torch.no_grad():
        for p in mixer.parameters():
            p.mul_(1.5).add_(0.3 * torch.randn_like(p))
    return mixer


def in_pieces(
    mixer: SequenceMixer, x: Tensor, cuts: list[int], mask: Tensor | None = None
) -> tuple[Tensor, State]:
    state: State | None = None
    parts = []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        if start < end:
            part = None if mask is None else mask[:, start:end]
            y, state = mixer(x[:, start:end], state, part)
            parts.append(y)
    assert state is not None
    return torch.cat(parts, 1), state


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max().clamp_min(1e-9)).item()
