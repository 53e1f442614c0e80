"""What every registered mixer promises. A newcomer is tested here without being named."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from mixer_variants import (
    DIM,
    NAMES,
    SHORT,
    SPECTRAL,
    TIME,
    distance,
    every_config,
    in_pieces,
    randomised,
)
from torch import nn

from undense.errors import UndenseError
from undense.mixers import all_parts
from undense.mixing import MixerConfig, build, config_from_dict, default


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
@pytest.mark.parametrize("time", [19, 1])
def test_an_exported_program_equals_eager_and_runs_anywhere(name: str, time: int) -> None:
    mixer = randomised(default(name, **SHORT.get(name, {})))
    x = torch.randn(2, 19, DIM)
    with torch.no_grad():
        given = (x,) if time > 1 else (x[:, :1], mixer(x)[1])
        program = torch.export.export(mixer, given)
        assert distance(program.module()(*given)[0], mixer(*given)[0]) <= 1e-5
    assert "undense" not in str(program.graph)  # no compiled operation of ours


@pytest.mark.parametrize("name", NAMES)
def test_bf16_agrees_with_fp32(name: str) -> None:
    mixer = build(DIM, default(name, **SHORT.get(name, {}))).eval()
    x = torch.randn(2, TIME, DIM)
    exact, _ = mixer(x)
    rounded, _ = mixer.bfloat16()(x.bfloat16())
    # bf16 keeps 8 bits, and a selection may turn on them: compare in the mean, not at the worst
    assert (rounded.float() - exact).norm() <= 0.1 * exact.norm()


@every_config
@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_no_more_than_it_rounds(config: MixerConfig, training: bool) -> None:
    """Spectral mixers do not run in half precision; a way back under autocast may."""
    mixer = randomised(config).train(training)
    x = torch.randn(2, TIME, DIM, requires_grad=True)
    found: list[tuple[torch.Tensor, ...]] = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, state = mixer(x)
            (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
            with torch.no_grad():
                token, _ = mixer.eval()(x[:, :1].bfloat16() if enabled else x[:, :1], state)
        mixer.train(training)
        found.append((y, token, gradient))
    loose = 0.05 if config.component == "attention" else 1e-5
    assert found[1][1].dtype == torch.bfloat16
    for one, other, close in zip(*found, (loose, 0.05, 0.05), strict=True):
        assert distance(other.float(), one) <= close


class Doubled(nn.Module):
    """As adapters are built: around a linear map, showing its weight."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> torch.Tensor:
        return self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


@pytest.mark.parametrize("name", SPECTRAL)
def test_what_stands_around_a_linear_map_is_called(name: str) -> None:
    mixer = randomised(default(name, **SHORT[name])).requires_grad_(False)
    wrapped, wanted = copy.deepcopy(mixer), copy.deepcopy(mixer)
    found = {n: part for n, part in mixer.named_modules() if type(part) is nn.Linear}
    assert {"project_in", "project_out"} <= set(found)
    for path in found:
        wrapped.set_submodule(path, Doubled(wrapped.get_submodule(path)))  # type: ignore[arg-type]
        for p in wanted.get_submodule(path).parameters():
            p.mul_(2)
    x = torch.randn(2, TIME, DIM)  # gates of such weights magnify its rounding to 1e-4
    for pieces in ([], [1, 9, 10], list(range(1, TIME))):
        with torch.no_grad():
            assert distance(in_pieces(wrapped, x, pieces)[0], wanted(x)[0]) <= 1e-3
    assert distance(wrapped(x.requires_grad_())[0], wanted(x)[0]) <= 1e-3


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
    mask = torch.tensor([[True, True, False]] * 2)
    for broken, given in ((mixer, None), (mixer, mask), (blind, None), (blind, mask)):
        with torch.no_grad(), pytest.raises(UndenseError, match="not finite"):
            broken(x * torch.nan, None, given)


@every_config
def test_what_is_no_number_is_refused_wherever_it_stands(config: MixerConfig) -> None:
    mixer = build(DIM, config).eval()
    x = torch.randn(2, 11, DIM)
    x[1, 3] = torch.nan  # out of reach of short filters by the last token
    with torch.no_grad(), pytest.raises(UndenseError, match="not finite"):
        mixer(x)


def test_a_state_of_other_chunks_is_refused() -> None:
    mixer, other = (build(DIM, all_parts(chunk=chunk)) for chunk in (8, 16))
    _, state = mixer(torch.randn(2, 5, DIM))
    with pytest.raises(UndenseError, match=r"state .chunk. has the shape .*another"):
        other(torch.randn(2, 5, DIM), state)


@pytest.mark.parametrize("name", NAMES)
def test_more_heads_than_width_and_heads_that_do_not_divide_are_refused(name: str) -> None:
    for heads in (3, 32):
        with pytest.raises(UndenseError, match=f"{name}: heads={heads}"):
            build(DIM, default(name, heads=heads))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"component": "spectral_layer", "causal": "no"}, "causal='no' must be bool"),
        ({"component": "spectral_layer", "heads": 4.0}, "heads=4.0 must be int"),
        ({"component": "spectral_gating", "entropy": -1}, "entropy=-1 must be at least 0"),
        ({"component": "attention", "kv_heads": 0}, "multiple of kv_heads=0"),
        ({"component": "attention", "rope_base": 0}, "rope_base=0 must be positive"),
        (
            {"component": "spectral_layer", "gating": {"component": "hierarchical_fft"}},
            "gating='hierarchical_fft' has no such part",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UndenseError, match=words):
        build(DIM, config_from_dict(values))
