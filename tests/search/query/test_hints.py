"""Hints: other readings of a query, which change no hit."""
# ruff: noqa: RUF001  dashes and quotation marks of other keyboards are the matter of this file

from __future__ import annotations

from pathlib import Path

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query, Term
from vfindex.search.query.hints import hints
from vfindex.search.query.parser import parse
from vfindex.storage.errors import QueryError
from vfindex.storage.writer import writing


@pytest.mark.parametrize(
    ("question", "negation", "written"),
    [
        ("a street without cars", "without", "-cars"),
        ("a street without any red cars in the rain", "without", '-"red cars"'),
        ("beach, no people or dogs", "no", "-people -dogs"),
        ("dog not barking", "not", "-barking"),
        ("fruit other than apples", "other than", "-apples"),
        ("everything except for the cat.", "except", "-cat"),
        ("pets excluding cats, at home", "excluding", "-cats"),
        ("a cat instead of a dog", "instead of", "-dog"),
        ("house w/o garden", "w/o", "-garden"),
        ("STREET WITHOUT CARS", "WITHOUT", "-CARS"),
        ("park then street without cars within 20s", "without", "-cars"),
        ("street without cars in:holiday", "without", "-cars"),
    ],
)
def test_a_negation_gives_a_hint_with_the_excluding_term(question: str, negation: str, written: str) -> None:
    [hint] = hints(parse(question), ())
    assert hint.kind == "negation"
    assert hint.text.startswith(f'"{negation}" is searched like any other word') and hint.text.endswith(f": {written}")
    assert parse(written).moments[0].terms[0].unlike, "what is told is what excludes"


@pytest.mark.parametrize(
    "question",
    [
        *("No Country for Old Men", '"no cars" street', "said:without cars", "titled:no", "to be or not to be"),
        *("no one on a street", "not only dogs", "a street without", "street -cars", "street without cars -cars"),
        *("nothing", "notes except", "no -cars", "now or never"),
    ],
)
def test_idioms_give_no_hint(question: str) -> None:
    assert hints(parse(question), ()) == ()


@pytest.mark.parametrize(
    ("question", "written"),
    [
        *(("said: school", "said:school"), ("dog written: exit", "written:exit"), ('said: "we go"', 'said:"we go"')),
        *(("2:said: rocket", "2:said:rocket"), ("dog then said: bark within 9s", "said:bark")),
    ],
)
def test_a_prefix_with_a_space_behind_it_gives_a_hint(question: str, written: str) -> None:
    [hint] = hints(parse(question), ())
    assert hint.kind == "space"
    assert hint.text.startswith(f'"{written.removeprefix("2:").partition(":")[0]}:" is searched like any other word')
    assert hint.text.endswith(f" {written}") and parse(written).moments[0].terms[0].modality


@pytest.mark.parametrize(
    "question", ["said:", "note: school", "said: -dog", "said: titled:dog", '"said:" dog', "-said: dog"]
)
def test_other_colons_give_no_hint(question: str) -> None:
    assert hints(parse(question), ()) == ()


@pytest.mark.parametrize("question", ["heard:applause", "rain heard:thunder", "dog then heard:bark within 20s"])
def test_a_prefix_of_what_the_library_lacks_gives_a_hint(question: str) -> None:
    [hint] = hints(parse(question), (), {"audio": "not in this library; to add it: vfindex upgrade --audio NAME"})
    assert hint.kind == "lacking"
    assert hint.text.startswith("heard: matches nothing: audio is not in this library; to add it: vfindex upgrade")
    assert not hints(parse("said:applause rain"), (), {"audio": "not in this library"})


@pytest.mark.parametrize(
    ("question", "written"),
    [
        *(("Said:helmet", "said:helmet"), ("title:trip", "titled:trip"), ("dog speech:bark", "said:bark")),
        *(("LANG:en dog", "lang:en"), ("text:exit", "titled:exit or written:exit"), ("wirtten:exit", "written:exit")),
    ],
)
def test_a_word_that_is_nearly_a_prefix_gives_a_hint(question: str, written: str) -> None:
    [hint] = hints(parse(question), ())
    assert (hint.kind, hint.text.rpartition("write: ")[2]) == ("prefix", written)
    parse(f"dog {written}")


