"""`undense train`: pretrain a small model from a recipe; a run that was cut off is continued."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.fields import field_list, with_fields
from undense.cli.options import Common, CommonOptions
from undense.cli.screen import Screen
from undense.train.recipe import PretrainRecipe

# The help must name every field; the comments in the class are where they are explained.
SetOption = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="FIELD=VALUE ...",
        help_behavior_hint="(default: none)",
        help="Set fields of the recipe, over what its file says. All of them, with what holds where"
        f" neither says anything:\n\n{field_list()}\n\n",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A recipe in, a stock Hugging Face folder out."""

    recipe: Path
    """A JSON file of fields, such as recipes/tiny-gpt2.json; --set lists them."""
    output_dir: Path
    """The folder to write; one with checkpoints of the same recipe is continued."""
    ffn: str | None = None
    """Instead of the recipe's FFN: a component or preset, such as block_topk-25 or dense."""
    ffns_from: Path | None = None
    """Start with the FFNs of this folder, such as OTHER_RUN/ffns/step-200."""
    seed: int | None = None
    """Instead of the recipe's seed."""
    set: SetOption = ()
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The plan, or what metrics.json holds."""
    given: dict[str, Any] = {"ffn": options.ffn, "seed": options.seed}
    if options.ffns_from is not None:
        given["ffns_from"] = str(options.ffns_from)
    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = with_fields(PretrainRecipe.load(options.recipe), options.set, chosen)
    place = {"output_dir": str(options.output_dir), "dry_run": options.dry_run}
    if options.dry_run:
        tokens = recipe.steps * recipe.batch * recipe.context
        return place | {"plan": {"training_tokens": tokens, **recipe.to_dict()}}
    from undense.pipeline.pretraining import pretrain_from

    return place | {"metrics": pretrain_from(recipe, options.output_dir)}


def show(result: dict[str, Any], screen: Screen) -> None:
    """The plan, or the losses beside those of n-gram models."""
    if result["dry_run"]:
        screen.facts(result["plan"])
        screen.line(f"would write: {result['output_dir']}")
        return
    metrics = result["metrics"]
    screen.facts(
        {
            "loss": f"{metrics['loss']:.4f} nats a token",
            "bits a byte": f"{metrics['bits_per_byte']:.4f}",
            **{name: f"{loss:.4f}" for name, loss in metrics["baselines"].items()},
            "parameters": f"{metrics['parameters']:,}, {metrics['ffn_parameters']:,} in FFNs",
            "FFN FLOPs": f"{metrics['ffn_share']:.1%} of the dense FFN's",
            "training FLOPs": f"{metrics['training_flops']:.4g}",
            "training time": _seconds(metrics["training_seconds"]),
        }
    )
    for event in metrics["reverts"]:
        screen.line(
            f"diverged at step {event['step']} ({event['what']}): back to step {event['back_to']},"
            f" from there at x{event['rate_factor']:g} of the learning rate"
        )
    screen.line(f"written: {result['output_dir']}")


def _seconds(seconds: float | None) -> str:
    return "not known for all of it" if seconds is None else f"{seconds:.1f} s in steps"
