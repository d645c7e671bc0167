"""How often an ingest opens a media file, counted by the kernel, in all processes."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder, Probe
from vfindex.indexer.models import factory
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.models.presets import Choice
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

IN_ACCESS, IN_OPEN = 0x1, 0x20  # inotify(7)
EVENT = struct.Struct("iIII")


@pytest.fixture
def count_opens(tmp_path: Path, models_cache: Path) -> Callable[[Path], int]:
    """Return a function that ingests a file, into the same library each time, and counts how often it was opened."""

    def count(video: Path) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = libc.inotify_init1(os.O_NONBLOCK)
        # The kernel merges equal events in a row; each reader reads between two opens, which sets these apart.
        assert libc.inotify_add_watch(handle, os.fsencode(video), IN_OPEN | IN_ACCESS) >= 0
        settings = RunSettings(cache=models_cache, choice=Choice("lite"), workers=1, asr=False, ocr=False)
        report = ingest(tmp_path / "lib", [os.fsencode(video)], settings)
        assert not report.failed and not report.partial
        try:
            events = os.read(handle, 1 << 20)
        except BlockingIOError:
            events = b""  # nobody has opened it
        finally:
            os.close(handle)
        return sum(bool(mask & IN_OPEN) for _, mask, _, _ in EVENT.iter_unpack(events))

    return count


# Its fingerprint, its header, and its one unit; FFmpeg opens the last two once more by their descriptor.
@pytest.mark.parametrize(("length_s", "expected"), [(12, 5), (4, 6)], ids=["long", "whose end is read from the start"])
def test_opens_of_a_new_video(
    tmp_path: Path, count_opens: Callable[[Path], int], length_s: float, expected: int
) -> None:
    video = make_video(tmp_path / "v.mp4", shots=[Shot("red", length_s)], tone_hz=440)
    assert count_opens(video) == expected


def test_a_sidecar_opens_the_video_no_further(tmp_path: Path, count_opens: Callable[[Path], int]) -> None:
    (tmp_path / "v.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nThe xylophone plays.\n")
    assert count_opens(make_video(tmp_path / "v.mp4", shots=[Shot("red", 12)])) == 5


def test_a_video_that_is_up_to_date_is_not_opened(tmp_path: Path, count_opens: Callable[[Path], int]) -> None:
    video = make_video(tmp_path / "v.mp4", shots=[Shot("red", 2)])
    assert count_opens(video) > 0
    assert count_opens(video) == 0


def test_headers_are_read_while_the_models_are_opened(
    tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = [make_video(tmp_path / f"{n}.mp4", shots=[Shot("red", 2 + n)]) for n in range(5)]
    read: list[bytes] = []
    probe, open_encoders = Decoder.probe, factory.open_encoders

    def probing(decoder: Decoder, path: bytes) -> Probe:
        found = probe(decoder, path)
        read.append(path)
        return found

    def opening(*arguments: Any, **options: Any) -> Encoders:
        until_s = time.monotonic() + 60
        while len(read) < len(videos) and time.monotonic() < until_s:
            time.sleep(0.01)
        return open_encoders(*arguments, **options)

    monkeypatch.setattr(Decoder, "probe", probing)
    monkeypatch.setattr(factory, "open_encoders", opening)
    settings = RunSettings(cache=models_cache, choice=Choice("lite"), workers=1, asr=False, ocr=False)
    report = ingest(tmp_path / "lib", [os.fsencode(video) for video in videos], settings)
    assert report.indexed == len(videos)
    assert read == [os.fsencode(video) for video in videos], "each once, in order, before the first unit"
