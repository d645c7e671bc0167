"""Helpers for tests of the Decoder: the whole result of a read, or its error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap, ReadEnd
from vfindex.indexer.options import Sampling
from vfindex.indexer.speech.audio_tracks import choose_track
from vfindex.storage.errors import VideoError

SIZE_PX = 32
TAP = FrameTap(SIZE_PX)


def read(
    decoder: Decoder, path: Path, sampling: str, start_s: float | None = None, end_s: float | None = None
) -> tuple[list[Frame], ReadEnd]:
    how = Sampling.parse(sampling)
    items = decoder.read(os.fsencode(path), taps=[TAP], sampling=how, start_s=start_s, end_s=end_s)
    found = list(items)
    end = found.pop()
    assert isinstance(end, ReadEnd)
    return [item for item in found if isinstance(item, Frame)], end


def sound_of(decoder: Decoder, path: Path | bytes) -> int | None:
    """Return the index of the audio stream that a run would choose."""
    track = choose_track(decoder.probe(os.fsencode(path)).audio, None)
    return None if track is None else track.index


def refusal(decoder: Decoder, path: Path | bytes) -> VideoError:
    with pytest.raises(VideoError) as caught:
        decoder.probe(path if isinstance(path, bytes) else os.fsencode(path))
    return caught.value
