"""The visual modality: the sampled frames, each with its vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfindex.indexer.extractors.base import Track, Unit
from vfindex.indexer.extractors.frame_record import FrameRecord
from vfindex.indexer.media.decoder import AudioBlock, Frame, FrameTap, ReadEnd
from vfindex.indexer.models.base import ImageEncoder, Pixels
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import counted

# Short side of frames that are not encoded: as large as the thumbnails need.
SHOT_PX = 256


class VisualExtractor:
    """Encodes frames while they are decoded; an `Extractor`."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder

    def begin(self, unit: Unit) -> VisualExtraction:
        return VisualExtraction(self._encoder, unit.options.sampling)


class ShotExtractor:
    """Records frames for a library without images, whose clips are cut by colours alone; an `Extractor`."""

    def begin(self, unit: Unit) -> ShotExtraction:
        return ShotExtraction(unit.options.sampling)


class ShotExtraction:
    """Records the frames of one unit."""

    taps: Sequence[FrameTap] = (FrameTap(SHOT_PX),)

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._record = FrameRecord()

    def feed(self, item: Frame | AudioBlock) -> None:
        if isinstance(item, Frame):
            self._record.add(item)

    def finish(self, end: ReadEnd) -> Track:
        self._record.finish()
        note = f"; {end.note}" if end.note else ""
        coverage = f"{counted(len(self._record.times_s), 'frame')}, sampling {self._sampling}, for shots alone{note}"
        return Track(coverage=coverage, frames=self._record)


class VisualExtraction:
    """Encodes the frames of one unit, batch by batch."""

    def __init__(self, encoder: ImageEncoder, sampling: Sampling) -> None:
        self.taps: Sequence[FrameTap] = (FrameTap(encoder.size_px),)
        self._encoder, self._sampling = encoder, sampling
        self._record = FrameRecord()
        self._batch: list[Pixels] = []
        self._vectors = [np.zeros((0, encoder.dim), np.float32)]

    def feed(self, item: Frame | AudioBlock) -> None:
        if isinstance(item, Frame) and self._record.add(item):
            self._batch.append(item.pixels)
            if len(self._batch) >= self._encoder.batch_frames:
                self._encode()

    def finish(self, end: ReadEnd) -> Track:
        if self._batch:
            self._encode()
        self._record.finish()
        times_s = np.asarray(self._record.times_s, np.float64)
        note = f"; {end.note}" if end.note else ""
        return Track(
            coverage=f"{counted(len(times_s), 'frame')}, sampling {self._sampling}{note}",
            spans_s=np.stack([times_s, times_s], axis=1),
            vectors=np.concatenate(self._vectors)[self._record.rows],
            frames=self._record,
        )

    def _encode(self) -> None:
        self._vectors.append(self._encoder.encode_images(self._batch))
        self._batch.clear()
