"""How long the first call takes, from nothing: a fresh process, no compiler at work.

    python benchmarks/first_call.py [--processes 5] [--output-dir FOLDER]

Each process imports torch, imports undense, builds `ultra-25` at d=768, loads the compiled library,
and runs one forward pass on 128 tokens, then nine more; the median of every part over the
processes. Exits with 1 where the first call takes longer than LIMIT. Writes `first-call-DATE.json`
into `benchmarks/results` or the folder that is given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path

from undense.files import write_json
from undense.measure.timing import environment

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 3.0  # seconds
PROGRAM = """
import json, time
times, last = {}, time.perf_counter()

def done(part):
    global last
    now = time.perf_counter()
    times[part], last = now - last, now

import torch
done("import torch")
import undense.ffn
from undense.contract import DenseShape, build
from undense.ffn.presets import resolve
done("import undense")
ffn = build(768, resolve("ultra-25", DenseShape(dim=768, hidden=3072))).eval()
x = torch.randn(128, 768)
done("build")
from undense.kernels.library import kernels
kernels()
done("load library")
with torch.no_grad():
    ffn(x)
    done("first call")
    for _ in range(9):
        ffn(x)
    done("later call")
times["later call"] /= 9
print(json.dumps(times))
"""


def once() -> dict[str, float]:
    """Seconds of every part in one fresh process."""
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description="How long the first call takes, from nothing.")
    parser.add_argument("--processes", type=int, default=5)
    results = ROOT / "benchmarks" / "results"
    parser.add_argument("--output-dir", type=Path, default=results)
    options = parser.parse_args()
    runs = [once() for _ in range(options.processes)]
    seconds = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    today = datetime.date.today().isoformat()
    result = {
        "created": today,
        "command": f"python benchmarks/first_call.py --processes {options.processes}",
        "environment": environment(),
        "limit": LIMIT,
        "seconds": seconds,
        "runs": runs,
    }
    write_json(options.output_dir / f"first-call-{today}.json", result)
    print(json.dumps(seconds))
    return 1 if seconds["first call"] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
