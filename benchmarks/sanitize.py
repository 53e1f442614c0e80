"""The kernel tests again, with the compiled library under the address and undefined-behaviour
sanitizers: `python benchmarks/sanitize.py`. Builds into a temporary folder; needs g++."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "undense" / "kernels" / "native.cpp"
TESTS = ["tests/kernels", "tests/mixers/test_compiled_mixers.py"]
FLAGS = [
    "-O1",
    "-g",
    "-std=c++17",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]


def main() -> int:
    # the C++ library too: without it the sanitizer knows no exception, and torch throws some
    runtime = " ".join(
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    )
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "_native_sanitized.so"
        subprocess.run(["g++", *FLAGS, str(SOURCE), "-o", str(library)], check=True)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
            cwd=ROOT,
            env={
                **os.environ,
                "LD_PRELOAD": runtime,
                # Python and torch keep memory until they end; their leaks are not ours to find
                "ASAN_OPTIONS": "detect_leaks=0",
                "UNDENSE_LIBRARY": str(library),
            },
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
