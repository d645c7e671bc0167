"""Semantics of the query language: negation, phrases, weights, prefixes, two moments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import engine_over, fake_query_vectors, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library_maker import DIM, axis, clip

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.search.query.parser import parse_weights
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.records import Clip, Document, FloatArray, Segment

THINGS = ("dog", "cat", "car", "tree", "sea", "bird")


def meaning(text: str) -> FloatArray:
    """Return the mean of the axes of the things in a text."""
    named = [axis(THINGS.index(word)) for word in re.findall(r"\w+", text) if word in THINGS]
    vector = np.sum(named, axis=0) if named else np.full(DIM, 1.0, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture(autouse=True)
def questions_are_things(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, meaning)


def shown(*things: str) -> Clip:
    return clip(visual=meaning(" ".join(things)))


def said(text: str, start_s: float = 0.0, end_s: float = 4.0) -> Segment:
    return Segment(start_s, end_s, text, "sidecar", "en")


def test_negated_terms_are_subtracted(tmp_path: Path) -> None:
    engine = engine_over(
        tmp_path, {"both": [shown("dog", "cat")], "dog": [shown("dog", "tree")], "cat": [shown("cat")]}
    )
    assert names(engine.search("dog"))[0] == "both" or names(engine.search("dog"))[0] == "dog"
    hits = engine.search("dog -cat")
    assert names(hits) == ["dog", "both", "cat"]
    assert hits[1].score == pytest.approx(0, abs=0.1)
    assert names(engine.search("-cat"))[-1] == "cat"


def test_clips_with_negated_keywords_are_not_hits(tmp_path: Path) -> None:
    videos = {"a": [shown("dog")], "b": [shown("dog")], "c": [shown("dog")]}
    extra: dict[str, Any] = {
        "a": {"segments": [said("two cats")]},
        "b": {"documents": [Document("title", "Cat and dog")]},
    }
    engine = engine_over(tmp_path, videos, **extra)
    assert names(engine.search("dog -cat")) == ["c"]
    assert sorted(names(engine.search("dog -said:cat"))) == ["b", "c"]
    assert sorted(names(engine.search("dog -titled:cat"))) == ["a", "c"]
    assert sorted(names(engine.search("dog -shown:cat"))) == ["a", "b", "c"]
    assert sorted(names(engine.search('dog -"two cats"'))) == ["b", "c"]


def test_a_quoted_phrase_must_occur_word_for_word(tmp_path: Path) -> None:
    extra: dict[str, Any] = {
        "a": {"segments": [said("The quick brown fox")]},
        "b": {"segments": [said("the brown quick fox")]},
        "c": {"documents": [Document("title", "Quick_Brown holiday")]},
        "d": {"segments": [said("the quickest browns")]},
    }
    engine = engine_over(tmp_path, {name: [shown("dog")] for name in "abcd"}, **extra)
    hits = engine.search('"quick brown"')
    assert sorted(names(hits)) == ["a", "c"]
    assert hits[0].words == ("quick brown",)
    assert names(engine.search('said:"quick brown"')) == ["a"]
    assert names(engine.search('titled:"quick brown" dog')) == ["c"]
    assert names(engine.search('"quick brown" "fox"')) == ["a"]
    assert sorted(names(engine.search("quick brown"))) == ["a", "b", "c", "d"], "plain words are no condition"


def test_a_phrase_may_continue_in_the_next_subtitle(tmp_path: Path) -> None:
    lines = [said("I have a dream that", 0, 2), said("one day", 2.5, 4), said("this nation", 20, 22)]
    clips = [clip(0, 5, visual=axis(0)), clip(15, 25, visual=axis(0))]
    engine = engine_over(tmp_path, {"a": clips}, a={"segments": lines})
    assert [hit.start_s for hit in engine.search('"a dream that one day"', per_video=5)] == [0]
    assert engine.search('"one day this nation"') == [], "a pause ends the sentence"
    assert engine.search('"dream that day"') == []


@pytest.mark.parametrize(
    "text", ['"no such words"', "said:unheard", 'said:"dog food"', "titled:nothing dog", 'dog "zz"']
)
def test_a_required_phrase_that_never_occurs_gives_no_match(tmp_path: Path, text: str) -> None:
    engine = engine_over(tmp_path, {"a": [shown("dog")]}, a={"segments": [said("dog and food")]})
    assert engine.search(text) == []


def test_said_words_are_found_in_any_form(tmp_path: Path) -> None:
    engine = engine_over(
        tmp_path, {"a": [shown("dog")], "b": [shown("dog")]}, a={"segments": [said("Dogs were barking")]}
    )
    [hit] = engine.search("said:bark")
    assert names([hit]) == ["a"] and hit.words == ("bark",)
    assert hit.modalities["visual"] is None, "pictures are not asked"


def test_a_weight_scales_its_term(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"dog": [shown("dog")], "cat": [shown("cat")]})
    assert names(engine.search("3:dog cat"))[0] == "dog"
    assert names(engine.search("dog 3:cat"))[0] == "cat"
    scores = [{h.video: h.score for h in engine.search(text)}[b"/videos/dog"] for text in ("dog", "2:dog", "0.5:dog")]
    assert scores[1] == pytest.approx(2 * scores[0]) and scores[2] == pytest.approx(scores[0] / 2)


def test_a_prefix_restricts_a_term_to_one_modality(tmp_path: Path) -> None:
    videos = {"seen": [shown("dog")], "spoken": [clip(visual=axis(5), speech=meaning("dog"))]}
    engine = engine_over(tmp_path, videos)
    assert names(engine.search("shown:dog")) == ["seen", "spoken"]
    assert engine.search("shown:dog")[0].modalities["speech"] is None
    assert engine.search('shown:"red dog" shown:car')[0].modalities["visual"] is not None


def film(*things: str) -> list[Clip]:
    """Return consecutive clips of 5 s."""
    return [clip(5.0 * i, 5.0 * i + 5, visual=meaning(thing)) for i, thing in enumerate(things)]


def test_two_moments_in_order(tmp_path: Path) -> None:
    videos = {
        "right": film("tree", "dog", "tree", "cat"),
        "reversed": film("cat", "sea", "dog", "tree"),
        "far": film("dog", *["tree"] * 9, "cat"),
        "only": film("dog", "dog", "dog"),
    }
    engine = engine_over(tmp_path, videos)
    [best, *_] = hits = engine.search("dog then cat within 10s")
    assert names([best]) == ["right"]
    assert (best.start_s, best.end_s) == (5, 20)
    assert [(m.start_s, m.end_s) for m in best.moments] == [(5, 10), (15, 20)]
    assert best.score == pytest.approx(sum(m.score for m in best.moments))
    assert sum(hits[0].modalities[m] or 0 for m in hits[0].modalities) == pytest.approx(best.score)
    assert {names([hit])[0]: hit.score for hit in hits}["reversed"] < best.score / 1.5
    assert sorted(names(engine.search("dog near cat within 10s"))[:2]) == ["reversed", "right"]
    assert sorted(names(engine.search("dog then cat within 60s"))[:2]) == ["far", "right"]


def test_one_clip_may_match_both_moments_of_near_but_not_of_then(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [shown("dog", "cat")]})
    [hit] = engine.search("dog near cat within 1s")
    assert len(hit.moments) == 2
    assert engine.search("dog then cat within 1s") == []


def test_both_moments_keep_their_conditions(tmp_path: Path) -> None:
    words = {"segments": [said("hello there", 0, 4), said("good bye", 12, 14)]}
    engine = engine_over(tmp_path, {"a": film("dog", "tree", "cat"), "b": film("dog", "tree", "cat")}, a=words)
    [hit] = engine.search('"hello there" then "good bye" within 10s')
    assert (names([hit]), hit.start_s, hit.end_s) == (["a"], 0, 15)
    assert hit.words == ("hello there", "good bye")
    assert engine.search('"good bye" then "hello there" within 10s') == []
    assert names(engine.search('dog then "good bye" within 10s')) == ["a"]


def test_moments_far_down_their_lists_are_paired(tmp_path: Path) -> None:
    lone = {
        thing: [clip(100.0 * i, 100.0 * i + 5, visual=meaning(thing)) for i in range(260)] for thing in ("dog", "cat")
    }
    dim = clip(0, 5, visual=meaning("dog tree")), clip(5, 10, visual=meaning("cat tree"))
    engine = engine_over(tmp_path, lone | {"both": list(dim)})
    assert names(engine.search("dog then cat within 5s")) == ["both"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SearchEngine:
    words = {
        "segments": [said('the dog said: a "cat" \u732b within 20s', 0, 4)],
        "documents": [Document("title", "dog")],
    }
    return engine_over(tmp_path_factory.mktemp("language"), {"a": film("dog", "cat"), "b": film("sea")}, a=words)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                [
                    *(
                        " ",
                        '"',
                        "-",
                        "2:",
                        "said:",
                        "shown:",
                        "titled:",
                        "dog",
                        "a cat",
                        "\u732b",
                        "*",
                        "^",
                        "\x00",
                        "'",
                    ),
                    *(
                        " then ",
                        " near ",
                        " within 20s",
                        " in:a",
                        " lang:en",
                        " longer:1s",
                        " after:2020-01-01",
                        "(",
                        ")",
                    ),
                ]
            ),
            max_size=10,
        ).map("".join),
    )
)
def test_any_text_gives_hits_or_an_error_with_a_position(engine: SearchEngine, text: str) -> None:
    try:
        hits = engine.search(text)
    except QueryError as exc:
        assert exc.position is not None
        return
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_a_plain_query_has_no_syntax(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [shown("dog")]})
    assert engine.search('"zz"') == []
    assert names(engine.search(Query.plain('"zz"'))) == ["a"]


def test_weights_are_read() -> None:
    assert parse_weights("speech=0.5, text=0") == {"speech": 0.5, "text": 0.0}


@pytest.mark.parametrize(
    "text", ["speech", "speech=", "sound=1", "speech=-1", "speech=nan", "text=inf", "text=1,,", "="]
)
def test_wrong_weights_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape("visual=1,speech=0.5,text=0")):
        parse_weights(text)
