"""How things are broken: models, text, disks and keyboards; and what a case of it is."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import Place
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel, PreTrainedModel

from undense.convert import convert as conversion

Words = list[str | Path]
Prepare = Callable[[Place, pytest.MonkeyPatch], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`argv` is made after `prepare` has broken something; every one of `says` is in the line."""

    name: str
    argv: Callable[[Place], Words]
    says: tuple[str, ...]
    code: int = 1
    prepare: Prepare = field(default=lambda place, patch: None)


def convert(*more: str) -> Callable[[Place], Words]:
    """A conversion that would work, but for the words added."""
    return lambda p: [
        *("convert", p.dense, "--output-dir", p.here / "out", "--data", p.text),
        *("--calibration-blocks", "8", "--eval-blocks", "4", *more),
    ]


def evaluate(name: str) -> Callable[[Place], Words]:
    """Evaluate a model of the test's own."""
    return lambda p: ["eval", p.here / name, "--data", p.text, "--eval-blocks", "4"]


def spec(**values: object) -> tuple[str, str]:
    """An inline config."""
    return "--ffn", json.dumps(values)


def tensors(change: Callable[[dict[str, torch.Tensor], str], None]) -> Prepare:
    """Change the stored weights of the converted model; `change` also gets the first FFN's key."""

    def prepare(place: Place, patch: pytest.MonkeyPatch) -> None:
        path = place.copy(place.converted) / "model.safetensors"
        weights = load_file(path)
        change(weights, next(key for key in sorted(weights) if ".mlp." in key))
        save_file(weights, path, metadata={"format": "pt"})

    return prepare


def damaged(damage: Callable[[bytes], bytes], file: str = "model.safetensors") -> Prepare:
    """Change the bytes of a file of the converted model."""

    def prepare(place: Place, patch: pytest.MonkeyPatch) -> None:
        path = place.copy(place.converted) / file
        path.write_bytes(damage(path.read_bytes()))

    return prepare


def file(name: str, content: bytes) -> Prepare:
    """A file of the test's own."""

    def prepare(place: Place, patch: pytest.MonkeyPatch) -> None:
        path = place.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return prepare


def few_words(place: Place, patch: pytest.MonkeyPatch) -> None:
    for name in "abcdefgh":
        file(f"few/{name}.txt", name.encode())(place, patch)


def few_words_recipe(place: Place, patch: pytest.MonkeyPatch) -> None:
    few_words(place, patch)
    recipe = {"data": str(place.here / "few"), "steps": 1, "vocab_size": 300, "context": 64}
    file("r.json", json.dumps(recipe).encode())(place, patch)


def nan_weights(place: Place, patch: pytest.MonkeyPatch) -> None:
    model = GPT2LMHeadModel.from_pretrained(place.dense)
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    folder = place.copy(place.dense)
    model.save_pretrained(folder)


def disk_full(place: Place, patch: pytest.MonkeyPatch) -> None:
    def write(self: PreTrainedModel, folder: Path) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    patch.setattr(PreTrainedModel, "save_pretrained", write)


def ctrl_c(place: Place, patch: pytest.MonkeyPatch) -> None:
    def fitted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    patch.setattr(conversion, "fitted", fitted)


def ctrl_c_while_saving(place: Place, patch: pytest.MonkeyPatch) -> None:
    def write(self: PreTrainedModel, folder: Path) -> None:
        (Path(folder) / "config.json").write_text("{")
        raise KeyboardInterrupt

    patch.setattr(PreTrainedModel, "save_pretrained", write)
