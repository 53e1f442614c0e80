"""Model folders: written whole or not at all, and loaded strictly or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from undense.convert import strict
from undense.errors import UndenseError
from undense.files import new_parents


def save(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write `model` as a stock Hugging Face folder, at once: never half, never mixed with an old.

    `files`: further text files by name (`recipe.json`, `README.md`). A model folder that is there
    already is replaced whole. Raises `UndenseError`, leaving what was there, for a folder that is
    something else or has folders in it (a Trainer's checkpoints), and for a full disk.
    """
    target = Path(folder)
    with written_whole(target, marker="config.json") as temporary:
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        for name, text in (files or {}).items():
            (temporary / name).write_text(text)
    return target


def load(
    source: str | Path,
    *,
    auto: Any = AutoModelForCausalLM,
    dtype: torch.dtype | str = "auto",
) -> PreTrainedModel:
    """A model, converted or stock, from a folder or by hub name; any key that does not match raises
    an `UndenseError` that names it, and so does a folder that is no model."""
    path = Path(source)
    if path.is_file() or (path.is_dir() and not (path / "config.json").is_file()):
        names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        held = f"it holds {', '.join(names[:8]) or 'nothing'}" if path.is_dir() else "it is a file"
        raise UndenseError(
            f"{source} is no model folder: it has no config.json ({held}); give the folder that"
            " save_pretrained wrote"
        )
    loaded = strict.load(auto.from_pretrained, source, dtype=dtype)
    assert isinstance(loaded, PreTrainedModel)
    return loaded


@contextmanager
def written_whole(folder: Path, *, marker: str) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well.

    Otherwise, Ctrl-C included, it is removed and `folder` is as before. `marker`: the file by which
    a folder that may be replaced is known.
    """
    _require_replaceable(folder, marker)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        with new_parents(folder), _removed(temporary, old, folder):
            temporary.mkdir()
            yield temporary
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UndenseError(f"cannot write {folder}: {error}; nothing was left behind") from error


@contextmanager
def _removed(temporary: Path, old: Path, folder: Path) -> Iterator[None]:
    """Neither stays, whatever happens; where `folder` is gone, `old` is it again."""
    try:
        yield
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _require_replaceable(folder: Path, marker: str) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UndenseError(f"{folder} is a file; give the name of a folder")
    entries = list(folder.iterdir())
    inner = [entry.name for entry in entries if entry.is_dir()]
    if entries and not (folder / marker).is_file():
        raise UndenseError(
            f"{folder} is not empty and has no {marker}, so it is not overwritten; give another"
            " folder"
        )
    if inner:
        raise UndenseError(
            f"{folder} has folders in it ({', '.join(sorted(inner)[:4])}), so it is not"
            " overwritten; give another folder"
        )
