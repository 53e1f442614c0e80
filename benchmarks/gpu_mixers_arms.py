"""The arms of `gpu_mixers.py` at one size: built, held against fp64, ready to be timed.

A causal mixer's first outputs, and the gradients that come from them alone, are those of the first
tokens alone: the whole call, at its full length, is held there against the module in fp64. Its last
outputs are held against the module in fp64 on the state that a call on all tokens before left.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_timing import Call, failure
from ours import ALL_PARTS, ours
from torch import Tensor

from undense.measure.ffn_arms import TORCH_DTYPES
from undense.mixing import SequenceMixer, State, build

ARMS = ("attention", "spectral_layer", ALL_PARTS)
HEAD, TAIL = 512, 64
# Relative errors (norm over norm).
BOUND = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
GRADIENT_BOUND = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
# Modes are selected for whole chunks, and 8 bits decide between near-equal ones otherwise (seen on
# a CPU: 0.13 and 0.14). So a selecting mixer is held loosely in bf16, and exactly in fp32 besides.
SELECTING = (ALL_PARTS,)
TURNED = (0.3, 0.3, 0.4)


@dataclass(frozen=True)
class Size:
    """One cell: a width and its heads, a type, forward or training, a length."""

    dim: int
    heads: int
    dtype: str
    mode: str
    length: int

    @property
    def training(self) -> bool:
        return self.mode == "training"


@dataclass
class Candidate:
    """An arm at one size: what is known of it, and, where it is right, what is timed."""

    entry: dict[str, Any]
    call: Call | None = None


def candidates(names: list[str], size: Size, device: str) -> dict[str, Candidate]:
    """Every arm, checked; a failure is an entry that says so."""
    torch.manual_seed(0)
    x = torch.randn(1, size.length, size.dim).to(device, TORCH_DTYPES[size.dtype])
    found = {name: Candidate({"status": "failed"}) for name in names}
    for name, each in found.items():
        try:
            with torch.device(device):  # no longer: torch would ask about every call
                mixer = build(size.dim, ours(name, heads=size.heads)).to(x.dtype)
            cost = mixer.cost(1, size.length)
            flops = cost.forward + (cost.backward if size.training else 0)
            errors = checked(mixer.eval(), x, training=size.training)
            selecting = x.dtype == torch.bfloat16 and name in SELECTING
            ok = right(errors, TURNED if selecting else bounds(x.dtype))
            if selecting:
                exact = checked(copy.deepcopy(mixer).float(), x.float(), training=size.training)
                ok = ok and right(exact, bounds(torch.float32))
                errors |= {f"{which}, in fp32": error for which, error in exact.items()}
            shown = {which: e if e < float("inf") else str(e) for which, e in errors.items()}
            each.entry = {"status": "measured", "flops": flops, "check": shown}
            if not ok:
                each.entry["status"] = "wrong: differs from its fp64 reference; not timed"
                continue
            mixer.train(size.training)
            received = torch.randn_like(x)
            each.call = partial(forward, mixer, x)
            if size.training:
                each.call = partial(step, mixer, x.clone().requires_grad_(), received)
        except Exception as error:  # whatever a kernel raises is a finding too
            each.entry |= {"status": "failed", "error": failure(error)}
            print(f"{size} {name}: {each.entry['error']}", file=sys.stderr)
    return found


def bounds(dtype: torch.dtype) -> tuple[float, float, float]:
    """Of the first outputs, the last and the gradients."""
    return BOUND[dtype], BOUND[dtype], GRADIENT_BOUND[dtype]


def right(errors: dict[str, float], limits: tuple[float, ...]) -> bool:
    """Whether the first outputs, the last and the gradients, where there are any, are near."""
    found = [errors[which] for which in ("first", "last", "gradients") if which in errors]
    return all(error <= limit for error, limit in zip(found, limits, strict=False))


def forward(mixer: SequenceMixer, x: Tensor) -> object:
    with torch.no_grad():
        return mixer(x)


def step(mixer: SequenceMixer, x: Tensor, received: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of the input and the parameters that get one."""
    y = mixer(x)[0]
    ends = [x, *mixer.parameters()]
    found = torch.autograd.grad(y, ends, received, allow_unused=True)
    pairs = zip(ends, found, strict=True)
    return y.detach(), [torch.zeros_like(end) if g is None else g for end, g in pairs]


def checked(mixer: SequenceMixer, x: Tensor, *, training: bool) -> dict[str, float]:
    """Errors of the first outputs, of the last, and of the gradients. In evaluation mode: in
    training, losses of its own that a mixer adds would mix what all tokens say."""
    exact = copy.deepcopy(mixer).double()
    head = min(HEAD, x.shape[1])
    first = x[:, :head].double()
    received = torch.zeros_like(x)
    received[:, :head] = torch.randn(1, head, x.shape[2]).to(x)
    got: list[Tensor] = []
    if training:
        y, got = step(mixer, x.detach().clone().requires_grad_(), received)
        wanted, back = step(exact, first.requires_grad_(), received[:, :head].double())
        got[0] = got[0][:, :head]
    else:
        with torch.no_grad():
            y, wanted, back = mixer(x)[0], exact(first)[0], []
    errors = {"first": off([y[:, :head]], [wanted]), "last": 0.0}
    if x.shape[1] > head + TAIL:
        with torch.no_grad():
            state: State = tuple(widened(part) for part in mixer(x[:, :-TAIL])[1])
            errors["last"] = off([y[:, -TAIL:]], [exact(x[:, -TAIL:].double(), state)[0]])
    return errors | ({"gradients": off(got, back)} if training else {})


def widened(part: Tensor) -> Tensor:
    """Positions stay what they are."""
    if part.is_complex():
        return part.to(torch.complex128)
    return part.double() if part.is_floating_point() else part


def off(got: list[Tensor], wanted: list[Tensor]) -> float:
    """|got - wanted| / |wanted|, all tensors together; what is no number is infinitely wrong."""
    difference = sum((a.double() - b).square().sum() for a, b in zip(got, wanted, strict=True))
    size = sum(b.square().sum() for b in wanted)
    error = torch.as_tensor(difference / size).sqrt().item()
    return error if error < float("inf") else float("inf")
