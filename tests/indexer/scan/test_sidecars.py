"""New, changed and deleted sidecars of an unchanged video update its text, without decoding a frame."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from equality import assert_equal_libraries
from library_maker import axis
from media import Shot, make_video

from vfindex.indexer.extractors import speech as speech_extractor
from vfindex.indexer.media.decoder import AudioBlock, Decoder
from vfindex.indexer.media.protocol import AudioTap
from vfindex.indexer.models import factory
from vfindex.indexer.models.base import Texts
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.refresh_text import refresh
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.retry import retry
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.sidecars import signature
from vfindex.indexer.scan.walk import discover
from vfindex.indexer.speech.transcribe import COVERED_SHARE, Transcript, covered_spans, overlap_s
from vfindex.search.engine import SearchEngine
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Segment
from vfindex.storage.writer import writing

Ingest = Callable[..., Report]
SAID = ("alpha one", "bravo two", "charlie three")


class EverySecondSecond:
    """A speech model that hears a sentence from 1 s to 2 s, from 3 s to 4 s and from 5 s to 6 s of any sound."""

    is_intact = True

    def __init__(self) -> None:
        self.heard = 0

    def transcriber(self, covered: Sequence[tuple[float, float]]) -> _Ear:
        self.heard += 1
        return _Ear(covered_spans(covered))

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Ear:
    def __init__(self, covered: Sequence[tuple[float, float]]) -> None:
        self._covered = covered

    def feed(self, block: AudioBlock) -> None:
        pass

    def finish(self) -> Transcript:
        said = [Segment(2.0 * n + 1, 2.0 * n + 2, text, "asr", "en", 0.9) for n, text in enumerate(SAID)]
        heard = [s for s in said if overlap_s(self._covered, s.start_s, s.end_s) < COVERED_SHARE]
        return Transcript(heard, float(len(heard)), float(len(heard)), 0.0, [])


@pytest.fixture
def speech(monkeypatch: pytest.MonkeyPatch) -> EverySecondSecond:
    model, real = EverySecondSecond(), factory.open_encoders
    monkeypatch.setattr(
        factory,
        "open_encoders",
        lambda *a, **k: replace(found := real(*a, **k), models={**found.models, "speech": model}),
    )
    return model


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "red door.mp4", shots=[Shot("red", 4), Shot("green", 4)], tone_hz=440)
    return folder


@pytest.fixture
def run(tmp_path: Path, videos: Path, models_cache: Path) -> Ingest:
    """Return a function that ingests the folder into `lib`, or into another library."""

    def again(name: str = "lib") -> Report:
        report = ingest(tmp_path / name, [os.fsencode(videos)], RunSettings(cache=models_cache, ocr=False, workers=1))
        assert report.adds_up()
        return report

    return again


@pytest.fixture
def no_frames(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function from which on no frame may be decoded."""
    real = Decoder.read

    def read(self: Decoder, path: bytes, **order: Any) -> Iterator[Any]:
        assert order["taps"] == (AudioTap(),), "a frame was asked for"
        return real(self, path, **order)

    return lambda: monkeypatch.setattr(Decoder, "read", read)


def subtitle(video: Path, *lines: tuple[float, float, str]) -> None:
    text = "".join(
        f"{n}\n00:00:0{a:.0f},000 --> 00:00:0{b:.0f},000\n{said}\n\n" for n, (a, b, said) in enumerate(lines)
    )
    video.with_suffix(".srt").write_text(text)


def transcript(folder: Path) -> list[tuple[str, str]]:
    with Library.open(folder).snapshot() as snapshot:
        return [(segment.source, segment.text) for segment in snapshot.segments(snapshot.videos()[0].id)]


def heard(*numbers: int) -> list[tuple[str, str]]:
    return [("asr", SAID[number]) for number in numbers]


def test_subtitles_that_come_change_and_go(
    tmp_path: Path, videos: Path, run: Ingest, speech: EverySecondSecond, no_frames: Callable[[], None]
) -> None:
    video = videos / "red door.mp4"
    assert (run().indexed, transcript(tmp_path / "lib"), speech.heard) == (1, heard(0, 1, 2), 1)
    no_frames()

    subtitle(video, (3.0, 4.0, "the xylophone"))
    report = run()
    assert (report.reworded, report.indexed, report.unchanged) == (1, 0, 0)
    assert transcript(tmp_path / "lib") == [*heard(0), ("sidecar", "the xylophone"), *heard(2)]
    assert speech.heard == 1, "what was recognised is kept where nothing covers it"
    [hit] = [hit for hit in SearchEngine.open(tmp_path / "lib").search("xylophone") if hit.words]
    assert hit.video == os.fsencode(video)
    assert (run().unchanged, speech.heard) == (1, 1)

    subtitle(video, (3.0, 4.0, "the zeppelin"))
    assert (run().reworded, transcript(tmp_path / "lib")[1], speech.heard) == (1, ("sidecar", "the zeppelin"), 1)

    video.with_suffix(".srt").unlink()
    assert (run().reworded, transcript(tmp_path / "lib"), speech.heard) == (1, heard(0, 1, 2), 2)
    assert verify(Library.open(tmp_path / "lib")).clean


