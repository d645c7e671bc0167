"""An export runs in a child without network; its failure is quoted in one line. See also ../test_lite.py."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vfindex.indexer.models.export import cache
from vfindex.indexer.models.export.cache import Export, ensure, exporting
from vfindex.storage.errors import ModelError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module that runs what its first argument says."""
    (tmp_path / "obedient.py").write_text("import sys; exec(sys.argv[1])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    return "obedient"


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("raise SystemExit('its tokenizer is odd')", "the tower could not be exported: its tokenizer is odd"),
        ("print('noise'); raise ValueError('two\\nlines')", "the tower could not be exported: lines"),
        ("sys.exit(3)", "the tower could not be exported: its process ended with status 3"),
        (
            "import os; print('noise'); os.kill(os.getpid(), 9)",
            "its process was killed, as happens when memory runs out",
        ),
    ],
)
def test_a_child_that_fails_is_quoted(run: str, order: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as error, exporting(run, [order], what="the tower"):
        pass
    assert "\n" not in str(error.value)


def test_a_child_is_offline_and_has_its_share_of_threads(run: str, tmp_path: Path) -> None:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS")
    order = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(' '.join(os.environ[n] for n in {names!r}))"
    with exporting(run, [order], what="the tower", threads=3):
        pass
    assert (tmp_path / "told").read_text() == "1 1 3"


def test_a_child_that_cannot_be_started_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(cache, "Child", refuse)

    def build(_: Path) -> None:
        with exporting("any", [], what="the tower"):
            pass

    export = Export(tmp_path / "cache" / "tower", build, lambda _: False, space_mb=300, what="the tower")
    with pytest.raises(ModelError, match=r"^the tower could not be exported: its process cannot start \(Resource"):
        ensure(export, say=lambda _: None)


def test_ctrl_c_ends_the_child(run: str, tmp_path: Path) -> None:
    order = f"import time; time.sleep(30); open({str(tmp_path / 'late')!r}, 'w')"
    with pytest.raises(KeyboardInterrupt), exporting(run, [order], what="the tower"):
        raise KeyboardInterrupt
    assert not (tmp_path / "late").exists()


# An export that tells its process id and then takes long; argv: module, source, folder, name.
_SLOW = """
import os, pathlib, sys, time
from vfindex.indexer.models.export.graph import main

def slow(source, folder, name):
    folder.with_suffix(".new").write_text(str(os.getpid()))
    folder.with_suffix(".new").rename(folder)
    time.sleep(120)

main({"slow": slow})
"""
_PARENT = """
import sys
from vfindex.indexer.models.export import cache
from vfindex.indexer.models.export.cache import Export, ensure, exporting
with exporting("slow_export", ["slow", "", sys.argv[1], ""], what="it"):
    pass
"""


def test_an_export_ends_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the parent ends: it would go on with the memory of a model, in a folder that the next run removes."""
    (tmp_path / "slow_export.py").write_text(_SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(pid)]) as parent:
        while not pid.exists():
            assert parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    child = Path("/proc") / pid.read_text()
    try:
        deadline_s = time.monotonic() + 30.0
        while child.exists() and "Z" not in (child / "stat").read_text().rsplit(")", 1)[1]:
            assert time.monotonic() < deadline_s, "the export outlived its parent"
            time.sleep(0.1)
    finally:
        if child.exists():
            os.kill(int(child.name), signal.SIGKILL)
