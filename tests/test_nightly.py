"""The systemd and cron files of docs/nightly.md: systemd accepts them, and their commands exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "nightly.md").read_text(encoding="utf-8")
VFINDEX = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]


def block(after: str) -> str:
    """Return the first indented block after a text of the page."""
    found = re.search(r"\n\n((?:    .*\n|\n)+)", PAGE[PAGE.index(after) :])
    assert found
    return re.sub(r"^    ", "", found[1], flags=re.M)


def commands() -> list[list[str]]:
    """Return the arguments of every `vfindex` in the service and the crontab line."""
    lines = re.findall(r"^ExecStart=(.*)", block("vfindex.service`:"), re.M)
    minute, hour, *days, line = block("## With cron").strip().split(maxsplit=5)
    assert (minute, hour, days) == ("0", "1", ["*", "*", "*"]) and "%" not in line, "cron ends a command at %"
    lines += line.split("&&")
    return [line.split()[1:] for line in lines]


def test_the_commands_exist_as_written() -> None:
    assert len(commands()) == 4
    for arguments in {tuple(each) for each in commands()}:
        done = subprocess.run(
            [*VFINDEX, *arguments, "--help"], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_a_run_that_begins_late_ends_within_a_night() -> None:
    """By then `--until 06:00` is tomorrow's, and a persistent timer begins at any hour."""
    assert "Persistent" not in block("vfindex.timer`:")
    reindex = next(each for each in commands() if "--until" in each)
    assert reindex[reindex.index("--max-hours") + 1] == "5"


def test_systemd_accepts_the_files(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here")
    home = tmp_path / "home"
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "vfindex").symlink_to(sys.executable)
    units = [tmp_path / "vfindex.service", tmp_path / "vfindex.timer"]
    for unit in units:
        unit.write_text(block(f"{unit.name}`:"))
    environment = os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [program, "--user", "verify", *map(str, units)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    of_ours = [
        line for line in (done.stdout + done.stderr).splitlines() if "vfindex.service" in line or ".timer" in line
    ]
    assert (done.returncode, of_ours) == (0, []), "what it says of the machine's own units is not ours"
