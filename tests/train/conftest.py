"""A small folder of text, and a token cache that no other run sees."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

WORDS = ("cat", "sat", "on", "the", "mat", "and", "saw", "how", "it", "ran", "from", "red")


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files of 40 lines, drawn from a small vocabulary."""
    draw = random.Random(0)
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(40)]
        (folder / f"file{number:02d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
