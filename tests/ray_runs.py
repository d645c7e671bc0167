"""Runs `vfindex` with Ray in its own process, with a mark in the environment that identifies all its processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

from command_line import COMMAND
from media import media_folder

MARK = "VFINDEX_TEST_MARK"
# The shortest of the public collection: 30 s together, several containers and codecs.
SHORT = ("v020.mp4", "v029.mp4", "v031.mp4", "v037.mkv", "v045.mp4", "v054.mp4")
PATIENCE_S = 200


def short_videos(folder: Path) -> Path:
    """Copy a few different short real videos into a new folder; skips the test if there are none."""
    folder.mkdir()
    for name in SHORT:
        shutil.copy(media_folder("public") / "videos" / name, folder)
    return folder


class RayRun:
    """A running command. library: the one that it uses."""

    def __init__(self, cache: Path, library: Path, *arguments: object) -> None:
        self.library = library
        self.mark = uuid.uuid4().hex
        command = [*COMMAND, *map(str, arguments), "--library", str(library), "--json"]
        environment = os.environ | {"VFINDEX_CACHE": str(cache), MARK: self.mark}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, standard output, standard error."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode(), err.decode()

    def left(self, patience_s: float = 20.0) -> list[int]:
        """Return its remaining processes after some time."""
        until = time.monotonic() + patience_s
        while (found := marked(self.mark)) and time.monotonic() < until:
            time.sleep(0.2)
        return found


def marked(mark: str) -> list[int]:
    """Return the running processes with this mark in their environment."""
    return knowing(f"{MARK}={mark}")


def knowing(variable: str) -> list[int]:
    """Return the running processes with this entry in their environment."""
    wanted = os.fsencode(variable)
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def listening(mark: str) -> set[str]:
    """Return the local addresses, as in /proc/net/tcp, on which marked processes listen."""
    sockets = set()
    for pid in marked(mark):
        with suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(os.readlink(handle))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].split(":")[0])
    return found


def workers(mark: str, name: str) -> list[int]:
    """Return the marked Ray workers with this name in their title."""
    found = []
    for pid in marked(mark):
        with suppress(OSError):
            if name.encode() in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                found.append(pid)
    return found


def kill_one(mark: str, name: str) -> None:
    """Wait for a worker of this name and kill it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for pid in workers(mark, name):
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.1)
    raise TimeoutError(f"no worker {name} has come")
