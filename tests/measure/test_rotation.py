"""Weights that are taken in turn, and the most memory in use."""

from __future__ import annotations

from mmap import mmap

import torch
from torch import nn

from undense.measure import rotation as rotations
from undense.measure.peak import mark_peak, peak_megabytes
from undense.measure.rotation import rotation, wanted_span, weight_bytes


def test_calls_go_round_copies_that_share_no_memory() -> None:
    module = nn.Linear(8, 8)
    size = weight_bytes(module)
    assert size == 4 * (64 + 8)
    turned = rotation(module, 2.5 * size)
    assert turned.span == 3 * size
    places = [turned.calls(lambda m: m.weight.data_ptr())() for _ in range(2)]
    assert places[0] == places[1] == module.weight.data_ptr()  # each function begins at the first
    call = turned.calls(lambda m: m.weight.data_ptr())
    seen = [call() for _ in range(6)]
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]
    assert all(torch.equal(m.weight, module.weight) for m in turned.modules)


def test_a_module_without_weights_is_not_copied() -> None:
    assert len(rotation(nn.Identity(), 1e6).modules) == 1


def test_the_span_is_twice_the_cache_and_fits_into_memory(monkeypatch) -> None:
    monkeypatch.setattr(rotations, "last_level_cache", lambda: 10 * 2**20)
    monkeypatch.setattr(rotations, "free_memory", lambda: 2**40)
    assert wanted_span(5) == 20 * 2**20
    assert wanted_span(5, megabytes=3) == 3e6
    monkeypatch.setattr(rotations, "free_memory", lambda: 2**20)
    assert 5 * wanted_span(5) < 2**20


def test_the_peak_begins_anew_at_a_mark() -> None:
    before = peak_megabytes()
    held = torch.ones(40_000_000)
    high = peak_megabytes()
    assert high >= before
    del held
    if mark_peak():
        low = peak_megabytes()
        assert low < high - 100
        # Pages of its own: an allocator could hand out some that are already held.
        with mmap(-1, 80_000_000) as fresh:
            fresh.write(b"1" * 80_000_000)
        assert low + 60 < peak_megabytes()
