"""A run stops soon in every phase: walking, fingerprinting, indexing, exporting, publishing."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from command_line import start
from media import Shot, make_video

from vfindex.indexer.models import hardware
from vfindex.indexer.models.export.cache import exporting
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline import prepare
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.stages import Indexed
from vfindex.indexer.runners import local
from vfindex.indexer.runs.execute import Clock, RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.runs.report import Progress, RunInterrupted
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.runs.scheduler import POLL_S
from vfindex.indexer.scan import missing as missing_module
from vfindex.indexer.scan.missing import Missing, Recorded, find_missing
from vfindex.indexer.scan.walk import ASK_EVERY, discover
from vfindex.storage.db.sources import Root
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import UnitPlan
from vfindex.storage.writer import Writer, writing

FILES = 2000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:04}.mp4").touch()
    return folder


class Counting:
    """Says stop from the given question on, and counts the questions."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.at


def test_a_walk_of_unchanged_files_can_be_stopped(tree: Path) -> None:
    stop = Counting(10**9)
    assert list(discover([os.fsencode(tree)], sift=lambda _: [], stop=stop)) == []
    assert stop.asked >= 2 * FILES // ASK_EVERY, "as names are read, and as files are looked at"
    early = Counting(3)
    assert list(discover([os.fsencode(tree)], sift=lambda _: [], stop=early)) == []
    assert early.asked < 10


def test_a_run_that_is_stopped_in_an_unchanged_tree_is_interrupted(
    tmp_path: Path, tree: Path, models_cache: Path
) -> None:
    settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
    report = ingest(tmp_path / "lib", [os.fsencode(tree)], settings, Callbacks(stop=lambda: True))
    assert (report.interrupted, report.found) == (True, 0)
    report = ingest(tmp_path / "lib", [os.fsencode(tree / "0001.mp4")], settings, Callbacks(stop=lambda: True))
    assert (report.interrupted, report.left) == (True, None), "there may be more files than were seen"
    ended = RunSettings(models_cache, end_at=datetime.now(UTC) - timedelta(hours=1))
    report = reindex(tmp_path / "lib", ended)
    assert (report.out_of_time, report.interrupted) == (True, False)


def test_no_file_is_missing_if_the_search_is_stopped(
    tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing_module, "ASK_EVERY", 1)
    with writing(tmp_path / "lib") as writer:
        run = Run(writer, Options(Sampling(), asr=False), Callbacks(stop=Counting(3)))
        unseen = {b"%s/%d" % (os.fsencode(tmp_path), n) for n in range(9)}
        recorded, roots = Recorded(writer.catalog, run.known, unseen), [Root(os.fsencode(tmp_path), ())]
        assert find_missing(recorded, [], roots, allow_missing=True, stop=run.has_stopped) == Missing()
        assert run.report.interrupted


