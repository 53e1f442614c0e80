"""Costs of mixers: equal to the counted operations, to the integer."""

from __future__ import annotations

import pytest
import torch
from mixer_variants import DIM, SPECTRAL, TIME, every_config

from undense.measure.flops import count_flops
from undense.mixing import MixerConfig, abstract_cost, build, default
from undense.ops import spectral_mixer


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
        if not causal:
            return
        for past in (TIME, 16):  # inside a chunk, and at the start of one
            _, state = mixer(x[:, :past])
            for length in (1, 3):
                count = count_flops(lambda n=length, s=state: mixer(x[:, :n], s))
                assert count.dispatched == mixer.cost(2, length, past=past).forward


@every_config
@pytest.mark.parametrize("causal", [True, False])
def test_backward_cost_equals_the_counted_flops(config: MixerConfig, causal: bool) -> None:
    if not causal and getattr(config, "window", None):
        return
    mixer = build(DIM, config.replace(causal=causal)).eval()
    for time in (TIME, 32, 5):  # a chunk that is not full, full chunks, one chunk
        x = torch.randn(2, time, DIM, requires_grad=True)
        count = count_flops(lambda x=x: mixer(x)[0].sum(), backward=True)
        assert not count.uncounted
        assert count.backward == mixer.cost(2, time).backward


def test_costs_of_a_kernel_that_runs_by_transforms() -> None:
    mixer = build(DIM, default("hierarchical_fft", taps=200)).eval()
    x = torch.randn(1, 70, DIM, requires_grad=True)
    count = count_flops(lambda: mixer(x)[0].sum(), backward=True)
    assert count.backward == mixer.cost(1, 70).backward


@pytest.mark.parametrize("name", SPECTRAL)
def test_backward_cost_of_several_segments_leaves_out_less_than_a_hundredth(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral_mixer, "SEGMENT", 256)
    mixer = build(64, default(name)).eval()
    x = torch.randn(1, 1024, 64, requires_grad=True)
    count = count_flops(lambda: mixer(x)[0].sum(), backward=True)
    assert 0.99 <= mixer.cost(1, 1024).backward / count.backward <= 1.01


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
