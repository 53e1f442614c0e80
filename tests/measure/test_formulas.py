"""The table of formulas: against hand-derived cases, and what it says where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hand_derived import C64, CASES, Case, given
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

from undense.cost import OP_FORMULAS, Work, register_formula
from undense.errors import UndenseError
from undense.measure import formulas
from undense.measure.call import Call
from undense.measure.count import Count
from undense.measure.flops import count_flops


def count(case: Case) -> Count:
    operands = case.operands()
    return count_flops(case.function, *operands, backward=case.backward is not None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_count_is_what_is_worked_out_by_hand(case: Case) -> None:
    counted = count(case)
    assert not counted.uncounted
    assert counted.forward == case.forward, counted.by_op
    assert counted.backward == (case.backward or 0), counted.by_op
    assert isinstance(counted.dispatched, int)


@pytest.mark.parametrize("case", [c for c in CASES if c.forward], ids=lambda case: case.name)
def test_a_wrong_formula_is_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = count(case).by_op
    dearest = max(ops, key=lambda name: ops[name].flops)
    right = formulas.FORMULAS[dearest]

    def wrong(call: Call) -> Work:
        work = right(call)
        assert work is not None
        return work + Work(1)

    monkeypatch.setitem(formulas.FORMULAS, dearest, wrong)
    assert count(case).dispatched != case.forward + (case.backward or 0)


def test_no_operation_is_both_counted_and_free() -> None:
    assert not formulas.FORMULAS.keys() & formulas.ZERO_COST


def test_every_name_in_the_tables_is_an_operation_of_pytorch() -> None:
    for name in (*formulas.FORMULAS, *formulas.ZERO_COST):
        namespace, op = name.split(".")
        family = getattr(torch.ops, namespace)
        assert hasattr(family, op) or hasattr(family, f"{op}_"), name


def test_operation_without_formula_is_listed_not_guessed() -> None:
    counted = count_flops(lambda matrix: torch.linalg.svdvals(matrix) * 2, given(9, 9))
    assert counted.uncounted == {"aten._linalg_svd": 1}
    assert counted.dispatched == 9
    assert 0 < counted.uncounted_share < 1


def test_function_of_complex_numbers_without_formula_is_listed() -> None:
    assert count_flops(torch.tanh, given(4, dtype=C64)).uncounted == {"aten.tanh": 1}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_product_of_two_sparse_matrices_is_listed() -> None:
    eye = torch.eye(3).to_sparse()
    assert list(count_flops(torch.sparse.mm, eye, eye).uncounted) == ["aten._sparse_sparse_matmul"]


def test_strict_names_what_is_uncounted() -> None:
    with pytest.raises(UndenseError, match=r"aten\._linalg_svd \(1 calls\)"):
        count_flops(torch.linalg.svd, given(3, 3), strict=True)


def test_free_operations_are_listed_with_their_calls() -> None:
    counted = count_flops(lambda x: torch.cat([x.t(), x.t()]).clone(), given(3, 4))
    assert counted.zero_cost == {"aten.t": 2, "aten.cat": 1, "aten.clone": 1}
    assert counted.dispatched == 0


@pytest.fixture
def thrice() -> Iterator[Callable[[Tensor], Tensor]]:
    """A custom operation; what is registered for it is forgotten afterwards."""

    @torch.library.custom_op("undense_test::thrice", mutates_args=())
    def thrice(x: Tensor) -> Tensor:
        return x * 3

    yield thrice
    OP_FORMULAS.pop("undense_test.thrice", None)
    flop_registry.pop(torch.ops.undense_test.thrice, None)


def test_custom_operation_counts_by_the_formula_that_is_registered(
    thrice: Callable[[Tensor], Tensor],
) -> None:
    assert count_flops(thrice, given(5)).uncounted == {"undense_test.thrice": 1}
    register_formula("undense_test.thrice", lambda out, x: Work(3 * out.numel(), x.numel()))
    counted = count_flops(thrice, given(5))
    assert (counted.forward, counted.macs, counted.uncounted) == (15, 5, {})
    with pytest.raises(UndenseError, match="has a formula already"):
        register_formula("undense_test.thrice", lambda out, x: Work(1))


def test_custom_operation_counts_by_a_formula_that_pytorch_knows(
    thrice: Callable[[Tensor], Tensor],
) -> None:
    register_flop_formula(torch.ops.undense_test.thrice)(lambda shape, out_shape: shape.numel())
    assert count_flops(thrice, given(5)).forward == 5


@pytest.mark.parametrize("name", ["thrice", "undense::thrice", "a.b.c"])
def test_formula_needs_a_name_as_in_torch_ops(name: str) -> None:
    with pytest.raises(UndenseError, match=r"namespace\.name"):
        register_formula(name, lambda out: Work(1))
