"""Every step of a search has a test that notices when the step is replaced by a constant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from teeth import MUTATIONS

TEETH = Path(__file__).resolve().parent.parent / "teeth.py"


def test_no_step_can_be_left_out_unnoticed(tmp_path: Path) -> None:
    """In a process of its own: what is replaced must not reach other tests."""
    command = [sys.executable, str(TEETH)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=230, check=False)
    assert done.returncode == 0, done.stderr
    noticed = json.loads(done.stdout)
    expected = {name: [node.rpartition("::")[2]] for name, (_, node) in MUTATIONS.items()}
    assert noticed == expected
