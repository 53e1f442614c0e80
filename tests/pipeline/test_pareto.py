"""A comparison from scratch: rates swept, seeds paired, runs resumed, bad studies refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from undense.errors import UndenseError
from undense.pipeline.pareto import bench_pareto, planned
from undense.pipeline.study import Study
from undense.pipeline.study_runs import Run


class InThisProcess:
    """A pool of no processes."""

    def __init__(self, **_: Any) -> None: ...

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, call: Any, run: Run) -> Future[None]:
        done: Future[None] = Future()
        with redirect_stdout(None), pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.dup2", lambda *_: None)
            done.set_result(call(run))
        return done


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("text")
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"def f{number}(x):\n    return x\n" * 40)
    return {
        "base": {
            "hidden_size": 32, "layers": 1, "heads": 2, "context": 16, "vocab_size": 280,
            "data": str(folder), "steps": 4, "batch": 4, "save_every": 4, "eval_every": 4,
            "eval_limit": 8,
        },
        "arms": {
            "dense": {},
            "narrow-25": {"ffn": "narrow-25", "rate_of": "dense"},
            "longer": {"ffn": "narrow-25", "rate_of": "dense", "as_long_as": "dense"},
        },
        "rates": [0.001, 0.01],
        "sweep_steps": 2,
        "sweep_seed": 9,
        "seeds": [0, 1],
        "yardsticks": ["dense"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, in this process: a pool of one would import everything anew."""
    folder = tmp_path_factory.mktemp("study") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("undense.pipeline.arm_costs.ROUNDS", 2)
        bench_pareto(Study.from_dict(values), folder, name="toy.json", jobs=1, threads=1)
    return folder


