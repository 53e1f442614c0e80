"""What the names that users type stand for: components, presets, and shares of the dense FLOPs.

`resolve("ultra-25", shape)` is a config whose FLOPs are the largest not above 25 % of those of the
dense FFN of that shape. The grammar, for any registered component NAME and any number N:

    NAME        its defaults, fitted to the host's activation and biases
    NAME-N      its sizing knob chosen for N % of the FLOPs of the dense FFN that it replaces
    ultra-N     the composition that measured best for its FLOPs, at N %: dense parameters
    ultra-small-N  the best one that stores no more than it computes, at N %
    ultra-all-N all four stages of the composition, at N %: dense parameters
    narrow-N    the host's own kind of dense FFN with fewer neurons, at N %
    seed        the original proposal's composition, term by term
    {...}, file.json   a config as JSON; {"like": "ultra", "percent": 25, "gate": 0.5, …} says only
                what differs from NAME-N, stages of a composition included
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from undense.contract import (
    Config,
    DenseShape,
    component_class,
    components,
    config_from_dict,
)
from undense.errors import UndenseError
from undense.ffn.micro_refine import SparseMicroRefine
from undense.ffn.polynomial import SparsePolynomial
from undense.ffn.projection import Projection
from undense.ffn.shares import at_share, dense_config
from undense.ffn.spectral import SparseSpectral
from undense.ffn.ultra import UltraEfficientSparseFFN

FFNSpec = str | Config | Mapping[str, Any]


def seed(shape: DenseShape) -> Config:
    """The original proposal: about 20 of 128 frequencies, a degree-3 polynomial keeping 30 % of its
    terms, four micro-steps on every feature, a square projection, LayerNorm before and after."""
    return UltraEfficientSparseFFN.Config(
        spectral=SparseSpectral.Config(k_freq=max(1, 20 * shape.dim // 128)),
        polynomial=SparsePolynomial.Config(poly_degree=3, poly_keep_ratio=0.3),
        micro=SparseMicroRefine.Config(micro_steps=4, micro_keep_ratio=1.0),
        projection=Projection.Config(blocks=1, bias=False),
    )


def narrow(shape: DenseShape) -> Config:
    """The host's own kind of dense FFN with fewer neurons, which is what N sizes; the start keeps
    the neurons that matter most. The baseline that every component has to beat."""
    return dense_config(shape)


def ultra(shape: DenseShape) -> Config:
    """The composition that measured best for its FLOPs and its time when converting a trained
    model: blocks of the dense FFN's own neurons, chosen for each token, which is what N sizes, and
    a gate. It stores as much as the dense FFN. Spectral and polynomial stages did not earn their
    FLOPs there, and a micro-step changed no loss and took a tenth of the time or more;
    `docs/log.md` has the figures."""
    return _gated(None, component_class("block_topk").fitted(shape))


def ultra_small(shape: DenseShape) -> Config:
    """One micro-step on a quarter of the features before a narrow projection of the host's own
    kind: N % of the dense parameters."""
    micro = SparseMicroRefine.Config(micro_steps=1, micro_keep_ratio=0.25)
    return _gated(micro, dense_config(shape))


def _gated(micro: Config | None, projection: Config) -> Config:
    return UltraEfficientSparseFFN.Config(
        spectral=None,
        polynomial=None,
        micro=micro,
        projection=projection,
        norm_in=False,
        norm_out=False,
    )


def ultra_all(shape: DenseShape) -> Config:
    """All four stages and both norms, each stage a small share; the projection is sized by N."""
    return UltraEfficientSparseFFN.Config(
        spectral=SparseSpectral.Config(k_freq=max(1, shape.dim // 32), basis="eigen"),
        polynomial=SparsePolynomial.Config(poly_degree=2, poly_keep_ratio=1 / 32),
        micro=SparseMicroRefine.Config(micro_steps=2, micro_keep_ratio=1 / 16),
        projection=component_class("block_topk").fitted(shape),
    )


PRESETS: dict[str, Callable[[DenseShape], Config]] = {
    "seed": seed,
    "ultra": ultra,
    "ultra-small": ultra_small,
    "ultra-all": ultra_all,
    "narrow": narrow,
}


def fitted(name: str, shape: DenseShape) -> Config:
    """The defaults of the component `name` for a host of this shape."""
    return component_class(name).fitted(shape)


def resolve(spec: FFNSpec, shape: DenseShape, *, untrained: bool = False) -> Config:
    """The config that a spec stands for at a dense FFN of this shape (grammar: see the module).

    `untrained`: what a name leaves open is filled in for a random start, not for dense weights.
    """
    if isinstance(spec, Config):
        return spec
    if isinstance(spec, Mapping):
        return _config(spec, shape, untrained=untrained)
    text = spec.strip()
    if text.startswith("{"):
        return _config(_json(text, "the inline FFN config"), shape, untrained=untrained)
    if text.endswith(".json"):
        path = Path(text)
        if not path.is_file():
            raise UndenseError(f"FFN config {text!r}: no such file")
        return _config(_json(path.read_text(), text), shape, untrained=untrained)
    name, percent = _split(text)
    base = _base(name, shape, untrained=untrained)
    if percent is not None:
        return at_share(base, shape, percent)
    if name == "ultra":  # the four default stages, around a projection fitted to the host
        return UltraEfficientSparseFFN.Config(projection=fitted("tensor_factor", shape))
    return base


def _base(name: str, shape: DenseShape, *, untrained: bool) -> Config:
    base = PRESETS[name](shape) if name in PRESETS else fitted(name, shape)
    return component_class(base.component).untrained(base) if untrained else base


def _config(values: Mapping[str, Any], shape: DenseShape, *, untrained: bool) -> Config:
    """A config in full, or one that says only what differs from the name it is `like`."""
    if "like" not in values:
        return config_from_dict(values)
    name, percent = (values["like"], values.get("percent"))
    if not isinstance(name, str) or _split(name)[1] is not None:
        raise UndenseError(f"like={name!r}: expected a name without a share; give that as percent")
    if percent is not None:
        _require_percent(percent, f"FFN like {name!r}")
    changes = {key: value for key, value in values.items() if key not in ("like", "percent")}
    base = _base(name, shape, untrained=untrained)
    config = config_from_dict(_merged(base.to_dict(), changes, f"like {name!r}"))
    return config if percent is None else at_share(config, shape, percent)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`base` with `changes`; a stage of a composition is changed field by field, replaced where a
    component is named, removed by null."""
    found = dict(base)
    for key, value in changes.items():
        if key not in base:
            raise UndenseError(f"{place}: unknown field {key!r}; it has {', '.join(sorted(base))}")
        before = base[key]
        if isinstance(value, Mapping) and "component" not in value:
            if not isinstance(before, Mapping):
                raise UndenseError(f"{place}: {key} is {before!r}; name its component")
            value = _merged(before, value, f"{place}, {key}")
        found[key] = value
    return found


def _require_percent(percent: Any, place: str) -> None:
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= 1000:
        raise UndenseError(
            f"{place}: the share {percent!r} must be above 0 and at most 1000 (per cent)"
        )


def _split(text: str) -> tuple[str, float | None]:
    """Name and percentage of a spec such as ultra-12.5; unknown names raise with near misses."""
    known = list(dict.fromkeys([*PRESETS, *components()]))
    if text in known:
        return text, None
    match = re.fullmatch(r"(?P<name>[a-z_-]+?)-(?P<percent>\d+(\.\d+)?)", text)
    name = match["name"] if match else text
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UndenseError(
            f"unknown FFN {text!r}{hint} Known: {', '.join(known)}; NAME-N sizes one to N % of the"
            " dense FLOPs"
        )
    assert match is not None
    percent = float(match["percent"])
    _require_percent(percent, f"FFN {text!r}")
    if name == "seed":
        raise UndenseError("FFN 'seed' is one fixed composition; use 'ultra-all-N' for a share")
    return name, percent


def _json(text: str, origin: str) -> Mapping[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UndenseError(f"{origin} is not JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise UndenseError(f"{origin} must be a JSON object with the key 'component'")
    return values
