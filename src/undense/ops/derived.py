"""Modules with buffers that follow from their settings and are therefore never saved."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Derived(nn.Module, ABC):
    """Its non-persistent buffers can be filled again at any time."""

    @abstractmethod
    def rebuild(self) -> None:
        """Fill them, unless they have no memory (meta device)."""


def rebuild(model: nn.Module) -> None:
    """Fill the derived buffers of `model`, after a loader gave it memory that holds nothing."""
    for module in model.modules():
        if isinstance(module, Derived):
            module.rebuild()
