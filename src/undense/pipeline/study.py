"""What a comparison from scratch is asked to do: one host, many FFNs, all tuned alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from undense.errors import UndenseError
from undense.train.recipe import PretrainRecipe
from undense.train.settings import require_seed

MOST_EXTENSIONS = 4  # rates tried beyond either end of the grid, before a sweep gives up
# What the study itself decides of a recipe. No run goes back after it diverged: its rate would no
# longer be the one that it is listed under.
_OWN = ("seed", "learning_rate", "reverts")


@dataclass(frozen=True, kw_only=True)
class StudyArm:
    """One arm: recipe fields of its own. `rate_of`: the arm whose best rate it takes, instead of a
    sweep. `as_long_as`: the arm whose training time it gets, by measured time of a step."""

    recipe: dict[str, Any] = field(default_factory=dict)
    rate_of: str | None = None
    as_long_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """`base`: recipe fields of all arms. `rates`: the grid of every sweep, ascending, extended at
    an end while that end is best. `sweep_steps`, `sweep_seed`: of the runs that choose a rate; the
    seed is none of `seeds`, so that no figure is chosen by itself. `yardsticks`: arms that every
    other is compared with, seed by seed."""

    base: dict[str, Any]
    arms: dict[str, StudyArm]
    rates: tuple[float, ...]
    sweep_steps: int
    sweep_seed: int
    seeds: tuple[int, ...]
    yardsticks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.arms:
            raise UndenseError("study: no arms; name at least one")
        if list(self.rates) != sorted(set(self.rates)) or len(self.rates) < 2 or self.rates[0] <= 0:
            raise UndenseError(
                f"study: rates={list(self.rates)}; give at least two, positive and ascending"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UndenseError(f"study: seeds={list(self.seeds)}; give at least one, each once")
        for seed in (*self.seeds, self.sweep_seed):
            require_seed(seed)
        if self.sweep_seed in self.seeds:
            raise UndenseError(
                f"study: sweep_seed={self.sweep_seed} is among the seeds {list(self.seeds)}; a rate"
                " must not be chosen on a figure that it then has"
            )
        if self.sweep_steps < 1:
            raise UndenseError(f"study: sweep_steps={self.sweep_steps}; it must be at least 1")
        for name in self.yardsticks:
            self._require_arm(name, "yardsticks")
        for name, arm in self.arms.items():
            self._require_runnable(name, arm)

    def _require_runnable(self, name: str, arm: StudyArm) -> None:
        for key in ("rate_of", "as_long_as"):
            if (other := getattr(arm, key)) is None:
                continue
            self._require_arm(other, f"arms.{name}.{key}")
            if getattr(self.arms[other], key) is not None:
                raise UndenseError(f"study: arms.{name}.{key}={other!r} itself refers to another")
        if own := [key for key in _OWN if key in {**self.base, **arm.recipe}]:
            raise UndenseError(
                f"study: arm {name!r} sets {', '.join(own)}; that is the study's to decide"
            )
        if not name or any(sign in name for sign in "/\\") or name.startswith("."):
            raise UndenseError(f"study: {name!r} is no name for an arm; it becomes a folder")
        self.recipe(name, rate=self.rates[0], seed=self.sweep_seed)

    def _require_arm(self, name: str, place: str) -> None:
        if name not in self.arms:
            raise UndenseError(
                f"study: {place} names {name!r}; the arms are {', '.join(self.arms)}"
            )

    def recipe(
        self, arm: str, *, rate: float, seed: int, steps: int | None = None
    ) -> PretrainRecipe:
        """The recipe of one run; `steps` None: as many as `base` says."""
        own = {**self.base, **self.arms[arm].recipe}
        values = {**own, "learning_rate": rate, "seed": seed, "reverts": 0}
        if steps is not None:
            values["steps"] = steps
        return PretrainRecipe.from_dict(values)

    @property
    def swept(self) -> list[str]:
        """The arms that get a sweep."""
        return [name for name, arm in self.arms.items() if arm.rate_of is None]

    @classmethod
    def load(cls, path: Path) -> Study:
        """From a JSON file with these fields, an arm being an object of recipe fields with
        `rate_of` and `as_long_as` among them. Raises `UndenseError` for anything else."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UndenseError(f"study {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UndenseError(f"study {path}: no valid JSON ({error})") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> Study:
        """As `load`, from what the file holds."""
        if not isinstance(values, Mapping):
            raise UndenseError("study: expected a JSON object of fields")
        known = [f.name for f in fields(cls)]
        wrong = sorted(set(values) - set(known))
        missing = sorted(set(known) - set(values) - {"yardsticks"})
        if wrong or missing:
            words = [f"unknown field {', '.join(wrong)}"] if wrong else []
            words += [f"missing field {', '.join(missing)}"] if missing else []
            raise UndenseError(f"study: {'; '.join(words)}; known are {', '.join(known)}")
        if not all(isinstance(values[key], Mapping) for key in ("base", "arms")):
            raise UndenseError("study: base and arms must be JSON objects")
        lists = {
            key: tuple(values[key]) if isinstance(values[key], list) else values[key]
            for key in ("rates", "seeds", "yardsticks")
            if key in values
        }
        for key, value in lists.items():
            if not isinstance(value, tuple):
                raise UndenseError(f"study: {key}={value!r} must be a list")
        arms = {name: _arm(name, arm) for name, arm in values["arms"].items()}
        return cls(**{**values, **lists, "base": dict(values["base"]), "arms": arms})

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes."""
        found: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("rates", "seeds", "yardsticks"):
            found[name] = list(found[name])
        found["arms"] = {
            name: dict(arm.recipe)
            | {k: v for k in ("rate_of", "as_long_as") if (v := getattr(arm, k)) is not None}
            for name, arm in self.arms.items()
        }
        return found


def _arm(name: str, values: Any) -> StudyArm:
    if not isinstance(values, Mapping):
        raise UndenseError(f"study: arms.{name}={values!r} must be a JSON object of recipe fields")
    rest = {k: v for k, v in values.items() if k not in ("rate_of", "as_long_as")}
    return StudyArm(recipe=rest, rate_of=values.get("rate_of"), as_long_as=values.get("as_long_as"))
