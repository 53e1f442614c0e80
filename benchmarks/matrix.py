"""The matrix of `undense ls --matrix`: every component in every family, every check.

    python benchmarks/matrix.py

Runs the checks of `tests/convert/cells.py` on tiny random models and writes what came of them to
`src/undense/convert/matrix.json`. The test suite runs a diagonal of it and compares.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "convert"))

import cells  # noqa: E402
import hosts  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from undense.contract import components  # noqa: E402
from undense.convert.matrix import PATH  # noqa: E402
from undense.files import write_json  # noqa: E402


def main() -> int:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, str]]] = {}
    wrong = 0
    for host in hosts.HOSTS:
        table[host] = {}
        for component in components():
            with tempfile.TemporaryDirectory() as folder:
                table[host][component] = cells.run(host, component, Path(folder) / "model")
            bad = {c: said for c, said in table[host][component].items() if said != "ok"}
            wrong += bool(bad)
            print(f"{host:12} {component:16} {bad or 'ok'}", flush=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    write_json(PATH, {"format": 1, "versions": versions, "cells": table})
    print(f"{sum(map(len, table.values()))} cells, {wrong} with a failing check: {PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
