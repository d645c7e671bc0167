"""What `vfindex status` says of the paths that a library indexes, and of its last run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library_maker import install

from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import Problem
from vfindex.storage.records import Location
from vfindex.storage.writer import writing


def test_ingested_paths_are_listed_up_to_ten(run: Any, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        remember(writer.catalog, [Root(b"/videos/a\x1b[31m.mp4"), Root(b"/archive")])
    shown = run("status", "--library", library).out.splitlines()
    assert shown[1] == "ingested    /archive"
    assert shown[2].startswith("ingested    /videos/a") and "\x1b" not in shown[2]
    with writing(library) as writer:
        remember(writer.catalog, [Root(b"/films/%02d" % number) for number in range(10)])
    shown = [line for line in run("status", "--library", library).out.splitlines() if line.startswith("ingested")]
    assert shown[1] == "ingested    /films/00" and len(shown) == 11
    assert shown[-1] == f"ingested    2 more: vfindex status --library {library} --json"


def test_the_last_run_is_shown_while_it_works_and_afterwards(run: Any, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        assert "last run" not in run("status", "--library", library).out
        number = writer.catalog.begin_run("reindex")
        writer.catalog.note_progress(number, {"done_files": 3, "total_files": 8, "done_s": 30.0, "total_s": 80.0})
        [line] = [each for each in run("status", "--library", library).out.splitlines() if each.startswith("last run")]
        assert line.startswith("last run    1, reindex, 20") and ": not finished: in progress, or killed" in line
        assert " after 3 of 8 files, at " in line
        report = {"found": 8, "indexed": 7, "failed": [{"path": "/a"}], "wall_s": 65.0}
        writer.catalog.end_run(number, report)
    assert ": 8 found: 7 indexed, 1 failed, 1:05\n" in run("status", "--library", library).out


def test_files_that_could_not_be_opened_are_listed(run: Any, tmp_path: Path) -> None:
    """They have no fingerprint, so the report of the run alone knows them."""
    library = tmp_path / "library"
    words = {"stage": "discover", "code": "unreadable", "reason": "you may not read it", "next": "change its mode"}
    with writing(library) as writer:
        install(writer)
        stored = Problem(b"/v/empty.mp4", "probe", "empty", "it is empty", "copy it again")
        writer.catalog.fail_video("empty", Location(stored.path, 0, 1, 1), stored)
        failed = [{"path": path, **words} for path in ("/v/\x1b.mp4", "/v/empty.mp4")]
        report = {"found": 2, "indexed": 0, "failed": failed, "wall_s": 1.0}
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), report)
    shown = run("status", "--library", library).out.splitlines()
    assert [line for line in shown if line.startswith("failed")] == [
        "failed      /v/empty.mp4: it is empty; copy it again",
        "failed      /v/\\x1b.mp4: you may not read it; change its mode",
    ]


def test_a_report_of_another_version_is_shown_as_far_as_it_goes(run: Any, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), {"found": 3})
        assert ": 3 found: 0 indexed, 0 failed, 0:00\n" in run("status", "--library", library).out
        writer.catalog.end_run(writer.catalog.begin_run("upgrade"), {"videos": 2, "interrupted": True})
        assert ": 2 videos, interrupted, 0:00\n" in run("status", "--library", library).out
