"""Reading a run folder: run.json, metrics.json, arms/<arm>/{metrics,flops}.json, seeds.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from undense.errors import UndenseError
from undense.report.run import Arm, Ceiling, Losses, Node, Point, Run, Seeds, Spread
from undense.report.values import Values

FORMAT = 1


def read_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises `UndenseError` where it is no run folder, of another format, incomplete, or where an arm
    was judged on other batches than the rest: its figures could not be compared.
    """
    if not folder.is_dir():
        raise UndenseError(f"{folder}: no such folder; give the --output-dir of `undense demo`")
    if not (folder / "run.json").is_file():
        raise UndenseError(f"{folder}: no run folder (it has no run.json)")
    run = Values.read(folder / "run.json")
    if (found := run.integer("format")) != FORMAT:
        raise UndenseError(
            f"{run.origin}: format={found}, but this version reads format {FORMAT}; use the version"
            " of undense that wrote it"
        )
    names = run.texts("arms")
    arms = {name: _arm(folder / "arms" / name, name) for name in names}
    _same_batches(run.text("batches_hash"), folder, names)
    roles = {role: _role(run, role, names) for role in ("floor", "rival", "main")}
    reference = _role(run, "reference", names)
    if reference is None:
        raise UndenseError(f"{run.origin}: reference=null; every run is held against a dense arm")
    _same_times(folder, arms, reference)
    top = Values.read(folder / "metrics.json")
    return Run(
        model=run.text("model"),
        model_note=run.text("model_note") if run.has("model_note") else "",
        version=run.text("undense"),
        data=run.child("data").values,
        seed=run.integer("seed"),
        settings=run.child("settings").values,
        environment=run.child("environment").values,
        batches_hash=run.text("batches_hash"),
        created=run.text("created"),
        command=run.text("command"),
        arms=arms,
        reference=reference,
        floor=roles["floor"],
        rival=roles["rival"],
        main=roles["main"],
        shape=run.child("shape").values,
        training=run.child("training").values,
        gap_recovered=_figures(top, "gap_recovered"),
        ceilings=_ceilings(top),
        ngram=_figures(top, "ngram"),
        seeds=_seeds(folder / "seeds.json"),
    )


def _arm(folder: Path, name: str) -> Arm:
    metrics = Values.read(folder / "metrics.json")
    flops = Values.read(folder / "flops.json")
    return Arm(
        name=name,
        title=metrics.text("title"),
        ffn=metrics.child("ffn").values if metrics.has("ffn") else None,
        loss=metrics.number("loss"),
        perplexity=metrics.number("perplexity"),
        loss_start=metrics.number("loss_start") if metrics.has("loss_start") else None,
        loss_distilled=metrics.number("loss_distilled") if metrics.has("loss_distilled") else None,
        ffn_flops=metrics.integer("ffn_flops_per_token"),
        ffn_macs=metrics.integer("ffn_macs_per_token"),
        ffn_share=metrics.number("ffn_share"),
        model_flops=metrics.number("model_flops_per_token"),
        parameters=metrics.integer("parameters"),
        ffn_parameters=metrics.integer("ffn_parameters"),
        times=_times(metrics, "forward_ms"),
        ffn_times=_times(metrics, "ffn_forward_ms"),
        train_seconds=metrics.number("train_seconds"),
        training_tokens=metrics.integer("training_tokens"),
        curve=tuple(
            Point(stage=p.text("stage"), step=p.integer("step"), loss=p.number("loss"))
            for p in metrics.children("curve")
        ),
        events=metrics.texts("events"),
        cost=_node(flops),
        convention=flops.text("convention"),
    )


def _node(values: Values) -> Node:
    return Node(
        name=values.text("name"),
        forward=values.integer("forward"),
        macs=values.integer("macs"),
        weights=values.integer("weights"),
        parts=tuple(_node(part) for part in values.children("parts"))
        if values.has("parts")
        else (),
    )


def _times(metrics: Values, key: str) -> dict[int, Spread]:
    times = metrics.child(key)
    found: dict[int, Spread] = {}
    for tokens in times:
        if not tokens.isdigit():
            raise UndenseError(f"{times.origin}: {tokens!r} is not a number of tokens")
        entry = times.child(tokens)
        low, high = entry.interval("iqr")
        found[int(tokens)] = Spread(center=entry.number("median"), low=low, high=high)
    return dict(sorted(found.items()))


def _same_batches(expected: str, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        metrics = Values.read(folder / "arms" / name / "metrics.json")
        if (found := metrics.text("batches_hash")) != expected:
            raise UndenseError(
                f"{metrics.origin}: batches_hash={found[:12]}… differs from the run's"
                f" {expected[:12]}…; the arm was judged on other text and cannot be compared"
            )


def _same_times(folder: Path, arms: Mapping[str, Arm], reference: str) -> None:
    wanted = set(arms[reference].times)
    for name, arm in arms.items():
        for key, times in (("forward_ms", arm.times), ("ffn_forward_ms", arm.ffn_times)):
            if missing := sorted(wanted - set(times)):
                raise UndenseError(
                    f"{folder / 'arms' / name / 'metrics.json'}: {key} has no times at"
                    f" {missing[0]} tokens, which {reference} has"
                )


def _role(run: Values, role: str, names: tuple[str, ...]) -> str | None:
    if not run.has(role):
        return None
    if (name := run.text(role)) not in names:
        raise UndenseError(f"{run.origin}: {role}={name!r} is none of the arms {list(names)}")
    return name


def _figures(values: Values, key: str) -> dict[str, float]:
    if not values.has(key):
        return {}
    child = values.child(key)
    return {name: child.number(name) for name in child}


def _ceilings(top: Values) -> dict[int, Ceiling]:
    values = top.child("amdahl")
    found: dict[int, Ceiling] = {}
    for tokens in values:
        entry = values.child(tokens)
        found[int(tokens)] = Ceiling(
            ffn_time_share=entry.number("ffn_time_share"),
            bound=entry.number("bound") if entry.has("bound") else None,
            measured=_figures(entry, "measured"),
        )
    return dict(sorted(found.items()))


def _seeds(path: Path) -> Seeds | None:
    if not path.is_file():
        return None
    values = Values.read(path)
    return Seeds(
        seeds=tuple(int(seed) for seed in values.numbers("seeds")),
        created=values.text("created"),
        command=values.text("command"),
        arms=_losses(values.child("arms"), "losses"),
        paired=_losses(values.child("paired"), "differences"),
    )


def _losses(values: Values, key: str) -> dict[str, Losses]:
    found: dict[str, Losses] = {}
    for name in values:
        entry = values.child(name)
        low, high = entry.interval("ci95")
        mean = Spread(center=entry.number("mean"), low=low, high=high)
        found[name] = Losses(values=entry.numbers(key), mean=mean)
    return found
