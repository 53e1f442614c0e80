"""One sequence mixer a file, the attention yardstick included. A new one needs one line here."""

from undense.mixers.attention import Attention

__all__ = ["Attention"]
