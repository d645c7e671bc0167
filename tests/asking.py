"""Engines over libraries with hand-written vectors, for the tests of search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, install

from vfindex.search.calibration.labels import META_KEY, Calibration, ModalityCalibration
from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Part
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.results import Hit
from vfindex.storage.labels import StoredLabel, library_state, put_labels
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing


def fake_query_vectors(monkeypatch: pytest.MonkeyPatch, vector_of: Callable[[str], FloatArray]) -> None:
    """Replace the query encoder by `vector_of(text)` for every modality, and for passages of transcripts."""

    def encode(self: QueryEncoder, part: Part) -> dict[Any, FloatArray]:
        return dict.fromkeys(part.modalities, vector_of(part.text))

    def encode_passages(self: QueryEncoder, modality: str, texts: Sequence[str]) -> FloatArray:
        return np.stack([vector_of(each) for each in texts])

    monkeypatch.setattr(QueryEncoder, "encode", encode)
    monkeypatch.setattr(QueryEncoder, "encode_passages", encode_passages)


def calibrated_speech(folder: Path) -> None:
    """Store limits of speech in a library of hand-written vectors: scores above 0.1 are better than chance."""
    measured = ModalityCalibration(1.0, 40, 60, 0.5, 0.1, 0.15, 5.0, 2.0, -1.0)
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, Calibration(4, {"speech": measured}).to_json())


def labelled(folder: Path, classes: str = "kinds", videos: int = 2) -> None:
    """Label the first videos `at sea`, and one clip of each."""
    with writing(folder) as writer:
        with SearchEngine(folder).library().snapshot() as snapshot:
            state, ids = library_state(snapshot), sorted(snapshot.video_ids())[:videos]
            clips = [snapshot.clips_of(id_)[0].id for id_ in ids]
        labels = [StoredLabel(id_, None, "at sea", 0.9) for id_ in ids]
        labels += [StoredLabel(id_, clip_id, "at sea", 0.8) for id_, clip_id in zip(ids, clips, strict=True)]
        put_labels(writer.catalog, classes, labels, state)


def axis_of_digit(text: str) -> FloatArray:
    """Return the axis of the first digit of a text; without a digit, a vector with the same cosine to all axes."""
    digits = [c for c in text if c.isdigit()]
    return axis(int(digits[0])) if digits else np.full(DIM, DIM**-0.5, np.float32)


def engine_over(folder: Path, videos: dict[str, list[Clip]], **extra: Any) -> SearchEngine:
    """Return an engine over a published library of these videos. extra: further arguments of `add_video`, by name."""
    with writing(folder) as writer:
        install(writer)
        for name, clips in videos.items():
            add_video(writer, name, clips, **extra.get(name, {}))
        writer.publish()
    return SearchEngine.open(folder)


def names(hits: list[Hit]) -> list[str]:
    """Return the names of the videos of hits, best first."""
    return [Path(hit.video.decode()).name for hit in hits if hit.video is not None]
