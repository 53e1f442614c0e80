"""Three forms of one function, and the future: how far apart are they at 4 K and at 64 K tokens?

    python benchmarks/mixers_forms.py [--lengths 4096 65536] [--arms …]

Every causal mixer of ours at its defaults, and `spectral_layer` with all parts on (`all_parts`),
d=64, 4 heads, parameters as built and moved at random
(times 1.5, plus 0.3 standard deviations): one call over all tokens against calls of 1000, and
against one call a token over the last 1000 to 2000 (before them, calls of 1000); fp32 and fp64;
largest difference over the largest output. Leak: the tokens after 60 % are replaced, values and
gradients, fp32; beside it, as a control, the same mixer not causal. Writes
`benchmarks/results/mixers-forms-DATE.json`.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

import torch
from ours import NAMES, ours
from torch import Tensor
from tqdm import tqdm

from undense.files import write_json
from undense.measure.timing import environment
from undense.mixing import SequenceMixer, State, build

ROOT = Path(__file__).resolve().parent.parent
DIM, PIECE, STEPS = 64, 1000, 1000


def built(
    name: str, dtype: torch.dtype, *, causal: bool = True, moved: bool = True
) -> SequenceMixer:
    torch.manual_seed(0)
    mixer = build(DIM, ours(name, causal=causal)).to(dtype).eval()
    if not moved:
        return mixer
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.mul_(1.5).add_(0.3 * torch.randn_like(parameter))
    return mixer


def away(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@torch.no_grad()
def forms(name: str, length: int, dtype: torch.dtype, *, moved: bool) -> dict[str, float]:
    """Pieces and single tokens against one call."""
    mixer = built(name, dtype, moved=moved)
    x = torch.randn(1, length, DIM, dtype=dtype)
    whole = mixer(x)[0]
    state: State | None = None
    pieces: list[Tensor] = []
    before: State | None = None
    last = 0
    for start in range(0, length, PIECE):
        if start + PIECE <= length - STEPS:
            before, last = state, start
        y, state = mixer(x[:, start : start + PIECE], state)
        pieces.append(y)
    state = before
    tokens: list[Tensor] = []
    for place in range(last, length):
        y, state = mixer(x[:, place : place + 1], state)
        tokens.append(y)
    return {
        "pieces": away(torch.cat(pieces, 1), whole),
        "tokens": away(torch.cat(tokens, 1), whole[:, last:]),
    }


def leak(name: str, length: int, *, causal: bool) -> dict[str, float]:
    """How far later tokens move earlier outputs, and the gradient that they get from them."""
    mixer = built(name, torch.float32, causal=causal)
    x = torch.randn(1, length, DIM, requires_grad=True)
    place = 6 * length // 10
    y = mixer(x)[0]
    (gradient,) = torch.autograd.grad(y[:, :place].square().sum(), x)
    changed = x.detach().clone()
    changed[:, place:] = torch.randn_like(changed[:, place:])
    return {
        "value": away(mixer(changed)[0][:, :place], y[:, :place]),
        "gradient": (gradient[:, place:].abs().max() / gradient.abs().max()).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 65_536])
    spectral = [name for name in NAMES if name != "attention"]
    parser.add_argument("--arms", nargs="+", default=spectral, choices=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    today = datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"mixers-forms-{today}.json"
    result: dict[str, Any] = {
        "created": today,
        "command": "python benchmarks/mixers_forms.py",
        "environment": environment(),
        "dim": DIM,
        "arms": {},
    }
    for name in tqdm(options.arms, desc="mixers"):
        arm: dict[str, Any] = result["arms"].setdefault(name, {})
        for length in options.lengths:
            arm[str(length)] = {
                f"{kind}, {'moved' if moved else 'as built'}": forms(
                    name, length, dtype, moved=moved
                )
                for kind, dtype in (("fp32", torch.float32), ("fp64", torch.float64))
                for moved in (False, True)
            }
        arm["leak"] = leak(name, options.lengths[0], causal=True)
        arm["leak of the control"] = leak(name, options.lengths[0], causal=False)
        write_json(path, result)
    for name, arm in result["arms"].items():
        print(name, *(f"\n  {what}: {found}" for what, found in arm.items()))


if __name__ == "__main__":
    main()
