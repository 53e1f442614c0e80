"""The counter: what it sums, in which modes it gives the same figures, and what it leaves alone."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undense.contract import build, component_class
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ffn.dense import Dense
from undense.measure.flops import count_flops, flop_counter


class Attention(nn.Module):
    """One causal head pair, written as models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(16, 48)
        self.output = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.view(*part.shape[:-1], 2, 8).transpose(1, 2)
            for part in self.inputs(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(-2))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8))


# 3 rows: two products, their biases, GELU on 3 * 16, LayerNorm on 3 * 8
FORWARD = 2 * (2 * 3 * 8 * 16) + 3 * 16 + 3 * 8 + 5 * 48 + 8 * 24
# no product for the input, which needs no gradient
BACKWARD = 3 * (2 * 3 * 8 * 16) + 3 * 16 + 3 * 8 + 11 * 48 + 13 * 24


def test_forward_and_backward_are_told_apart() -> None:
    count = count_flops(network(), torch.randn(3, 8), backward=True)
    assert (count.forward, count.backward) == (FORWARD, BACKWARD)
    assert count.dispatched == FORWARD + BACKWARD
    assert count.by_op["aten.addmm"].calls == 2
    assert sum(op.flops for op in count.by_op.values()) == count.dispatched


def test_multiply_adds_are_those_of_the_forward() -> None:
    count = count_flops(network(), torch.randn(3, 8), backward=True)
    assert count.macs == 2 * (3 * 8 * 16) + 3 * 16 + 4 * 3 * 8


def test_without_a_component_the_formulas_are_those_of_the_operations() -> None:
    count = count_flops(network(), torch.randn(3, 8), backward=True)
    assert count.analytic == count.dispatched
    assert count.useful == count.forward
    assert count.components == ()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients_dispatch_the_same_forward(mode: type) -> None:
    model = nn.Sequential(Attention(), nn.LayerNorm(16))
    x = torch.randn(2, 5, 16)
    expected = count_flops(model, x)
    with mode():
        count = count_flops(model, x)
    assert count.forward == expected.forward
    assert {n: op.flops for n, op in count.by_op.items()} == {
        n: op.flops for n, op in expected.by_op.items()
    }


@pytest.mark.parametrize("make", [network, Attention])
def test_meta_counts_what_a_cpu_would_run(make: type[nn.Module]) -> None:
    x = torch.randn(2, 5, 8 if make is network else 16)
    real = count_flops(make(), x, backward=True)
    empty = make().to("meta")
    for model in (empty, None):  # the lambda hides the model
        count = count_flops(lambda: empty(x.to("meta")), model=model, backward=True)
        assert (count.forward, count.backward) == (real.forward, real.backward)


def test_seven_billion_parameters_are_counted_without_memory() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
    config.vocab_size, tokens = 32000, 64
    with torch.device("meta"), torch.no_grad():
        model = LlamaForCausalLM(config)
        count = count_flops(model, torch.zeros(1, tokens, dtype=torch.long), strict=True)
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert count.by_op["aten.mm"].flops == 2 * tokens * (32 * layer + 4096 * 32000)
    scores = 32 * tokens * tokens  # heads of width 128; a causal mask is not a discount
    attention = count.by_op["aten._scaled_dot_product_flash_attention_for_cpu"]
    assert attention.flops == 32 * (2 * 2 * scores * 128 + 6 * scores)


