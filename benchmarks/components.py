"""Which component for which budget: every component at about 25 % of the dense FFN's FLOPs.

    python benchmarks/components.py

Quality on the bundled model: held-out loss right after the closed-form start, and after the demo's
layer-wise distillation (one seed, no fine-tuning). Speed at GPT-2's width (768, 4x): time of one
FFN over that of the dense one, arms in turn, median of 15 rounds, one thread. Writes
`benchmarks/results/components-DATE.json` and prints the README's table. Arms that an interrupted
call finished are kept in `runs/components`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from undense.contract import DenseShape, abstract_cost
from undense.convert import originals
from undense.convert.convert import convert_
from undense.convert.sites import find_components, find_sites
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_flops
from undense.files import write_json
from undense.measure.ffn_arms import arms_at
from undense.measure.ffn_bench import Bench, Cell
from undense.measure.timing import environment
from undense.pipeline.figures import TIMED_TOKENS
from undense.pipeline.load import load_blocks, load_model, load_tokenizer
from undense.pipeline.settings import DemoSettings
from undense.train.distill import distill
from undense.train.heldout import heldout_loss
from undense.train.settings import DistillSettings

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "runs" / "components"
SPECS = (
    "ultra-25",
    "ultra-small-25",
    "ultra-all-25",
    "block_topk-25",
    "narrow-25",
    "low_rank-25",
    "gated_dense-25",
    '{"component": "tensor_factor", "blocks": 4}',
    '{"component": "tensor_factor", "factor": "monarch", "blocks": 4, "hidden": 576}',
    '{"component": "tensor_factor", "factor": "kronecker", "terms": 2}',
    '{"component": "tensor_factor", "factor": "block+low_rank", "blocks": 8, "rank": 18}',
    '{"component": "tensor_factor", "factor": "block", "blocks": 1, "keep": 0.24}',
    '{"component": "low_rank", "waist": "silu", "rank": 36}',
    "random_projection-25",
    "seed",
    "projection",
    '{"component": "spectral", "basis": "eigen", "k_freq": 96}',
    "spectral_topk",
    "polynomial",
    "polynomial_learned",
    "polynomial_topk",
    '{"component": "dense", "hidden": 768, "activation": "chebyshev_gelu"}',
    "micro_refine",
    "micro_feedback",
    "none",
)
WIDE = DenseShape(dim=768, hidden=3072)


def quality(spec: str, settings: DemoSettings) -> dict[str, Any]:
    model = load_model(settings.model)
    tokenizer = load_tokenizer(settings.model)
    blocks = load_blocks(tokenizer, None, settings.context, settings.eval_blocks)
    shape = find_sites(model)[0].shape
    calibration = blocks.train.blocks[: settings.calibration_blocks].long()
    convert_(model, spec, calibration=calibration)
    figures: dict[str, Any] = {"loss_start": heldout_loss(model, blocks.heldout)}
    dense = originals.kept(model)
    pairs = {name: (ffn, dense[name]) for name, ffn in find_components(model).items()}
    if any(True for ffn, _ in pairs.values() for _ in ffn.parameters()):
        steps = DistillSettings(steps=settings.distill_steps, learning_rate=settings.distill_rate)
        distill(model, pairs, blocks.train, steps)
    figures["loss_distilled"] = heldout_loss(model, blocks.heldout)
    figures["ffn_parameters"] = sum(p.numel() for f, _ in pairs.values() for p in f.parameters())
    figures["share"] = abstract_cost(shape.dim, resolve(spec, shape)).forward / dense_flops(shape)
    return figures


def speed(rounds: int) -> dict[str, dict[str, Any]]:
    """Every arm by number of tokens, as `undense bench ffn` measures it, weights warm."""
    bench = Bench(
        arms=arms_at(SPECS, WIDE.dim, gated=False),
        dtype="fp32",
        span=0,
        rounds=rounds,
        cap_seconds=600,
        seed=0,
    )
    times = {}
    for tokens in TIMED_TOKENS:
        cell = Cell(dim=WIDE.dim, dtype="fp32", mode="forward", tokens=tokens, memory="warm")
        times[str(tokens)] = bench.measured(cell)["arms"]
        for name, arm in times[str(tokens)].items():
            assert arm["status"] == "measured", f"{name}: {arm['status']}"
    return times


def main() -> None:
    settings = DemoSettings()
    WORK.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    times = speed(settings.timing_rounds)
    rows: dict[str, Any] = {}
    for spec in SPECS:
        kept = WORK / f"{hashlib.sha256(spec.encode()).hexdigest()[:16]}.json"
        if not kept.is_file():
            write_json(kept, quality(spec, settings))
        rows[spec] = json.loads(kept.read_text(encoding="utf-8"))
        rows[spec]["share_768"] = abstract_cost(768, resolve(spec, WIDE)).forward / dense_flops(
            WIDE
        )
        rows[spec]["time_ratio_768"] = {
            tokens: arms[spec]["median_ms"] / arms["dense"]["median_ms"]
            for tokens, arms in times.items()
        }
        print(f"{spec}: {rows[spec]}", flush=True)
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": "python benchmarks/components.py",
        "environment": environment(),
        "dense_times_ms_768": {tokens: arms["dense"] for tokens, arms in times.items()},
        "arms": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / f"components-{today}.json", result)
    print(table(rows))


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| FFN | FLOPs | parameters | loss, start | distilled | FLOPs, d=768"
        " | time at 1 / 16 / 128 / 512 |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec, row in rows.items():
        ratios = " / ".join(f"{value:.2f}" for value in row["time_ratio_768"].values())
        lines.append(
            f"| `{spec}` | {row['share']:.0%} | {row['ffn_parameters'] / 1e6:.2f} M |"
            f" {row['loss_start']:.3f} |"
            f" {row['loss_distilled']:.3f} | {row['share_768']:.0%} | {ratios} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
