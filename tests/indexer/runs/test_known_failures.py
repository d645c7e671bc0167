"""What later runs say about a file that failed in an earlier one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from library_maker import install

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.errors import Problem
from vfindex.storage.writer import writing


def failed_library(folder: Path, file: Path, code: str, root: Path) -> tuple[Path, Problem]:
    """Return a library with a failed file, and why it failed."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"a shopping list")
    path = os.fsencode(file)
    [found] = [each for each in discover([path]) if isinstance(each, Found)]
    problem = Problem(path, "open", code, f"its own reason ({code})", "its own advice")
    with writing(folder) as writer:
        install(writer)
        writer.catalog.fail_video(fingerprint(path), found.location, problem)
        remember(writer.catalog, [Root(os.fsencode(root))])
    return folder, problem


@pytest.mark.parametrize(
    ("name", "code", "skipped"),
    [
        ("list.txt", "text", True),
        ("picture.png", "picture", True),
        ("list.mp4", "text", False),  # a walk of its folder would report it, too
        ("recording.raw", "timeout", False),
    ],
)
def test_a_named_file_that_never_was_a_video_does_not_fail_later_runs(
    tmp_path: Path, name: str, code: str, skipped: bool
) -> None:
    file = tmp_path / "files" / name
    library, problem = failed_library(tmp_path / "library", file, code, file)
    report = reindex(library, RunSettings(library))
    assert (report.skipped, report.failed) == (([problem], []) if skipped else ([], [problem]))


def test_an_excluded_file_returns_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "videos" / "empty.mp4"
    library, problem = failed_library(tmp_path / "library", file, "empty", file.parent)
    excluded = ingest(library, [os.fsencode(file.parent)], RunSettings(library, exclude=("*.mp4",)))
    assert (excluded.vanished, excluded.failed) == (1, [])
    for _ in range(2):
        assert ingest(library, [os.fsencode(file.parent)], RunSettings(library)).failed == [problem]
