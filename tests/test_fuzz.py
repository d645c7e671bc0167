"""The short form of tests/bench/fuzz.py: mutated media, sidecars and libraries through the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench" / "fuzz.py"


@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and subreapers are Linux's")
@pytest.mark.parametrize("counts", [(30, 0, 0), (0, 30, 0), (0, 0, 6)], ids=["media", "sidecars", "libraries"])
def test_no_input_breaks_a_command(models_cache: Path, counts: tuple[int, int, int]) -> None:
    numbers = [word for pair in zip(("--media", "--sidecars", "--libraries"), counts, strict=True) for word in pair]
    command = [sys.executable, os.fspath(BENCH), "--seed", "1", "--cache", os.fspath(models_cache), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=890)
    last = done.stdout.splitlines()[-1:]
    assert (done.returncode, last) == (
        0,
        ["{} media, {} sidecars, {} libraries, 0 faults".format(*counts)],
    ), done.stdout + done.stderr
