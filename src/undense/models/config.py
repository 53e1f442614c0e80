"""`SpectralConfig`: what a language model of sequence mixers and FFN components is made of."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

import undense.ffn
import undense.mixers  # noqa: F401  (registers the mixers)
from undense import mixing
from undense.contract import DenseShape
from undense.errors import UndenseError
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_config

# hidden size, layers, heads, context. The context is what a preset is meant for; no weight depends
# on it, and a longer text is only text of a length that training did not show.
PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (128, 4, 4, 16_384),
    "small": (256, 6, 4, 65_536),
    "base": (512, 12, 8, 131_072),
    "medium": (768, 16, 12, 204_800),
    "large": (1024, 24, 16, 204_800),
    "xlarge": (2048, 32, 32, 204_800),
}


class SpectralConfig(PreTrainedConfig):
    """Layers of x + mixer(norm(x)), then x + ffn(norm(x)), between an embedding and a head.

    `mixer`: a registered name ("spectral_layer") or a mixer config as JSON values. `ffn`: None for
    a SwiGLU of `intermediate_size` neurons (None: 8/3 of the width, rounded up to 16), a spec as
    `--ffn` takes ("ultra-25"), whose share refers to that SwiGLU, or a component config.
    `attention_every` = n makes every n-th layer sliding-window attention of `attention_window`
    tokens (a hybrid).
    `dropout`: on the embedding and on what each sublayer adds. Both specs are kept resolved, so
    that a saved model does not depend on what a name means later.

    Raises `UndenseError` for an unknown name and for a mixer that is not causal.
    """

    model_type = "spectral"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (as transformers has it)

    vocab_size: int = 2048
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    mixer: str | dict[str, Any] = "spectral_layer"
    ffn: str | dict[str, Any] | None = None
    attention_every: int | None = None
    attention_window: int = 256
    max_position_embeddings: int = 16_384
    dropout: float | int = 0.0
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if "initializer_range" in kwargs:
            raise UndenseError(
                "spectral: this config is of a version whose embedding entered the layers as it is"
                " (initializer_range); now it is multiplied by sqrt(hidden_size), so that its"
                " weights would mean another model. Train it anew, or load it with that version"
            )
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise UndenseError(f"spectral: {name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UndenseError(f"spectral: dropout={self.dropout} must be at least 0 and below 1")
        if self.attention_every is not None and self.attention_every < 1:
            raise UndenseError(
                f"spectral: attention_every={self.attention_every} must be at least 1, or None for"
                " no attention layer"
            )
        if self.intermediate_size is None:
            self.intermediate_size = 16 * math.ceil(8 * self.hidden_size / 3 / 16)
        self.mixer = _mixer(self.mixer, self.num_attention_heads).to_dict()
        shape = self.ffn_shape
        ffn = dense_config(shape) if self.ffn is None else resolve(self.ffn, shape, untrained=True)
        self.ffn = ffn.to_dict()
        super().__post_init__(**kwargs)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SpectralConfig:
        """The config of a named size (`PRESETS`), with some fields changed."""
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UndenseError(f"unknown preset {name!r}{hint} Known: {', '.join(PRESETS)}")
        hidden, layers, heads, context = PRESETS[name]
        sizes = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": context,
        }
        return cls(**{**sizes, **changes})

    @property
    def ffn_shape(self) -> DenseShape:
        """The dense FFN that shares of FLOPs refer to: a SwiGLU without biases."""
        assert self.intermediate_size is not None
        return DenseShape(
            dim=self.hidden_size,
            hidden=self.intermediate_size,
            gated=True,
            activation="silu",
            bias=False,
        )

    def mixer_of(self, layer: int) -> mixing.Config:
        """The mixer of a layer: of every `attention_every`-th, the last of its group, attention."""
        if self.attention_every is not None and (layer + 1) % self.attention_every == 0:
            return mixing.default(
                "attention", heads=self.num_attention_heads, window=self.attention_window
            )
        assert isinstance(self.mixer, Mapping)
        return mixing.config_from_dict(self.mixer)


def _mixer(spec: str | Mapping[str, Any], heads: int) -> mixing.Config:
    if isinstance(spec, str):
        config = mixing.default(spec, heads=heads)
    else:
        config = mixing.config_from_dict(spec)
    assert isinstance(config, mixing.MixerConfig)
    if not config.causal:
        raise UndenseError(
            f"mixer {config.component!r} has causal=False, so each token would see those after it;"
            " a language model needs causal=True"
        )
    return config
