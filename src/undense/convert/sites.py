"""The FFN sites of a model: each dense FFN with its name, its sizes, and a view of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from undense.contract import DenseFFN, DenseShape, FFNComponent
from undense.convert.families import Family, Projections, family
from undense.convert.parts import standing
from undense.errors import UndenseError
from undense.ops.activation import canonical


@dataclass(frozen=True, kw_only=True)
class Site:
    """One dense FFN of a model.

    `name`: where a component would stand, as a path in the model. `key`: the same in the base
    model, whatever the head, under which a saved folder records it. `layer`: the block that it
    belongs to. `owner`: the module that holds the weights, by the paths in `weights`. `entry`: the
    module that receives the FFN's input. `module`: the FFN as one module.
    """

    name: str
    key: str
    layer: int
    owner: nn.Module
    entry: nn.Module
    module: nn.Module
    shape: DenseShape
    weights: Projections
    family: Family

    @property
    def tower(self) -> str:
        """The stack of layers that it belongs to; see `Family.tower`."""
        return self.family.tower(self.key)

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
        up, up_bias = self._projection(self.weights.up)
        down, down_bias = self._projection(self.weights.down)
        gate, gate_bias = (None, None)
        if self.weights.gate is not None:
            gate, gate_bias = self._projection(self.weights.gate)
        if self.weights.fused:
            gate, up = up.chunk(2)
            if up_bias is not None:
                gate_bias, up_bias = up_bias.chunk(2)
        return DenseFFN(
            up=up,
            up_bias=up_bias,
            gate=gate,
            gate_bias=gate_bias,
            down=down,
            down_bias=down_bias,
            activation=self.shape.activation,
        )

    def _projection(self, path: str) -> tuple[Tensor, Tensor | None]:
        module = self.owner.get_submodule(path)
        weight = self._checked(module, f"{path}.weight")
        bias = self._checked(module, f"{path}.bias") if module.bias is not None else None
        return (weight.t() if self.weights.transposed else weight), bias

    def _checked(self, module: nn.Module, path: str) -> Tensor:
        tensor = cast(Tensor, getattr(module, path.rpartition(".")[2])).detach()
        if tensor.is_meta:
            return tensor
        if not torch.isfinite(tensor).all():
            raise UndenseError(
                f"{self.family.owner(self.name)}.{path} holds NaN or infinite numbers; load sound"
                " weights before converting (a folder that trained to NaN cannot be converted)"
            )
        return tensor.to("cpu", torch.float32)


def find_sites(model: PreTrainedModel) -> list[Site]:
    """The FFNs of `model` that are still dense, in the order of the layers. Meta device included.

    Raises `UndenseError` for a family, an activation or a wrapped projection that is not known.
    """
    kind = family(model.config.model_type)
    sites = []
    for name, module in model.named_modules():
        layer = kind.owner_layer(base_key(model, name))
        weights = None if layer is None else dense_weights(module, kind)
        if layer is None or weights is None:
            continue
        seat = f"{name}.{kind.chain[0]}" if kind.chain else name
        shape = _shape(model, name, module, kind, weights)
        sites.append(
            Site(
                name=seat,
                key=base_key(model, seat),
                layer=layer,
                owner=module,
                entry=module.get_submodule(kind.chain[0]) if kind.chain else module,
                module=standing(module, kind),
                shape=shape,
                weights=weights,
                family=kind,
            )
        )
    return sites


def find_components(model: nn.Module) -> dict[str, FFNComponent]:
    """Every component in `model` by its path; those inside a composite belong to it alone."""
    found: dict[str, FFNComponent] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, FFNComponent) and not inside:
            found[name] = module
    return found


def dense_weights(owner: nn.Module, kind: Family) -> Projections | None:
    """How `owner` keeps its dense FFN; None where it is not the family's own class (a subclass may
    compute something else) or holds a component."""
    if not type(owner).__module__.startswith("transformers."):
        return None
    if kind.chain and isinstance(owner.get_submodule(kind.chain[0]), FFNComponent):
        return None
    named = (weights for weights in kind.projections if weights.owner == type(owner).__name__)
    return next(named, None)


def base_key(model: PreTrainedModel, name: str) -> str:
    """The path in the base model of a path in `model`."""
    return name.removeprefix(f"{model.base_model_prefix}.") if has_head(model) else name


def full_name(model: PreTrainedModel, key: str) -> str:
    """The path in `model` of a path in the base model."""
    return f"{model.base_model_prefix}.{key}" if has_head(model) else key


def has_head(model: PreTrainedModel) -> bool:
    """Whether `model` is a base model with something on top."""
    return model.base_model is not model


def _shape(
    model: PreTrainedModel, name: str, owner: nn.Module, kind: Family, weights: Projections
) -> DenseShape:
    expected = Conv1D if weights.transposed else nn.Linear
    for path in weights.names:
        try:
            found = type(owner.get_submodule(path))
        except AttributeError as error:
            raise UndenseError(
                f"{name}.{path} is not there, so this {type(owner).__name__} holds no dense FFN of"
                " its family; put the stock modules back before converting"
            ) from error
        if found is not expected:
            raise UndenseError(
                f"{name}.{path} is a {found.__name__}, not a plain {expected.__name__};"
                " merge adapters and undo quantisation before converting"
            )
    up = cast(Tensor, owner.get_submodule(weights.up).weight)
    hidden, dim = reversed(up.shape) if weights.transposed else up.shape
    return DenseShape(
        dim=dim,
        hidden=hidden // 2 if weights.fused else hidden,
        gated=weights.gated,
        activation=canonical(getattr(model.config, kind.activation)),
        bias=owner.get_submodule(weights.down).bias is not None,
    )
