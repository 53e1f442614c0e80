"""The table of FLOP formulas: aten operation -> work, from its arguments and what it returned.

Three verdicts: counted (a formula, more than 0 FLOPs), zero cost (moves data, or computes on
integers and booleans only), uncounted (neither: listed by name and number of calls, so that nothing
is left out in silence). Products of integers are counted like any others: an int8 matmul is work.
"""

from __future__ import annotations

from typing import Any

from torch.utils.flop_counter import flop_registry

from undense.cost import OP_FORMULAS, Work
from undense.measure import (
    activations,
    attention,
    losses,
    normalizations,
    optimizers,
    pointwise,
    pooling,
    products,
    reductions,
    solvers,
    transforms,
)
from undense.measure.call import Call, Formula, is_real_number, op_name, tensors
from undense.measure.zero_cost import ZERO_COST

FORMULAS: dict[str, Formula] = {
    **products.FORMULAS,
    **transforms.FORMULAS,
    **attention.FORMULAS,
    **pointwise.FORMULAS,
    **activations.FORMULAS,
    **reductions.FORMULAS,
    **normalizations.FORMULAS,
    **losses.FORMULAS,
    **pooling.FORMULAS,
    **optimizers.FORMULAS,
    **solvers.FORMULAS,
}


def known(op: Any) -> bool:
    """Whether `op` is in one of the tables; otherwise it may be taken apart into ones that are."""
    name = op_name(op)
    return name in OP_FORMULAS or name in FORMULAS or name in ZERO_COST or _registered(op)


def work(call: Call) -> Work | None:
    """Work of an executed operation: 0 FLOPs where it is free, None where it is uncounted.

    Custom operations bring their formulas by `undense.cost.register_formula`; outside aten those of
    `torch.utils.flop_counter.register_flop_formula` are honoured too.
    """
    name = op_name(call.op)
    if name in OP_FORMULAS:
        return OP_FORMULAS[name](call.out, *call.args, **call.kwargs)
    if name in ZERO_COST:
        return Work(0)
    if name in FORMULAS:
        if name not in products.FORMULAS and not _computes_real_numbers(call):
            return Work(0)
        return FORMULAS[name](call)
    if _registered(call.op):
        flops = flop_registry[call.op.overloadpacket](*call.args, **call.kwargs, out_val=call.out)
        return Work(flops, flops // 2)
    return None


def _registered(op: Any) -> bool:
    return op.namespace != "aten" and op.overloadpacket in flop_registry


def _computes_real_numbers(call: Call) -> bool:
    return any(map(is_real_number, tensors(call.out))) or any(map(is_real_number, call.tensors()))
