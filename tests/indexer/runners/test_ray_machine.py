"""Cleanup of a local Ray: all of a run's processes end, and no others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from ray_runs import knowing

from vfindex.indexer.runners import ray_machine
from vfindex.indexer.runners.ray_machine import FOLDER, MAX_BASE_BYTES, base_folder, end_processes, knock

# A process that begins others as fast as it can, as a raylet does with workers.
BUSY = (
    "import subprocess, sys, time\n"
    "while True:\n"
    "    subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
    "    time.sleep(0.05)\n"
)


def begun(folder: Path, code: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], env={**os.environ, FOLDER: str(folder)})


def left(folder: Path) -> list[int]:
    return knowing(f"{FOLDER}={folder}")


def test_processes_of_a_folder_are_ended_with_those_that_they_begin_meanwhile(tmp_path: Path) -> None:
    busy, other = begun(tmp_path / "a", BUSY), begun(tmp_path / "b")
    while len(left(tmp_path / "a")) < 3:
        assert busy.poll() is None
    end_processes(tmp_path / "a")
    assert busy.wait(10) == -9
    assert left(tmp_path / "a") == [] and other.poll() is None
    end_processes(tmp_path / "b")
    assert other.wait(10) == -9


def test_a_process_without_the_variable_is_known_by_its_open_files(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    with (tmp_path / "ray" / "agent.log").open("w") as log, subprocess.Popen(["sleep", "60"], stdout=log) as process:
        end_processes(tmp_path)
        assert process.wait(10) == -signal.SIGKILL


def test_a_process_that_one_scan_misses_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has no environment while it starts: one empty scan does not prove that none is left."""
    scans = iter([True, False, True, False, False, False, False])
    monkeypatch.setattr(ray_machine, "_killed", lambda _: next(scans))
    end_processes(tmp_path)
    assert next(scans, None) is None


@pytest.mark.parametrize(("length", "kept"), [(MAX_BASE_BYTES, True), (MAX_BASE_BYTES + 1, False)])
def test_paths_too_long_for_sockets_are_left_for_tmp(monkeypatch: pytest.MonkeyPatch, length: int, kept: bool) -> None:
    folder = "/".ljust(length, "t")
    monkeypatch.setattr(tempfile, "tempdir", folder)
    assert base_folder() == Path(folder if kept else "/tmp")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bytes.fromhex("000006 04 00 00000000 000400400000"), None),  # SETTINGS of a gRPC server
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not Ray"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "what listens there is not Ray"),
        (b"", "what listens there is not Ray"),
        (None, "what listens there is not Ray: no answer within 1 s"),
    ],
)
def test_an_address_of_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, error: str | None
) -> None:
    monkeypatch.setattr(ray_machine, "KNOCK_S", 1.0)
    done = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(64)
            if answer is None:
                done.wait(60)
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            knock(f"127.0.0.1:{server.getsockname()[1]}")
            message = None
        except OSError as exc:
            message = str(exc)
        finally:
            done.set()
            thread.join()
    assert message == error
