"""The FLOP counter: every operation that PyTorch dispatches, by formula, module by module.

`with flop_counter(model) as count: …` or `count_flops(model, x, backward=True)`. Only what is
dispatched is counted, each operation once: a composite one by its parts, a fused kernel by itself.
On tensors of the meta device and under `torch.compile(backend="aot_eager")` the same numbers come
out. Under Inductor what it fused is invisible: that warns, and is listed as uncounted.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from undense.errors import UndenseError
from undense.measure import formulas
from undense.measure.call import Call, op_name, tensors
from undense.measure.compiled import FUSED, INVISIBLE, watch_inductor
from undense.measure.count import Count, OpCount
from undense.measure.frames import Frames, Tally, inside
from undense.measure.gradient_sums import GradientSums
from undense.measure.idle import Weights
from undense.measure.meta_attention import FusedAttentionOnMeta


@contextmanager
def flop_counter(model: nn.Module | None = None, *, strict: bool = False) -> Iterator[Count]:
    """Count the FLOPs of everything that runs inside the `with` block, backward passes included.

    `model` gives the tree its root and names; modules outside it appear under their class's name.
    `strict` raises `UndenseError` at the end of the block where an operation had no formula; a
    graph that Inductor compiled counts as one, and without `strict` gives a warning.
    """
    root = "total" if model is None else type(inside(model)).__name__
    count = Count(Tally(root, ""))
    frames = Frames(count.tally, model)
    count.component_calls = frames.calls
    counting = _Counting(count, frames)
    with ExitStack() as stack:
        stack.callback(counting.sums.close)
        _follow_modules(stack, frames, counting.weights)
        stack.enter_context(watch_inductor(counting.record_fused))
        stack.enter_context(counting)
        yield count
    if strict:
        count.require_all_counted()
    elif FUSED in count.uncounted_ops:
        warnings.warn(INVISIBLE, stacklevel=3)


def count_flops(
    callable: Callable[..., Any],
    *args: Any,
    model: nn.Module | None = None,
    backward: bool = False,
    strict: bool = False,
) -> Count:
    """Count one call of `callable` on `args`, and with `backward` the way back from its output.

    The way back starts from the output's `loss` where it has one, else from ones in place of the
    gradient of every floating tensor it returns; every `.grad` is left as it was. `model`: see
    `flop_counter`; by default `callable` itself if it is a module.

    Raises `UndenseError` if there is no way back, or if `strict` and an operation has no formula.
    """
    if model is None and isinstance(callable, nn.Module):
        model = callable
    with flop_counter(model, strict=strict) as count:
        output = callable(*args)
        if backward:
            _go_back(output, model)
    return count


class _Counting(TorchDispatchMode):
    """Sees every operation below autograd, in the forward and in the backward pass."""

    supports_higher_order_operators = True

    def __init__(self, count: Count, frames: Frames) -> None:
        super().__init__()
        self.count = count
        self.frames = frames
        self.sums = GradientSums()
        self.weights = Weights()
        self._seconds = 0.0  # in kernels that were seen, since Inductor's last graph

    def record_fused(self, seconds: float) -> None:
        """A graph of Inductor's ran; the kernels that it left alone were seen inside it."""
        _record(self.count.uncounted_ops, FUSED, 0, max(0.0, seconds - self._seconds))
        self._seconds = 0.0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Lets Dynamo compile while counting; the compiled graph is then what is counted."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            output = func(*args, **kwargs)
            _record(self.count.uncounted_ops, f"higher_order.{func.name()}", 0, 0.0)
            return output
        if not formulas.known(func):  # inference mode leaves composite operations whole
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        start = time.perf_counter()
        output = func(*args, **kwargs)
        seconds = time.perf_counter() - start
        self._count(Call(func, args, kwargs, output), seconds)
        self._seconds += seconds
        return output

    def _count(self, call: Call, seconds: float) -> None:
        frame = self.frames.here()
        task = torch._C._current_graph_task_id()
        if self.frames.note_nodes(frame):
            self.sums.note_uses(call, frame)
        name = op_name(call.op)
        work = formulas.work(call)
        if task == -1:
            self.weights.follow(call)
        if work is None:
            _record(self.count.uncounted_ops, name, 0, seconds)
            if task != -1:
                self.sums.note_sum(call, frame, 0)
            return
        _record(
            self.count.by_op if work.flops else self.count.zero_cost_ops, name, work.flops, seconds
        )
        frame.charge(work.flops, task)
        if task == -1:
            self.count.forward += work.flops
            self.count.macs += work.macs
            frame.tally.macs += work.macs
            if frame.component is None:  # a component's own cost says what is useful in it
                self.count.idle += self.weights.idle(call, work)
        else:
            self.count.backward += work.flops
            self.sums.note_sum(call, frame, work.flops)


def _record(ops: dict[str, OpCount], name: str, flops: int, seconds: float) -> None:
    ops[name] = ops.get(name, OpCount()).plus(flops, seconds)


def _follow_modules(stack: ExitStack, frames: Frames, weights: Weights) -> None:
    """Hooks on every module call. A compiler that traces them must not run them."""
    called: list[ExitStack] = []

    def enter(module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        around = ExitStack()
        if not called:
            weights.hold(module)
            if _is_on_meta(module):
                around.enter_context(FusedAttentionOnMeta())
        called.append(around)
        frames.enter(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        frames.leave(output)
        called.pop().close()

    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global")
    stack.callback(register_module_forward_pre_hook(enter).remove)
    stack.callback(register_module_forward_hook(leave, always_call=True).remove)


def _is_on_meta(module: nn.Module) -> bool:
    """Whether it is only a shape; a compiled one is left alone, as Dynamo traces no such mode."""
    return module is inside(module) and any(p.is_meta for p in module.parameters())


def _go_back(output: Any, model: nn.Module | None) -> None:
    loss = getattr(output, "loss", None)
    values = [loss] if isinstance(loss, Tensor) else [*tensors(_plain(output))]
    ends = [value for value in values if value.requires_grad]
    if not ends:
        raise UndenseError(
            "backward=True, but nothing that was returned requires a gradient; switch gradients on"
            " (no torch.no_grad) and give an input or a parameter requires_grad=True"
        )
    # Kept aside, for two reasons: it is the caller's, and adding to it would be counted.
    owned = [] if model is None else [*model.parameters()]
    kept = {leaf: leaf.grad for leaf in (*_leaves(ends), *owned)}
    for leaf in kept:
        leaf.grad = None
    try:
        torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
    finally:
        for leaf, grad in kept.items():
            leaf.grad = grad


def _plain(output: Any) -> Any:
    return tuple(output.values()) if isinstance(output, Mapping) else output


def _leaves(ends: list[Tensor]) -> list[Tensor]:
    """Every tensor that a backward pass from `ends` would give a `.grad`."""
    found: list[Tensor] = [end for end in ends if end.grad_fn is None]
    waiting: list[Any] = [end.grad_fn for end in ends if end.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found
