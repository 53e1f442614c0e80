"""`undense bench pareto`: FFNs trained from scratch, tuned alike, against all that they cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.options import Common, CommonOptions
from undense.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sweeps the learning rate of every arm, trains all arms on the same seeds, and sets their loss
    beside FLOPs, parameters and time; an interrupted call goes on when repeated."""

    study: Annotated[Path, tyro.conf.Positional]
    """A JSON file such as recipes/pareto-plain-128.json."""
    output_dir: Path | None = None
    """Where runs are kept and the result file and plot are written; runs/STUDY by default."""
    seeds: tuple[int, ...] = ()
    """Instead of the study's seeds, such as the first of them; more may follow in a later call."""
    jobs: int = 1
    """Runs at a time, each in a process of its own."""
    threads: int = 1
    """Threads of each run, and of the times that are measured."""
    dry_run: bool = False
    """Say what every arm costs and how many runs it takes, and write nothing."""
    common: CommonOptions = field(default_factory=Common)


def run(options: Options) -> dict[str, Any]:
    """The plan, or every figure."""
    from undense.errors import UndenseError
    from undense.pipeline.pareto import bench_pareto, planned
    from undense.pipeline.study import Study

    for name in ("jobs", "threads"):
        if getattr(options, name) < 1:
            raise UndenseError(f"bench pareto: {name}={getattr(options, name)} must be at least 1")
    study = Study.load(options.study)
    if options.seeds:
        study = replace(study, seeds=options.seeds)
    folder = options.output_dir or Path("runs") / options.study.stem
    if options.dry_run:
        return {"dry_run": True, "output_dir": str(folder), **planned(study)}
    name, jobs, threads = (str(options.study), options.jobs, options.threads)
    result = bench_pareto(study, folder, name=name, jobs=jobs, threads=threads)
    return {"dry_run": False, **result}


def show(result: dict[str, Any], screen: Screen) -> None:
    """A row an arm, the best first; then the differences to the yardsticks."""
    arms = result["arms"]
    if result["dry_run"]:
        rows = [(name, *_cost(arm)) for name, arm in arms.items()]
        screen.table(("arm", "FFN FLOPs", "FFN parameters", "group"), rows, words=("group",))
        screen.line(
            f"{result['sweep_runs']} runs at least to choose rates, then {result['runs']} of"
            f" {result['tokens']:,} tokens; would write: {result['output_dir']}"
        )
        return
    rows = [
        (name, *_cost(arm)[:2], f"{arm['rate']:g}", f"{arm['mean']:.4f}", _interval(arm["ci95"]),
         f"{arm['training_seconds']:.0f} s", f"{arm['sequence_ms']:.1f} ms")
        for name, arm in sorted(arms.items(), key=lambda pair: pair[1]["mean"])
    ]  # fmt: skip
    columns = ("arm", "FFN FLOPs", "FFN parameters", "rate", "loss", "95 %", "training", "sequence")
    screen.table(columns, rows)
    screen.table(
        ("difference", "nats", "95 %"),
        [(k, f"{v['mean']:+.4f}", _interval(v["ci95"])) for k, v in result["paired"].items()],
    )
    for arm in result["best_at_an_end"]:
        screen.line(f"{arm}: its best rate is at an end of what the sweep tried")
    for path in result["files"]:
        screen.line(path)


def _cost(arm: dict[str, Any]) -> tuple[str, str, str]:
    flops, parameters = (arm["ffn_flops_share"], arm["ffn_parameter_share"])
    return f"{100 * flops:.1f}%", f"{100 * parameters:.1f}%", arm["group"]


def _interval(bounds: list[float] | None) -> str:
    return "one seed" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
