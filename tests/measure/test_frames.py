"""Which module an operation is attributed to, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from undense.ffn.gated_dense import GatedDense
from undense.ffn.low_rank import LowRank
from undense.measure.count import ModuleCount
from undense.measure.flops import count_flops, flop_counter


class Block(nn.Module):
    """x + ffn(norm(x)), as hosts do it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.ffn = GatedDense(16, GatedDense.Config(hidden=24))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norm(x))


class Stack(nn.Module):
    """An uncalled container, a loss outside every part, blocks given or one shared."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


def sums_to_its_parts(tree: ModuleCount) -> bool:
    return all(
        node.forward == sum(part.forward for part in node.parts)
        and node.backward == sum(part.backward for part in node.parts)
        and node.macs == sum(part.macs for part in node.parts)
        for _, node in tree.walk()
        if node.parts
    )


def test_parts_sum_to_the_whole_at_every_level() -> None:
    count = count_flops(Stack(Block(), Block()), torch.randn(5, 16), backward=True)
    assert sums_to_its_parts(count.tree)
    assert (count.tree.forward, count.tree.backward) == (count.forward, count.backward)
    assert count.tree.flops == count.dispatched
    assert count.tree.macs == count.macs


def test_tree_is_named_by_module_paths_and_remainders() -> None:
    tree = count_flops(Stack(Block(), Block()), torch.randn(5, 16), backward=True).tree
    assert tree.name == "Stack"
    assert [part.name for part in tree.parts] == ["first", "blocks.0", "blocks.1", "(own)"]
    block = tree.part("blocks.1")
    assert [part.name for part in block.parts] == ["norm", "ffn", "(own)"]
    ffn = tree.part("blocks.1.ffn")
    assert [part.name for part in ffn.parts] == ["gate", "up", "down", "(own)"]
    with pytest.raises(KeyError, match=r"blocks\.7"):
        tree.part("blocks.7")


def test_both_passes_belong_to_the_module_that_made_the_operation() -> None:
    tree = count_flops(Stack(Block()), torch.randn(5, 16), backward=True).tree
    first, norm, ffn = (tree.part(p) for p in ("first", "blocks.0.norm", "blocks.0.ffn"))
    product = 2 * 5 * 16 * 16
    assert (first.forward, first.backward) == (product + 5 * 16, product + 5 * 16)
    assert (norm.forward, norm.backward) == (8 * 5 * 16, 13 * 5 * 16)
    expected = Block().ffn.cost(5)
    assert (ffn.forward, ffn.backward) == (expected.forward, expected.backward)


def test_shared_module_counts_for_every_call() -> None:
    shared = Block()
    once = count_flops(Stack(shared), torch.randn(5, 16)).tree.part("blocks.0")
    thrice = count_flops(Stack(shared, shared, shared), torch.randn(5, 16)).tree.part("blocks.0")
    assert (once.calls, thrice.calls) == (1, 3)
    assert thrice.forward == 3 * once.forward


def test_gradients_of_a_shared_weight_are_summed_outside_the_calls() -> None:
    shared = nn.Linear(16, 16, bias=False)
    tree = count_flops(Stack(shared, shared, shared), torch.randn(5, 16), backward=True).tree
    products = 3 * 2 * (2 * 5 * 16 * 16)
    assert tree.part("blocks.0").backward == products
    # x * x and its mean back: quotient; pow (2), two products; and two sums of a weight's gradient
    assert tree.parts[-1].backward == 5 * 80 + 2 * 16 * 16


def test_module_swapped_in_place_is_seen_under_its_name() -> None:
    model = Stack(Block())
    with flop_counter(model) as count:
        model(torch.randn(5, 16))
        model.blocks[0] = nn.Linear(16, 16)
        model(torch.randn(5, 16))
    block = count.tree.part("blocks.0")
    assert block.calls == 2
    assert block.forward == count_flops(Stack(Block()), torch.randn(5, 16)).tree.part(
        "blocks.0"
    ).forward + (2 * 5 * 16 * 16 + 5 * 16)


def test_component_swapped_in_place_is_a_component() -> None:
    model = Stack(nn.Linear(16, 16))
    model.blocks[0] = LowRank(16, LowRank.Config(rank=2))
    with torch.no_grad():
        count = count_flops(model, torch.randn(5, 16))
    assert [(part.path, part.component) for part in count.components] == [("blocks.0", "low_rank")]


def test_without_a_model_the_outermost_modules_are_named_by_class() -> None:
    block = Block()
    with flop_counter() as count:
        block(torch.randn(5, 16)).sum().backward()
    assert count.tree.name == "total"
    assert [part.name for part in count.tree.parts] == ["Block", "(own)"]
    assert [part.name for part in count.tree.parts[0].parts] == ["norm", "ffn", "(own)"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_repeats_a_forward_in_the_backward_pass(reentrant: bool) -> None:
    class Checkpointed(Block):
        def forward(self, x: Tensor) -> Tensor:
            out = checkpoint(self.ffn, self.norm(x), use_reentrant=reentrant)
            assert isinstance(out, Tensor)
            return x + out

    x = torch.randn(5, 16, requires_grad=True)
    plain = count_flops(Stack(Block()), x, backward=True)
    count = count_flops(Stack(Checkpointed()), x, backward=True)
    assert count.forward == plain.forward
    again = count.backward - plain.backward
    ffn = Block().ffn.cost(5)
    # the last product of a repeated forward is needed by nobody, and the newer kind stops before it
    assert again == ffn.forward - (0 if reentrant else 2 * 5 * 24 * 16)
    assert sums_to_its_parts(count.tree)
    part = count.tree.part("blocks.0.ffn")
    assert part.calls == 2
    assert part.backward == ffn.backward + again
    assert count.analytic == count.dispatched
    assert count.useful == plain.useful


def test_module_that_raises_leaves_the_attribution_intact() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ArithmeticError

    model = Stack(Failing())
    with flop_counter(model) as count:
        with pytest.raises(ArithmeticError):
            model(torch.randn(5, 16))
        torch.ones(7).mul_(2)
    assert [part.name for part in count.tree.parts] == ["first", "blocks.0", "(own)"]
    assert count.tree.parts[-1].forward == 7


def test_gradient_of_a_gradient_belongs_to_the_same_module() -> None:
    model = nn.Sequential(nn.Tanh())
    x = torch.randn(6, requires_grad=True)
    with flop_counter(model) as count:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        slope.sum().backward()
    tanh = count.tree.part("0")
    assert tanh.forward == 6
    assert tanh.backward > 3 * 6
    assert tanh.backward == count.backward
