"""Who won between two arms of equal FLOPs: by paired seeds where there are some, else one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from undense.report.numbers import counted, exact, interval, percent, signed, times
from undense.report.run import Arm, Losses, Run, kind

Tone = Literal["good", "bad", "even"]
EQUAL_FLOPS = 0.02  # arms within this share of the dense FFN count as equally expensive
LUCK = "One seed cannot tell a win from luck; this run has no spread over seeds beside it."


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The outcome of one pair. `settled`: paired seeds decided it, not one run."""

    headline: str
    tone: Tone
    settled: bool
    sentences: tuple[str, ...]


def equal(one: Arm, other: Arm) -> bool:
    """Whether two arms cost the same, so that the one with the lower loss is the better one."""
    return abs(one.ffn_share - other.ffn_share) <= EQUAL_FLOPS


def rivals(run: Run, subject: Arm) -> list[Arm]:
    """The arms of the rival's kind, the one nearest to the subject's FLOPs first."""
    if run.rival is None:
        return []
    found = [
        arm
        for name, arm in run.arms.items()
        if kind(name) == kind(run.rival) and name != subject.name
    ]
    return sorted(found, key=lambda arm: abs(arm.ffn_share - subject.ffn_share))


def contest(run: Run, subject: Arm, rival: Arm) -> Contest:
    """The outcome between two arms of equal FLOPs."""
    paired = run.seeds.difference(subject.name, rival.name) if run.seeds else None
    if paired is None:
        return _one_seed(run, subject, rival)
    return _many_seeds(subject, rival, paired)


def _many_seeds(subject: Arm, rival: Arm, paired: Losses) -> Contest:
    mean = paired.mean
    tone: Tone = "even" if not mean.clears(0) else "good" if mean.center < 0 else "bad"
    if tone == "even":
        headline = f"A draw with {rival.name}"
        words = f"{subject.name} and {rival.name} are within the seed spread of each other"
    elif tone == "good":
        headline = f"{subject.name} wins"
        words = f"{subject.name} has a lower loss than {rival.name}"
    else:
        headline = f"{rival.name} wins"
        words = f"{subject.name} has a higher loss than {rival.name}"
    live = subject.loss - rival.loss
    seeds = counted(len(paired.values), "paired seed")
    return Contest(
        headline=headline,
        tone=tone,
        settled=True,
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


def _one_seed(run: Run, subject: Arm, rival: Arm) -> Contest:
    delta = subject.loss - rival.loss
    if signed(delta) == signed(0.0):
        headline = f"{subject.name} and {rival.name} level on one seed"
        words = f"level with {rival.name} to three digits"
    elif delta < 0:
        headline = f"{subject.name} ahead on one seed"
        words = f"{-delta:.3f} nats below {rival.name}"
    else:
        headline = f"{rival.name} ahead on one seed"
        words = f"{delta:.3f} nats above {rival.name}"
    return Contest(
        headline=headline,
        tone="even",
        settled=False,
        sentences=(f"On the seed {run.seed} of this run {subject.name} is {words}.",),
    )


def budget(subject: Arm, rival: Arm) -> str:
    """What the two cost."""
    shares = f"{percent(subject.ffn_share, 1)} and {percent(rival.ffn_share, 1)}"
    return f"FLOPs are equal: {shares} of the dense FFN."


def speed(run: Run, subject: Arm, rival: Arm) -> str:
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
    return f"In time {subject.name} takes {figures} tokens of what {rival.name} takes; {words}."
