"""What each part of the spectral layer costs: its time without the part over its time with all.

    python benchmarks/mixers_parts.py [--rounds 9] [--threads 1]

The arms of recipes/mixers-ablation-128.json that leave a part out (what only holds parameters still
costs the same and is not here), d=256, 4 heads, fp32, one row: forward and training step on 4096
tokens, decoding one token; all arms in turns. What the parts are worth in quality is what
`mixers_quality.py` measures. Writes `benchmarks/results/mixers-parts-DATE.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import torch
from mixers_speed import DIM, KINDS
from peers import parameters_of

from undense.files import write_json
from undense.measure.timing import environment, interleaved
from undense.mixing import SequenceMixer, build, config_from_dict

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "mixers-ablation-128.json"
LENGTHS = {"forward": 4096, "training step": 4096, "decode": 512}
LAYER = "spectral_layer"


def arms_of(recipe: dict[str, Any]) -> dict[str, SequenceMixer]:
    """The layers of the recipe by the name of their arm."""
    found = {}
    for arm, fields in recipe["arms"].items():
        mixer = fields["mixer"]
        values = {"component": mixer} if isinstance(mixer, str) else mixer
        if values["component"] == LAYER:
            found[arm] = build(DIM, config_from_dict(values))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mixers = arms_of(json.loads(RECIPE.read_text()))
    today = datetime.date.today().isoformat()
    result: dict[str, Any] = {
        "created": today,
        "command": "python benchmarks/mixers_parts.py",
        "environment": environment(),
        "dim": DIM,
        "lengths": LENGTHS,
        "parameters": {arm: parameters_of(mixer) for arm, mixer in mixers.items()},
        "arms": {},
    }
    for kind, length in LENGTHS.items():
        runs = {
            arm: KINDS[kind](mixer.train(kind == "training step"), length)
            for arm, mixer in mixers.items()
        }
        timings = interleaved(runs, rounds=options.rounds, warmup=2)
        full = timings["full"].median_ms
        for arm, timing in timings.items():
            cell = timing.to_dict() | {"ratio": timing.median_ms / full}
            result["arms"].setdefault(arm, {})[kind] = cell
    path = ROOT / "benchmarks" / "results" / f"mixers-parts-{today}.json"
    write_json(path, result)
    print(path, *LENGTHS)
    for arm, cells in result["arms"].items():
        print(f"  {arm:36}", *(f"{cell['ratio']:.2f}" for cell in cells.values()))


if __name__ == "__main__":
    main()
