"""`vfindex reindex`, `purge` and `runs`: output and exit codes."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from library_maker import axis, clip, install, video

from vfindex.cli.commands.reindex import next_time
from vfindex.indexer.runners.base import RunnerChoice
from vfindex.indexer.runs import execute
from vfindex.indexer.runs.report import Report
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import Problem, UsageError
from vfindex.storage.records import Location, UnitPlan, UnitResult
from vfindex.storage.writer import writing

NOON = datetime(2026, 3, 1, 12, 0)


@pytest.fixture
def nightly(tmp_path: Path) -> Path:
    """Return a library of five files below `videos`, which is its root."""
    folder = tmp_path / "videos"
    folder.mkdir()
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number in range(5):
            path = folder / f"{number}.mp4"
            path.write_text("x")
            found = path.stat()
            video_id = writer.catalog.begin_video(video(str(number)), [UnitPlan(0)], recognised=True)
            [(unit_id, _)] = writer.catalog.pending_units(video_id)
            writer.commit_unit(video_id, str(number), unit_id, UnitResult((clip(visual=axis(number)),), ()))
            place = Location(os.fsencode(path), found.st_size, found.st_mtime_ns, found.st_ino)
            writer.catalog.finish_video(video_id, place, [])
        remember(writer.catalog, [Root(os.fsencode(folder))])
        writer.publish()
    return tmp_path / "library"


def test_a_night_in_which_nothing_has_changed(run: Any, nightly: Path) -> None:
    ran = run("reindex", "--until", "06:00", "--max-hours", "5", "--library", nightly)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "5 found: 0 indexed, 5 unchanged, 0 moved, 0 partial, 0 failed, 0 skipped\n"


def test_a_library_all_of_which_is_excluded(run: Any, nightly: Path) -> None:
    with writing(nightly) as writer:
        remember(writer.catalog, [Root(os.fsencode(nightly.parent / "videos"), ("*.mp4",))])
    ran = run("reindex", "--library", nightly)
    assert (ran.code, ran.out.split(" indexed")[0]) == (0, "0 found: 0")
    again = f"`vfindex ingest --library {nightly} FOLDER` without it takes them again"
    assert f"--exclude leaves them all out; {again}" in ran.err


def test_a_disk_that_is_not_mounted_is_a_sentence_and_1(run: Any, nightly: Path) -> None:
    (nightly.parent / "videos").rename(nightly.parent / "elsewhere")
    ran = run("reindex", "--library", nightly)
    assert ran.code == 1
    assert ran.err.startswith(f"left alone: {nightly.parent / 'videos'}: [discover] the folder is missing")
    assert ran.err.count("\n") == 1
    assert run("reindex", "--library", nightly, "--allow-missing").code == 0
    shown = run("runs", "show", "2", "--library", nightly)
    assert (shown.code, "missing or excluded 5\n" in shown.out) == (0, True)
    purge = f"`vfindex purge --library {nightly}` deletes what has been missing for 30 days"
    assert f"missing     5 videos, or excluded; {purge}\n" in run("status", "--library", nightly).out
    kept = run("purge", "--library", nightly).out
    assert kept.startswith("removed 0 files, 0 videos from the library\n5 missing files kept, ")
    assert run("purge", "--now", "--library", nightly).out == "removed 5 files, 5 videos from the library\n"


def test_a_run_out_of_time_is_not_a_failure(run: Any, nightly: Path) -> None:
    (nightly.parent / "videos" / "new.mp4").write_text("new")
    ran = run("reindex", "--max-hours", "0", "--library", nightly)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("out of time before all files were found; the next run continues\n")
    listed = run("runs", "list", "--library", nightly).out
    assert "5 found: 0 indexed, 0 failed, out of time" in listed


def test_a_dry_run_prints_an_estimate(run: Any, nightly: Path) -> None:
    (nightly.parent / "videos" / "new.mp4").write_bytes(bytes(1000))
    document = json.loads(run("reindex", "--dry-run", "--json", "--library", nightly).out)
    assert (document["new"], document["video_seconds"], document["wall_s"]) == (1, 100.0, None)
    printed = run("reindex", "--dry-run", "--library", nightly).out
    assert printed.splitlines()[0] == "1 new file, 0 changed, 0 moved, 0 missing or excluded"
    assert printed.splitlines()[1].startswith("0.0 MB to read, ")
    assert json.loads(run("runs", "list", "--json", "--library", nightly).out) == {"runs": []}


def test_a_run_is_written_as_a_page(run: Any, nightly: Path, tmp_path: Path) -> None:
    hostile = Problem(b"/videos/<script>\x1b\xff.mp4", "decode", "crashed", "it & its decoder crashed", "convert it")
    with writing(nightly) as writer:
        report = Report(found=1, failed=[hostile], video_seconds=60, wall_s=30, out_of_time=True)
        writer.catalog.end_run(writer.catalog.begin_run("reindex"), report.to_dict(os.fsdecode))
    page = tmp_path / "run.html"
    ran = run("runs", "show", "1", "--page", page, "--library", nightly)
    assert (ran.code, ran.out, ran.err) == (0, "", f"written: {page}\n")
    html = page.read_text()
    assert "&lt;script&gt;\\x1b\\xff.mp4" in html and "it &amp; its decoder crashed" in html
    assert "<script" not in html and "1:00, 2.0 times real time" in html and "out of time" in html
    assert run("runs", "show", "1", "--page", tmp_path, "--library", nightly).code == 2


def test_runs_without_a_word_are_listed(run: Any, nightly: Path) -> None:
    run("reindex", "--library", nightly)
    assert run("runs", "--library", nightly).out == run("runs", "list", "--library", nightly).out != ""
    assert len(json.loads(run("runs", "--json", "--library", nightly).out)["runs"]) == 1
    assert run("runs", "--json", "list").err == "vfindex: --json goes behind the command: vfindex runs list --json\n"


def test_an_unknown_run_is_a_sentence(run: Any, nightly: Path) -> None:
    ran = run("runs", "show", "7", "--library", nightly)
    assert (ran.code, ran.out) == (1, "")
    shown = f"`vfindex runs list --library {nightly}` shows which there are"
    assert ran.err == f"vfindex: there is no run 7 in this library; {shown}\n"


def test_the_next_time_of_the_day() -> None:
    assert next_time("13:30", NOON) == datetime(2026, 3, 1, 13, 30).astimezone()
    assert next_time("12:00", NOON) == datetime(2026, 3, 2, 12, 0).astimezone()
    for wrong in ("6", "24:00", "06:60", "six"):
        with pytest.raises(UsageError, match="06:00"):
            next_time(wrong, NOON)


@pytest.mark.parametrize(
    ("zone", "now", "until", "hours"),
    [
        ("America/New_York", "2026-03-08 00:30", "06:00", 4.5),  # 02:00 becomes 03:00
        ("America/New_York", "2026-03-08 00:30", "02:30", 2.0),  # is not shown: as the old clock counts
        ("America/New_York", "2026-11-01 00:30", "06:00", 6.5),  # 02:00 becomes 01:00
        ("America/New_York", "2026-11-01 00:30", "01:30", 1.0),  # is shown twice: the first
        ("America/New_York", "2026-11-01 01:45", "01:30", 0.75),  # and after that the second
        ("America/New_York", "2026-03-07 23:00", "22:00", 22.0),
        ("Pacific/Apia", "2011-12-29 23:00", "06:00", 7.0),  # the 30th did not exist
        ("Pacific/Apia", "2026-03-08 23:00", "06:00", 7.0),
        ("UTC", "2026-03-08 00:30", "00:30", 24.0),
    ],
)
@pytest.mark.parametrize("is_naive", [False, True])
def test_the_next_time_of_the_day_where_clocks_change(
    monkeypatch: pytest.MonkeyPatch, zone: str, now: str, until: str, hours: float, is_naive: bool
) -> None:
    try:
        here = datetime.fromisoformat(now).replace(tzinfo=ZoneInfo(zone))
    except ZoneInfoNotFoundError:
        pytest.skip("this system has no data of time zones")
    expected = here.astimezone(UTC) + timedelta(hours=hours)
    if not is_naive:
        assert next_time(until, here) == expected
        return
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert next_time(until, here.replace(tzinfo=None)) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("command", ["retry", "repair"])
def test_retry_and_repair_take_the_options_of_a_runner(
    run: Any, nightly: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with writing(nightly) as writer, writer.catalog.transaction() as connection:
        if command == "retry":
            connection.exec_driver_sql("UPDATE video SET state = 'failed' WHERE id = 1")
        else:
            connection.exec_driver_sql("UPDATE embedding SET crc32 = crc32 + 1 WHERE clip_id = 1")
    asked: list[RunnerChoice] = []
    monkeypatch.setattr(execute, "index_files", lambda run, setup, settings: asked.append(settings.runner))
    run(command, "--library", nightly, "--ray-address", "head:6379", "--path-map", "/a=/b", "--gpu-share", "0.25")
    assert [(each.name, each.address, each.gpu_share) for each in asked] == [("auto", "head:6379", 0.25)]
    assert asked[0].path_map.there(b"/a/1.mp4") == b"/b/1.mp4"
    ran = run(command, "--library", nightly, "--runner", "sideways")
    assert (ran.code, ran.err) == (2, "vfindex: --runner takes auto, local, ray, not 'sideways'\n")
