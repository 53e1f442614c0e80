"""A run folder in memory: the run, its arms, and the spread over seeds where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A central value and the interval around it: median and quartiles, or mean and 95 %."""

    center: float
    low: float
    high: float

    def over(self, other: Spread) -> Spread:
        """The ratio to `other`, its interval from the far ends of both: wide, never too narrow."""
        return Spread(
            center=self.center / other.center, low=self.low / other.high, high=self.high / other.low
        )

    def clears(self, value: float) -> bool:
        """Whether the interval excludes `value`."""
        return not self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of a cost tree, for one token."""

    name: str
    forward: int
    macs: int
    weights: int
    parts: tuple[Node, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Every node with its depth, parents first."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One logged step of a training stage."""

    stage: str
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of the comparison. FLOPs, MACs and weights are for one token; `ffn_*` for one FFN.

    `times`, `ffn_times`: milliseconds by number of tokens. `loss_start`: after the closed-form
    start (of the base itself: before any further training)."""

    name: str
    title: str
    ffn: Mapping[str, Any] | None
    loss: float
    perplexity: float
    loss_start: float | None
    loss_distilled: float | None
    ffn_flops: int
    ffn_macs: int
    ffn_share: float
    model_flops: float
    parameters: int
    ffn_parameters: int
    times: Mapping[int, Spread]
    ffn_times: Mapping[int, Spread]
    train_seconds: float
    training_tokens: int
    curve: tuple[Point, ...]
    events: tuple[str, ...]
    cost: Node
    convention: str


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The held-out losses of one arm over the seeds, with mean and 95 % interval."""

    values: tuple[float, ...]
    mean: Spread


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """The committed spread over seeds. `paired`: differences "a - b" on the same seed."""

    seeds: tuple[int, ...]
    created: str
    command: str
    arms: Mapping[str, Losses]
    paired: Mapping[str, Losses]

    def difference(self, one: str, other: str) -> Losses | None:
        """Loss of `one` minus loss of `other`, seed by seed."""
        return self.paired.get(f"{one} - {other}")


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the whole model can gain at one number of tokens: the dense FFNs' share of its time, and
    the speed-up if they took none; None where the share was timed as the whole or more."""

    ffn_time_share: float
    bound: float | None
    measured: Mapping[str, float]


def kind(name: str) -> str:
    """What an arm is, whatever its share: ultra-25 and ultra-50 are both ultra."""
    head, _, share = name.rpartition("-")
    return head if share.replace(".", "").isdigit() else name


@dataclass(frozen=True, kw_only=True)
class Run:
    """One comparison. `reference`: the dense base, fine-tuned as long. `floor`: the arm without an
    FFN. `main` against `rival` is what the run is about; each may be absent."""

    model: str
    model_note: str
    version: str
    data: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    batches_hash: str
    created: str
    command: str
    arms: Mapping[str, Arm]
    reference: str
    floor: str | None
    rival: str | None
    main: str | None
    shape: Mapping[str, Any]
    training: Mapping[str, Any]
    gap_recovered: Mapping[str, float]
    ceilings: Mapping[int, Ceiling]
    ngram: Mapping[str, float]
    seeds: Seeds | None

    @property
    def dense(self) -> Arm:
        """The reference arm."""
        return self.arms[self.reference]

    @property
    def subjects(self) -> tuple[Arm, ...]:
        """What the first lines speak of: the main arm and its like at other shares of the FLOPs,
        else the first arm that is neither the reference, the floor nor the rival."""
        if self.main is not None:
            return tuple(a for name, a in self.arms.items() if kind(name) == kind(self.main))
        others = {self.reference, self.floor, self.rival}
        return tuple(arm for name, arm in self.arms.items() if name not in others)[:1]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The numbers of tokens that every arm was timed at."""
        return tuple(self.dense.times)

    def recovered(self, arm: Arm) -> float | None:
        """Share of the gap between the floor and the reference that `arm` wins back; None where
        there is no floor, or where it is no worse than the reference and so leaves no gap."""
        if self.floor is None or self.arms[self.floor].loss <= self.dense.loss:
            return None
        return self.gap_recovered.get(arm.name)

    def time_ratio(self, arm: Arm, tokens: int) -> Spread:
        """Whole-model time over the reference's; below 1 is faster."""
        return arm.times[tokens].over(self.dense.times[tokens])

    def ffn_time_ratio(self, arm: Arm, tokens: int) -> Spread:
        """The same for one FFN alone."""
        return arm.ffn_times[tokens].over(self.dense.ffn_times[tokens])
