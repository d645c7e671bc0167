"""What people are shown and asked before a removal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from library_maker import place

from vfindex.cli import removal
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.library import Library
from vfindex.storage.maintenance.removal_preview import preview_missing, preview_path
from vfindex.storage.writer import writing


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the questions asked on a terminal, each of which is declined."""
    asked: list[str] = []

    def confirm(question: str, **_: Any) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr(removal, "_is_terminal", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


def videos(library: Path) -> int:
    with Library.open(library).snapshot() as snapshot:
        return len(snapshot.videos())


def mark_missing(library: Path, path: bytes) -> None:
    with writing(library) as writer:
        writer.catalog.mark_missing([path])


def test_a_dry_run_names_the_files_and_changes_nothing(run: Any, library: Path) -> None:
    ran = run("remove", "/videos", "--dry-run", "--library", library)
    assert (ran.code, ran.out) == (0, "/videos/a.mp4\n/videos/b.mp4\n")
    assert ran.err == "would remove 2 files, 2 videos from the library; nothing has changed\n"
    document = json.loads(run("remove", "/videos/a.mp4", "--dry-run", "--json", "--library", library).out)
    assert document == {
        "dry_run": True,
        "locations": 1,
        "videos": 1,
        "kept_missing": 0,
        "files": ["/videos/a.mp4"],
    }
    assert run("remove", "/other", "--dry-run", "--library", library).code == 1
    assert videos(library) == 2


def test_a_terminal_is_asked_and_may_decline(run: Any, library: Path, answers: list[str]) -> None:
    ran = run("remove", "/videos/a.mp4", "--library", library)
    assert (ran.code, ran.out, ran.err) == (1, "", "nothing has changed\n")
    assert answers == ["Remove 1 file, 1 video from the library? The files themselves are not touched."]
    assert videos(library) == 2
    assert run("remove", "/videos/a.mp4", "--yes", "--library", library).code == 0
    assert (len(answers), videos(library)) == (1, 1)


def test_a_purge_says_what_it_keeps_and_for_how_long(run: Any, library: Path, answers: list[str]) -> None:
    mark_missing(library, b"/videos/a.mp4")
    ran = run("purge", "--library", library)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "removed 0 files, 0 videos from the library",
        "1 missing file kept, missing for less than 30d; `vfindex purge --now` removes all",
    ]
    preview = run("purge", "--dry-run", "--library", library)
    assert (preview.code, preview.out) == (0, "")
    assert preview.err.splitlines()[1].startswith("1 missing file kept, missing for less than 30d")
    assert not answers
    assert run("purge", "--now", "--library", library).code == 1
    assert answers
    assert run("purge", "--now", "--dry-run", "--library", library).out == "/videos/a.mp4\n"
    assert videos(library) == 2


def test_a_copy_elsewhere_keeps_the_video(library: Path) -> None:
    with writing(library) as writer:
        found = writer.catalog.find("a")
        assert found
        writer.catalog.place(found[0], place("copy.mp4"))
    path, preview = preview_path(library, [b"/videos/a.mp4"])
    assert (path, preview.paths, preview.videos) == (b"/videos/a.mp4", (b"/videos/a.mp4",), 0)
    assert preview_path(library, [b"/elsewhere"])[0] is None


def test_only_what_is_missing_for_long_enough_is_due(library: Path) -> None:
    mark_missing(library, b"/videos/a.mp4")
    now = datetime.now(UTC)
    assert preview_missing(library, timedelta(days=30), now).kept_missing == 1
    assert preview_missing(library, None, now).paths == (b"/videos/a.mp4",)


def test_a_removal_is_reported_and_taken_back(run: Any, library: Path, tmp_path: Path) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(b"/videos")])
    report = tmp_path / "report.json"
    ran = run("remove", "/videos/a.mp4", "--library", library, "--report", report)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == "removed 1 file, 1 video from the library"
    assert ran.out.splitlines()[1].startswith("later runs skip it; to index it again:")
    told = json.loads(report.read_text())
    assert (told["vfindex"], told["left"], told["excluded"]) == ("remove", 0, True)
    assert "removed     /videos/a.mp4, and skipped" in run("status", "--library", library).out
    arguments = ("remove", "--forget-exclusion", "/videos/a.mp4", "--library", library)
    assert run(*arguments).out == "the next `vfindex reindex` indexes it again\n"
    again = run(*arguments)
    assert (again.code, again.err) == (
        1,
        "vfindex: /videos/a.mp4 was not removed earlier; `vfindex status` lists what was\n",
    )


@pytest.mark.parametrize("command", [("remove", "/videos/a.mp4"), ("purge", "--now")])
def test_a_report_replaces_no_other_file(run: Any, library: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    before = (library / "library.db").read_bytes()
    other = tmp_path / "notes.json"
    other.write_text("{}")
    (tmp_path / "link").symlink_to(library / "library.db")
    for file in (
        library / "library.db",
        library / "new.json",
        other,
        tmp_path / "link",
        tmp_path / "no" / "x",
        tmp_path,
    ):
        ran = run(*command, "--library", library, "--report", file)
        assert (ran.code, ran.out) == (2, ""), file
        assert "--report" in ran.err
    assert (library / "library.db").read_bytes() == before
    assert other.read_text() == "{}"
    for _ in range(2):
        assert run("purge", "--now", "--library", library, "--report", tmp_path / "r.json").code == 0
