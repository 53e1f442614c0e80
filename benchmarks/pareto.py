"""The comparisons from scratch: every study in recipes/, two runs at a time, one thread each.

    python benchmarks/pareto.py [STUDY …] [--jobs 2] [--seeds 0 1 2]

What `undense bench pareto` does, result and plot copied into `benchmarks/results/`. Studies of one
host share a folder, `runs/pareto-HOST`, so that arms they have in common are trained once. Hours;
goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from undense.pipeline.pareto import bench_pareto
from undense.pipeline.study import Study

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", nargs="*", type=int)
    options = parser.parse_args()
    recipes = ROOT / "recipes"
    known = [*sorted(recipes.glob("pareto-*.json")), *sorted(recipes.glob("ablation-*.json"))]
    for path in options.studies or known:
        study = Study.load(path)
        if options.seeds:
            study = replace(study, seeds=tuple(options.seeds))
        folder = ROOT / "runs" / f"pareto-{path.stem.partition('-')[2]}"
        name = f"recipes/{path.name}"
        result = bench_pareto(study, folder, name=name, jobs=options.jobs, threads=1)
        for file in result["files"]:
            shutil.copy(file, RESULTS)
            print(RESULTS / Path(file).name)


if __name__ == "__main__":
    main()
