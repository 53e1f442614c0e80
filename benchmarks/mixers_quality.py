"""What a mixer learns: bits per byte of language models that differ in the mixer alone.

    python benchmarks/mixers_quality.py [recipes/mixers-192.json …] [--jobs 2] [--seeds 0 1 2]

One host (`SpectralForCausalLM`: RMSNorm, SwiGLU, tied embeddings), equal tokens, every arm's rate
swept on a seed that no figure uses, then paired seeds. `mixers-192`: pure spectral, a hybrid (every
second layer sliding-window attention), attention with rotary positions, and Mamba-2, as wide as
makes their parameters alike. `mixers-ablation-128`: the spectral layer without each of its parts,
at the full layer's best rate. Goes on where it was interrupted; writes
`benchmarks/results/STUDY-DATE.json` and a plot.
"""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path
from typing import Any

import held  # noqa: F401  (registers a layer with parts that do not learn, in every process)
import peers  # noqa: F401  (the mixers of others)
from studies import studies_asked

from undense.files import write_json
from undense.measure.intervals import summary
from undense.measure.timing import environment
from undense.pipeline.study import Study
from undense.pipeline.study_runs import run_all
from undense.pipeline.tuning import at_an_end, best_rates, claim, differences, sweep, train_all
from undense.report.arms_plot import draw_arms

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ("mixers-192.json", "mixers-ablation-128.json")


def measure(study: Study, folder: Path, name: str, jobs: int) -> dict[str, Any]:
    """Train what `folder` does not hold yet; every arm's bits per byte, and its differences."""
    claim(study, folder)
    train = partial(run_all, jobs=jobs, threads=1)
    search = sweep(study, folder, train)
    rates = best_rates(study, search)
    steps = study.base["steps"]
    runs = train_all(study, folder, rates, dict.fromkeys(study.arms, steps), train)
    arms: dict[str, Any] = {}
    for arm, of_arm in runs.items():
        found = [run.found() or {} for run in of_arm]
        bits = [metrics["bits_per_byte"] for metrics in found]
        arms[arm] = {
            "recipe": study.arms[arm].recipe,
            "parameters": found[0]["parameters"],
            "rate": rates[arm],
            "bits_per_byte": bits,
            "nats_per_token": [metrics["loss"] for metrics in found],
            "training_seconds": [metrics["training_seconds"] for metrics in found],
            **summary(bits),
        }
    return {
        "created": datetime.date.today().isoformat(),
        "command": f"python benchmarks/mixers_quality.py {name}",
        "environment": environment(),
        "study": study.to_dict(),
        "tokens": steps * study.base["batch"] * study.base["context"],
        "arms": arms,
        "paired": differences(study, {arm: a["bits_per_byte"] for arm, a in arms.items()}),
        "search": search,
        "best_at_an_end": at_an_end(study, search),
    }


def main() -> None:
    asked, jobs = studies_asked(__doc__, [ROOT / "recipes" / name for name in STUDIES])
    for path, study in asked:
        result = measure(study, ROOT / "runs" / path.stem, f"recipes/{path.name}", jobs)
        out = ROOT / "benchmarks" / "results" / f"{path.stem}-{result['created']}.json"
        write_json(out, result)
        label = "held-out bits a byte"
        draw_arms(result["arms"], "bits_per_byte", label, out.with_suffix(".png"))
        print(out)
        for arm, figures in result["arms"].items():
            spread = " ".join(f"{bits:.4f}" for bits in figures["bits_per_byte"])
            print(f"  {arm:28} {figures['mean']:.4f} ({spread})")


if __name__ == "__main__":
    main()
