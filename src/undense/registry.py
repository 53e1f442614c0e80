"""Parts of a model that are known by name: their `Config`, their base class, and the registry.

A part is one file. It registers a class under a name; the class nests a frozen `Config`, the only
home of its defaults. FFN components and sequence mixers are such parts, each kind in a registry of
its own.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import nn

from undense.errors import UndenseError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every part's settings: plain values and nested configs, to JSON and back."""

    component: ClassVar[str] = ""
    mixes_tokens: ClassVar[bool] = False

    @property
    def token_local(self) -> bool:
        """Whether every token is processed by itself; a composite is if all its parts are."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        parts = [value for value in values if isinstance(value, Config)]
        return not self.mixes_tokens and all(part.token_local for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the part's registry name first."""
        values: dict[str, Any] = {"component": self.component}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values[field.name] = value.to_dict() if isinstance(value, Config) else value
        return values

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)


class Part(nn.Module, ABC):
    """A module of a given width, built from a config and known under a name."""

    component: ClassVar[str] = ""
    Config: ClassVar[type[Config]]

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        if dim < 1:
            raise UndenseError(f"{self.component}: dim={dim} must be at least 1")
        self.dim = dim
        self.config = config

    def extra_repr(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.config.to_dict().items())
        return f"dim={self.dim}, {fields}"


Kind = TypeVar("Kind", bound=Part)
Class = TypeVar("Class", bound=type[Part])


class Registry(Generic[Kind]):
    """The classes of one kind by name. `noun` and `settings` are what error messages call a class
    and its config."""

    def __init__(self, noun: str, settings: str) -> None:
        self._noun = noun
        self._settings = settings
        self._classes: dict[str, type[Kind]] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Class decorator: make a part known under `name`."""

        def add(cls: Class) -> Class:
            if name in self._classes:
                raise UndenseError(
                    f"{self._noun} {name!r} is registered twice: {self._classes[name]}, {cls}"
                )
            cls.component = name
            cls.Config.component = name
            self._classes[name] = cls  # type: ignore[assignment]
            return cls

        return add

    def classes(self) -> dict[str, type[Kind]]:
        """Every registered class by name, in the order of registration."""
        return dict(self._classes)

    def named(self, name: str) -> type[Kind]:
        """The class registered under `name`; an `UndenseError` with near misses where none is."""
        if name in self._classes:
            return self._classes[name]
        hint = _hint(name, self._classes)
        raise UndenseError(f"unknown {self._noun} {name!r}{hint} Known: {', '.join(self._classes)}")

    def config(self, values: Mapping[str, Any]) -> Config:
        """The inverse of `Config.to_dict`, refusing unknown keys by name."""
        if "component" not in values:
            raise UndenseError(f"{self._settings} needs the key 'component'; got {sorted(values)}")
        name = values["component"]
        cls = self.named(name).Config
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for key, value in values.items():
            if key == "component":
                continue
            if key not in known:
                hint = _hint(key, known)
                raise UndenseError(f"{name}: unknown setting {key!r}{hint} Known: {sorted(known)}")
            nested = isinstance(value, Mapping) and "component" in value
            if not nested and not _fits(value, known[key]):
                raise UndenseError(
                    f"{name}: a setting of the wrong type: {key}={value!r} must be {known[key]}"
                )
            given[key] = self.config(value) if nested else value
        try:
            return cls(**given)
        except TypeError as error:
            plain = {key: value for key, value in given.items() if not isinstance(value, Config)}
            raise UndenseError(
                f"{name}: a setting of the wrong type in {plain} ({error})"
            ) from error

    def build(self, dim: int, config: Config) -> Kind:
        """A freshly initialised part of the width `dim`."""
        return self.named(config.component)(dim, config)


PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


def _fits(value: Any, annotation: object) -> bool:
    """Whether a value is of the annotated type, where that is made of plain ones; what else there
    is, a class looks at itself."""
    kinds = str(annotation).split(" | ")
    if not set(kinds) <= set(PLAIN):
        return True
    if isinstance(value, bool):  # an int to Python
        return "bool" in kinds
    return any(isinstance(value, PLAIN[kind]) for kind in kinds)


def _hint(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
