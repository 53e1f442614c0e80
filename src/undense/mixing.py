"""What a sequence mixer is: `MixerConfig`, the registry, `SequenceMixer`, and its state.

A mixer stands where attention stood. One call handles a chunk of any length; what it must remember
of the past is its state, so that one long call, several short ones and one call a token are the
same function. One token is a chunk of one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
from torch import Tensor

from undense.cost import Cost
from undense.errors import UndenseError
from undense.registry import Config, Part, Registry

State = tuple[Tensor, ...]
"""A flat tuple of tensors, the batch first in each, so that `index_select(0, rows)` on every one
reorders or repeats rows. The first holds the positions: real tokens seen so far, int64 (batch,).
A mixer that is not causal has none: `()`."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig(Config):
    """`causal`: whether a token sees only itself and the past. Only causal mixers have a state."""

    mixes_tokens: ClassVar[bool] = True
    causal: bool = True


GROWS = -1


@dataclass(frozen=True)
class Slot:
    """One tensor of a state: its name, its shape without the batch, and its dtype (None: that of
    the model). A size of `GROWS` is the number of tokens seen, as in a key-value cache."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None

    @property
    def grows(self) -> bool:
        """Whether it is larger after more tokens."""
        return GROWS in self.shape

    def sizes(self, past: int) -> tuple[int, ...]:
        """The shape without the batch after `past` tokens."""
        return tuple(past if size == GROWS else size for size in self.shape)


POSITIONS = Slot("positions", (), torch.int64)


class SequenceMixer(Part, ABC):
    """A map (batch, time, dim) -> (batch, time, dim) that mixes along time.

    It returns the update only: the host block adds the residual.
    """

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Mix a chunk and return it with the state after it.

        `x` (batch, time, dim). `state`: what this method returned for the tokens before, None at
        the start. `mask` (batch, time) bool, True for real tokens: the others, left, right or in
        between, write no state, change no output of a real token and come out as 0; positions
        count real tokens only.

        Raises `UndenseError` for an empty chunk, another width, a state or mask of another shape,
        and a state given to a mixer that is not causal.
        """

    @abstractmethod
    def cost(self, batch: int, length: int, *, past: int = 0) -> Cost:
        """What a call on `batch` rows of `length` tokens costs, none of them padded, in the order
        of `forward`; `past` tokens came before, as a state (0: called without one)."""

    @abstractmethod
    def layout(self) -> tuple[Slot, ...]:
        """The tensors of the state, in order; the first is `POSITIONS`. Empty: not causal."""

    def initial_state(
        self,
        batch: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> State:
        """The state before the first token, all zeros; dtype and device by default the model's."""
        like = next(self.parameters())
        return tuple(
            torch.zeros(
                batch,
                *slot.sizes(0),
                dtype=slot.dtype or dtype or like.dtype,
                device=device or like.device,
            )
            for slot in self.layout()
        )

    def state_bytes(self, *, past: int = 0, element_size: int = 4) -> int:
        """Bytes of the state of one row after `past` tokens."""
        total = 0
        for slot in self.layout():
            bytes_each = slot.dtype.itemsize if slot.dtype else element_size
            total += math.prod(slot.sizes(past)) * bytes_each
        return total

    def check(self, x: Tensor, state: State | None, mask: Tensor | None) -> None:
        """Refuse what `forward` cannot answer; every message names the value and the remedy."""
        name = self.component
        if x.dim() != 3:
            raise UndenseError(
                f"{name}: input of shape {tuple(x.shape)} must be (batch, time, features)"
            )
        batch, time, features = x.shape
        if features != self.dim:
            raise UndenseError(
                f"{name}: input has {features} features but the mixer was built for dim={self.dim};"
                f" pass dim={features}, the width of the residual stream"
            )
        if time == 0:
            raise UndenseError(f"{name}: length 0: there is nothing to mix; pass at least 1 token")
        if mask is not None and (mask.shape != (batch, time) or mask.dtype != torch.bool):
            raise UndenseError(
                f"{name}: mask of shape {tuple(mask.shape)} and {mask.dtype} must be"
                f" ({batch}, {time}) and torch.bool, True for real tokens"
            )
        if state is not None:
            self._check_state(state, batch)

    def _check_state(self, state: State, batch: int) -> None:
        layout = self.layout()
        if not layout:
            raise UndenseError(
                f"{self.component}: causal=False mixes the whole sequence at once and keeps no"
                " state; pass state=None, or build it with causal=True to go on from a state"
            )
        if len(state) != len(layout):
            raise UndenseError(
                f"{self.component}: a state of {len(state)} tensors, {len(layout)} expected"
                f" ({', '.join(slot.name for slot in layout)}); it is from another mixer or config"
            )
        for tensor, slot in zip(state, layout, strict=True):
            wanted = (batch, *slot.shape)
            if tensor.shape == wanted:
                continue
            fits = tensor.dim() == len(wanted) and all(
                have == want or want == GROWS
                for have, want in zip(tensor.shape, wanted, strict=True)
            )
            if not fits:
                raise UndenseError(
                    f"{self.component}: state {slot.name!r} has the shape {tuple(tensor.shape)},"
                    f" {wanted} expected ({GROWS}: any); it is from another batch, mixer or config"
                )


def require_finite(name: str, y: Tensor) -> None:
    """Refuse an output that is not a number: the state may carry it into all that follows.

    Only where looking is cheap (some 2 % of a mixer's time), that is on the CPU, without gradients,
    outside a compiler.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or y.device.type != "cpu":
        return
    found = y if y.dtype in (torch.float32, torch.float64) else y.float()
    if not numpy.isfinite(found.numpy()).all():  # not the mixer's arithmetic: uncounted
        raise UndenseError(
            f"{name}: the output is not finite (NaN or infinity in the input, the state or the"
            " weights); start again from a fresh state with finite inputs"
        )


_REGISTRY: Registry[SequenceMixer] = Registry("mixer", "a mixer config")
register = _REGISTRY.register
mixers = _REGISTRY.classes
mixer_class = _REGISTRY.named
config_from_dict = _REGISTRY.config
build = _REGISTRY.build


def abstract_cost(
    dim: int, config: Config, batch: int = 1, length: int = 1, *, past: int = 0
) -> Cost:
    """The cost of a mixer that is never given memory (built on the meta device)."""
    with torch.device("meta"):
        return build(dim, config).cost(batch, length, past=past)


def default(name: str, **settings: Any) -> Config:
    """The config of the mixer `name`, with some settings changed."""
    return mixer_class(name).Config(**settings)
