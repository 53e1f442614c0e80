from pathlib import Path

import pytest

from undense.errors import UndenseError
from undense.train.corpus import BLOCK_CHARACTERS, HELDOUT_PERCENT, load_corpus, path_rank


@pytest.fixture(scope="module")
def library():
    return load_corpus()


def test_loading_the_standard_library_twice_gives_one_corpus(library):
    assert load_corpus() == library


def test_no_path_of_the_standard_library_is_on_both_sides(library):
    train = {document.path for document in library.train}
    heldout = {document.path for document in library.heldout}
    assert not train & heldout
    assert len(train) == len(library.train) and len(heldout) == len(library.heldout)


def test_about_a_twentieth_of_the_standard_library_is_held_out(library):
    share = len(library.heldout) / (len(library.heldout) + len(library.train))
    assert 0.03 < share < 0.08
    assert sum(len(document.text) for document in library.heldout) > 200_000


def test_the_side_of_a_path_follows_from_the_path_alone(library):
    # Frozen values: another rule would mix the held-out text of two Python versions.
    assert path_rank("traceback.py") == pytest.approx(0.04844887800280178)
    assert path_rank("argparse.py") == pytest.approx(0.7861274150892384)
    limit = HELDOUT_PERCENT / 100
    assert all(path_rank(document.path) <= limit for document in library.heldout)
    assert all(path_rank(document.path) > limit for document in library.train)


def test_the_topics_are_prose_and_other_packages_are_left_out(library):
    documents = {document.path: document.text for document in (*library.train, *library.heldout)}
    assert "\n" in documents["pydoc_data/topics/if"]
    assert "pydoc_data/topics.py" not in documents
    assert not any("site-packages" in path or "/test/" in path for path in documents)


def test_a_folder_is_split_without_overlap_and_nothing_is_lost(text_folder):
    corpus = load_corpus(text_folder)
    paths = [document.path for document in (*corpus.train, *corpus.heldout)]
    assert sorted(paths) == sorted(path.name for path in text_folder.iterdir())
    assert corpus.train and corpus.heldout


def test_a_changed_letter_changes_the_hash_and_a_changed_place_on_disk_does_not(tmp_path):
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.txt").write_text("some text", encoding="utf-8")
        (folder / "b.txt").write_text("more text", encoding="utf-8")
    (tmp_path / "three" / "b.txt").write_text("more texT", encoding="utf-8")
    one, two, three = (load_corpus(tmp_path / name).sha256 for name in ("one", "two", "three"))
    assert one == two != three


def test_a_single_file_is_split_by_blocks_that_join_to_the_file(tmp_path):
    path = tmp_path / "book.txt"
    text = "".join(f"line {number} of a long book\n" for number in range(4000))
    path.write_text(text, encoding="utf-8")
    corpus = load_corpus(path)
    documents = sorted((*corpus.train, *corpus.heldout), key=lambda document: document.path)
    assert "".join(document.text for document in documents) == text
    assert len(documents) > 5 and corpus.train and corpus.heldout
    assert all(document.text.endswith("\n") for document in documents)


def test_a_file_without_line_ends_is_cut_all_the_same(tmp_path):
    path = tmp_path / "one-line.txt"
    path.write_text("x" * (3 * BLOCK_CHARACTERS), encoding="utf-8")
    corpus = load_corpus(path)
    assert len(corpus.train) + len(corpus.heldout) == 3


def _missing(folder: Path) -> Path:
    return folder / "nowhere"


def _empty_folder(folder: Path) -> Path:
    return folder


def _empty_file(folder: Path) -> Path:
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    return folder / "empty.txt"


def _not_text(folder: Path) -> Path:
    (folder / "picture.png").write_bytes(b"\x89PNG\xff\xfe\x00")
    return folder


def _too_short(folder: Path) -> Path:
    (folder / "short.txt").write_text("a few words", encoding="utf-8")
    return folder / "short.txt"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "no such file or folder"),
        (_empty_folder, "empty"),
        (_empty_file, "empty"),
        (_not_text, r"picture\.png: not UTF-8 text"),
        (_too_short, "too short"),
    ],
)
def test_data_that_cannot_be_used_is_one_clear_error(tmp_path, make, says):
    with pytest.raises(UndenseError, match=says):
        load_corpus(make(tmp_path))
