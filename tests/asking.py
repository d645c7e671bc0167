"""Engines over libraries with hand-written vectors, for the tests of search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, install

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Part
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.results import Hit
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing


def fake_query_vectors(monkeypatch: pytest.MonkeyPatch, vector_of: Callable[[str], FloatArray]) -> None:
    """Replace the query encoder by `vector_of(text)` for every modality."""

    def encode(self: QueryEncoder, part: Part) -> dict[Any, FloatArray]:
        return dict.fromkeys(part.modalities, vector_of(part.text))

    monkeypatch.setattr(QueryEncoder, "encode", encode)


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
