"""What was counted: totals, the three columns, operations by name, and the tree of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from undense.errors import UndenseError
from undense.measure.compiled import FUSED, INVISIBLE
from undense.measure.frames import ComponentCall, Tally

REMAINDER = "(own)"


@dataclass(frozen=True, kw_only=True)
class OpCount:
    """How often an operation ran, its FLOPs, and how long its kernels took in all."""

    calls: int = 0
    flops: int = 0
    seconds: float = 0.0

    def plus(self, flops: int, seconds: float) -> OpCount:
        """One call more."""
        return OpCount(
            calls=self.calls + 1, flops=self.flops + flops, seconds=self.seconds + seconds
        )


@dataclass(frozen=True, kw_only=True)
class ModuleCount:
    """FLOPs dispatched inside one module, its parts summing to the whole.

    `calls` counts every call, a shared module's too. Operations outside any part are the part
    "(own)", which has no calls. `macs`: the forward in multiply-adds.
    """

    name: str
    calls: int
    forward: int
    backward: int
    macs: int
    parts: tuple[ModuleCount, ...] = ()

    @property
    def flops(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward

    def walk(self, depth: int = 0) -> Iterator[tuple[int, ModuleCount]]:
        """Every node with its depth, parents first."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def part(self, path: str) -> ModuleCount:
        """The part at the dotted module path `path`; KeyError where nothing was called there."""
        for part in self.parts:
            if part.name == path:
                return part
            if path.startswith(f"{part.name}."):
                return part.part(path.removeprefix(f"{part.name}."))
        raise KeyError(f"{self.name} has no part {path!r}: {[part.name for part in self.parts]}")

    def to_dict(self) -> dict[str, object]:
        """The tree as plain JSON values."""
        figures: dict[str, object] = {
            "name": self.name,
            "calls": self.calls,
            "forward": self.forward,
            "backward": self.backward,
            "macs": self.macs,
        }
        if self.parts:
            figures["parts"] = [part.to_dict() for part in self.parts]
        return figures


@dataclass(frozen=True, kw_only=True)
class ComponentCount:
    """All calls of one FFN component at one place: its formulas beside what was dispatched."""

    path: str
    component: str
    calls: int
    analytic_forward: int
    analytic_backward: int
    dispatched_forward: int
    dispatched_backward: int
    useful: int


