"""From the name of a structure to the linear map: one kind, or a sum such as "block+low_rank"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from undense.errors import UndenseError
from undense.ops.block_linear import BlockLinear
from undense.ops.filtered import FilteredLinear
from undense.ops.kronecker import KroneckerLinear
from undense.ops.linear_map import Leaf, LinearMap
from undense.ops.low_rank import LowRankLinear
from undense.ops.monarch import MonarchLinear
from undense.ops.sparse_linear import SparseLinear
from undense.ops.sum_linear import SumLinear

KINDS = ("block", "monarch", "filtered", "low_rank", "kronecker")


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a linear map is made of. `kinds`: names out of `KINDS`, joined by "+".

    `blocks`: of block, monarch and filtered; `rank`: of low_rank; `terms`: of kronecker; `keep`:
    share of the entries of each row that every factor stores and computes, 1 for dense factors.
    """

    kinds: str
    blocks: int
    rank: int
    terms: int
    keep: float

    @property
    def names(self) -> list[str]:
        """The kinds that are summed."""
        return self.kinds.split("+")

    def build(self, fan_in: int, fan_out: int, *, bias: bool) -> LinearMap:
        """The map fan_in -> fan_out of this structure."""
        leaf: Leaf = BlockLinear if self.keep == 1 else partial(SparseLinear, keep=self.keep)
        maps = [
            self._one(name, leaf, fan_in, fan_out, bias=bias and place == 0)
            for place, name in enumerate(self.names)
        ]
        return maps[0] if len(maps) == 1 else SumLinear(maps)

    def _one(self, name: str, leaf: Leaf, fan_in: int, fan_out: int, *, bias: bool) -> LinearMap:
        if name == "block":
            return leaf(fan_in, fan_out, blocks=self.blocks, bias=bias)
        if name == "monarch":
            return MonarchLinear(fan_in, fan_out, blocks=self.blocks, bias=bias, leaf=leaf)
        if name == "filtered":
            return FilteredLinear(fan_in, fan_out, blocks=self.blocks, bias=bias, leaf=leaf)
        if name == "low_rank":
            return LowRankLinear(fan_in, fan_out, rank=self.rank, bias=bias, leaf=leaf)
        assert name == "kronecker", name
        return KroneckerLinear(fan_in, fan_out, terms=self.terms, bias=bias, leaf=leaf)


def sized(kinds: str, blocks: int, size: int) -> dict[str, int]:
    """The settings that make a factored FFN of step `size`: the rank or the number of Kronecker
    terms where there is one, else neurons, a multiple of the smallest number that blocks divide."""
    names = kinds.split("+")
    if "low_rank" in names:
        return {"rank": size}
    if "kronecker" in names:
        return {"terms": size}
    return {"hidden": size * (blocks**2 if "monarch" in names else blocks)}


def check_structure(
    component: str, field: str, kinds: str, *, keep: float, counts: Mapping[str, int | None]
) -> None:
    """Refuse unknown or repeated kinds, and settings out of range, in the component's name."""
    names = kinds.split("+")
    if unknown := [name for name in names if name not in KINDS]:
        raise UndenseError(
            f"{component}: {field}={kinds!r} has the unknown kind {unknown[0]!r}; use"
            f" {', '.join(KINDS)}, or a sum such as 'block+low_rank'"
        )
    if len(set(names)) < len(names):
        raise UndenseError(
            f"{component}: {field}={kinds!r} names a kind twice; raise its size instead"
        )
    if not 0 < keep <= 1:
        raise UndenseError(f"{component}: keep={keep} must be above 0 and at most 1")
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UndenseError(f"{component}: {name}={value} must be at least 1")
