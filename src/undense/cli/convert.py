"""`undense convert`: replace the FFNs of a model by a closed-form start and save it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.options import Common, CommonOptions, TargetOption
from undense.cli.screen import Screen
from undense.cli.text import Text, TextOptions
from undense.pipeline.settings import ConvertSettings, DataSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """A model in, a stock Hugging Face folder with other FFNs out."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder, a hub name, or "tiny" for the bundled model."""
    output_dir: Path
    """The folder to write; it must not exist yet."""
    ffn: Annotated[str, tyro.conf.arg(metavar="SPEC")] = ConvertSettings.ffn
    """What replaces the dense FFNs (see `undense ls`)."""
    mixer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """A causal sequence mixer to stand for every self-attention, from random weights (GPT-2 and the
    layouts of Llama): spectral_layer, hierarchical_fft and so on, or its config as JSON."""
    targets: TargetOption = None
    """Which FFNs: ends of their paths, globs, re:REGEX, or layers such as 3 or 0-5."""
    exclude: TargetOption = None
    """FFNs to leave dense; the same grammar."""
    calibration_blocks: int = DataSettings.calibration_blocks
    """Blocks of training text that the closed-form start looks at."""
    seed: int = ConvertSettings.seed
    """Seed of everything random."""
    dry_run: bool = False
    """Say what would be done, from the config alone: no weights are read, nothing is written."""
    text: TextOptions = field(default_factory=Text)
    common: CommonOptions = field(default_factory=Common)

    def settings(self) -> ConvertSettings:
        """The same for the pipeline."""
        return ConvertSettings(
            model=self.model,
            ffn=self.ffn,
            mixer=self.mixer,
            targets=self.targets,
            exclude=self.exclude,
            data=self.text.settings(calibration_blocks=self.calibration_blocks),
            seed=self.seed,
        )


def run(options: Options) -> dict[str, Any]:
    """The plan, or the metrics of the model that was written."""
    settings = options.settings()
    place = {"output_dir": str(options.output_dir), "dry_run": options.dry_run}
    if options.dry_run:
        from undense.pipeline.plan import convert_plan

        return place | {"plan": convert_plan(settings, options.output_dir).to_dict()}
    from undense.pipeline import steps

    return place | {"metrics": steps.convert(settings, options.output_dir)}


def show(result: dict[str, Any], screen: Screen) -> None:
    """The plan as a table, or the figures of the new model."""
    if not result["dry_run"]:
        show_metrics(result["metrics"], screen)
        screen.line(f"written: {result['output_dir']}")
        return
    plan = result["plan"]
    rows = [_row(site["name"], site["config"]["component"], site) for site in plan["sites"]]
    rows.append(_row("all of them", "", plan))
    columns = ("FFN", "becomes", "FLOPs a token", "of dense", "parameters", "of dense")
    screen.table(columns, rows, words=("becomes",))
    before, after = (plan["model_parameters_before"], plan["model_parameters_after"])
    screen.line(f"model: {after:,} parameters instead of {before:,}")
    screen.line(f"would write: {result['output_dir']} (nothing was read but the config)")


def _row(name: str, component: str, figures: dict[str, Any]) -> tuple[str, ...]:
    cells = []
    for what in ("flops", "parameters"):
        before, after = (figures[f"{what}_before"], figures[f"{what}_after"])
        cells += [f"{after:,}", f"{100 * after / before:.1f} %" if before else "–"]
    return (name, component, *cells)


def show_metrics(metrics: dict[str, Any], screen: Screen) -> None:
    """Held-out loss, perplexity, cost and size, as every step reports them."""
    facts = {
        "loss": f"{metrics['loss']:.4f} nats a token",
        "perplexity": f"{metrics['perplexity']:.3f}",
        "model FLOPs": f"{metrics['model_flops_per_token']:,.0f} a token",
        "parameters": f"{metrics['parameters']:,}, in FFNs {metrics['ffn_parameters']:,}",
        "evaluated on": f"{metrics['eval_tokens']:,} tokens, sha256 {metrics['batches_hash'][:16]}",
    }
    times = [f"{t['median']:.3g} at {tokens}" for tokens, t in metrics["forward_ms"].items()]
    facts["forward ms"] = f"{', '.join(times)} tokens, threads: {metrics['threads']}"
    if "loss_dense" in metrics:
        facts["loss before"] = f"{metrics['loss_dense']:.4f}"
    screen.facts(facts)
    for event in metrics.get("events", ()):
        screen.line(f"reverted: {event}")
