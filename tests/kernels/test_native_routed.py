"""An FFN of token-chosen blocks as one operation there and one back, against its steps in fp64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from undense.ffn.block_topk import BlockTopK
from undense.kernels.library import kernels
from undense.measure.flops import count_flops
from undense.ops.routed_blocks import routed_weights

pytestmark = pytest.mark.skipif(
    kernels().library is None, reason="no compiled library: " + kernels().reason
)
DIM = 40
KINDS: list[dict[str, Any]] = [
    {"block": 8, "chosen": 5, "rank": 11, "shared": 29, "balance": 0.0},
    {"block": 3, "chosen": 2, "shared": 5, "gated": True, "bias": False, "balance": 1.0},
    {"block": 16, "chosen": 3, "rank": 3, "activation": "gelu", "balance": 0.5},
    {"block": 19, "chosen": 1, "rank": 4, "shared": 17, "gated": True, "activation": "relu2"},
]
GAIN = torch.tensor([0.7])


def trained(kind: dict[str, Any]) -> BlockTopK:
    component = BlockTopK(DIM, BlockTopK.Config(hidden=160, **kind)).train()
    for parameter in component.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 20)
    return component


def gradients(component: BlockTopK, x: Tensor, gain: Tensor, grad: Tensor) -> list[Tensor]:
    """The output; the gradients of the input, the gain and every parameter; the imbalance."""
    leaves = [x.clone().requires_grad_(), gain.clone().requires_grad_()]
    y = component(*leaves)
    found = [y.detach(), *torch.autograd.grad(y, [*leaves, *component.parameters()], grad)]
    return found if component.imbalance is None else [*found, component.imbalance]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_steps_in_fp64(
    kind: dict[str, Any], tokens: int, dtype: torch.dtype
) -> None:
    component = trained(kind).to(dtype)
    given = [torch.randn(tokens, DIM).to(dtype), GAIN.to(dtype), torch.randn(tokens, DIM).to(dtype)]
    got = gradients(component, *given)
    wanted = gradients(copy.deepcopy(component).double(), *(tensor.double() for tensor in given))
    off = 2e-5 if dtype == torch.float32 else 3e-2
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype or one.shape == ()
        assert one.shape == other.shape
        assert (one - other).abs().max() <= off * other.abs().max()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_it_costs_what_its_steps_cost(kind: dict[str, Any]) -> None:
    component = trained(kind)

    def counted(component: BlockTopK, dtype: torch.dtype) -> tuple[int, int]:
        x = torch.randn(7, DIM, dtype=dtype, requires_grad=True)
        gain = GAIN.to(dtype).requires_grad_()
        count = count_flops(lambda: component(x, gain).sum(), backward=True)
        assert not count.uncounted
        return count.forward, count.backward

    steps = counted(copy.deepcopy(component).double(), torch.float64)
    assert counted(component, torch.float32) == steps


@pytest.mark.parametrize("kind", KINDS[:2])
def test_it_keeps_its_contract_with_the_compiler(kind: dict[str, Any]) -> None:
    component = trained(kind)
    x, gain = torch.randn(2, 3, DIM, requires_grad=True), GAIN.clone().requires_grad_()
    weights = routed_weights(component, gain)
    assert weights is not None
    k, balance = component.config.chosen, component.config.balance
    leaves = [None if held is None else held.detach().requires_grad_() for held in weights]
    operation = torch.ops.undense.trained_blocks.default
    opcheck(operation, (x, *leaves, k, component.activation, balance))


def test_past_the_dispatcher_it_is_the_same_to_the_bit() -> None:
    component, x, grad = trained(KINDS[1]), torch.randn(9, DIM), torch.randn(9, DIM)
    direct = gradients(component, x, GAIN, grad)
    with torch.profiler.profile():  # somebody watches
        watched = gradients(component, x, GAIN, grad)
    assert all(map(torch.equal, direct, watched))


def test_what_is_frozen_gets_no_gradient_and_changes_no_other() -> None:
    component, x, grad = trained(KINDS[0]), torch.randn(9, DIM), torch.randn(9, DIM)
    names = [name for name, _ in component.named_parameters()]
    expected = dict(zip(names, gradients(component, x, GAIN, grad)[3:], strict=True))
    for name, parameter in component.named_parameters():
        parameter.requires_grad_("router" in name)
    component(x).backward(grad * GAIN)
    for name, parameter in component.named_parameters():
        assert (parameter.grad is None) == ("router" not in name)
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_have_gradients_of_zero(kind: dict[str, Any]) -> None:
    component = trained(kind)
    gradients(component, torch.randn(9, DIM), GAIN, torch.randn(9, DIM))  # leaves numbers behind
    empty = torch.empty(2, 0, DIM)
    y, *found = gradients(component, empty, GAIN, empty)
    assert y.shape == empty.shape
    if component.imbalance is not None:
        assert component.imbalance.isnan()  # as the mean of nothing
        found.pop()
    assert not any(gradient.any() for gradient in found)


@pytest.mark.parametrize("shape", [(), (1, 1), (DIM,), (9, 1)])
def test_a_gain_of_another_shape_is_the_product_that_it_is(shape: tuple[int, ...]) -> None:
    component, x, grad = trained(KINDS[0]), torch.randn(9, DIM), torch.randn(9, DIM)
    gain = torch.randn(shape)
    got = gradients(component, x, gain, grad)
    doubles = (tensor.double() for tensor in (x, gain, grad))
    for one, other in zip(got, gradients(copy.deepcopy(component).double(), *doubles), strict=True):
        assert (one - other).abs().max() <= 2e-5 * other.abs().max()


@pytest.mark.parametrize("place", ["router", "router.first", "shared_up", "shared_down"])
def test_a_map_within_that_someone_listens_to_on_the_way_back_is_called(place: str) -> None:
    component, heard = trained(KINDS[0]), []
    part = component.get_submodule(place)
    part.register_full_backward_pre_hook(lambda *_: heard.append("before"))
    part.register_full_backward_hook(lambda *_: heard.append("after"))
    component(torch.randn(4, DIM, requires_grad=True)).sum().backward()
    assert heard == ["before", "after"]


def test_sizes_that_waste_most_of_every_piece_of_memory() -> None:
    config = BlockTopK.Config(hidden=325, shared=19, block=17, chosen=1, rank=17)
    component, x, grad = BlockTopK(66, config).bfloat16(), *torch.randn(2, 33, 66).bfloat16()
    got = gradients(component, x, GAIN.bfloat16(), grad)
    doubles = (tensor.double() for tensor in (x, GAIN.bfloat16(), grad))
    for one, other in zip(got, gradients(copy.deepcopy(component).double(), *doubles), strict=True):
        assert (one - other).abs().max() <= 3e-2 * other.abs().max()


def test_a_second_derivative_is_refused() -> None:
    component, x = trained(KINDS[0]), torch.randn(4, DIM, requires_grad=True)
    (slope,) = torch.autograd.grad(component(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        slope.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "shared"), [(256, 21), (128, 0), (300, 21)])
def test_threads_do_not_change_a_bit_on_the_way_back(
    dtype: torch.dtype, dim: int, shared: int
) -> None:
    """Of 128 columns, in pieces of 64, a third thread has none, of 300 a smaller share."""
    config = BlockTopK.Config(hidden=528, block=16, chosen=8, rank=5, shared=shared, balance=1.0)
    component = BlockTopK(dim, config).train().to(dtype)
    before, gain = torch.get_num_threads(), GAIN.to(dtype)
    for tokens in (3, 60):
        x, grad, found = torch.randn(tokens, dim).to(dtype), torch.randn(tokens, dim).to(dtype), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gradients(component, x, gain, grad))
        torch.set_num_threads(before)
        for other in found[1:]:
            assert all(map(torch.equal, found[0], other))