@dataclass
class Count:
    """FLOPs of what ran under the counter; it may be read while counting goes on.

    `dispatched` = `forward` + `backward`: what the executed operations cost, forward and backward
    told apart by whether autograd's backward pass ran them. `macs`: the forward in multiply-adds.
    `idle`: FLOPs of the forward that multiply with a weight of zero, outside components.
    """

    tally: Tally
    forward: int = 0
    backward: int = 0
    macs: int = 0
    idle: int = 0
    by_op: dict[str, OpCount] = field(default_factory=dict)
    zero_cost_ops: dict[str, OpCount] = field(default_factory=dict)
    uncounted_ops: dict[str, OpCount] = field(default_factory=dict)
    component_calls: list[ComponentCall] = field(default_factory=list)

    @property
    def dispatched(self) -> int:
        """FLOPs of every operation that ran."""
        return self.forward + self.backward

    @property
    def analytic(self) -> int:
        """FLOPs by formula: `cost()` for every call of a component (its backward if that ran too),
        the operations' own formulas for the rest. Without a component it equals `dispatched`."""
        return self.dispatched + sum(
            call.cost.forward + call.went_back * call.cost.backward - call.forward - call.backward
            for call in self.component_calls
        )

    @property
    def useful(self) -> int:
        """Forward FLOPs that touch a weight which is not zero: `cost().useful` for components, what
        was dispatched for the rest, without its products with weights that hold zeros (a pruned or
        masked layer). A forward that the backward pass repeats is no use twice."""
        return (self.forward - self.idle) + sum(
            call.cost.useful - call.forward for call in self.component_calls if not call.recomputed
        )

    @property
    def zero_cost_share(self) -> float:
        """Share of the operations' time that moved data and computed nothing, 0 to 1."""
        return self._share(self.zero_cost_ops)

    @property
    def zero_cost(self) -> dict[str, int]:
        """Calls of operations that compute no FLOP."""
        return {name: op.calls for name, op in self.zero_cost_ops.items()}

    @property
    def uncounted(self) -> dict[str, int]:
        """Calls of operations that there is no formula for."""
        return {name: op.calls for name, op in self.uncounted_ops.items()}

    @property
    def uncounted_share(self) -> float:
        """Share of the operations' time that uncounted ones took, 0 to 1."""
        return self._share(self.uncounted_ops)

    @property
    def seconds(self) -> float:
        """Time in the kernels of every operation. Sound on a CPU only: a GPU runs behind."""
        return sum(map(_seconds, (self.by_op, self.zero_cost_ops, self.uncounted_ops)))

    def _share(self, ops: Mapping[str, OpCount]) -> float:
        return _seconds(ops) / self.seconds if self.seconds else 0.0

    @property
    def components(self) -> tuple[ComponentCount, ...]:
        """Component by component, in the order of the first call."""
        by_path: dict[str, list[ComponentCall]] = {}
        for call in self.component_calls:
            by_path.setdefault(call.path, []).append(call)
        return tuple(_component(path, calls) for path, calls in by_path.items())

    @property
    def tree(self) -> ModuleCount:
        """The modules that were called, nested; forward and backward of the root are the totals."""
        return _module(self.tally)

    def require_all_counted(self) -> None:
        """`UndenseError` that names every uncounted operation, if there is one."""
        if self.uncounted_ops:
            listed = ", ".join(f"{op} ({calls} calls)" for op, calls in self.uncounted.items())
            if FUSED in self.uncounted_ops:
                raise UndenseError(f"operations without a FLOP formula: {listed}; {INVISIBLE}")
            raise UndenseError(
                f"operations without a FLOP formula: {listed}; count without strict to get the"
                " figures of the others, or give them one with undense.register_formula"
            )

    def to_dict(self) -> dict[str, object]:
        """Every figure as plain JSON values."""
        return {
            "forward": self.forward,
            "backward": self.backward,
            "dispatched": self.dispatched,
            "analytic": self.analytic,
            "useful": self.useful,
            "macs": self.macs,
            "by_op": {
                name: {"flops": op.flops, "calls": op.calls, "seconds": op.seconds}
                for name, op in self.by_op.items()
            },
            "zero_cost": _listed(self.zero_cost_ops, self.seconds),
            "zero_cost_share": self.zero_cost_share,
            "uncounted": _listed(self.uncounted_ops, self.seconds),
            "uncounted_share": self.uncounted_share,
            "components": [vars(component) for component in self.components],
            "tree": self.tree.to_dict(),
        }


def _seconds(ops: Mapping[str, OpCount]) -> float:
    return sum(op.seconds for op in ops.values())


def _listed(ops: Mapping[str, OpCount], seconds: float) -> dict[str, dict[str, object]]:
    return {
        name: {"calls": op.calls, "share": op.seconds / seconds if seconds else 0.0}
        for name, op in ops.items()
    }


def _component(path: str, calls: list[ComponentCall]) -> ComponentCount:
    return ComponentCount(
        path=path,
        component=calls[0].component,
        calls=len(calls),
        analytic_forward=sum(call.cost.forward for call in calls),
        analytic_backward=sum(call.cost.backward for call in calls if call.went_back),
        dispatched_forward=sum(call.forward for call in calls),
        dispatched_backward=sum(call.backward for call in calls),
        useful=sum(call.cost.useful for call in calls if not call.recomputed),
    )


def _module(tally: Tally) -> ModuleCount:
    parts = [_module(inner) for inner in tally.inner.values()]
    if parts and (tally.forward or tally.backward):
        parts.append(
            ModuleCount(
                name=REMAINDER,
                calls=0,
                forward=tally.forward,
                backward=tally.backward,
                macs=tally.macs,
            )
        )
    return ModuleCount(
        name=tally.name,
        calls=tally.calls,
        forward=sum(part.forward for part in parts) if parts else tally.forward,
        backward=sum(part.backward for part in parts) if parts else tally.backward,
        macs=sum(part.macs for part in parts) if parts else tally.macs,
        parts=tuple(parts),
    )
