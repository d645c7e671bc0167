"""A process that has imported what commands need, and forks one process for each command: a cold start costs a second.

A fork has the arguments, environment, working folder and output of its command, and ends as any interpreter does.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Modules that commands import lazily.
PRELOADED = (
    *("vfindex.cli.app", "vfindex.indexer.runs.ingest", "vfindex.indexer.runs.scheduler"),
    *("vfindex.indexer.runners.local", "vfindex.indexer.speech.backends"),
    *("vfindex.indexer.runs.repair", "vfindex.storage.maintenance.verify", "vfindex.search.engine"),
    *("vfindex.search.service", "vfindex.search.calibration.fit", "vfindex.search.contents", "vfindex.search.status"),
    *(
        "faiss",
        "numpy.ma",
        "onnxruntime",
        "PIL.WebPImagePlugin",
        "platformdirs",
        "pydantic.main",
        "pydantic.type_adapter",
        "rapidocr.ch_ppocr_det",
        "rapidocr.ch_ppocr_rec",
        "rapidocr.inference_engine.onnxruntime.main",
        "tokenizers",
        "typer.main",
    ),
)
# Variables that an interpreter or a library reads once, when it starts.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "OPENBLAS_", "MALLOC_", "HF_", "RAY_", "ORT_")
_SERVE = "import sys; sys.path.append(sys.argv[1]); from launcher import serve; sys.path.pop(); serve(int(sys.argv[2]))"


@dataclass(frozen=True)
class Ended:
    """An exit code as of subprocess, and what the command wrote."""

    code: int
    out: bytes
    err: bytes


class Launcher:
    """Starts commands with what is imported already. environment: that of the process that forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._read_at_start = read_at_start(environment)
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(Path(__file__).parent), str(theirs.fileno())],
                env=dict(environment),
                pass_fds=[theirs.fileno()],
            )

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether nothing that only a new interpreter would read differs."""
        return read_at_start(environment) == self._read_at_start

    def run(
        self, arguments: Sequence[bytes], environment: Mapping[str, str], cwd: Path | None, timeout_s: float
    ) -> Ended:
        """Run `vfindex ARGUMENTS`. Raises subprocess.TimeoutExpired."""
        answers, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, answers:
            with theirs:
                request = pickle.dumps((list(arguments), dict(environment), os.fspath(cwd or Path.cwd())))
                handles = [theirs.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._requests, [len(request).to_bytes(8, "big")], handles)
                self._requests.sendall(request)
            answers.settimeout(timeout_s)
            with answers.makefile("rb") as lines:
                process = int(lines.readline())
                try:
                    code = int(lines.readline())
                except TimeoutError as exc:
                    os.kill(process, 9)
                    raise subprocess.TimeoutExpired([os.fsdecode(a) for a in arguments], timeout_s) from exc
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read(), err.read())


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def serve(handle: int) -> None:
    """Fork a process for each request, until there are no more; returns in none of the forks."""
    requests = socket.socket(fileno=handle)
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # a fork's end would copy all of it
    running: dict[int, tuple[int, socket.socket]] = {}  # handle of a process -> its id, and who waits for its code
    while True:
        ready, _, _ = select.select([requests, *running], [], [])
        for ended in [each for each in ready if isinstance(each, int)]:
            process, waiting = running.pop(ended)
            os.close(ended)
            _tell(waiting, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
            waiting.close()
        if requests in ready:
            size, handles, _, _ = socket.recv_fds(requests, 8, 3)
            if not size:
                return
            data = _received(requests, int.from_bytes(size, "big"))
            process = os.fork()
            if not process:
                _act(*pickle.loads(data), *handles)
            waiting = socket.socket(fileno=handles[0])
            for opened in handles[1:]:
                os.close(opened)
            _tell(waiting, process)
            running[os.pidfd_open(process)] = process, waiting


def _received(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += sock.recv(size - len(data))
    return bytes(data)


def _tell(waiting: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # its time was over
        waiting.sendall(b"%d\n" % number)


def _act(arguments: list[bytes], environment: dict[str, str], cwd: str, waiting: int, out: int, err: int) -> None:
    """In the fork: run the command; SystemExit ends this process as it ends any other."""
    os.close(waiting)
    for handle, standard in ((out, 1), (err, 2)):
        os.dup2(handle, standard)
        os.close(handle)
    os.chdir(cwd)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["-c", *map(os.fsdecode, arguments)]
    from vfindex.cli.app import main

    main()
    sys.exit()
