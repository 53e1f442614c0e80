"""One cell of the speed measurement of single FFNs: all arms at one size, checked, then timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from undense.contract import FFNComponent
from undense.errors import UndenseError
from undense.measure.ffn_arms import DENSE, TORCH_DTYPES, Arm, bytes_read
from undense.measure.oracle import check, forward_and_back
from undense.measure.ratios import realised, speedup, times_less, yardstick
from undense.measure.rotation import Rotation, rotation
from undense.measure.timing import SAMPLE_SECONDS, Timing, interleaved, seconds_of

COMPILED = "dense, compiled"
MEASURED = "measured"
LEAST_ROUNDS = 5
WARMUP = 2
# Up to so many tokens reading the weights is what takes the time.
BOUND_BY_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size: `mode` is forward or training; `memory` says whether every call takes the next
    copy of the weights (cold) or always the same (warm)."""

    dim: int
    dtype: str
    mode: str
    tokens: int
    memory: str

    @property
    def training(self) -> bool:
        """Whether a call goes back as well."""
        return self.mode == "training"

    def __str__(self) -> str:
        return f"d={self.dim} {self.dtype} {self.mode} {self.tokens} tokens, {self.memory}"


class _Candidate(NamedTuple):
    """An arm after its check: what is known of it, and, if it is right, what is timed."""

    name: str
    arm: str
    entry: dict[str, Any]
    step: Callable[[nn.Module], object] | None = None


