"""Long videos are cut at keyframes, deterministically; an interrupted video continues with its cuts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from library_maker import axis, clip
from media import Shot, make_video

from vfindex.indexer.extractors.base import Track
from vfindex.indexer.extractors.frame_record import FrameRecord
from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap, Limits, ReadEnd
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline import prepare, stages
from vfindex.indexer.pipeline.prepare import Prepared, plan_units
from vfindex.indexer.pipeline.stages import NOTHING_READ, Read, ReusableUnit, assemble, stored_track, time_share
from vfindex.indexer.runs import scheduler
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import Report
from vfindex.storage.library import Library
from vfindex.storage.records import FloatArray, Segment, UnitPlan, UnitResult, Video

Run = Callable[[], Report]
LINE = "we grow tomatoes in the garden"
OPTIONS = Options(Sampling("keyframes"), asr=True)


def cuts(start_s: float, end_s: float, keyframes: dict[float, float]) -> list[float | None]:
    units = plan_units(start_s, end_s, lambda times: [keyframes.get(time_s, time_s) for time_s in times])
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [unit.start_s for unit in units[1:]] == [unit.end_s for unit in units[:-1]]
    return [unit.end_s for unit in units[:-1]]


def test_cuts_are_moved_to_keyframes() -> None:
    assert plan_units(0, 899, list) == (UnitPlan(0),)
    assert cuts(0, 900, {}) == [600]
    assert cuts(0, 2000, {600: 597.5, 1200: 890.0}) == [597.5, 1200], "a keyframe too far away is none"
    assert cuts(500, 1500, {600: 480.0, 1200: 1199.0}) == [600, 1199.0], "nor is one before the video begins"
    assert cuts(600, 1499, {}) == []
    assert len(cuts(0, 1e12, {})) == prepare.MAX_CUTS


@pytest.mark.parametrize(
    ("name", "keyframe_s", "found"),
    [
        ("indexed.mp4", 1.6, [3.2, 8.0]),
        ("indexed.mkv", 1.6, [3.2, 8.0]),
        ("no index.ts", 1.6, None),
        ("one keyframe.mp4", 100.0, [0.0, 0.0]),
    ],
)
def test_keyframes_are_found_by_jumping(
    tmp_path: Path, decoder: Decoder, name: str, keyframe_s: float, found: list[float] | None
) -> None:
    path = os.fsencode(make_video(tmp_path / name, shots=[Shot("red", 9)], keyframe_s=keyframe_s))
    keyframes_s = decoder.keyframes_before(path, [4.0, 8.0])
    assert keyframes_s == decoder.keyframes_before(path, [4.0, 8.0])
    if found is None:
        assert all(0 <= key_s <= time_s for key_s, time_s in zip(keyframes_s, [4.0, 8.0], strict=True))
    else:
        assert keyframes_s == pytest.approx(found, abs=0.05)


@pytest.fixture
def run(tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that ingests a video of 13 s, keyframes every 1.6 s and units of about 4 s."""
    monkeypatch.setattr(prepare, "UNIT_S", 4.0)
    monkeypatch.setattr(prepare, "MIN_LAST_UNIT_S", 2.0)
    shots = [Shot("red", 5), Shot("blue", 4), Shot("green", 4)]
    path = make_video(tmp_path / "long.mp4", shots=shots, keyframe_s=1.6)
    settings = RunSettings(cache=models_cache, workers=1, asr=False)
    return lambda: ingest(tmp_path / "lib", [os.fsencode(path)], settings)


def starts(folder: Path) -> set[float]:
    with Library.open(folder).snapshot() as snapshot:
        clips = snapshot.clips_of(1)
    assert [clip.end_s for clip in clips[:-1]] == [clip.start_s for clip in clips[1:]]
    return {round(clip.start_s, 2) for clip in clips}


def test_a_unit_s_edge_is_a_keyframe_and_a_clip_s_edge(tmp_path: Path, run: Run) -> None:
    assert run().indexed == 1
    assert {3.2, 6.6} <= starts(tmp_path / "lib"), "the encoder makes one of the cut at 5 s, and counts from there"


