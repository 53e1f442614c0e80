"""Layer-wise distillation: it learns, it resumes exactly, and a site that diverges goes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from undense.errors import UndenseError
from undense.ffn import Dense
from undense.train.distill import cosine, distill
from undense.train.settings import DistillSettings
from undense.train.tokens import BlockDataset

DIM = 16


class Host(nn.Module):
    """Two residual blocks over an embedding, in place of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, DIM)
        self.ffns = nn.ModuleList(Dense(DIM, Dense.Config(hidden=8)) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embed(input_ids)
        for ffn in self.ffns:
            state = state + ffn(state)
        return state


def setting() -> tuple[Host, dict[str, tuple[nn.Module, nn.Module]], BlockDataset]:
    torch.manual_seed(0)
    host = Host()
    teachers = [Dense(DIM, Dense.Config(hidden=12)) for _ in host.ffns]
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {
        f"ffns.{i}": (ffn, teacher)
        for i, (ffn, teacher) in enumerate(zip(host.ffns, teachers, strict=True))
    }
    return host, pairs, BlockDataset(torch.randint(11, (400,)).int(), 8)


def weights(host: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in host.parameters()])


def test_the_error_falls_and_nothing_but_the_replacements_moves() -> None:
    host, pairs, dataset = setting()
    embedding = host.embed.weight.detach().clone()
    result = distill(host, pairs, dataset, DistillSettings(steps=60, batch=4, learning_rate=1e-2))
    assert result.curve[-1][1] < 0.5 * result.curve[0][1]
    assert set(result.errors) == set(pairs)
    assert torch.equal(host.embed.weight, embedding)
    assert not result.events


def test_an_interrupted_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    settings = DistillSettings(steps=9, batch=2, save_every=3)
    whole, pairs, dataset = setting()
    distill(whole, pairs, dataset, settings, folder=tmp_path / "whole")

    cut, pairs, dataset = setting()
    calls = 0
    original = cut.forward

    def interrupted(input_ids: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return original(input_ids)

    cut.forward = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        distill(cut, pairs, dataset, settings, folder=tmp_path / "cut")
    again, pairs, dataset = setting()
    result = distill(again, pairs, dataset, settings, folder=tmp_path / "cut")
    assert torch.equal(weights(again), weights(whole))
    assert [step for step, _ in result.curve] == list(range(9))


def test_a_site_that_diverges_goes_back_alone_and_says_so() -> None:
    host, pairs, dataset = setting()
    student, teacher = pairs["ffns.0"]
    broken = 0

    def sometimes(x: Tensor) -> Tensor:
        nonlocal broken
        broken += 1
        return teacher(x) * (float("nan") if broken == 20 else 1.0)

    pairs["ffns.0"] = (student, sometimes)  # type: ignore[assignment]
    result = distill(host, pairs, dataset, DistillSettings(steps=30, batch=2, save_every=5))
    (event,) = result.events
    assert "ffns.0: diverged at step 19" in event and "back to step 10" in event
    assert torch.isfinite(weights(host)).all()


def test_another_runs_state_is_refused(tmp_path: Path) -> None:
    host, pairs, dataset = setting()
    distill(host, pairs, dataset, DistillSettings(steps=2, batch=2), folder=tmp_path)
    with pytest.raises(UndenseError, match="other settings or sites"):
        distill(host, pairs, dataset, DistillSettings(steps=3, batch=2), folder=tmp_path)


def test_nothing_to_distil_is_an_error() -> None:
    host, _, dataset = setting()
    with pytest.raises(UndenseError, match="no replaced FFN has a parameter"):
        distill(host, {}, dataset, DistillSettings())


@pytest.mark.parametrize("field", ["steps", "batch", "save_every", "learning_rate"])
def test_settings_out_of_range_name_themselves(field: str) -> None:
    with pytest.raises(UndenseError, match=f"{field}=0"):
        DistillSettings(**{field: 0})


def test_the_schedule_rises_then_falls_to_a_tenth() -> None:
    rates = [cosine(step, 100, 0.1) for step in range(100)]
    assert rates[9] == 1.0 and rates[0] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
