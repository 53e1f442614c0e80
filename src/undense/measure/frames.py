"""Which call of which module an operation belongs to, in the forward and in the backward pass.

Forward: the innermost module being called. Backward: every autograd node belongs to the module call
that made it. Nodes are numbered in the order of their making, so it is enough to note, operation
by operation, whose numbers came up. (Hooks on tensors, which torch's `ModuleTracker` uses, lose a
module whose input needs no gradient, or whose output is used twice.)
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from undense.contract import FFNComponent
from undense.cost import Cost
from undense.measure.call import tensors


@dataclass
class Tally:
    """What was counted at one place of the module tree, its own operations only."""

    name: str
    path: str
    calls: int = 0
    forward: int = 0
    backward: int = 0
    inner: dict[str, Tally] = field(default_factory=dict)

    def child(self, name: str) -> Tally:
        """The tally of the module called `name` here, made on first use."""
        if name not in self.inner:
            path = f"{self.path}.{name}" if self.path else name
            self.inner[name] = Tally(name, path)
        return self.inner[name]


@dataclass
class ComponentCall:
    """One call of an FFN component: what its formula says, and what was dispatched for it."""

    path: str
    component: str
    cost: Cost
    recomputed: bool
    forward: int = 0
    backward: int = 0
    went_back: bool = False


@dataclass(eq=False)
class Frame:
    """One call of one module. `task` is the backward pass that it was called in, or -1."""

    tally: Tally
    parent: Frame | None
    module: nn.Module | None
    task: int
    component: ComponentCall | None

    def charge(self, flops: int, *, backward: bool) -> None:
        """Add FLOPs (negative: take them back) to this module and to its component's call."""
        for account in (self.tally, self.component):
            if account is None:
                continue
            if backward:
                account.backward += flops
            else:
                account.forward += flops
        if backward and self.component is not None:
            self.component.went_back = True

    def ancestors(self) -> list[Frame]:
        """This frame and those around it, the outermost first."""
        around = [] if self.parent is None else self.parent.ancestors()
        return [*around, self]


def common(first: Frame, second: Frame) -> Frame:
    """The innermost frame that encloses both."""
    if first is second:
        return first
    shared = first
    for mine, theirs in zip(first.ancestors(), second.ancestors(), strict=False):
        if mine is not theirs:
            break
        shared = mine
    return shared


class Frames:
    """The stack of module calls, and the owner of every autograd node."""

    def __init__(self, root: Tally, model: nn.Module | None) -> None:
        self.root = Frame(root, None, model, -1, None)
        self.calls: list[ComponentCall] = []
        self._stack: list[Frame] = [self.root]
        self._names: dict[nn.Module, str] = {}
        if model is not None:
            self._names = {module: name for name, module in model.named_modules()}
        self._numbered = torch._C._autograd._get_sequence_nr()
        self._starts: list[int] = [self._numbered]
        self._owners: list[Frame] = [self.root]

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A module is called."""
        task = torch._C._current_graph_task_id()
        around = self.here()
        frame = Frame(around.tally, around, module, task, around.component)
        if not isinstance(module, GraphModule):  # what a compiler made of modules has no name
            self._place(frame, _inside(module), inputs)
        self._stack.append(frame)

    def leave(self, module: nn.Module) -> None:
        """A module returned; calls inside it that raised are left with it."""
        while len(self._stack) > 1 and self._stack.pop().module is not module:
            pass

    def here(self) -> Frame:
        """The frame of an operation that executes now."""
        task = torch._C._current_graph_task_id()
        top = self._stack[-1]
        if task == top.task:
            return top
        if task == -1:  # modules that the backward pass called and that raised
            while self._stack[-1].task != -1:
                self._stack.pop()
            return self._stack[-1]
        return self._owner(torch._C._current_autograd_node())

    def note_nodes(self, frame: Frame) -> bool:
        """Give the autograd nodes made since the last operation to `frame`; False if none was."""
        number = torch._C._autograd._get_sequence_nr()
        if number == self._numbered:
            return False
        if frame is not self._owners[-1]:
            self._starts.append(self._numbered)
            self._owners.append(frame)
        self._numbered = number
        return True

    def _owner(self, node: Any) -> Frame:
        number = -1 if node is None else node._sequence_nr()
        if not self._starts[0] <= number < self._numbered:
            return self.root  # made before counting began, or sums into a parameter's .grad
        return self._owners[bisect_right(self._starts, number) - 1]

    def _place(self, frame: Frame, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        around = frame.parent
        assert around is not None
        frame.module = module
        if module is not self.root.module:
            frame.tally = around.tally.child(self._name(module, around))
        frame.tally.calls += 1
        if frame.component is None and isinstance(module, FFNComponent):
            x = next(tensors(inputs))
            frame.component = ComponentCall(
                path=frame.tally.path,
                component=module.component,
                cost=module.cost(_rows(x)),
                recomputed=frame.task != -1,
            )
            self.calls.append(frame.component)

    def _name(self, module: nn.Module, around: Frame) -> str:
        """The module's name inside the nearest module around it, else the name of its class."""
        name = self._names.get(module)
        if name is None or not _belongs(name, around.tally.path):
            name = _name_within(module, around)
            return type(module).__name__ if name is None else name
        return name.removeprefix(around.tally.path).removeprefix(".")


def _belongs(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _name_within(module: nn.Module, around: Frame | None) -> str | None:
    while around is not None and around.module is None:
        around = around.parent
    if around is None or around.module is None:
        return None
    return next((n for n, inner in around.module.named_modules() if inner is module), None)


def _inside(module: nn.Module) -> nn.Module:
    """The module that a `torch.compile` wrapper stands for."""
    inner = getattr(module, "_orig_mod", module)
    assert isinstance(inner, nn.Module)
    return inner


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]