def test_a_video_begun_with_other_cuts_goes_on_with_them(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scheduler.Scheduler._finish

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr(Decoder, "keyframes_before", lambda _, __, times: list(times))
        before.setattr(scheduler.Scheduler, "_finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert scheduler.Scheduler._finish is real
    assert (run().indexed, {4.0, 8.0} <= starts(tmp_path / "lib")) == (1, True)


def test_the_memory_of_a_unit_does_not_grow_with_its_frames(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scheduler.Scheduler._finish
    kept: list[object] = []

    def finish(self: scheduler.Scheduler, active: Any) -> None:
        kept.extend(active.ends)
        real(self, active)

    monkeypatch.setattr(scheduler.Scheduler, "_finish", finish)
    assert run().indexed == 1
    assert [type(item) for item in kept] == [ReadEnd] * 3, "neither vectors nor thumbnails"


def prepared(size_bytes: int, end_s: float) -> Prepared:
    video = Video("f", size_bytes, "mov", "h264", 640, 360, 0, 0.0, end_s, end_s, None, has_audio=False)
    found: Any = None
    return Prepared(found, video, (), (), (), None, ())


def test_a_unit_has_its_share_of_the_time() -> None:
    gib = 1 << 30
    film = prepared(4 * gib, 7200.0)
    share = time_share(film, UnitPlan(1, 600.0, 1200.0))
    assert share == pytest.approx(2 / 12)
    assert Limits().cpu_s(4 * gib * share) < 2 * 3600 < Limits().cpu_s(4 * gib) / 5
    assert time_share(film, UnitPlan(0, None, 600.0)) == time_share(film, UnitPlan(11, 6600.0, None)) == share
    assert time_share(film, UnitPlan(0)) == 1.0
    assert time_share(prepared(10_000_000, 7200.0), UnitPlan(0, None, 600.0)) == 1.0, "small files have all of it"
    lies = prepared(4 * gib, 1e9)
    assert Limits().cpu_s(4 * gib * time_share(lies, UnitPlan(0, None, 600.0))) > 2000


def test_a_unit_is_decoded_within_its_share(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    real = Decoder.read

    def read(self: Decoder, path: bytes, **order: Any) -> Any:
        asked.append(order["share"])
        return real(self, path, **order)

    monkeypatch.setattr(Decoder, "read", read)
    monkeypatch.setattr(stages, "RATE_BYTES_S", 0)
    assert run().indexed == 1
    assert len([share for share in asked if share < 1]) == 3, "three units"


class Sentences:
    """A text model: a text lies along the axis of its length."""

    dim = 4

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([axis(len(text) % 4) for text in texts])


@pytest.mark.parametrize(
    ("said_now", "modalities"), [(LINE, {"visual", "speech"}), ("go", {"visual", "speech", "screen"})]
)
def test_kept_text_on_the_picture_is_embedded_again_if_a_new_transcript_repeats_other_lines(
    said_now: str, modalities: set[str]
) -> None:
    shown = Segment(0.0, 1.0, LINE, "frames", track="screen", box=(0.1, 0.8, 0.9, 0.9))
    for said_before in (LINE, "stop"):
        screen = {} if said_before == LINE else {"screen": axis(1)}
        one = clip(0, 1, visual=axis(0), speech=axis(2))
        one = replace(one, embeddings={**one.embeddings, **screen})
        stored = UnitResult((one,), (heard(said_before), shown))
        kept = ReusableUnit(stored, frozenset({"visual", "screen"}), frozenset({"visual", "screen"}))
        now = UnitResult(stored.clips, (heard(said_now), shown))
        read = Read(NOTHING_READ, False, {m: stored_track(now, m) for m in ("visual", "speech", "screen")})
        result = assemble(cast(Prepared, None), UnitPlan(0), OPTIONS, read, kept, Sentences()).result
        assert result.clips[0].embeddings.keys() == modalities
        assert result.segments == (heard(said_now), shown)


def heard(text: str) -> Segment:
    return Segment(0.0, 1.0, text, "asr")


@pytest.mark.parametrize(("source", "end_s"), [("asr", 9.5), ("sidecar", 3.0)])
def test_the_last_clip_has_what_is_heard_after_the_picture(source: str, end_s: float) -> None:
    """Subtitles after the picture are of a longer cut; what is heard there is of this video."""
    record = FrameRecord()
    for time_s in (0.0, 1.0, 2.0):
        record.add(Frame(time_s, np.zeros((32, 32, 3), np.uint8), FrameTap(32)))
    late = Segment(6.0, 9.5, LINE, source)
    visual = Track("3 frames", vectors=np.stack([axis(0)] * 3), frames=record)
    read = Read(NOTHING_READ, True, {"visual": visual, "speech": Track(segments=(late,))})
    nothing = ReusableUnit(UnitResult((), ()), frozenset(), frozenset())
    result = assemble(prepared(1, 3.0), UnitPlan(0), OPTIONS, read, nothing, Sentences()).result
    assert [(each.start_s, each.end_s) for each in result.clips] == [(0.0, end_s)]
