"""The main job in miniature: it runs whole, says what it measured, and continues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from undense.errors import UndenseError
from undense.pipeline.demo import amdahl, contestants, gap_recovered, run_demo
from undense.pipeline.settings import DemoSettings

SMALL = DemoSettings(
    arms=("dense", "ultra-25", "narrow-25", "none"),
    distill_steps=2,
    finetune_steps=2,
    batch=2,
    context=32,
    calibration_blocks=64,
    eval_blocks=4,
    timing_rounds=2,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"def f{number}(x):\n    return x + {number}\n" * 40)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    folder = tmp_path_factory.mktemp("run") / "demo"
    run_demo(replace(SMALL, data=text), folder)
    return folder


def test_every_arm_has_its_figures(run: Path) -> None:
    hashes = set()
    for arm in SMALL.arm_names:
        metrics = json.loads((run / "arms" / arm / "metrics.json").read_text())
        hashes.add(metrics["batches_hash"])
        assert metrics["training_tokens"] == 4 * 2 * 32
        assert set(metrics["forward_ms"]) == {"1", "16", "128", "512"}
        for field in ("loss", "perplexity", "ffn_flops_per_token", "model_flops_per_token"):
            assert metrics[field] >= 0
    assert len(hashes) == 1


def test_the_share_in_the_name_is_the_share_that_is_counted(run: Path) -> None:
    for arm in ("ultra-25", "narrow-25"):
        metrics = json.loads((run / "arms" / arm / "metrics.json").read_text())
        assert 0.24 < metrics["ffn_share"] <= 0.25


def test_the_saved_arm_loads_in_the_stock_way_with_the_loss_that_was_reported(
    run: Path, text: str
) -> None:
    from undense.pipeline.steps import DataSettings, evaluate

    folder = run / "arms" / "ultra-25" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "UndenseGPT2LMHeadModel"
    data = DataSettings(path=text, context=32, eval_blocks=4)
    metrics = json.loads((run / "arms" / "ultra-25" / "metrics.json").read_text())
    assert evaluate(str(folder), data)["loss"] == metrics["loss"]


def test_a_finished_run_is_not_repeated(run: Path, text: str) -> None:
    figures = run / "arms" / "dense" / "figures.json"
    before = figures.stat().st_mtime_ns
    report = run_demo(replace(SMALL, data=text), run)
    assert figures.stat().st_mtime_ns == before
    assert report.is_file()


def test_other_settings_in_the_same_folder_are_refused(run: Path, text: str) -> None:
    with pytest.raises(UndenseError, match=r"other settings .*seed"):
        run_demo(replace(SMALL, data=text, seed=1), run)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UndenseError, match="no run folder"):
        run_demo(SMALL, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_gap_is_measured_from_the_trained_model_without_ffns() -> None:
    arms = {"dense": {"loss": 3.0}, "none": {"loss": 5.0}, "half": {"loss": 4.0}}
    assert gap_recovered(arms) == {"dense": 1.0, "none": 0.0, "half": 0.5}
    assert gap_recovered({"dense": {"loss": 3.0}}) is None


def test_amdahl_bound_by_hand() -> None:
    def times(milliseconds: float) -> dict[str, dict[str, float]]:
        return {t: {"median": milliseconds} for t in ("1", "16", "128", "512")}

    arms = {
        "dense": {"forward_ms": times(10.0), "ffn_forward_ms": times(1.0)},
        "fast": {"forward_ms": times(8.0), "ffn_forward_ms": times(0.5)},
    }
    bound = amdahl(arms, layers=5)["16"]
    assert bound["ffn_time_share"] == 0.5 and bound["bound"] == 2.0
    assert bound["measured"]["fast"] == 1.25


def test_a_share_that_cannot_be_bounds_nothing() -> None:
    one = {t: {"median": 1.0} for t in ("1", "16", "128", "512")}
    found = amdahl({"dense": {"forward_ms": one, "ffn_forward_ms": one}}, layers=2)["1"]
    assert (found["ffn_time_share"], found["bound"]) == (2.0, None)


@pytest.mark.parametrize(
    ("shares", "pair"),
    [
        ({"ultra-75": 0.75, "ultra-50": 0.5, "narrow-50": 0.5}, ("ultra-50", "narrow-50")),
        ({"ultra-75": 0.75, "narrow-50": 0.5}, ("ultra-75", None)),
        ({"narrow-50": 0.5}, (None, None)),
    ],
)
def test_rivals_are_of_one_share(
    shares: dict[str, float], pair: tuple[str | None, str | None]
) -> None:
    assert contestants({"dense": 1.0, **shares, "none": 0.0}) == pair


def test_a_bad_arm_is_refused_before_anything_is_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(UndenseError, match="ulra"):
        run_demo(replace(SMALL, data=text, arms=("dense", "ulra-25")), tmp_path / "a" / "run")
    assert list(tmp_path.iterdir()) == []


def test_arms_without_the_dense_reference_are_refused() -> None:
    with pytest.raises(UndenseError, match="must contain 'dense'"):
        DemoSettings(arms=("ultra-25",))
