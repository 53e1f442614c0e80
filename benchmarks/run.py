"""`make bench`: all slow evidence, one script after the other; each writes its dated JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "first_call.py",
    "matrix.py",
    "compiled.py",
    "components.py",
    "ffn_speed.py",
    "model_speed.py",
    "original_proposal.py",
    "pareto.py",
    "demo_seeds.py",
    "proposal_claims.py",
    "counters.py",
    "attribution.py",
    "live_overhead.py",
    "sparse_factors.py",
    "frame_seams.py",
    "mixers_speed.py",
    "mixers_forms.py",
    "mixers_parts.py",
    "mixers_quality.py",
    "mqar.py",
    "long_context.py",
)


def main() -> int:
    here = Path(__file__).resolve().parent
    codes = []
    for script in SCRIPTS:
        print(f"== benchmarks/{script}", flush=True)
        codes.append(subprocess.run([sys.executable, here / script], check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
