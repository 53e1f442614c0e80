"""Sparse random expansion: what is drawn, what is learned, what it costs, its start."""

from __future__ import annotations

import pytest
import torch
from random_hosts import dense_ffn

import undense.ffn
from undense.contract import DenseFFN, DenseShape, Statistics, build, from_dense
from undense.errors import UndenseError
from undense.ffn.shares import dense_flops
from undense.measure.flops import count_flops

RandomProjection = undense.ffn.RandomProjection
Config = RandomProjection.Config

VARIANTS = [
    Config(readout="block", blocks=4, hidden=96, per_row=1, nonlinearity="silu", bias=False),
    Config(readout="block+low_rank", rank=4, keep=0.5, seed=7, per_row=5),
]


def test_the_expansion_costs_additions_only() -> None:
    ffn = build(64, Config(per_row=3))
    tree = ffn.cost(5).part("expansion")
    assert tree.macs == 0
    assert tree.forward == tree.useful == 5 * (3 * 256 + 64)  # and the negatives, once a feature
    with torch.no_grad():
        count = count_flops(ffn, torch.randn(5, 64))
    sums = [op.flops for name, op in count.by_op.items() if "embedding_bag" in name]
    assert sums == [5 * 3 * 256]


def test_the_same_seed_gives_the_same_function_from_the_saved_weights_alone() -> None:
    first = build(32, Config(seed=5))
    second = build(32, Config(seed=5))
    other = build(32, Config(seed=6))
    assert set(first.state_dict()) == {
        "gain",
        "shift",
        "readout.first.weight",
        "readout.last.weight",
        "readout.last.bias",
    }
    x = torch.randn(4, 32)
    for ffn in (second, other):
        ffn.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    assert not torch.equal(other(x), first(x))


def test_the_readout_is_no_dense_matrix_in_disguise() -> None:
    shape = DenseShape(dim=768, hidden=3072)
    assert build(768, Config()).cost(1).forward < 0.1 * dense_flops(shape)


def _dense(dim: int) -> DenseFFN:
    return DenseFFN(
        up=torch.randn(4 * dim, dim) * dim**-0.5,
        up_bias=torch.randn(4 * dim) * 0.1,
        down=torch.randn(dim, 4 * dim) * (4 * dim) ** -0.5,
        down_bias=torch.zeros(dim),
        activation="gelu_tanh",
    )


def test_the_start_is_closer_than_the_best_linear_map() -> None:
    """The random features must earn their place: a linear projection costs no expansion."""
    dense = _dense(32)
    rows = 2 * torch.randn(4000, 32)
    wanted = dense(rows)

    def error(config: undense.contract.Config) -> float:
        got = from_dense(dense, config, Statistics(inputs=rows))(rows).detach()
        return float((got - wanted).square().mean())

    random = error(Config(rank=32, hidden=512))
    assert random < 0.9 * error(undense.ffn.Projection.Config())


def test_with_few_rows_the_start_is_still_no_worse_than_the_mean() -> None:
    """Two rows a random feature, and a gated FFN that the features hardly explain: a fit to those
    rows alone would predict new ones far worse than their mean."""
    dense, rows = dense_ffn(48, 96, gated=True), torch.randn(2400, 48)
    fresh = rows[400:]
    wanted = dense(fresh)
    mean = float((wanted - wanted.mean(0)).square().mean())
    for config in (Config(), Config(readout="block", keep=0.5), Config(rank=48)):
        ffn = from_dense(dense, config, Statistics(inputs=rows[:400]))
        assert float((ffn(fresh).detach() - wanted).square().mean()) < mean


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UndenseError, match="seed=-1"):
        Config(seed=-1)
