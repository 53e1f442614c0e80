"""Sums of gradients, which no autograd node owns, are attributed to the module around the uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undense.ffn.gated_dense import GatedDense
from undense.measure.call import Call
from undense.measure.flops import count_flops, flop_counter
from undense.measure.frames import Frame, Tally
from undense.measure.gradient_sums import GradientSums

NUMBERS = 5 * 16


def gated() -> GatedDense:
    """Reads its input twice, by its gate and by its up projection."""
    return GatedDense(16, GatedDense.Config(hidden=24))


class Residual(nn.Module):
    """x + ffn(x): three uses of x, two of them inside the component."""

    def __init__(self) -> None:
        super().__init__()
        self.ffn = gated()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class Parallel(nn.Module):
    """x + attention(n) + ffn(n), n = norm(x), as GPT-J has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attention = nn.Linear(16, 16)
        self.ffn = gated()

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.attention(normed) + self.ffn(normed)


def test_component_pays_for_reading_its_input_twice_and_the_host_for_the_residual() -> None:
    model = Residual()
    x = torch.randn(5, 16, requires_grad=True)
    tree = count_flops(model, x, backward=True).tree
    assert tree.part("ffn").backward == model.ffn.cost(5).backward
    assert tree.parts[-1].name == "(own)"
    assert tree.parts[-1].backward == NUMBERS


def test_input_of_the_block_made_by_another_module_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Residual(), Residual())
    count = count_flops(model, torch.randn(5, 16), backward=True)
    for name in ("1", "2"):
        assert count.tree.part(name).parts[-1].backward == NUMBERS
    assert count.analytic == count.dispatched


def test_block_pays_where_attention_and_ffn_read_the_same_norm() -> None:
    model = nn.Sequential(nn.Linear(16, 16), Parallel())
    count = count_flops(model, torch.randn(5, 16), backward=True)
    block = count.tree.part("1")
    assert block.parts[-1].backward == 2 * NUMBERS  # the norm's output and the residual
    assert count.analytic == count.dispatched


def test_use_without_gradient_does_not_take_the_sum_away() -> None:
    class Logging(Residual):
        def forward(self, x: Tensor) -> Tensor:
            self.size = x.detach().abs().mean()
            return super().forward(x)

    model = nn.Sequential(nn.Linear(16, 16), Logging())
    count = count_flops(model, torch.randn(5, 16), backward=True)
    assert count.analytic == count.dispatched


def test_sum_of_a_use_that_passed_nothing_on_goes_to_the_frame_around() -> None:
    class Unused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.cos()  # recorded by autograd, but nothing comes back through it
            return x.sin() + x.tanh()

    model = nn.Sequential(nn.Linear(16, 16), Unused())
    tree = count_flops(model, torch.randn(5, 16), backward=True).tree
    # sin: cos and product; tanh: 3; one sum
    assert tree.part("1").backward == (2 + 3 + 1) * NUMBERS


def test_sums_are_counted_once() -> None:
    x = torch.randn(6, requires_grad=True)
    with flop_counter() as count:
        (x + x + x).sum().backward()
    assert count.backward == 2 * 6
    assert count.tree.backward == count.backward


def test_no_hook_stays_behind() -> None:
    model = Residual()
    x = torch.randn(5, 16, requires_grad=True)
    count_flops(model, x, backward=True)
    for leaf in (x, *model.parameters()):
        assert not leaf._backward_hooks


def test_memory_that_was_given_out_again_is_no_sum_any_more() -> None:
    """By an operation that returns several tensors: the first one stands where the sum stood."""
    root = Frame(Tally("", ""), None, None, -1, None)
    one, two = (Frame(root.tally.child(name), root, None, -1, None) for name in ("one", "two"))
    x, y = torch.randn(3, requires_grad=True).clone(), torch.randn(3)
    memory = torch.randn(3)
    sums = GradientSums()
    for frame in (one, two):
        sums.note_uses(Call(torch.ops.aten.mul.Tensor, (x, y), {}, y), frame)
    sums.note_sum(Call(torch.ops.aten.add.Tensor, (y, y), {}, memory), one, 3)
    out = (memory, torch.randn(3), torch.randn(3))
    sums.note_sum(Call(torch.ops.aten.native_layer_norm_backward.default, (y, y), {}, out), two, 9)
    x.backward(memory)  # the gradient of a tensor that was used twice
    assert (root.tally.backward, one.tally.backward) == (0, 0)
    sums.note_sum(Call(torch.ops.aten.add.Tensor, (y, y), {}, memory), one, 3)
    x.backward(memory)
    assert (root.tally.backward, one.tally.backward) == (3, -3), "a sum that is one moves"
    sums.close()
