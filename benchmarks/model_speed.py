"""Whole models, dense and with other FFNs: the evidence of `undense bench model`.

    python benchmarks/model_speed.py [--threads N]

GPT-2 small and medium and SmolLM2-135M's shape, random weights: prefill of 512 tokens, decoding
after them, a training step, peak memory, each beside its Amdahl bound. Goes on where it was
interrupted (`runs/model-speed`); writes `benchmarks/results/model-speed-DATE` (JSON and a plot);
exits with 1 where an arm's FFN is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from undense.files import write_json
from undense.pipeline.bench_settings import ModelBenchSettings
from undense.pipeline.model_bench import bench_model
from undense.report.model_bench_plot import draw_model

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole models with other FFNs.")
    parser.add_argument("--threads", type=int, default=None)
    settings = ModelBenchSettings(
        models=("example:gpt2", "example:gpt2-medium", "example:smollm2-135m"),
        threads=parser.parse_args().threads,
    )
    result = bench_model(settings, ROOT / "runs" / "model-speed")
    result["command"] = "python benchmarks/model_speed.py"
    del result["files"]
    stem = ROOT / "benchmarks" / "results" / f"model-speed-{result['created']}"
    write_json(stem.with_suffix(".json"), result)
    draw_model(result, stem.with_suffix(".png"))
    print("\n".join([f"{len(result['cells'])} cells", *result["wrong"]]))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
