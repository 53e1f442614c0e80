"""What a conversion would do, from the config alone. Nothing that trains is imported: a plan of a
model that does not fit into memory is there in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from undense.convert.attention import plan_mixers
from undense.convert.conversion import Conversion
from undense.convert.convert import plan, skeleton
from undense.errors import UndenseError
from undense.pipeline.load import load_config
from undense.pipeline.settings import ConvertSettings


def convert_plan(settings: ConvertSettings, output_dir: Path) -> Conversion:
    """What `convert` would do: no weights are read. Raises `UndenseError` for whatever it would
    refuse before it reads them."""
    must_be_new(output_dir)
    config = load_config(settings.model)
    if settings.mixer is not None:
        plan_mixers(skeleton(config), mixer_spec(settings.mixer))
    return plan(
        config,
        settings.ffn,
        targets=listed(settings.targets),
        exclude=listed(settings.exclude),
    )


def mixer_spec(text: str) -> str | dict[str, Any]:
    """A mixer's name, or its config as inline JSON."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UndenseError(f"mixer {text!r} is not valid JSON: {error}") from error


def must_be_new(folder: Path) -> None:
    """Raises `UndenseError` where a step would write over something."""
    if folder.exists():
        raise UndenseError(f"{folder} already exists; give another --output-dir")


def listed(values: tuple[str, ...] | None) -> list[str] | None:
    """Targets as `convert_` takes them."""
    return None if values is None else list(values)
