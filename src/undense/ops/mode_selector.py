"""Which modes of a head are awake in a chunk, decided from the chunks before it.

Features are means of past chunks at four scales (the last 1, 2, 4, 8 chunks). Each scale has an
importance network of three layers, and the scales are summed with weights 1, 1/2, 1/4, 1/8. Added
to that: a context in which the modes of a head attend to one another (queries and keys of the
scores), and a learned pattern over the modes, a sum of 16 sinusoids. The best are kept: as many as
the head's budget says, between `low` and `high` shares, itself a function of the past; always the
slowest mode. Hard going forward; in training the gradient is that of a soft choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from undense import cost
from undense.cost import Cost
from undense.ops.modal_chunks import Awake
from undense.ops.relaxed_topk import gumbel_noise, gumbel_topk, sigmoid_topk
from undense.ops.slots import Slots

SCALES = (1, 2, 4, 8)
HISTORY = SCALES[-1]
PATTERNS = 16
CONTEXT = 8  # width of the queries and keys among the modes of a head

Method = Literal["sigmoid", "gumbel"]


@dataclass(frozen=True)
class Past:
    """What a selection remembers: `means` of past chunks (batch, HISTORY, dim), `running` sum of
    this one (batch, 1, dim), and the modes `awake` in it (batch, heads, modes)."""

    means: Tensor
    running: Tensor
    awake: Tensor


class ScaleLinear(nn.Module):
    """One linear map for each scale, side by side: (scales, rows, fan_in) -> (…, fan_out)."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        reach = fan_in**-0.5
        size = (len(SCALES), fan_in, fan_out)
        self.weight = nn.Parameter(torch.empty(size).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(len(SCALES), 1, fan_out).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class ModeSelector(nn.Module):
    """Means of past chunks (batch, chunks, HISTORY, dim) -> (slots, weights), both (batch, chunks,
    heads, most): which modes, and 1 for those awake, 0 for the rest of the slots."""

    def __init__(
        self, dim: int, heads: int, modes: int, *, low: float, high: float, method: Method
    ) -> None:
        super().__init__()
        self.heads, self.modes = heads, modes
        self.low, self.high, self.method = low, high, method
        self.most = max(1, math.floor(high * modes + 0.5))
        hidden = self.hidden = max(8, dim // 4)
        self.norm = nn.LayerNorm(dim)
        self.scorers = nn.ModuleList(
            ScaleLinear(fan_in, fan_out)
            for fan_in, fan_out in ((dim, hidden), (hidden, hidden), (hidden, heads * modes))
        )
        self.context_query = nn.Parameter(torch.randn(heads, modes, CONTEXT) * CONTEXT**-0.5)
        self.context_key = nn.Parameter(torch.randn(heads, modes, CONTEXT) * CONTEXT**-0.5)
        self.pattern_weight = nn.Parameter(0.1 * torch.randn(heads, PATTERNS))
        self.pattern_frequency = nn.Parameter(math.pi * (torch.arange(PATTERNS) + 1.0) / 2)
        self.pattern_shift = nn.Parameter(2 * math.pi * torch.rand(PATTERNS))
        self.budget = nn.Linear(dim, heads)
        self.temperature = nn.Parameter(torch.zeros(heads, 1))

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        scores, budget = self.scores(past.to(self.norm.weight.dtype))
        scores, budget = scores.to(past.dtype), budget.to(past.dtype)
        noisy = self.training and self.method == "gumbel"
        ranked = scores + gumbel_noise(scores) if noisy else scores
        floor = torch.arange(self.modes, device=scores.device) == self.modes - 1
        order = ranked.detach().masked_fill(floor, math.inf)
        slots = order.topk(self.most, -1).indices
        kept = torch.round(budget.detach()).clamp(1, self.most)
        weights = (torch.arange(self.most, device=scores.device) < kept).to(scores.dtype)
        if self.training and torch.is_grad_enabled():
            temperature = nn.functional.softplus(self.temperature) + 0.05
            choose = gumbel_topk if self.method == "gumbel" else sigmoid_topk
            soft = choose(ranked, budget, temperature).gather(-1, slots)
            weights = weights + soft - soft.detach()
        return slots, weights

    def over_chunks(self, past: Past, v: Tensor, slots: Slots) -> tuple[Awake, Past]:
        """The choice for every chunk of `v` (batch, dim, time), 0 where no token is, and what the
        next call needs to know."""
        return self.over_sums(past, v.unflatten(-1, (slots.chunks, slots.chunk)).sum(-1).mT, slots)

    def over_sums(self, past: Past, sums: Tensor, slots: Slots) -> tuple[Awake, Past]:
        """The same, of the sums of every chunk (batch, chunks, dim)."""
        chunk, chunks = slots.chunk, slots.chunks
        sums = torch.cat([sums[:, :1] + past.running, sums[:, 1:]], 1)
        means = torch.cat([past.means, sums / chunk], 1)
        modes, weights = self(means.unfold(1, HISTORY, 1)[:, :chunks].transpose(2, 3))
        mask = weights.new_zeros(*weights.shape[:3], self.modes).scatter(3, modes, weights.detach())
        following = _remembered(slots, sums, means, mask)
        modes, weights = (part.transpose(1, 2).contiguous() for part in (modes, weights))
        return Awake(modes, weights), following

    def step(self, past: Past, positions: Tensor, value: Tensor, chunk: int) -> tuple[Tensor, Past]:
        """One token, `value` (batch, 1, dim): the modes awake (batch, heads, modes), chosen anew in
        the rows where it begins a chunk."""
        ends = (positions % chunk == chunk - 1)[:, None, None]
        awake = self.awake(past, positions, chunk, value.dtype)
        running = past.running + value
        shifted = torch.cat([past.means[:, 1:], running / chunk], 1)
        following = Past(
            means=torch.where(ends, shifted, past.means),
            running=running.masked_fill(ends, 0),
            awake=awake.detach().masked_fill(ends, 0),
        )
        return awake, following

    def awake(self, past: Past, positions: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
        """The modes awake for one token (batch, heads, modes): chosen anew where it begins a
        chunk."""
        awake = past.awake.to(dtype)
        if torch.compiler.is_compiling() or any(n % chunk == 0 for n in positions.tolist()):
            begins = positions % chunk == 0
            slots, weights = self(past.means.to(dtype)[:, None])
            chosen = torch.zeros_like(awake).scatter(2, slots[:, 0], weights[:, 0])
            awake = torch.where(begins[:, None, None], chosen, awake)
        return awake

    def scores(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """Importance of every mode (batch, chunks, heads, modes) and how many to keep (…, 1)."""
        means = torch.stack([past[:, :, HISTORY - scale :].mean(2) for scale in SCALES])
        means = self.norm(means)
        first, second, third = self.scorers
        hidden = nn.functional.gelu(second(nn.functional.gelu(first(means.flatten(1, 2)))))
        scores = third(hidden).unflatten(1, past.shape[:2])
        weights = past.new_tensor([0.5**power for power in range(len(SCALES))])
        scores = (scores * weights.view(-1, 1, 1, 1)).sum(0)
        scores = scores.unflatten(-1, (self.heads, self.modes))
        queries = scores[..., None] * self.context_query
        keys = scores[..., None] * self.context_key
        mix = (queries @ keys.mT * CONTEXT**-0.5).softmax(-1)
        context = (mix @ scores[..., None])[..., 0]
        place = torch.arange(self.modes, device=past.device, dtype=past.dtype) / self.modes
        waves = torch.sin(place[:, None] * self.pattern_frequency + self.pattern_shift)
        scores = scores + context + self.pattern_weight @ waves.T
        share = self.low + (self.high - self.low) * self.budget(means[-1]).sigmoid()
        return scores, self.modes * share[..., None]

    def cost(self, name: str, chunks: int, dim: int) -> Cost:
        """Of the choice, without what only training adds."""
        hidden = self.hidden
        numbers = chunks * self.heads * self.modes
        parts = []
        for scale in SCALES:
            parts.append(
                Cost.total(
                    f"scale {scale}",
                    cost.elementwise("mean", chunks * scale * dim),
                    cost.layer_norm("norm", chunks, dim),
                    cost.linear("first", chunks, dim, hidden, bias=True),
                    cost.activation("first gelu", chunks * hidden, "gelu"),
                    cost.linear("second", chunks, hidden, hidden, bias=True),
                    cost.activation("second gelu", chunks * hidden, "gelu"),
                    cost.linear("third", chunks, hidden, self.heads * self.modes, bias=True),
                    cost.elementwise("weight", numbers, forward=2),
                )
            )
        mix = numbers * self.modes
        parts += [
            cost.elementwise("context features", 2 * numbers * CONTEXT),
            cost.elementwise("context scores", mix, forward=2 * CONTEXT + 1 + 5, macs=CONTEXT),
            cost.elementwise("context", mix, forward=2, macs=1),
            cost.elementwise("place", self.modes),
            cost.elementwise("pattern waves", self.modes * PATTERNS, forward=3),
            cost.linear("pattern", self.heads, PATTERNS, self.modes, bias=False, trainable=False),
            cost.elementwise("sums", 2 * numbers, macs=0),
            cost.linear("budget", chunks, dim, self.heads, bias=True),
            cost.elementwise("share", chunks * self.heads, forward=4 + 1 + 1 + 1),
            cost.elementwise("best", numbers),
            cost.elementwise("kept", chunks * self.heads, forward=1 + 2 + self.most),
        ]
        return _no_way_back(Cost.total(name, *parts))

    def over_chunks_cost(self, name: str, batch: int, chunks: int, chunk: int, dim: int) -> Cost:
        """Sums and means of the chunks, the choice, and the running sum."""
        numbers = batch * chunks * dim
        return Cost.total(
            name,
            cost.elementwise("means", numbers, forward=chunk + 1, macs=1),
            cost.add("running", batch * dim),
            self.cost("choice", batch * chunks, dim),
        )

    def step_cost(self, name: str, batch: int, dim: int, *, begins: bool) -> Cost:
        """`begins`: the token is the first of a chunk, for which the choice is made."""
        running = cost.elementwise("running", batch * dim, forward=2, macs=1)
        return Cost.total(name, running, *([self.cost("choice", batch, dim)] if begins else []))


def _no_way_back(tree: Cost) -> Cost:
    """A hard choice has no gradient outside training."""
    return replace(tree, backward=0, parts=tuple(_no_way_back(part) for part in tree.parts))


def _remembered(slots: Slots, sums: Tensor, means: Tensor, mask: Tensor) -> Past:
    """What the next call needs to know: the last means of whole chunks, and of the chunk that a row
    ended in its running sum and its choice; a row that ended with its chunk chooses anew."""
    chunk, last = slots.chunk, slots.chunks - 1
    if not slots.ragged:  # copies: views would keep all chunks in memory
        done, rest = divmod(slots.time, chunk)
        kept, running, awake = means[:, done : done + HISTORY], sums[:, last:], mask[:, last]
        if rest:
            return Past(kept.clone(), running.clone(), awake.clone())
        return Past(kept.clone(), torch.zeros_like(running), torch.zeros_like(awake))
    ends = slots.ends(len(sums), sums.device)
    done = (ends // chunk)[:, None, None]
    now = done.clamp(max=last)
    kept = done + torch.arange(HISTORY, device=done.device)[:, None]
    done_with = (ends % chunk == 0)[:, None, None]
    return Past(
        means=torch.take_along_dim(means, kept, 1),
        running=torch.take_along_dim(sums, now, 1).masked_fill(done_with, 0),
        awake=torch.take_along_dim(mask, now[..., None], 1)[:, 0].masked_fill(done_with, 0),
    )
