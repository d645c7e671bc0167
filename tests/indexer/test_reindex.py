"""All that was ever ingested, looked at again: roots, what is gone, what comes back; libraries made by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from library_maker import axis, clip, install, video

from vfindex.indexer.reindex import ReindexSettings, reindex
from vfindex.indexer.report import Report
from vfindex.storage.errors import LibraryError, LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.records import Location, UnitPlan, UnitResult
from vfindex.storage.roots import Root, remember, roots
from vfindex.storage.verify import verify
from vfindex.storage.writer import writing

HEAVY = {"av", "faiss", "onnxruntime", "PIL", "pocketsphinx", "ray", "rich", "tokenizers", "torch"}
Run = Callable[..., Report]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return a folder of ten files that are named like videos."""
    folder = tmp_path / "videos"
    for number in range(10):
        path = folder / str(number % 2) / f"v{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"video {number}")
    return folder


@pytest.fixture
def library(tmp_path: Path, videos: Path) -> Path:
    """Return a library that holds these videos, a clip each, as if they had been ingested."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for number, path in enumerate(sorted(videos.rglob("*.mp4"))):
            video_id = writer.catalog.begin_video(video(path.name), [UnitPlan(0)], recognised=True)
            [(unit_id, _)] = writer.catalog.pending_units(video_id)
            result = UnitResult((clip(visual=axis(number % 8)),), ())
            writer.commit_unit(video_id, path.name, unit_id, result)
            writer.catalog.finish_video(video_id, location(path), [])
        remember(writer.catalog, [Root(os.fsencode(videos))])
        writer.publish()
    return folder


def location(path: Path) -> Location:
    found = path.stat()
    return Location(os.fsencode(path), found.st_size, found.st_mtime_ns, found.st_ino)


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Run:
    """Return a function that reindexes the library; nothing may need a model."""

    def again(**settings: object) -> Report:
        report = reindex(library, ReindexSettings(tmp_path / "no cache", **settings))  # type: ignore[arg-type]
        assert report.adds_up()
        return report

    return again


def test_nothing_has_changed(run: Run) -> None:
    report = run()
    assert (report.found, report.unchanged, report.has_changed()) == (10, 10, False)


def test_each_root_keeps_its_own_globs(library: Path, videos: Path, run: Run) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(videos), ("1/",)), Root(os.fsencode(videos / "1" / "v3.mp4"))])
    assert run().unchanged == 6


def test_overlapping_roots_give_each_file_once(library: Path, videos: Path, run: Run) -> None:
    (videos / "1" / "song.mp3").touch()
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(videos / "1"), ("no such*",))])
    report = run()
    assert (report.unchanged, len(report.skipped)) == (10, 1)


def test_a_root_that_is_missing_is_left_alone(videos: Path, run: Run) -> None:
    videos.rename(videos.with_name("elsewhere"))
    report = run()
    assert [problem.code for problem in report.left_alone] == ["missing"]
    assert (report.found, report.vanished) == (0, 0)


def test_removing_a_folder_removes_its_root(library: Path, videos: Path, run: Run) -> None:
    with writing(library) as writer:
        writer.catalog.remove(os.fsencode(videos))
        assert roots(writer.catalog) == []
    with pytest.raises(LibraryError, match="vfindex ingest VIDEOS"):
        run()


def test_there_must_be_a_library(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound):
        reindex(tmp_path / "none", ReindexSettings(tmp_path))
    assert not (tmp_path / "none").exists()


def test_a_cut_index_is_built_again(library: Path, run: Run) -> None:
    [path] = (library / "index").iterdir()
    path.write_bytes(b"cut")
    run()
    assert verify(Library.open(library)).clean


def test_nothing_heavy_is_imported_when_nothing_has_changed(library: Path) -> None:
    code = "import atexit, sys; from vfindex.cli.app import main; atexit.register(lambda: print(*sys.modules)); main()"
    command = [sys.executable, "-P", "-c", code, "reindex", "--library", os.fspath(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 unchanged" in done.stdout
    assert not {name.split(".")[0] for name in done.stdout.split()} & HEAVY
