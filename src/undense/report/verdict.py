"""The first lines of a report: what was gained, what was lost, who won. Computed, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

from undense.report.contest import LUCK, Tone, budget, contest, equal, rivals, speed
from undense.report.numbers import change, counted, exact, interval, listed, percent, signed
from undense.report.run import Arm, Run, Spread


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One of the three answers about an arm: a headline, how it feels, the sentences behind it."""

    arm: str
    label: str
    headline: str
    tone: Tone
    sentences: tuple[str, ...]


def verdicts(run: Run) -> tuple[Verdict, ...]:
    """Gained, lost, won, in this order, for each subject in turn: an arm is held against the rival
    of its own share. One that says so where nothing was replaced."""
    if not run.subjects:
        sentence = "This run trained no replacement of the FFN, so there is nothing to compare."
        label = "Nothing to judge"
        return (Verdict(arm="", label=label, headline="–", tone="even", sentences=(sentence,)),)
    questions = (gained, lost, won)
    return tuple(question(run, subject) for subject in run.subjects for question in questions)


def headlines(run: Run) -> dict[str, str]:
    """The first lines without the sentences behind them; the arm named where there are several."""
    several = len(run.subjects) > 1
    return {
        f"{verdict.label}, {verdict.arm}" if several else verdict.label: verdict.headline
        for verdict in verdicts(run)
    }


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
        arm=subject.name,
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
        arm=subject.name,
        label="What was lost",
        headline=f"{'Nothing: ' if delta < 0 else ''}{signed(delta)} nats, perplexity"
        f" {change(ratio, 1)}",
        tone="even" if not settled or delta == 0 else "bad" if delta > 0 else "good",
        sentences=tuple(sentences),
    )


def won(run: Run, subject: Arm) -> Verdict:
    """The subject against the rival of equal FLOPs."""
    found = rivals(run, subject)
    if not found:
        words = "This run has no narrow dense FFN of equal FLOPs, so nobody can win it."
        return _won(subject, "No rival", "even", (words,))
    rival = found[0]
    if not equal(subject, rival):
        return _won(subject, "No contest", "even", (_unequal(subject, rival),))
    outcome = contest(run, subject, rival)
    luck = () if outcome.settled else (LUCK,)
    sentences = (
        *outcome.sentences,
        *luck,
        budget(subject, rival),
        speed(run, subject, rival),
    )
    return _won(subject, outcome.headline, outcome.tone, sentences)


def _won(subject: Arm, headline: str, tone: Tone, sentences: tuple[str, ...]) -> Verdict:
    return Verdict(
        arm=subject.name, label="Who won", headline=headline, tone=tone, sentences=sentences
    )


def _unequal(subject: Arm, rival: Arm) -> str:
    return (
        f"{subject.name} costs {percent(subject.ffn_share, 1)} of the dense FFN's FLOPs and"
        f" {rival.name} {percent(rival.ffn_share, 1)}, so neither loss ({subject.loss:.3f} and"
        f" {rival.loss:.3f}) is a win over the other; run both at one share."
    )
