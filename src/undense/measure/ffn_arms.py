"""The arms of a speed measurement of single FFNs: what each is at a width, costs and reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undense.contract import Config, DenseShape, FFNComponent, build
from undense.cost import Cost
from undense.errors import UndenseError
from undense.ffn.presets import resolve
from undense.ffn.shares import dense_config

DENSE = "dense"
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# What depends on all tokens of a batch or on chance has no reference of its own, and takes little
# time beside the rest: it is off in what is timed, and in what it is held against.
QUIET = {"balance": 0.0, "dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One FFN at one width. `config` is None where there is none of this size; `why` says it."""

    name: str
    dim: int
    config: Config | None
    why: str = ""

    def build(self, dtype: torch.dtype, *, training: bool) -> FFNComponent:
        """The component, its weights random."""
        assert self.config is not None, self.name
        return build(self.dim, self.config).to(dtype).train(training)

    def flops(self, tokens: int, *, training: bool) -> int:
        """FLOPs of a call, the way back included where it trains."""
        assert self.config is not None, self.name
        with torch.device("meta"):
            cost: Cost = build(self.dim, self.config).train(training).cost(tokens)
        return cost.forward + (cost.backward if training else 0)


def host(dim: int, *, gated: bool) -> DenseShape:
    """The dense FFN at a width: GPT-2's, or with `gated` Llama's of about as many weights."""
    if not gated:
        return DenseShape(dim=dim, hidden=4 * dim)
    hidden = 16 * -(-8 * dim // 48)
    return DenseShape(dim=dim, hidden=hidden, gated=True, activation="silu", bias=False)


def arms_at(specs: Sequence[str], dim: int, *, gated: bool) -> list[Arm]:
    """Dense first, then an arm a spec. Where a spec has no such size, the arm says why."""
    shape = host(dim, gated=gated)
    found = [Arm(name=DENSE, dim=dim, config=dense_config(shape))]
    for spec in specs:
        try:
            config = quiet(resolve(spec, shape))
            with torch.device("meta"):
                build(dim, config)
            found.append(Arm(name=spec, dim=dim, config=config))
        except UndenseError as error:
            found.append(Arm(name=spec, dim=dim, config=None, why=str(error)))
    return found


def require_some_size(specs: Sequence[str], widths: Sequence[int], *, gated: bool) -> None:
    """Raises the `UndenseError` of a spec that has no size at any of the widths."""
    for spec in specs:
        why = ""
        for dim in widths:
            arm = arms_at([spec], dim, gated=gated)[1]
            if arm.config is not None:
                break
            why = why or arm.why
        else:
            raise UndenseError(why)


def quiet(config: Config) -> Config:
    """The config without dropout and balance, in its parts as well."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Config):
            changes[field.name] = quiet(value)
        elif field.name in QUIET:
            changes[field.name] = QUIET[field.name]
    return config.replace(**changes)


def bytes_read(component: FFNComponent, x: Tensor) -> int:
    """Bytes of weights that the output at `x` depends on: what must be read, however it is done.

    Of each parameter, the rows (along its last dimension) that get a gradient there; of buffers,
    all. A component that chooses blocks has the chosen ones counted, each once. After a ReLU a
    silent neuron counts as not read, in dense and sparse alike.
    """
    total = sum(buffer.numel() * buffer.element_size() for buffer in component.buffers())
    parameters = list(component.parameters())
    y = component(x)
    if not parameters or not y.requires_grad:
        return total
    received = torch.randn(y.shape).to(y.dtype)
    found = torch.autograd.grad(y, parameters, received, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            rows = gradient.reshape(-1, gradient.shape[-1]).ne(0).any(-1).sum().item()
            total += int(rows) * gradient.shape[-1] * parameter.element_size()
    return total
