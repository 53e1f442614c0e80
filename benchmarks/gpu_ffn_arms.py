"""The arms of `gpu_ffn.py` at one size: checked against fp64, with copies of their weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from gpu_timing import Call, cache_bytes, failure
from torch import Tensor, nn

from undense.measure.ffn_arms import DENSE, TORCH_DTYPES, Arm
from undense.measure.ffn_bench import COMPILED, MEASURED, Cell, compiled_forward
from undense.measure.oracle import check, forward_and_back
from undense.measure.rotation import rotation, weight_bytes

MOST_COPIES = 48
Apply = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Candidate:
    """An arm at one size: what is known of it, and, where it is right, a call for every copy."""

    entry: dict[str, Any]
    calls: list[Call] = field(default_factory=list)


def eager(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def forward(apply: Apply, module: nn.Module, x: Tensor) -> object:
    with torch.no_grad():
        return apply(module, x)


def step(apply: Apply, module: nn.Module, x: Tensor, received: Tensor) -> object:
    ends = [x, *module.parameters()]
    return forward_and_back(lambda x: apply(module, x), ends, x, received)


def candidate(arm: Arm, size: Cell, x: Tensor, device: str, *, as_compiled: bool) -> Candidate:
    """Checked, with copies of its weights; a failure is an entry that says so."""
    if arm.config is None:
        return Candidate({"status": f"not possible: {arm.why}"})
    found = Candidate({"flops": arm.flops(size.tokens, training=size.training)})
    entry = found.entry
    try:
        with torch.device(device):  # no longer: torch would ask about every call
            module = arm.build(x.dtype, training=size.training)
        apply = compiled_forward(module) if as_compiled else eager
        checked = check(module, x, training=size.training, call=lambda x: apply(module, x))
        entry["check"] = checked.to_dict()
        if not checked.ok:
            entry["status"] = "wrong: differs from its fp64 reference; not timed"
            return found
        span = min(2 * cache_bytes(device), MOST_COPIES * weight_bytes(module))
        copies = rotation(module, span).modules
        entry |= {"status": MEASURED, "copies": len(copies), "weight_bytes": weight_bytes(module)}
        start, received = x.clone().requires_grad_(size.training), torch.randn_like(x)
        for each in copies:
            call = partial(forward, apply, each, x)
            found.calls.append(
                partial(step, apply, each, start, received) if size.training else call
            )
    except Exception as error:  # whatever a kernel or a compiler raises is a finding too
        entry |= {"status": "failed", "error": failure(error)}
        print(f"{size} {arm.name}: {entry['error']}", file=sys.stderr)
        found.calls = []
    return found


def candidates(arms: list[Arm], size: Cell, device: str) -> dict[str, Candidate]:
    """Dense, compiled dense and the others."""
    torch.manual_seed(0)
    x = torch.randn(1, size.tokens, size.dim).to(device, TORCH_DTYPES[size.dtype])
    found = {}
    for arm in arms:
        found[arm.name] = candidate(arm, size, x, device, as_compiled=False)
        if arm.name == DENSE:
            found[COMPILED] = candidate(arm, size, x, device, as_compiled=True)
    return found
