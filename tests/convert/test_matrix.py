"""The matrix that `undense ls --matrix` prints is what the checks give; a diagonal of it here."""

from __future__ import annotations

import cells
import hosts
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undense.convert import matrix
from undense.convert.families import FAMILIES


def test_every_family_has_a_tiny_host() -> None:
    assert {host.partition("/")[0] for host in hosts.HOSTS} == set(FAMILIES)


def test_the_checks_have_the_words_that_are_printed() -> None:
    assert list(matrix.CHECKS) == ["convert", *cells.CHECKS]


def test_the_file_has_a_cell_for_everything_there_is() -> None:
    assert not matrix.lacking(), "run python benchmarks/matrix.py"


@pytest.mark.parametrize(("host", "component"), cells.some(list(hosts.HOSTS)))
def test_a_cell_is_what_the_file_says(host: str, component: str, tmp_path) -> None:
    found = cells.run(host, component, tmp_path / "model")
    assert found == matrix.recorded()["cells"][host][component]


@pytest.fixture(scope="module")
def mixed():
    """Models of four kinds of host with other components than the diagonal has."""
    names = {"phi3": "spectral", "bert": "ultra", "t5/gated": "low_rank", "vit": "polynomial"}
    found = {}
    for host, component in names.items():
        model = hosts.tiny(host)
        config = cells.component_class(component).fitted
        cells.convert_(model, config, calibration=hosts.calibration(model))
        found[host] = model.train()
    return found


@settings(max_examples=5)
@given(rows=st.integers(1, 4), tokens=st.integers(5, 19))
@pytest.mark.parametrize("host", ["phi3", "bert", "t5/gated", "vit"])
def test_the_formulas_are_exact_for_any_batch(mixed, host: str, rows: int, tokens: int) -> None:
    cells.counted(mixed[host], hosts.inputs(mixed[host], rows=rows, tokens=tokens))


def test_a_cell_that_does_not_hold_says_so(tmp_path, monkeypatch) -> None:
    """A positive control: a component with a wrong formula and another output at each call."""
    cls = cells.component_class("low_rank")
    cost, forward = cls.cost, cls.forward
    monkeypatch.setattr(cls, "cost", lambda self, tokens: cost(self, tokens + 1))
    monkeypatch.setattr(cls, "forward", lambda self, x: forward(self, x) + torch.rand(()))
    found = cells.run("gptj", "low_rank", tmp_path / "model")
    assert "flops" in matrix.failed(found) and "reload" in matrix.failed(found)
    assert matrix.failed({"convert": "UndenseError: …"}) == list(matrix.CHECKS)
    assert matrix.failed(None) == list(matrix.CHECKS)
