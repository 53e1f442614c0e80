"""The spectral layer: hierarchical filters, gated modes and selection over shared projections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from undense import mixing
from undense.errors import UndenseError
from undense.mixing import default, mixer_class, register
from undense.ops.spectral_mixer import SpectralMixer
from undense.ops.spectral_parts import SpectralMixerConfig, SpectralParts
from undense.registry import Config


def _parts(dim: int, heads: int, config: Config, causal: bool) -> SpectralParts:
    cls = mixer_class(config.component)
    if not issubclass(cls, SpectralMixer):
        raise UndenseError(
            f"spectral_layer: {config.component!r} has no parts to share; use hierarchical_fft,"
            " spectral_gating and frequency_selector"
        )
    return cls.parts(dim, heads, config, causal=causal)


def all_parts(**settings: Any) -> mixing.Config:
    """The spectral layer with every part of the original proposal on: filters of 64 taps, gates
    that exchange between heads, the entropy loss, selection. `settings`: others of the layer."""
    return default(
        "spectral_layer",
        hierarchical=default("hierarchical_fft", taps=64),
        gating=default("spectral_gating", exchange=True, entropy=1e-3),
        selector=default("frequency_selector"),
        **settings,
    )


@register("spectral_layer")
class SpectralLayer(SpectralMixer):
    """Parts of the three spectral mixers, composed on one set of projections.

    y = W_out (silu(z) * norm(filter(v) + sum_b Re gate_b u_b + memory(q, k, v))), where u_b runs
    over the modes of band b that are awake.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(SpectralMixerConfig):
        """`hierarchical`, `gating`, `selector`: configs of the mixers whose parts are used, or None
        to leave one out; this layer's heads, chunk and short convolution hold for all. Off by
        default is what won nothing in language models trained from scratch (`all_parts` has it)."""

        hierarchical: mixing.Config | None = field(
            default_factory=lambda: default("hierarchical_fft", taps=16)
        )
        gating: mixing.Config | None = field(default_factory=lambda: default("spectral_gating"))
        selector: mixing.Config | None = None

        def __post_init__(self) -> None:
            if self.hierarchical is None and self.gating is None and self.selector is None:
                raise UndenseError("spectral_layer: all three parts are None; keep one")

    @classmethod
    def parts(cls, dim: int, heads: int, config: Config, *, causal: bool) -> SpectralParts:
        assert isinstance(config, SpectralLayer.Config)
        children = (config.hierarchical, config.gating, config.selector)
        wide, gated, chosen = (
            SpectralParts() if child is None else _parts(dim, heads, child, causal)
            for child in children
        )
        for name, child, part in (
            ("hierarchical", config.hierarchical, wide.kernel),
            ("gating", config.gating, gated.gates),
            ("selector", config.selector, chosen.selector),
        ):
            if child is not None and part is None:
                raise UndenseError(
                    f"spectral_layer: {name}={child.component!r} has no such part; use"
                    " hierarchical_fft, spectral_gating and frequency_selector, each in its place"
                )
        banks = {bank.modes for bank in (gated.bank, chosen.bank) if bank is not None}
        if len(banks) > 1:
            raise UndenseError(
                f"spectral_layer: gating and selector have {sorted(banks)} modes, but they share"
                " one bank; give both the same `modes`"
            )
        return SpectralParts(
            kernel=wide.kernel,
            memory=wide.memory,
            bank=gated.bank or chosen.bank,
            gates=gated.gates,
            selector=chosen.selector,
        )
