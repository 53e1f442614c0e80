"""Making transformers know our models, without importing it before the user does.

Importing transformers' modelling code takes seconds, which a command's `--help` must not pay. So
this waits: as soon as somebody imports the file of transformers that a step concerns, the step
runs. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import final


def _configs() -> None:
    from transformers import AutoConfig

    from undense.convert import configs
    from undense.models.config import SpectralConfig

    configs.register()
    AutoConfig.register(SpectralConfig.model_type, SpectralConfig, exist_ok=True)


def _models() -> None:
    from transformers import AutoModel, AutoModelForCausalLM

    from undense.convert import classes
    from undense.models.config import SpectralConfig
    from undense.models.spectral import SpectralForCausalLM, SpectralModel

    classes.register()
    AutoModel.register(SpectralConfig, SpectralModel, exist_ok=True)
    AutoModelForCausalLM.register(SpectralConfig, SpectralForCausalLM, exist_ok=True)


def _guard() -> None:
    from undense.convert import adopt

    adopt.guard()


OURS = ("transformers", "undense.convert.", "undense.models.")

STEPS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _configs,
    "transformers.models.auto.modeling_auto": _models,
    "transformers.modeling_utils": _guard,
}


@final
class _AfterImport(importlib.abc.MetaPathFinder):
    """Lets the other finders find a file of transformers, and runs the steps that it concerns.

    A step waits until no file of transformers is half executed: they import one another in circles.
    Nor may one of ours be that a step itself may need.
    """

    def __init__(self) -> None:
        self.steps = dict(STEPS)
        self.executing = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.steps or not fullname.startswith(OURS):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.executing += 1
            try:
                execute(module)
            finally:
                self.executing -= 1
            self.run()

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010  (a method, on the instance)
        return spec

    def run(self) -> None:
        """Run, once, the steps whose file has been imported."""
        while not self.executing and (
            ready := [name for name in self.steps if name in sys.modules]
        ):
            self.steps.pop(ready[0])()


def register() -> None:
    """Register our models with transformers, now or when it is imported. Idempotent."""
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.run()
