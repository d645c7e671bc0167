"""Known items: which texts qualify, how they are spread, and how recall is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install, place, video

from vfindex.search.calibration import known_items as module
from vfindex.search.calibration.known_items import KnownItem, known_items
from vfindex.search.engine import SearchEngine
from vfindex.search.evaluation.known_items import Recall, known_item_ranks, recall_by_source
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.library import Library
from vfindex.storage.records import Segment, SegmentSource, UnitPlan
from vfindex.storage.writer import writing


def said(text: str, at_s: float = 0.0, source: SegmentSource = "sidecar") -> Segment:
    return Segment(at_s, at_s + 1, text, source)


def make(folder: Path, videos: dict[str, list[Segment]]) -> Path:
    """Make a library with one axis per video, in order, each with its transcript."""
    with writing(folder) as writer:
        install(writer)
        for number, (name, segments) in enumerate(videos.items()):
            add_video(writer, name, [clip(visual=axis(number))], segments)
        writer.publish()
    return folder


def decode_ahead(folder: Path) -> list[KnownItem]:
    with Library.open(folder).snapshot() as snapshot:
        return known_items(snapshot)


def test_known_items_occur_in_one_video(tmp_path: Path) -> None:
    folder = make(
        tmp_path,
        {
            "garden party": [
                said("The tomatoes ripen  behind the green\nhouse wall."),
                said("The tomatoes ripen behind the green house wall.", 2),  # the same again
                said("so it is what it was and that is that", 3),  # function words
                said("green house wall", 4),
                said("Subscribe to our channel for more videos", 5),
                said("12 34 56 78 tomatoes", 6),
            ],
            "v001": [
                said("SUBSCRIBE to our channel for more videos"),
                said("a lighthouse keeper paints boats", 2, "asr"),
            ],
            "Garden Party": [],
        },
    )
    assert {(item.text, item.fingerprint, item.source) for item in decode_ahead(folder)} == {
        ("The tomatoes ripen behind the green house wall.", "garden party", "sidecar"),
        ("a lighthouse keeper paints boats", "v001", "asr"),
    }
    with writing(folder) as writer:
        add_video(writer, "harbour at dawn", [clip(visual=axis(5))])
        writer.catalog.begin_video(video("half a video done"), [UnitPlan(0)], recognised=True)
    assert [item for item in decode_ahead(folder) if item.source == "title"] == [
        KnownItem("harbour at dawn", "harbour at dawn", "title", "text")
    ]


def test_known_items_are_spread_evenly_and_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_one = [said(f"sentence number {chr(97 + n // 10)}{chr(97 + n % 10)} about boats", n) for n in range(60)]
    videos = {"short": [said("two old words about harbours"), said("fresh new words about harbours", 2)]}
    videos |= {f"long {name}": [said(f"{name} {s.text}", s.start_s) for s in long_one] for name in ("east", "west")}
    folder = make(tmp_path, videos)
    monkeypatch.setattr(module, "MAX_ITEMS", 12)
    items = [item for item in decode_ahead(folder) if item.source == "sidecar"]
    assert Counter(item.fingerprint for item in items) == {"short": 2, "long east": 5, "long west": 5}
    starts = [s.start_s for s in long_one if f"east {s.text}" in {item.text for item in items}]
    assert starts == [6, 18, 30, 42, 54]
    assert decode_ahead(folder) == decode_ahead(folder)
    monkeypatch.setattr(module, "MAX_ITEMS", 1)
    assert len([item for item in decode_ahead(folder) if item.source == "sidecar"]) == 1


def test_hits_are_compared_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"first": axis(0), "second, where a copy lies": axis(1), '-not: "syntax" in:x': axis(2), "no": axis(0)}
    asked["the same footage"] = axis(5)
    monkeypatch.setattr(
        QueryEncoder, "encode", lambda self, part: {m: asked[part.text] for m in ("visual", "speech", "text")}
    )
    folder = make(tmp_path, {"a": [], "b": [], "c": []})
    with writing(folder) as writer:
        moving = replace(clip(visual=axis(5)), frame_vectors=np.stack([axis(5), axis(6)]), frame_times_s=np.arange(2.0))
        for name in ("d", "d once more"):
            add_video(writer, name, [moving])
        writer.catalog.place(writer.catalog.find("b")[0], place("0 earlier copy"))  # type: ignore[index]
    items = [
        KnownItem("first", "a", "title", "text"),
        KnownItem("second, where a copy lies", "b", "asr", "speech"),
        KnownItem('-not: "syntax" in:x', "c", "asr", "speech"),
        KnownItem("no", "not there", "asr", "speech"),
        KnownItem("the same footage", "d once more", "asr", "speech"),
    ]
    with Library.open(folder).snapshot() as snapshot:
        ranks = known_item_ranks(SearchEngine.open(folder), snapshot, items)
    assert ranks == [1, 1, 1, None, 1]
    assert recall_by_source(items[:4], [1, 4, None, 1]) == {
        "asr": Recall(n=3, at_10=2 / 3, at_1=1 / 3),
        "title": Recall(n=1, at_10=1.0, at_1=1.0),
    }


def test_a_library_without_words_has_no_known_items(tmp_path: Path) -> None:
    folder = make(tmp_path, {"v001": [], "v002": []})
    assert decode_ahead(folder) == []
    assert recall_by_source([], []) == {}
