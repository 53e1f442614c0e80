"""Curves over sizes: exact power laws come back, unlike files are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from undense.cli import main
from undense.errors import UndenseError
from undense.pipeline.scaling import bench_scaling

WIDTHS = (32, 64, 128)
NOISE = (1e-4, -1e-4, 0.0)  # a seed each, the same at every size: pairs do not have it


def result(width: int) -> dict[str, Any]:
    """`half` needs half the FLOPs of `full`, and reaches what `full` reaches with two thirds."""
    arms = {}
    for name, share, as_good_as in (("full", 1.0, 1.0), ("half", 0.5, 2 / 3)):
        flops = 3e4 * width**2
        loss = 20 * (flops * as_good_as) ** -0.1
        arms[name] = {
            "training_flops_per_step": flops * share * 64,
            "steps": 10,
            "tokens": 640,
            "losses": [loss + noise for noise in NOISE],
        }
    base = {"host": "llama", "hidden_size": width, "heads": width // 32, "context": 8}
    return {"study": {"base": base, "seeds": [0, 1, 2]}, "arms": arms}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write(tmp_path, width, result(width)) for width in WIDTHS]


def write(folder: Path, width: int, values: dict[str, Any]) -> Path:
    path = folder / f"{width}.json"
    path.write_text(json.dumps(values))
    return path


def test_a_power_law_comes_back(files: list[Path], tmp_path: Path) -> None:
    found = bench_scaling(files[::-1], tmp_path / "out", renamed={}, against="full")
    for arm in ("full", "half"):
        assert found["arms"][arm]["exponent"] == pytest.approx(0.1, abs=1e-3)
        low, high = found["arms"][arm]["exponent_ci95"]
        assert low < 0.1 < high
    last = found["arms"]["full"]["extrapolated"][-1]
    assert last["flops"] == pytest.approx(16 * 3e4 * 128**2)
    assert last["loss"] == pytest.approx(20 * last["flops"] ** -0.1, rel=1e-3)
    assert [size["width"] for size in found["sizes"]] == list(WIDTHS)
    equal = found["equal_loss"]["half"]
    assert equal["flops_ratio"] == pytest.approx(0.5 / (2 / 3), rel=1e-2)
    assert equal["ci95"][0] < 0.75 < equal["ci95"][1]
    assert all(Path(file).stat().st_size > 0 for file in found["files"])


def test_differences_are_seed_by_seed(files: list[Path], tmp_path: Path) -> None:
    found = bench_scaling(files, tmp_path / "out", renamed={}, against="full")["differences"][
        "half"
    ]
    for width, size in zip(WIDTHS, found["by_size"], strict=True):
        arms = result(width)["arms"]
        gap = arms["half"]["losses"][0] - arms["full"]["losses"][0]
        assert size["differences"] == pytest.approx([gap] * 3)
    gaps = [size["mean"] for size in found["by_size"]]
    assert found["per_doubling"] == pytest.approx((gaps[-1] - gaps[0]) / 2)


def test_an_arm_of_another_name_is_the_same_arm(files: list[Path], tmp_path: Path) -> None:
    other = result(64)
    other["arms"]["old"] = other["arms"].pop("half")
    write(tmp_path, 64, other)
    with pytest.raises(UndenseError, match="common are full"):
        bench_scaling(files, tmp_path / "out", renamed={}, against="full")
    found = bench_scaling(files, tmp_path / "out", renamed={"old": "half"}, against="full")
    assert list(found["differences"]) == ["half"]
    assert found["left_out"] == []
    with pytest.raises(UndenseError, match="no file has an arm typo to rename"):
        bench_scaling(files, None, renamed={"typo": "half"}, against="full")
    with pytest.raises(UndenseError, match="two arms of one name"):
        bench_scaling(files, None, renamed={"half": "full"}, against="full")


def test_an_arm_that_some_file_lacks_is_named(files: list[Path], tmp_path: Path) -> None:
    other = result(64)
    other["arms"]["extra"] = other["arms"]["half"]
    write(tmp_path, 64, other)
    found = bench_scaling(files, None, renamed={}, against="full")
    assert found["left_out"] == ["extra"]
    assert list(found["arms"]) == ["full", "half"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["study"]["base"].update(context=16), "differ in context"),
        (lambda r: r["study"]["base"].update(hidden_size=32), "one a width"),
        (lambda r: r.pop("arms"), "no result of undense bench pareto"),
        (lambda r: r["arms"]["full"].update(tokens=320), "on as many tokens"),
    ],
)
def test_files_of_which_no_curve_can_be_made_are_refused(
    files: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    other = result(64)
    change(other)
    write(tmp_path, 64, other)
    with pytest.raises(UndenseError, match=says):
        bench_scaling(files, tmp_path / "out", renamed={}, against="full")
    assert not (tmp_path / "out").exists()


def test_two_sizes_are_too_few(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UndenseError, match="give 3 or more"):
        bench_scaling(files[:2], tmp_path / "out", renamed={}, against="full")


def test_the_command_prints_what_it_found(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "scaling", *map(str, files), "--against", "full"]
    assert main([*words, "--output-dir", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (kept,) = (tmp_path / "out").glob("scaling-*.json")
    assert json.loads(kept.read_text())["arms"] == printed["arms"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "width 128" in shown
    assert "0.75x" in shown
    assert main([*words, "--renamed", "half"]) == 1
    assert "write OLD=NEW" in capsys.readouterr().err
