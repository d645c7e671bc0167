"""Reindexing the roots of hand-written libraries: missing, moved, restored and excluded files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from library_maker import PICTURE, axis, clip, install, video

from vfindex.indexer.models import factory
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.runs.execute import Clock, RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import estimate, reindex
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.scan.walk import fingerprint
from vfindex.storage.db.runs import stored_runs
from vfindex.storage.db.sources import Root, forget_exclusions, known_files, remember, roots, stored_exclusions
from vfindex.storage.errors import LibraryError, LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.maintenance.removal import Forgotten, RemovalSettings, forget_path
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Location, UnitPlan, UnitResult
from vfindex.storage.writer import writing

HEAVY = {"av", "faiss", "onnxruntime", "PIL", "ray", "rich", "tokenizers", "torch"}
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
        writer.catalog.engine.raw_connection().cursor().execute("PRAGMA synchronous=OFF")  # no power cut is tried here
        for number, path in enumerate(sorted(videos.rglob("*.mp4"))):
            content = fingerprint(os.fsencode(path))
            video_id = writer.catalog.begin_video(video(content), [UnitPlan(0)], recognised=True)
            [(unit_id, _)] = writer.catalog.pending_units(video_id)
            result = UnitResult((replace(clip(visual=axis(number % 8)), thumbnail=PICTURE),), ())
            writer.commit_unit(video_id, content, unit_id, result)
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
        report = reindex(library, RunSettings(tmp_path / "no cache", **settings))  # type: ignore[arg-type]
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
        remember(writer.catalog, [Root(os.fsencode(videos / name), (f"no {name}*",)) for name in ("1", "1/v3.mp4")])
    report = run()
    assert (report.unchanged, len(report.skipped)) == (10, 1)


def searchable(library: Path) -> int:
    with Library.open(library).snapshot() as snapshot:
        return len(snapshot.clip_ids())


def test_a_missing_file_leaves_search_until_it_returns(library: Path, videos: Path, run: Run) -> None:
    away = videos.with_name("away.mp4")
    (videos / "0" / "v4.mp4").rename(away)
    assert (run().vanished, searchable(library)) == (1, 9)
    assert verify(Library.open(library)).clean
    assert (run().vanished, run().unchanged) == (0, 9)
    away.rename(videos / "0" / "v4.mp4")
    report = run()
    assert (report.unchanged, searchable(library)) == (10, 10)


def test_a_file_that_returns_elsewhere_is_not_decoded(
    library: Path, videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = videos.with_name("away.mp4")
    (videos / "0" / "v4.mp4").rename(away)
    run()
    (videos / "new").mkdir()
    away.rename(videos / "new" / "harbour.mp4")
    without_models(monkeypatch)
    report = run()
    assert (report.unchanged, report.moved, report.indexed, searchable(library)) == (9, 1, 0, 10)
    with writing(library) as writer:
        assert writer.catalog.missing_files() == {}


def test_a_renamed_folder_is_not_missing(
    library: Path, videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (videos / "0").rename(videos / "other name")
    without_models(monkeypatch)
    report = run()
    assert (report.unchanged, report.moved, report.vanished, report.left_alone) == (5, 5, 0, [])


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Text:
        def encode_passages(self, texts: list[str]) -> object:
            return np.stack([axis(0)] * len(texts))

    monkeypatch.setattr(factory, "open_encoders", lambda *_, **__: Encoders(Text(), modalities=()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("lost", "vanished"), [(2, 2), (3, 0)])
def test_a_loss_of_more_than_a_fifth_is_not_believed(
    library: Path, videos: Path, run: Run, lost: int, vanished: int
) -> None:
    for path in sorted(videos.rglob("*.mp4"))[:lost]:
        path.unlink()
    report = run()
    assert report.vanished == vanished
    assert [(p.code, p.path) for p in report.left_alone] == [("lost_too_much", os.fsencode(videos))] * (vanished == 0)
    assert searchable(library) == 10 - vanished
    assert (run(allow_missing=True).vanished, searchable(library)) == (lost - vanished, 10 - lost)


def test_a_root_that_is_missing_is_left_alone(library: Path, videos: Path, run: Run) -> None:
    videos.rename(videos.with_name("elsewhere"))
    report = run()
    assert [problem.code for problem in report.left_alone] == ["missing"]
    assert (report.found, report.vanished) == (0, 0)
    assert (run(allow_missing=True).vanished, searchable(library)) == (10, 0)
    videos.with_name("elsewhere").rename(videos)
    assert (run().unchanged, searchable(library)) == (10, 10)


def test_an_unmounted_nested_root_is_left_alone(library: Path, videos: Path, run: Run) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(videos / "1" / "v1.mp4")), Root(os.fsencode(videos / "0"))])
    for path in (videos / "1" / "v1.mp4", videos / "1" / "v3.mp4"):
        path.unlink()
    report = run()
    assert [problem.path for problem in report.left_alone] == [os.fsencode(videos / "1")]
    assert report.vanished == 1, "v3 was not named by itself"


def test_an_unreadable_path_is_not_missing(
    library: Path, videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = os.fsencode(videos / "0" / "v4.mp4")
    os.unlink(gone)
    real = os.lstat

    def lstat(path: bytes) -> os.stat_result:
        if path == gone:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert (run().vanished, searchable(library)) == (0, 10)


def test_a_copy_keeps_its_video_in_search(library: Path, videos: Path, run: Run) -> None:
    original, copy = videos / "0" / "v0.mp4", videos / "0" / "copy.mp4"
    copy.write_bytes(original.read_bytes())
    with writing(library) as writer:
        writer.catalog.place(known_files(writer.catalog)[os.fsencode(original)].video_id, location(copy))
    original.unlink()
    assert (run().vanished, searchable(library)) == (1, 10)


def test_purge_deletes_permanently(library: Path, videos: Path, run: Run) -> None:
    (videos / "0" / "v4.mp4").unlink()
    run()
    with writing(library) as writer:
        assert writer.catalog.purge("2001-01-01T00:00:00+00:00") == (0, 0, [])
        files, count, thumbnails = writer.catalog.purge(None)
        assert (files, count, len(thumbnails)) == (1, 1, 1)
        writer.discard_thumbnails(thumbnails)
        writer.publish()
    with Library.open(library).snapshot() as snapshot:
        assert len(snapshot.videos()) == 9
    assert len(list((library / "thumbs").rglob("*.webp"))) == 9
    assert verify(Library.open(library)).notes == []


def test_a_path_that_gets_other_content_takes_its_tombstone(library: Path, videos: Path, run: Run) -> None:
    path = videos / "0" / "v4.mp4"
    path.unlink()
    run()
    with writing(library) as writer:
        video_id = writer.catalog.begin_video(video("other"), [UnitPlan(0)], recognised=True)
        writer.catalog.finish_video(video_id, Location(os.fsencode(path), 1, 1, 1), [])
        assert writer.catalog.missing_files() == {}
        assert writer.catalog.find(fingerprint(os.fsencode(videos / "0" / "v0.mp4")))
    with Library.open(library).snapshot() as snapshot:
        assert snapshot.counts() == {"indexed": 10, "clip": 9, "segment": 0, "location": 10}


def test_nothing_begins_after_the_deadline(videos: Path, run: Run) -> None:
    (videos / "0" / "new.mp4").write_text("new")
    report = run(end_at=datetime.now(UTC) - timedelta(hours=1))
    assert (report.out_of_time, report.interrupted, report.left, report.failed) == (True, False, None, [])
    assert not run(end_at=datetime.now(UTC) - timedelta(hours=1), allow_missing=True).indexed


@dataclass
class Leaping:
    """A clock that shows `times`, one after the other, while `passed_s` seconds pass in truth at each look."""

    times: list[datetime]
    passed_s: float = 0.0
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]

    def monotonic(self) -> float:
        self.elapsed_s += self.passed_s
        return self.elapsed_s


@pytest.mark.parametrize(("passed_s", "out_of_time"), [(1.0, False), (3600.0, True)])
def test_max_hours_ignores_changes_of_the_clock(
    videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch, passed_s: float, out_of_time: bool
) -> None:
    without_models(monkeypatch)
    (videos / "0" / "v0.mp4").rename(videos / "0" / "new.mp4")
    noon = datetime(2026, 3, 8, 12, tzinfo=UTC)
    clock = Leaping([noon, noon.replace(year=2099)], passed_s)
    report = run(max_s=3 * 3600.0, clock=Clock(clock.now, clock.monotonic))
    assert (report.out_of_time, report.moved) == (out_of_time, 0 if out_of_time else 1)


def test_an_estimate_changes_nothing(library: Path, videos: Path, run: Run, tmp_path: Path) -> None:
    (videos / "0" / "new.mp4").write_bytes(bytes(200))
    (videos / "0" / "v0.mp4").write_bytes(bytes(100))
    (videos / "0" / "v2.mp4").unlink()
    (videos / "0" / "v4.mp4").rename(videos / "1" / "renamed.mp4")
    with writing(library) as writer:
        for speed in (2.0, 4.0):
            report = Report(video_seconds=60 * speed, wall_s=60)
            writer.catalog.end_run(writer.catalog.begin_run("ingest"), report.to_dict(os.fsdecode))
    found = estimate(library, RunSettings(tmp_path))
    assert (found.new, found.changed, found.moved, found.vanished, found.size_bytes) == (1, 1, 1, 1, 300)
    assert found.video_s == 30.0, "the library's videos have 100 bytes and 10 s each"
    assert found.wall_s == 10.0, "at 3 times real time"
    with Library.open(library).snapshot() as snapshot:
        assert len(stored_runs(snapshot)) == 2
        assert snapshot.counts()["location"] == 10


def test_removing_a_folder_removes_its_root(library: Path, videos: Path, run: Run) -> None:
    with writing(library) as writer:
        writer.catalog.remove(os.fsencode(videos))
        assert roots(writer.catalog) == []
    with pytest.raises(LibraryError, match="vfindex ingest VIDEOS"):
        run()


def test_there_must_be_a_library(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound):
        reindex(tmp_path / "none", RunSettings(tmp_path))
    assert not (tmp_path / "none").exists()


def test_a_cut_index_is_rebuilt(library: Path, run: Run) -> None:
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


# --- what a user has removed or excluded -----------------------------------------------------------------------------


def remove(library: Path, path: Path, *, cache: Path | None = None) -> Forgotten:
    settings = RemovalSettings(lambda paths, *_: (os.fsdecode(paths[0]), []), cache)
    return forget_path(library, [os.fsencode(path)], settings)[1]


def exclude(library: Path, folder: Path, *globs: str) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(folder), globs)])


@pytest.mark.parametrize("part", ["0/v0.mp4", "0"])
def test_a_removed_file_stays_excluded(library: Path, videos: Path, run: Run, part: str) -> None:
    removed = remove(library, videos / part)
    assert removed.excluded
    left = 10 - removed.locations
    assert (run().unchanged, run().found, searchable(library)) == (left, left, left)
    with Library.open(library).snapshot() as snapshot:
        assert stored_exclusions(snapshot) == (os.fsencode(videos / part),)
    with writing(library) as writer:
        assert forget_exclusions(writer.catalog, [os.fsencode(videos / part)]) == [os.fsencode(videos / part)]
    assert estimate(library, RunSettings(library)).new == removed.locations


def test_a_removed_name_matches_in_every_unicode_form(library: Path, videos: Path, run: Run) -> None:
    composed, decomposed = (unicodedata.normalize(form, "été.mp4") for form in ("NFC", "NFD"))
    (videos / "0" / "v0.mp4").rename(videos / "0" / decomposed)
    with writing(library) as writer:
        known = known_files(writer.catalog)[os.fsencode(videos / "0" / "v0.mp4")]
        place = location(videos / "0" / decomposed)
        writer.catalog.place(known.video_id, place, moved_from=os.fsencode(videos / "0" / "v0.mp4"))
    remove(library, videos / "0" / decomposed)
    (videos / "0" / decomposed).rename(videos / "0" / composed)
    assert run().found == 9


def test_a_removed_root_is_not_an_exclusion(library: Path, videos: Path) -> None:
    removed = remove(library, videos)
    assert (removed.roots, removed.locations, removed.excluded) == (1, 10, False)


def test_an_excluded_file_leaves_search_until_its_glob_is_dropped(library: Path, videos: Path, run: Run) -> None:
    exclude(library, videos, "v4.*", "1/")
    report = run()
    assert (report.vanished, report.left_alone, searchable(library)) == (6, [], 4)
    assert run().vanished == 0
    exclude(library, videos)
    assert (run().unchanged, searchable(library)) == (10, 10)


def test_a_file_that_another_root_includes_is_not_excluded(library: Path, videos: Path, run: Run) -> None:
    exclude(library, videos, "1/")
    exclude(library, videos / "1")
    assert (run().vanished, searchable(library)) == (0, 10)


def test_ingest_excludes_indexed_files_and_restores_named_ones(
    library: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(library, videos / "0" / "v0.mp4")
    without_models(monkeypatch)
    said: list[str] = []
    callbacks = Callbacks(say=said.append, stop=lambda: bool(said))
    settings = RunSettings(library, exclude=("v2.*",))
    ingest(library, [os.fsencode(videos)], settings, Callbacks(say=said.append))
    assert said == ["1 file of the library excluded now, and no longer searched"]
    assert searchable(library) == 8
    said.clear()
    path = videos / "0" / "v0.mp4"
    ingest(library, [os.fsencode(path)], RunSettings(library), callbacks)
    assert said == [f"{path} had been removed and is indexed again, as it is named"]


# --- folders that have another name now ------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["", "0"])
def test_a_renamed_folder_is_named_and_ends_the_complaint(
    library: Path, videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(videos / root))])
    new = videos.with_name("films of 2020")
    videos.rename(new)
    report = run()
    steps = {problem.path: problem.next for problem in report.left_alone}
    place = os.fspath(new / root)
    assert steps[os.fsencode(videos / root)] == f"it seems to be {place} now; run: vfindex ingest '{place}'"
    assert (report.vanished, searchable(library)) == (0, 10)
    without_models(monkeypatch)
    settings = RunSettings(library)
    assert ingest(library, [os.fsencode(new)], settings).moved == 10
    again = run()
    assert (again.unchanged, again.left_alone, again.vanished) == (10, [], 0)
    assert remove(library, videos / root).roots == 1


def test_a_renamed_folder_below_another_root_is_recognised(
    library: Path, videos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(library) as writer:
        remember(writer.catalog, [Root(os.fsencode(videos / "0"))])
    (videos / "0").rename(videos / "other name")
    without_models(monkeypatch)
    report = run()
    assert (report.moved, report.left_alone, run().left_alone) == (5, [], [])


def test_a_believed_loss_is_reported_once(library: Path, videos: Path, run: Run) -> None:
    videos.rename(videos.with_name("elsewhere"))
    run(allow_missing=True)
    assert run().left_alone == []
    removed = remove(library, videos)
    assert (removed.roots, removed.locations) == (1, 10)


def test_a_copy_on_another_disk_is_not_a_renamed_folder(library: Path, videos: Path, run: Run) -> None:
    copy = videos.with_name("backup")
    shutil.copytree(videos, copy)
    shutil.rmtree(videos)
    report = run()
    assert (report.moved, report.found, searchable(library)) == (0, 0, 10)
    [problem] = report.left_alone
    assert problem.next.endswith(f"run: vfindex reindex --allow-missing, or vfindex remove {videos}")
    assert remove(library, videos).locations == 10
