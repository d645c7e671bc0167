"""Ingests of small files: which are found, indexed again, failed, kept."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from equality import assert_equal_libraries
from media import Shot, make_video, truncate

from vfindex.indexer.boundary import NO_RESOURCES
from vfindex.indexer.media import decoder
from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models import factory
from vfindex.indexer.models.presets import Choice
from vfindex.indexer.options import Sampling
from vfindex.indexer.pipeline import prepare
from vfindex.indexer.runs import scheduler
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks
from vfindex.search.engine import SearchEngine
from vfindex.storage.errors import Problem, UsageError, VideoError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

Ingest = Callable[..., Report]


@pytest.fixture
def run(tmp_path: Path, models_cache: Path) -> Ingest:
    """Return a function that ingests paths (the folder `videos` if none) into one library.

    One frame a second, without recognition: the models take most of the time, and files are what counts here.
    """

    def ingest_paths(*paths: Path | bytes, callbacks: Callbacks | None = None, **settings: object) -> Report:
        usual = RunSettings(cache=models_cache, sampling=Sampling("fps", 1), asr=False, ocr=False, workers=2)
        chosen = replace(usual, **settings)  # type: ignore[arg-type]
        targets = [os.fsencode(path) for path in paths or (tmp_path / "videos",)]
        report = ingest(tmp_path / "lib", targets, chosen, callbacks)
        assert report.adds_up()
        return report

    return ingest_paths


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return a folder of three videos, the first with subtitles."""
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "sunset beach.mp4", shots=[Shot("red", 3), Shot("blue", 3)])
    (folder / "sunset beach.srt").write_text("1\n00:00:03,500 --> 00:00:05,000\nThe xylophone plays.\n")
    make_video(folder / "v002.mp4", shots=[Shot("green", 2.5, to="yellow")])
    make_video(folder / "v003.mkv", shots=[Shot("white", 1)], tone_hz=440)
    return folder


def counts(report: Report) -> tuple[int, int, int, int, int, int]:
    lost = (len(report.partial), len(report.failed), len(report.skipped))
    return (report.indexed, report.unchanged, report.moved, *lost)


def first(folder: Path, question: str) -> str:
    hit = SearchEngine.open(folder).search(question)[0]
    return os.path.basename(os.fsdecode(hit.video or b""))


def paths_in(folder: Path) -> list[bytes]:
    with Library.open(folder).snapshot() as snapshot:
        return sorted(place.path for video in snapshot.videos() for place in video.locations)


def test_a_folder_becomes_a_library_that_answers(tmp_path: Path, videos: Path, run: Ingest) -> None:
    report = run()
    assert counts(report) == (3, 0, 0, 0, 0, 0)
    assert report.video_seconds == pytest.approx(9.5, abs=0.1)
    [said] = [hit for hit in SearchEngine.open(tmp_path / "lib").search("xylophone") if hit.words]
    assert os.path.basename(said.video or b"") == b"sunset beach.mp4"
    assert said.start_s <= 3.5 < said.end_s
    assert said.thumbnail is not None and said.thumbnail.read_bytes()[8:12] == b"WEBP"
    assert first(tmp_path / "lib", "sunset beach") == "sunset beach.mp4"
    result = verify(Library.open(tmp_path / "lib"))
    assert (result.problems, result.notes, result.videos) == ([], [], 3)


@pytest.mark.parametrize("name", ["", "v002.mp4"])
def test_no_library_is_made_among_the_videos(videos: Path, models_cache: Path, name: str) -> None:
    before = sorted(videos.rglob("*"))
    with pytest.raises(UsageError, match="would be made among the videos"):
        ingest(videos, [os.fsencode(videos / name)], RunSettings(cache=models_cache))
    assert sorted(videos.rglob("*")) == before


