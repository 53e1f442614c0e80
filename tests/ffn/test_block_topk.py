"""Token-chosen blocks: the start from dense weights, the router's gradient, the balance."""

from __future__ import annotations

import pytest
import torch
from random_hosts import dense_ffn, inputs
from torch.utils.checkpoint import checkpoint

import undense.ffn
from undense.contract import DenseShape, Statistics, abstract_cost, build, from_dense
from undense.errors import UndenseError
from undense.ffn import BlockTopK
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_flops
from undense.ops.block_linear import BlockLinear

Config = undense.ffn.BlockTopK.Config

VARIANTS = [
    Config(block=8, chosen=5, rank=4, balance=0.0, activation="chebyshev_gelu"),
    Config(block=12, chosen=4, shared=21, gated=True, bias=False, activation="chebyshev_silu"),
]
DIM = 48


def started(gated_host: bool, **changes: object) -> tuple[BlockTopK, torch.Tensor, torch.Tensor]:
    """A start from a random dense FFN, rows it was fitted on, and the dense output there."""
    dense = dense_ffn(DIM, 4 * DIM, gated=gated_host)
    rows = inputs(DIM)
    config = BlockTopK.fitted(dense.shape).replace(**{"block": 16, "rank": None, **changes})
    component = from_dense(dense, config, Statistics(inputs=rows))
    assert isinstance(component, BlockTopK)
    return component, rows, dense(rows)


@pytest.mark.parametrize("gated", [False, True])
def test_all_blocks_chosen_is_the_dense_function(gated: bool) -> None:
    component, rows, wanted = started(gated, chosen=12, shared=0, bias=True)
    assert torch.allclose(component(rows), wanted, atol=1e-4)


def test_a_start_computes_the_chosen_neurons_of_the_dense_ffn_ungated() -> None:
    component, rows, _ = started(False, chosen=4, shared=16)
    scores = component.router(rows)
    top = scores.topk(4, -1).values
    assert torch.equal(torch.softmax(top * component.temperature, -1) * 4, torch.ones_like(top))


def test_more_chosen_blocks_start_closer() -> None:
    errors = []
    for chosen in (2, 5, 10):
        component, rows, wanted = started(False, chosen=chosen, shared=0)
        errors.append((component(rows) - wanted).square().mean().item())
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2]


def test_hosts_whose_width_is_no_multiple_of_a_block_are_filled_up() -> None:
    dense = dense_ffn(DIM, 100)
    config = resolve("block_topk", dense.shape).replace(shared=3)
    component = from_dense(dense, config, Statistics(inputs=inputs(DIM)))
    assert isinstance(component, BlockTopK)
    assert (component.blocks, component.hidden) == (13, 107)
    assert torch.isfinite(component(inputs(DIM, 8))).all()


def test_a_plain_host_becomes_gated_only_with_biases() -> None:
    with pytest.raises(UndenseError, match="bias=True"):
        started(False, gated=True, bias=False)
    component, rows, wanted = started(False, gated=True, chosen=12, shared=0)
    assert torch.allclose(component(rows), wanted, atol=1e-4)


def test_training_moves_the_choice() -> None:
    """From the gates alone: the target is made of the blocks chosen least."""
    torch.manual_seed(1)
    component = build(DIM, Config(block=16, chosen=3, balance=0.0)).train()
    assert isinstance(component, BlockTopK)
    x = torch.randn(256, DIM)
    before = component.router(x).topk(3, -1).indices.sort(-1).values
    optimizer = torch.optim.Adam(component.router.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (component(x) - x.roll(1, 1)).square().mean().backward()
        optimizer.step()
    after = component.router(x).topk(3, -1).indices.sort(-1).values
    assert (before != after).any(-1).float().mean() > 0.1


def collapsed(balance: float) -> BlockTopK:
    """A router that sends every token to the same blocks."""
    component = build(DIM, Config(balance=balance)).train()
    assert isinstance(component, BlockTopK)
    assert isinstance(component.router, BlockLinear) and component.router.bias is not None
    component.router.bias.data[:3] += 4.0
    return component


def test_balance_spreads_the_choice_and_is_readable() -> None:
    component = collapsed(balance=1.0)
    optimizer = torch.optim.Adam(component.router.parameters(), lr=0.05)
    seen = []
    for _ in range(40):
        optimizer.zero_grad()
        (0.0 * component(torch.randn(128, DIM)).sum()).backward()
        optimizer.step()
        assert component.imbalance is not None
        seen.append(component.imbalance.item())
    assert seen[0] > 2.5 and seen[-1] < 1.3
    component.eval()(torch.randn(4, DIM))
    assert component.imbalance is not None
    assert component.imbalance.item() == seen[-1], "evaluation leaves the last value"


def test_checkpointing_does_not_double_the_balance() -> None:
    component = collapsed(balance=1.0)
    x = torch.randn(32, DIM)
    grads = []
    for call in (component, lambda x: checkpoint(component, x, use_reentrant=False)):
        component.zero_grad()
        (0.0 * call(x).sum()).backward()
        (grad, *_) = (p.grad for p in component.router.parameters())
        assert grad is not None
        grads.append(grad.clone())
    assert grads[0].abs().max() > 0
    assert torch.allclose(*grads)


def test_share_counts_the_router() -> None:
    for dim in (192, 768):
        shape = DenseShape(dim=dim, hidden=4 * dim)
        for percent in (25, 12):
            cost = abstract_cost(dim, resolve(f"block_topk-{percent}", shape))
            assert cost.part("router").forward > 0
            assert 0.95 * percent / 100 <= cost.forward / dense_flops(shape) <= percent / 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": 190}, "chosen=3 exceeds the 1 blocks of 16"),
        ({"chosen": 13}, "chosen=13 exceeds the 12 blocks"),
        ({"chosen": 0}, "chosen=0 must be at least 1"),
        ({"balance": -1.0}, "balance=-1.0 must be at least 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UndenseError, match=message):
        build(DIM, Config(**changes))  # type: ignore[arg-type]


def test_a_random_start_is_balanced() -> None:
    shape = DenseShape(dim=DIM, hidden=4 * DIM)
    for name, path in (("block_topk-30", ()), ("ultra-30", ("projection",))):
        trained, untrained = (resolve(name, shape, untrained=flag) for flag in (False, True))
        for key in path:
            trained, untrained = getattr(trained, key), getattr(untrained, key)
        assert isinstance(trained, Config) and isinstance(untrained, Config)
        assert trained.balance == 0
        assert untrained == trained.replace(balance=0.01)
    swiglu = DenseShape(dim=DIM, hidden=3 * DIM, activation="silu", gated=True, bias=False)
    plain = resolve("block_topk-30", swiglu, untrained=True)
    assert isinstance(plain, Config) and (plain.gated, plain.activation) == (False, "gelu_tanh")
    stored = [
        sum(p.numel() for n, p in build(DIM, c).named_parameters() if "router" not in n)
        for c in (plain, resolve("block_topk-30", swiglu))
    ]
    assert stored[0] == pytest.approx(stored[1], rel=0.05)
    given = {"like": "ultra", "percent": 30, "projection": {"balance": 0.0}}
    found = resolve(given, shape, untrained=True)
    assert isinstance(found, undense.ffn.UltraEfficientSparseFFN.Config)
    assert isinstance(found.projection, Config) and found.projection.balance == 0
    assert abstract_cost(DIM, found).forward <= 0.3 * dense_flops(shape)
