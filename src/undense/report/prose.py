"""The paragraphs of a report after the verdict: ceilings, method, stages, what went wrong."""

from __future__ import annotations

from undense.report.numbers import change, counted, exact, listed, percent, short, times
from undense.report.run import Arm, Run


def ceiling(run: Run) -> tuple[str, ...]:
    """Amdahl's law in words, one sentence for each number of tokens that was timed."""
    lines = []
    for tokens, found in run.ceilings.items():
        share = percent(found.ffn_time_share)
        line = f"At {counted(tokens, 'token')} the dense FFNs take {share} of the model's time"
        if found.bound is None:
            line += ", which cannot be: the timing was disturbed, so no ceiling is known here."
        else:
            line += f": without them it would run about {times(found.bound)} as fast."
        reached = []
        if run.floor is not None and run.floor in found.measured:
            reached.append(f"{run.floor} {times(found.measured[run.floor])}")
        reached += [
            f"{arm.name} {times(found.measured[arm.name])}"
            for arm in run.subjects
            if arm.name in found.measured
        ]
        lines.append(f"{line} Measured: {', '.join(reached)}." if reached else line)
    return tuple(lines)


def method(run: Run) -> list[tuple[str, str]]:
    """What was done and on what, as pairs of a term and its description."""
    data, shape, world = (run.data, run.shape, run.environment)
    convention = next(iter(run.arms.values())).convention
    gated = "gated" if shape.get("gated") else "plain"
    pairs = [
        ("Command", run.command),
        (
            "Model",
            f"{run.model}: {shape.get('layers')} layers, {gated} FFNs of"
            f" {shape.get('dim')} → {shape.get('hidden')} → {shape.get('dim')}, blocks of"
            f" {shape.get('context')} tokens" + (f"; {run.model_note}" if run.model_note else ""),
        ),
        (
            "Text",
            f"{data.get('name')}: {short(float(data.get('train_tokens', 0)))} tokens to train on,"
            f" {short(float(data.get('eval_tokens', 0)))} held out (split by file); sha256"
            f" {str(data.get('sha256'))[:16]}…, Python {data.get('python')}",
        ),
        ("Training, every arm", _training(run)),
        ("Held-out batches", f"the same for every arm, sha256 {run.batches_hash}"),
        ("FLOPs", f"{convention}; elementwise work counts"),
        (
            "Model FLOPs",
            "one full block, divided by its tokens; attention at the price of every pair",
        ),
        (
            "Time",
            "forward pass without gradients, arms in turn in every round; median and quartiles."
            " The interval of a ratio joins the far quartiles of both sides",
        ),
        ("Machine", ", ".join(f"{key}: {value}" for key, value in world.items() if value)),
        ("Seed", str(run.seed)),
        ("Written", f"{run.created} by undense {run.version}"),
    ]
    if run.seeds is not None:
        seeds = ", ".join(map(str, run.seeds.seeds))
        text = f"seeds {seeds}, {run.seeds.created}: {run.seeds.command}"
        pairs.append(("Spread over seeds", text))
    return pairs


def _training(run: Run) -> str:
    distil = float(run.training.get("distill_tokens", 0))
    tune = float(run.training.get("finetune_tokens", 0))
    seen = {arm.training_tokens for arm in run.arms.values()}
    text = (
        f"{short(distil)} tokens of layer-wise distillation and {short(tune)} of fine-tuning; arms"
        " with nothing to distil fine-tune through both"
    )
    if len(seen) > 1:
        counts = ", ".join(f"{arm.name} {exact(arm.training_tokens)}" for arm in run.arms.values())
        text += f". Mind that the arms did not see equally many tokens: {counts}"
    return text


def stages(run: Run) -> list[tuple[Arm, list[tuple[str, float]]]]:
    """Held-out loss of every arm as it went: at the start, distilled, at the end."""
    found = []
    for arm in run.arms.values():
        steps = [("start", arm.loss_start), ("distilled", arm.loss_distilled), ("end", arm.loss)]
        found.append((arm, [(name, loss) for name, loss in steps if loss is not None]))
    return found


def ngrams(run: Run) -> str:
    """Where n-gram models stand on the same text, where that is known."""
    if not run.ngram:
        return ""
    names = {"fivegram": "5-gram"}
    words = listed([f"{names.get(name, name)} {loss:.2f}" for name, loss in run.ngram.items()])
    return f"For scale, n-gram models of the same tokens: {words} nats a token."


def events(run: Run) -> list[tuple[str, str]]:
    """What went wrong on the way, by arm."""
    return [(arm.name, event) for arm in run.arms.values() for event in arm.events]


def training_time(arm: Arm, run: Run) -> str:
    """Seconds of training, and how that compares to the reference."""
    ratio = arm.train_seconds / run.dense.train_seconds if run.dense.train_seconds else 1.0
    text = f"{arm.train_seconds:.0f} s"
    return text if arm.name == run.reference else f"{text} ({change(ratio)})"
