"""One layer of a spectral model: a mixer along time, then an FFN, each a residual update."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from undense import contract, mixing
from undense.contract import FFNComponent
from undense.mixing import SequenceMixer, State
from undense.models.config import SpectralConfig


@final
class SpectralBlock(GradientCheckpointingLayer):
    """x + drop(mixer(norm(x))), then x + drop(ffn(norm(x))). `x` (batch, time, hidden_size)."""

    def __init__(self, config: SpectralConfig, layer: int) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.mixer_norm = nn.RMSNorm(dim, eps=eps)
        self.mixer: SequenceMixer = mixing.build(dim, config.mixer_of(layer))
        self.ffn_norm = nn.RMSNorm(dim, eps=eps)
        assert isinstance(config.ffn, dict)
        self.ffn: FFNComponent = contract.build(dim, contract.config_from_dict(config.ffn))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        mixed, after = self.mixer(self.mixer_norm(x), state, mask)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.ffn(self.ffn_norm(x))), after
