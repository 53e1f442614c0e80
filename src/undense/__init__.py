"""Cheaper feed-forward networks for transformers, and the truth about what they cost and save.

Importing this package registers converted models with `transformers`, so that the stock
`AutoModelForCausalLM.from_pretrained(folder)` loads them. The public names below load what they
need when they are first used: a command's help text must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from undense.convert import registration

if TYPE_CHECKING:
    from undense.contract import Config, Cost, DenseFFN, FFNComponent, Statistics
    from undense.convert.attention import convert_mixers_
    from undense.convert.convert import convert_, plan
    from undense.convert.ffns import load_adapters_, load_ffns_, save_adapters, save_ffns
    from undense.convert.folders import load, save
    from undense.convert.revert import revert_
    from undense.cost import register_formula
    from undense.errors import UndenseError
    from undense.ffn import (
        SparseMicroRefine,
        SparsePolynomial,
        SparseSpectral,
        UltraEfficientSparseFFN,
    )
    from undense.ffn.presets import resolve
    from undense.measure.flops import count_flops, flop_counter
    from undense.mixers import (
        AdaptiveFrequencySelector,
        AdvancedSpectralGating,
        HierarchicalFFT,
        SpectralLayer,
    )
    from undense.models.config import SpectralConfig
    from undense.models.spectral import SpectralForCausalLM, SpectralModel
    from undense.pipeline.live import Live, LiveCallback
    from undense.train.lora import add_lora_

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "AdaptiveFrequencySelector": "undense.mixers",
    "AdvancedSpectralGating": "undense.mixers",
    "Config": "undense.contract",
    "Cost": "undense.cost",
    "DenseFFN": "undense.contract",
    "FFNComponent": "undense.contract",
    "HierarchicalFFT": "undense.mixers",
    "Live": "undense.pipeline.live",
    "LiveCallback": "undense.pipeline.live",
    "SparseMicroRefine": "undense.ffn",
    "SparsePolynomial": "undense.ffn",
    "SparseSpectral": "undense.ffn",
    "SpectralConfig": "undense.models.config",
    "SpectralForCausalLM": "undense.models.spectral",
    "SpectralLayer": "undense.mixers",
    "SpectralModel": "undense.models.spectral",
    "Statistics": "undense.contract",
    "UltraEfficientSparseFFN": "undense.ffn",
    "UndenseError": "undense.errors",
    "add_lora_": "undense.train.lora",
    "convert_": "undense.convert.convert",
    "convert_mixers_": "undense.convert.attention",
    "count_flops": "undense.measure.flops",
    "flop_counter": "undense.measure.flops",
    "load": "undense.convert.folders",
    "load_adapters_": "undense.convert.ffns",
    "load_ffns_": "undense.convert.ffns",
    "plan": "undense.convert.convert",
    "register_formula": "undense.cost",
    "resolve": "undense.ffn.presets",
    "revert_": "undense.convert.revert",
    "save": "undense.convert.folders",
    "save_adapters": "undense.convert.ffns",
    "save_ffns": "undense.convert.ffns",
}

__all__ = [
    "AdaptiveFrequencySelector",
    "AdvancedSpectralGating",
    "Config",
    "Cost",
    "DenseFFN",
    "FFNComponent",
    "HierarchicalFFT",
    "Live",
    "LiveCallback",
    "SparseMicroRefine",
    "SparsePolynomial",
    "SparseSpectral",
    "SpectralConfig",
    "SpectralForCausalLM",
    "SpectralLayer",
    "SpectralModel",
    "Statistics",
    "UltraEfficientSparseFFN",
    "UndenseError",
    "add_lora_",
    "convert_",
    "convert_mixers_",
    "count_flops",
    "flop_counter",
    "load",
    "load_adapters_",
    "load_ffns_",
    "plan",
    "register_formula",
    "resolve",
    "revert_",
    "save",
    "save_adapters",
    "save_ffns",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'undense' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


registration.register()
