"""A decode child that hangs, spins, allocates, crashes or lies costs one file and nothing else."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video
from reading import TAP, read, refusal, sound_of

from vfindex import TELEMETRY_OFF
from vfindex.indexer.media.decoder import AudioTap, Decoder, Limits
from vfindex.indexer.options import Sampling

QUICK = Limits(idle_s=0.6, cpu_base_s=0.3, cpu_per_mb_s=0.0, wall_factor=5.0)


PATCHED = """
import sys, time, os, signal
from vfindex.indexer.media import limits, probe as probing, worker
def spin(path, beat):
    while True: pass
def hang(path, beat): time.sleep(1000)
def beats(path, beat):
    while True: worker.AnswerWriter(1).send({"kind": "beat"}); time.sleep(0.01)
def hoard(path, beat): return len(bytearray(1 << 36))
def crash(path, beat): os.kill(os.getpid(), signal.SIGSEGV)
def overlong(path, beat):
    with limits.ended_after(0.05):
        while True: pass
def bug(path, beat): raise KeyError("a bug")
worker.BEAT_S = 0.0
probing.probe = globals()[sys.argv.pop(1)]
worker.main()
"""


def patched(name: str, limits: Limits = QUICK) -> Decoder:
    return Decoder(limits, [sys.executable, "-c", PATCHED, name, str(limits.memory_bytes)])


@pytest.mark.parametrize(
    ("behaviour", "code", "word"),
    [
        ("hang", "timeout", "no sign of life"),
        ("spin", "cpu", "processor time"),
        ("hoard", "memory", "memory"),
        ("crash", "crashed", "SIGSEGV"),
        ("bug", "crashed", "status 1"),
    ],
)
def test_a_child_that_misbehaves_costs_one_file(clip: Path, behaviour: str, code: str, word: str) -> None:
    limits = Limits(idle_s=20.0 if behaviour != "hang" else 1.5, cpu_base_s=0.3, cpu_per_mb_s=0.0, wall_factor=100.0)
    with patched(behaviour, limits) as decoder:
        for _ in range(2 if behaviour == "crash" else 1):  # the second request meets a fresh child
            error = refusal(decoder, clip)
            assert error.problem.code == code and word in error.problem.reason
            assert error.quarantine


def test_a_header_that_takes_too_long_is_refused_once(clip: Path) -> None:
    with patched("overlong", Limits()) as decoder:  # the clock of QUICK may run out first on a busy machine
        error = refusal(decoder, clip)
    assert error.problem.code == "header" and "tags" in error.problem.reason
    assert not error.quarantine, "another try would take as long"


def message(header: str) -> bytes:
    return len(header).to_bytes(4, "big") + header.encode()


def test_signs_of_life_do_not_buy_time_for_ever(clip: Path) -> None:
    limits = Limits(idle_s=20.0, cpu_base_s=1.0, cpu_per_mb_s=0.0, wall_factor=2.0)
    beat = message('{"kind": "beat", "bytes": 0}')
    stall = f"import time, sys\nwhile True: sys.stdout.buffer.write({beat!r}); sys.stdout.flush(); time.sleep(0.01)"
    with Decoder(limits, [sys.executable, "-c", stall]) as decoder:
        error = refusal(decoder, clip)
    assert error.problem.code == "timeout" and "longer than the limit of 2 s" in error.problem.reason


NONSENSE = [
    b"\xff\xff\xff\xff",
    message("no"),
    message("[]"),
    message('{"kind": "probe", "bytes": 99999999999}'),
    message('{"kind": "probe", "bytes": 0}'),
    message('{"kind": "end", "bytes": 0, "frames": -1, "error": NaN}'),
    message('{"kind": "error", "bytes": 0}'),
    message("[" * 40_000),
]


@pytest.mark.parametrize("answer", NONSENSE, ids=range(len(NONSENSE)))
def test_answers_that_cannot_be_are_not_believed(clip: Path, answer: bytes) -> None:
    script = f"import sys, time; sys.stdout.buffer.write({answer!r}); sys.stdout.flush(); time.sleep(60)"
    with Decoder(QUICK, [sys.executable, "-c", script]) as decoder:
        error = refusal(decoder, clip)
    assert error.problem.code == "crashed" and "nonsense" in error.problem.reason and error.quarantine


def test_memory_limit_stops_a_real_decoder(tmp_path: Path) -> None:
    options = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "shots": [Shot("red", 0.01)]}
    path = make_video(tmp_path / "big.mov", width=10_000, height=4_000, **options)
    with Decoder(Limits(memory_bytes=300 << 20)) as decoder:
        error = refusal(decoder, path)
    assert error.quarantine and error.problem.code == "memory"


def test_kill_from_another_thread_ends_a_read(clip: Path) -> None:
    with patched("hang", Limits()) as decoder:
        threading.Timer(1.0, decoder.kill).start()
        began_s = time.monotonic()
        error = refusal(decoder, clip)
    assert error.problem.code == "killed" and not error.quarantine
    assert time.monotonic() - began_s < 20.0


def test_a_read_given_up_leaves_the_decoder_usable(decoder: Decoder, clip: Path) -> None:
    items = decoder.read(
        os.fsencode(clip), taps=[TAP, AudioTap()], sampling=Sampling.parse("25"), audio=sound_of(decoder, clip)
    )
    next(items)
    with pytest.raises(RuntimeError, match="one request"):
        decoder.probe(os.fsencode(clip))
    items.close()
    assert len(read(decoder, clip, "1")[0]) == 4


PARENT = """
import os, sys, threading
from vfindex.indexer.media.decoder import Decoder
decoder = Decoder(command=[sys.executable, "-c", sys.argv[1], "spin", str(4 << 30)])
threading.Timer(1.0, lambda: print(decoder._child.pid, flush=True)).start()
decoder.probe(os.fsencode(sys.argv[2]))
"""


def test_child_ends_with_its_parent(clip: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, PATCHED, str(clip)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 15.0
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline_s, "the child outlived its parent"
        time.sleep(0.1)


def test_a_machine_without_room_fails_the_file_and_keeps_the_decoder(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Decoder() as decoder:
        for what in (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), OSError(errno.ENOSPC, "No space left")):
            with monkeypatch.context() as full:
                full.setattr(tempfile, "TemporaryFile", raising(what))
                error = refusal(decoder, clip)
            assert (error.problem.code, error.quarantine) == ("no_resources", False)
            assert what.strerror in error.problem.reason
        with monkeypatch.context() as full:
            full.setattr(subprocess, "Popen", raising(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))))
            assert refusal(decoder, clip).problem.code == "no_resources"
        assert decoder.probe(os.fsencode(clip)).frames == 100


def raising(error: OSError) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


# What the child knows and may do

TELLING = """
import ctypes, json, os, resource, sys
from vfindex.indexer.media import limits, probe as probing, worker
def probe(path, beat):
    limits = {"environment": sorted(os.environ), "processes": resource.getrlimit(resource.RLIMIT_NPROC)}
    if sys.platform == "linux":
        limits["no_new_privs"] = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
    raise probing.Refusal("probe", "told", json.dumps(limits), "next")
probing.probe = probe
worker.main()
"""


def test_the_child_gets_no_secrets_no_privileges_and_no_processes(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "GITHUB_TOKEN", "HOME"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C")
    limits = Limits()
    with Decoder(limits, [sys.executable, "-c", TELLING, str(limits.memory_bytes)]) as decoder:
        confinement = json.loads(refusal(decoder, clip).problem.reason)
    allowed = (
        "PATH",
        "LANG",
        "LC_",
        "TZ",
        "TMPDIR",
        "PYTHON",
        "LD_",
        "DYLD_",
        *TELEMETRY_OFF,
        "TOKENIZERS_",
        "ONEDNN_",
        "OMP_",
        "OPENBLAS_",
        "MKL_",
    )
    assert [name for name in confinement["environment"] if not name.startswith(allowed)] == []
    assert "LC_ALL" in confinement["environment"]
    assert confinement["processes"] == [0, 0]
    assert confinement.get("no_new_privs", 1) == 1
