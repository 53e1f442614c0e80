"""Energy that the machine says it used: RAPL for processors, NVML for NVIDIA's GPUs.

Both are counters that only grow; a measurement is the difference of two readings. Many machines
(virtual ones above all) offer neither, or only to root: then the reason is what is told.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules since some fixed moment by source ("package-0", "gpu-0"); `missing`: why a source is
    not there, by source. `wraps`: joules after which a source starts again from 0."""

    joules: dict[str, float]
    wraps: dict[str, float]
    missing: dict[str, str]

    def since(self, before: Energy) -> dict[str, float]:
        """Joules used between two readings, by source; a counter may have wrapped once."""
        used = {}
        for source, now in self.joules.items():
            if source not in before.joules:
                continue
            difference = now - before.joules[source]
            used[source] = difference + (self.wraps.get(source, 0.0) if difference < 0 else 0.0)
        return used


def read_energy(rapl: Path = RAPL) -> Energy:
    """The counters now."""
    joules, wraps, missing = ({}, {}, {})
    domains = [path for path in sorted(rapl.glob("*")) if _PACKAGE.fullmatch(path.name)]
    if not domains:
        missing["cpu (RAPL)"] = f"{rapl} has no package domain"
    for domain in domains:
        try:
            name = (domain / "name").read_text().strip()
            joules[name] = 1e-6 * int((domain / "energy_uj").read_text())
            wraps[name] = 1e-6 * int((domain / "max_energy_range_uj").read_text())
        except OSError as error:
            missing["cpu (RAPL)"] = f"{domain.name}: {error.strerror}"
    gpu = _gpu_joules()
    if isinstance(gpu, str):
        missing["gpu (NVML)"] = gpu
    else:
        joules["gpu-0"] = gpu
    return Energy(joules=joules, wraps=wraps, missing=missing)


def _gpu_joules() -> float | str:
    """Joules of the current GPU since its driver was loaded, or why they cannot be read."""
    if not torch.cuda.is_available():
        return "no GPU"
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        return str(error)
    handle, millijoules = (ctypes.c_void_p(), ctypes.c_ulonglong())
    steps = (
        lambda: nvml.nvmlInit_v2(),
        lambda: nvml.nvmlDeviceGetHandleByIndex_v2(
            torch.cuda.current_device(), ctypes.byref(handle)
        ),
        lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)),
    )
    for step in steps:
        if code := step():
            return f"NVML answers with error {code}"
    return 1e-3 * millijoules.value
