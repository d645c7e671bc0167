"""An error over one file fails that file and not the run; a bug is reported with its traceback, exit code 70."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import vfindex
from media import Shot, make_video

from vfindex.indexer import boundary
from vfindex.indexer.boundary import one_file
from vfindex.indexer.pipeline import prepare, stages
from vfindex.indexer.pipeline.ytdlp import read_info
from vfindex.indexer.runs import refresh_text, scheduler
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.retry import retry
from vfindex.indexer.scan.walk import fingerprint
from vfindex.indexer.speech.subtitles import sidecar_transcript
from vfindex.storage.db import runs
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.errors import ClusterError, DimensionError, LibraryError, ModelError, Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import Writer

BAD = b"bad.mp4"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(("a.mp4", "bad.mp4", "c.mp4")):
        make_video(tmp_path / "videos" / name, shots=[Shot("red", 1 + number)])
    return tmp_path / "videos"


def run(videos: Path, cache: Path) -> Report:
    settings = RunSettings(cache=cache, workers=1, asr=False)
    return ingest(videos.parent / "lib", [os.fsencode(videos)], settings)


def paths(problems: list[Problem]) -> list[tuple[bytes, str]]:
    return [(os.path.basename(problem.path), problem.code) for problem in problems]


def over_bad(real: Callable[..., Any], error: Callable[[], Exception]) -> Callable[..., Any]:
    """Return a function that does what it did, and raises where an argument is about bad.mp4."""

    def called(*args: Any, **options: Any) -> Any:
        if any("bad.mp4" in repr(arg) for arg in (*args, *options.values())):
            raise error()
        return real(*args, **options)

    return called


def test_a_bug_over_one_file_ends_that_file(
    tmp_path: Path, videos: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(stages, "assemble", over_bad(stages.assemble, lambda: ValueError("of no use")))
        report = run(videos, models_cache)
        assert (report.indexed, paths(report.failed)) == (2, [(BAD, "bug")])
        [problem] = report.bugs()
        assert problem.reason == "vfindex failed on it (ValueError: of no use)"
        assert problem.trace.rstrip().endswith("ValueError: of no use") and "index_unit" in problem.trace
        with Library.open(tmp_path / "lib").snapshot() as snapshot:
            [video] = [video for video in snapshot.videos() if video.state == "failed"]
            attempts = [(t.unit, t.care, t.code) for t in runs.attempts_of(snapshot, video.id)]
        assert attempts == [(0, "usual", "bug")]
    again = run(videos, models_cache)
    assert (again.unchanged, paths(again.failed), again.bugs()) == (2, [(BAD, "bug")], []), "not tried every night"
    monkeypatch.setattr(runs, "version", lambda _: "9.9")
    newer = run(videos, models_cache)
    assert (newer.unchanged, newer.indexed, newer.failed) == (2, 1, []), "another vfindex tries it again"
    assert verify(Library.open(tmp_path / "lib")).clean


def test_a_bug_over_one_unit_leaves_the_others(
    tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "UNIT_S", 4.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 2.0)
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "bad.mp4", shots=[Shot("red", 5), Shot("blue", 4), Shot("green", 3)])
    real = stages.assemble

    def assemble(prepared: Any, plan: Any, *rest: Any) -> Any:
        if plan.number == 1:
            raise RuntimeError("not this one")
        return real(prepared, plan, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(stages, "assemble", assemble)
        report = run(tmp_path / "videos", models_cache)
    assert (paths(report.partial), len(report.bugs())) == ([(BAD, "bug")], 1)
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        assert [clip.start_s for clip in snapshot.clips_of(1)] == [0.0, 8.0]
    assert run(tmp_path / "videos", models_cache).unchanged == 1
    with monkeypatch.context() as newer:
        newer.setattr(runs, "version", lambda _: "9.9")
        newer.setattr(stages, "assemble", assemble)
        assert len(run(tmp_path / "videos", models_cache).bugs()) == 1
    assert retry(tmp_path / "lib", [], RunSettings(models_cache, workers=1)).indexed == 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (prepare, "plan_units"),  # prepare
        (scheduler, "fingerprint"),
        (Catalog, "resumable"),
        (Catalog, "begin_video"),
        (Writer, "commit_unit"),
        (Catalog, "finish_video"),
        (scheduler, "partial_problem"),
    ],
)
def test_a_bug_of_the_scheduler_ends_that_file_alone(
    videos: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    real = getattr(owner, name)
    calls = 0

    def second(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyError(name)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, second)
    report = run(videos, models_cache)
    assert (report.indexed, paths(report.failed), report.adds_up()) == (2, [(BAD, "bug")], True)
    assert verify(Library.open(videos.parent / "lib")).clean


def test_a_copy_that_cannot_be_stored_does_not_end_the_run(
    videos: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    monkeypatch.setattr(scheduler, "retitle", over_bad(scheduler.retitle, RuntimeError))
    monkeypatch.setattr(refresh_text, "describe", lambda *_: 1 / 0)
    report = run(videos, models_cache)
    assert (report.indexed, paths(report.failed)) == (3, [(b"copy.mp4", "bug")])


def test_an_invalid_record_fails_its_file_alone(
    videos: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip twice: SQLite refuses the second, and nothing of the unit stays."""
    real = stages.assemble

    def doubled(prepared: Any, *rest: Any) -> Any:
        from dataclasses import replace

        indexed = real(prepared, *rest)
        if not prepared.found.location.path.endswith(BAD):
            return indexed
        return replace(indexed, result=replace(indexed.result, clips=indexed.result.clips * 2))

    monkeypatch.setattr(stages, "assemble", doubled)
    report = run(videos, models_cache)
    assert (report.indexed, paths(report.failed)) == (2, [(BAD, "bug")])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("the model did not fit"), "model"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "no_resources"),
        (OSError(errno.ENOSPC, "full"), "no_resources"),
        (OSError(errno.EMFILE, "too many open files"), "no_resources"),
        (DimensionError("7 numbers, not 512"), "bug"),
        (OSError(errno.EIO, "input/output error"), "bug"),
        (UnicodeError("\udcff"), "bug"),
    ],
)
def test_errors_of_one_file(error: Exception, code: str) -> None:
    with pytest.raises(VideoError) as caught, one_file(b"/v.mp4", "decode"):
        raise error
    problem = caught.value.problem
    assert (problem.path, problem.stage, problem.code) == (b"/v.mp4", "decode", code)
    assert bool(problem.trace) == (code == "bug")
    problem.trace.encode(), problem.reason.encode()


