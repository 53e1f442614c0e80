"""A run folder is read whole, or refused with the file, the key and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture import HASH, TOKENS, edit, write_run

from undense.errors import UndenseError
from undense.report.folder import read_run


def test_every_figure_arrives(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert list(run.arms) == ["dense", "ultra-25", "ultra-all-25", "narrow-25", "none"]
    assert (run.reference, run.floor, run.rival, run.main) == (
        "dense",
        "none",
        "narrow-25",
        "ultra-25",
    )
    assert run.tokens == TOKENS
    assert run.batches_hash == HASH
    ultra = run.arms["ultra-25"]
    assert ultra.cost.forward == ultra.ffn_flops
    assert sum(part.forward for part in ultra.cost.parts) == ultra.ffn_flops
    assert run.seeds is not None
    assert len(run.seeds.arms["dense"].values) == 5


def test_a_ratio_of_times_is_as_wide_as_both_sides_allow(run_folder: Path) -> None:
    run = read_run(run_folder)
    ultra, dense = run.arms["ultra-25"], run.dense
    ratio = run.time_ratio(ultra, 16)
    assert ratio.low == ultra.times[16].low / dense.times[16].high
    assert ratio.high == ultra.times[16].high / dense.times[16].low
    assert ratio.low < ratio.center < ratio.high


def test_without_seeds_the_rest_is_read(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", seeds=False)).seeds is None


def test_absent_roles_are_allowed(run_folder: Path) -> None:
    edit(run_folder / "run.json", lambda run: run.update(floor=None, rival=None, main=None))
    edit(run_folder / "metrics.json", lambda top: top.update(gap_recovered=None, ngram=None))
    run = read_run(run_folder)
    assert run.floor is None
    assert run.gap_recovered == {}
    assert [arm.name for arm in run.subjects] == ["ultra-25"]


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for key in keys:
            del values[key]

    return change


def setting(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update(changes)


ULTRA = "arms/ultra-25/metrics.json"
BROKEN: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("run.json", setting(format=7), "format=7"),
    ("run.json", without("command"), "'command' is missing"),
    ("run.json", setting(arms="dense"), "arms='dense' is not a list"),
    ("run.json", setting(main="ultra-52"), "main='ultra-52'"),
    ("run.json", setting(reference=None), "reference=null"),
    ("run.json", setting(arms=["dense", "gone"]), "gone"),
    (ULTRA, without("loss"), "'loss' is missing"),
    (ULTRA, setting(loss=float("nan")), "loss=nan"),
    (ULTRA, setting(loss="low"), "loss='low' is not a number"),
    (ULTRA, setting(parameters=1.5), "parameters=1.5"),
    (ULTRA, setting(batches_hash="other" * 9), "batches_hash=other"),
    (ULTRA, setting(forward_ms={"1": {"median": 1.0, "iqr": [0.9, 1.1]}}), "16 tokens"),
    (ULTRA, setting(forward_ms={"1": {"median": 1.0, "iqr": [2.0, 1.0]}}), "iqr=[2.0, 1.0]"),
    ("arms/none/flops.json", without("convention"), "'convention' is missing"),
    ("metrics.json", without("amdahl"), "'amdahl' is missing"),
    ("seeds.json", without("paired"), "'paired' is missing"),
]


@pytest.mark.parametrize(("file", "change", "words"), BROKEN)
def test_what_is_wrong_is_named(
    run_folder: Path, file: str, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    edit(run_folder / file, change)
    with pytest.raises(UndenseError) as caught:
        read_run(run_folder)
    assert words in str(caught.value)


def test_half_a_file_is_refused_by_name(run_folder: Path) -> None:
    path = run_folder / "metrics.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UndenseError, match=r"metrics\.json: not valid JSON"):
        read_run(run_folder)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UndenseError, match="no run folder"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps([1]))
    with pytest.raises(UndenseError, match="holds a list"):
        read_run(tmp_path)
