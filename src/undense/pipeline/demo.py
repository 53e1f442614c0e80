"""The main job: a dense model, its replacements and the baselines, trained alike and reported."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel

import undense
from undense.convert.convert import plan
from undense.convert.sites import find_sites
from undense.errors import UndenseError
from undense.ffn.shares import dense_config
from undense.files import write_json
from undense.measure.timing import environment
from undense.pipeline.arm import ffns_of, read_figures, run_arm
from undense.pipeline.figures import TIMED_TOKENS, ffn_times, forward_times
from undense.pipeline.load import (
    TINY,
    Blocks,
    context_of,
    load_blocks,
    load_model,
    load_tokenizer,
    model_title,
)
from undense.pipeline.settings import DemoSettings
from undense.report.contest import EQUAL_FLOPS
from undense.report.page import write_report
from undense.report.values import Values
from undense.train.tiny import TINY_FOLDER
from undense.train.tokens import batches_hash


def run_demo(settings: DemoSettings, output_dir: Path) -> Path:
    """Run every stage whose result is not yet in `output_dir`; returns the path of the report.

    Nothing is written before the model, the text and every arm's spec are known to be good. Raises
    `UndenseError` where one is not, and where the folder holds a run with other settings.
    """
    torch.set_num_threads(settings.threads)
    _same_run(settings, output_dir)
    model = load_model(settings.model)
    tokenizer = load_tokenizer(settings.model)
    context = context_of(model, settings.context)
    blocks = load_blocks(tokenizer, settings.data, context, settings.eval_blocks)
    asked, settings = (settings, replace(settings, context=context))
    arms = settings.arm_names
    for arm in arms:
        plan(model, dense_config if arm == "dense" else arm)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "settings.json", asdict(asked))
    for number, arm in enumerate(arms, 1):
        tqdm.write(f"[{number}/{len(arms)}] {arm}")
        run_arm(arm, settings, blocks, tokenizer, output_dir / "arms" / arm)
    if not (output_dir / "times.json").is_file():
        tqdm.write("timing all arms in turn")
        write_json(output_dir / "times.json", _times(settings, output_dir, context))
    _assemble(asked, output_dir, blocks, model, context)
    return write_report(output_dir)


def _same_run(settings: DemoSettings, output_dir: Path) -> None:
    path = output_dir / "settings.json"
    if not path.is_file():
        if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
            raise UndenseError(
                f"{output_dir} exists and is no run folder; give another --output-dir"
            )
        return
    earlier = Values.read(path).values
    now = json.loads(json.dumps(asdict(settings)))
    changed = [key for key in now if earlier.get(key) != now[key]]
    if changed:
        raise UndenseError(
            f"{output_dir} holds a run with other settings ({', '.join(changed)}); give another"
            " --output-dir, or the same settings to continue it"
        )


def _times(settings: DemoSettings, output_dir: Path, context: int) -> dict[str, Any]:
    """Times of the saved models, each loaded back from its folder."""
    models: dict[str, PreTrainedModel] = {}
    for arm in settings.arm_names:
        folder = output_dir / "arms" / arm / "model"
        models[arm] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    dim = find_sites(models["dense"])[0].shape.dim
    rounds, threads = (settings.timing_rounds, settings.threads)
    return {
        "model": forward_times(models, context, rounds=rounds, threads=threads),
        "ffn": ffn_times(
            {arm: ffns_of(model)[0] for arm, model in models.items()},
            dim,
            rounds=rounds,
            threads=threads,
        ),
    }


def _assemble(
    settings: DemoSettings, folder: Path, blocks: Blocks, model: PreTrainedModel, context: int
) -> None:
    """The JSON files that the report is made from."""
    times = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    arms: dict[str, dict[str, Any]] = {}
    for arm in settings.arm_names:
        figures = read_figures(folder / "arms" / arm)
        figures["forward_ms"] = times["model"][arm]
        figures["ffn_forward_ms"] = times["ffn"][arm]
        write_json(folder / "arms" / arm / "metrics.json", figures)
        arms[arm] = figures
    sites = find_sites(model)
    shape = sites[0].shape
    names = settings.arm_names
    main, rival = contestants({arm: figures["ffn_share"] for arm, figures in arms.items()})
    run = {
        "format": 1,
        "kind": "demo",
        "undense": undense.__version__,
        "model": model_title(settings.model),
        "model_note": _note(settings),
        "data": {
            "name": blocks.corpus.name,
            "train_tokens": blocks.train.blocks.numel(),
            "eval_tokens": blocks.heldout.blocks.numel(),
            "sha256": blocks.corpus.sha256,
            "python": blocks.corpus.python_version,
        },
        "seed": settings.seed,
        "settings": asdict(settings),
        "environment": environment() | {"dtype": "float32", "threads": settings.threads},
        "batches_hash": batches_hash(blocks.heldout),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": _command(settings),
        "arms": list(names),
        "reference": "dense",
        "floor": "none" if "none" in names else None,
        "rival": rival,
        "main": main,
        "shape": {
            "dim": shape.dim,
            "hidden": shape.hidden,
            "gated": shape.gated,
            "layers": len(sites),
            "context": context,
        },
        "training": {
            "distill_tokens": settings.distill_steps * settings.batch * context,
            "finetune_tokens": settings.finetune_steps * settings.batch * context,
        },
    }
    write_json(folder / "run.json", run)
    top = {
        "gap_recovered": gap_recovered(arms),
        "amdahl": amdahl(arms, layers=len(sites)),
        "ngram": _ngram(settings),
    }
    write_json(folder / "metrics.json", top)
    spread = TINY_FOLDER / "seeds.json"
    if spread.is_file() and replace(settings, seed=0) == DemoSettings():
        # The committed five seeds of this very comparison stand beside the one that just ran.
        write_json(folder / "seeds.json", json.loads(spread.read_text(encoding="utf-8")))


def contestants(shares: Mapping[str, float]) -> tuple[str | None, str | None]:
    """The composition that the run is about, and the narrow dense FFN of equal FLOPs beside it.

    `shares`: FLOPs over those of the dense FFN, by arm. The first pair of equal FLOPs; without one,
    the first composition and nobody.
    """
    ultras = [arm for arm in shares if arm.startswith("ultra")]
    narrows = [arm for arm in shares if arm.startswith("narrow")]
    for one in ultras:
        for other in narrows:
            if abs(shares[one] - shares[other]) <= EQUAL_FLOPS:
                return one, other
    return (ultras[0] if ultras else None), None


def gap_recovered(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """(loss of no FFN - loss of the arm) / (loss of no FFN - loss of dense), all trained alike."""
    if "none" not in arms:
        return None
    floor, top = (arms["none"]["loss"], arms["dense"]["loss"])
    return {arm: (floor - figures["loss"]) / (floor - top) for arm, figures in arms.items()}


def amdahl(arms: Mapping[str, Mapping[str, Any]], *, layers: int) -> dict[str, Any]:
    """By number of tokens: the dense FFNs' share of the model's time, the speed-up of the whole
    model if they took none (no arm can pass it), and the speed-up measured for each arm.

    The share is that of one FFN timed alone, times the layers. Where that comes to the whole time
    or more, the timing was disturbed and no bound follows from it: None, which the report says.
    """
    result = {}
    dense = arms["dense"]
    for tokens in map(str, TIMED_TOKENS):
        whole = dense["forward_ms"][tokens]["median"]
        share = layers * dense["ffn_forward_ms"][tokens]["median"] / whole
        result[tokens] = {
            "ffn_time_share": share,
            "bound": 1 / (1 - share) if share < 1 else None,
            "measured": {
                arm: whole / figures["forward_ms"][tokens]["median"]
                for arm, figures in arms.items()
            },
        }
    return result


def _command(settings: DemoSettings) -> str:
    """The command that makes this run, defaults left out."""
    words = ["undense", "demo"]
    defaults = asdict(DemoSettings())
    for name, value in asdict(settings).items():
        if value == defaults[name] or value is None:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [flag, *(f"{v:g}" if isinstance(v, float | int) else str(v) for v in value)]
        else:
            words += [flag, str(value)]
    return " ".join(words)


def _note(settings: DemoSettings) -> str:
    """What a reader must know about the weights, from the model's own folder."""
    if settings.model == TINY:
        return "trained on the same corpus by the recipe recipes/tiny-gpt2.json"
    origin = Path(settings.model) / "origin.json"
    if origin.is_file():
        facts = json.loads(origin.read_text(encoding="utf-8"))
        return ", ".join(f"{key}: {value}" for key, value in facts.items())
    return ""


def _ngram(settings: DemoSettings) -> dict[str, float] | None:
    """Held-out losses of n-gram models, which the bundled model's card states."""
    if settings.model != TINY:
        return None
    losses = json.loads((TINY_FOLDER / "metrics.json").read_text(encoding="utf-8"))["baselines"]
    return {name.replace("5-gram", "fivegram"): value for name, value in losses.items()}
