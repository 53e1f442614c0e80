"""Fields of a recipe on the command line: FIELD=VALUE in, and their list for the help."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from undense.errors import UndenseError
from undense.train.recipe import PretrainRecipe

_LINE = re.compile(r"^    (\w+): [^=]+ = (.+?)(?:  # (.+))?$", re.MULTILINE)


def field_list() -> str:
    """Every field with its default and what its comment in the class says."""
    lines = []
    for name, default, comment in _LINE.findall(inspect.getsource(PretrainRecipe)):
        value = "{}" if default.startswith("field(") else default
        shown = {"None": "null", "True": "true", "False": "false"}.get(value, value)
        lines.append(f"{name}={shown}" + (f"  {comment}" if comment else ""))
    return "\n".join(lines)


def with_fields(
    recipe: PretrainRecipe, assignments: Sequence[str], others: Mapping[str, Any]
) -> PretrainRecipe:
    """`recipe` with the fields of FIELD=VALUE set, VALUE JSON or else a text, then those of
    `others`.

    Raises `UndenseError` for what is no assignment, an unknown field, and a value out of place.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UndenseError(f"--set {assignment}: expected FIELD=VALUE, such as steps=500")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return PretrainRecipe.from_dict({**recipe.to_dict(), **values, **others})