@pytest.mark.parametrize("error", [LibraryError("full"), ClusterError("gone"), KeyboardInterrupt()])
def test_errors_of_the_run(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, one_file(b"/v.mp4", "decode"):
        raise error
    assert caught.value is error


BROKEN = """
import sys
from vfindex.indexer.pipeline import prepare
real = prepare.describe
def describe(path, *rest):
    if path.endswith(b"bad.mp4"):
        raise ValueError("a bug")
    return real(path, *rest)
prepare.describe = describe
from vfindex.cli.app import main
main()
"""


def test_a_bug_exits_with_70_after_the_run(tmp_path: Path, videos: Path, models_cache: Path) -> None:
    library = ("--library", str(tmp_path / "lib"))
    command = [sys.executable, "-P", "-c", BROKEN, "ingest", str(videos), *library, "--no-asr"]
    environment = os.environ | {"VFINDEX_CACHE": str(models_cache)}
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, timeout=230)
    report = json.loads(done.stdout)
    assert (done.returncode, report["indexed"]) == (70, 2), done.stderr.decode()
    [failed] = report["failed"]
    assert failed["path"].endswith("bad.mp4") and failed["code"] == "bug"
    assert failed["traceback"].rstrip().endswith("ValueError: a bug")
    err = done.stderr.decode()
    assert "bad.mp4: vfindex failed on it (ValueError: a bug)" in err and "describe" in err
    assert err.endswith("this is a bug of vfindex: please report it with the lines above\n")
    shown = vfindex(models_cache, "runs", "show", "1", *library)
    assert shown.code == 0 and "  ValueError: a bug\n" in shown.out
    again = vfindex(models_cache, "ingest", videos, *library, "--no-asr", "--json")
    assert (again.code, again.document()["failed"][0]["code"]) == (1, "bug")
    assert vfindex(models_cache, "retry", *library, "--json").document()["indexed"] == 1


def test_one_bug_in_every_file_does_not_flood_the_report(
    videos: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfindex.indexer.runs import run as run_module

    monkeypatch.setattr(run_module, "MAX_TRACES", 1)
    monkeypatch.setattr(prepare, "describe", lambda *_: 1 / 0)
    report = run(videos, models_cache)
    assert (len(report.failed), len(report.bugs())) == (3, 1)
    assert len(report.bugs()[0].trace) <= boundary.MAX_TRACE_CHARS


@pytest.mark.parametrize("suffix", [".mp4", ".en.srt", ".info.json"])
def test_a_lack_of_file_handles_is_not_stored_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = make_video(tmp_path / "a.mp4", shots=[Shot("red", 1.0)])
    (tmp_path / "a.en.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello there\n")
    (tmp_path / "a.info.json").write_text("{}")
    real = os.open

    def without(name: bytes | str, *rest: int, **more: int) -> int:
        if os.fsdecode(name).endswith(suffix):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "open", without)
    raw = os.fsencode(path)
    with pytest.raises(VideoError) as raised, one_file(raw, "probe"):
        fingerprint(raw)
        sidecar_transcript(raw, None, 1.0)
        read_info(raw)
    assert raised.value.problem.code == "no_resources"
    assert "ulimit -n" in raised.value.problem.next