def result(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("toy-*.json")
    return json.loads(path.read_text())


def test_every_arm_has_a_loss_a_seed_at_the_best_rate_of_the_sweep(folder: Path) -> None:
    found = result(folder)
    assert set(found["arms"]) == {"dense", "narrow-25", "longer"}
    swept = {row["rate"]: row["loss"] for row in found["search"]}
    assert {row["arm"] for row in found["search"]} == {"dense"}
    best = min(swept, key=lambda rate: swept[rate])
    for arm in found["arms"].values():
        assert len(arm["losses"]) == 2
        assert arm["rate"] == best
        assert arm["mean"] == pytest.approx(sum(arm["losses"]) / 2)
    # a best rate at the end of the grid would have been followed by one beyond it
    assert best not in (min(swept), max(swept)) or len(swept) == 6
    assert found["trained_elsewhere"] == {}
    assert set(found["step_ms_that_decided"]) == {"longer", "dense"}
    assert found["best_at_an_end"] == (["dense"] if best in (min(swept), max(swept)) else [])


def test_the_figures_are_those_of_the_runs(folder: Path) -> None:
    arm = result(folder)["arms"]["narrow-25"]
    for seed, loss in enumerate(arm["losses"]):
        run = folder / "runs" / "narrow-25" / f"{arm['rate']:g}-4-seed{seed}"
        assert json.loads((run / "metrics.json").read_text())["loss"] == loss
        assert not list(run.glob("checkpoint-*"))
    assert arm["ffn_flops_share"] <= 0.25
    assert arm["group"] == "few parameters"
    assert arm["training_flops"] == 4 * arm["training_flops_per_step"]


def test_an_arm_as_long_as_another_takes_its_time(folder: Path) -> None:
    arms = result(folder)["arms"]
    clock = json.loads((folder / "steps.json").read_text())["arms"]
    ratio = clock["dense"]["step_ms"] / clock["longer"]["step_ms"]
    assert arms["longer"]["steps"] == round(4 * ratio)
    # the same recipe, so the same measurement
    assert arms["longer"]["step_ms"] == arms["narrow-25"]["step_ms"]


def test_pairs_are_differences_seed_by_seed(folder: Path) -> None:
    found = result(folder)
    pair = found["paired"]["narrow-25 - dense"]
    arms = found["arms"]
    wanted = [
        a - b for a, b in zip(arms["narrow-25"]["losses"], arms["dense"]["losses"], strict=True)
    ]
    assert pair["differences"] == pytest.approx(wanted)
    assert pair["ci95"][0] <= pair["mean"] <= pair["ci95"][1]
    plots = list(folder.glob("toy-*.png"))
    assert len(plots) == 2
    assert all(plot.stat().st_size > 10_000 for plot in plots)


def test_runs_that_another_program_trained_are_named(
    values: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copied")
    (file, *_) = sorted(copied.glob("runs/narrow-25/*seed1/metrics.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_on": {"device": "a GPU"}}))
    found = bench_pareto(Study.from_dict(values), copied, name="toy.json", jobs=1, threads=1)
    assert found["trained_elsewhere"] == {"device a GPU": ["narrow-25 seed 1"]}


def test_a_finished_study_trains_nothing_again(
    values: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.pipeline.study_runs.ProcessPoolExecutor", None)
    again = bench_pareto(Study.from_dict(values), folder, name="toy.json", jobs=1, threads=1)
    assert again["arms"]["dense"]["losses"] == result(folder)["arms"]["dense"]["losses"]


def test_an_arm_and_fewer_seeds_may_follow(
    values: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.pipeline.arm_costs.ROUNDS", 2)
    monkeypatch.setattr("undense.pipeline.study_runs.ProcessPoolExecutor", InThisProcess)
    before = json.loads((folder / "times.json").read_text())
    arms = {"dense": {}, "none": {"ffn": "none", "rate_of": "dense"}}
    study = Study.from_dict({**values, "arms": arms, "seeds": [1]})
    copy = folder.parent / "grown"
    shutil.copytree(folder, copy)
    found = bench_pareto(study, copy, name="toy.json", jobs=1, threads=1)
    assert found["paired"]["none - dense"]["ci95"] is None
    assert found["arms"]["dense"]["losses"] == result(folder)["arms"]["dense"]["losses"][1:]
    assert "none" not in before["arms"]
    assert set(found["arms"]) <= set(json.loads((copy / "times.json").read_text())["arms"])


def test_a_folder_of_another_study_is_refused(values: dict[str, Any], folder: Path) -> None:
    other = {**values, "base": {**values["base"], "steps": 5}}
    with pytest.raises(UndenseError, match=r"another study \(differs in base\)"):
        bench_pareto(Study.from_dict(other), folder, name="toy.json", jobs=1, threads=1)


def test_a_name_that_has_come_to_mean_another_ffn_is_refused(
    values: dict[str, Any], folder: Path
) -> None:
    copy = folder.parent / "renamed"
    copy.mkdir()
    kept = json.loads((folder / "study.json").read_text())
    kept["ffns"]["longer"]["hidden"] += 1
    (copy / "study.json").write_text(json.dumps(kept))
    with pytest.raises(UndenseError, match=r"another study \(differs in what arms.longer names\)"):
        bench_pareto(Study.from_dict(values), copy, name="toy.json", jobs=1, threads=1)


def test_a_run_of_another_recipe_is_refused(values: dict[str, Any], folder: Path) -> None:
    study = Study.from_dict(values)
    recipe = study.recipe("dense", rate=0.5, seed=0)
    arm = result(folder)["arms"]["dense"]
    run = Run(
        arm="dense",
        recipe=recipe,
        folder=folder / "runs" / "dense" / f"{arm['rate']:g}-4-seed0",
    )
    with pytest.raises(UndenseError, match="a run of another recipe"):
        run.found()


def test_a_plan_says_what_arms_cost_and_writes_nothing(values: dict[str, Any]) -> None:
    plan = planned(Study.from_dict(values))
    assert plan["sweep_runs"] == 2
    assert plan["runs"] == 6
    assert plan["arms"]["dense"]["ffn_flops_share"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sweep_seed": 1}, "sweep_seed=1 is among the seeds"),
        ({"rates": [0.01, 0.001]}, "positive and ascending"),
        ({"rates": [0.01]}, "at least two"),
        ({"seeds": []}, "at least one"),
        ({"yardsticks": ["none"]}, "names 'none'; the arms are dense"),
        ({"arms": {}}, "no arms"),
        ({"arms": {"a": {"rate_of": "b"}}}, "names 'b'"),
        ({"arms": {"a": {"seed": 3}}}, "that is the study's to decide"),
        ({"arms": {"a/b": {}}}, "no name for an arm"),
        ({"arms": {"a": {"colour": 3}}}, "unknown field colour"),
        ({"arms": {"a": 3}}, "must be a JSON object"),
        ({"base": {"hidden_size": 33}}, "divisible by heads"),
        ({"budget": 3}, "unknown field budget"),
    ],
)
def test_a_bad_study_is_refused(
    values: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UndenseError, match=message):
        Study.from_dict({**values, "yardsticks": [], **changed})


def test_a_study_survives_its_json(values: dict[str, Any]) -> None:
    study = Study.from_dict(values)
    assert Study.from_dict(json.loads(json.dumps(study.to_dict()))) == study
