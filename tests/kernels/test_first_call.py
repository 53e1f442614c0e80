"""The first call in a fresh process: nothing is compiled, so that it is short."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "first_call.py"


def test_the_first_call_takes_less_than_three_seconds(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--processes", "1", "--output-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = json.loads(done.stdout)
    assert 0 < seconds["load library"] + seconds["first call"] < 3