def test_a_sidecar_that_becomes_unreadable_is_in_the_report(
    videos: Path, run: Ingest, no_frames: Callable[[], None]
) -> None:
    video = videos / "red door.mp4"
    subtitle(video, (3.0, 4.0, "the xylophone"))
    info = videos / "red door.info.json"
    info.write_text(json.dumps({"title": "A harbour"}))
    assert run().indexed == 1
    no_frames()
    for broken, name in ((info, "red door.info.json"), (video.with_suffix(".srt"), "red door.srt")):
        whole = broken.read_text()
        broken.write_text("{")
        report = run()
        assert (report.reworded, [problem.reason.startswith(name) for problem in report.partial]) == (0, [True])
        assert run().unchanged == 1
        broken.write_text(whole)
        assert run().reworded == 1


def test_a_video_that_moves_is_counted_as_moved_also_where_its_sidecars_change_their_names(
    videos: Path, run: Ingest
) -> None:
    subtitle(videos / "red door.mp4", (3.0, 4.0, "the xylophone"))
    assert run().indexed == 1
    (videos / "old").mkdir()
    (videos / "red door.mp4").rename(videos / "old/red door.mp4")
    (videos / "red door.srt").rename(videos / "old/RED DOOR.SRT")
    report = run()
    assert (report.moved, report.reworded, report.unchanged) == (1, 0, 0)


def test_words_that_a_bug_does_not_let_be_redone_cost_one_file(
    tmp_path: Path, videos: Path, run: Ingest, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(videos / "green.mp4", shots=[Shot("green", 2)])
    assert run().indexed == 2
    for name in ("red door.mp4", "green.mp4"):
        subtitle(videos / name, (0.0, 1.0, "the xylophone"))
    real = speech_extractor.speech_coverage
    calls: list[int] = []

    def broken(*args: Any) -> str:
        calls.append(1)
        return real(*args) if len(calls) > 1 else [][0]

    with monkeypatch.context() as patched:
        patched.setattr(speech_extractor, "speech_coverage", broken)
        report = run()
    assert (report.reworded, len(report.failed), len(report.bugs())) == (1, 1, 1)
    assert run().unchanged == 2, "it is not tried at every run"
    assert retry(tmp_path / "lib", [], RunSettings(models_cache, workers=1)).indexed == 1


def test_the_library_equals_one_that_never_knew_otherwise(
    tmp_path: Path, videos: Path, run: Ingest, speech: EverySecondSecond
) -> None:
    run()
    subtitle(videos / "red door.mp4", (3.0, 4.0, "the xylophone"))
    (videos / "red door.info.json").write_text(json.dumps({"title": "A harbour at night", "tags": ["fishing boats"]}))
    assert run().reworded == 1
    run("other")
    assert_equal_libraries(tmp_path / "lib", tmp_path / "other")
    assert SearchEngine.open(tmp_path / "lib").search("harbour")[0].words
    (videos / "red door.info.json").unlink()
    assert run().reworded == 1
    assert not [hit for hit in SearchEngine.open(tmp_path / "lib").search("harbour") if hit.words]


def test_the_night_notices(
    tmp_path: Path, videos: Path, run: Ingest, models_cache: Path, no_frames: Callable[[], None]
) -> None:
    run()
    no_frames()
    subtitle(videos / "red door.mp4", (3.0, 4.0, "the xylophone"))
    settings = RunSettings(models_cache)
    assert [reindex(tmp_path / "lib", settings).reworded for _ in range(2)] == [1, 0]
    # Touched, or renamed together, nothing is said otherwise.
    os.utime(videos / "red door.srt", (1, 1))
    report = reindex(tmp_path / "lib", settings)
    assert (report.reworded, report.unchanged) == (0, 1)
    for suffix in (".mp4", ".srt"):
        (videos / f"red door{suffix}").rename(videos / f"blue hall{suffix}")
    report = reindex(tmp_path / "lib", settings)
    assert (report.reworded, report.moved, transcript(tmp_path / "lib")[-1]) == (0, 1, ("sidecar", "the xylophone"))


def test_audio_for_another_recogniser_is_read_fully(
    tmp_path: Path, videos: Path, run: Ingest, speech: EverySecondSecond
) -> None:
    class Text:
        def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
            return np.stack([axis(0, 384)] * len(texts))

    subtitle(videos / "red door.mp4", (3.0, 4.0, "the xylophone"))
    run()
    (videos / "red door.srt").unlink()
    with writing(tmp_path / "lib") as writer:
        listed = Run(writer, Options(Sampling(), asr=True), Callbacks())
        listed.sort(discover([os.fsencode(videos)], sift=listed.changed))
        assert (len(listed.new_text), len(listed.previewed)) == (1, 0)
        refresh(listed, Texts(Text()))
        assert (len(listed.new_text), len(listed.previewed)) == (0, 1)
    assert transcript(tmp_path / "lib")[1] == ("sidecar", "the xylophone"), "until then"
    assert (run().indexed, transcript(tmp_path / "lib")) == (1, heard(0, 1, 2))


def test_a_signature_is_of_names_sizes_and_times(tmp_path: Path) -> None:
    video, subtitles = os.fsencode(tmp_path / "a.mp4"), tmp_path / "a.en.srt"
    assert signature(video, ()) == signature(video, (b"a.gone.srt",)) == ""
    subtitles.write_text("x")
    before = signature(video, (b"a.en.srt",))
    subtitles.rename(tmp_path / "b.en.srt")
    assert signature(os.fsencode(tmp_path / "b.mp4"), (b"b.en.srt",)) == before
    (tmp_path / "b.en.srt").write_text("xy")
    assert signature(os.fsencode(tmp_path / "b.mp4"), (b"b.en.srt",)) != before != ""
