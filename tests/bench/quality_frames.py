"""Sampled frames as the visual model sees them, read once, for the other encoders of tests/bench/quality.py.

Each frame is encoded in several views. A row of the table only mixes their outputs, so decoding and encoding, some 300
processor seconds for the public collection, run once, and not at all with a kept folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap
from vfindex.indexer.options import Sampling
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.encoders.colours import colour_shares
from vfindex.storage.encoders.image import LiteImageEncoder
from vfindex.storage.encoders.pixels import Pixels, crops, square
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import FloatArray

# Increase it when the views change: older kept files are then recomputed.
FORM = 1
# Logits of one frame by view, each (n_crops, n_labels).
Views = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Seen:
    """A sampled frame as the model sees it. colours: (11,) shares."""

    views: Views
    colours: FloatArray


def squares(frame: Pixels, size_px: int) -> list[Pixels]:
    """Return the views that the product uses."""
    return crops(frame, size_px)


def mirrored(frame: Pixels, size_px: int) -> list[Pixels]:
    return [np.ascontiguousarray(crop[:, ::-1]) for crop in crops(frame, size_px)]


def squashed(frame: Pixels, size_px: int) -> list[Pixels]:
    """Return the whole frame squeezed into one square."""
    return [square(frame, size_px, "squash", "bicubic")]


def near(frame: Pixels, size_px: int) -> list[Pixels]:
    """Return the middle of a frame, twice as large."""
    height, width = frame.shape[:2]
    half = size_px // 2
    top, left = (height - half) // 2, (width - half) // 2
    middle = Image.fromarray(frame[top : top + half, left : left + half])
    return [np.asarray(middle.resize((size_px, size_px), Image.Resampling.BICUBIC))]


VIEWS: Mapping[str, Callable[[Pixels, int], list[Pixels]]] = {
    "squares": squares,
    "mirrored": mirrored,
    "squashed": squashed,
    "near": near,
}


def read_frames(base: Library, visual: Path, threads: int, kept: Path) -> dict[str, dict[int, Seen]]:
    """Return fingerprint -> time in milliseconds -> frame, of all videos of a library.

    visual: the exported model. kept: a folder that caches the frames of each video, by model.
    """
    with base.snapshot() as snapshot:
        videos = snapshot.videos()
        sampling = Sampling.parse(LibraryMeta(snapshot).existing_setup().sampling)
    folder = kept / f"{visual.parent.name}-{sampling}-{FORM}"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = LiteImageEncoder.open(visual, threads=threads)
    frames = {}
    with Decoder() as decoder:
        for video in videos:
            file = folder / f"{video.fingerprint}.npz"
            if not file.is_file():
                _keep(file, _read(video, sampling, decoder, encoder))
            frames[video.fingerprint] = _kept(file)
    return frames


def _read(video: StoredVideo, sampling: Sampling, decoder: Decoder, encoder: LiteImageEncoder) -> dict[str, FloatArray]:
    """Return `times_ms` (n,), `colours` (n, 11) and every view (n, n_crops, n_labels) of a video's frames."""
    items = decoder.read(video.locations[0].path, taps=[FrameTap(encoder.size_px)], sampling=sampling)
    read = [item for item in items if isinstance(item, Frame)]
    arrays = {
        name: np.stack(encoder.logits([view(frame.pixels, encoder.size_px) for frame in read]))
        for name, view in VIEWS.items()
    }
    arrays["times_ms"] = np.array([milliseconds(frame.time_s) for frame in read], np.float64)
    arrays["colours"] = np.stack([colour_shares(frame.pixels) for frame in read])
    return arrays


def _keep(file: Path, arrays: Mapping[str, FloatArray]) -> None:
    """Write a file atomically."""
    half = file.with_name("half.npz")
    np.savez(half, **arrays)  # type: ignore[arg-type]  # numpy's stub takes bools alone
    os.replace(half, file)


def _kept(file: Path) -> dict[int, Seen]:
    with np.load(file, allow_pickle=False) as data:
        arrays = {name: data[name] for name in (*VIEWS, "times_ms", "colours")}
    return {
        int(time_ms): Seen({name: arrays[name][row] for name in VIEWS}, arrays["colours"][row])
        for row, time_ms in enumerate(arrays["times_ms"])
    }


def milliseconds(time_s: float) -> int:
    return round(1000 * time_s)


def texts_kept() -> AbstractContextManager[object]:
    """Cache text vectors in the context: all rows use the same queries and one model."""
    encode = TextEncoder.encode
    vectors: dict[tuple[str, str], FloatArray] = {}

    def encode_once(self: TextEncoder, texts: Sequence[str]) -> FloatArray:
        new = [text for text in dict.fromkeys(texts) if (self.model, text) not in vectors]
        vectors.update(zip(_keys(self, new), encode(self, new), strict=True))
        return np.array([vectors[key] for key in _keys(self, texts)], np.float32).reshape(len(texts), self.dim)

    return patch.object(TextEncoder, "encode", encode_once)


def _keys(encoder: TextEncoder, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(encoder.model, text) for text in texts]
