"""Supervised children: time limits, no leftover processes, one sentence on their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vfindex.indexer.media.child import LAST_WORDS_BYTES, Child


def python(code: str, *, answers: bool = True) -> Child:
    return Child([sys.executable, "-c", code], answers=answers)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("code", "end", "reason"),
    [
        ("raise SystemExit(3)", "ended with status 3", "its process ended with status 3"),
        ("print('noise'); raise ValueError('two\\nlines')", "ended with status 1", "lines"),
        ("import os; os.kill(os.getpid(), 11)", "crashed (SIGSEGV)", "its process crashed (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 9)", "was killed, as happens when memory runs out", None),
        ("x = bytearray(1 << 60)", "ran out of memory", "its process ran out of memory"),
        ("import os, time; os.close(1); time.sleep(60)", "closed its output and went on", None),
    ],
)
def test_an_end_is_one_sentence(code: str, end: str, reason: str | None) -> None:
    with python(code) as child:
        while child.read():
            pass
        death = child.death(within_s=1.0 if "closed" in end else 30.0)
        assert str(death) == end
        assert death.reason == (reason or f"its process {end}")
        until(lambda: not child.running())


def test_last_words_are_bounded() -> None:
    code = "import sys; print('x' * 99_999, file=sys.stderr); print('the end'); sys.exit(1)"
    with python(code, answers=False) as child:
        death = child.death(within_s=None)
    assert death.reason == "the end"
    assert len(death.last_words) == LAST_WORDS_BYTES


def test_a_killed_child_takes_its_own_children_along() -> None:
    code = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
    )
    with python(code + "import time; time.sleep(60)") as child:
        grandchild = int(child.read())
        assert is_running(grandchild)
        child.kill()
        assert str(child.death()) == "was stopped"
    until(lambda: not is_running(grandchild))
    with python(code) as child:  # ends by itself and leaves one behind
        grandchild = int(child.read())
        until(lambda: not child.running())
    until(lambda: not is_running(grandchild))


def test_a_closed_child_leaves_no_zombie() -> None:
    with python("import time; time.sleep(60)") as child:
        pid = child.pid
    assert not Path(f"/proc/{pid}").exists()
    child.kill()  # in vain, but no error


def test_silence_and_wall_clock_are_bounded() -> None:
    with python("import time; time.sleep(60)") as child:
        child.start_clock(idle_s=0.2)
        with pytest.raises(TimeoutError, match=r"gave no sign of life for 0\.2 s"):
            child.read()
    with python("import time\nwhile True: print('beat', flush=True); time.sleep(0.01)") as child:
        child.start_clock(idle_s=20.0, wall_s=0.5)
        with pytest.raises(TimeoutError, match=r"took longer than the limit of 0\.5 s"):
            while True:
                child.read_exactly(5)


def test_a_child_that_reads_nothing_does_not_block_its_parent() -> None:
    with python("import time; time.sleep(60)") as child:
        child.start_clock(wall_s=0.5)
        with pytest.raises(TimeoutError, match="took longer"):
            child.send([b"x" * (1 << 20)])  # more than a pipe holds
    with python("pass") as child:
        until(lambda: not child.running())
        with pytest.raises(BrokenPipeError):
            child.send([b"x"])


def test_ctrl_c_while_a_child_starts_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start, handler = subprocess.Popen, signal.getsignal(signal.SIGINT)

    def interrupted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        python("import time; time.sleep(60)")
    assert started[0].poll() is not None
    assert signal.getsignal(signal.SIGINT) is handler
