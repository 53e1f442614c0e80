"""Self-guided training: a dense FFN speaks first, and falls silent while ours learns to.

y = a W(x) + (1 - a) FFN(x), W the host's own dense FFN, a a half cosine from 1 to 0 over the first
steps. In a step W runs with probability a, drawn for each layer; elsewhere y = FFN(x). Source:
Wei et al., https://arxiv.org/abs/2406.16450 section 3.3. Differs: one guide for a whole FFN, where
the paper has one for each structured matrix (a component need not be made of matrices), so that it
cannot start equal to what it guides; and the draw follows from seed and step alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from torch import Tensor, nn

NAME = "guides"


@final
class Guides(nn.Module):
    """The guides of a model, one for each of its FFNs, in training only.

    A part of the model until `remove`, so that they are clipped, trained and kept in checkpoints
    with it; the FFNs themselves stay what they are, hooked. `steps`: how many until they are
    silent. In evaluation mode the FFNs speak alone: what is measured is what will be saved.
    """

    def __init__(
        self, ffns: Sequence[nn.Module], guides: Sequence[nn.Module], *, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(guides)
        self.steps = steps
        self.seed = seed
        self.set(0.0, [False] * len(guides))
        self._handles = [
            ffn.register_forward_hook(self._blend(number))
            for number, ffn in zip(range(len(guides)), ffns, strict=True)
        ]

    def weight(self, step: int) -> float:
        """a at step 0, 1, …: (1 + cos(pi step / steps)) / 2, then 0."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps)) if step < self.steps else 0.0

    def speaking(self, step: int) -> list[bool]:
        """Which guides run at `step`, each with probability `weight(step)`."""
        draws = np.random.default_rng((self.seed, step)).random(len(self.layers))
        return [bool(draw < self.weight(step)) for draw in draws]

    def begin(self, step: int) -> None:
        """What follows belongs to `step`."""
        self.set(self.weight(step), self.speaking(step))

    def set(self, weight: float, speaking: Sequence[bool]) -> None:
        """Blend with this weight at the layers that speak."""
        self.now = (weight, list(speaking))

    def remove(self, model: nn.Module) -> None:
        """Take them out of `model`, hooks and all."""
        for handle in self._handles:
            handle.remove()
        delattr(model, NAME)

    def _blend(self, number: int) -> Any:
        def hook(ffn: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weight, speaking = self.now
            if not ffn.training or not speaking[number]:
                return output
            return weight * self.layers[number](arguments[0]) + (1 - weight) * output

        return hook


def attach_guides_(
    model: nn.Module,
    ffns: Sequence[nn.Module],
    guides: Sequence[nn.Module],
    *,
    steps: int,
    seed: int,
) -> None:
    """Let `guides` guide `ffns`, modules of `model`, until `guides_of(model).remove(model)`."""
    model.add_module(NAME, Guides(ffns, guides, steps=steps, seed=seed))


def guides_of(model: nn.Module) -> Guides | None:
    """The guides of a model, if it has any."""
    found = getattr(model, NAME, None)
    return found if isinstance(found, Guides) else None
