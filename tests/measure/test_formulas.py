"""The table of formulas: against hand-derived cases, and what it says where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hand_derived import C64, CASES, Case, given
from single_operations import SINGLE
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


pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")

# Kernels that no CPU runs, nor the meta device whole -> an operation with the same formula.
ELSEWHERE = {
    **{
        f"aten._scaled_dot_product_{kernel}_attention_backward": (
            "aten._scaled_dot_product_flash_attention_for_cpu_backward"
        )
        for kernel in ("flash", "efficient", "cudnn")
    },
    "aten._scaled_dot_product_fused_attention_overrideable_backward": (
        "aten._scaled_dot_product_flash_attention_for_cpu_backward"
    ),
    "aten._scaled_dot_product_fused_attention_overrideable": (
        "aten._scaled_dot_product_flash_attention_for_cpu"
    ),
    "aten.convolution_overrideable": "aten.convolution",
    "aten.convolution_backward_overrideable": "aten.convolution_backward",
}


# The same, where no other operation has the formula: arguments, shape of the output, work.
BY_SHAPE = {
    # a product; the scale of each of the 20 results
    "aten._scaled_mm": (
        (given(4, 3), given(3, 5), given(), given()),
        (4, 5),
        Work(2 * 4 * 3 * 5 + 20, 4 * 3 * 5),
    ),
    "aten._fused_rms_norm": ((given(2, 8), [8], given(8), None), (2, 8), Work(4 * 16, 4 * 16)),
}


@pytest.mark.parametrize("case", [*CASES, *SINGLE], ids=lambda case: case.name)
def test_count_is_what_is_worked_out_by_hand(case: Case) -> None:
    counted = count(case)
    assert not counted.uncounted
    assert counted.forward == case.forward, counted.by_op
    assert counted.backward == (case.backward or 0), counted.by_op
    assert isinstance(counted.dispatched, int)


@pytest.fixture(scope="module")
def covering() -> dict[str, Case]:
    """A case for every operation that some case dispatches."""
    covered: dict[str, Case] = {}
    for case in (*CASES, *SINGLE):
        for name in count(case).by_op:
            covered.setdefault(name, case)
    return covered


def test_every_formula_has_a_case(covering: dict[str, Case]) -> None:
    assert formulas.FORMULAS.keys() - covering.keys() == {*ELSEWHERE, *BY_SHAPE}
    for name, same in ELSEWHERE.items():
        assert formulas.FORMULAS[name] is formulas.FORMULAS[same]


@pytest.mark.parametrize("name", BY_SHAPE)
def test_kernel_of_another_device_is_counted_by_its_shapes(name: str) -> None:
    arguments, shape, flops = BY_SHAPE[name]
    op = getattr(torch.ops.aten, name.removeprefix("aten.")).default
    assert formulas.work(Call(op, arguments, {}, torch.empty(shape))) == flops


@pytest.mark.parametrize("name", sorted(formulas.FORMULAS.keys() - {*ELSEWHERE, *BY_SHAPE}))
def test_a_wrong_formula_is_caught(
    name: str, covering: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, case = formulas.FORMULAS[name], covering[name]

    def wrong(call: Call) -> Work:
        work = right(call)
        assert work is not None
        return work + Work(1)

    monkeypatch.setitem(formulas.FORMULAS, name, wrong)
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
