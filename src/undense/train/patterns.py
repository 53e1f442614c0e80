"""Numbers by patterns of parameter names, as a recipe gives them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from undense.errors import UndenseError


def by_pattern(names: Sequence[str], patterns: Mapping[str, float], what: str) -> dict[str, float]:
    """The number of every name that a pattern matches; where several do, the last one's.

    A pattern is a glob over the whole dotted name: "*.mlp.down.*", "*.temperature". `what`: the
    field that the patterns stand in. Raises `UndenseError` for one that matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, number in patterns.items():
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise UndenseError(
                f"recipe: {what}: {pattern!r} matches no parameter; near are {', '.join(near)}"
            )
        found |= dict.fromkeys(matched, number)
    return found
