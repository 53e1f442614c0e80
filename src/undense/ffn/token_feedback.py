"""Micro-steps fed by the previous token's features: causal, not token-local, streaming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, FFNComponent, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.gated_waist import GatedWaist


@register("token_feedback")
class TokenFeedback(FFNComponent):
    """h_n <- h_n + sigmoid(C z + c) * (B silu(z) + b), z = A h_n + F h_n-1, step by step.

    On selected features; the update is exactly 0 at the others. Every step reads what the previous
    token had at the same step, so `micro_steps` steps reach as many tokens back, and all tokens of
    a sequence are computed at once. Before a sequence's first token the features are 0.

    Not token-local. `forward` takes whole sequences (..., time, dim) from their first token on,
    without padding on the left (rows (time, dim) are one sequence). To stream, or with padding:
    `state = ffn.start(batch)`, then `y, state = ffn.step(x, state, mask)` chunk after chunk of
    (batch, time, dim), one token or many; the batch comes first in the state, so that beams are
    reordered by `state.index_select(0, order)`. A host that decodes with a KV cache calls its FFNs
    with the new token alone: a converted model keeps the state in its cache and hands it over as
    `past`; without that a single token in evaluation mode is refused.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`micro_steps`: number of steps, and how many tokens back they reach. `micro_keep_ratio`:
        share of the features that are read and written. `rank`: waist of a step."""

        mixes_tokens: ClassVar[bool] = True

        micro_steps: int = 2
        micro_keep_ratio: float = 0.25
        rank: int = 4

        def __post_init__(self) -> None:
            for name in ("micro_steps", "rank"):
                if getattr(self, name) < 1:
                    raise UndenseError(
                        f"token_feedback: {name}={getattr(self, name)} must be at least 1"
                    )
            if not 0 < self.micro_keep_ratio <= 1:
                raise UndenseError(
                    f"token_feedback: micro_keep_ratio={self.micro_keep_ratio} must be above 0 and"
                    " at most 1"
                )

    config: Config
    selected: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.features = max(1, round(dim * config.micro_keep_ratio))
        self.register_buffer("selected", torch.arange(self.features) * dim // self.features)
        self.steps = nn.ModuleList(
            GatedWaist(self.features, config.rank) for _ in range(config.micro_steps)
        )
        self.feedback = nn.ModuleList(
            BlockLinear(self.features, config.rank, blocks=1, bias=False) for _ in self.steps
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        if self.past is not None:
            state = self.past.state
            if state is None:
                state = x.new_zeros(x.shape[0], len(self.steps), self.features)
            mask = None if self.past.mask is None else self.past.mask[:, -x.shape[1] :]
            y, self.past.state = self.step(x, state, mask)
            return y
        sequences = x if x.dim() > 1 else x.unsqueeze(0)
        if sequences.shape[-2] == 1 and not self.training:
            raise UndenseError(
                "token_feedback: one token by itself, and nothing says whether others came before"
                " it; use y, state = ffn.step(x, state) with state = ffn.start(batch) at the start"
                " of a sequence (a model that undense converted does so by itself)"
            )
        first = sequences.new_zeros(*sequences.shape[:-2], len(self.steps), self.features)
        return self._run(sequences, first, None)[0].reshape(x.shape)

    def start(self, batch: int) -> Tensor:
        """The state before the first token: (batch, micro_steps, features), all 0."""
        weight = next(self.parameters())
        return weight.new_zeros(batch, len(self.steps), self.features)

    def step(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The next chunk (batch, time, dim) of every sequence, and the state after it.

        `mask` (batch, time): False where there is padding, which hands nothing on, on whichever
        side it is. Raises `UndenseError` for a state or mask of another shape.
        """
        self.check(x)
        expected = (x.shape[0], len(self.steps), self.features)
        if x.dim() != 3 or state.shape != expected:
            raise UndenseError(
                f"token_feedback: step takes x (batch, time, dim) and its state {expected}; got x"
                f" {tuple(x.shape)} and a state {tuple(state.shape)}; begin with start(batch)"
            )
        if mask is not None and mask.shape != x.shape[:2]:
            raise UndenseError(
                f"token_feedback: mask {tuple(mask.shape)} must be (batch, time) ="
                f" {tuple(x.shape[:2])}"
            )
        return self._run(x, state, mask)

    def _run(self, x: Tensor, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        before = x.index_select(-1, self.selected)
        update: Tensor | None = None
        last = []
        for step, back, carried in zip(self.steps, self.feedback, state.unbind(-2), strict=True):
            assert isinstance(step, GatedWaist)
            now = before if update is None else before + update
            seen = torch.cat([carried.unsqueeze(-2), now], -2)  # one longer than the chunk
            if mask is not None:
                seen = seen.take_along_dim(_latest(mask).unsqueeze(-1), -2)
            last.append(seen[..., -1, :])
            # contiguous: torch would multiply a slice by another kernel where weights are frozen
            z = step.waist(now) + back(seen[..., :-1, :].contiguous())
            added = step.respond(z)
            update = added if update is None else update + added
        assert update is not None
        return torch.zeros_like(x).index_copy(-1, self.selected, update), torch.stack(last, -2)

    def outputs(self) -> list[nn.Parameter]:
        steps = [step for step in self.steps if isinstance(step, GatedWaist)]
        return [weight for step in steps for weight in step.out.outputs()]

    def cost(self, tokens: int) -> Cost:
        """Of whole sequences and of streams alike; with padding, looking for the latest real token
        is a comparison a token and step more."""
        numbers, rank = tokens * self.features, self.config.rank
        parts = [cost.gather("selected features", numbers, stored=self.features)]
        for t, (step, back) in enumerate(zip(self.steps, self.feedback, strict=True)):
            assert isinstance(step, GatedWaist) and isinstance(back, BlockLinear)
            parts += [
                step.waist.cost("waist", tokens),
                back.cost("feedback", tokens),
                cost.add("waist and feedback", tokens * rank),
                step.respond_cost(f"step {t}", tokens),
                cost.fan_out("state read by the next token", numbers, 2),
            ]
            if t > 0:
                parts.append(cost.elementwise("state", numbers, macs=0))
                parts.append(cost.elementwise("update", numbers, macs=0))
                parts.append(cost.fan_out("update read twice", numbers, 2))
        parts.append(cost.fan_out("first state", numbers, len(self.steps)))
        return Cost.total("token_feedback", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        """First step as the best map of its rank behind the nonlinearity, the gate half open; the
        feedback and the later steps start at rest (the sampled rows have no order)."""
        inputs, targets = statistics.inputs, statistics.wanted(dense)
        self.selected.copy_(targets.var(0).topk(self.features).indices.sort().values)
        x, y = inputs[:, self.selected], targets[:, self.selected]
        for step, back in zip(self.steps, self.feedback, strict=True):
            assert isinstance(step, GatedWaist) and isinstance(back, BlockLinear)
            step.rest_()
            back.weight.data.zero_()
        first = self.steps[0]
        assert isinstance(first, GatedWaist)
        first.start_(x, y)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        assert isinstance(config, TokenFeedback.Config)
        return config.replace(rank=size)


def _latest(mask: Tensor) -> Tensor:
    """Where the latest real token is, before each token and after the last: (batch, time + 1).

    0 is the carried state, n the chunk's n-th token.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    real = torch.where(mask.bool(), places, 0)
    return nn.functional.pad(real, (1, 0)).cummax(-1).values
