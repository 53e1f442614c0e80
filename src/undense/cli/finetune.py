"""`undense finetune`: fine-tune a model folder, converted or dense."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli import distill
from undense.cli.options import Common, CommonOptions, Flat
from undense.cli.screen import Screen
from undense.cli.text import Text, TextOptions
from undense.pipeline.settings import TrainSettings
from undense.train.settings import FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """A folder in, a better one out."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A model folder, a hub name, or "tiny" for the bundled model."""
    output_dir: Path
    """The folder to write; it must not exist yet."""
    teacher: str | None = TrainSettings.teacher
    """Whose logits to learn from where --teacher-weight is above 0; by default the source that
    the folder's recipe.json names."""
    live: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Write live FLOPs, gates, speed and memory into this folder for `tensorboard --logdir`."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    training: Annotated[FinetuneSettings, Flat] = field(default_factory=FinetuneSettings)
    text: TextOptions = field(default_factory=Text)
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The plan, or the metrics of the folder that was written."""
    from undense.pipeline import steps

    settings = TrainSettings(
        model=options.folder, teacher=options.teacher, data=options.text.settings()
    )
    if options.dry_run:
        return distill.training_plan("finetune", settings, options.training, options.output_dir)
    metrics = steps.finetune_folder(
        settings, options.training, options.output_dir, live=options.live
    )
    return {"output_dir": str(options.output_dir), "dry_run": False, "metrics": metrics}


def show(result: dict[str, Any], screen: Screen) -> None:
    """The plan, or the figures of the new folder."""
    distill.show(result, screen)
