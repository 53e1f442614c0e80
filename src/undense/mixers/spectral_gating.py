"""Spectral gating: every token gates the magnitude and turns the phase of four frequency bands."""

from __future__ import annotations

from dataclasses import dataclass

from undense.errors import UndenseError
from undense.mixing import register
from undense.ops.band_gates import BandGates
from undense.ops.modal_bank import ModalBank
from undense.ops.spectral_mixer import SpectralMixer
from undense.ops.spectral_parts import SpectralMixerConfig, SpectralParts
from undense.registry import Config


@register("spectral_gating")
class AdvancedSpectralGating(SpectralMixer):
    """y_t = sum_b Re gate_b(t) u_b(t), u_b the complex output of the modes of band b.

    Differs from the original proposal, which gates the bins of a transform of the whole sequence:
    that reads the future. Here the bands are causal filters and the gates belong to a token.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(SpectralMixerConfig):
        """`modes`: a head. `exchange`: the network through which heads see one another's gates.
        `phases`: learned sinusoidal phase functions. `thresholds`: dynamic soft thresholds.
        `dropout`: in the exchange. `band_dropout`: of whole bands of a head. `entropy`: strength of
        the auxiliary loss against gates that use one band only. Exchange and loss are off: in
        an ablation (docs/log.md) no model was better for them."""

        modes: int = 16
        exchange: bool = False
        phases: bool = True
        thresholds: bool = True
        dropout: float = 0.0
        band_dropout: float = 0.0
        entropy: float = 0.0

        def __post_init__(self) -> None:
            for name in ("dropout", "band_dropout"):
                if not 0 <= getattr(self, name) < 1:
                    raise UndenseError(
                        f"spectral_gating: {name}={getattr(self, name)} must be at least 0 and"
                        " below 1"
                    )
            if not self.entropy >= 0:
                raise UndenseError(
                    f"spectral_gating: entropy={self.entropy} must be at least 0 (0: none)"
                )

    @classmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        del causal  # the modes run both ways where it is not
        assert isinstance(config, AdvancedSpectralGating.Config)
        gates = BandGates(
            dim,
            heads,
            exchange=config.exchange,
            phases=config.phases,
            thresholds=config.thresholds,
            dropout=config.dropout,
            band_dropout=config.band_dropout,
            entropy=config.entropy,
        )
        return SpectralParts(bank=ModalBank(heads, modes=config.modes), gates=gates)
