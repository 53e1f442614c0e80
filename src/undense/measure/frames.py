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
from torch import nn
from torch._C._autograd import _get_sequence_nr
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
    macs: int = 0
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
    recomputed: bool
    cost: Cost = field(default_factory=lambda: Cost(name=""))
    forward: int = 0
    backward: int = 0

    @property
    def went_back(self) -> bool:
        """Whether a backward pass reached this call."""
        return self.backward > 0


@dataclass(eq=False)
class Frame:
    """One call of one module. `task` is the backward pass that it was called in, or -1."""

    tally: Tally
    parent: Frame | None
    module: nn.Module | None
    task: int
    component: ComponentCall | None

    def charge(self, flops: int, task: int) -> None:
        """Add FLOPs (negative: take them back) that were computed in the backward pass `task`.

        To the component, a forward that a checkpoint repeats in a backward pass is a forward.
        """
        if task == -1:
            self.tally.forward += flops
        else:
            self.tally.backward += flops
        if self.component is not None and task == self.task:
            self.component.forward += flops
        elif self.component is not None:
            self.component.backward += flops

    def ancestors(self) -> list[Frame]:
        """This frame and those around it, the outermost first."""
        around = [] if self.parent is None else self.parent.ancestors()
        return [*around, self]


class Frames:
    """The stack of module calls, and the owner of every autograd node."""

    def __init__(self, root: Tally, model: nn.Module | None) -> None:
        self.root = Frame(root, None, None if model is None else inside(model), -1, None)
        self.calls: list[ComponentCall] = []
        self._stack: list[Frame] = [self.root]
        self._names: dict[nn.Module, dict[nn.Module, str]] = {}
        self._numbered = _get_sequence_nr()
        self._starts: list[int] = [self._numbered]
        self._owners: list[Frame] = [self.root]

    def enter(self, module: nn.Module) -> None:
        """A module is called."""
        module = inside(module)
        around = self.here()
        self.note_nodes(around)
        task = torch._C._current_graph_task_id()
        if task != self._stack[-1].task:  # a checkpoint repeats a forward that some node waits for
            around = self._enclosing(module, around)
        frame = Frame(around.tally, around, module, task, around.component)
        self._stack.append(frame)
        if isinstance(module, GraphModule):  # what a compiler made of modules has no name
            return
        if module is not self.root.module:
            frame.tally = around.tally.child(self._name(module, around))
        frame.tally.calls += 1
        if frame.component is None and isinstance(module, FFNComponent):
            frame.component = ComponentCall(frame.tally.path, module.component, task != -1)

    def leave(self, output: Any) -> None:
        """The module entered last returned; `output` is None if it raised."""
        frame = self._stack.pop()
        module, around = frame.module, frame.parent
        assert around is not None
        y = next(tensors(output), None)
        if y is None or not isinstance(module, FFNComponent) or around.component is not None:
            return
        assert frame.component is not None
        frame.component.cost = module.cost(y.numel() // y.shape[-1])
        self.calls.append(frame.component)

    def here(self) -> Frame:
        """The frame of an operation that executes now."""
        top = self._stack[-1]
        if top.task == torch._C._current_graph_task_id():
            return top
        return self._owner(torch._C._current_autograd_node())

    def note_nodes(self, frame: Frame) -> bool:
        """Give the autograd nodes made since the last operation to `frame`; False if none was."""
        number = _get_sequence_nr()
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

    def _enclosing(self, module: nn.Module, frame: Frame) -> Frame:
        """The innermost frame around `frame`, or itself, whose module contains `module`."""
        around = [frame for frame in frame.ancestors() if module in self._inner(frame, module)]
        return around[-1] if around else self.root

    def _name(self, module: nn.Module, around: Frame) -> str:
        """The module's name inside the module around it, else the name of its class."""
        return self._inner(around, module).get(module, type(module).__name__)

    def _inner(self, frame: Frame, wanted: nn.Module) -> dict[nn.Module, str]:
        """The names of the modules inside the frame's module, itself left out."""
        owner = frame.module
        if owner is None:
            return {}
        if wanted not in self._names.get(owner, {}):  # not asked before, or swapped since
            self._names[owner] = {inner: name for name, inner in owner.named_modules() if name}
        return self._names[owner]


def inside(module: nn.Module) -> nn.Module:
    """The module that a `torch.compile` wrapper stands for."""
    inner = getattr(module, "_orig_mod", module)
    assert isinstance(inner, nn.Module)
    return inner
