"""Causal filters made of modes: h(t) = Re sum_k g_k lambda_k^t, |lambda_k| < 1 by construction.

The kernel of a chunk, its state and the single step all come from the same fp64 lambda, phases
modulo 2 pi, and the state is kept in fp64: computed in fp32, phases drift by 1e-4 in 4K tokens.
Related: S4D, https://arxiv.org/abs/2206.11893 (diagonal modes); here in four octave bands, with the
gains of a band turned and scaled for every token outside the filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.windows import BANDS

# Fastest decay, 1/2 a token: over a chunk of 64 that is e^-32, so lambda^-t times lambda^t stays
# exact in fp32 (whose range is e^88). Slowest: a time constant of 10^6 tokens.
FASTEST = 0.5
SLOWEST = 1e-6
LONGEST_CHUNK = 128


@dataclass(frozen=True)
class ModeTables:
    """Powers of every mode inside a chunk: (heads, modes, 2, chunk), real and imaginary part.

    `keys`: lambda^-s. `queries`: the conjugate of g lambda^r, whose product with a key, pairs
    multiplied and summed, is Re g lambda^(r - s). `writes`: lambda^(chunk - s). `turn` (heads,
    modes, 2, 1), fp64: lambda^chunk.
    """

    keys: Tensor
    queries: Tensor
    writes: Tensor
    turn: Tensor


class ModalBank(nn.Module):
    """The modes of every head, fine to coarse: band b holds time constants and frequencies of an
    octave range of its own, the last of them reaching 200K tokens; the last mode of all starts
    slowest and without oscillation (the floor that a selection always keeps)."""

    def __init__(self, heads: int, *, modes: int) -> None:
        super().__init__()
        if modes < BANDS or modes % BANDS:
            raise UndenseError(
                f"modal bank: modes={modes} must be a multiple of its {BANDS} bands, at least"
                f" {BANDS}"
            )
        self.heads = heads
        self.modes = modes
        edges = torch.tensor([2.5, 16.0, 256.0, 8192.0, 200_000.0]).log()
        place = (torch.arange(modes) + 1) / modes * BANDS
        band = torch.arange(modes) * BANDS // modes
        within = place - band
        time_constant = torch.lerp(edges[band], edges[band + 1], within).exp()
        decay = (1 / time_constant).expand(heads, -1)
        spread = (torch.arange(heads)[:, None] + 0.5) / heads + torch.arange(modes)
        octave = math.pi * 2.0 ** -(band + (spread % 1))
        phase = torch.where(torch.arange(modes) % 2 == 1, 2 / time_constant, octave)
        phase = torch.where(torch.arange(modes) == modes - 1, torch.zeros(()), phase)
        share = (decay - SLOWEST) / (FASTEST - SLOWEST)
        self.decay = nn.Parameter(torch.logit(share.clamp(1e-7, 1 - 1e-7)))
        self.phase = nn.Parameter(phase.expand(heads, -1).clone())
        unit = (2 * decay * (1 + decay)).sqrt() * modes**-0.5  # unit power from white input
        angle = 2 * math.pi * torch.rand(heads, modes)
        self.gain = nn.Parameter(unit[..., None] * torch.stack([angle.cos(), angle.sin()], -1))

    def band(self) -> Tensor:
        """(modes,) int64: the band of each mode."""
        return torch.arange(self.modes, device=self.decay.device) * BANDS // self.modes

    def rates(self) -> tuple[Tensor, Tensor]:
        """Decay a token and phase a token, modulo 2 pi, fp64: (heads, modes) each."""
        decay = SLOWEST + (FASTEST - SLOWEST) * self.decay.double().sigmoid()
        return decay, self.phase.double() % (2 * math.pi)

    def powers(self, exponent: Tensor) -> Tensor:
        """lambda^exponent in fp64: exponents (n,) -> (heads, modes, 2, n)."""
        decay, phase = self.rates()
        exponent = exponent.double()
        size = torch.exp(-decay[..., None] * exponent)
        turn = phase[..., None] * exponent
        return torch.stack([size * turn.cos(), size * turn.sin()], -2)

    def tables(self, chunk: int, dtype: torch.dtype) -> ModeTables:
        """What a chunk needs, derived in fp64 and rounded to `dtype` once."""
        steps = torch.arange(chunk, device=self.decay.device)
        queries = conjugate(times(self.gain.double()[..., None], self.powers(steps)))
        return ModeTables(
            keys=self.powers(-steps).to(dtype),
            queries=queries.to(dtype),
            writes=self.powers(chunk - steps).to(dtype),
            turn=self.powers(steps.new_full((1,), chunk)),
        )

    def tables_cost(self, name: str, chunk: int) -> Cost:
        """Four sets of powers, the complex gains and their conjugate."""
        modes = self.heads * self.modes
        parts = [self.powers_cost("powers", chunk)] * 3
        parts.append(self.powers_cost("turn", 1))
        parts.append(cost.elementwise("gains", modes * chunk, forward=6 + 1, macs=4))
        return Cost.total(name, *parts)

    def powers_cost(self, name: str, exponents: int) -> Cost:
        """Rates (sigmoid, product, sum; remainder; negated), then for each power its size (product,
        exp), its turn (product, cos, sin) and two products."""
        modes = self.heads * self.modes
        return cost.elementwise(name, modes, forward=4 + 1 + 1 + 1 + 1 + 7 * exponents)

    def wound_back_cost(self, name: str, batch: int, width: int) -> Cost:
        """Powers for each row, and a complex product for each number of the state."""
        numbers = batch * self.heads * self.modes * width
        return Cost.total(
            name,
            self.powers_cost("powers", batch),
            cost.elementwise("product", numbers, forward=6, macs=4),
        )

    def step_cost(self, name: str, batch: int, width: int, *, gated: bool, chosen: bool) -> Cost:
        modes = self.heads * self.modes
        numbers = batch * modes * width
        each = 1 + 6 + 4  # add the source, turn, read two multiply-adds
        weights = batch * modes * (6 * gated + 2 * chosen)
        return Cost.total(
            name,
            cost.elementwise("state", numbers, forward=each + chosen, macs=6),
            cost.elementwise("weights", 1, forward=modes + weights),
            self.powers_cost("powers", 1),
        )

    def wound_back(self, state: Tensor, tokens: Tensor) -> Tensor:
        """`state` (batch, heads, modes, 2, width) times lambda^-tokens, `tokens` (batch,) at most a
        chunk: what `tokens` tokens of silence turn into `state`."""
        back = self.powers(-tokens).permute(3, 0, 1, 2)[..., None]
        return times(back, state)

    def step(
        self, state: Tensor, value: Tensor, gates: Tensor | None, awake: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One token: `state` fp64 (batch, heads, modes, 2, width), `value` (batch, heads, width),
        conjugated `gates` (batch, heads, modes, 2) or None, `awake`
        (batch, heads, modes) or None.

        Returns the output (batch, heads, width), fp64, and the state after the token.
        """
        real, imaginary = state.unbind(-2)
        source = value.double()[:, :, None]
        if awake is not None:
            source = source * awake[..., None]
        state = torch.stack([real + source, imaginary], -2)
        weights = conjugate(self.gain.double()[..., None]).expand(len(state), -1, -1, -1, -1)
        if gates is not None:
            weights = times(gates.double()[..., None], weights)
        if awake is not None:
            weights = weights * awake[..., None, None]
        y = weights.flatten(2, 3).mT @ state.flatten(2, 3)
        ahead = self.powers(torch.ones(1, device=state.device))
        return y[:, :, 0], times(ahead, state)


def times(one: Tensor, other: Tensor) -> Tensor:
    """Complex product of real pairs along the last but one dimension."""
    a, b = one.unbind(-2)
    c, d = other.unbind(-2)
    return torch.stack([a * c - b * d, a * d + b * c], -2)


def conjugate(pairs: Tensor) -> Tensor:
    """Real pairs along the last but one dimension, the second negated."""
    real, imaginary = pairs.unbind(-2)
    return torch.stack([real, -imaginary], -2)
