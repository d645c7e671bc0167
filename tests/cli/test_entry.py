"""Ctrl-C ends the command quietly at any time: during imports, and while a command starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# Runs the command, and presses Ctrl-C the moment a module is looked for.
PRESSED = """
import os, signal, sys

class Press:
    def find_spec(self, name, *_):
        if name == {at!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
from {module} import main
main()
"""


@pytest.mark.parametrize(
    "at",
    [
        *("vfindex.cli.app", "typer", "vfindex.storage.errors", "vfindex.cli.commands.status"),  # the program
        *("pydantic", "sqlalchemy", "vfindex.storage.db.reader"),  # the command
    ],
)
def test_ctrl_c_is_quiet(tmp_path: Path, at: str) -> None:
    script = re.search(r'^vfindex = "([\w.]+):main"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert script
    code = PRESSED.format(at=at, module=script[1])
    command = [sys.executable, "-P", "-c", code, "status", "--library", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
