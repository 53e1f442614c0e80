"""Cutting the neurons of a trained FFN into equal blocks that speak on the same tokens.

The aim is the output energy that the k blocks chosen for each token carry. Alternating steps
raise it: a linear router is fitted to the blocks' energies, it chooses blocks for every token of a
sample, and the neurons are dealt out again so that each sits where its energy falls on tokens that
chose its block; then the router that stays is fitted. Related: MoEfication,
https://arxiv.org/abs/2110.01786 (it clusters weights).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense.ops.linear_map import LinearMap
from undense.ops.low_rank import LowRankLinear
from undense.ops.regression import Ridge

# Share of the mean block energy that is added before the logarithm: silent blocks differ in
# nothing that matters, and without a floor the router would spend itself on telling them apart.
FLOOR = 0.01
# Of a fitted router: the choice is the same, but a step of Adam unlearns less of it (loss after
# forty steps of distillation 3.374 at 1, 3.360 at 10).
ROUTER_SCALE = 10.0


def log_energy(energy: Tensor) -> Tensor:
    """What a router predicts: the logarithm, silent blocks levelled. (rows, blocks), any scale."""
    return (energy + FLOOR * energy.mean() + torch.finfo(energy.dtype).tiny).log()


def block_energy(hidden: Tensor, down: Tensor) -> Tensor:
    """|down_b^T h_b|^2, what a block puts out: `hidden` (rows, blocks * size), `down` (blocks,
    size, dim). Returns (rows, blocks)."""
    blocks = hidden.unflatten(1, (len(down), -1)).transpose(0, 1)
    return ((blocks @ (down @ down.transpose(1, 2))) * blocks).sum(-1).T.clamp_min(0)


def best(scores: Tensor, k: int) -> Tensor:
    """1 where a score is among the k largest of its row, else 0: (rows, blocks) -> the same."""
    return torch.zeros_like(scores).scatter(1, scores.topk(k, 1).indices, 1.0)


def co_active(
    inputs: Tensor, router: Ridge, energy: Tensor, *, size: int, k: int, rounds: int = 10
) -> Tensor:
    """The order in which to cut neurons into blocks of `size`, k of which a router then chooses.

    `inputs` (rows, dim): what the router sees; `router`: least squares on them; `energy`
    (rows, neurons), `size` divides neurons. At most so many rounds, fewer where nothing moves.
    Returns a permutation of the neurons, (neurons,), block after block, ascending within a block.
    """
    neurons = energy.shape[1]
    blocks = neurons // size
    assert neurons == blocks * size, (neurons, size)
    label = _clustered(nn.functional.normalize(energy.sqrt(), dim=0), size)
    for _ in range(rounds):
        before = label
        sums = energy.new_zeros(len(energy), blocks).index_add_(1, label, energy)
        weight, bias = router.solve(log_energy(sums))
        label = balanced(energy.T @ best(inputs @ weight + bias, k), size)
        if torch.equal(label, before):
            break
    return label.argsort(stable=True)


@torch.no_grad()
def fit_router_(router: LinearMap, inputs: Tensor, reader: Ridge, energy: Tensor) -> None:
    """Fit `router` to the logarithm of the blocks' energies (rows, blocks), token by token;
    `reader`: least squares on `inputs` (rows, dim)."""
    wanted = log_energy(energy)
    weight, bias = reader.solve(wanted)
    router.approximate_(weight.T, bias, torch.cov(inputs.T))
    router.refit_(inputs, wanted)
    for name, tensor in router.named_parameters():
        halved = isinstance(router, LowRankLinear) and not name.endswith("bias")
        tensor.mul_(ROUTER_SCALE ** (0.5 if halved else 1.0))


def _clustered(profiles: Tensor, size: int, rounds: int = 8, rows: int = 2048) -> Tensor:
    """Balanced k-means on the direction of each neuron's energies over tokens: (neurons,)."""
    profiles = profiles[:: max(1, len(profiles) // rows)]
    neurons = profiles.shape[1]
    centres = profiles[:, torch.randperm(neurons)[: neurons // size]]
    label = torch.zeros(neurons, dtype=torch.long)
    for _ in range(rounds):
        label = balanced(profiles.T @ centres, size)
        sums = torch.zeros_like(centres).index_add_(1, label, profiles)
        centres = nn.functional.normalize(sums, dim=0)
    return label


def balanced(gain: Tensor, size: int, *, rounds: int = 60) -> Tensor:
    """A block for each neuron, every block taking `size`, the sum of gains nearly the largest.

    Sinkhorn prices for full blocks, sharpened step by step, then the most decided neurons first.
    `gain` (neurons, blocks); returns (neurons,). On trained FFNs within 1 % of the exact optimum.
    """
    neurons, blocks = gain.shape
    spread = (gain.amax(1) - gain.mean(1)).mean().clamp_min(torch.finfo(gain.dtype).tiny)
    price = gain.new_zeros(blocks)
    for step in range(rounds):
        heat = spread * 0.5 * 0.02 ** (step / max(1, rounds - 1))
        share = torch.softmax((gain - price) / heat, 1).sum(0) / size
        price += heat * share.clamp_min(1e-6).log()
    worth = gain - price
    label = torch.full((neurons,), -1)
    free = torch.full((blocks,), size)
    left = torch.arange(neurons)
    while len(left):
        offers = worth[left].masked_fill(free == 0, -torch.inf)
        first = offers.topk(min(2, blocks), 1)
        wish = first.indices[:, 0]
        margin = first.values[:, 0] - first.values[:, -1].clamp_min(worth.min() - spread)
        order = margin.argsort(descending=True)
        ranked = wish[order].argsort(stable=True)
        asked = torch.bincount(wish, minlength=blocks)
        place = torch.arange(len(left)) - (asked.cumsum(0) - asked)[wish[order][ranked]]
        taken = order[ranked][place < free[wish[order][ranked]]]
        label[left[taken]] = wish[taken]
        free = free - torch.bincount(wish[taken], minlength=blocks)
        left = left[label[left] < 0]
    return label
