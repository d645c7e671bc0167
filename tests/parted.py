"""A library of videos made by hand, and parts of it: what several libraries answer is compared with the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, SETUP, add_video, prior

from vfindex.search.query.encode import QueryEncoder
from vfindex.search.results import Hits
from vfindex.storage.maintenance.shared_spec import exported, use_spec
from vfindex.storage.records import Clip, FloatArray, Segment
from vfindex.storage.writer import writing

RANDOM = np.random.default_rng(3)
NAMES = [f"v{number:02}" for number in range(24)]
WORDS = ("heron", "lake", "boat")


def unit(count: int) -> FloatArray:
    rows = RANDOM.standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


SEEN, SAID, ASKED = unit(len(NAMES) * 3 + 4), unit(len(NAMES) * 3 + 4), unit(20)
# v21 is v04, encoded again.
FOOTAGE, ENCODED_AGAIN = 4, 21
SEEN[3 * ENCODED_AGAIN :][:3], SAID[3 * ENCODED_AGAIN :][:3] = SEEN[3 * FOOTAGE :][:3], SAID[3 * FOOTAGE :][:3]


def moving(row: int) -> Clip:
    """Return a clip of two different frames, whose mean is its vector."""
    start_s, visual = 5.0 * (row % 3), SEEN[row]
    aside = np.roll(visual, 1) - (np.roll(visual, 1) @ visual) * visual
    frames = np.stack([visual + 0.3 * aside, visual - 0.3 * aside])
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    return Clip(
        start_s, start_s + 5, 0.0, {"visual": visual, "speech": SAID[row]}, frames, np.array([start_s, start_s + 4.5])
    )


def make(folder: Path, numbers: list[int]) -> Path:
    """Return a library of some of the videos, of three clips each; every word is in some of them."""
    with writing(folder) as writer:
        writer.install(SETUP, {m: prior() for m in SETUP.models}, {})
        for number in numbers:
            clips = [moving(row) for row in range(3 * number, 3 * number + 3)]
            words = " ".join(word for step, word in enumerate(WORDS, 2) if number % step == 0) or "nothing"
            add_video(writer, NAMES[number], clips, [Segment(0, 5, words, "sidecar")])
        writer.publish()
    return folder


def with_one_spec(base: Path, *parts: list[int]) -> list[Path]:
    """Return a library of all videos, and those of parts of them, with one spec."""
    whole = make(base / "whole", sorted({number for part in parts for number in part}))
    made = [make(base / chr(65 + number), part) for number, part in enumerate(parts)]
    (base / "spec.json").write_text(exported(made).to_json())
    for folder in (whole, *made):
        use_spec(folder, base / "spec.json")
    return [whole, *made]


def fake_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each query the vector of its last character's place in ASKED."""

    def encode(_: Any, part: Any) -> dict[str, FloatArray]:
        vector = ASKED[sum(map(ord, str(part.text))) % len(ASKED)]
        return {m: vector for m in ("visual", "speech", "text")}

    monkeypatch.setattr(QueryEncoder, "encode", encode)


QUERIES = (
    *("a", "b", "heron", "lake boat", "heron lake", "a -b", '"boat"', "said:lake", "heron -boat", "2:a 0.5:b"),
    *("a then b within 20s", "heron near b within 5s", "a in:v1*", "b longer:5s shorter:1m", '"lake" then a within 1m'),
    *('"boat" lake in:v1*', "said:heron said:lake boat in:v1*"),
)


def answers(hits: Hits) -> list[tuple[Any, ...]]:
    """Return rank, clip, span and other places of each hit."""
    return [(hit.rank, hit.key, hit.start_s, hit.end_s, {place.video for place in hit.also}) for hit in hits]