@dataclass(kw_only=True)
class Bench:
    """The arms at one width and type with the copies of their weights, for all cells there.

    `span`: bytes that the copies of one arm are to span. `compiled`: time the compiled dense FFN
    too. `rounds`, `cap_seconds`: see `measured`.
    """

    arms: Sequence[Arm]
    dtype: str
    span: float
    rounds: int
    cap_seconds: float
    seed: int
    compiled: bool = False

    def __post_init__(self) -> None:
        self._rotations: dict[str, Rotation] = {}
        self._size: tuple[int, str] | None = None
        self._candidates: list[_Candidate] = []

    def measured(self, cell: Cell) -> dict[str, Any]:
        """Every arm's figures in this cell; plain JSON values.

        An arm that is not right is not timed; its entry says so. Rounds are given up, down to
        `LEAST_ROUNDS`, to stay under `cap_seconds`; a cell that still exceeds it is skipped.
        """
        expected = self.expected_seconds(cell)
        if expected > self.cap_seconds:
            return self._skipped(cell, expected, {})
        if self._size != (cell.tokens, cell.mode):  # cold and warm cells share one check
            self._size, self._candidates = (cell.tokens, cell.mode), self._checked(cell)
        entries: dict[str, dict[str, Any]] = {}
        calls: dict[str, Callable[[], object]] = {}
        for each in self._candidates:
            entries[each.name] = dict(each.entry)
            if each.step is not None:
                turned = self._rotations[each.arm]
                if cell.memory == "warm":
                    turned = Rotation(modules=turned.modules[:1], span=0)
                entries[each.name] |= {"span_bytes": turned.span, "copies": len(turned.modules)}
                calls[each.name] = turned.calls(each.step)
        lead = int(cell.memory == "warm")
        seconds = sum((1 + lead) * max(seconds_of(c), SAMPLE_SECONDS) for c in calls.values())
        least = min(LEAST_ROUNDS, self.rounds)
        rounds = max(least, min(self.rounds, int(self.cap_seconds / max(seconds, 1e-9))))
        if rounds * seconds > self.cap_seconds:
            return self._skipped(cell, rounds * seconds, entries)
        times: dict[str, Timing] = {}
        if calls:
            times = interleaved(calls, rounds=rounds, warmup=WARMUP, lead=lead)
        return asdict(cell) | {"status": MEASURED} | compared(entries, times)

    def expected_seconds(self, cell: Cell) -> float:
        """What the cell takes at least, from its FLOPs and the speed of a matrix product."""
        there = [arm for arm in self.arms if arm.config is not None]
        flops = sum(arm.flops(cell.tokens, training=cell.training) for arm in there)
        return flops * min(LEAST_ROUNDS, self.rounds) / product_rate(self.dtype)

    def _skipped(
        self, cell: Cell, seconds: float, entries: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """The cell without times; what the checks found stays."""
        reason = f"skipped: over the cap ({seconds:.1f} s at least, cap {self.cap_seconds:g} s)"
        for entry in entries.values():
            if entry["status"] == MEASURED:
                entry["status"] = reason
        return asdict(cell) | {"status": reason, "yardstick": None, "arms": entries}

    def _checked(self, cell: Cell) -> list[_Candidate]:
        """Every arm held against fp64 on the input that it would be timed on."""
        torch.manual_seed(self.seed)
        x = torch.randn(1, cell.tokens, self.arms[0].dim).to(TORCH_DTYPES[self.dtype])
        found = []
        for arm in self.arms:
            found.append(self._candidate(arm, cell, x, compiled=False))
            if arm.name == DENSE and self.compiled:
                found.append(self._candidate(arm, cell, x, compiled=True))
        return found

    def _candidate(self, arm: Arm, cell: Cell, x: Tensor, *, compiled: bool) -> _Candidate:
        name = COMPILED if compiled else arm.name
        if arm.config is None:
            return _Candidate(name, arm.name, {"status": f"not possible: {arm.why}"})
        flops = arm.flops(cell.tokens, training=cell.training)
        entry: dict[str, Any] = {"status": MEASURED, "flops": flops}
        step = None
        try:
            modules = self._modules(arm).modules
            for module in modules:
                module.train(cell.training)
            first = cast(FFNComponent, modules[0])
            apply = compiled_forward(first) if compiled else _eager
            result = check(first, x, training=cell.training, call=lambda x: apply(first, x))
            entry["check"] = result.to_dict()
            if not result.ok:
                entry["status"] = "wrong: differs from its fp64 reference; not timed"
                return _Candidate(name, arm.name, entry)
            if cell.tokens <= BOUND_BY_BYTES and not cell.training:
                entry["bytes_read"] = bytes_read(first, x)
            step = _step(apply, x, training=cell.training)
        except UndenseError as error:
            entry["status"] = f"not possible: {error}"
        except Exception as error:  # whatever a kernel or a compiler raises is a finding too
            lines = str(error).strip().splitlines() or [""]
            entry["status"] = f"failed: {type(error).__name__}: {lines[0]}"
        return _Candidate(name, arm.name, entry, step)

    def _modules(self, arm: Arm) -> Rotation:
        if arm.name not in self._rotations:
            torch.manual_seed(self.seed)
            module = arm.build(TORCH_DTYPES[self.dtype], training=False)
            self._rotations[arm.name] = rotation(module, self.span)
        return self._rotations[arm.name]


def compared(entries: Mapping[str, dict[str, Any]], times: dict[str, Timing]) -> dict[str, Any]:
    """The entries with times, and with ratios to the yardstick: the faster of eager and compiled
    dense. FLOPs and bytes are always held against those of the dense FFN."""
    standard = yardstick(times, (DENSE, COMPILED))
    dense = entries[DENSE]
    arms = {}
    for name, entry in entries.items():
        arms[name] = dict(entry)
        if name not in times:
            continue
        arms[name] |= times[name].to_dict()
        if standard is None:
            continue
        ratio = speedup(times[standard], times[name])
        flops_less = times_less(dense["flops"], entry["flops"])
        arms[name] |= ratio | {"flops_less": flops_less}
        arms[name]["realised"] = realised(ratio["speedup"], flops_less)
        if "bytes_read" in entry and "bytes_read" in dense:
            less = times_less(dense["bytes_read"], entry["bytes_read"])
            arms[name]["bytes_less"] = less
            arms[name]["realised_bytes"] = realised(ratio["speedup"], less)
    return {"yardstick": standard, "arms": arms}


def failures(cell: Mapping[str, Any]) -> list[str]:
    """The arms of a cell that were not right or broke, each with what is wrong."""
    bad = ("wrong", "failed")
    return [
        f"{name} ({cell['dtype']}, d={cell['dim']}, {cell['tokens']} tokens, {cell['mode']}):"
        f" {arm['status']}"
        for name, arm in cell["arms"].items()
        if arm["status"].startswith(bad)
    ]


@cache
def product_rate(dtype: str) -> float:
    """FLOPs a second of a square matrix product of this type here and now, the best of five."""
    side = 512
    one = torch.randn(side, side).to(TORCH_DTYPES[dtype])
    return 2 * side**3 / min(seconds_of(lambda: one @ one) for _ in range(5))


def _eager(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def compiled_forward(module: nn.Module) -> Callable[[nn.Module, Tensor], Tensor]:
    """The module's forward compiled once for all copies: their weights are arguments."""
    torch.compiler.reset()

    def forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights, (x,))

    fast = torch.compile(forward, dynamic=False)
    weights: dict[int, dict[str, Tensor]] = {}

    def call(each: nn.Module, x: Tensor) -> Tensor:
        if id(each) not in weights:
            weights[id(each)] = dict(each.named_parameters())
        return fast(weights[id(each)], x)

    return call


def _step(
    apply: Callable[[nn.Module, Tensor], Tensor], x: Tensor, *, training: bool
) -> Callable[[nn.Module], object]:
    """What is timed: the forward without gradients, or forward and backward."""
    if not training:

        def forward(module: nn.Module) -> object:
            with torch.no_grad():
                return apply(module, x)

        return forward
    start = x.detach().requires_grad_()
    received = torch.randn(x.shape).to(x.dtype)

    def step(module: nn.Module) -> object:
        ends = [start, *module.parameters()]
        return forward_and_back(lambda x: apply(module, x), ends, start, received)

    return step
