"""The cost tree and its primitives, against arithmetic done number by number."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from counting_numbers import Number, Tally
from undense import cost
from undense.cost import Cost
from undense.measure.flops import count_flops
from undense.ops.activation import activate
from undense.ops.chebyshev import (
    bounded,
    bounded_cost,
    chebyshev,
    chebyshev_cost,
    chebyshevs,
    clenshaw,
    clenshaw_cost,
)

TOKENS = 3


def matrix_product(rows: list[list[Number]], columns: list[list[Number]]) -> list[list[Number]]:
    """Every pair of a row and a column, multiply and add."""
    result = []
    for row in rows:
        line = []
        for column in columns:
            sum_ = Number(0.0, row[0].tally)
            for a, b in zip(row, column, strict=True):
                sum_ = sum_ + a * b
            line.append(sum_)
        result.append(line)
    return result


def numbers(tally: Tally, rows: int, columns: int) -> list[list[Number]]:
    return [tally.numbers(range(columns)) for _ in range(rows)]


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_block_linear_is_the_arithmetic_of_its_loops(blocks: int, bias: bool) -> None:
    inputs, outputs = 8 // blocks, 12 // blocks
    forward, backward = Tally(), Tally()
    for _ in range(blocks):
        y = matrix_product(numbers(forward, TOKENS, inputs), numbers(forward, outputs, inputs))
        # input: every token, from all outputs; weight: every pair, over all tokens
        matrix_product(numbers(backward, TOKENS, outputs), numbers(backward, inputs, outputs))
        matrix_product(numbers(backward, outputs, TOKENS), numbers(backward, inputs, TOKENS))
        if bias:
            for line in y:
                _ = [value + 1.0 for value in line]
            for line in numbers(backward, outputs, TOKENS):
                _ = [value + 1.0 for value in line]
    counted = cost.block_linear("map", TOKENS, blocks, 8, 12, bias=bias)
    assert counted.forward == counted.useful == forward.flops
    assert counted.backward == backward.flops
    assert counted.macs == TOKENS * blocks * inputs * outputs
    assert counted.weights == blocks * inputs * outputs + (12 if bias else 0)
    assert counted.activations == TOKENS * (8 + 12)


def test_fixed_matrix_sends_back_to_its_input_alone() -> None:
    fixed = cost.linear("basis", TOKENS, 8, 12, bias=False, trainable=False)
    assert fixed.forward == fixed.backward == 2 * TOKENS * 8 * 12


def test_block_linear_that_does_not_divide_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        cost.block_linear("map", TOKENS, 3, 8, 12, bias=False)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, requires_grad=True)


DEGREES = (1, 2, 3, 4, 5, 8)

PRIMITIVES = [
    (cost.linear("x", TOKENS, 8, 5, bias=True), F.linear, [(TOKENS, 8), (5, 8), (5,)]),
    (cost.gain("x", TOKENS, 8, size=8), torch.mul, [(TOKENS, 8), (8,)]),
    (cost.gain("x", TOKENS, 8, size=1), torch.mul, [(TOKENS, 8), (1,)]),
    (cost.add("x", 24), torch.add, [(TOKENS, 8), (TOKENS, 8)]),
    (cost.product("x", 24), torch.mul, [(TOKENS, 8), (TOKENS, 8)]),
    (
        cost.layer_norm("x", TOKENS, 8),
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        [(TOKENS, 8), (8,), (8,)],
    ),
    (cost.gather("x", 9), lambda x: x[:, torch.tensor([0, 0, 4])], [(TOKENS, 8)]),
    (cost.activation("x", 24, "gelu"), F.gelu, [(TOKENS, 8)]),
    (
        cost.activation("x", 24, "gelu_tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
        [(TOKENS, 8)],
    ),
    (cost.activation("x", 24, "silu"), F.silu, [(TOKENS, 8)]),
    (cost.activation("x", 24, "relu"), F.relu, [(TOKENS, 8)]),
    (cost.activation("x", 24, "relu2"), lambda x: (r := F.relu(x)) * r, [(TOKENS, 8)]),
    (
        cost.activation("x", 24, "chebyshev_gelu"),
        lambda x: activate(x, "chebyshev_gelu"),
        [(TOKENS, 8)],
    ),
    (
        cost.activation("x", 24, "chebyshev_silu"),
        lambda x: activate(x, "chebyshev_silu"),
        [(TOKENS, 8)],
    ),
    (bounded_cost("x", 24), bounded, [(TOKENS, 8)]),
    *((chebyshev_cost("x", 24, k), partial(chebyshev, degree=k), [(TOKENS, 8)]) for k in DEGREES),
    *(
        (
            chebyshev_cost("x", 24, k, all_terms=True),
            lambda x, k=k: torch.cat(chebyshevs(x, k)),
            [(TOKENS, 8)],
        )
        for k in DEGREES
    ),
    *((clenshaw_cost("x", 24, k), clenshaw, [(TOKENS, 8), (k, TOKENS, 8)]) for k in DEGREES),
    (cost.activation("x", 24, "identity"), lambda x: x.view(4, 6), [(TOKENS, 8)]),
]


@pytest.mark.parametrize("case", PRIMITIVES, ids=lambda case: str(case[2]))
def test_primitive_is_what_pytorch_dispatches(case: tuple) -> None:
    expected, function, shapes = case
    count = count_flops(function, *(draw(*shape) for shape in shapes), backward=True)
    assert (count.forward, count.backward) == (expected.forward, expected.backward)


@pytest.mark.parametrize("uses", [1, 2, 5])
def test_fan_out_sums_the_gradients_of_all_uses(uses: int) -> None:
    x = draw(TOKENS, 8)
    views = count_flops(lambda: [x.view(-1) for _ in range(uses)], backward=True)
    expected = cost.fan_out("x", TOKENS * 8, uses)
    assert (views.forward, views.backward) == (expected.forward, expected.backward)
    assert expected.backward == (uses - 1) * TOKENS * 8


def test_elementwise_multiplies_its_constants() -> None:
    node = cost.elementwise("x", 7, forward=3, backward=2)
    assert (node.forward, node.backward, node.useful, node.macs) == (21, 14, 21, 21)
    assert cost.elementwise("x", 7, forward=3, macs=1).macs == 7
    assert node.activations == 14


def test_unknown_operation_has_no_constant() -> None:
    with pytest.raises(KeyError):
        cost.per_element("teleport")


def tree() -> Cost:
    return Cost.total(
        "whole",
        Cost.total("left", cost.add("a", 5), cost.product("b", 7)),
        cost.linear("right", 2, 3, 4, bias=True),
    )


def test_total_is_the_sum_of_its_parts_in_every_figure() -> None:
    for _, node in tree().walk():
        for figure in ("forward", "backward", "useful", "macs", "weights", "activations"):
            if node.parts:
                assert getattr(node, figure) == sum(getattr(part, figure) for part in node.parts)
    assert tree().forward == 5 + 7 + (2 * 2 * 3 * 4 + 2 * 4)
    assert tree().backward == 14 + (4 * 2 * 3 * 4 + 8)
    assert tree().macs == 0 + 7 + 24
    assert tree().weights == 12 + 4


def test_walk_visits_parents_first_with_their_depth() -> None:
    visited = [(depth, node.name) for depth, node in tree().walk()]
    assert visited == [(0, "whole"), (1, "left"), (2, "a"), (2, "b"), (1, "right")]


def test_part_is_found_by_name_and_its_absence_says_what_there_is() -> None:
    assert tree().part("left").part("b").forward == 7
    with pytest.raises(KeyError, match=r"whole has no part 'up'.*left.*right"):
        tree().part("up")


def test_named_changes_the_name_alone() -> None:
    renamed = tree().named("other")
    assert renamed.name == "other"
    assert renamed.parts == tree().parts
    assert renamed.forward == tree().forward


def test_bytes_are_weights_and_activations_times_the_size() -> None:
    assert tree().bytes(2) == 2 * (16 + 2 * 5 + 2 * 7 + 2 * (3 + 4))
    assert cost.gather("read", 5, stored=3).bytes(2) == 2 * 2 * 5 + 8 * 3


def test_dictionary_is_json_with_exact_integers() -> None:
    node = Cost.total("big", Cost(name="part", forward=123_456_789_012_345_678))
    back = json.loads(json.dumps(node.to_dict()))
    assert back["forward"] == 123_456_789_012_345_678
    assert back["parts"][0]["name"] == "part"
    assert "parts" not in back["parts"][0]
