"""A library of three kinds of videos whose vectors are written by hand, and texts with vectors of the same kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from library_maker import SETUP, add_video

from vfindex.search.query.ast import Part
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing

DIM, CLIPS, VIDEOS = 64, 2, 24
# Axis of each kind; videos of other kinds have one of their own.
KINDS = {"cooking": 0, "sport": 1}


def near(axis: int, generator: np.random.Generator, share: float = 0.6) -> FloatArray:
    """Return a unit vector that has `share` along an axis, the rest anywhere."""
    noise = generator.standard_normal(DIM)
    noise[axis] = 0
    vector = np.sqrt(1 - share**2) * noise / np.linalg.norm(noise)
    vector[axis] = share
    return vector.astype(np.float32)


@pytest.fixture(scope="session")
def make_kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a library.

    share: how much of its kind a clip's vector is, 0: nothing. others: videos of other kinds, the last ones if more
    than 8; None: 8.
    """

    def make(share: float, others: int | None = None) -> Path:
        folder, generator = tmp_path_factory.mktemp("kinds"), np.random.default_rng(3)
        background = np.stack([near(2, generator, 0.0) for _ in range(100)])
        zero = np.zeros(DIM, np.float32)
        prior = ModalityPrior(zero, zero, 1 / 8, background, 1.0)
        with writing(folder) as writer:
            writer.install(SETUP, {"visual": prior}, {})
            numbers = [number for number in range(VIDEOS) if number % 3 < 2 or others is None]
            for number in [*numbers, *range(VIDEOS, VIDEOS + (others or 0))]:
                kind = [*KINDS, f"other {number}"][number % 3 if number < VIDEOS else 2]
                axis = KINDS.get(kind, 3 + number % (DIM - 3))
                clips = [
                    Clip(5 * n, 5 * n + 5, 0.0, {"visual": vector}, vector[None], np.array([5.0 * n]))
                    for n in range(CLIPS)
                    for vector in [near(axis, generator, share)]
                ]
                add_video(writer, f"{kind} {number}.mp4", clips)
            writer.publish()
        return folder

    return make


@pytest.fixture(autouse=True)
def texts_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a text with the name of a kind have its axis as vector, and any other text an axis without videos."""

    def encode(_: QueryEncoder, parts: Sequence[Part], __: object) -> dict[str, FloatArray]:
        axes = [next((axis for kind, axis in KINDS.items() if kind in part.text), 60) for part in parts]
        return {"visual": np.eye(DIM, dtype=np.float32)[axes]}

    monkeypatch.setattr(QueryEncoder, "encode_all", encode)
