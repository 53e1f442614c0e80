"""The spectral layer with one of its learned parts held still: for ablations, not for models.

Most parts are left out by a config. For the rest, numbers are put in place of a part's parameters
and stay there: a weight of 0 leaves a term out, a frozen window is one that was not learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from undense.errors import UndenseError
from undense.mixers.spectral_layer import SpectralLayer
from undense.mixing import register

OPEN = 1.2784645  # silu of it is 1


@register("spectral_layer_held")
class HeldSpectralLayer(SpectralLayer):
    """A spectral layer some of whose numbers do not learn."""

    @dataclass(frozen=True, kw_only=True)
    class Config(SpectralLayer.Config):
        """`hold`: by parameter, its value: a number; or a list along its first dimension, null
        where it goes on learning. `open_gate`: the output gate lets everything through."""

        hold: dict[str, Any] = field(default_factory=dict)
        open_gate: bool = False

    def __init__(self, dim: int, config: SpectralLayer.Config) -> None:
        super().__init__(dim, config)
        assert isinstance(config, HeldSpectralLayer.Config)
        parameters = dict(self.named_parameters())
        for name, value in config.hold.items():
            if name not in parameters:
                raise UndenseError(f"hold: no parameter {name!r}; it has {', '.join(parameters)}")
            _hold(parameters[name], value)
        self.open_gate = config.open_gate
        if self.open_gate:  # a part with a hook is called, so that no compiled operation gates here
            assert self.gates is not None
            self.gates.register_forward_hook(lambda *_: None)

    def _project_out(self, z: Tensor, *parts: Tensor, dtype: torch.dtype) -> Tensor:
        return super()._project_out(
            torch.full_like(z, OPEN) if self.open_gate else z, *parts, dtype=dtype
        )


def _hold(parameter: nn.Parameter, value: Any) -> None:
    rows = value if isinstance(value, list) else [value] * len(parameter)
    if len(rows) != len(parameter):
        raise UndenseError(f"hold: {len(rows)} values for a parameter of {len(parameter)} rows")
    learns = torch.tensor([row is None for row in rows])
    with torch.no_grad():
        for row, number in enumerate(rows):
            if number is not None:
                parameter[row] = number
    if not learns.any():
        parameter.requires_grad_(False)
        return
    shape = (-1, *(1,) * (parameter.ndim - 1))
    parameter.register_hook(lambda gradient: gradient * learns.view(shape))
