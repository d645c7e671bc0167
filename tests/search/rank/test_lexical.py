"""Where words of a question stand, and what each is worth."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.search.query.ast import Query
from vfindex.search.rank.lexical import find_words
from vfindex.storage.library import Library
from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import writing

LINES = ("the dog barks", "a dog sleeps", "dogs and a zebra", "a cat", "rain", "wind")


def evidence_for(folder: Path, question: str) -> tuple[dict[str, float], dict[int, set[str]]]:
    """Return word -> its worth, and number of the line -> the words of the question that it holds."""
    with writing(folder) as writer:
        install(writer)
        for number, line in enumerate(LINES):
            add_video(writer, f"v{number}", [clip(visual=axis(0))], [Segment(0, 4, line, "sidecar", "en")])
        writer.publish()
    with Library.open(folder).snapshot() as snapshot:
        [moment] = Query.plain(question).moments
        evidence = find_words(snapshot, moment.needles())
        ids = {id_: number for number, id_ in enumerate(snapshot.clip_ids())}
    held = {ids[id_]: {n.text for each in found for n in each.needles} for id_, found in evidence.speech.items()}
    return {needle.text: worth for needle, worth in evidence.weight.items()}, held


def test_a_rare_word_is_worth_more(tmp_path: Path) -> None:
    """Inverse document frequency as Robertson and Zaragoza have it: 3 of 6 lines hold the one, 1 the other."""
    worth, held = evidence_for(tmp_path, "dog zebra")
    rare, common = (math.log1p((6 - n + 0.5) / (n + 0.5)) for n in (1, 3))
    assert worth == pytest.approx({"dog": common / (rare + common), "zebra": rare / (rare + common)})
    assert held == {0: {"dog"}, 1: {"dog"}, 2: {"dog", "zebra"}}


def test_a_word_that_stands_nowhere_takes_its_share(tmp_path: Path) -> None:
    """A clip that holds every word scores 1; one unheard of is the rarest."""
    worth, _ = evidence_for(tmp_path, "dog unheard")
    assert sum(worth.values()) == pytest.approx(1) and worth["unheard"] > worth["dog"]


def test_nothing_is_worth_anything_where_nothing_stands(tmp_path: Path) -> None:
    assert evidence_for(tmp_path, "nowhere unheard") == ({}, {})


def test_a_title_is_found_beside_what_is_said(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        named = add_video(writer, "a", [clip(visual=axis(0))], documents=[Document("title", "Zebra holiday")])
    with Library.open(tmp_path).snapshot() as snapshot:
        [moment] = Query.plain("zebra").moments
        evidence = find_words(snapshot, moment.needles())
    assert list(evidence.text) == [named] and not evidence.speech
