"""The first lines of a report: what was gained, what was lost, who won. Computed, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

from undense.report.contest import LUCK, Tone, budget, contest, pairs, speed
from undense.report.numbers import change, counted, exact, interval, listed, percent, signed
from undense.report.run import Arm, Run, Spread


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
    """The subject's kind against the rival's, wherever both have an arm of equal FLOPs."""
    label = "Who won"
    if run.rival is None or run.rival == subject.name:
        words = "This run has no narrow dense FFN of equal FLOPs, so nobody can win it."
        return Verdict(label=label, headline="No rival", tone="even", sentences=(words,))
    matched = pairs(run, subject)
    if not matched:
        return Verdict(
            label=label, headline="No contest", tone="even", sentences=(_unequal(run, subject),)
        )
    outcomes = [contest(run, *pair) for pair in matched]
    sentences: list[str] = []
    for (one, other), outcome in zip(matched, outcomes, strict=True):
        sentences += [*outcome.sentences, budget(one, other)]
    if not all(outcome.settled for outcome in outcomes):
        sentences.append(LUCK)
    sentences += [speed(run, *pair) for pair in matched]
    tones: set[Tone] = {outcome.tone for outcome in outcomes}
    return Verdict(
        label=label,
        headline="; ".join(outcome.headline for outcome in outcomes),
        tone=outcomes[0].tone if len(tones) == 1 else "even",
        sentences=tuple(sentences),
    )


def _unequal(run: Run, subject: Arm) -> str:
    assert run.rival is not None
    rival = run.arms[run.rival]
    return (
        f"{subject.name} costs {percent(subject.ffn_share, 1)} of the dense FFN's FLOPs and"
        f" {rival.name} {percent(rival.ffn_share, 1)}, so neither loss ({subject.loss:.3f} and"
        f" {rival.loss:.3f}) is a win over the other; run both at one share."
    )
