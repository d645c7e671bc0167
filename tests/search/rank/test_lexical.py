"""Keyword matches: in which documents, and with which share of the idf weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.search.query.ast import Query
from vfindex.search.query.parser import parse
from vfindex.search.rank.lexical import match_keywords, phrase_s
from vfindex.storage.library import Library
from vfindex.storage.records import Document, Segment
from vfindex.storage.text.full_text import WordMatch
from vfindex.storage.writer import writing

LINES = ("the dog barks", "a dog sleeps", "dogs and a zebra", "a cat", "rain", "wind")


def matches_of(folder: Path, query: str) -> tuple[dict[str, float], dict[int, set[str]]]:
    """Return keyword -> its share, and line number -> the keywords in that line."""
    with writing(folder) as writer:
        install(writer)
        for number, line in enumerate(LINES):
            add_video(writer, f"v{number}", [clip(visual=axis(0))], [Segment(0, 4, line, "sidecar", "en")])
        writer.publish()
    with Library.open(folder).snapshot() as snapshot:
        [moment] = Query.plain(query).moments
        matches = match_keywords(snapshot, moment.keywords())
        ids = {id_: number for number, id_ in enumerate(snapshot.clip_ids())}
    by_line = {ids[id_]: {k.text for each in found for k in each.keywords} for id_, found in matches.timed.items()}
    return {keyword.text: share for keyword, share in matches.shares.items()}, by_line


def test_a_rare_keyword_has_a_larger_share(tmp_path: Path) -> None:
    """Inverse document frequency (Robertson and Zaragoza 2009): 3 of 6 lines contain one word, 1 the other."""
    shares, by_line = matches_of(tmp_path, "dog zebra")
    rare, common = (math.log1p((6 - n + 0.5) / (n + 0.5)) for n in (1, 3))
    assert shares == pytest.approx({"dog": common / (rare + common), "zebra": rare / (rare + common)})
    assert by_line == {0: {"dog"}, 1: {"dog"}, 2: {"dog", "zebra"}}


def test_a_keyword_in_no_document_keeps_its_share(tmp_path: Path) -> None:
    """A clip with every keyword has 1; a keyword in no document is the rarest."""
    shares, _ = matches_of(tmp_path, "dog unheard")
    assert sum(shares.values()) == pytest.approx(1) and shares["unheard"] > shares["dog"]


def test_without_a_match_there_are_no_shares(tmp_path: Path) -> None:
    assert matches_of(tmp_path, "nowhere unheard") == ({}, {})


def test_titles_match_besides_speech(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        named = add_video(writer, "a", [clip(visual=axis(0))], documents=[Document("title", "Zebra holiday")])
    with Library.open(tmp_path).snapshot() as snapshot:
        [moment] = Query.plain("zebra").moments
        matches = match_keywords(snapshot, moment.keywords())
    assert list(matches.whole) == [named] and not matches.timed


def timed(text: str, *words: str) -> WordMatch:
    """A segment from 100 s on, whose words begin at 100, 101, 102 s."""
    places = [text.index(word) for word in words]
    times = tuple((place, float(n)) for n, place in enumerate(places))
    return WordMatch(1, 1, "speech", text, 100.0, 109.0, "asr", None, times)


@pytest.mark.parametrize(
    ("phrase", "when_s"),
    [
        ("ask not", 101),
        ("NOT what", 102),
        ("what your, country", 103),
        ("so", 100),
        ("country can do", 105),  # it goes on in the next segment
        ("your country", 104),
        ("cant", None),
        ("k not", None),
    ],
)
def test_a_phrase_begins_with_its_first_word(phrase: str, when_s: float | None) -> None:
    said = timed("So ask not — whät your country", "So", "ask", "not", "whät", "your", "country")
    assert phrase_s(said, phrase) == when_s


@pytest.mark.parametrize(
    ("text", "words", "phrase", "when_s"),
    [
        ("nowhere is now here", ("nowhere", "is", "now"), "now here", 102),
        ("we go home go", ("we", "go home", "go"), "go home", 101),
        ("we go home now go", ("we", "now", "go"), "go home", None),  # the time of "go" is another one's
        ("anti-gravity antigravity", ("anti", "gravity", "antigravity"), "antigravity", 102),
        ("antibiotics help", ("anti", "biotics", "help"), "antibiotics help", 100),  # syllables of a song
        ("it is so ...", ("it", "so", "..."), "so far", 101),
        ("well it is so", ("it", "is"), "well it", None),
    ],
)
def test_the_time_of_a_phrase_is_that_of_its_words(
    text: str, words: Sequence[str], phrase: str, when_s: float | None
) -> None:
    last, places = 0, []
    for word in words:
        last = text.index(word, last)
        places.append(last)
        last += len(word)
    times = tuple((place, float(n)) for n, place in enumerate(places))
    assert phrase_s(replace(timed(text), word_times=times), phrase) == when_s


def test_a_phrase_of_a_script_without_spaces_begins_with_its_first_character() -> None:
    assert phrase_s(timed("今日は天気がいい。", *"今日は天気がいい"[:7]), "天気") == 103
    assert phrase_s(replace(timed("So it is", "So", "it"), word_times=()), "it is") is None


@pytest.mark.parametrize(
    ("start_s", "end_s", "clips"),
    [
        (5, 10, {1}),
        (5.001, 9.999, {1}),
        (4.999, 10.001, {1}),
        (0, 5, {0}),
        (4.9, 10, {0, 1}),
        (5, 5, {1}),
        (4.9995, 5.0005, {0, 1}),
        (9.9995, 10, {1}),
        (3, 12, {0, 1, 2}),
    ],
)
def test_a_clip_that_only_touches_a_segment_is_not_its_own(
    tmp_path: Path, start_s: float, end_s: float, clips: set[int]
) -> None:
    """Chapters end where the next one begins, where often the picture changes as well."""
    with writing(tmp_path) as writer:
        install(writer)
        cuts = [clip(5.0 * n, 5.0 * n + 5, visual=axis(n)) for n in range(3)]
        add_video(writer, "a", cuts, [Segment(start_s, end_s, "Baking", "chapter", track="text")])
    with Library.open(tmp_path).snapshot() as snapshot:
        for query in (Query.plain("baking"), parse("titled:baking")):
            matches = match_keywords(snapshot, query.moments[0].keywords())
            ids = snapshot.clip_ids()
            timed = {*matches.timed, *(int(id_) for each in matches.required.values() for id_ in each.timed[1])}
            assert {ids.index(id_) for id_ in timed} == clips


@pytest.mark.parametrize(
    ("query", "clips"),
    [
        ('"ask not"', {0}),
        ('"not what"', {0, 1}),  # said until 6 s
        ('"your country"', {1, 2}),
        ('"country"', {2}),
        ('said:"ask"', {0, 2}),
        ('"your country" "ask not"', {0, 1, 2}),  # one segment that holds both
        ("said:country", {0, 1, 2}),
        ('"no times"', {0, 1, 2}),
    ],
)
def test_the_clips_of_a_phrase_are_those_in_which_it_is_said(tmp_path: Path, query: str, clips: set[int]) -> None:
    text = "ask not what your country ask"
    times = tuple(zip((0, 4, 8, 13, 18, 26), (0.0, 4.0, 4.5, 6.0, 12.0, 13.0), strict=True))
    said = [Segment(0, 15, text, "asr", word_times=times), Segment(0, 15, "no times", "sidecar")]
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [clip(5.0 * n, 5.0 * n + 5, visual=axis(n)) for n in range(3)], said)
    with Library.open(tmp_path).snapshot() as snapshot:
        matches = match_keywords(snapshot, parse(query).moments[0].keywords())
        found = [set(each.timed[1].tolist()) for each in matches.required.values()]
        ids = snapshot.clip_ids()
        assert {ids.index(id_) for id_ in set.intersection(*found)} == clips
