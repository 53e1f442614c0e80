"""A dense FFN whose modules lie side by side in their layer, taken out and put back as one.

BERT keeps its two projections in two modules of the layer, of which one also adds the residual and
normalises; BART keeps projections and activation on the layer itself. There a component replaces
the function of the FFN alone: it stands where the first module stood, identities where the others
did, and what the host does around them stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import nn

from undense.contract import FFNComponent
from undense.convert.families import Family


@final
class DenseParts(nn.Sequential):
    """The modules of one dense FFN in the order in which its layer runs them. They stay the
    layer's own. `muted`: the layer's dropout probabilities that act between them."""

    def __init__(self, modules: list[nn.Module], muted: Mapping[str, float]) -> None:
        super().__init__(*modules)
        self.muted = dict(muted)
        self.training = modules[0].training  # theirs, not the one that a new module starts with


def standing(owner: nn.Module, kind: Family) -> nn.Module:
    """The FFN of an owner as one module, dense or replaced."""
    if not kind.chain:
        return owner
    modules = [owner.get_submodule(path) for path in kind.chain]
    if isinstance(modules[0], FFNComponent):
        return modules[0]
    return DenseParts(modules, {name: getattr(owner, name) for name in kind.muted})


def seat(owner: nn.Module, kind: Family, ffn: nn.Module) -> None:
    """Make `ffn`, a component or what `standing` gave, the FFN of an owner that has a chain."""
    if isinstance(ffn, DenseParts):
        modules, muted = [*ffn], ffn.muted
    else:
        modules = [ffn, *(nn.Identity() for _ in kind.chain[1:])]
        muted = dict.fromkeys(kind.muted, 0.0)
    for path, module in zip(kind.chain, modules, strict=True):
        owner.set_submodule(path, module)
    for name, probability in muted.items():
        setattr(owner, name, probability)


def leftover(owner: nn.Module, kind: Family) -> str | None:
    """What of a dense FFN still acts beside a component that was put in by hand, in words."""
    for path in kind.chain[1:]:
        if not isinstance(module := owner.get_submodule(path), nn.Identity):
            return f"{path} is still a {type(module).__name__}; put torch.nn.Identity() there"
    for name in kind.muted:
        if getattr(owner, name):
            return f"{name} is {getattr(owner, name)}; set it to 0.0"
    return None
