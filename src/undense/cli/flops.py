"""`undense flops`: what a model costs, part by part, dense beside replaced. No weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from undense.cli.options import Reading, ReadingOptions, SpecOption, TargetOption
from undense.cli.screen import Screen
from undense.errors import UndenseError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Forward FLOPs and MACs, counted on the meta device."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL_OR_CONFIG")]
    """A model folder, a folder with a config.json alone, a hub name, or "tiny"."""
    ffn: SpecOption = None
    """What to put in the place of the dense FFNs (see `undense ls`); by default nothing."""
    targets: TargetOption = None
    """Which FFNs: ends of their paths, globs, re:REGEX, or layers such as 3 or 0-5."""
    exclude: TargetOption = None
    """FFNs to leave dense; the same grammar."""
    tokens: int = 256
    """Length of the block that is counted; attention grows with it."""
    strict: bool = False
    """Fail where an operation has no FLOP formula."""
    common: ReadingOptions = field(default_factory=Reading)


def run(options: Options) -> dict[str, Any]:
    """The model's figures, dense and, with --ffn, replaced; the cost tree of each kind of FFN."""
    from undense.convert.convert import convert_, plan
    from undense.ffn.presets import dense_config
    from undense.measure.language_model import empty_model
    from undense.pipeline.load import load_config

    if options.tokens < 1:
        raise UndenseError(f"flops: tokens={options.tokens} must be at least 1")
    if options.ffn is None and (options.targets or options.exclude):
        raise UndenseError("flops: --targets and --exclude say where --ffn goes; give --ffn too")
    options.common.sow()
    config = load_config(options.model)
    described = plan(config, options.ffn or dense_config, **_places(options))
    model: Any = empty_model(config).eval()  # dropout is no part of what a model costs to use
    result: dict[str, Any] = {
        "model": options.model,
        "model_type": described.model_type,
        "ffn": options.ffn,
        "tokens": options.tokens,
        "dense": _figures(model, options),
        "replaced": None,
        "ffns": len(described.sites),
        "trees": _trees(described, replaced=options.ffn is not None),
    }
    if options.ffn is not None:
        convert_(model, options.ffn, keep_dense=False, **_places(options))
        result["replaced"] = _figures(model, options)
    return options.common.keep("flops", result)


def _places(options: Options) -> dict[str, Any]:
    return {
        "targets": None if options.targets is None else list(options.targets),
        "exclude": None if options.exclude is None else list(options.exclude),
    }


def _figures(model: Any, options: Options) -> dict[str, Any]:
    from undense.measure.language_model import count_forward

    count = count_forward(model, options.tokens, strict=options.strict)
    return {
        "flops": count.forward,
        "flops_per_token": count.forward / options.tokens,
        "analytic": count.analytic,
        "dispatched": count.dispatched,
        "useful": count.useful,
        "macs": count.macs,
        "macs_per_token": count.macs / options.tokens,
        "parameters": model.num_parameters(),
        "uncounted": count.uncounted,
        "zero_cost": count.zero_cost,
        "tree": count.tree.to_dict(),
    }


def _trees(described: Any, *, replaced: bool) -> list[dict[str, Any]]:
    """One entry for each kind of FFN: how many there are, and its cost for one token."""
    kinds: dict[str, dict[str, Any]] = {}
    for site in described.sites:
        key = f"{site.shape} {site.config}"
        if key not in kinds:
            kinds[key] = {
                "ffns": [],
                "dense": site.cost_before.to_dict(),
                "replaced": site.cost_after.to_dict() if replaced else None,
            }
        kinds[key]["ffns"].append(site.name)
    return list(kinds.values())


def show(result: dict[str, Any], screen: Screen) -> None:
    """The model's figures, then each kind of FFN part by part."""
    dense, replaced = (result["dense"], result["replaced"])
    sides = [("dense", dense)] + ([(str(result["ffn"]), replaced)] if replaced else [])
    names = ("FLOPs a token", "MACs a token", "parameters")
    keys = ("flops_per_token", "macs_per_token", "parameters")
    rows = []
    for name, key in zip(names, keys, strict=True):
        row = [name, *(f"{side[key]:,.0f}" for _, side in sides)]
        rows.append([*row, f"{100 * (replaced[key] / dense[key] - 1):+.1f} %"] if replaced else row)
    columns = ["model", *(name for name, _ in sides), *(["change"] if replaced else [])]
    title = f"{result['model']}, blocks of {result['tokens']} tokens, {result['ffns']} FFNs"
    screen.table(columns, rows, title=title)
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