@pytest.mark.parametrize("make", [network, Attention])
def test_compiled_graph_counts_like_eager(make: type[nn.Module]) -> None:
    model = make()
    x = torch.randn(2, 5, 8 if make is network else 16)
    expected = count_flops(model, x, backward=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    count = count_flops(compiled, x, backward=True)
    assert (count.forward, count.backward) == (expected.forward, expected.backward)
    assert count.tree.name == type(model).__name__


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_graph_of_inductor_is_noticed_and_strict_refuses_it() -> None:
    # one product alone: nothing for a C++ compiler to do
    compiled = torch.compile(torch.mm, backend="inductor")
    x, y = torch.randn(3, 4), torch.randn(4, 5)
    with pytest.warns(UserWarning, match="fused kernels are invisible"):
        count = count_flops(compiled, x, y)
    assert count.uncounted == {"inductor.compiled_graph": 1}
    assert count.dispatched == 2 * 3 * 4 * 5  # kernels that Inductor leaves alone are seen
    with pytest.raises(UndenseError, match=r"inductor\.compiled_graph .*aot_eager"):
        count_flops(compiled, x, y, strict=True)
    assert count_flops(torch.mm, x, y).uncounted == {}


def test_compiled_component_keeps_its_formula() -> None:
    component = build(16, component_class("gated_dense").Config())
    compiled = torch.compile(component, backend="aot_eager", fullgraph=True)
    count = count_flops(compiled, torch.randn(3, 16))
    assert [part.component for part in count.components] == ["gated_dense"]
    assert count.analytic == count.dispatched == component.cost(3).forward


class Sparse(Dense):
    """A component whose formula says something else than what runs."""

    def cost(self, tokens: int) -> Cost:
        return Cost(name="sparse", forward=1000 * tokens, backward=100 * tokens, useful=10 * tokens)


def test_components_count_by_their_formula_and_the_rest_as_dispatched() -> None:
    sparse = Sparse(16, Sparse.Config(hidden=4))
    model = nn.Sequential(nn.Linear(16, 16), sparse)
    rest = 2 * 3 * 16 * 16 + 3 * 16
    forward = count_flops(model, torch.randn(3, 16))
    assert forward.analytic == rest + 1000 * 3
    assert forward.useful == rest + 10 * 3
    both = count_flops(model, torch.randn(3, 16), backward=True)
    assert both.analytic == rest + rest + (1000 + 100) * 3
    (component,) = both.components
    assert (component.path, component.calls) == ("1", 1)
    assert (component.analytic_forward, component.analytic_backward) == (3000, 300)
    assert component.dispatched_forward == Dense(16, sparse.config).cost(3).forward
    assert component.dispatched_backward == Dense(16, sparse.config).cost(3).backward


def test_component_inside_a_component_counts_once() -> None:
    component = build(64, component_class("ultra").Config())
    count = count_flops(component, torch.randn(2, 64))
    assert [part.component for part in count.components] == ["ultra"]
    assert count.analytic == component.cost(2).forward


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_optimizer_step_costs_the_same_however_it_is_run(options: dict[str, bool]) -> None:
    weight = nn.Parameter(torch.randn(100))
    weight.grad = torch.randn(100)
    adam = torch.optim.AdamW([weight], lr=0.1, **options)
    with flop_counter(strict=True) as count:
        adam.step()
    assert 100 * 14 <= count.dispatched < 100 * 14 + 10  # a few for the step as a whole


def test_count_may_be_read_while_counting_goes_on() -> None:
    with flop_counter() as count:
        torch.ones(4).mul_(2)
        assert count.dispatched == 4
        torch.ones(4).mul_(2)
    torch.ones(4).mul_(2)
    assert count.dispatched == 8


def test_gradients_of_the_caller_are_left_as_they_were() -> None:
    model = network()
    model(torch.randn(3, 8)).sum().backward()
    before = {name: p.grad for name, p in model.named_parameters()}
    values = {name: copy.deepcopy(grad) for name, grad in before.items()}
    count = count_flops(model, torch.randn(3, 8), backward=True)
    assert count.backward == BACKWARD
    for name, parameter in model.named_parameters():
        assert parameter.grad is before[name]
        torch.testing.assert_close(parameter.grad, values[name], rtol=0, atol=0)


def test_way_back_starts_from_the_loss_where_there_is_one() -> None:
    model = nn.Linear(4, 4)

    def call() -> object:
        y = model(torch.ones(1, 4))
        return SimpleNamespace(loss=y.sum(), logits=y)

    assert count_flops(call, backward=True).backward == 2 * 4 * 4 + 4


def test_no_way_back_is_an_error_with_its_remedy() -> None:
    with torch.no_grad(), pytest.raises(UndenseError, match=r"no torch\.no_grad"):
        count_flops(nn.Linear(4, 4), torch.ones(1, 4), backward=True)


def test_error_inside_the_block_passes_and_counting_ends() -> None:
    with pytest.raises(RuntimeError, match="shapes"), flop_counter(strict=True):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
    with flop_counter() as count:
        torch.ones(4).mul_(2)
    assert count.dispatched == 4


def test_everything_goes_into_json() -> None:
    component = build(16, component_class("dense").Config())
    figures = count_flops(component, torch.randn(3, 16), backward=True).to_dict()
    assert json.loads(json.dumps(figures))["components"][0]["component"] == "dense"
