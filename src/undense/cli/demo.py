"""`undense demo`: the main job, from a dense model to an honest report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from undense.cli.options import Common, CommonOptions, Flat
from undense.cli.screen import Screen
from undense.cli.text import block
from undense.pipeline.settings import DemoSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """A dense model against its replacements; finished stages of an earlier call are kept."""

    settings: Annotated[DemoSettings, Flat] = field(default_factory=DemoSettings)
    output_dir: Path = Path("runs/demo")
    """The run folder: a new one, or one of the same settings, which is continued."""
    dry_run: bool = False
    """Say which arms would be trained, and write nothing."""
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The plan, or where the report is and what it says first."""
    if options.dry_run:
        return _plan(options)
    from undense.pipeline.demo import run_demo
    from undense.report.folder import read_run
    from undense.report.verdict import headlines

    path = run_demo(options.settings, options.output_dir)
    run = read_run(options.output_dir)
    return {
        "report": str(path),
        "dry_run": False,
        "verdict": headlines(run),
        "arms": {
            arm.name: {
                "loss": arm.loss,
                "perplexity": arm.perplexity,
                "ffn_flops_per_token": arm.ffn_flops,
                "model_flops_per_token": arm.model_flops,
                "parameters": arm.parameters,
            }
            for arm in run.arms.values()
        },
    }


def _plan(options: Options) -> dict[str, Any]:
    from undense.convert.convert import plan
    from undense.ffn.shares import dense_config
    from undense.pipeline.load import load_config

    settings = options.settings
    config = load_config(settings.model)
    arms = {}
    for arm in settings.arm_names:
        described = plan(config, dense_config if arm == "dense" else arm)
        arms[arm] = {
            "ffn_flops_per_token": described.sites[0].cost_after.forward,
            "ffn_share": described.flops_after / described.flops_before,
            "parameters": described.model_parameters_after,
        }
    steps = settings.distill_steps + settings.finetune_steps
    return {
        "output_dir": str(options.output_dir),
        "dry_run": True,
        "arms": arms,
        "training_tokens": steps * settings.batch * block(config, settings),
    }


def show(result: dict[str, Any], screen: Screen) -> None:
    """The arms, then the verdict and where the report is."""
    if result["dry_run"]:
        rows = [
            (
                name,
                f"{arm['ffn_flops_per_token']:,}",
                f"{100 * arm['ffn_share']:.1f} %",
                f"{arm['parameters']:,}",
            )
            for name, arm in result["arms"].items()
        ]
        screen.table(("arm", "FLOPs of an FFN", "of dense", "parameters"), rows)
        screen.line(f"training: {result['training_tokens']:,} tokens for every arm")
        screen.line(f"would write: {result['output_dir']}")
        return
    rows = [
        (
            name,
            f"{arm['loss']:.4f}",
            f"{arm['perplexity']:.2f}",
            f"{arm['ffn_flops_per_token']:,}",
            f"{arm['model_flops_per_token']:,.0f}",
        )
        for name, arm in result["arms"].items()
    ]
    columns = ("arm", "loss", "perplexity", "FLOPs of an FFN", "FLOPs of the model")
    screen.table(columns, rows)
    screen.facts(result["verdict"])
    screen.line(f"report: {result['report']}")
