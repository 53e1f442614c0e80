"""Our mixers by the names that benchmarks know them by: the registered ones, and all parts on."""

from __future__ import annotations

from typing import Any

from undense.mixers import all_parts
from undense.mixing import Config, default, mixers

ALL_PARTS = "all_parts"
# whoever else has registered mixers in this process
NAMES = [name for name, cls in mixers().items() if cls.__module__.startswith("undense.")]
NAMES.append(ALL_PARTS)


def ours(name: str, **settings: Any) -> Config:
    """The config that a name stands for, with some settings changed."""
    return all_parts(**settings) if name == ALL_PARTS else default(name, **settings)
