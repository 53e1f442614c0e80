"""Where the sum of gradients belongs when a tensor was used more than once.

Autograd adds such gradients up between two nodes, so no node owns the sum. It belongs to the
innermost module call that encloses the uses whose gradients it adds: a component that reads its
input twice pays for it itself; where attention and FFN read the same input, their block pays.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from undense.measure.call import Call, is_sparse, op_name, tensors
from undense.measure.frames import Frame


@dataclass
class _Uses:
    """Where autograd nodes read a tensor; `tensor` keeps the identity of a leaf alive."""

    frames: list[Frame]
    tensor: Tensor | None


class GradientSums:
    """Moves such sums from the frame that was charged first to the one that they belong to.

    Forward: note who uses which tensor, and watch those used twice. Backward: note every addition;
    when one turns out to be a watched tensor's gradient, it moves.
    """

    def __init__(self) -> None:
        self._uses: dict[tuple[int, int], _Uses] = {}
        self._sums: dict[int, list[tuple[Frame, int]]] = {}
        self._handles: list[RemovableHandle] = []

    def note_uses(self, call: Call, frame: Frame) -> None:
        """An operation that autograd recorded reads its arguments."""
        for x in call.tensors():
            if not x.requires_grad:
                continue
            node = x.grad_fn
            key = (-1, id(x)) if node is None else (node._sequence_nr(), x.output_nr)
            uses = self._uses.setdefault(key, _Uses([], x if node is None else None))
            if uses.frames and frame.task not in (-1, uses.frames[0].task):
                continue  # a checkpoint repeats the forward: the same use again
            uses.frames.append(frame)
            if len(uses.frames) == 2:
                self._watch(x, uses)

    def note_sum(self, call: Call, frame: Frame, flops: int) -> None:
        """An operation of the backward pass ran; additions may turn out to be sums of gradients."""
        read = {_memory(x) for x in call.tensors()}
        produced = [_memory(x) for x in tensors(call.out)]
        if op_name(call.op) == "aten.add" and flops and produced[0] is not None:
            earlier = [entry for place in read for entry in self._sums.pop(place or 0, [])]
            self._sums[produced[0]] = [*earlier, (frame, flops)]
            return
        for place in produced:
            if place is not None and place not in read:  # memory given out again
                self._sums.pop(place, None)

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._uses.clear()
        self._sums.clear()

    def _watch(self, x: Tensor, uses: _Uses) -> None:
        def move(gradient: Tensor) -> None:
            task = torch._C._current_graph_task_id()
            sums = self._sums.pop(_memory(gradient) or 0, [])
            for (frame, flops), home in zip(sums, _homes(uses.frames, len(sums)), strict=True):
                frame.charge(-flops, task)
                home.charge(flops, task)

        self._handles.append(x.register_hook(move))


def _homes(uses: list[Frame], sums: int) -> list[Frame]:
    """The frames that the sums of the gradients of `uses` belong to.

    A frame adds up what its own operations and the calls directly inside it pass on: one sum less
    than there are of those. Where some use passed nothing on, all sums go to the frame around all.
    """
    passed_on = Counter[Frame]()
    reached: set[Frame] = set()
    for use in uses:
        passed_on[use] += 1
        inner, outer = use, use.parent
        while inner not in reached and outer is not None:
            reached.add(inner)
            passed_on[outer] += 1
            inner, outer = outer, outer.parent
    homes = [frame for frame, count in passed_on.items() for _ in range(count - 1)]
    if len(homes) == sums:
        return homes
    around = [frame for frame in uses[0].ancestors() if _encloses(frame, uses)]
    return [around[-1]] * sums


def _encloses(frame: Frame, uses: list[Frame]) -> bool:
    return all(frame in use.ancestors() for use in uses)


def _memory(x: Tensor) -> int | None:
    """The identity of the memory behind `x`, the same for all its views."""
    return None if is_sparse(x) else x.untyped_storage()._cdata
