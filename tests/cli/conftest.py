"""A small trained-like model in a folder, text to read, and the command line run in-process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import Command, Outcome, Place
from transformers import GPT2Config, GPT2LMHeadModel

from undense.cli import main
from undense.train.tokens import train_tokenizer

WORDS = ("cat", "sat", "on", "the", "mat", "and", "saw", "how", "it", "ran", "from", "red")
DIM, CONTEXT = 32, 32


@pytest.fixture
def undense(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process."""

    def run(*argv: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        streams = capsys.readouterr()
        return Outcome(code=code, out=streams.out, err=streams.err)

    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token cache that no other run sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDENSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty files of words."""
    draw = random.Random(0)
    folder = tmp_path_factory.mktemp("text")
    for number in range(30):
        lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(40)]
        (folder / f"file{number:02d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def dense(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "dense"
    corpus = (path.read_text() for path in sorted(text.iterdir()))
    tokenizer = train_tokenizer(corpus, vocab_size=300, context=CONTEXT)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=DIM,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def converted(dense: Path, text: Path) -> Path:
    """The same model with other FFNs, as `undense convert` wrote it."""
    folder = dense.with_name("converted")
    words = ["convert", dense, "--ffn", "low_rank-50", "--output-dir", folder, "--data", text]
    assert main([*map(str, words), "--calibration-blocks", "8", "--eval-blocks", "4"]) == 0
    return folder


@pytest.fixture
def place(tmp_path: Path, dense: Path, converted: Path, text: Path) -> Place:
    """A folder of the test's own beside the shared models."""
    return Place(here=tmp_path, dense=dense, converted=converted, text=text)
