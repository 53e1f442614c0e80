"""The command `undense`: its help, its version and misspelt verbs, without importing torch.

It stands outside the package so that nothing of it is imported before a verb is known.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Sequence

VERBS: dict[str, str] = {
    "demo": "replace a model's FFNs, train every arm alike, write a report",
    "convert": "replace the FFNs of a model and save it",
    "distill": "teach replaced FFNs to do what the dense ones did, layer by layer",
    "finetune": "fine-tune a model folder, converted or dense",
    "train": "pretrain a small model from a recipe",
    "eval": "held-out loss, cost and size of a model",
    "flops": "FLOPs and MACs of a model, part by part, dense beside replaced",
    "profile": "where a model's time goes, beside where its FLOPs go",
    "estimate": "what a model could gain on this machine, before anything is trained: go or no-go",
    "bench ffn": "how fast single FFNs are, dense and others, checked and then timed in turn",
    "bench model": "how fast whole models are: prefill, decoding, training step, peak memory",
    "bench pareto": "loss against cost: FFNs trained from scratch, every arm tuned alike",
    "bench scaling": "how FFNs from scratch grow with the model: curves from several bench pareto",
    "report": "rebuild the report of a run folder",
    "ls": "the components and presets that --ffn takes",
    "doctor": "check the installation and say how to mend it",
}
HELP_FLAGS = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in HELP_FLAGS:
        with contextlib.suppress(BrokenPipeError):  # the reader (head) has seen enough
            print(overview(), flush=True)
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"undense {version('undense')}")
        return 0
    verb = words[0]
    parts = {name: line for name, line in VERBS.items() if name.startswith(f"{verb} ")}
    if parts and words[1:2] and f"{verb} {words[1]}" in parts:
        verb = f"{verb} {words[1]}"
    elif parts and words[1:2] and words[1] in HELP_FLAGS:
        print("\n".join(f"usage: undense {name} [options]    {parts[name]}" for name in parts))
        return 0
    if verb not in VERBS:
        wrong = f"{verb} needs one more word: {' or '.join(parts)}" if parts else unknown(verb)
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    from undense.cli.verb import run

    return run(verb, words[len(verb.split()) :])


def overview() -> str:
    """What `undense --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items())
    return f"""usage: undense VERB [options]

Cheaper feed-forward networks for transformers, and what they cost and save.

{verbs}

`undense VERB --help` lists the options of a verb; `undense --version` tells the version.
Every verb takes --json (one JSON object on stdout) and --debug (tracebacks)."""


def unknown(verb: str) -> str:
    """What is said about a verb that is none."""
    near = difflib.get_close_matches(verb, VERBS, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    return f"unknown command {verb!r}{hint} Known: {', '.join(VERBS)}"


if __name__ == "__main__":
    sys.exit(main())
