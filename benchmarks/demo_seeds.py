"""The demo's main comparison over five paired seeds: the spread that stands beside a live run.

    python benchmarks/demo_seeds.py

Every seed draws the order of the training blocks, for all arms alike. Writes
`benchmarks/results/demo-seeds-DATE.json` and the copy that the report shows,
`src/undense/tiny/seeds.json`. Finished arms of an interrupted run are kept.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import torch

from undense.files import write_json
from undense.measure.intervals import paired, summary
from undense.measure.timing import environment
from undense.pipeline.arm import read_figures, run_arm
from undense.pipeline.load import context_of, load_blocks, load_model, load_tokenizer
from undense.pipeline.settings import DemoSettings

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "runs" / "demo-seeds"
SEEDS = (0, 1, 2, 3, 4)
ARMS = ("dense", "ultra-25", "narrow-25", "none")
PAIRS = (("ultra-25", "narrow-25"), ("ultra-25", "dense"), ("none", "dense"))


def main() -> None:
    defaults = DemoSettings()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(defaults.model)
    context = context_of(load_model(defaults.model), defaults.context)
    blocks = load_blocks(tokenizer, defaults.data, context, defaults.eval_blocks)
    losses: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for arm in ARMS:
            folder = WORK / f"seed-{seed}" / arm
            run_arm(arm, DemoSettings(arms=ARMS, seed=seed), blocks, tokenizer, folder)
            losses[arm].append(read_figures(folder)["loss"])
            print(f"seed {seed} {arm}: {losses[arm][-1]:.4f}", flush=True)
    today = datetime.date.today().isoformat()
    recovered = [
        (none - ultra) / (none - dense)
        for none, ultra, dense in zip(
            losses["none"], losses["ultra-25"], losses["dense"], strict=True
        )
    ]
    result = {
        "created": today,
        "command": "python benchmarks/demo_seeds.py",
        "environment": environment(),
        "corpus": blocks.corpus.sha256,
        "seeds": list(SEEDS),
        "steps": {"distill": defaults.distill_steps, "finetune": defaults.finetune_steps},
        "arms": {arm: {"losses": losses[arm], **summary(losses[arm])} for arm in ARMS},
        "paired": {f"{one} - {other}": paired(losses[one], losses[other]) for one, other in PAIRS},
        "gap_recovered": {"values": recovered, **summary(recovered)},
    }
    write_json(ROOT / "benchmarks" / "results" / f"demo-seeds-{today}.json", result)
    write_json(ROOT / "src" / "undense" / "tiny" / "seeds.json", result)


if __name__ == "__main__":
    main()