@pytest.mark.parametrize(
    "question",
    [
        *("C:/videos", "at 10:30", "http://a.example/b", "foo:bar", "said:helmet", "note:this", "a:b", "said:"),
        *("Before:sunset", "After:all", "Long:ago", "Longer:road"),
    ],
)
def test_other_words_with_a_colon_give_no_hint(question: str) -> None:
    assert [each for each in hints(parse(question), ()) if each.kind == "prefix"] == []


@pytest.mark.parametrize(
    ("question", "written"),
    [
        ("dog barks then cat", "dog barks then cat within 20s"),
        ("dog then cat within 30", "dog then cat within 30s"),
        ('said:dog then "a cat"', 'said:dog then "a cat" within 20s'),
    ],
)
def test_two_moments_without_a_time_give_a_hint(question: str, written: str) -> None:
    [hint] = hints(parse(question), ())
    assert (hint.kind, hint.text.rpartition("time: ")[2]) == ("moments", written)
    assert parse(written).order == "then"


@pytest.mark.parametrize(
    "question",
    [
        *("then we go", "dog then cat within 20s", "since then", "house near a lake", "and then there were none"),
        *("dog then then cat", "then dog then cat", "within then x then y", "dog then cat within 2 rooms"),
    ],
)
def test_one_moment_gives_no_hint_of_two(question: str) -> None:
    assert hints(parse(question), ()) == ()


@pytest.mark.parametrize("operator", ["OR", "AND"])
def test_operators_of_other_engines_give_a_hint(operator: str) -> None:
    [hint] = hints(parse(f"said:dog {operator} said:cat"), ())
    assert hint.kind == "operator" and hint.text.startswith(f'"{operator}" is searched like any other word; ')
    for question in (
        f"DOG {operator} CAT",
        f"dog {operator.lower()} cat",
        f"{operator} gate",
        f'"dog {operator} cat"',
        f"Tom {operator} Jerry",
    ):
        assert hints(parse(question), ()) == ()


def test_hints_change_no_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(3):
            add_video(writer, f"v{number}", [clip(visual=axis(number))])
    engine = SearchEngine.open(tmp_path)
    found, plain = engine.search("1 without cars"), engine.search(Query.plain("1 without cars"))
    assert list(found) == list(plain) and len(found) == 3
    assert [hint.kind for hint in found.hints] == ["negation"]
    nothing = engine.search("1 in:nowhere in:v1")
    assert [hit.video for hit in nothing] == [b"/videos/v1"]
    [hint] = nothing.hints
    assert hint.kind == "in" and hint.text.startswith("in:nowhere matches no path in this library")
    assert engine.search("1 in:v1").hints == ()


@pytest.mark.parametrize("dash", "-‐‑‒–—―−﹣－")
def test_dashes_of_phones_before_a_word_exclude(dash: str) -> None:
    [moment] = parse(f"dog {dash}cat").moments
    assert moment.terms == (Term("dog"), Term("cat", unlike=True))
    [moment] = parse(f'dog {dash}2:said:"red cat"').moments
    assert moment.terms[1] == Term("red cat", phrase=True, modality="speech", unlike=True, weight=2)
    for text in (f"dog {dash} cat", f"{dash}5 degrees", f"dog{dash}cat", f"a {dash}{dash}b"):
        assert parse(text) == Query.plain(text)
    with pytest.raises(QueryError, match="cannot be negated") as caught:
        parse(f"dog {dash}in:x")
    assert caught.value.position == 4


@pytest.mark.parametrize("marks", ["“”", "„“", "«»", "»«", "「」", "『』", "＂＂", "‹›", "〝〟"])
def test_quotation_marks_of_other_keyboards_quote(marks: str) -> None:
    [moment] = parse(f"dog {marks[0]} red  cat {marks[1]}").moments
    assert moment.terms == (Term("dog"), Term("red cat", phrase=True))
    assert parse(f"dog in:{marks[0]}my dog{marks[1]}").filters.inside == ("my dog",)
    with pytest.raises(QueryError, match="at character 5 is never closed") as caught:
        parse(f"dog {marks[0]}red cat")
    assert caught.value.position == 4


def test_wide_colons_are_colons() -> None:
    assert parse("said：dog").moments[0].terms == (Term("dog", modality="speech"),)
    assert parse("dog in：holiday").filters.inside == ("holiday",)
