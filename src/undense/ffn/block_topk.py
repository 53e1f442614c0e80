"""Token-chosen blocks of hidden neurons: all the dense parameters, a share of the dense FLOPs.

Related: MoEfication, https://arxiv.org/abs/2110.01786; shared experts, https://arxiv.org/abs/2401.06066;
balance loss, https://arxiv.org/abs/2101.03961 (here injected into the backward pass).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from undense import contract, cost
from undense.contract import DenseFFN, DenseShape, GainedFFN, Statistics, register
from undense.cost import Cost
from undense.errors import UndenseError
from undense.kernels.choice import plain_wins
from undense.kernels.library import ACTIVATIONS, alike, runs
from undense.ops.activation import activate, canonical
from undense.ops.auxiliary import unevenness, unevenness_cost, with_loss
from undense.ops.block_linear import BlockLinear
from undense.ops.chosen_blocks import chosen_blocks, chosen_blocks_cost
from undense.ops.co_activation import best, block_energy, co_active, fit_router_
from undense.ops.low_rank import LowRankLinear
from undense.ops.regression import Ridge, ridge
from undense.ops.reshaped import reshaped
from undense.ops.routed_blocks import routed_blocks, routed_weights
from undense.ops.routed_training import trained_blocks

# How firmly the second layer, solved again, holds on to the dense weights, which know more than the
# sample: start 3.430 at 1e-2, 3.434 at 1e-4 and at 1e-1.
HOLD = 1e-2
RANK = 2  # of the router for each chosen block


@register("block_topk")
class BlockTopK(GainedFFN):
    """y = shared(x) + sum over the k best blocks of gate_b * W_down,b act(W_up,b x + b_b) + bias.

    A linear router, full or of low rank, scores the blocks for each token; only the best k are
    computed. Their gates are k * softmax(temperature * score) over those k, 1 on average: through
    them the router gets its gradient. Shared neurons are computed for every token. In a gated FFN
    act(W_gate,b x) * (W_up,b x) stands in place of the activation.

    Started from a dense FFN, the neurons that speak loudest on average are shared; others that
    speak on the same tokens form a block; the router is fitted to the energy of each block's
    output; every gate is exactly 1 (temperature 0), so that the neurons computed are those of the
    dense FFN; the second layer is solved again, so that they also say what they tell about those
    that are not computed.
    Shapes: `up` (blocks, block or 2 * block, dim), `down` (blocks, block, dim): a block is read in
    one piece. The FLOPs are those of the path that runs, in training too.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        """`hidden`: neurons in all, the last block filled up; None is 4 x dim. `shared`: neurons
        computed for every token. `block`: neurons in a block. `chosen`: blocks computed for a
        token. `rank`: of the router; None is full. `balance`: strength of the loss that keeps all
        blocks in use, in training; 0 is off."""

        hidden: int | None = None
        shared: int = 0
        block: int = 16
        chosen: int = 3
        rank: int | None = None
        activation: str = "gelu_tanh"
        gated: bool = False
        bias: bool = True
        balance: float = 0.01

        def __post_init__(self) -> None:
            canonical(self.activation)
            for name in ("hidden", "block", "chosen", "rank"):
                if (value := getattr(self, name)) is not None and value < 1:
                    raise UndenseError(f"block_topk: {name}={value} must be at least 1")
            for name in ("shared", "balance"):
                if not (value := getattr(self, name)) >= 0:
                    raise UndenseError(f"block_topk: {name}={value} must be at least 0")

    config: Config
    imbalance: Tensor | None = None  # `unevenness` of the last call in training, for logging

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.activation = canonical(config.activation)
        size, k, self.always = (config.block, config.chosen, config.shared)
        hidden = config.hidden or 4 * dim
        self.blocks = -(-(hidden - self.always) // size)
        self.hidden = self.always + self.blocks * size
        if k > self.blocks:
            raise UndenseError(
                f"block_topk: chosen={k} exceeds the {max(0, self.blocks)} blocks of {size} that"
                f" hidden={hidden} and shared={self.always} leave to choose from"
            )
        branches = 2 if config.gated else 1
        if config.rank is None:
            self.router = BlockLinear(dim, self.blocks, blocks=1, bias=True)
        else:
            self.router = LowRankLinear(dim, self.blocks, rank=config.rank, bias=True)
        self.temperature = nn.Parameter(torch.ones(1))
        self.up = nn.Parameter(torch.empty(self.blocks, branches * size, dim))
        self.down = nn.Parameter(torch.empty(self.blocks, size, dim))
        nn.init.normal_(self.up, std=dim**-0.5)
        nn.init.normal_(self.down, std=(self.always + k * size) ** -0.5)
        self.up_bias = None
        self.bias = None
        if config.bias:
            self.up_bias = nn.Parameter(torch.zeros(self.blocks, branches * size))
            self.bias = nn.Parameter(torch.zeros(dim))
        self.shared_up = None
        self.shared_down = None
        if self.always:
            self.shared_up = BlockLinear(dim, branches * self.always, blocks=1, bias=config.bias)
            self.shared_down = BlockLinear(self.always, dim, blocks=1, bias=False)
            self.shared_down.reset(std=(self.always + k * size) ** -0.5)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        self.check(x)
        k, balance = (self.config.chosen, self.config.balance if self.training else 0.0)
        if self.activation in ACTIVATIONS and runs(x):
            weights = routed_weights(self, gain)
            tokens, inference = x.numel() // self.dim, not torch.is_grad_enabled() and not balance
            slower = plain_wins("routed" if inference else "trained", x.dtype, self.dim, tokens)
            if weights is not None and not slower and alike(x, weights):
                if inference:
                    return routed_blocks(x, weights, k, self.activation)
                y, imbalance = trained_blocks(x, weights, k, self.activation, balance)
                if balance:
                    self.imbalance = imbalance
                return y
        rows = x.reshape(-1, self.dim)
        scores = self.router(rows)
        top, chosen = scores.topk(k, -1, sorted=False)
        if balance:
            uneven = unevenness(scores, chosen)
            top, self.imbalance = (with_loss(top, uneven * balance), uneven.detach())
        gates = torch.softmax(top * self.temperature, -1) * k
        y = chosen_blocks(rows, self.up, self.up_bias, self.down, chosen, gates, self.activation)
        if self.shared_up is not None and self.shared_down is not None:
            y = y + self.shared_down(self._neurons(self.shared_up(rows)))
        y = (y if self.bias is None else y + self.bias).reshape(x.shape)
        return y if gain is None else y * gain

    def _neurons(self, inner: Tensor) -> Tensor:
        first, *second = inner.chunk(2 if self.config.gated else 1, -1)
        hidden = activate(first, self.activation)
        return hidden * second[0] if second else hidden

    def outputs(self) -> list[nn.Parameter]:
        shared = [] if self.shared_down is None else self.shared_down.outputs()
        return [self.down, *shared, *([] if self.bias is None else [self.bias])]

    def cost(self, tokens: int) -> Cost:
        k, size, numbers = (self.config.chosen, self.config.block, tokens * self.dim)
        parts = [
            cost.fan_out("input read twice", numbers, 2),
            self.router.cost("router", tokens),
            cost.elementwise("choice", tokens * self.blocks, macs=0),
        ]
        if self.training and self.config.balance > 0:
            parts.append(unevenness_cost("balance", tokens, self.blocks))
            parts.append(cost.elementwise("strength", 1, backward=1))
        softmax, back = (cost.per_element(n) for n in ("softmax", "softmax_backward"))
        inner, biased = (self.up.shape[1], self.up_bias is not None)
        blocks = chosen_blocks_cost(
            "blocks", tokens * k, self.dim, size, inner, self.activation, bias=biased
        )
        stored = [t.numel() for t in (self.up, self.up_bias, self.down) if t is not None]
        parts += [
            cost.gain("temperature", tokens, k, size=1),
            cost.elementwise("gates", tokens * k, forward=softmax + 1, backward=back + 1, macs=2),
            replace(blocks, weights=sum(stored)),
        ]
        if self.always:
            parts.append(self._shared_cost(tokens))
        if self.bias is not None:
            bias = cost.elementwise("bias", numbers, backward=1, macs=0)
            parts.append(replace(bias, weights=self.dim))
        return Cost.total("block_topk", *parts)

    def _shared_cost(self, tokens: int) -> Cost:
        assert self.shared_up is not None and self.shared_down is not None
        hidden = tokens * self.always
        parts = [
            cost.fan_out("input read again", tokens * self.dim, 2),
            self.shared_up.cost("up", tokens),
            cost.activation("activation", hidden, self.activation),
        ]
        if self.config.gated:
            parts.append(cost.product("gating", hidden))
        parts += [self.shared_down.cost("down", tokens), cost.add("add", tokens * self.dim)]
        return Cost.total("shared", *parts)

    def start_from(self, dense: DenseFFN, statistics: Statistics) -> None:
        rows, targets = (statistics.inputs, statistics.wanted(dense))
        form = {"gated": self.config.gated, "bias": self.config.bias}
        dense = reshaped(dense, rows, hidden=self.hidden, activation=self.activation, **form)
        hidden = dense.neurons(rows)
        reach = dense.down.norm(dim=0)
        loudest = (hidden.abs().mean(0) * reach).argsort(descending=True)
        rest = loudest[self.always :].sort().values
        energy = (hidden[:, rest] * reach[rest]).square()
        reader = Ridge(rows)
        order = co_active(rows, reader, energy, size=self.config.block, k=self.config.chosen)
        self._keep(dense, loudest[: self.always], rest[order])
        self.temperature.data.zero_()
        hidden, shared = (hidden[:, rest[order]], hidden[:, loudest[: self.always]])
        fit_router_(self.router, rows, reader, block_energy(hidden, self.down.data))
        self._refit(rows, shared, hidden, targets)

    def _keep(self, dense: DenseFFN, shared: Tensor, order: Tensor) -> None:
        """The dense weights in their places; gate rows before up rows."""
        weights, biases = dense.branches

        def cut(branches: Tensor) -> Tensor:
            """(branches, neurons, …) -> (blocks, branches * block, …)."""
            pieces = branches[:, order].unflatten(1, (self.blocks, self.config.block))
            return pieces.transpose(0, 1).flatten(1, 2)

        self.up.data.copy_(cut(weights))
        self.down.data.copy_(dense.down.T[order].view_as(self.down))
        if self.up_bias is not None:
            self.up_bias.data.copy_(cut(biases))
        if self.shared_up is not None and self.shared_down is not None:
            self.shared_up.weight.data[0] = weights[:, shared].flatten(0, 1)
            self.shared_down.weight.data[0] = dense.down[:, shared]
            if self.shared_up.bias is not None:
                self.shared_up.bias.data.copy_(biases[:, shared].flatten())

    def _refit(self, rows: Tensor, shared: Tensor, hidden: Tensor, targets: Tensor) -> None:
        """Solve the second layer again, all neurons at once, as a correction of the dense one."""
        picked = best(self.router(rows), self.config.chosen)
        features = torch.cat([shared, hidden * picked.repeat_interleave(self.config.block, 1)], 1)
        down = self.down.data.flatten(0, 1)
        if self.shared_down is not None:
            down = torch.cat([self.shared_down.weight.data[0].T, down])
        intercept = self.bias is not None
        left = targets - features @ down
        correction, bias = ridge(features, left, strength=HOLD, intercept=intercept)
        down = down + correction
        self.down.data.copy_(down[self.always :].view_as(self.down))
        if self.shared_down is not None:
            self.shared_down.weight.data[0] = down[: self.always].T
        if self.bias is not None:
            self.bias.data.copy_(bias)

    @classmethod
    def fitted(cls, shape: DenseShape) -> contract.Config:
        """All neurons of the host and its kind, in about 96 blocks (the finest that paid for their
        router on the bundled model; larger ones at larger widths keep the products large). Balance
        off: a trained model's blocks are in use already."""
        block = 8
        while shape.hidden >= 2 * 96 * block:
            block *= 2
        return cls.Config(
            hidden=shape.hidden,
            block=block,
            chosen=1,
            rank=RANK,
            activation=shape.activation,
            gated=shape.gated,
            bias=shape.bias,
            balance=0.0,
        )

    @classmethod
    def untrained(cls, config: contract.Config) -> contract.Config:
        """Balanced, since no block is in use yet; plain GELU neurons that store as much as gated
        ones, which from a random start need a norm behind them (`docs/log.md`)."""
        assert isinstance(config, BlockTopK.Config) and config.hidden is not None
        if config.gated:
            hidden = 3 * config.hidden // (2 * config.block) * config.block
            config = config.replace(gated=False, activation="gelu_tanh", hidden=hidden)
        return config.replace(balance=0.01)

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        """The neurons computed for a token, a block and more: four fifths chosen, others shared. A
        router's low rank grows with the blocks chosen, lest it takes too much of a small size."""
        assert isinstance(config, BlockTopK.Config)
        computed = config.block + size - 1
        chosen = max(1, 4 * computed // (5 * config.block))
        shared = computed - chosen * config.block
        if config.rank is not None:
            config = config.replace(rank=RANK * chosen)
        return config.replace(chosen=chosen, shared=shared)
