"""JSON files read with care: every access knows which file and key it is about."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from undense.errors import UndenseError


@final
class Values:
    """A JSON object and where it came from. Every reader raises `UndenseError` naming file, key,
    what was found and what is needed."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.values = values
        self.origin = origin

    @classmethod
    def read(cls, path: Path) -> Values:
        """The object in the file `path`."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UndenseError(f"{path}: no such file; the run is not complete") from None
        except OSError as error:
            raise UndenseError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UndenseError(f"{path}: not valid JSON ({error}); run the stage again") from error
        if not isinstance(values, dict):
            raise UndenseError(f"{path}: holds a {type(values).__name__}, not a JSON object")
        return cls(values, str(path))

    def __iter__(self) -> Iterator[str]:
        """Keys in their order."""
        return iter(self.values)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._typed(key, int | float, "a number")
        if isinstance(value, bool) or not math.isfinite(value):
            raise UndenseError(f"{self.origin}: {key}={value} is not a finite number")
        return float(value)

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self.number(key)
        if value != int(value):
            raise UndenseError(f"{self.origin}: {key}={value} is not a whole number")
        return int(value)

    def text(self, key: str) -> str:
        """A string."""
        return self._typed(key, str, "a string")

    def items(self, key: str) -> list[Any]:
        """A list of anything."""
        return self._typed(key, list, "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            raise UndenseError(f"{self.origin}: {key}={values} is not a list of strings")
        return tuple(values)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        listed = self.items(key)
        indexed = Values({str(i): value for i, value in enumerate(listed)}, f"{self.origin}: {key}")
        return tuple(indexed.number(index) for index in indexed)

    def interval(self, key: str) -> tuple[float, float]:
        """Two numbers, the lower one first."""
        values = self.numbers(key)
        if len(values) != 2 or values[0] > values[1]:
            raise UndenseError(f"{self.origin}: {key}={list(values)} is not [low, high]")
        return (values[0], values[1])

    def child(self, key: str) -> Values:
        """A nested object."""
        return Values(self._typed(key, dict, "an object"), f"{self.origin}: {key}")

    def children(self, key: str) -> list[Values]:
        """A list of nested objects."""
        found = self.items(key)
        if not all(isinstance(value, dict) for value in found):
            raise UndenseError(f"{self.origin}: {key} is not a list of objects")
        return [Values(value, f"{self.origin}: {key}[{i}]") for i, value in enumerate(found)]

    def _typed(self, key: str, kind: Any, words: str) -> Any:
        if key not in self.values:
            raise UndenseError(f"{self.origin}: the key {key!r} is missing")
        value = self.values[key]
        if not isinstance(value, kind):
            raise UndenseError(f"{self.origin}: {key}={value!r} is not {words}")
        return value
