"""`undense flops`: what a model costs, part by part, dense beside replaced. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions, SpecOption, TargetOption, UsageError
from undense.cli.screen import Screen
from undense.errors import UndenseError

MODES = {"prefill": "forward", "decode": "forward", "training": "forward and backward"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """FLOPs and MACs of prefill, decoding and a training step, counted on the meta device."""

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CONFIG")] = (
        None
    )
    """A model folder, a config.json, a hub name, "tiny", or "example:llama-7b" (gpt2, llama3-8b,
    mistral-7b, qwen3-8b)."""
    ffn: SpecOption = None
    """What to put in the place of the dense FFNs (see `undense ls`); by default nothing."""
    targets: TargetOption = None
    """Which FFNs: ends of their paths, globs, re:REGEX, or layers such as 3 or 0-5."""
    exclude: TargetOption = None
    """FFNs to leave dense; the same grammar."""
    tokens: int = 256
    """Length of the sequence that is read or trained on; attention grows with it."""
    past: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Tokens in the cache when one more is decoded; by default as many as --tokens."""
    batch: int = 1
    """Number of sequences."""
    cache: str = "bf16"
    """What the cache holds: fp32, bf16 or int8."""
    strict: bool = False
    """Fail where an operation has no FLOP formula."""
    proposal: bool = False
    """Instead of a model: the original proposal's cost tables beside our components' costs."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """The model's figures, dense and, with --ffn, replaced; the cost tree of each kind of FFN."""
    from undense.pipeline.estimate import EstimateSettings
    from undense.pipeline.load import load_config
    from undense.pipeline.whole import compare

    if (options.model is None) != options.proposal:
        raise UsageError("give either a model or --proposal; see `undense flops --help`")
    if options.model is None:
        from undense.pipeline.claims import proposal

        return options.common.keep("flops", {"proposal": proposal()})
    if options.tokens < 1:
        raise UndenseError(f"flops: tokens={options.tokens} must be at least 1")
    if options.ffn is None and (options.targets or options.exclude):
        raise UndenseError("flops: --targets and --exclude say where --ffn goes; give --ffn too")
    options.common.sow()
    settings = EstimateSettings(
        batch=options.batch,
        tokens=options.tokens,
        past=options.tokens if options.past is None else options.past,
        cache=options.cache,
    )
    result = {"model": options.model} | compare(
        load_config(options.model),
        settings,
        ffn=options.ffn,
        targets=None if options.targets is None else list(options.targets),
        exclude=None if options.exclude is None else list(options.exclude),
        strict=options.strict,
    )
    return options.common.keep("flops", result)


def show(result: dict[str, Any], screen: Screen) -> None:
    """The model's figures, then each kind of FFN part by part."""
    if "proposal" in result:
        _claims(result["proposal"], screen)
        return
    dense, replaced = (result["dense"], result["replaced"])
    sides = [("dense", dense)] + ([(str(result["ffn"]), replaced)] if replaced else [])
    _sizes(result, sides, screen)
    for name, side in sides:
        screen.line()
        _parts(name, side["estimate"], screen)
    for kind in result["trees"]:
        places = f"{len(kind['ffns'])} like {kind['ffns'][0]}"
        for side in ("dense", "replaced"):
            if kind[side] is not None:
                screen.line()
                _tree(kind[side], f"one FFN, one token, {side} ({places})", screen)
    for name, side in sides:
        if side["analytic"] != side["dispatched"] or side["useful"] != side["dispatched"]:
            shown = (f"{key} {side[key]:,}" for key in ("analytic", "dispatched", "useful"))
            screen.line(f"FLOPs of the block, {name}: {', '.join(shown)}")
        if side["uncounted"]:
            listed = (f"{op} ({calls} calls)" for op, calls in side["uncounted"].items())
            screen.line(f"without a formula, {name}: {', '.join(listed)}")


def _sizes(result: dict[str, Any], sides: list[tuple[str, Any]], screen: Screen) -> None:
    """One row a figure, one column a side, and the change."""
    rows: list[list[str]] = []

    def add(name: str, values: list[float]) -> None:
        row = [name, *(f"{value:,.0f}" for value in values)]
        if len(values) > 1:
            row.append(f"{100 * (values[1] / values[0] - 1):+.1f} %")
        rows.append(row)

    for name, key in (
        ("FLOPs a token", "flops_per_token"),
        ("MACs a token", "macs_per_token"),
        ("FLOPs a sequence", "flops_per_sequence"),
    ):
        add(name, [side[key] for _, side in sides])
    works = [side["estimate"]["workloads"] for _, side in sides]
    for name in works[0]:
        if name != "prefill":
            add(f"{name}, FLOPs a token", [w[name]["flops_per_token"] for w in works])
    add("parameters", [side["parameters"] for _, side in sides])
    caches = [side["estimate"]["kv_cache"] for _, side in sides]
    if caches[0] is not None:
        add(f"KV cache, bytes ({caches[0]['tokens']} tokens)", [c["bytes"] for c in caches])
    columns = ["model", *(name for name, _ in sides), *(["change"] if len(sides) > 1 else [])]
    title = f"{result['model']}, blocks of {result['tokens']} tokens, {result['ffns']} FFNs"
    screen.table(columns, rows, title=title)


