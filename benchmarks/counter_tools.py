"""The FLOP counters that `counters.py` compares, each one call: model and input to FLOPs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from undense.measure.flops import count_flops

Tool = Callable[[nn.Module, Tensor], int]


def undense(model: nn.Module, x: Tensor) -> int:
    return count_flops(model, x, strict=True).forward


def flop_counter_mode(model: nn.Module, x: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def torch_profiler(model: nn.Module, x: Tensor) -> int:
    with torch.profiler.profile(with_flops=True) as profiler:
        model(x)
    return sum(event.flops for event in profiler.key_averages())


def fvcore(model: nn.Module, x: Tensor) -> int:
    count: Any = importlib.import_module("fvcore.nn").FlopCountAnalysis(model, x)
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return 2 * int(count.total())


def calflops(model: nn.Module, x: Tensor) -> int:
    calculate: Any = importlib.import_module("calflops").calculate_flops
    flops, _, _ = calculate(
        model,
        args=[x],
        print_results=False,
        print_detailed=False,
        output_as_string=False,
    )
    return int(flops)


def ptflops(backend: str) -> Tool:
    def tool(model: nn.Module, x: Tensor) -> int:
        macs, _ = importlib.import_module("ptflops").get_model_complexity_info(
            model,
            tuple(x.shape),
            input_constructor=lambda _: x,
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )
        return 2 * int(macs)

    return tool


def thop(model: nn.Module, x: Tensor) -> int:
    macs, _ = importlib.import_module("thop").profile(model, inputs=(x,), verbose=False)
    return 2 * int(macs)


def deepspeed(model: nn.Module, x: Tensor) -> int:
    module: Any = importlib.import_module("deepspeed.profiling.flops_profiler")
    profiler = module.FlopsProfiler(model)
    profiler.start_profile()
    model(x)
    flops = int(profiler.get_total_flops())
    profiler.end_profile()
    return flops


# Name -> the tool, the package that it comes in, and whether it counts multiply-adds.
TOOLS: dict[str, tuple[Tool, str, bool]] = {
    "undense": (undense, "undense", False),
    "FlopCounterMode": (flop_counter_mode, "torch", False),
    "torch.profiler": (torch_profiler, "torch", False),
    "fvcore": (fvcore, "fvcore", True),
    "calflops": (calflops, "calflops", False),
    "ptflops, pytorch": (ptflops("pytorch"), "ptflops", True),
    "ptflops, aten": (ptflops("aten"), "ptflops", True),
    "thop": (thop, "thop", True),
    "DeepSpeed": (deepspeed, "deepspeed", False),
}
# Where the counter of a package is.
MODULES = {"fvcore": "fvcore.nn", "deepspeed": "deepspeed.profiling.flops_profiler"}
