"""Garbage collection is off in a search, and on in commands that may run for hours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
import gc, sys
from vfindex.cli.app import main
from vfindex.storage.library import Library
Library.open = lambda folder, **_: sys.exit(f"collector: {gc.isenabled()}")
main()
"""


@pytest.mark.parametrize(("words", "collects"), [(["search", "a dog"], False), (["verify"], True), (["status"], True)])
def test_only_a_search_does_without_the_collector(tmp_path: Path, words: list[str], collects: bool) -> None:
    command = [sys.executable, "-c", ASK, *words, "--library", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert f"collector: {collects}" in done.stderr
