"""Chapters with times are text of their part of a video; titles without times are words of the whole."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from library_maker import add_video, axis, clip, video
from media import media_folder
from sqlalchemy import text

from vfindex.indexer.extractors.base import Track, Unit
from vfindex.indexer.extractors.text import TextExtractor, text_of
from vfindex.indexer.media.decoder import Decoder, ReadEnd
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.stages import clip_vectors
from vfindex.storage.library import Library
from vfindex.storage.records import Chapter, FloatArray, UnitPlan
from vfindex.storage.writer import writing

END = ReadEnd(0, None, None, 0, 0, "")
CHAPTERS = [Chapter("Feeding the starter", 0.0, 8.0), Chapter("Baking", 8.0, 30.0), Chapter("1", 30.0, 31.0)]


class Letters:
    """A text's unit vector: 1 at its first letter."""

    dim = 26

    def encode_passages(self, texts: list[str]) -> FloatArray:
        return np.eye(26, dtype=np.float32)[[ord(text[0].lower()) - ord("a") for text in texts]]


def track(plan: UnitPlan, vector: FloatArray | None = None) -> Track:
    known = replace(text_of([b"/x/kitchen.mp4"], {}, CHAPTERS), vector=vector)
    unit = Unit(video("a"), plan, Options(Sampling(), asr=False), known, None)
    return TextExtractor().begin(unit).finish(END)


def test_a_chapter_belongs_to_the_unit_in_which_it_begins_and_describes_all_of_its_clips() -> None:
    first, second = track(UnitPlan(0, None, 10.0)), track(UnitPlan(1, 10.0, None))
    assert [(s.text, s.track, s.source) for s in first.segments] == [
        ("Feeding the starter", "text", "chapter"),
        ("Baking", "text", "chapter"),
    ]
    assert second.segments == () and [window.text for window in second.windows] == ["Baking"]
    [vector] = clip_vectors(second, [(10.0, 20.0)], Letters())  # type: ignore[arg-type]
    assert vector is not None and vector.argmax() == ord("b") - ord("a")
    assert first.coverage == "no descriptive words in name or tags; 2 chapters"


def test_the_words_of_the_video_count_as_much_as_those_of_the_chapter() -> None:
    whole = np.eye(26, dtype=np.float32)[25]
    inside, outside = clip_vectors(track(UnitPlan(0), whole), [(8.0, 20.0), (40.0, 50.0)], Letters())  # type: ignore[arg-type]
    assert inside is not None and inside[[1, 25]].tolist() == pytest.approx([0.5**0.5] * 2)
    assert outside is whole


def test_the_probe_gives_the_times_of_chapters(decoder: Decoder) -> None:
    found = decoder.probe(os.fsencode(media_folder("cases") / "c23_chapters.mkv")).chapters
    assert found == (Chapter("Feeding the starter", 0.0, 6.0), Chapter("Baking the loaf", 6.0, 12.0))


@pytest.mark.parametrize("chapter", [Chapter("one"), Chapter("two", 1.0, 2.5)])
def test_stored_chapters_are_read_back(chapter: Chapter) -> None:
    assert Chapter.parse(json.loads(json.dumps(chapter.stored()))) == chapter


def test_a_library_with_titles_alone_still_reads(tmp_path: Path) -> None:
    with writing(tmp_path / "lib") as writer:
        add_video(writer, "a", [clip(visual=axis(1))], [])
        with writer.catalog.transaction() as connection:
            connection.execute(text("UPDATE video SET chapters = '[\"The harbour\"]'"))
        assert writer.catalog.names(1)[2] == [Chapter("The harbour")]
    with Library.open(tmp_path / "lib").snapshot() as snapshot:
        [stored] = snapshot.videos()
    assert stored.chapters == (Chapter("The harbour"),)
    known = text_of([b"/x/v001.mp4"], {}, stored.chapters)
    assert (known.segments, known.text) == ((), "The harbour")
