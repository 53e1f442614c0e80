"""One cell of the measurement of single FFNs: only what is right is timed; the cap; the ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import undense.ffn  # noqa: F401  (registers the components)
from undense import contract
from undense.contract import FFNComponent
from undense.cost import Cost
from undense.errors import UndenseError
from undense.measure.ffn_arms import DENSE, Arm, arms_at, bytes_read, quiet, require_some_size
from undense.measure.ffn_bench import COMPILED, Bench, Cell, compared, failures
from undense.measure.timing import Timing

DIM = 64
CELL = Cell(dim=DIM, dtype="fp32", mode="forward", tokens=4, memory="warm")


def bench(arms: list[Arm], *, cap_seconds: float = 60) -> Bench:
    return Bench(arms=arms, dtype="fp32", span=0, rounds=3, cap_seconds=cap_seconds, seed=0)


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> type[FFNComponent]:
    """A component that is fast, counts its calls, and is right in fp64 alone."""
    monkeypatch.setattr(contract._REGISTRY, "_classes", contract.components())

    @contract.register("liar")
    class Liar(FFNComponent):
        calls: ClassVar[int] = 0

        @dataclass(frozen=True, kw_only=True)
        class Config(contract.Config):
            breaks: bool = False

        def __init__(self, dim: int, config: Any) -> None:
            super().__init__(dim, config)
            self.gain = nn.Parameter(torch.ones(dim))

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.float64:
                return x * self.gain
            type(self).calls += 1
            if self.config.breaks:
                raise RuntimeError("no such kernel")
            return x * self.gain * 1.01

        def outputs(self) -> list[nn.Parameter]:
            return [self.gain]

        def cost(self, tokens: int) -> Cost:
            return Cost(name="liar", forward=tokens * self.dim)

        def start_from(self, dense: Any, statistics: Any) -> None: ...

        @classmethod
        def sized(cls, config: contract.Config, dim: int, size: int) -> contract.Config:
            raise UndenseError("liar: one size")

    return Liar


def test_what_is_wrong_is_never_timed(liar: type[FFNComponent]) -> None:
    arms = arms_at(["liar", "narrow-25"], DIM, gated=False)
    result = bench(arms).measured(CELL)
    assert vars(liar)["calls"] == 1  # the check alone
    entry = result["arms"]["liar"]
    assert entry["status"].startswith("wrong")
    assert "median_ms" not in entry
    assert entry["check"]["forward"] == pytest.approx(0.01, rel=1e-3)
    assert result["arms"]["narrow-25"]["median_ms"] > 0
    (line,) = failures(result)
    assert "liar" in line


def test_what_breaks_is_a_row_that_says_so(liar: type[FFNComponent]) -> None:
    arms = arms_at(['{"component": "liar", "breaks": true}'], DIM, gated=False)
    result = bench(arms).measured(CELL)
    (name,) = set(result["arms"]) - {DENSE}
    assert result["arms"][name]["status"] == "failed: RuntimeError: no such kernel"
    assert failures(result)


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("memory", ["cold", "warm"])
def test_every_arm_has_its_figures(mode: str, memory: str) -> None:
    arms = arms_at(["narrow-25", "none"], DIM, gated=False)
    cell = Cell(dim=DIM, dtype="fp32", mode=mode, tokens=4, memory=memory)
    plan = bench(arms)
    plan.span = 300_000
    result = plan.measured(cell)
    assert result["status"] == "measured"
    dense, narrow, none = (result["arms"][name] for name in (DENSE, "narrow-25", "none"))
    assert narrow["flops_less"] == dense["flops"] / narrow["flops"] > 3.9
    assert narrow["speedup"] == pytest.approx(dense["median_ms"] / narrow["median_ms"])
    assert narrow["realised"] == pytest.approx(narrow["speedup"] / narrow["flops_less"])
    assert none["realised"] is None
    assert (dense["copies"] > 1) == (memory == "cold")
    assert (dense["span_bytes"] >= 300_000) == (memory == "cold")
    assert ("bytes_read" in dense) == (mode == "forward")
    assert not failures(result)


def test_a_cell_over_the_cap_is_marked_and_not_run(liar: type[FFNComponent]) -> None:
    arms = arms_at(["liar"], DIM, gated=False)
    result = bench(arms, cap_seconds=1e-12).measured(CELL)
    assert result["status"].startswith("skipped: over the cap")
    assert result["arms"] == {}
    assert vars(liar)["calls"] == 0


def test_ratios_refer_to_the_faster_dense() -> None:
    def timing(*samples: float) -> Timing:
        return Timing(samples_ms=samples, calls_per_sample=1, threads=1)

    entries = {
        DENSE: {"flops": 800, "bytes_read": 60},
        COMPILED: {"flops": 800, "bytes_read": 60},
        "arm": {"flops": 200, "bytes_read": 20},
        "wrong": {"flops": 100},
    }
    times = {DENSE: timing(12, 12), COMPILED: timing(9, 9), "arm": timing(3, 3)}
    result = compared(entries, times)
    assert result["yardstick"] == COMPILED
    arm = result["arms"]["arm"]
    assert (arm["speedup"], arm["flops_less"], arm["realised"]) == (3, 4, 0.75)
    assert (arm["bytes_less"], arm["realised_bytes"]) == (3, 1)
    assert result["arms"][DENSE]["speedup"] == 0.75
    assert "speedup" not in result["arms"]["wrong"]


def test_the_bytes_are_those_of_the_chosen_blocks() -> None:
    arms = {arm.name: arm for arm in arms_at(["block_topk-25", "narrow-25"], 128, gated=False)}
    torch.manual_seed(0)
    one = torch.randn(1, 1, 128)
    found = {
        name: bytes_read(arm.build(torch.float32, training=False), one)
        for name, arm in arms.items()
    }
    assert found[DENSE] == 4 * (2 * 4 * 128 * 128 + 5 * 128)
    assert 0.2 < found["block_topk-25"] / found[DENSE] < 0.3
    assert 0.2 < found["narrow-25"] / found[DENSE] < 0.3
    many = bytes_read(
        arms["block_topk-25"].build(torch.float32, training=False), torch.randn(1, 64, 128)
    )
    assert many > 0.9 * found[DENSE]  # together the tokens choose almost all blocks


def test_a_size_that_is_not_there_says_why() -> None:
    small, wide = (arms_at(["ultra-2"], dim, gated=False)[1] for dim in (32, 768))
    assert small.config is None
    assert "smallest size" in small.why
    assert wide.config is not None
    assert (
        bench([*arms_at([], 32, gated=False), small])
        .measured(CELL)["arms"]["ultra-2"]["status"]
        .startswith("not possible: ultra")
    )
    require_some_size(["ultra-2"], [32, 768], gated=False)
    with pytest.raises(UndenseError, match="smallest size"):
        require_some_size(["ultra-2"], [32], gated=False)


def test_what_depends_on_chance_is_off_in_every_part() -> None:
    config = contract.config_from_dict(
        {
            "component": "ultra",
            "dropout": 0.5,
            "projection": {"component": "block_topk", "balance": 0.5},
        }
    )
    still = quiet(config).to_dict()
    assert still["dropout"] == 0
    assert still["projection"]["balance"] == 0


def test_what_is_wrong_is_told_of_a_skipped_cell_too(
    liar: type[FFNComponent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undense.measure.ffn_bench.seconds_of", lambda call: 1000.0)
    monkeypatch.setattr(Bench, "expected_seconds", lambda self, cell: 0.0)
    result = bench(arms_at(["liar"], DIM, gated=False)).measured(CELL)
    assert result["status"].startswith("skipped: over the cap")
    assert result["arms"][DENSE]["status"] == result["status"]
    assert len(failures(result)) == 1


def test_the_compiled_dense_ffn_is_checked_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling: Any = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic: compiling(f, dynamic=dynamic, backend="eager")
    )
    plan = bench(arms_at(["narrow-25"], DIM, gated=False))
    plan.compiled = True
    result = plan.measured(CELL)
    assert set(result["arms"]) == {DENSE, COMPILED, "narrow-25"}
    assert all(arm["status"] == "measured" for arm in result["arms"].values())
    assert result["yardstick"] in (DENSE, COMPILED)
