"""Previews make all files searchable first; full indexing replaces them and leaves no trace of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from equality import assert_equal_libraries
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline import prepare
from vfindex.indexer.runs.execute import RunSettings, is_progressive
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import estimate, reindex
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.runs.scheduler import Scheduler
from vfindex.indexer.scan.walk import discover
from vfindex.search.engine import SearchEngine
from vfindex.storage.db.sources import known_files
from vfindex.storage.db.units import preview_videos
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

Ingest = Callable[..., Report]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "red door.mp4", shots=[Shot("red", 8), Shot("green", 7)])
    make_video(folder / "blue hall.mp4", shots=[Shot("blue", 3), Shot("white", 3)])
    (folder / "blue hall.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nA xylophone.\n")
    return folder


@pytest.fixture
def run(tmp_path: Path, videos: Path, models_cache: Path) -> Ingest:
    """Return a function that ingests the folder progressively into `lib`."""

    def again(name: str = "lib", callbacks: Callbacks | None = None, progressive: bool = True) -> Report:
        settings = RunSettings(cache=models_cache, workers=1, asr=False, ocr=False, progressive=progressive)
        report = ingest(tmp_path / name, [os.fsencode(videos)], settings, callbacks)
        assert report.adds_up()
        return report

    return again


def sampled(folder: Path) -> dict[str, list[int]]:
    """Return title -> numbers of frames of its clips."""
    with Library.open(folder).snapshot() as snapshot:
        found = {}
        for video in snapshot.videos():
            vectors = snapshot.vectors([clip.id for clip in snapshot.clips_of(video.id)])
            found[video.title] = [len(each.frame_times_s) for each in vectors.values()]
    return found


def coarse(folder: Path) -> int:
    with Library.open(folder).snapshot() as snapshot:
        return len(preview_videos(snapshot))


def stopping_between(monkeypatch: pytest.MonkeyPatch) -> Callbacks:
    """Return callbacks that stop a run when its preview is done."""
    real, asked = Scheduler.work, []

    def work(self: Scheduler) -> None:
        real(self)
        asked.append(self.preview)

    monkeypatch.setattr(Scheduler, "work", work)
    return Callbacks(stop=lambda: bool(asked))


def test_an_interrupted_progressive_run_leaves_all_files_searchable(
    tmp_path: Path, videos: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    with monkeypatch.context() as patched:
        report = run(callbacks=stopping_between(patched))
    assert (report.interrupted, report.coarse, report.indexed, report.left) == (True, 2, 0, 0)
    assert coarse(library) == 2
    assert sampled(library) == {"red door": [1, 1], "blue hall": [1]}
    [said] = [hit for hit in SearchEngine.open(library).search("xylophone") if hit.words]
    assert (said.video, said.coarse) == (os.fsencode(videos / "blue hall.mp4"), True)
    assert verify(Library.open(library)).problems == []

    report = reindex(library, RunSettings(models_cache, workers=1))
    assert (report.indexed, report.coarse, report.adds_up()) == (2, 0, True)
    run("never coarse", progressive=False)
    assert_equal_libraries(library, tmp_path / "never coarse")
    assert coarse(library) == 0
    assert not any(hit.coarse for hit in SearchEngine.open(library).search("red"))
    assert verify(Library.open(library)).clean
    names = sorted(path.name for path in (library / "thumbs").rglob("*.webp"))
    with Library.open(library).snapshot() as snapshot:
        assert names == sorted(snapshot.thumbnails())
    assert run().unchanged == 2


def test_a_progressive_run_ends_with_full_indexing(tmp_path: Path, run: Ingest) -> None:
    seen: list[int] = []
    callbacks = Callbacks(progress=lambda _: seen.append(coarse(tmp_path / "lib")))
    report = run(callbacks=callbacks)
    assert (report.indexed, report.coarse, max(seen), coarse(tmp_path / "lib")) == (2, 0, 2, 0)


def test_an_interrupted_full_indexing_keeps_the_preview(
    tmp_path: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, real = tmp_path / "lib", Scheduler._indexed
    monkeypatch.setattr(prepare, "UNIT_S", 6.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 3.0)
    with monkeypatch.context() as patched:
        run(callbacks=stopping_between(patched))
    found = estimate(library, RunSettings(models_cache))
    assert (found.new, found.coarse, found.size_bytes > 0) == (0, 2, True)
    before = [(hit.video, hit.start_s, hit.score) for hit in SearchEngine.open(library).search("red")]
    done: list[int] = []

    def break_off(self: Scheduler, future: Future[Any]) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        real(self, future)

    with monkeypatch.context() as patched:
        patched.setattr(Scheduler, "_indexed", break_off)
        patched.setattr(Scheduler, "_finish", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert [(hit.video, hit.start_s, hit.score) for hit in SearchEngine.open(library).search("red")] == before
    assert (coarse(library), verify(Library.open(library)).problems) == (2, [])
    assert run().indexed == 2
    run("never coarse", progressive=False)
    assert_equal_libraries(library, tmp_path / "never coarse")
    with writing(library) as writer:
        writer.catalog.remove(os.fsencode(tmp_path / "videos"))
        assert known_files(writer.catalog) == {}


def test_a_file_that_fails_full_indexing_keeps_its_preview(
    tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        run(callbacks=stopping_between(patched))

    def read(_: Decoder, path: bytes, **__: object) -> None:
        raise VideoError(Problem(path, "decode", "unreadable", "the disk failed", "check it"))

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "read", read)
        assert len(run().failed) == 2
    assert (coarse(tmp_path / "lib"), run().unchanged) == (0, 2)
    assert len(SearchEngine.open(tmp_path / "lib").search("red")) == 2


def test_reindex_is_progressive_if_the_deadline_is_too_near(tmp_path: Path, run: Ingest, models_cache: Path) -> None:

    run(progressive=False)
    make_video(tmp_path / "videos" / "new.mp4", shots=[Shot("white", 2)])
    settings = RunSettings(models_cache)
    soon, late = (datetime.now(UTC) + timedelta(seconds=s) for s in (0, 1e6))
    with writing(tmp_path / "lib") as writer:
        listed = Run(writer, Options(Sampling(), asr=False), Callbacks())
        listed.sort(discover([os.fsencode(tmp_path / "videos")], sift=listed.changed))
        decided = [is_progressive(listed, replace(settings, end_at=end)) for end in (None, soon, late)]
        assert decided == [False, True, False]
        assert is_progressive(listed, replace(settings, progressive=True))
        assert not is_progressive(listed, replace(settings, end_at=soon, progressive=False))
