"""The first lines say what the figures say, in every case."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixture import dump, edit, seed_values, write_run

from undense.report.folder import read_run
from undense.report.page import render
from undense.report.run import Run
from undense.report.verdict import Verdict, headlines, verdicts


def read(folder: Path) -> tuple[Run, dict[str, Verdict]]:
    run = read_run(folder)
    return run, {verdict.label: verdict for verdict in verdicts(run)}


def every(folder: Path, arm: str) -> dict[str, Verdict]:
    """What is said about one arm of several."""
    return {v.label: v for v in verdicts(read_run(folder)) if v.arm == arm}


def words(verdict: Verdict) -> str:
    return " ".join((verdict.headline, *verdict.sentences))


def with_seeds(folder: Path, shift: float) -> Path:
    """The main arm moved by `shift`: it beats the narrow one by 0.018 as the figures stand."""
    write_run(folder, losses={"ultra-25": 2.428 + shift})
    dump(folder / "seeds.json", seed_values(random.Random(0), shift))
    return folder


@pytest.mark.parametrize(
    ("shift", "headline", "tone", "sentence"),
    [
        (0.0, "ultra-25 wins", "good", "has a lower loss than narrow-25"),
        (0.04, "narrow-25 wins", "bad", "has a higher loss than narrow-25"),
        (0.018, "A draw with narrow-25", "even", "within the seed spread"),
    ],
)
def test_the_paired_interval_decides_who_won(
    tmp_path: Path, shift: float, headline: str, tone: str, sentence: str
) -> None:
    _, found = read(with_seeds(tmp_path / "run", shift))
    won = found["Who won"]
    assert (won.headline, won.tone) == (headline, tone)
    assert sentence in words(won)
    assert "five paired seeds" in words(won) or tone == "even"


@pytest.mark.parametrize(
    ("live", "words_of_agreement"),
    [
        (2.429, "inside the range of those seeds"),
        (2.40, "the same way, but outside the range"),
        (2.50, "the other way round"),
    ],
)
def test_the_live_seed_is_held_against_the_committed_ones(
    tmp_path: Path, live: float, words_of_agreement: str
) -> None:
    folder = write_run(tmp_path / "run", losses={"ultra-25": live})
    _, found = read(folder)
    assert words_of_agreement in words(found["Who won"])
    assert found["Who won"].headline == "ultra-25 wins", "the seeds decide, not the live run"


@pytest.mark.parametrize(
    ("loss", "headline"),
    [
        (2.440, "ultra-25 ahead on one seed"),
        (2.450, "narrow-25 ahead on one seed"),
        (2.446, "ultra-25 and narrow-25 level on one seed"),
    ],
)
def test_one_seed_settles_nothing(tmp_path: Path, loss: float, headline: str) -> None:
    _, found = read(write_run(tmp_path / "run", seeds=False, losses={"ultra-25": loss}))
    won = found["Who won"]
    assert (won.headline, won.tone) == (headline, "even")
    assert "One seed cannot tell a win from luck" in words(won)


def test_unequal_flops_are_no_contest(run_folder: Path) -> None:
    edit(run_folder / "arms/narrow-25/metrics.json", lambda arm: arm.update(ffn_share=0.4))
    _, found = read(run_folder)
    won = found["Who won"]
    assert (won.headline, won.tone) == ("No contest", "even")
    assert "costs 25.0\u202f%" in words(won)
    assert "narrow-25 40.0\u202f%" in words(won)


def test_the_rival_is_met_where_its_flops_are_equal(run_folder: Path) -> None:
    """The main arm at 75 %, its sister at 25 %: the narrow one at 25 % meets the sister."""
    edit(run_folder / "run.json", rename)
    for old, new, share in (("ultra-25", "ultra-75", 0.75), ("ultra-all-25", "ultra-25", 0.25)):
        (run_folder / "arms" / old).rename(run_folder / "arms" / new)
        edit(run_folder / f"arms/{new}/metrics.json", lambda arm, s=share: arm.update(ffn_share=s))
    (run_folder / "seeds.json").unlink()
    won = every(run_folder, "ultra-25")["Who won"]
    assert won.headline == "ultra-25 ahead on one seed"
    assert "0.007 nats below narrow-25" in words(won)
    assert "ultra-75" not in words(won)
    assert every(run_folder, "ultra-75")["Who won"].headline == "No contest"


def rename(run: dict[str, Any]) -> None:
    run.update(arms=["dense", "ultra-75", "ultra-25", "narrow-25", "none"], main="ultra-75")


def test_every_share_has_its_own_contest(run_folder: Path) -> None:
    (run_folder / "seeds.json").unlink()
    for name in ("ultra", "narrow"):
        shutil.copytree(run_folder / f"arms/{name}-25", run_folder / f"arms/{name}-50")
        edit(
            run_folder / f"arms/{name}-50/metrics.json",
            lambda arm, n=name: arm.update(ffn_share=0.5, loss=2.41 if n == "ultra" else 2.40),
        )
    edit(run_folder / "run.json", lambda run: run["arms"].extend(["ultra-50", "narrow-50"]))
    run = read_run(run_folder)
    assert [v.arm for v in verdicts(run)] == ["ultra-25"] * 3 + ["ultra-50"] * 3
    assert headlines(run)["Who won, ultra-25"] == "ultra-25 ahead on one seed"
    assert headlines(run)["Who won, ultra-50"] == "narrow-50 ahead on one seed"
    won = every(run_folder, "ultra-50")["Who won"]
    assert "narrow-25" not in words(won)
    assert "One seed cannot tell a win from luck" in words(won)
    page = render(run)
    assert "50 % of the FFN's FLOPs" in page


def test_without_a_rival_nobody_wins(run_folder: Path) -> None:
    edit(run_folder / "run.json", lambda run: run.update(rival=None))
    _, found = read(run_folder)
    assert found["Who won"].headline == "No rival"


def test_flops_never_stand_without_the_measured_time(run_folder: Path) -> None:
    _, found = read(run_folder)
    gained = found["What was gained"]
    assert gained.headline == "FLOPs −35\u202f%, time −16\u202f% to +40\u202f%"
    for tokens in ("one token", "16 tokens", "128 tokens", "512 tokens"):
        assert tokens in words(gained)
    assert "faster at 128 and 512; slower at 1 and 16" in words(gained)
    assert gained.tone == "even"


def test_slower_everywhere_is_no_gain(run_folder: Path) -> None:
    edit(
        run_folder / "arms/ultra-25/metrics.json",
        lambda arm: arm.update(
            forward_ms={
                tokens: {"median": 90.0, "iqr": [89.0, 91.0]} for tokens in arm["forward_ms"]
            }
        ),
    )
    _, found = read(run_folder)
    assert found["What was gained"].tone == "bad"
    assert "slower at 1, 16, 128 and 512." in words(found["What was gained"])


def test_a_difference_inside_the_spread_is_called_that(run_folder: Path) -> None:
    dense = read_run(run_folder).dense
    times = {
        str(n): {"median": s.center * 0.999, "iqr": [s.low, s.high]} for n, s in dense.times.items()
    }
    edit(run_folder / "arms/ultra-25/metrics.json", lambda arm: arm.update(forward_ms=times))
    _, found = read(run_folder)
    assert "None of these differences in time is larger" in words(found["What was gained"])
    assert found["What was gained"].tone == "even"


def test_a_lower_loss_than_dense_is_no_loss(tmp_path: Path) -> None:
    _, found = read(write_run(tmp_path / "run", seeds=False, losses={"ultra-25": 2.380}))
    lost = found["What was lost"]
    assert lost.tone == "good"
    assert lost.headline.startswith("Nothing: −0.011 nats")


def test_what_was_lost_names_both_losses_and_the_gap(run_folder: Path) -> None:
    _, found = read(run_folder)
    lost = found["What was lost"]
    assert lost.headline == "+0.037 nats, perplexity +3.8\u202f%"
    assert "2.428 instead of 2.391" in words(lost)
    assert "without any FFN (2.974) it recovers 93.7\u202f%" in words(lost)
    assert "Over five seeds the difference is +0.037" in words(lost)


def test_where_no_ffn_is_needed_no_gap_is_claimed(tmp_path: Path) -> None:
    run, found = read(write_run(tmp_path / "run", losses={"none": 2.390}))
    assert run.recovered(run.arms["ultra-25"]) is None
    assert "there is no gap to recover" in words(found["What was lost"])
    assert "recovers" not in words(found["What was lost"])


def test_a_run_without_a_replacement_says_so(run_folder: Path) -> None:
    edit(
        run_folder / "run.json",
        lambda run: run.update(arms=["dense", "none"], main=None, rival=None),
    )
    (verdict,) = verdicts(read_run(run_folder))
    assert "nothing to compare" in verdict.sentences[0]
