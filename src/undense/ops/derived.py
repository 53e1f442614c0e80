"""Modules with buffers that follow from their settings and are therefore never saved."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
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


def fill(model: nn.Module) -> None:
    """The same for a model of which the derived buffers alone are still on the meta device."""
    for module in model.modules():
        if isinstance(module, Derived):
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    setattr(module, name, torch.empty_like(buffer, device="cpu"))
            module.rebuild()
