"""Ranges are what really ran inside a module, energy is the difference of two readings."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from undense.errors import UndenseError
from undense.measure.energy import read_energy
from undense.measure.profile import profile


class Sleeps(nn.Module):
    """Takes as long as it says."""

    def __init__(self, milliseconds: float) -> None:
        super().__init__()
        self.milliseconds = milliseconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.milliseconds / 1e3)
        return x + 1


def test_ranges_are_the_time_inside_a_module(tmp_path: Path) -> None:
    model = nn.Sequential(Sleeps(2), Sleeps(10))
    named = {"whole": model, "short": model[0], "long": model[1]}
    figures = profile(
        lambda: model(torch.zeros(2)), named, rounds=3, warmup=1, trace=tmp_path / "trace.json"
    )
    ranges = figures.ranges_ms
    assert ranges["short"] >= 2
    assert ranges["long"] >= 10
    assert ranges["short"] + ranges["long"] <= ranges["whole"] <= figures.watched_ms
    assert not any(model[0]._forward_hooks) and not any(model[0]._forward_pre_hooks)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = {event["name"]: event["dur"] for event in events if event.get("ph") == "X"}
    assert spans["undense::long"] > 10_000 > spans["undense::short"]  # microseconds


def test_modules_that_do_not_run_are_an_error() -> None:
    with pytest.raises(UndenseError, match="used none"):
        profile(lambda: None, {"never": Sleeps(0)}, rounds=1, warmup=0)


def domain(folder: Path, microjoules: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")


def test_energy_is_the_difference_and_survives_a_wrap(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    domain(tmp_path / "intel-rapl:0:0", 77)  # a part of the package, not counted twice
    domain(package, 262_143_000_000)
    before = read_energy(tmp_path)
    domain(package, 1_671_150)
    after = read_energy(tmp_path)
    used = after.since(before)
    assert used["package-0"] == pytest.approx(2.0)  # 0.32885 to the end, 1.67115 after it


def test_energy_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "no package domain" in read_energy(tmp_path).missing["cpu (RAPL)"]
