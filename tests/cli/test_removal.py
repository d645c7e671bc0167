"""The preview and the question before a removal."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from library_maker import place

from vfindex.cli import removal
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.library import Library
from vfindex.storage.maintenance.removal_preview import preview_missing, preview_path
from vfindex.storage.settings_backup import read_backup
from vfindex.storage.writer import writing


class Terminal(io.BytesIO):
    """A terminal on which `answer` is typed; None: Ctrl-C."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__(answer or b"")
        self.interrupted = answer is None

    @property
    def buffer(self) -> Terminal:
        return self

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.interrupted:
            raise KeyboardInterrupt
        return super().readline(size)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that says what the user types on a terminal."""

    def type_in(answer: bytes | None) -> None:
        monkeypatch.setattr(removal, "_is_terminal", lambda: True)
        monkeypatch.setattr(sys, "stdin", Terminal(answer))

    return type_in


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


QUESTION = "Remove 1 file, 1 video from the library? The files themselves are not touched. [y/N] "


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"", b"perhaps\n", b"\xff\n"])
def test_a_terminal_is_asked_and_may_decline(run: Any, library: Path, typed: Any, answer: bytes) -> None:
    typed(answer)
    ran = run("remove", "/videos/a.mp4", "--library", library)
    end_of_line = "" if answer else "\n"
    assert (ran.code, ran.out, ran.err) == (1, "", f"{QUESTION}{end_of_line}vfindex: nothing has changed\n")
    assert videos(library) == 2


def test_a_removal_that_is_declined_answers_programs_too(run: Any, library: Path, typed: Any) -> None:
    typed(b"n\n")
    document = json.loads(run("remove", "/videos/a.mp4", "--json", "--library", library).out)
    assert document == {"error": {"kind": "VfindexError", "message": "nothing has changed"}}


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n", b" y"])
def test_a_confirmed_removal_prints_its_result_alone(run: Any, library: Path, typed: Any, answer: bytes) -> None:
    typed(answer)
    ran = run("remove", "/videos/a.mp4", "--json", "--library", library)
    assert (ran.code, ran.out[:1], ran.err.strip()) == (0, "{", QUESTION.strip())
    assert videos(library) == 1


def test_an_interruption_at_the_question_ends_the_command_as_everywhere(run: Any, library: Path, typed: Any) -> None:
    typed(None)
    ran = run("remove", "/videos/a.mp4", "--library", library)
    assert (ran.code, ran.out, ran.err) == (130, "", f"{QUESTION}\nnothing has changed\n")
    assert videos(library) == 2


def test_yes_skips_the_question(run: Any, library: Path, typed: Any) -> None:
    typed(b"")
    assert run("remove", "/videos/a.mp4", "--yes", "--library", library).err == ""
    assert videos(library) == 1


def test_a_purge_prints_what_it_keeps_and_for_how_long(run: Any, library: Path, typed: Any) -> None:
    mark_missing(library, b"/videos/a.mp4")
    typed(b"n\n")
    ran = run("purge", "--library", library)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "removed 0 files, 0 videos from the library",
        f"1 missing file kept, missing for less than 30d; `vfindex purge --library {library} --now` removes all",
    ]
    preview = run("purge", "--dry-run", "--library", library)
    assert (preview.code, preview.out) == (0, "")
    assert preview.err.splitlines()[1].startswith("1 missing file kept, missing for less than 30d")
    assert ran.err == ""
    assert run("purge", "--now", "--library", library).code == 1
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


def test_only_files_missing_for_long_enough_are_due(library: Path) -> None:
    mark_missing(library, b"/videos/a.mp4")
    now = datetime.now(UTC)
    assert preview_missing(library, timedelta(days=30), now).kept_missing == 1
    assert preview_missing(library, None, now).paths == (b"/videos/a.mp4",)


def backed_up(library: Path) -> tuple[str, ...]:
    """Return the removed paths that a repair could restore, in hex."""
    backup = read_backup(library)
    assert backup is not None
    return backup.exclusions


def test_a_removal_is_reported_and_taken_back(run: Any, library: Path, tmp_path: Path) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(b"/videos")])
    report = tmp_path / "report.json"
    ran = run("remove", "/videos/a.mp4", "--library", library, "--report", report)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == "removed 1 file, 1 video from the library"
    assert ran.out.splitlines()[1].startswith("later runs skip it; to index it again:")
    document = json.loads(report.read_text())
    assert (document["vfindex"], document["left"], document["excluded"]) == ("remove", 0, True)
    assert "removed     /videos/a.mp4, and skipped" in run("status", "--library", library).out
    assert backed_up(library) == (b"/videos/a.mp4".hex(),)
    arguments = ("remove", "--forget-exclusion", "/videos/a.mp4", "--library", library)
    assert run(*arguments).out == f"the next `vfindex reindex --library {library}` indexes it again\n"
    assert backed_up(library) == ()
    again = run(*arguments)
    listed = f"`vfindex status --library {library}` lists what was"
    assert (again.code, again.err) == (1, f"vfindex: /videos/a.mp4 was not removed earlier; {listed}\n")


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
