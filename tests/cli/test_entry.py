"""The script `vfindex`: what a search that ends at once still does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
