"""Single FFNs, dense and others, at every size: the evidence of `undense bench ffn`.

    python benchmarks/ffn_speed.py [--threads N]

Two calls of the command's own code: GPT-2's kind of FFN with everything, compiled dense included,
and Llama's gated kind at two widths, forward. Goes on where it was interrupted
(`runs/ffn-speed`); writes `benchmarks/results/ffn-speed-DATE*` (JSON and plots); exits with 1 where
an arm is wrong. The command itself takes other arms, widths and numbers of tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from undense.files import write_json
from undense.pipeline.bench_settings import FFNBenchSettings
from undense.pipeline.ffn_bench import bench_ffn
from undense.report.bench_plot import draw_ffn

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    "ffn-speed": FFNBenchSettings(compiled=True),
    "ffn-speed-gated": FFNBenchSettings(
        gated=True, widths=(576, 2048), modes=("forward",), memories=("cold",)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Single FFNs at every size.")
    parser.add_argument("--threads", type=int, default=None)
    threads = parser.parse_args().threads
    codes = []
    for name, settings in RUNS.items():
        chosen = FFNBenchSettings(**(vars(settings) | {"threads": threads}))
        result: dict[str, Any] = bench_ffn(chosen, ROOT / "runs" / name)
        result["command"] = "python benchmarks/ffn_speed.py"
        del result["files"]
        stem = ROOT / "benchmarks" / "results" / f"{name}-{result['created']}"
        write_json(stem.with_name(f"{stem.name}.json"), result)
        draw_ffn(result, stem)
        print("\n".join([f"{name}: {len(result['cells'])} cells", *result["wrong"]]))
        codes.append(0 if result["ok"] else 1)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
