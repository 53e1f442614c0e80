"""The comparisons from scratch: every study in recipes/, two runs at a time, one thread each.

    python benchmarks/pareto.py [STUDY …] [--jobs 2] [--seeds 0 1 2]

What `undense bench pareto` does, result and plot copied into `benchmarks/results/`. Hours, unless
`gpu_study.py` has trained the runs; goes on where it was interrupted.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from studies import studies_asked

from undense.pipeline.pareto import bench_pareto

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    recipes = ROOT / "recipes"
    known = [*sorted(recipes.glob("pareto-*.json")), *sorted(recipes.glob("ablation-*.json"))]
    asked, jobs = studies_asked(__doc__, known)
    for path, study in asked:
        folder = ROOT / "runs" / path.stem
        name = f"recipes/{path.name}"
        result = bench_pareto(study, folder, name=name, jobs=jobs, threads=1)
        for file in result["files"]:
            shutil.copy(file, RESULTS)
            print(RESULTS / Path(file).name)


if __name__ == "__main__":
    main()
