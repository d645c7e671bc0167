"""The temporary folder of a local Ray, and cleanup of its processes, also after killed runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

FOLDER = "VFINDEX_RAY_FOLDER"  # environment variable of all processes of a run's Ray
# Of the path of a Unix socket (sockaddr_un), less what Ray and `temporary_folder` add to the temporary folder:
# vfindex-ray-PID-RANDOM/ray/session_DAY_TIME_MICROSECONDS_PID/sockets/plasma_store.
_ADDED = "/vfindex-ray-1234567-12345678/ray/session_2000-01-01_00-00-00_123456_1234567/sockets/plasma_store"
MAX_BASE_BYTES = 107 - len(_ADDED)
KNOCK_S = 10.0  # timeout for a cluster's address
# An empty SETTINGS frame, whose fourth byte is its type, and the preface of a client, which a server answers with a
# SETTINGS frame at once (RFC 9113, sections 3.4 and 6.5).
HTTP2_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS
END_S = 10.0  # timeout for processes to end
# Scans in a row without a process: one that is being started has no environment for a moment.
EMPTY_SCANS, SCAN_S = 4, 0.05


def stay_local() -> None:
    """Make Ray listen on the loopback address only; call it before ray is imported.

    Ray does so if clusters are disabled; the switch works on every platform.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def knock(address: str) -> None:
    """Raise OSError if no gRPC server, as Ray's head is, answers at HOST:PORT; Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
            return  # a client has to speak TLS first
        connection.sendall(HTTP2_PREFACE)
        try:
            answer = connection.recv(len(HTTP2_SETTINGS), socket.MSG_WAITALL)
        except TimeoutError as exc:
            raise OSError(f"what listens there is not Ray: no answer within {KNOCK_S:.0f} s") from exc
    if answer[3:4] != HTTP2_SETTINGS[3:4]:
        raise OSError("what listens there is not Ray")


def base_folder() -> Path:
    """Return the parent of the folder: the temporary folder, or /tmp if its path is too long for sockets."""
    base = Path(tempfile.gettempdir())
    return base if len(os.fsencode(base)) <= MAX_BASE_BYTES else Path("/tmp")


def temporary_folder() -> Path:
    """Return a new folder for Ray's files. Raises OSError.

    Folders of killed runs are removed first, and their processes that outlived the raylet are ended.
    """
    base = base_folder()
    for old in base.glob("vfindex-ray-*-*"):
        number = old.name.split("-")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists() and old.stat().st_uid == os.getuid():
            end_processes(old)
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"vfindex-ray-{os.getpid()}-", dir=base))


def end_processes(folder: Path) -> None:
    """End this user's processes with this FOLDER, and those that they start meanwhile."""
    until, empty = time.monotonic() + END_S, 0
    while empty < EMPTY_SCANS and time.monotonic() < until:
        empty = 0 if _killed(folder) else empty + 1
        time.sleep(SCAN_S)


def _killed(folder: Path) -> bool:
    """Kill this user's processes of a run's Ray, but not this one; return whether there were any."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(process.name) != os.getpid() and _belongs(process, folder):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
    return found


def _belongs(process: Path, folder: Path) -> bool:
    """Return whether a process has this FOLDER, or a file below it open.

    Ray's agents set their title, which overwrites the environment that /proc shows; their logs stay open.
    """
    if os.fsencode(f"{FOLDER}={folder}") in (process / "environ").read_bytes().split(b"\0"):
        return True
    return any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir())
