"""Every step of a search has a test that fails when the step is replaced by a constant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mutants import MUTATIONS

SCRIPT = Path(__file__).resolve().parent.parent / "mutants.py"


def test_each_mutation_fails_its_test(tmp_path: Path) -> None:
    """The mutations run in a process of their own, so that they cannot reach other tests."""
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=230, check=False)
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout)
    expected = {name: [node.rpartition("::")[2]] for name, (_, node) in MUTATIONS.items()}
    assert failed == expected
