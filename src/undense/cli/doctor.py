"""`undense doctor`: is everything here, and if not, what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen
from undense.errors import UndenseError

State = Literal["ok", "missing", "optional"]
LITTLE_DISK = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Options:
    """Versions, machine, registration, text, folders, optional packages; or the kernels."""

    kernels: bool = False
    """Instead: which path every operation takes, beside measured times of each; see `--refresh`."""
    dims: tuple[int, ...] = (128, 768)
    """With --kernels: widths."""
    tokens: tuple[int, ...] = (1, 16, 128, 512, 2048)
    """With --kernels: tokens in a call."""
    refresh: bool = False
    """With --kernels: measure anew what was measured before."""
    common: ReadingOptions = field(default_factory=Reading)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding. `remedy` is what mends it; empty where there is nothing to mend."""

    name: str
    state: State
    found: str
    remedy: str = ""


def run(options: Options) -> dict[str, Any]:
    """All findings; `ok` is false where something that is needed is missing."""
    options.common.sow()
    if options.kernels:
        from undense.cli.doctor_kernels import paths

        found = paths(options.dims, options.tokens, refresh=options.refresh)
        return options.common.keep("doctor-kernels", found)
    if options.refresh:
        raise UndenseError("doctor: --refresh is for what --kernels measures; give both")
    checks = [*packages(), *machine()]
    for name, look in (("registration", registration), ("corpus", corpus), ("tiny model", tiny)):
        checks.append(_tried(name, look))
    folder = options.common.output_dir or Path.cwd()
    checks += [writable("work folder", folder), writable("cache", _cache_folder())]
    result = {
        "ok": all(check.state != "missing" for check in checks),
        "checks": [asdict(check) for check in checks],
    }
    return options.common.keep("doctor", result)


def packages() -> Iterator[Check]:
    """Python and every requirement of the installed package, optional ones included."""
    from packaging.requirements import Requirement

    yield Check(name="python", state="ok", found=platform.python_version())
    listed = [Requirement(text) for text in requires("undense") or ()]
    for requirement in listed:
        extra = str(requirement.marker or "").partition("extra == ")[2].strip("\"'")
        if extra == "dev":
            continue
        remedy = f"pip install 'undense[{extra}]'" if extra else "pip install --upgrade undense"
        absent: State = "optional" if extra else "missing"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Check(name=requirement.name, state=absent, found="absent", remedy=remedy)
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Check(
            name=requirement.name,
            state="ok" if fits else absent,
            found=found if fits else f"{found}, needs {requirement.specifier}",
            remedy="" if fits else remedy,
        )


def machine() -> Iterator[Check]:
    """Threads, vector units, accelerators."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{torch.get_num_threads()} torch threads on {cores} cores"
    yield Check(name="threads", state="ok", found=found)
    capability = torch.backends.cpu.get_cpu_capability()
    yield Check(name="cpu", state="ok", found=f"{platform.machine()}, {capability}")
    yield _tried("kernels", compiled)
    yield _tried("gpu kernels", triton)
    if torch.cuda.is_available():
        yield Check(name="cuda", state="ok", found=torch.cuda.get_device_name())
    else:
        yield Check(name="cuda", state="optional", found="none; everything runs on the CPU")


def compiled() -> Check:
    """Which compiled code runs."""
    from undense.kernels.library import ABSENT, VARIABLE, kernels

    found = kernels()
    if found.library is not None:
        text = f"{found.path} ({found.reason}); {VARIABLE} overrides"
        return Check(name="kernels", state="ok", found=text)
    remedy = ABSENT.partition(": ")[2] if found.reason == ABSENT else f"unset {VARIABLE}"
    text = f"plain PyTorch, several times slower for token-chosen blocks: {found.reason}"
    return Check(name="kernels", state="optional", found=text, remedy=remedy)


def triton() -> Check:
    """Which kernels tensors of a GPU would take, whether or not there is one."""
    from undense.kernels.grouped import NO_TRITON, on_gpu

    found = on_gpu()
    if found.path == "triton":
        import triton

        text = f"Triton {triton.__version__}: {found.reason}"
        return Check(name="gpu kernels", state="ok", found=text)
    text = f"plain PyTorch for token-chosen blocks on a GPU: {found.reason}"
    absent = found.reason == NO_TRITON
    remedy = "pip install 'undense[gpu]'" if absent else "unset UNDENSE_KERNELS"
    return Check(name="gpu kernels", state="optional", found=text, remedy=remedy)


def registration() -> Check:
    """Whether stock transformers knows converted models once undense is imported."""
    from transformers import AutoConfig, AutoModel

    import undense  # noqa: F401  (registers)
    from undense.convert.families import FAMILIES, PREFIX

    known = [name for name in FAMILIES if AutoConfig.for_model(PREFIX + name) is not None]
    classes = {config.model_type for config in AutoModel._model_mapping}
    lacking = [name for name in known if PREFIX + name not in classes]
    if lacking:
        remedy = "reinstall undense beside a transformers version that it supports"
        found = f"no model class for {', '.join(lacking)}"
        return Check(name="registration", state="missing", found=found, remedy=remedy)
    return Check(name="registration", state="ok", found=", ".join(known))


def corpus() -> Check:
    """The default text: the standard library's own source."""
    from undense.train.corpus import load_corpus

    found = load_corpus()
    sizes = len(found.train), len(found.heldout)
    words = f"{found.name}: {sizes[0]} files to train on, {sizes[1]} held out"
    return Check(name="corpus", state="ok", found=words)


def tiny() -> Check:
    """The bundled model."""
    from undense.train.tiny import tiny_model

    return Check(
        name="tiny model", state="ok", found=f"{tiny_model().num_parameters():,} parameters"
    )


def writable(name: str, folder: Path) -> Check:
    """Whether files can be made in `folder` or in the nearest folder above it that exists."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK):
        remedy = "give a folder of yours as --output-dir, or set UNDENSE_CACHE for the cache"
        found = f"{there} cannot be written"
        return Check(name=name, state="missing", found=found, remedy=remedy)
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / 2**30:.0f} GiB free"
    if free < LITTLE_DISK:
        return Check(name=name, state="missing", found=found, remedy="free some disk space")
    return Check(name=name, state="ok", found=found)


def _cache_folder() -> Path:
    from undense.files import cache_folder

    return cache_folder()


def _tried(name: str, look: Callable[[], Check]) -> Check:
    """The finding of `look`; whatever it raises is the finding, for that is a doctor's business."""
    try:
        return look()
    except Exception as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Check(name=name, state="missing", found=found, remedy="see the message")


def show(result: dict[str, Any], screen: Screen) -> None:
    """One line a finding, then what to do; or the table of paths."""
    if "paths" in result:
        from undense.cli.doctor_kernels import show_paths

        show_paths(result, screen)
        return
    signs = {"ok": "ok", "missing": "MISSING", "optional": "optional"}
    screen.table(
        ("check", "state", "found"),
        [(check["name"], signs[check["state"]], check["found"]) for check in result["checks"]],
        words=("state", "found"),
    )
    screen.line()
    for check in result["checks"]:
        if check["remedy"]:
            screen.line(f"{check['name']}: {check['remedy']}")
    screen.line("All that is needed is here." if result["ok"] else "Something needed is missing.")
