"""What every registered component promises. A newcomer is tested here without being named."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_hosts import dense_ffn, inputs

import undense.ffn  # noqa: F401  (registers the components)
from undense.contract import (
    Config,
    DenseShape,
    Statistics,
    abstract_cost,
    build,
    components,
    config_from_dict,
    from_dense,
)
from undense.errors import UndenseError
from undense.ffn.presets import fitted, resolve
from undense.ffn.shares import dense_flops
from undense.measure.flops import count_flops

DIM = 48
NAMES = list(components())
MULTIPLIERS = [name for name in NAMES if name != "none"]
CHOOSING = ["block_topk"]
STEPWISE = ["micro_refine", "micro_feedback", "token_feedback", "ultra"]  # read their own output
ULTRAS = ["ultra", "ultra-small", "ultra-all"]


def variants() -> list[Config]:
    """Every component at its defaults, and the `VARIANTS` that its own test file declares: the
    branches that the defaults do not take."""
    found = [config_from_dict({"component": name}) for name in NAMES]
    here = Path(__file__).parent
    for name in NAMES:
        if (here / f"test_{name}.py").exists():
            found += getattr(importlib.import_module(f"test_{name}"), "VARIANTS", [])
    return found


def label(config: Config) -> str:
    plain = [v for v in config.to_dict().values() if not isinstance(v, dict)]
    return "-".join(str(v) for v in plain)


every_config = pytest.mark.parametrize("config", variants(), ids=label)


@every_config
@pytest.mark.parametrize("shape", [(DIM,), (1, DIM), (2, 7, DIM), (0, DIM)])
def test_output_has_the_shape_and_dtype_of_the_input(
    config: Config, shape: tuple[int, ...]
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(shape, dtype=dtype)
        y = build(DIM, config).to(dtype)(x)
        assert y.shape == x.shape
        assert y.dtype == dtype
        assert torch.isfinite(y).all()


@every_config
def test_bf16_agrees_with_fp32(config: Config) -> None:
    # The same numbers in both: a component that chooses by them then chooses alike.
    component = build(DIM, config).bfloat16()
    x = torch.randn(64, DIM).bfloat16()
    exact = deepcopy(component).float()(x.float())
    rounded = component(x).float()
    # bf16 keeps 8 bits: a few roundings in a row stay within 5 % of the output's scale.
    far = (rounded - exact).abs().amax(-1) > 0.05 * exact.abs().max() + 1e-6
    # Where a token chooses between near-equals, the choice may fall differently.
    assert far.sum() <= (4 if config.component in CHOOSING else 0)


@every_config
def test_what_decides_the_loudness_scales_the_output(config: Config) -> None:
    component = build(DIM, config).double().eval()
    x = torch.randn(64, DIM, dtype=torch.float64)
    before = component(x)
    with torch.no_grad():
        for parameter in component.outputs():
            parameter.mul_(0.5)
    after = component(x)
    if config.component in STEPWISE:
        assert 0.3 < (after.norm() / before.norm()).item() < 0.7
    else:
        assert torch.allclose(after, 0.5 * before, atol=1e-12)
    assert len(component.outputs()) == len({id(p) for p in component.outputs()})


@every_config
def test_every_token_is_processed_by_itself_or_after_its_past(config: Config) -> None:
    component = build(DIM, config).double()
    assert token_local(component) == config.token_local
    assert causal(component)


def test_a_component_that_mixes_tokens_would_be_caught() -> None:
    assert not token_local(lambda x: x.cumsum(0)) and causal(lambda x: x.cumsum(0))
    assert not causal(lambda x: x.flip(0).cumsum(0).flip(0))


def causal(function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether other tokens afterwards leave what came before them as it was."""
    x = torch.randn(9, DIM, dtype=torch.float64)
    changed = x.clone()
    changed[5:] = 3 * torch.randn(4, DIM, dtype=torch.float64)
    return torch.allclose(function(x)[:5], function(changed)[:5], atol=1e-12)


