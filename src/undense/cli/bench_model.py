"""`undense bench model`: how fast whole models are with other FFNs, beside the Amdahl bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from undense.cli.options import Common, CommonOptions
from undense.cli.screen import Screen
from undense.pipeline.bench_settings import ModelBenchSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prefill, decoding and a training step of models with random weights; an interrupted call
    goes on when repeated."""

    models: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL ...]")
    ] = ModelBenchSettings.models
    """Folders, hub names, config.json files, "tiny", or example:gpt2 (gpt2-medium, smollm2-135m,
    …); only their configs are read."""
    arms: tuple[str, ...] = ModelBenchSettings.arms
    """FFN specs; the dense model, and one without FFNs for the bound, are always there."""
    workloads: tuple[str, ...] = ModelBenchSettings.workloads
    """prefill: logits of the last token; decode: with a KV cache; training: forward, backward."""
    tokens: int = ModelBenchSettings.tokens
    """Tokens of the prompt that is read, and of the sequence that is trained on."""
    new: int = ModelBenchSettings.new
    """Tokens that are decoded after the prompt."""
    batch: int = ModelBenchSettings.batch
    """Number of sequences."""
    dtypes: tuple[str, ...] = ModelBenchSettings.dtypes
    """Types of the weights: fp32, bf16."""
    no_memory: bool = False
    """Leave out the peak memory, which takes a process for each arm."""
    rounds: int = ModelBenchSettings.rounds
    """Interleaved rounds."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads that torch may use; by default as it chooses."""
    seed: int = 0
    """Seed of weights and tokens."""
    output_dir: Path = Path("runs/bench-model")
    """Where workloads are kept as they are measured, and the result file and plot are written."""
    dry_run: bool = False
    """Say what would be measured, and write nothing."""
    common: CommonOptions = field(default_factory=Common)

    def settings(self) -> ModelBenchSettings:
        """The same for the pipeline."""
        return ModelBenchSettings(
            models=self.models,
            arms=self.arms,
            workloads=self.workloads,
            tokens=self.tokens,
            new=self.new,
            batch=self.batch,
            dtypes=self.dtypes,
            memory=not self.no_memory,
            rounds=self.rounds,
            threads=self.threads,
            seed=self.seed,
        )


def run(options: Options) -> dict[str, Any]:
    """The plan, or every figure."""
    settings = options.settings()
    from undense.pipeline.model_bench import bench_model, checked_configs, planned

    if options.dry_run:
        checked_configs(settings)
        arms = ["dense", *settings.arms, "none"]
        plan = {"cells": planned(settings), "arms": list(dict.fromkeys(arms))}
        return {"dry_run": True, "output_dir": str(options.output_dir), **plan}
    return {"dry_run": False, **bench_model(settings, options.output_dir)}


def show(result: dict[str, Any], screen: Screen) -> None:
    """A table for each model, type and workload."""
    if result["dry_run"]:
        screen.line(f"arms: {', '.join(result['arms'])}")
        for cell in result["cells"]:
            screen.line(cell)
        screen.line(f"would write: {result['output_dir']}")
        return
    for cell in result["cells"]:
        size = f"{cell['tokens']} tokens" + (f" after {cell['past']}" if cell["past"] else "")
        title = f"{cell['model']}, {cell['dtype']}, {cell['workload']}, {size}"
        columns = ("arm", "ms", "quartiles", "speed-up", "bound", "of it", "peak MB", "weights MB")
        rows = [(name, *_row(arm)) for name, arm in cell["arms"].items()]
        screen.table(columns, rows, title=title)
        if cell["ffn_time_share"] is not None:
            ceiling = "unbounded" if cell["ceiling"] is None else f"{cell['ceiling']:.2f}x"
            screen.line(
                f"the dense FFNs take {100 * cell['ffn_time_share']:.0f} % of the time; without any"
                f" FFN: {ceiling}; batches {cell['batches_hash']}"
            )
        screen.line()
    for line in result["wrong"]:
        screen.line(f"NOT RIGHT: {line}")
    screen.line("bound: Amdahl's, the FFNs' share of the time shrunk to the arm's share of FLOPs.")
    for path in result["files"]:
        screen.line(path)


def _row(arm: dict[str, Any]) -> tuple[str, ...]:
    if "median_ms" not in arm:
        return (str(arm["status"]).partition(":")[0], *("" for _ in range(6)))
    low, high = arm["iqr_ms"]
    memory = arm.get("memory")
    bound = arm.get("bound")
    return (
        f"{arm['median_ms']:.1f}",
        f"{low:.1f}-{high:.1f}",
        f"{arm['speedup']:.2f}x",
        "" if bound is None else f"{bound:.2f}x",
        "" if bound is None else f"{100 * arm['realised']:.0f} %",
        "" if memory is None else f"{memory['peak_mb']:,.0f}",
        "" if memory is None else f"{memory['weights_mb']:,.0f}",
    )
