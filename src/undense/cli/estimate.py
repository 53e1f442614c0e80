"""`undense estimate`: go or no-go for a model on this machine, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions
from undense.cli.screen import Screen
from undense.pipeline.bench_settings import CeilingSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much faster a model could run with other FFNs, by number of tokens; quality is not
    looked at. Of the model only its config is read."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CONFIG")]
    """A folder, a config.json, a hub name, "tiny", or "example:llama-7b" (gpt2, gpt2-medium, …)."""
    arms: tuple[str, ...] = CeilingSettings.arms
    """FFN specs to try."""
    tokens: tuple[int, ...] = CeilingSettings.tokens
    """New tokens in a forward pass: 1 is decoding, more is reading a prompt."""
    past: int = CeilingSettings.past
    """Tokens that are in the cache already."""
    dtype: str = CeilingSettings.dtype
    """Type of the weights: fp32 or bf16."""
    worth: float = CeilingSettings.worth
    """Whole-model speed-up from which on it is a go."""
    seconds: float = CeilingSettings.seconds
    """About how long to time."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads that torch may use; by default as it chooses."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """Every figure, and a verdict for each number of tokens."""
    settings = CeilingSettings(
        model=options.model,
        arms=options.arms,
        tokens=options.tokens,
        past=options.past,
        dtype=options.dtype,
        worth=options.worth,
        seconds=options.seconds,
        threads=options.threads,
        seed=options.common.seed,
    )
    from undense.pipeline.ceiling import ceiling

    options.common.sow()
    return options.common.keep("estimate", ceiling(settings))


def show(result: dict[str, Any], screen: Screen) -> None:
    """Speed-ups by arm and number of tokens, then the verdicts."""
    by_tokens = result["tokens"]
    names = list(dict.fromkeys(name for each in by_tokens.values() for name in each["arms"]))

    def row(title: str, values: list[float | None], pattern: str) -> list[str]:
        return [title, *("" if value is None else pattern.format(value) for value in values)]

    figures = list(by_tokens.values())
    rows = [
        row("dense model, ms", [each["milliseconds"] for each in figures], "{:.1f}"),
        row("FFNs take, %", [100 * each["ffn_time_share"] for each in figures], "{:.0f}"),
        row("without FFNs", [each["ceiling"] for each in figures], "{:.2f}x"),
    ]
    for name in names:
        speed = [each["arms"].get(name, {}).get("speedup") for each in figures]
        rows.append(row(name, speed, "{:.2f}x"))
    machine = result["environment"]
    title = (
        f"{result['model']}, {result['layers']} layers of width {result['width']},"
        f" {result['dtype']}, {machine['threads']} threads: whole-model speed-up"
    )
    columns = ("", *(f"{tokens} tokens" for tokens in by_tokens))
    screen.table(columns, rows, title=title)
    screen.line(
        f"random weights, {result['layers_timed']} of {result['layers']} layers timed, after"
        f" {result['past']} tokens; the gain at most, for quality is not looked at"
    )
    for name, reason in result["left_out"].items():
        screen.line(f"{name} left out: {reason}")
    screen.line()
    for tokens, each in by_tokens.items():
        screen.line(f"{tokens} tokens: {_verdict(each, result['worth'])}")


def _verdict(each: dict[str, Any], worth: float) -> str:
    narrow = {n: a["speedup"] for n, a in each["arms"].items() if n.startswith("narrow")}
    beside = "".join(f"; {name}, the baseline: {value:.2f}x" for name, value in narrow.items())
    if each["best"] is None:
        return f"no-go, no arm could be timed{beside}"
    gain = each["arms"][each["best"]]["speedup"]
    if each["verdict"] == "go":
        return f"go with {each['best']}, at most {gain:.2f}x{beside}"
    return f"no-go, the best is {each['best']} with {gain:.2f}x, below {worth:g}x{beside}"
