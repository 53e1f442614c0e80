"""`undense distill`: teach replaced FFNs what the dense ones did, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.convert import show_metrics
from undense.cli.options import Common, CommonOptions, Flat
from undense.cli.screen import Screen
from undense.cli.text import Text, TextOptions, block
from undense.pipeline.settings import TrainSettings
from undense.train.settings import DistillSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """A converted folder in, a better one out."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A folder that `undense convert` wrote."""
    output_dir: Path
    """The folder to write; it must not exist yet."""
    teacher: str | None = TrainSettings.teacher
    """The dense model; by default the source that the folder's recipe.json names."""
    live: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Write live FLOPs, gates, speed and memory into this folder for `tensorboard --logdir`."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    training: Annotated[DistillSettings, Flat] = field(default_factory=DistillSettings)
    text: TextOptions = field(default_factory=Text)
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The plan, or the metrics of the folder that was written."""
    from undense.pipeline import steps

    settings = TrainSettings(
        model=options.folder, teacher=options.teacher, data=options.text.settings()
    )
    if options.dry_run:
        return training_plan("distill", settings, options.training, options.output_dir)
    metrics = steps.distill_folder(
        settings, options.training, options.output_dir, live=options.live
    )
    return {"output_dir": str(options.output_dir), "dry_run": False, "metrics": metrics}


def training_plan(
    step: str, settings: TrainSettings, training: Any, output_dir: Path
) -> dict[str, Any]:
    """What a training step would do; raises `UndenseError` for a folder that is no model."""
    from undense.pipeline import steps
    from undense.pipeline.load import load_config
    from undense.pipeline.plan import must_be_new

    config = load_config(settings.model)
    must_be_new(output_dir)
    recipe = steps.read_recipe(settings.model)
    return {
        "output_dir": str(output_dir),
        "dry_run": True,
        "plan": {
            "step": step,
            "model_type": config.model_type,
            "teacher": settings.teacher or recipe["source"],
            "earlier_steps": [done["step"] for done in recipe["steps"]],
            "training_tokens": training.steps * training.batch * block(config, settings.data),
            **asdict(training),
        },
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """The plan, or the figures of the new folder."""
    if result["dry_run"]:
        screen.facts(result["plan"])
        screen.line(f"would write: {result['output_dir']}")
    else:
        show_metrics(result["metrics"], screen)
        screen.line(f"written: {result['output_dir']}")