def _parts(name: str, estimate: dict[str, Any], screen: Screen) -> None:
    """FLOPs a token of every part and workload: by formula, else where they were dispatched."""
    works = estimate["workloads"]
    columns = ["part", *(f"{work} ({MODES[work]})" for work in works), "share of prefill"]
    cells: dict[str, dict[str, float]] = {}
    for work, figures in works.items():
        if figures["formula"] is not None:
            _walk(figures["formula"], "", work, figures, cells)
        else:
            for place in figures["places"]:
                flops = place["forward"] + place["backward"]
                cells.setdefault(place["path"], {})[work] = flops / figures["rows"]
    whole = works["prefill"]["flops_per_token"] or 1
    rows = [
        (
            part,
            *(f"{by_work.get(work, 0):,.0f}" for work in works),
            f"{100 * by_work.get('prefill', 0) / whole:.1f} %",
        )
        for part, by_work in cells.items()
        if any(by_work.values())
    ]
    screen.table(columns, rows, title=f"{name}: FLOPs a token")
    pairs = works["prefill"]["attention_pairs"]
    screen.line(
        f"attention is counted at the full square, {pairs['full_square']:,} pairs a head;"
        f" a causal kernel needs {pairs['causal']:,}"
    )
    agree = [w["agree"] for w in works.values()]
    screen.line(
        "no formula for this family: counted only, operation by operation"
        if None in agree
        else "by formula and counted operation by operation: equal to the integer"
        if all(agree)
        else "DIFFERENT by formula and counted: "
        + ", ".join(
            f"{work} {w['formula']['forward']:,} against {w['forward']:,}"
            for work, w in works.items()
            if not w["agree"]
        )
    )


def _walk(
    node: dict[str, Any],
    indent: str,
    work: str,
    figures: dict[str, Any],
    cells: dict[str, dict[str, float]],
) -> None:
    flops = node["forward"] + (node["backward"] if figures["labels"] else 0)
    key = f"{indent}{node['name']}"
    while work in cells.get(key, {}):  # the same name in another place
        key += " "
    cells.setdefault(key, {})[work] = flops / figures["rows"]
    if len(indent) < 6:
        for part in node.get("parts", ()):
            _walk(part, indent + "  ", work, figures, cells)


def _tree(tree: dict[str, Any], title: str, screen: Screen) -> None:
    whole = tree["forward"] or 1
    rows: list[tuple[str, ...]] = []

    def add(node: dict[str, Any], depth: int) -> None:
        share = f"{100 * node['forward'] / whole:.1f} %"
        figures = (f"{node['forward']:,}", share, f"{node['macs']:,}", f"{node['weights']:,}")
        rows.append(("  " * depth + node["name"], *figures))
        for part in node.get("parts", ()):
            if part["forward"]:  # what costs nothing on the way forward is in --json
                add(part, depth + 1)

    add(tree, 0)
    screen.table(("part", "FLOPs", "share", "MACs", "weights"), rows, title=title)


def _claims(tables: dict[str, Any], screen: Screen) -> None:
    """The proposal's tables: claimed, then ours."""
    for keys, steps in tables["one_token_4096"].items():
        cells = [
            (step["step"], *(f"{step[k] / 1e6:,.3f} M" for k in ("claimed", "macs", "flops")))
            for step in steps
        ]
        columns = ("step", "claimed", "our MACs", "our FLOPs")
        screen.table(columns, cells, title=f"one token, d = 4096, seeing {keys} positions")
        screen.line()
    small = [
        (each["part"], *(f"{each[k]:,.0f}" for k in ("claimed", "macs", "flops")))
        for each in tables["breakdown_128"]
    ]
    screen.table(("part", "claimed", "our MACs", "our FLOPs"), small, title="one FFN, d = 128")
    screen.line()
    rows: list[tuple[str, ...]] = []
    for claim in tables["claims"]:
        low, high = claim["claimed_times_less"]
        claimed = f"{low:g}-{high:g}x" if high else f">{low:g}x"
        if claim["missing"]:
            rows.append((claim["method"], claimed, f"no component {claim['component']!r} here"))
            continue
        by_setting: dict[str, list[dict[str, Any]]] = {}
        for figures in claim["rows"]:
            by_setting.setdefault(figures["setting"], []).append(figures)
        for setting, each in by_setting.items():
            times = [f"{r['times_less']:,.1f}x" if r.get("times_less") else "none" for r in each]
            rows.append((claim["method"], claimed, f"{setting}: {' / '.join(times)}"))
    widths = " / ".join(map(str, tables["widths"]))
    columns = ("method", "claimed less", f"ours, times fewer FLOPs than dense at d = {widths}")
    screen.table(columns, rows, title="claims", words=columns)