def token_local(function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether five tokens come out together as each does alone."""
    x = torch.randn(5, DIM, dtype=torch.float64)
    alone = torch.cat([function(row[None]) for row in x])
    return torch.allclose(function(x), alone, atol=1e-12)


@every_config
def test_the_input_is_not_added_to_the_output(config: Config) -> None:
    component = build(DIM, config).double()
    x = torch.randn(256, DIM, dtype=torch.float64)
    y = component(x)
    share = (y * x).sum() / x.square().sum()
    assert abs(share - 1) > 0.2, "the output contains its input: the host would add it twice"


@every_config
def test_every_parameter_gets_a_gradient_within_two_steps(config: Config) -> None:
    component = build(DIM, config).train()
    parameters = dict(component.named_parameters())
    seen: set[str] = set()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.05) if parameters else None
    for _ in range(2):
        if optimizer is None:
            break
        optimizer.zero_grad()
        x = torch.randn(64, DIM)
        (component(x) - torch.randn(64, DIM)).square().mean().backward()
        for name, p in parameters.items():
            if p.grad is not None and p.grad.abs().max() > 0:
                seen.add(name)
        optimizer.step()
    assert seen == set(parameters), f"dead parameters: {set(parameters) - seen}"


@every_config
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_cost_equals_the_counted_flops(config: Config, training: bool) -> None:
    component = build(DIM, config).train(training)
    x = torch.randn(2, 7, DIM, requires_grad=True)
    expected = component.cost(14)
    forward = count_flops(component, x)
    assert forward.dispatched == expected.forward
    if config.component == "none":
        return  # nothing leads from its output back to its input
    both = count_flops(lambda: component(x).sum(), backward=True)
    # sum() forward reads each number once; its backward moves data only
    summed = x.numel()
    assert both.forward == expected.forward + summed
    assert both.backward == expected.backward


@given(
    name=st.sampled_from(MULTIPLIERS),
    factor=st.integers(1, 6),
    batch=st.integers(1, 3),
    time=st.integers(1, 9),
)
def test_cost_equals_the_counted_flops_at_any_size(
    name: str, factor: int, batch: int, time: int
) -> None:
    config = config_from_dict({"component": name})
    dim = 48 * factor
    component = build(dim, config)
    with torch.no_grad():
        count = count_flops(component, torch.randn(batch, time, dim))
    assert count.dispatched == component.cost(batch * time).forward
    assert not count.uncounted


FIGURES = ("forward", "backward", "useful", "macs", "weights", "indices", "activations")


@every_config
def test_inference_without_gradients_is_the_same_function_at_the_same_cost(config: Config) -> None:
    """Where no gradient is wanted a component may take another path: compiled code."""
    torch.compiler.reset()
    component = build(DIM, config).eval()
    x = torch.randn(2, 7, DIM)
    expected = component(x).detach()
    with torch.no_grad():
        assert torch.allclose(component(x), expected, atol=1e-5)
        assert component(x[:0]).shape == (0, 7, DIM)
        count = count_flops(component, x)
        compiled = torch.compile(component, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x), expected, atol=1e-5)
        rounded = deepcopy(component).bfloat16()(x.bfloat16())
    assert count.dispatched == component.cost(14).forward and not count.uncounted
    assert rounded.dtype == torch.bfloat16
    if config.token_local:  # what one token carries, not even a NaN, reaches another
        x[0, 3] = torch.nan
        with torch.no_grad():
            y = component(x)
        others = torch.arange(14) != 3
        assert torch.allclose(y.view(14, DIM)[others], expected.view(14, DIM)[others], atol=1e-5)


@every_config
def test_parts_of_a_cost_sum_to_the_whole(config: Config) -> None:
    tree = build(DIM, config).cost(5)
    for _, node in tree.walk():
        if node.parts:
            for field in (
                "forward",
                "backward",
                "useful",
                "macs",
                "weights",
                "indices",
                "activations",
            ):
                assert getattr(node, field) == sum(getattr(p, field) for p in node.parts)


@every_config
def test_cost_counts_the_stored_numbers(config: Config) -> None:
    component = build(DIM, config)
    arithmetic = [b for b in component.buffers() if b.is_floating_point()]
    stored = sum(t.numel() for t in (*component.parameters(), *arithmetic))
    assert component.cost(1).weights == stored


# Integers that a forward reads not at all (names for reports, a bare range), or either only where
# it takes single rows of a transform or only where it takes all.
UNREAD = {"frequencies", "partner", "turned", "back"}


@every_config
def test_cost_counts_the_bytes_of_the_stored_indices(config: Config) -> None:
    component = build(DIM, config)
    held = {n: b for n, b in component.named_buffers() if not b.is_floating_point()}
    sizes = {name: b.numel() * b.element_size() for name, b in held.items()}
    surely = sum(size for n, size in sizes.items() if n.rpartition(".")[2] not in UNREAD)
    assert surely <= component.cost(1).indices <= sum(sizes.values())


@every_config
def test_cost_is_the_same_without_memory(config: Config) -> None:
    assert abstract_cost(DIM, config, 3) == build(DIM, config).eval().cost(3)


@every_config
def test_config_survives_json(config: Config) -> None:
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@every_config
def test_state_dict_round_trip_is_strict_and_exact(config: Config) -> None:
    first = build(DIM, config)
    torch.manual_seed(99)
    second = build(DIM, config)
    second.load_state_dict(first.state_dict(), strict=True)
    x = torch.randn(3, DIM)
    assert torch.equal(first(x), second(x))


@every_config
def test_compiled_without_graph_breaks_equals_eager(config: Config) -> None:
    torch.compiler.reset()
    component = build(DIM, config)
    compiled = torch.compile(component, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, DIM, requires_grad=True)
    y = torch.randn(2, 3, DIM)
    eager_loss = (component(x) * y).sum()
    compiled_loss = (compiled(x) * y).sum()
    assert torch.allclose(eager_loss, compiled_loss, atol=1e-5)
    if config.component == "none":
        return
    ends = [x, *component.parameters()]
    expected = torch.autograd.grad(eager_loss, ends)
    got = torch.autograd.grad(compiled_loss, ends)
    for one, other in zip(expected, got, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@every_config
def test_bf16_gradients_are_finite_and_point_the_same_way(config: Config) -> None:
    if config.component == "none":
        return
    component = build(DIM, config).bfloat16()
    x, y = torch.randn(64, DIM).bfloat16(), torch.randn(64, DIM).bfloat16()
    same = deepcopy(component).float()
    exact = torch.autograd.grad((same(x.float()) * y.float()).sum(), list(same.parameters()))
    rounded = torch.autograd.grad((component(x) * y).sum(), list(component.parameters()))
    for one, other in zip(exact, rounded, strict=True):
        assert torch.isfinite(other).all()
        alike = torch.nn.functional.cosine_similarity(one.flatten(), other.float().flatten(), 0)
        assert alike > 0.97 or one.norm() < 0.3


@every_config
def test_export_keeps_the_function(config: Config) -> None:
    component = build(DIM, config).eval()
    x = torch.randn(4, DIM)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(component, (x,), dynamic_shapes=({0: batch},))
    other = torch.randn(9, DIM)
    assert torch.allclose(program.module()(other), component(other), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_another_width_is_refused_by_name(name: str) -> None:
    component = build(DIM, config_from_dict({"component": name}))
    with pytest.raises(UndenseError, match=rf"{name}.*47 features.*dim=48"):
        component(torch.randn(2, 47))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", MULTIPLIERS)
def test_start_from_dense_is_closer_than_no_output(name: str, gated: bool) -> None:
    dense = dense_ffn(DIM, 4 * DIM, gated=gated)
    rows = inputs(DIM)
    config = fitted(name, dense.shape)
    component = from_dense(dense, config, Statistics(inputs=rows))
    wanted = dense(rows)
    centred = wanted - wanted.mean(0)
    got = component(rows)
    error = (got - got.mean(0) - centred).square().sum() / centred.square().sum()
    assert error < 0.999, f"{name} starts no closer to the dense output than a constant: {error}"


@pytest.mark.parametrize("gated", [False, True])
def test_full_width_start_is_the_dense_function(gated: bool) -> None:
    dense = dense_ffn(DIM, 4 * DIM, gated=gated)
    rows = inputs(DIM)
    config = resolve("narrow", dense.shape)
    component = from_dense(dense, config, Statistics(inputs=rows))
    assert torch.allclose(component(rows), dense(rows), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in MULTIPLIERS if n not in ("projection", "ultra")])
def test_cost_grows_with_the_sizing_knob(name: str) -> None:
    base = config_from_dict({"component": name})
    cls = components()[name]
    costs = [abstract_cost(96, cls.sized(base, 96, size)).forward for size in (1, 2, 3, 5)]
    assert costs == sorted(costs) and len(set(costs)) == len(costs)


def test_every_config_field_has_a_default() -> None:
    for cls in components().values():
        for field in dataclasses.fields(cls.Config):
            missing = dataclasses.MISSING
            assert field.default is not missing or field.default_factory is not missing


def test_share_presets_keep_their_name() -> None:
    for dim in (128, 576):
        for hidden, gated in ((4 * dim, False), (8 * dim // 3, True)):
            shape = dense_ffn_shape(dim, hidden, gated)
            for name in (*ULTRAS, "narrow", "tensor_factor", "low_rank", "block_topk"):
                for percent in (50, 25, 12):
                    config = resolve(f"{name}-{percent}", shape)
                    share = abstract_cost(dim, config).forward / dense_flops(shape)
                    assert share <= percent / 100
                    assert share >= 0.92 * percent / 100, f"{name}-{percent} at {dim}: {share}"


def dense_ffn_shape(dim: int, hidden: int, gated: bool) -> DenseShape:
    with torch.device("meta"):
        return dense_ffn(dim, hidden, gated=gated).shape
