"""Frequency selection: in every chunk only the modes that its past makes important are computed."""

from __future__ import annotations

from dataclasses import dataclass

from undense.errors import UndenseError
from undense.mixing import register
from undense.ops.modal_bank import ModalBank
from undense.ops.mode_selector import Method, ModeSelector
from undense.ops.spectral_mixer import SpectralMixer
from undense.ops.spectral_parts import SpectralMixerConfig, SpectralParts
from undense.registry import Config


@register("frequency_selector")
class AdaptiveFrequencySelector(SpectralMixer):
    """y_t = sum over awake modes k of Re g_k Z_k(t); a mode asleep takes no input, is not read, and
    decays.

    Differs from the original proposal, which keeps the best bins of a transform of the whole
    sequence: a hard choice of bins makes a causal response look ahead. Modes are one-sided each.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(SpectralMixerConfig):
        """`modes`: a head. `low`, `high`: the least and the greatest share of them that a head
        keeps. `method`: the gradient of the choice, "sigmoid" (exact budget, deterministic) or
        "gumbel" (straight-through with noise in training)."""

        modes: int = 16
        low: float = 0.12
        high: float = 0.45
        method: Method = "sigmoid"

        def __post_init__(self) -> None:
            if not 0 < self.low <= self.high <= 1:
                raise UndenseError(
                    f"frequency_selector: low={self.low} and high={self.high} must satisfy"
                    " 0 < low <= high <= 1"
                )
            if self.method not in ("sigmoid", "gumbel"):
                raise UndenseError(
                    f"frequency_selector: method={self.method!r} must be 'sigmoid' or 'gumbel'"
                )

    @classmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        del causal  # the modes run both ways where it is not
        assert isinstance(config, AdaptiveFrequencySelector.Config)
        selector = ModeSelector(
            dim, heads, config.modes, low=config.low, high=config.high, method=config.method
        )
        return SpectralParts(bank=ModalBank(heads, modes=config.modes), selector=selector)
