"""Kronecker products and sums of maps against the dense matrices and optima they stand for."""

from __future__ import annotations

import pytest
import torch
from test_linear_maps import loss, second_moment, whole

from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.kronecker import KroneckerLinear, rearranged, split
from undense.ops.low_rank import LowRankLinear
from undense.ops.structured import KINDS, Structure
from undense.ops.sum_linear import SumLinear

IN, OUT = 24, 40


def kronecker(terms: int = 2, *, bias: bool = False) -> KroneckerLinear:
    return KroneckerLinear(IN, OUT, terms=terms, bias=bias)


def factors(linear: KroneckerLinear) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A_t and B_t as they are stored."""
    b = linear.first.weight.data.view(linear.terms, linear.j, linear.b)  # type: ignore[operator]
    a = linear.last.weight.data.view(linear.i, linear.a, linear.terms)  # type: ignore[operator]
    return [(a[..., t], b[t]) for t in range(linear.terms)]


def test_it_is_the_sum_of_the_kronecker_products() -> None:
    linear = kronecker(3, bias=True)
    linear.bias.data.normal_()  # type: ignore[union-attr]
    expected = sum(torch.kron(a, b) for a, b in factors(linear))
    x = torch.randn(2, 5, IN)
    assert torch.allclose(linear(x), x @ expected.T + linear.bias, atol=1e-5)  # type: ignore[union-attr]


def test_rearrangement_turns_a_product_into_an_outer_product() -> None:
    a, b = torch.randn(3, 4), torch.randn(5, 2)
    found = rearranged(torch.kron(a, b), (3, 4), (5, 2))
    assert torch.equal(found, torch.outer(a.flatten(), b.flatten()))


def test_van_loan_start_is_the_truncated_svd_of_the_rearrangement() -> None:
    weight = torch.randn(OUT, IN)
    linear = kronecker(2)
    linear.approximate_(weight, None, torch.eye(IN))
    shape = ((linear.i, linear.a), (linear.j, linear.b))
    left, singular, right = torch.linalg.svd(rearranged(weight, *shape), full_matrices=False)
    best = (left[:, :2] * singular[:2]) @ right[:2]
    assert torch.allclose(rearranged(whole(linear), *shape), best, atol=1e-4)
    # Eckart-Young: what is lost is the tail of the singular values.
    lost = (whole(linear) - weight).square().sum()
    assert lost == pytest.approx(float(singular[2:].square().sum()), rel=1e-4)


def test_weighted_start_is_closer_than_van_loan_and_than_random_search() -> None:
    weight, gram = torch.randn(OUT, IN), second_moment(IN)
    linear, plain = kronecker(2), kronecker(2)
    linear.approximate_(weight, None, gram)
    plain.approximate_(weight, None, torch.eye(IN))
    found = loss(whole(linear), weight, gram)
    assert found < 0.99 * loss(whole(plain), weight, gram)
    for spread in (1.0, 0.1, 0.01, 0.001):
        for _ in range(50):
            tried = kronecker(2)
            tried.load_state_dict(linear.state_dict())
            for parameter in tried.parameters():
                parameter.data += spread * torch.randn_like(parameter)
            # alternating least squares ends in a stationary point up to its stopping rule
            assert loss(whole(tried), weight, gram) > 0.99 * found


def test_projection_recovers_a_kronecker_matrix() -> None:
    target, found = kronecker(2), kronecker(2)
    found.approximate_(whole(target), None, second_moment(IN))
    assert torch.allclose(whole(found), whole(target), atol=1e-3)


def test_widths_are_split_near_their_roots() -> None:
    assert [split(w) for w in (768, 3072, 7, 1)] == [(24, 32), (48, 64), (1, 7), (1, 1)]


def test_too_many_terms_are_refused() -> None:
    with pytest.raises(UndenseError, match=r"24 -> 40: terms=31 .*between 1 and 30"):
        kronecker(31)


def test_sum_is_the_sum_of_its_matrices() -> None:
    maps = [BlockLinear(IN, OUT, blocks=4, bias=True), LowRankLinear(IN, OUT, rank=3, bias=False)]
    linear = SumLinear(maps)
    assert torch.allclose(whole(linear), whole(maps[0]) + whole(maps[1]), atol=1e-6)


def test_sum_start_is_closer_than_either_part_and_than_no_sweep() -> None:
    weight, gram = torch.randn(OUT, IN), second_moment(IN)

    def parts() -> tuple[BlockLinear, LowRankLinear]:
        return (
            BlockLinear(IN, OUT, blocks=4, bias=False),
            LowRankLinear(IN, OUT, rank=4, bias=False),
        )

    block, thin = parts()
    block.approximate_(weight, None, gram)
    alone = loss(whole(block), weight, gram)
    thin.approximate_(weight - whole(block), None, gram)
    once = loss(whole(block) + whole(thin), weight, gram)
    linear = SumLinear(parts())
    linear.approximate_(weight, None, gram)
    assert loss(whole(linear), weight, gram) < 0.99 * once < once < alone


def test_sum_start_recovers_a_block_plus_low_rank_matrix() -> None:
    """Only nearly: alternating projections close the last part of the gap slowly."""
    target = whole(
        SumLinear(
            [BlockLinear(32, 32, blocks=4, bias=False), LowRankLinear(32, 32, rank=2, bias=False)]
        )
    )
    found = SumLinear(
        [BlockLinear(32, 32, blocks=4, bias=False), LowRankLinear(32, 32, rank=2, bias=False)]
    )
    found.approximate_(target, None, torch.eye(32))
    assert (whole(found) - target).square().sum() < 0.02 * target.square().sum()


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("kinds", [*KINDS, "block+low_rank", "kronecker+monarch"])
def test_refit_lowers_the_error_of_every_structure(kinds: str, keep: float) -> None:
    """Least squares for the last factor, against the start and against perturbations of it."""
    structure = Structure(kinds=kinds, blocks=2, rank=6, terms=2, keep=keep)
    linear = structure.build(16, 32, bias=True)
    inputs = torch.randn(400, 16) @ second_moment(16) * 0.1
    targets = torch.tanh(inputs) @ torch.randn(16, 32) + 2
    linear.approximate_(torch.randn(32, 16), None, inputs.T @ inputs / 400)

    def error() -> float:
        return float((linear(inputs).detach() - targets).square().mean())

    before = error()
    linear.refit_(inputs, targets)
    after = error()
    assert after < 0.9 * before
    last = list(linear.parameters())[-1]
    for _ in range(10):
        kept = last.data.clone()
        last.data += 0.05 * last.abs().mean() * torch.randn_like(last)
        assert error() > 0.999 * after
        last.data.copy_(kept)
