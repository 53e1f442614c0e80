"""What every registered mixer promises. A newcomer is tested here without being named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import undense.mixers  # noqa: F401  (registers the mixers)
from undense.errors import UndenseError
from undense.measure.flops import count_flops
from undense.mixing import (
    MixerConfig,
    SequenceMixer,
    State,
    abstract_cost,
    build,
    config_from_dict,
    default,
    mixers,
)

DIM = 16
TIME = 29
NAMES = list(mixers())
SPECTRAL = [name for name in NAMES if name != "attention"]

# Short chunks and kernels, so that a few tokens cross every boundary there is.
SHORT: dict[str, dict[str, Any]] = {
    "hierarchical_fft": {"chunk": 8, "taps": 8},
    "spectral_gating": {"chunk": 8},
    "frequency_selector": {"chunk": 8},
    "spectral_layer": {"chunk": 8},
    "attention": {},
}


def variants() -> list[MixerConfig]:
    """Every mixer with short chunks, and the branches that the defaults do not take."""
    more = [
        default("attention", window=5, kv_heads=2),
        default("attention", rope_base=None),
        default("hierarchical_fft", chunk=8, taps=5, features=0),
        default("spectral_gating", chunk=8, exchange=False, phases=False, thresholds=False),
        default("frequency_selector", chunk=8, method="gumbel"),
        default("spectral_layer", chunk=8, hierarchical=None, conv_width=1),
        default("spectral_layer", chunk=8, gating=None),
        default("spectral_layer", chunk=8, selector=None),
    ]
    found = [default(name, **SHORT.get(name, {})) for name in NAMES] + more
    assert all(isinstance(config, MixerConfig) for config in found)
    return found  # type: ignore[return-value]


def label(config: MixerConfig) -> str:
    plain = [f"{v}" for v in config.to_dict().values() if not isinstance(v, dict)]
    return "-".join(plain)


every_config = pytest.mark.parametrize("config", variants(), ids=label)


def randomised(config: MixerConfig, dtype: torch.dtype = torch.float32) -> SequenceMixer:
    """In evaluation mode, its parameters moved away from whatever start they have."""
    mixer = build(DIM, config).to(dtype).eval()
    with torch.no_grad():
        for p in mixer.parameters():
            p.mul_(1.5).add_(0.3 * torch.randn_like(p))
    return mixer


def in_pieces(
    mixer: SequenceMixer, x: Tensor, cuts: list[int], mask: Tensor | None = None
) -> tuple[Tensor, State]:
    state: State | None = None
    parts = []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        if start < end:
            part = None if mask is None else mask[:, start:end]
            y, state = mixer(x[:, start:end], state, part)
            parts.append(y)
    assert state is not None
    return torch.cat(parts, 1), state


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max().clamp_min(1e-9)).item()


@every_config
@pytest.mark.parametrize("causal", [True, False])
def test_output_has_the_shape_and_dtype_of_the_input(config: MixerConfig, causal: bool) -> None:
    if not causal and getattr(config, "window", None):
        return
    mixer = build(DIM, config.replace(causal=causal))
    for dtype in (torch.float32, torch.bfloat16):
        for time in (1, TIME):
            x = torch.randn(2, time, DIM, dtype=dtype)
            y, state = mixer.to(dtype)(x)
            assert y.shape == x.shape and y.dtype == dtype
            assert torch.isfinite(y).all()
            assert [tuple(t.shape[1:]) for t in state if t.dim() == 1] == [()] * causal
            assert all(len(t) == 2 for t in state)


def future_leak(function: Callable[[Tensor], Tensor], x: Tensor, place: int) -> tuple[float, float]:
    """How far tokens from `place` on move earlier outputs, and their gradient there, both relative
    to the largest there is."""
    x = x.requires_grad_()
    y = function(x)
    # An auxiliary loss injects the same gradient into every backward pass: the difference of two
    # passes is free of it.
    loss = y[:, :place].square().sum()
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, x)
    gradient = thrice - once
    changed = x.detach().clone()
    changed[:, place:] = torch.randn_like(changed[:, place:])
    moved = (function(changed) - y)[:, :place].abs().max()
    scale = y.abs().max()
    return (moved / scale).item(), (gradient[:, place:].abs().max() / gradient.abs().max()).item()


@every_config
@pytest.mark.parametrize("training", [False, True])
def test_no_output_depends_on_the_future(config: MixerConfig, training: bool) -> None:
    # A frame's transform spreads rounding over the whole frame: 1e-16 of it in fp64.
    mixer = randomised(config, torch.float64).train(training)

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same noise and dropout in every call
        return mixer(x)[0]

    for place in (1, 8, 13, 24):
        x = torch.randn(1, TIME, DIM, dtype=torch.float64)
        value, gradient = future_leak(run, x, place)
        assert value <= 1e-12 and gradient <= 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_no_output_depends_on_the_future_in_fp32_at_the_default_sizes(name: str) -> None:
    mixer = randomised(default(name))
    value, gradient = future_leak(lambda x: mixer(x)[0], torch.randn(1, 200, DIM), 130)
    assert value <= 1e-6 and gradient <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_that_is_not_causal_leaks_by_the_same_measure(name: str) -> None:
    mixer = randomised(default(name, causal=False, **SHORT.get(name, {})))
    value, gradient = future_leak(lambda x: mixer(x)[0], torch.randn(1, TIME, DIM), 13)
    assert value > 1e-3 and gradient > 1e-3


@every_config
@given(data=st.data())
@settings(max_examples=5)
def test_one_call_equals_any_split(config: MixerConfig, data: st.DataObject) -> None:
    time = data.draw(st.integers(2, 40))
    cuts = sorted(data.draw(st.lists(st.integers(1, time), max_size=6)))
    mixer = randomised(config, torch.float64)
    x = torch.randn(2, time, DIM, dtype=torch.float64)
    with torch.no_grad():
        whole, after = mixer(x)
        pieces, state = in_pieces(mixer, x, cuts)
    assert distance(pieces, whole) <= 1e-10
    for one, other in zip(state, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


@every_config
def test_one_call_equals_one_call_a_token(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(2, TIME, DIM)
    with torch.no_grad():
        whole, _ = mixer(x)
        steps, _ = in_pieces(mixer, x, list(range(1, TIME)))
    # fp32 rounds to 6e-8; a few hundred roundings in another order stay under 1e-5
    assert distance(steps, whole) <= 1e-5


@every_config
@given(data=st.data())
@settings(max_examples=3)
def test_padding_anywhere_changes_nothing(config: MixerConfig, data: st.DataObject) -> None:
    time = data.draw(st.integers(2, 30))
    rows = st.lists(st.booleans(), min_size=time, max_size=time).filter(any)
    mask = torch.tensor([data.draw(rows), [False] * (time // 2) + [True] * (time - time // 2)])
    cuts = sorted(data.draw(st.lists(st.integers(1, time), max_size=4)))
    mixer = randomised(config, torch.float64)
    x = torch.randn(2, time, DIM, dtype=torch.float64)
    with torch.no_grad():
        padded, state = mixer(x, None, mask)
        pieces, later = in_pieces(mixer, x, cuts, mask)
        other, _ = mixer(torch.where(mask[..., None], x, 100.0), None, mask)
        assert distance(pieces, padded) <= 1e-9
        assert distance(other, padded) <= 1e-12
        for row in range(2):
            alone, own = mixer(x[row : row + 1, mask[row]])
            assert distance(padded[row, mask[row]], alone[0]) <= 1e-9
            assert (padded[row, ~mask[row]] == 0).all()
            assert state[0][row] == own[0][0] == later[0][row] == mask[row].sum()


@every_config
def test_rows_of_a_batch_are_independent_and_reorder_by_their_state(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(3, TIME, DIM)
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        y, state = mixer(x)
        other, _ = mixer(x[order])
        assert distance(other, y[order]) <= 1e-6
        following = torch.randn(3, 5, DIM)
        picked = tuple(tensor.index_select(0, order) for tensor in state)
        wanted, _ = mixer(torch.cat([x[order], following], 1))
        got, _ = mixer(following, picked)
    assert distance(got, wanted[:, TIME:]) <= 1e-5


@every_config
def test_a_state_survives_saving(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(1, TIME, DIM)
    with torch.no_grad():
        _, state = mixer(x[:, :11])
        file = io.BytesIO()
        torch.save((state, mixer.state_dict()), file)
        file.seek(0)
        loaded, weights = torch.load(file)
        fresh = build(DIM, config).eval()
        fresh.load_state_dict(weights, strict=True)
        assert torch.equal(fresh(x[:, 11:], loaded)[0], mixer(x[:, 11:], state)[0])


@every_config
def test_the_initial_state_is_the_state_of_nothing(config: MixerConfig) -> None:
    mixer = randomised(config)
    x = torch.randn(2, TIME, DIM)
    with torch.no_grad():
        given_state, _ = mixer(x, mixer.initial_state(2))
        assert distance(given_state, mixer(x)[0]) <= 1e-6


@every_config
def test_every_parameter_gets_a_gradient_within_two_steps(config: MixerConfig) -> None:
    mixer = build(DIM, config).train()
    parameters = dict(mixer.named_parameters())
    seen: set[str] = set()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        mixer(torch.randn(2, TIME, DIM))[0].square().sum().backward()
        seen |= {n for n, p in parameters.items() if p.grad is not None and p.grad.any()}
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in parameters.values())
        optimizer.step()
    assert seen == set(parameters), f"dead parameters: {set(parameters) - seen}"


@every_config
@pytest.mark.parametrize("causal", [True, False])
def test_cost_equals_the_counted_flops(config: MixerConfig, causal: bool) -> None:
    if not causal and getattr(config, "window", None):
        return
    mixer = build(DIM, config.replace(causal=causal)).eval()
    x = torch.randn(2, TIME, DIM)
    with torch.no_grad():
        count = count_flops(lambda: mixer(x))
        assert not count.uncounted
        assert count.dispatched == mixer.cost(2, TIME).forward
        if not causal or getattr(config, "window", None):
            return
        _, state = mixer(x)
        for length in (1, 3):
            count = count_flops(lambda n=length: mixer(x[:, :n], state))
            assert count.dispatched == mixer.cost(2, length, past=TIME).forward


@pytest.mark.parametrize("config", [c for c in variants() if c.component == "attention"], ids=label)
def test_backward_cost_of_attention_equals_the_counted_flops(config: MixerConfig) -> None:
    mixer = build(DIM, config)
    x = torch.randn(2, TIME, DIM, requires_grad=True)
    count = count_flops(lambda: mixer(x)[0].sum(), backward=True)
    assert count.backward == mixer.cost(2, TIME).backward


@pytest.mark.parametrize("name", SPECTRAL)
def test_cost_grows_linearly(name: str) -> None:
    short, long = (abstract_cost(64, default(name), 1, n).forward for n in (20_480, 204_800))
    assert 9.9 <= long / short <= 10.1


@every_config
def test_parts_of_a_cost_sum_to_the_whole_without_memory(config: MixerConfig) -> None:
    tree = abstract_cost(DIM, config, 2, 9)
    assert tree == build(DIM, config).cost(2, 9)
    for _, node in tree.walk():
        if node.parts:
            assert node.forward == sum(part.forward for part in node.parts)


@every_config
def test_config_survives_json(config: MixerConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", NAMES)
def test_compiled_without_graph_breaks_equals_eager(name: str) -> None:
    torch.compiler.reset()
    mixer = randomised(default(name, **SHORT.get(name, {})))
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 19, DIM)
    with torch.no_grad():
        assert distance(compiled(x)[0], mixer(x)[0]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bf16_agrees_with_fp32(name: str) -> None:
    mixer = build(DIM, default(name, **SHORT.get(name, {}))).eval()
    x = torch.randn(2, TIME, DIM)
    exact, _ = mixer(x)
    rounded, _ = mixer.bfloat16()(x.bfloat16())
    # bf16 keeps 8 bits, and a selection may turn on them: compare in the mean, not at the worst
    assert (rounded.float() - exact).norm() <= 0.1 * exact.norm()


@every_config
def test_bad_input_is_refused_by_name(config: MixerConfig) -> None:
    name = config.component
    mixer = build(DIM, config).eval()
    x = torch.randn(2, 3, DIM)
    _, state = mixer(x)
    blind = build(DIM, default(name, causal=False))
    for message, call in {
        f"{name}: length 0": lambda: mixer(x[:, :0]),
        "47 features.*dim=16": lambda: mixer(torch.randn(2, 3, 47)),
        "must be .batch, time, features": lambda: mixer(x[0]),
        "mask of shape": lambda: mixer(x, None, torch.ones(2, 4, dtype=torch.bool)),
        "another batch, mixer or config": lambda: mixer(x[:1], state),
        "another mixer or config": lambda: mixer(x, state[:-1]),
        "causal=False": lambda: blind(x, state),
    }.items():
        with pytest.raises(UndenseError, match=message):
            call()
    with torch.no_grad(), pytest.raises(UndenseError, match="not finite"):
        mixer(x * torch.nan)


@pytest.mark.parametrize("name", NAMES)
def test_more_heads_than_width_and_heads_that_do_not_divide_are_refused(name: str) -> None:
    for heads in (3, 32):
        with pytest.raises(UndenseError, match=f"{name}: heads={heads}"):
            build(DIM, default(name, heads=heads))
