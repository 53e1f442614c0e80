"""`bench pareto`: many FFNs trained from scratch and tuned alike; loss against what each costs."""

from __future__ import annotations

import datetime
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import undense.ffn  # noqa: F401  (registers the components)
from undense.errors import UndenseError
from undense.files import write_json
from undense.measure.intervals import summary
from undense.measure.timing import environment
from undense.pipeline.arm_costs import costs, times
from undense.pipeline.study import Study
from undense.pipeline.study_runs import Run, losses, run_all
from undense.pipeline.tuning import at_an_end, best_rates, claim, differences, sweep, train_all
from undense.report.arms_plot import draw_arms
from undense.report.pareto_plot import draw_pareto


def bench_pareto(
    study: Study, folder: Path, *, name: str, jobs: int, threads: int
) -> dict[str, Any]:
    """Run what `folder` does not hold yet; returns everything as plain JSON values.

    First the time of every arm's step, where an arm is trained as long as another; then a sweep of
    the learning rate for each arm on a seed of its own; then all arms, seed by seed; then the times
    that are reported. Writes `NAME-DATE.json` and two plots. Raises `UndenseError` before training
    for an arm that cannot be built, and for a folder of another study.
    """
    what = costs(study)
    claim(study, folder, {arm: found["ffn"] for arm, found in what.items()})
    steps = steps_of(study, folder, threads)
    train = partial(run_all, jobs=jobs, threads=threads)
    search = sweep(study, folder, train)
    rates = best_rates(study, search)
    runs = train_all(study, folder, rates, steps, train)
    clock = _kept(folder / "times.json", lambda: times(study, threads=threads))
    if not set(study.arms) <= set(clock["arms"]):  # times count only beside one another
        (folder / "times.json").unlink()
        clock = _kept(folder / "times.json", lambda: times(study, threads=threads))
    arms = {
        arm: _figures(study, runs[arm], what[arm], clock["arms"][arm], rates[arm], steps[arm])
        for arm in study.arms
    }
    today = datetime.date.today().isoformat()
    result: dict[str, Any] = {
        "created": today,
        "command": f"undense bench pareto {name} --seeds {' '.join(map(str, study.seeds))}",
        "study": study.to_dict(),
        "environment": environment(),
        "timing": {key: value for key, value in clock.items() if key != "arms"},
        "arms": arms,
        "paired": differences(study, {arm: found["losses"] for arm, found in arms.items()}),
        "search": search,
        "best_at_an_end": at_an_end(study, search),
        "trained_elsewhere": _elsewhere(runs),
        "step_ms_that_decided": _deciding(study, folder),
    }
    stem = Path(name).stem
    plot = draw_pareto(result, folder / f"{stem}-{today}.png")
    label = "held-out loss, nats a token"
    ranking = draw_arms(arms, "losses", label, folder / f"{stem}-{today}-arms.png")
    write_json(folder / f"{stem}-{today}.json", result)
    files = [str(folder / f"{stem}-{today}.json"), str(plot), str(ranking)]
    return result | {"files": files}


def planned(study: Study) -> dict[str, Any]:
    """What would be run at least, and what every arm is, without training anything."""
    first = study.recipe(next(iter(study.arms)), rate=study.rates[0], seed=study.sweep_seed)
    return {
        "sweep_runs": len(study.swept) * len(study.rates),
        "runs": len(study.arms) * len(study.seeds),
        "tokens": first.steps * first.batch * first.context,
        "arms": costs(study),
    }


def _kept(path: Path, measure: Any) -> dict[str, Any]:
    """What was measured before, or is now: a resumed study must not change its own terms."""
    if not path.is_file():
        write_json(path, measure())
    return json.loads(path.read_text(encoding="utf-8"))


def steps_of(study: Study, folder: Path, threads: int) -> dict[str, int]:
    """Of every arm: those of its recipe, or as many as take the time of another arm, by times of a
    step that are measured once and kept in the folder's `steps.json`."""
    plain = {
        arm: study.recipe(arm, rate=study.rates[0], seed=study.sweep_seed).steps
        for arm in study.arms
    }
    timed = {arm: one.as_long_as for arm, one in study.arms.items() if one.as_long_as}
    if not timed:
        return plain
    clock = _kept(folder / "steps.json", lambda: times(study, threads=threads))["arms"]
    if lacking := [arm for arm in (*timed, *timed.values()) if arm not in clock]:
        raise UndenseError(
            f"{folder / 'steps.json'} has no time of {', '.join(lacking)}, which joined the study"
            " later; delete it together with the runs that were made by it"
        )
    return plain | {
        arm: round(plain[other] * clock[other]["step_ms"] / clock[arm]["step_ms"])
        for arm, other in timed.items()
    }


def _deciding(study: Study, folder: Path) -> dict[str, float]:
    """The times of a step by which some arms train as long as others, in milliseconds."""
    timed = [(name, arm.as_long_as) for name, arm in study.arms.items() if arm.as_long_as]
    if not timed:
        return {}
    clock = json.loads((folder / "steps.json").read_text(encoding="utf-8"))["arms"]
    return {arm: clock[arm]["step_ms"] for pair in timed for arm in pair}


def _elsewhere(runs: dict[str, list[Run]]) -> dict[str, list[str]]:
    """Machine by arms, of runs that say that another program trained them."""
    found: dict[str, list[str]] = {}
    for arm, of_arm in runs.items():
        for run in of_arm:
            if (machine := (run.found() or {}).get("trained_on")) is not None:
                words = ", ".join(f"{key} {value}" for key, value in machine.items())
                found.setdefault(words, []).append(f"{arm} seed {run.recipe.seed}")
    return found


def _figures(
    study: Study,
    runs: list[Run],
    what: dict[str, Any],
    clock: dict[str, Any],
    rate: float,
    steps: int,
) -> dict[str, Any]:
    found = losses(runs)
    if not all(map(math.isfinite, found)):
        bad = [run.recipe.seed for run, loss in zip(runs, found, strict=True) if loss == math.inf]
        raise UndenseError(
            f"study: arm {runs[0].arm!r} diverged at rate {rate:g} on seeds {bad}, at which its"
            " sweep did not; give a grid of lower rates"
        )
    recipe = runs[0].recipe
    return {
        **what,
        **clock,
        "rate": rate,
        "steps": steps,
        "tokens": steps * recipe.batch * recipe.context,
        "training_flops": what["training_flops_per_step"] * steps,
        "training_seconds": clock["step_ms"] * steps / 1000,
        "losses": found,
        **summary(found),
    }
