"""The processes of a study end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

STUDY = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from undense.pipeline.study_runs import prepare_worker

def name_and_wait(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    begin = dict(initializer=prepare_worker, initargs=(1,))
    with ProcessPoolExecutor(1, mp_context=context, **begin) as pool:
        pool.submit(name_and_wait, sys.argv[1]).result()
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, and not yet waited for


def test_a_killed_study_leaves_no_worker(tmp_path: Path) -> None:
    script, told = tmp_path / "study.py", tmp_path / "worker"
    script.write_text(STUDY)
    study = subprocess.Popen([sys.executable, str(script), str(told)])
    limit = time.monotonic() + 60
    while not (told.exists() and told.read_text()):
        assert study.poll() is None and time.monotonic() < limit, "the worker did not start"
        time.sleep(0.05)
    worker = int(told.read_text())
    assert _alive(worker)
    study.send_signal(signal.SIGKILL)
    study.wait()
    limit = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < limit:
        time.sleep(0.05)
    survived = _alive(worker)
    if survived:
        os.kill(worker, signal.SIGKILL)
    assert not survived
