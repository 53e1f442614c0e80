"""What is about to be timed is held against fp64, and what is wrong is noticed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import undense.ffn  # noqa: F401  (registers the components)
from undense import contract
from undense.contract import DenseShape, FFNComponent, build
from undense.cost import Cost
from undense.ffn.block_topk import BlockTopK
from undense.ffn.presets import resolve
from undense.measure.oracle import check

DIM = 64
SHAPE = DenseShape(dim=DIM, hidden=4 * DIM)


class WrongGradient(torch.autograd.Function):
    """The identity whose gradient is a tenth too large outside fp64."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> Tensor:  # type: ignore[override]
        (grad,) = received
        return grad if grad.dtype == torch.float64 else 1.1 * grad


class Faulty(FFNComponent):
    """A linear map that is right in fp64 and has one fault in every other type."""

    @dataclass(frozen=True, kw_only=True)
    class Config(contract.Config):
        fault: str = "none"

    config: Config

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__(dim, config)
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        if x.dtype == torch.float64 or self.config.fault == "none":
            return y
        if self.config.fault == "gradient":
            return WrongGradient.apply(y)  # type: ignore[return-value]
        if self.config.fault == "nan":
            return y * torch.nan
        if self.config.fault == "last row":
            return torch.cat([y[:, :-1], 1.1 * y[:, -1:]], 1)
        return y * 1.001

    def outputs(self) -> list[nn.Parameter]:
        return list(self.map.parameters())

    def cost(self, tokens: int) -> Cost:
        raise NotImplementedError

    def start_from(self, dense: Any, statistics: Any) -> None:
        raise NotImplementedError

    @classmethod
    def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
        raise NotImplementedError


def faulty(fault: str) -> Faulty:
    torch.manual_seed(0)
    return Faulty(DIM, Faulty.Config(fault=fault))


@pytest.mark.parametrize("spec", ["dense", "ultra-25", "seed", "block_topk-25", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_components_are_right(spec: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = build(DIM, resolve(spec, SHAPE)).to(dtype)
    x = torch.randn(1, 130, DIM).to(dtype)
    assert check(module, x, training=True).ok


def test_a_choice_that_a_rounding_turns_is_no_error() -> None:
    wide = DenseShape(dim=128, hidden=512)
    turned = 0
    for seed in range(3):
        torch.manual_seed(seed)
        module = build(wide.dim, resolve("ultra-25", wide)).bfloat16()
        for part in module.modules():
            if isinstance(part, BlockTopK):  # watched, it runs step by step: scores are rounded
                part.router.register_forward_hook(lambda *_: None)
        x = torch.randn(1, 48, wide.dim).bfloat16()
        with torch.no_grad():
            wanted = copy.deepcopy(module).double()(x.double())
            error = (module(x).double() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        found = check(module, x, training=False)
        assert found.ok
        assert found.moved >= int((error > 0.1).sum())
        turned += found.moved
    assert turned, "no choice turned: these inputs show nothing"


@pytest.mark.parametrize("fault", ["scale", "nan", "last row"])
@pytest.mark.parametrize("tokens", [1, 200])
def test_a_wrong_result_is_noticed(fault: str, tokens: int) -> None:
    x = torch.randn(1, tokens, DIM)
    assert check(faulty("none"), x, training=True).ok
    found = check(faulty(fault), x, training=False)
    assert not found.ok
    assert not found.to_dict()["ok"]


def test_a_wrong_gradient_is_noticed() -> None:
    x = torch.randn(1, 200, DIM)
    assert check(faulty("gradient"), x, training=False).ok
    found = check(faulty("gradient"), x, training=True)
    assert not found.ok
    assert found.backward == pytest.approx(0.1, rel=1e-3)


def test_what_is_called_is_what_is_checked() -> None:
    module = faulty("none")
    x = torch.randn(1, 4, DIM)
    assert check(module, x, training=False, call=lambda x: module(x)).ok
    assert not check(module, x, training=False, call=lambda x: module(2 * x)).ok