def test_what_a_run_leaves_is_collected(tmp_path: Path, run: Ingest) -> None:
    make_video(tmp_path / "videos.mp4", shots=[Shot("red", 1)])
    run(tmp_path / "videos.mp4")
    assert gc.get_freeze_count() == 0, "a process that follows folders would grow with each run"


def test_a_second_run_opens_no_video(videos: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    (videos / "broken.mp4").write_text("no video")
    assert counts(run()) == (3, 0, 0, 0, 1, 0)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    for module, name in ((scheduler, "fingerprint"), (factory, "open_encoders"), (Decoder, "probe")):
        monkeypatch.setattr(module, name, never)
    again = run()
    assert counts(again) == (0, 3, 0, 0, 1, 0)
    assert again.failed[0].code == "text"


def test_a_moved_file_is_not_decoded_and_takes_its_new_name(tmp_path: Path, videos: Path, run: Ingest) -> None:
    run()
    (videos / "sub").mkdir()
    (videos / "v002.mp4").rename(videos / "sub" / "zeppelin hangar.mp4")
    report = run()
    assert counts(report) == (0, 2, 1, 0, 0, 0)
    assert report.clips == 0
    hit = SearchEngine.open(tmp_path / "lib").search("zeppelin hangar")[0]
    assert (hit.video or b"").endswith(b"sub/zeppelin hangar.mp4")
    assert hit.modalities["text"] is not None
    assert verify(Library.open(tmp_path / "lib")).clean


def test_a_copy_is_a_second_location(tmp_path: Path, videos: Path, run: Ingest) -> None:
    shutil.copy(videos / "v003.mkv", videos / "a copy.mkv")
    assert counts(run()) == (3, 1, 0, 0, 0, 0)
    shutil.copy(videos / "v003.mkv", videos / "later copy.mkv")
    assert counts(run()) == (0, 5, 0, 0, 0, 0)
    assert len(paths_in(tmp_path / "lib")) == 5
    assert verify(Library.open(tmp_path / "lib")).videos == 3


def test_a_changed_file_is_indexed_again(tmp_path: Path, videos: Path, run: Ingest) -> None:
    run()
    (videos / "sunset beach.srt").unlink()
    make_video(videos / "sunset beach.mp4", shots=[Shot("grey", 4)])
    assert counts(run()) == (1, 2, 0, 0, 0, 0)
    assert not [hit for hit in SearchEngine.open(tmp_path / "lib").search("xylophone") if hit.words]
    assert verify(Library.open(tmp_path / "lib")).videos == 3
    thumbnails = list((tmp_path / "lib" / "thumbs").rglob("*.webp"))
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        assert sorted(path.name for path in thumbnails) == sorted(snapshot.thumbnails())


def test_a_touched_file_is_unchanged(videos: Path, run: Ingest) -> None:
    run()
    os.utime(videos / "v002.mp4", (1, 1))
    assert counts(run()) == (0, 3, 0, 0, 0, 0)


def test_broken_files_are_named_and_the_rest_goes_on(tmp_path: Path, videos: Path, run: Ingest) -> None:
    (videos / "empty.mp4").touch()
    (videos / "empty too.mp4").touch()
    (videos / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/x.ts\n")
    (videos / "song.mp3").write_bytes(b"ID3")
    report = run()
    assert counts(report) == (3, 0, 0, 0, 3, 1)
    assert {os.path.basename(p.path): p.code for p in report.failed} == {
        b"empty.mp4": "empty",
        b"empty too.mp4": "empty",
        b"list.mp4": "playlist",
    }
    assert all(p.reason and p.next and p.stage for p in report.failed + report.skipped)


def test_a_failed_file_is_tried_again_when_named_or_changed(videos: Path, run: Ingest) -> None:
    broken = videos / "broken.mp4"
    broken.write_text("no video")
    run()
    assert counts(run(broken)) == (0, 0, 0, 0, 1, 0)
    make_video(broken, shots=[Shot("blue", 1)])
    assert counts(run()) == (1, 3, 0, 0, 0, 0)


def test_a_cut_file_is_partial_and_searchable(tmp_path: Path, run: Ingest) -> None:
    (tmp_path / "videos").mkdir()
    whole = make_video(tmp_path / "whole.mkv", shots=[Shot("red", 6), Shot("blue", 6)])
    truncate(whole, tmp_path / "videos" / "cut.mkv", 0.6)
    report = run()
    assert counts(report) == (0, 0, 0, 1, 0, 0)
    assert len(SearchEngine.open(tmp_path / "lib").search("red")) == 1
    assert counts(run()) == (0, 1, 0, 0, 0, 0)


def test_a_file_that_kills_its_decoder_is_quarantined(
    videos: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Decoder.probe

    def probe(self: Decoder, path: bytes) -> object:
        if path.endswith(b"v002.mp4"):
            raise VideoError(Problem(path, "decode", "timeout", "the decoder hung", "convert it"), quarantine=True)
        return real(self, path)

    monkeypatch.setattr(Decoder, "probe", probe)
    assert counts(run()) == (2, 0, 0, 0, 1, 0)
    monkeypatch.undo()
    again = run()
    assert counts(again) == (0, 2, 0, 0, 1, 0), "not opened again by itself"
    assert again.failed[0].code == "timeout"
    assert counts(run(videos / "v002.mp4")) == (1, 0, 0, 0, 0, 0), "but when it is named"


def found(library: Path, question: str) -> list[bytes | None]:
    """Return the videos that a question finds, those folded into another's hit too."""
    hits = SearchEngine.open(library).search(question)
    return [video for hit in hits for video in (hit.video, *(place.video for place in hit.also))]


def test_file_names_are_kept_byte_for_byte(tmp_path: Path, run: Ingest) -> None:
    folder = os.fsencode(tmp_path / "videos")
    os.mkdir(folder)
    names = [b"-k 3.mp4", b"[bold]x[end] \x1b[31m.mp4", b"line\nbreak.mp4", b"not utf-8 \xff\xfe.mp4"]
    for number, name in enumerate(names):
        made = make_video(tmp_path / "made.mp4", shots=[Shot("red", 1 + number / 4)])
        os.rename(made, os.path.join(folder, name))
    assert counts(run()) == (4, 0, 0, 0, 0, 0)
    assert paths_in(tmp_path / "lib") == sorted(os.path.join(os.path.realpath(folder), name) for name in names)
    assert set(found(tmp_path / "lib", "red")) == set(paths_in(tmp_path / "lib"))


def test_a_run_that_is_stopped_is_continued(tmp_path: Path, videos: Path, run: Ingest) -> None:
    seen: list[int] = []
    first_run = run(
        callbacks=Callbacks(progress=lambda p: seen.append(p.done_files), stop=lambda: bool(seen)), workers=1
    )
    assert first_run.interrupted
    done = first_run.indexed
    assert 0 < done < 3
    assert len(SearchEngine.open(tmp_path / "lib").search("red")) == done
    assert counts(run()) == (3 - done, done, 0, 0, 0, 0)


def test_a_long_video_is_committed_unit_by_unit(tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "UNIT_S", 4.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 2.0)
    (tmp_path / "videos").mkdir()
    path = make_video(tmp_path / "videos" / "long.mp4", shots=[Shot("red", 5), Shot("blue", 4), Shot("green", 4)])
    real = scheduler.Scheduler._indexed
    broken: list[int] = []

    def fail_late(self: scheduler.Scheduler, future: object) -> None:
        if len(broken) == 2:
            raise KeyboardInterrupt
        broken.append(1)
        real(self, future)  # type: ignore[arg-type]

    monkeypatch.setattr(scheduler.Scheduler, "_indexed", fail_late)
    with pytest.raises(KeyboardInterrupt):
        run(workers=1)
    assert SearchEngine.open(tmp_path / "lib").search("red") == [], "half a video is never shown"
    monkeypatch.setattr(scheduler.Scheduler, "_indexed", real)
    report = run()
    assert counts(report) == (1, 0, 0, 0, 0, 0)
    assert report.video_seconds == pytest.approx(5.0, abs=0.1), "only the third unit, from 8 to 13 s, was left"
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        found = snapshot.video_at(os.fsencode(path))
        assert found is not None
        clips = snapshot.clips_of(found.id)
    assert clips[0].start_s == 0 and clips[-1].end_s == pytest.approx(13.0, abs=0.05)
    starts = [clip.start_s for clip in clips]
    assert {4.0, 8.0} <= set(starts), "a unit's edge is a clip's edge"
    assert [clip.end_s for clip in clips[:-1]] == starts[1:]


def test_the_library_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, videos: Path, models_cache: Path, run: Ingest
) -> None:
    run()
    settings = RunSettings(cache=models_cache, sampling=Sampling("fps", 1), asr=False, ocr=False, workers=4)
    ingest(tmp_path / "other", [os.fsencode(p) for p in sorted(videos.glob("*.m*"), reverse=True)], settings)
    assert_equal_libraries(tmp_path / "lib", tmp_path / "other")


def test_speech_is_recognised_when_switched_on_later(tmp_path: Path, videos: Path, run: Ingest) -> None:
    run()
    assert counts(run(asr=None)) == (0, 3, 0, 0, 0, 0), "as last time"
    assert counts(run(asr=True)) == (3, 0, 0, 0, 0, 0)
    assert counts(run(asr=None)) == (0, 3, 0, 0, 0, 0)


def test_a_library_keeps_its_setup(videos: Path, run: Ingest) -> None:
    run(sampling=None)
    with pytest.raises(UsageError, match="sampling auto"):
        run(sampling=Sampling.parse("2"))
    with pytest.raises(UsageError, match="no preset"):
        run(choice=Choice("gigantic"))
    assert counts(run(sampling=Sampling.parse("auto"), choice=Choice("lite"))) == (0, 3, 0, 0, 0, 0)


def test_a_damaged_index_is_rebuilt(tmp_path: Path, videos: Path, run: Ingest) -> None:
    run()
    [path] = (tmp_path / "lib" / "index").iterdir()
    path.write_bytes(bytes(100))
    run()
    assert verify(Library.open(tmp_path / "lib")).clean


def test_searches_during_an_ingest_neither_fail_nor_block(tmp_path: Path, videos: Path, run: Ingest) -> None:
    run()
    for number in range(4):
        make_video(videos / f"more {number}.mp4", shots=[Shot("blue", 2 + number)])
    thread = threading.Thread(target=run)
    thread.start()
    counted: list[int] = []
    while thread.is_alive() or not counted:
        counted.append(len(found(tmp_path / "lib", "blue")))
    thread.join()
    assert min(counted) >= 3
    assert len(found(tmp_path / "lib", "blue")) == 7


def test_nothing_to_do_is_not_an_error(tmp_path: Path, run: Ingest) -> None:
    (tmp_path / "videos").mkdir()
    assert run().found == 0


def test_files_that_the_machine_could_not_read_are_read_by_the_next_run(
    run: Ingest, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as full:
        full.setattr(decoder, "Child", start)
        report = run()
    assert counts(report) == (0, 0, 0, 0, 3, 0)
    assert {problem.code for problem in report.failed} == {"no_resources"}
    assert counts(run()) == (3, 0, 0, 0, 0, 0)


def test_a_unit_that_the_machine_could_not_read_leaves_its_video_to_the_next_run(
    run: Ingest, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Decoder, path: bytes, **_: object) -> None:
        raise VideoError(Problem(path, "decode", NO_RESOURCES, "no handles", "free some"))

    with monkeypatch.context() as full:
        full.setattr(Decoder, "read", read)
        assert counts(run()) == (0, 0, 0, 0, 3, 0)
    assert counts(run()) == (3, 0, 0, 0, 0, 0)
