"""The FFN sites of a model: each dense FFN with its name, its sizes, and a view of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from undense.contract import DenseFFN, DenseShape, FFNComponent
from undense.convert.families import Family, family
from undense.errors import UndenseError
from undense.ops.activation import canonical


@dataclass(frozen=True, kw_only=True)
class Site:
    """One dense FFN of a model.

    `name`: its path in the model. `key`: its path in the base model, the same whatever the head,
    under which a saved folder records it. `layer`: the block that it belongs to.
    """

    name: str
    key: str
    layer: int
    module: nn.Module
    shape: DenseShape
    family: Family

    @property
    def on_meta(self) -> bool:
        """Whether the FFN has sizes but no numbers, as in a dry run."""
        return any(parameter.is_meta for parameter in self.module.parameters())

    @property
    def parameters(self) -> int:
        """Number of parameters of the dense FFN."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def dense(self) -> DenseFFN:
        """The weights in one orientation, in fp32 on the CPU, where every fit happens.

        Raises `UndenseError` naming the first tensor that holds a NaN or an infinity.
        """
        up, up_bias = self._projection(self.family.up)
        down, down_bias = self._projection(self.family.down)
        gate, gate_bias = (None, None)
        if self.family.gate is not None:
            gate, gate_bias = self._projection(self.family.gate)
        return DenseFFN(
            up=up,
            up_bias=up_bias,
            gate=gate,
            gate_bias=gate_bias,
            down=down,
            down_bias=down_bias,
            activation=self.shape.activation,
        )

    def _projection(self, attribute: str) -> tuple[Tensor, Tensor | None]:
        module = self.module.get_submodule(attribute)
        weight = self._checked(module, f"{attribute}.weight")
        bias = self._checked(module, f"{attribute}.bias") if module.bias is not None else None
        return (weight.t() if self.family.transposed else weight), bias

    def _checked(self, module: nn.Module, path: str) -> Tensor:
        tensor = cast(Tensor, getattr(module, path.rpartition(".")[2])).detach()
        if tensor.is_meta:
            return tensor
        if not torch.isfinite(tensor).all():
            raise UndenseError(
                f"{self.name}.{path} holds NaN or infinite numbers; load sound weights before"
                " converting (a folder that trained to NaN cannot be converted)"
            )
        return tensor.to("cpu", torch.float32)


def find_sites(model: PreTrainedModel) -> list[Site]:
    """The FFNs of `model` that are still dense, in the order of the layers. Meta device included.

    Raises `UndenseError` for a family, an activation or a wrapped projection that is not known.
    """
    kind = family(model.config.model_type)
    sites = []
    for name, module in model.named_modules():
        key = base_key(model, name)
        layer = kind.layer(key)
        if layer is not None and is_dense(module, kind):
            shape = _shape(model, name, module, kind)
            site = Site(name=name, key=key, layer=layer, module=module, shape=shape, family=kind)
            sites.append(site)
    return sites


def find_components(model: nn.Module) -> dict[str, FFNComponent]:
    """Every component in `model` by its path; those inside a composite belong to it alone."""
    found: dict[str, FFNComponent] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, FFNComponent) and not inside:
            found[name] = module
    return found


def is_dense(module: nn.Module, kind: Family) -> bool:
    """Whether `module` is the family's own FFN, not a subclass that may compute something else."""
    own = type(module).__module__.startswith("transformers.")
    return own and type(module).__name__ == kind.mlp


def base_key(model: PreTrainedModel, name: str) -> str:
    """The path in the base model of a path in `model`."""
    return name.removeprefix(f"{model.base_model_prefix}.") if has_head(model) else name


def full_name(model: PreTrainedModel, key: str) -> str:
    """The path in `model` of a path in the base model."""
    return f"{model.base_model_prefix}.{key}" if has_head(model) else key


def has_head(model: PreTrainedModel) -> bool:
    """Whether `model` is a base model with something on top."""
    return model.base_model is not model


def _shape(model: PreTrainedModel, name: str, module: nn.Module, kind: Family) -> DenseShape:
    projections = [kind.up, kind.down] + ([kind.gate] if kind.gate else [])
    expected = Conv1D if kind.transposed else nn.Linear
    for attribute in projections:
        found = type(module.get_submodule(attribute))
        if found is not expected:
            raise UndenseError(
                f"{name}.{attribute} is a {found.__name__}, not a plain {expected.__name__};"
                " merge adapters and undo quantisation before converting"
            )
    up = cast(Tensor, module.get_submodule(kind.up).weight)
    hidden, dim = reversed(up.shape) if kind.transposed else up.shape
    return DenseShape(
        dim=dim,
        hidden=hidden,
        gated=kind.gate is not None,
        activation=canonical(getattr(model.config, kind.activation)),
        bias=module.get_submodule(kind.down).bias is not None,
    )
