"""`undense profile`: where a model's time goes, beside where its FLOPs go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Options:
    """A forward pass, timed module by module; with --output-dir a trace and a plot of it."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder, converted or dense, a hub name, or "tiny"."""
    tokens: int = 128
    """Tokens in a sequence."""
    batch: int = 1
    """Number of sequences."""
    rounds: int = 20
    """Timed passes with and without hooks; figures are of the fastest."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads that torch may use; by default as it chooses."""
    dry_run: bool = False
    """Say what would be timed and written, and do neither."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """The plan, or the figures; profile.json, trace.json and profile.png in the output folder."""
    from undense.pipeline.load import load_config
    from undense.pipeline.profiling import FILES, ProfileSettings, profile_model

    options.common.sow()
    settings = ProfileSettings(
        model=options.model,
        tokens=options.tokens,
        batch=options.batch,
        rounds=options.rounds,
        threads=options.threads,
        seed=options.common.seed,
    )
    folder = options.common.output_dir
    if options.dry_run:
        config = load_config(options.model)
        writes = [] if folder is None else [str(folder / name) for name in FILES]
        plan = {
            "model": options.model,
            "model_type": config.model_type,
            "passes": 2 * settings.rounds + settings.warmup + (folder is not None),
            "tokens_a_pass": settings.batch * settings.tokens,
            "writes": writes,
        }
        return {"dry_run": True, "plan": plan}
    return {"dry_run": False, **profile_model(settings, folder)}


def show(result: dict[str, Any], screen: Screen) -> None:
    """Parts of the model, then what they are made of: time beside FLOPs."""
    if result["dry_run"]:
        screen.facts(result["plan"])
        return
    columns = ("part", "ms", "time", "FLOPs", "share")
    rows = [(row["part"], *_figures(row)) for row in result["parts"]]
    title = (
        f"{result['model']}, {result['batch']} x {result['tokens']} tokens, {result['device']},"
        f" {result['environment']['threads']} threads"
    )
    screen.table(columns, rows, title=title)
    screen.line()
    pieces = [(f"{r['part']}: {r['component']}", *_figures(r)) for r in result["components"]]
    screen.table(("inside, all layers", *columns[1:]), pieces)
    screen.line()
    energy = result["energy"]
    facts = {
        "a pass": f"{result['milliseconds']:.2f} ms ({result['tokens_per_s']:,.0f} tokens/s,"
        f" {result['gflops_per_s']:.1f} GFLOP/s)",
        "hooks add": f"{100 * result['hook_overhead']:+.1f} %",
        "peak memory": f"{result['peak_mb']:,.0f} MB",
    }
    for source, joules in energy["joules_per_token"].items():
        facts[f"energy, {source}"] = f"{1e3 * joules:.3f} mJ a token"
    for source, reason in energy["missing"].items():
        facts[f"energy, {source}"] = f"cannot be read: {reason}"
    screen.facts(facts)
    if result["uncounted"]:
        screen.line(f"without a FLOP formula: {', '.join(result['uncounted'])}")


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['milliseconds']:.3f}",
        f"{100 * row['time_share']:.1f} %",
        f"{row['flops']:,}",
        f"{100 * row['flops_share']:.1f} %",
    )
