"""The first lines of a report: what was gained, what was lost, who won. Computed, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from undense.report.numbers import (
    change,
    counted,
    exact,
    interval,
    listed,
    percent,
    signed,
    times,
)
from undense.report.run import Arm, Losses, Run, Spread

Tone = Literal["good", "bad", "even"]
EQUAL_FLOPS = 0.02  # two arms within this share of the dense FFN count as equally expensive


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of the three answers: a headline, how it feels, and the sentences behind it."""

    label: str
    headline: str
    tone: Tone
    sentences: tuple[str, ...]


def verdicts(run: Run) -> tuple[Verdict, ...]:
    """Gained, lost, won, in this order; one that says so where nothing was replaced."""
    subject = run.subject
    if subject is None:
        sentence = "This run trained no replacement of the FFN, so there is nothing to compare."
        return (
            Verdict(label="Nothing to judge", headline="–", tone="even", sentences=(sentence,)),
        )
    return (gained(run, subject), lost(run, subject), won(run, subject))


def gained(run: Run, subject: Arm) -> Verdict:
    """FLOPs and time side by side: the one is arithmetic, the other was measured."""
    dense = run.dense
    model = subject.model_flops / dense.model_flops
    ratios = {tokens: run.time_ratio(subject, tokens) for tokens in run.tokens}
    flops = (
        f"{subject.name} does {exact(subject.ffn_flops)} FLOPs a token in each FFN instead of"
        f" {exact(dense.ffn_flops)} ({change(subject.ffn_share)}), which is {change(model)} for the"
        " whole model."
    )
    measured = ", ".join(
        f"{change(ratio.center)} at {counted(tokens, 'token')}" for tokens, ratio in ratios.items()
    )
    time = f"Time is another matter. Measured for the whole model: {measured}."
    faster = any(ratio.high < 1 for ratio in ratios.values())
    slower = any(ratio.low > 1 for ratio in ratios.values())
    centers = sorted(ratio.center for ratio in ratios.values())
    best, worst = (change(centers[0]), change(centers[-1]))
    return Verdict(
        label="What was gained",
        headline=f"FLOPs {change(model)}, time {best if best == worst else f'{best} to {worst}'}",
        tone="even" if faster == slower else "good" if faster else "bad",
        sentences=(flops, time, _beyond_the_spread(ratios)),
    )


def _beyond_the_spread(ratios: dict[int, Spread]) -> str:
    faster = [exact(tokens) for tokens, ratio in ratios.items() if ratio.high < 1]
    slower = [exact(tokens) for tokens, ratio in ratios.items() if ratio.low > 1]
    if not faster and not slower:
        return "None of these differences in time is larger than the spread of the measurement."
    parts = []
    if faster:
        parts.append(f"faster at {listed(faster)}")
    if slower:
        parts.append(f"slower at {listed(slower)}")
    if len(faster) + len(slower) < len(ratios):
        parts.append("elsewhere the spread of the measurement is larger than the difference")
    return f"Beyond the spread of the measurement it is {'; '.join(parts)}."


def lost(run: Run, subject: Arm) -> Verdict:
    """Held-out loss against the dense base trained on as many tokens."""
    dense = run.dense
    delta = subject.loss - dense.loss
    ratio = subject.perplexity / dense.perplexity
    sentences = [
        f"Held-out loss {subject.loss:.3f} instead of {dense.loss:.3f} nats a token"
        f" ({signed(delta)}), perplexity {subject.perplexity:.2f} instead of"
        f" {dense.perplexity:.2f} ({change(ratio, 1)}), against the dense base trained on as many"
        " tokens."
    ]
    floor = run.arms[run.floor] if run.floor is not None else None
    if floor is not None and floor.loss <= dense.loss:
        sentences.append(
            f"A trained model without any FFN ({floor.loss:.3f}) is no worse than dense here, so"
            " there is no gap to recover: on this text, trained this long, FFNs do not matter."
        )
    elif floor is not None and (recovered := run.recovered(subject)) is not None:
        sentences.append(
            f"Of the gap to a trained model without any FFN ({floor.loss:.3f}) it recovers"
            f" {percent(recovered, 1)}."
        )
    paired = run.seeds.difference(subject.name, dense.name) if run.seeds else None
    if paired is not None:
        sentences.append(
            f"Over {counted(len(paired.values), 'seed')} the difference is"
            f" {signed(paired.mean.center)} {interval(paired.mean, sign=True)} nats."
        )
    spread = paired.mean if paired is not None else None
    settled = spread is None or spread.clears(0)
    return Verdict(
        label="What was lost",
        headline=f"{'Nothing: ' if delta < 0 else ''}{signed(delta)} nats, perplexity"
        f" {change(ratio, 1)}",
        tone="even" if not settled or delta == 0 else "bad" if delta > 0 else "good",
        sentences=tuple(sentences),
    )


