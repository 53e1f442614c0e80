"""Causal filters made of modes: h(t) = Re sum_k g_k lambda_k^t, |lambda_k| < 1 by construction.

The kernel of a chunk, its state and the single step all come from the same fp64 lambda, phases
modulo 2 pi, and the state is kept in fp64: computed in fp32, phases drift by 1e-4 in 4K tokens.
Related: S4D, https://arxiv.org/abs/2206.11893 (diagonal modes); here in four octave bands, with the
gains of a band turned and scaled for every token outside the filter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

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
    """Powers of every mode inside a chunk, one row a mode of a head, real and imaginary part.

    `keys` (heads * modes, 2, chunk): lambda^-s. `queries` (heads * modes, 2, 2, chunk): the
    conjugates of G = g lambda^r and of i G. Pairs of a conjugate and of a key, multiplied and
    summed, are Re g lambda^(r - s).
    """

    keys: Tensor
    queries: Tensor


class Rates(NamedTuple):
    """Decay and phase of every mode, fp64: (heads, modes, 1) each."""

    decay: Tensor
    phase: Tensor

    def powers(self, exponents: Tensor) -> Tensor:
        """lambda^exponent in fp64: exponents (n,) -> (heads, modes, 2, n)."""
        exponents = exponents.double()
        size, turn = torch.exp(-self.decay * exponents), self.phase * exponents
        return torch.stack([size * turn.cos(), size * turn.sin()], -2)


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

    def rates(self) -> Rates:
        """Decay a token and phase a token, modulo 2 pi, fp64: (heads, modes, 1) each."""
        return rates_of(self.decay, self.phase)

    def tables(self, rates: Rates, chunk: int, dtype: torch.dtype) -> ModeTables:
        """What the inside of a chunk needs, derived in fp64 and rounded to `dtype` once."""
        return mode_tables(rates, self.gain, chunk, dtype)

    def carry(
        self, rates: Rates, chunk: int, chunks: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The map from the state at the start and what each chunk wrote to the states before each
        chunk and after the last: (heads * modes, 2 * (chunks + 1), 2 * (chunks + 1)).

        Row c, column 0: lambda^(chunk c), complex numbers as real 2 x 2 blocks; column 1 + s:
        lambda^(chunk (c - s)) for s < c. Each power is exact: nothing is multiplied up. The last
        row leaves the start out; its own way there comes second, in fp64: (heads, modes, 2, 1).
        """
        place = torch.arange(chunks + 1, device=self.decay.device)
        lag = place[:, None] - (place - 1).clamp_min(0)
        lag = lag.masked_fill(place[:, None] < place, chunks + 1)  # the last row: zeros
        lag[-1, 0] = chunks + 1
        powers = rates.powers(chunk * place)
        real, imaginary = powers.flatten(0, 1).unbind(1)
        table = torch.stack([real, -imaginary, imaginary, real]).to(dtype).flatten(0, 1).T
        table = nn.functional.pad(table, (0, 0, 0, 1))
        rows = table.index_select(0, lag.flatten()).view(*lag.shape, 2, 2, len(real))
        return rows.permute(4, 2, 0, 3, 1).flatten(3, 4).flatten(1, 2), powers[..., -1:]

    def to_ends(
        self, rates: Rates, chunk: int, chunks: int, ends: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The way to slots `ends` (rows,): the map from what each chunk wrote, (heads * modes,
        rows, 2, 2 * (chunks + 1)), 0 in the place of the start; and for the start itself lambda^end
        in fp64, (rows, heads, modes, 2, 1)."""
        begin = chunk * (torch.arange(chunks + 1, device=ends.device) - 1).clamp_min(0)
        lag = ends[:, None] - begin
        powers = rates.powers(lag.clamp_min(0).flatten()).unflatten(3, lag.shape)
        there = lag > 0
        there[:, 0] = False
        real, imaginary = (powers * there).to(dtype).flatten(0, 1).unbind(1)
        blocks = torch.stack([real, -imaginary, imaginary, real], 2).unflatten(2, (2, 2))
        return blocks.flatten(3, 4), powers[..., :1].permute(3, 0, 1, 2, 4)

    def tables_cost(self, name: str, chunk: int) -> Cost:
        """Rates and powers; the complex gains with their four negations; both ends of the powers
        used, and the rates by the map between chunks too."""
        modes = self.heads * self.modes
        return Cost.total(
            name,
            cost.elementwise("rates", modes, forward=4 + 1 + 1 + 1, backward=4),
            self.powers_cost("powers", 2 * chunk - 1),
            cost.fan_out("powers used", 2 * modes * (2 * chunk - 1), 2),
            cost.elementwise("gains", modes * chunk, forward=6 + 3, backward=15 + 5, macs=4),
            cost.fan_out("gains used", 2 * modes, 2),
            cost.fan_out("rates used", 2 * modes, 2),
        )

    def carry_cost(self, name: str, chunks: int) -> Cost:
        """Powers, their negation, and the way back of every place of the map."""
        modes = self.heads * self.modes
        return Cost.total(
            name,
            self.powers_cost("powers", chunks + 1),
            cost.elementwise("signs", modes * (chunks + 1), backward=3),
            cost.gather("places", 4 * modes * (chunks + 1) ** 2),
        )

    def powers_cost(self, name: str, exponents: int, *, back: bool = True) -> Cost:
        """The decay negated, then for each power its size (product, exp), its turn (product, cos,
        sin) and two products."""
        modes, numbers = self.heads * self.modes, self.heads * self.modes * exponents
        return Cost.total(
            name,
            cost.elementwise("negated", modes, backward=back),
            cost.elementwise("powers", numbers, forward=7, backward=16 * back),
        )

    def ends_cost(self, name: str, batch: int, chunks: int, width: int, *, ragged: bool) -> Cost:
        """The map to the ends, and its product with what was written; into the state alone."""
        modes, ends = self.heads * self.modes, batch if ragged else 1
        product = 2 * 2 * (chunks + 1) * modes * batch * width
        return Cost.total(
            name,
            self.powers_cost("powers", ends * (chunks + 1), back=False),
            cost.elementwise("map", modes * ends * (chunks + 1), forward=2 + 1),
            Cost(name="written", forward=2 * product, useful=2 * product, macs=product),
        )

    def wound_back_cost(self, name: str, batch: int, width: int) -> Cost:
        """Powers for each row, and a complex product for each number of the state."""
        numbers = batch * self.heads * self.modes * width
        return Cost.total(
            name,
            self.powers_cost("powers", batch, back=False),
            cost.elementwise("product", numbers, forward=6, macs=4),
        )

    def step_cost(self, name: str, batch: int, width: int, *, gated: bool, chosen: bool) -> Cost:
        modes = self.heads * self.modes
        numbers = batch * modes * width
        each = 1 + 6 + 4  # add the source, turn, read two multiply-adds
        weights = batch * modes * (1 + 6 * gated + 2 * chosen)
        return Cost.total(
            name,
            cost.elementwise("state", numbers, forward=each + chosen, macs=6),
            cost.elementwise("weights", weights),
            cost.elementwise("rates", modes, forward=4 + 1 + 1 + 1),
            self.powers_cost("powers", 1, back=False),
        )

    def wound_back(self, rates: Rates, state: Tensor, tokens: Tensor) -> Tensor:
        """`state` (batch, heads, modes, 2, width) times lambda^-tokens, `tokens` (batch,) at most a
        chunk: what `tokens` tokens of silence turn into `state`."""
        back = rates.powers(-tokens).permute(3, 0, 1, 2)[..., None]
        return times(back, state)

    def step(
        self, state: Tensor, value: Tensor, gates: Tensor | None, awake: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One token: `state` fp64 (batch, heads, modes, 2, width), `value` (batch, heads, width),
        `gates` (batch, heads, modes, 2) or None, `awake`
        (batch, heads, modes) or None.

        Returns the output (batch, heads, width), fp64, and the state after the token.
        """
        real, imaginary = state.unbind(-2)
        source = value.double()[:, :, None]
        if awake is not None:
            source = source * awake[..., None]
        state = torch.stack([real + source, imaginary], -2)
        weights = self.gain.double()[..., None].expand(len(state), -1, -1, -1, -1)
        if gates is not None:
            weights = times(gates.double()[..., None], weights)
        weights = conjugate(weights)
        if awake is not None:
            weights = weights * awake[..., None, None]
        y = weights.flatten(2, 3).mT @ state.flatten(2, 3)
        ahead = self.rates().powers(torch.ones(1, device=state.device))
        return y[:, :, 0], times(ahead, state)


def rates_of(decay: Tensor, phase: Tensor) -> Rates:
    """The rates that these parameters (heads, modes) stand for."""
    per_token = SLOWEST + (FASTEST - SLOWEST) * decay.double().sigmoid()
    return Rates(per_token[..., None], (phase.double() % (2 * math.pi))[..., None])


def mode_tables(rates: Rates, gain: Tensor, chunk: int, dtype: torch.dtype) -> ModeTables:
    """The tables of modes with these gains (heads, modes, 2)."""
    powers = rates.powers(torch.arange(1 - chunk, chunk, device=gain.device))
    real, imaginary = times(gain.double()[..., None], powers[..., chunk - 1 :]).unbind(-2)
    queries = torch.stack([real, -imaginary, -imaginary, -real], -2)
    return ModeTables(
        keys=powers[..., :chunk].flip(-1).to(dtype).flatten(0, 1),
        queries=queries.to(dtype).flatten(0, 1).unflatten(1, (2, 2)),
    )


def times(one: Tensor, other: Tensor) -> Tensor:
    """Complex product of real pairs along the last but one dimension."""
    a, b = one.unbind(-2)
    c, d = other.unbind(-2)
    return torch.stack([a * c - b * d, a * d + b * c], -2)


def conjugate(pairs: Tensor) -> Tensor:
    """Real pairs along the last but one dimension, the second negated."""
    real, imaginary = pairs.unbind(-2)
    return torch.stack([real, -imaginary], -2)
