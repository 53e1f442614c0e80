"""The page is one file that needs nothing else, says everything, and is the same every time."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fixture import HASH, edit, write_run

from undense.errors import UndenseError
from undense.report import page as page_module
from undense.report.folder import read_run
from undense.report.page import render, write_report
from undense.report.style import apart, looks


class Structure(HTMLParser):
    """Ids, addresses and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(read_run(write_run(tmp_path_factory.mktemp("page") / "run")))


def test_nothing_is_fetched_and_nothing_runs(page: str) -> None:
    structure = Structure(page)
    assert [link for link in structure.links if not link.startswith("#")] == []
    assert "script" not in structure.tags
    assert not re.search(r"@import|url\((?!#)", page)


def test_ids_are_unique_across_the_plots_and_every_reference_resolves(page: str) -> None:
    structure = Structure(page)
    assert structure.tags.count("svg") == 5
    assert len(structure.ids) == len(set(structure.ids))
    wanted = set(re.findall(r"url\(#([^)]+)\)", page)) | {link[1:] for link in structure.links}
    assert wanted <= set(structure.ids)


def test_everything_that_was_asked_of_a_report_is_on_it(page: str) -> None:
    for words in (
        "What was gained",
        "What was lost",
        "Who won",
        "gap<br>recovered",
        "FFN<br>MACs",
        "parameters",
        "Amdahl",
        "the dense FFNs take",
        "bigram 4.02",
        HASH,
        "threads: 2",
        "dtype: float32",
        "<code>undense demo</code>",
        "a multiply-add is 2",
        "h.2.mlp diverged at step 41",
        "One run beside 5 seeds",
        "597,696",
    ):
        assert words in page, words
    assert page.index("What was gained") < page.index("Every arm, trained alike")


def test_the_same_run_gives_the_same_page(run_folder: Path) -> None:
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    assert path.read_text(encoding="utf-8") == render(read_run(run_folder))


def test_without_seeds_there_is_no_spread_to_show(tmp_path: Path) -> None:
    page = render(read_run(write_run(tmp_path / "run", seeds=False)))
    assert "beside 5 seeds" not in page
    assert Structure(page).tags.count("svg") == 4


def test_a_run_of_dense_alone_has_a_page(run_folder: Path) -> None:
    edit(
        run_folder / "run.json",
        lambda run: run.update(arms=["dense"], floor=None, main=None, rival=None),
    )
    page = render(read_run(run_folder))
    assert "nothing to compare" in page
    assert "no arm had this stage" in page


def test_a_disturbed_timing_gives_no_ceiling(run_folder: Path) -> None:
    edit(
        run_folder / "metrics.json",
        lambda top: top["amdahl"]["1"].update(ffn_time_share=1.2, bound=None),
    )
    page = html.unescape(render(read_run(run_folder)))
    assert "120\u202f% of the model's time, which cannot be" in page


def test_text_from_the_run_cannot_become_markup(run_folder: Path) -> None:
    edit(run_folder / "run.json", lambda run: run.update(model="<script>alert(1)</script>"))
    assert "<script>" not in render(read_run(run_folder))


def test_writing_is_whole_or_not_at_all(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "render", lambda run: run.command)
    path = write_report(run_folder)
    before = path.read_text(encoding="utf-8")
    files = sorted(run_folder.iterdir())

    def full(self: Path, text: str, encoding: str) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_report(run_folder)
    assert path.read_text(encoding="utf-8") == before
    assert sorted(run_folder.iterdir()) == files


def test_a_broken_run_keeps_the_earlier_report(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "render", lambda run: run.command)
    path = write_report(run_folder)
    before = path.read_bytes()
    (run_folder / "metrics.json").unlink()
    with pytest.raises(UndenseError, match=r"metrics\.json: no such file"):
        write_report(run_folder)
    assert path.read_bytes() == before


def test_every_arm_has_a_look_of_its_own(run_folder: Path) -> None:
    drawn = looks(read_run(run_folder))
    assert len({look.color for look in drawn.values()}) == len(drawn)
    assert len({look.marker for look in drawn.values()}) == len(drawn)


def test_labels_keep_apart_and_inside() -> None:
    placed = apart([1.0, 1.01, 1.02, 9.9], 0.5, 0.0, 10.0)
    ordered = sorted(placed)
    assert all(b - a > 0.499 for a, b in pairwise(ordered))
    assert placed == ordered
    assert ordered[0] >= 0.0
    assert ordered[-1] <= 10.0


def test_a_report_is_made_without_torch() -> None:
    code = "import sys, undense.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
