"""Ctrl-C ends the command quietly at any time, and a search that ends at once still does what other commands do."""

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


CODE = """
import atexit, sys
atexit.register(print, "ended", file=sys.stdout)
from vfindex.cli.entry import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", CODE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["search", "--help"], 0),
        (["search", "red", "--library", "nowhere"], 1),
        (["search", "--no-such-option"], 2),
        (["status", "--library", "nowhere"], 1),
    ],
)
def test_the_code_is_that_of_the_command_and_all_is_written(tmp_path: Path, arguments: list[str], code: int) -> None:
    done = run(*[str(tmp_path / each) if each == "nowhere" else each for each in arguments])
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (code, ["ended"])
    assert bool(done.stderr) == bool(code)
    assert "Traceback" not in done.stderr


def test_an_output_that_is_closed_is_no_error_of_the_interpreter() -> None:
    code = "from vfindex.cli.entry import main; main()"
    command = f'exec "{sys.executable}" -P -c "{code}" search --help >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_quiet_while_a_search_ends() -> None:
    code = """
import atexit, sys
class Pressed:
    def flush(self):
        Pressed.flush = lambda self: None
        raise KeyboardInterrupt
atexit.register(setattr, sys, "stderr", Pressed())
from vfindex.cli.entry import main
main()
"""
    command = [sys.executable, "-P", "-c", code, "search", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