def won(run: Run, subject: Arm) -> Verdict:
    """The subject against the rival; over seeds where there are some, else on this one."""
    if run.rival is None or run.rival == subject.name:
        return Verdict(
            label="Who won",
            headline="No rival",
            tone="even",
            sentences=("This run has no narrow dense FFN of equal FLOPs, so nobody can win it.",),
        )
    rival = run.arms[run.rival]
    paired = run.seeds.difference(subject.name, rival.name) if run.seeds else None
    judge: Callable[[], Verdict] = (
        (lambda: _one_seed(run, subject, rival))
        if paired is None
        else (lambda: _many_seeds(subject, rival, paired))
    )
    verdict = judge()
    return Verdict(
        label=verdict.label,
        headline=verdict.headline,
        tone=verdict.tone,
        sentences=(*verdict.sentences, _budget(subject, rival), _speed(run, subject, rival)),
    )


def _many_seeds(subject: Arm, rival: Arm, paired: Losses) -> Verdict:
    mean = paired.mean
    seeds = counted(len(paired.values), "paired seed")
    if not mean.clears(0):
        headline, tone = (f"A draw with {rival.name}", "even")
        words = f"{subject.name} and {rival.name} are within the seed spread of each other"
    elif mean.center < 0:
        headline, tone = (f"{subject.name} wins", "good")
        words = f"{subject.name} has a lower loss than {rival.name}"
    else:
        headline, tone = (f"{rival.name} wins", "bad")
        words = f"{subject.name} has a higher loss than {rival.name}"
    live = subject.loss - rival.loss
    return Verdict(
        label="Who won",
        headline=headline,
        tone=tone,
        sentences=(
            f"{words}: {signed(mean.center)} nats, 95 % interval {interval(mean, sign=True)} over"
            f" {seeds}.",
            f"This run, one seed, says {signed(live)}: {_agreement(live, paired)}.",
        ),
    )


def _agreement(live: float, paired: Losses) -> str:
    low, high = (min(paired.values), max(paired.values))
    if low <= live <= high:
        return "inside the range of those seeds"
    if live * paired.mean.center < 0:
        return "the other way round, and outside the range of those seeds"
    return "the same way, but outside the range of those seeds"


def _one_seed(run: Run, subject: Arm, rival: Arm) -> Verdict:
    delta = subject.loss - rival.loss
    if signed(delta) == signed(0.0):
        headline, words = ("Level on one seed", f"level with {rival.name} to three digits")
    elif delta < 0:
        headline = f"{subject.name} ahead on one seed"
        words = f"{-delta:.3f} nats below {rival.name}"
    else:
        headline = f"{rival.name} ahead on one seed"
        words = f"{delta:.3f} nats above {rival.name}"
    return Verdict(
        label="Who won",
        headline=headline,
        tone="even",
        sentences=(
            f"On the seed {run.seed} of this run {subject.name} is {words}.",
            "One seed cannot tell a win from luck; this run has no spread over seeds beside it.",
        ),
    )


def _budget(subject: Arm, rival: Arm) -> str:
    shares = f"{percent(subject.ffn_share, 1)} and {percent(rival.ffn_share, 1)}"
    if abs(subject.ffn_share - rival.ffn_share) <= EQUAL_FLOPS:
        return f"FLOPs are equal: {shares} of the dense FFN."
    return f"Mind that their FLOPs are not equal: {shares} of the dense FFN."


def _speed(run: Run, subject: Arm, rival: Arm) -> str:
    """How long the subject takes where the rival takes 1, and whether the quartiles keep apart."""
    ratios = {n: subject.times[n].over(rival.times[n]) for n in run.tokens}
    figures = ", ".join(f"{times(r.center)} at {exact(n)}" for n, r in ratios.items())
    slower = sum(ratio.low > 1 for ratio in ratios.values())
    faster = sum(ratio.high < 1 for ratio in ratios.values())
    if slower and not faster:
        words = f"{rival.name} is the faster one"
    elif faster and not slower:
        words = f"{subject.name} is the faster one"
    elif faster:
        words = "each is the faster one somewhere"
    else:
        words = "no difference beyond the spread"
    return f"In time against {rival.name}: {figures} tokens; {words}."