def test_no_unit_begins_after_a_stop(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", shots=[Shot("red", 4), Shot("blue", 4)])
    monkeypatch.setattr(prepare, "UNIT_S", 2.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 1.0)
    real, begun, stopped = local.index_unit, [], Event()

    def index_unit(prepared: Prepared, plan: UnitPlan, *rest: Any) -> Indexed:
        begun.append(plan.number)
        if len(begun) == 2:
            stopped.set()
            time.sleep(5 * POLL_S)  # time enough to withdraw the unit that waits for this worker
        return real(prepared, plan, *rest)

    monkeypatch.setattr(local, "index_unit", index_unit)
    settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
    report = ingest(tmp_path / "lib", [os.fsencode(tmp_path / "a.mp4")], settings, Callbacks(stop=stopped.is_set))
    assert (report.interrupted, begun) == (True, [0, 1])
    with writing(tmp_path / "lib") as writer:
        assert len(writer.catalog.pending_units(1)) == 2, "the unit in progress is committed"
    report = ingest(tmp_path / "lib", [os.fsencode(tmp_path / "a.mp4")], settings)
    assert (report.indexed, begun) == (1, [0, 1, 2, 3])


def test_a_stop_is_seen_between_copies(tmp_path: Path, models_cache: Path) -> None:
    (tmp_path / "videos").mkdir()
    first = make_video(tmp_path / "videos" / "a.mp4", shots=[Shot("red", 1)])
    settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
    assert ingest(tmp_path / "lib", [os.fsencode(tmp_path / "videos")], settings).indexed == 1
    for number in range(9):
        (tmp_path / "videos" / f"b{number}.mp4").write_bytes(first.read_bytes())
    done: list[int] = []
    stop = Callbacks(progress=lambda progress: done.append(progress.done_files), stop=lambda: len(done) >= 2)
    report = ingest(tmp_path / "lib", [os.fsencode(tmp_path / "videos")], settings, stop)
    assert (report.interrupted, report.left, len(done)) == (True, 7, 2)

    def interrupted(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(RunInterrupted) as ended:
        ingest(tmp_path / "lib", [os.fsencode(tmp_path / "videos")], settings, Callbacks(progress=interrupted))
    assert (ended.value.report.interrupted, ended.value.report.left) == (True, 6)


def test_a_run_whose_time_ends_with_its_last_file_is_complete(tmp_path: Path, models_cache: Path) -> None:
    video = make_video(tmp_path / "a.mp4", shots=[Shot("red", 1)])
    done: list[int] = []
    clock = Clock(monotonic=lambda: 100.0 * len(done))
    settings = RunSettings(
        cache=models_cache, workers=1, asr=False, ocr=False, progressive=False, max_s=50, clock=clock
    )
    note = Callbacks(progress=lambda progress: done.append(progress.done_files))
    report = ingest(tmp_path / "lib", [os.fsencode(video)], settings, note)
    assert (report.indexed, report.left, report.out_of_time, report.interrupted) == (1, 0, False, False)


def test_ctrl_c_abandons_a_publication(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", shots=[Shot("red", 1)])
    settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
    entered: list[int] = []

    @contextmanager
    def interruptible() -> Any:
        entered.append(1)
        yield

    def interrupted(*_: object) -> None:
        assert entered
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "publish", interrupted)
        report = ingest(
            tmp_path / "lib", [os.fsencode(tmp_path / "a.mp4")], settings, Callbacks(interruptible=interruptible)
        )
    assert (report.indexed, report.interrupted) == (1, True)
    again = ingest(tmp_path / "lib", [os.fsencode(tmp_path / "a.mp4")], settings)
    assert (again.unchanged, again.interrupted) == (1, False)
    assert verify(Library.open(tmp_path / "lib")).notes == []


# --- Ctrl-C as a terminal sends it: to every process of the group ----------------------------------------------------


def running(pattern: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if pattern.encode() in line:
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("command", ["ingest", "upgrade"])
def test_ctrl_c_during_the_first_export(tmp_path: Path, models_cache: Path, command: str) -> None:
    make_video(tmp_path / "a.mp4", shots=[Shot("red", 1)])
    library = tmp_path / "lib"
    arguments: tuple[object, ...] = ("ingest", tmp_path / "a.mp4")
    if command == "upgrade":
        settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False)
        ingest(library, [os.fsencode(tmp_path / "a.mp4")], settings)
        arguments = ("upgrade", "--sampling", "1")
    cache = tmp_path / "cache"
    with start(cache, *arguments, "--library", library, group=True) as process:
        deadline_s = time.monotonic() + 120
        while not (children := running(str(cache))) or (process.pid in children[:1] and len(children) < 2):
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    lines = [*err.decode().splitlines(), *out.decode().splitlines()]
    assert process.returncode == 130
    assert lines[-1:] == ["interrupted; run the same command again to continue"], lines
    assert not any("memory" in line or "Traceback" in line for line in lines)
    assert running(str(cache)) == []
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_children_have_sessions_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a terminal sends goes to the parent, which ends them in order."""
    here = os.getsid(0)
    (tmp_path / "session.py").write_text("import os, sys; open(sys.argv[1], 'w').write(str(os.getsid(0)))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with exporting("session", [str(tmp_path / "told")], what="it"):
        pass
    assert int((tmp_path / "told").read_text()) != here
    assert int(hardware._ask("import os; print(os.getsid(0))", "it")) != here
