"""Frames of real files: what is exported as frame n of a file is the n-th that decodes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from excerpts import source

from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap, Probe
from vfindex.indexer.options import MAX_FPS, Sampling
from vfindex.search.export.selection import Excerpt, Source, source_of
from vfindex.search.export.timeline import frame_count, frames_of
from vfindex.storage.records import Video

VIDEOS = Path(os.environ.get("VFINDEX_TEST_MEDIA", "")) / "public" / "videos"
# Of 23.976, 24, 25, 29.97, 30, 59.94 and 60 frames a second, 12.5 and 15, a late start, in Matroska, WebM and AVI.
STEADY = {
    **{"v025.mp4": "23.98", "v006.mp4": "24", "v009.mp4": "25", "v004.mp4": "29.97", "v057.mp4": "29.97"},
    **{"v051.mp4": "30", "v106.mp4": "59.94", "v111.mp4": "60", "v044.mp4": "12.5", "v108.mp4": "15"},
    **{"v001.mkv": "30", "v015.webm": "24", "v027.avi": "25"},
}
VARYING = {"v007.mp4": "50", "v014.mp4": "50", "v104.mp4": "24"}

pytestmark = pytest.mark.skipif(not VIDEOS.is_dir(), reason="VFINDEX_TEST_MEDIA names no folder with public videos")


def opened(name: str) -> tuple[Source, list[float]]:
    """Return a file as a source, and the times of all its frames."""
    path = bytes(VIDEOS / name)
    with Decoder() as decoder:
        probe = decoder.probe(path)
        read = decoder.read(path, taps=[FrameTap(16)], sampling=Sampling("fps", MAX_FPS))
        times_s = [item.time_s for item in read if isinstance(item, Frame)]
    return source_of(_video(name, probe), path, None), times_s


def _video(name: str, probe: Probe) -> Video:
    return Video(
        *(name, 1, probe.container, probe.codec, probe.width_px, probe.height_px, probe.rotation_deg),
        *(probe.start_s, probe.end_s, probe.end_s, probe.frames, bool(probe.audio)),
        fps=probe.fps,
    )


@pytest.mark.parametrize("name", STEADY)
def test_a_frame_has_the_number_at_which_it_decodes(name: str) -> None:
    film, times_s = opened(name)
    assert film.timebase.name == STEADY[name] and not film.varies
    assert abs(frame_count(film, film.timebase) - len(times_s)) <= 1
    for first in range(0, len(times_s) - 3, 7):
        # Hits have times rounded to milliseconds.
        excerpt = Excerpt(film, 1, round(times_s[first], 3), round(times_s[first + 2], 3))
        assert frames_of(excerpt, film.timebase) == (first, first + 2)


@pytest.mark.parametrize("name", VARYING)
def test_a_variable_rate_is_known_and_follows_the_clock(name: str) -> None:
    film, times_s = opened(name)
    assert film.varies and film.timebase.name == VARYING[name]
    for time_s in times_s[:-1]:
        first, _ = frames_of(Excerpt(film, 1, time_s, film.end_s), film.timebase)
        assert abs(float(film.timebase.time_s(first)) + film.start_s - time_s) <= 0.501 / film.timebase.rate


def test_a_late_start_is_frame_0() -> None:
    film, times_s = opened("v057.mp4")
    assert times_s[0] > 0.8 and frames_of(Excerpt(film, 1, times_s[0], film.end_s), film.timebase)[0] == 0
    assert replace(source(), start_s=0.5).first_frame(film.timebase) == 0
