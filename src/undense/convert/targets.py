"""Which sites a conversion means: PEFT's grammar, with globs and layer numbers, and near misses.

A target is one of
    mlp, 0.mlp, h.0.mlp       the end of a site's path, whole components
    re:.*\\.[02]\\.mlp          a regular expression for the whole path; `re:` may be left out
    h.[0-3].mlp, *.mlp        a glob for the whole path or for its end
    3, 0-5                    layers by number, both ends included
and a list of targets is their union.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence

from undense.errors import UndenseError

Targets = str | int | Sequence[str | int]


def select(
    layers: dict[str, int], targets: Targets | None = None, exclude: Targets | None = None
) -> list[str]:
    """The names meant, in their given order. `layers`: every site's name and its layer number.

    None means all (`targets`) or nothing (`exclude`). Raises `UndenseError` for a target that
    matches no site, with near misses and the sites there are, and where `exclude` leaves none.
    """
    chosen = set(layers) if targets is None else _union(layers, targets, "target")
    left = chosen - (_union(layers, exclude, "exclude") if exclude is not None else set())
    if not left:
        raise UndenseError(
            f"targets={targets!r} without exclude={exclude!r} leaves no FFN to convert;"
            " exclude fewer"
        )
    return [name for name in layers if name in left]


def matches(target: str, name: str, layer: int) -> bool:
    """Whether one target means the site `name` of layer `layer`."""
    if re.fullmatch(r"\d+(-\d+)?", target):
        first, _, last = target.partition("-")
        return int(first) <= layer <= int(last or first)
    if target.startswith("re:"):
        return _regex(target[3:], name, required=True)
    if name == target or name.endswith(f".{target}"):
        return True
    if fnmatch.fnmatchcase(name, target) or fnmatch.fnmatchcase(name, f"*.{target}"):
        return True
    return _regex(target, name, required=False)


def _regex(pattern: str, name: str, *, required: bool) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        if required:
            raise UndenseError(
                f"target 're:{pattern}' is no regular expression: {error}"
            ) from error
        return False  # a glob such as *.mlp


def _union(layers: dict[str, int], targets: Targets, role: str) -> set[str]:
    """Every name that one of the targets means; each target must mean at least one."""
    listed = [targets] if isinstance(targets, str | int) else list(targets)
    if not listed:
        raise UndenseError(f"the list of {role}s is empty; leave it out to mean every FFN")
    found: set[str] = set()
    for target in map(str, listed):
        hits = {name for name, layer in layers.items() if matches(target, name, layer)}
        if not hits:
            raise UndenseError(_nothing(target, list(layers), role))
        found |= hits
    return found


def _nothing(target: str, names: list[str], role: str) -> str:
    parts = {part for name in names for part in _ends(name)}
    near = difflib.get_close_matches(target, sorted(parts), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    shown = names if len(names) <= 8 else [*names[:4], "…", *names[-2:]]
    return f"{role} {target!r} matches no FFN{hint} Dense FFNs here: {', '.join(shown)}"


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]
