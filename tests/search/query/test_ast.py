"""The syntax tree: syntax and plain words, positions of errors, and that `str` is the inverse of `parse`."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfindex.search.query.ast import MAX_WORDS, Filters, Moment, Query, Term, content_words, duration
from vfindex.search.query.parser import MAX_QUERY_CHARS, parse
from vfindex.storage.errors import QueryError

# Pieces from which text near the grammar is made; any text at all is tried beside it.
PIECES = st.sampled_from(
    [
        *' \t\n"-:*?.',
        *"\N{LEFT DOUBLE QUOTATION MARK}\N{ARABIC-INDIC DIGIT THREE}\ud800\x00\x1f",
        *(
            "dog",
            "it's",
            "C++",
            "5",
            "2:",
            "0.25:",
            "said:",
            "shown:",
            "titled:",
            "2:said:",
            "20s",
            "20 seconds",
            "1.5h",
        ),
        *(
            " then ",
            " near ",
            " within ",
            "in:",
            "after:",
            "before:",
            "2026-01-31",
            "longer:",
            "shorter:",
            "lang:",
            "speaker:",
        ),
        *("en", "pt-BR", "日本語"),
    ]
)


def one(text: str) -> Term:
    """Return the only term of a query."""
    [moment] = parse(text).moments
    [term] = moment.terms
    return term


@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join)))
@example("a then b within 1.234h")
@example('"a"in:"b c"')
def test_any_text_parses_and_round_trips_or_raises_with_a_position(text: str) -> None:
    try:
        query = parse(text)
    except QueryError as exc:
        assert exc.position is not None and 0 <= exc.position <= len(text)
        return
    assert parse(str(query)) == query
    assert len(str(query).split()) <= MAX_QUERY_CHARS


@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join)))
@example("")
@example("in:a")
@example(" then within 5s")
def test_with_a_picture_the_text_may_be_empty(text: str) -> None:
    try:
        query = parse(text, wordless=True)
    except QueryError as exc:
        assert exc.position is not None and 0 <= exc.position <= len(text)
        return
    assert parse(str(query), wordless=True) == query
    assert bool(query.moments[0].terms) or query == Query((Moment(()),), filters=query.filters)


@pytest.mark.parametrize(
    "text",
    [
        *("it's", "C++", "a AND b", "NEAR(a b)", "100%", "*", "???", "10:30", "16:9", "2:", "2:2:dog", "http://x"),
        *("-", "->", "-5", "-5.5C", "--foo", "a - b", "t-shirt", "5' 6\"", "said: hello", "Said:dog", "said:..."),
        *("then what", "house near a lake", "a then b", "finish within 20s", "a then b within 20"),
        "a then b within 20s or so",
    ],
)
def test_text_that_is_not_exactly_syntax_is_plain_words(text: str) -> None:
    query = parse(text)
    assert query == Query.plain(text)
    assert query.moments[0].text == text
    assert str(query) == text


def test_every_kind_of_term() -> None:
    assert one("dog") == Term("dog")
    assert one('"exact  phrase"') == Term("exact phrase", phrase=True)
    assert one("\u201ecurved\u201c") == Term("curved", phrase=True)
    assert one("-dog") == Term("dog", unlike=True)
    assert one('-"red car"') == Term("red car", phrase=True, unlike=True)
    assert one("2:dog") == Term("dog", weight=2)
    assert one('0.5:"red car"') == Term("red car", phrase=True, weight=0.5)
    assert one("said:dog") == Term("dog", modality="speech")
    assert one("shown:dog") == Term("dog", modality="visual")
    assert one('titled:"my dog"') == Term("my dog", phrase=True, modality="text")
    assert one('-1.5:said:"my dog"') == Term("my dog", phrase=True, modality="speech", unlike=True, weight=1.5)
    assert one("1:dog") == Term("dog")
    assert one("said:2:dog") == one("2:said:dog") == Term("dog", modality="speech", weight=2)
    assert one('-shown:0.5:"red car"') == Term("red car", phrase=True, modality="visual", unlike=True, weight=0.5)


def test_a_number_is_a_word_of_a_modality() -> None:
    assert one("said:7") == Term("7", modality="speech") and one("titled:2024") == Term("2024", modality="text")
    assert one("-said:7") == Term("7", modality="speech", unlike=True)
    assert one("-shown:2") == Term("2", modality="visual", unlike=True)
    assert one("-2:written:42") == Term("42", modality="screen", unlike=True, weight=2)
    assert one("said:10:30") == Term("10:30", modality="speech") and one("said:-5") == Term("-5", modality="speech")
    assert one("-5") == Term("-5") and one("-10:30") == Term("-10:30")


def test_two_moments() -> None:
    query = parse('-cat door opens then "a dog" barks within 20s')
    assert [moment.text for moment in query.moments] == ["door opens", "barks"]
    assert (query.order, query.within_s) == ("then", 20)
    assert parse("a near b within 1.5 minutes").within_s == 90
    assert parse("a near b within 2h in:x").order == "near"
    assert str(parse("a then b within 120 seconds")) == "a then b within 2m"


def test_filters() -> None:
    query = parse(
        'dog in:*/holiday/* in:"my videos/*" after:2026-01-01 before:2026-02-01 longer:60s shorter:2h lang:en-US'
        ' speaker:"Jane  Doe" speaker:Ann'
    )
    assert query.moments == (Moment((Term("dog"),)),)
    assert query.filters == Filters(
        inside=("*/holiday/*", "my videos/*"),
        since=date(2026, 1, 1),
        until=date(2026, 2, 1),
        longer_s=60,
        shorter_s=7200,
        languages=("en-us",),
        speakers=("Jane Doe", "Ann"),
    )
    assert str(query.filters).endswith('lang:en-us speaker:"Jane Doe" speaker:Ann')
    assert not parse("dog").filters


def test_a_month_or_a_year_is_its_first_day() -> None:
    assert parse("dog after:2024 before:2025-03").filters == Filters(since=date(2024, 1, 1), until=date(2025, 3, 1))


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "empty"),
        (" \n", 0, "empty"),
        ('dog "in the park', 4, "at character 5 is never closed"),
        ('a "" b', 2, "no word between"),
        ('said:"?"', 5, "no word between"),
        ("0:dog", 0, "a weight is"),
        ("a 101:dog", 2, "a weight is"),
        ("said:0:dog", 0, "a weight is"),
        ("2:said:3:dog", 7, "the weight 3: is one too many"),
        ("said:1:said:dog 3:shown:4:x", 24, "one too many"),
        ("longer:60s", 10, "filters and no words"),
        ("dog longer: 60s", 4, "right after the colon, as in longer:60s"),
        ("dog longer:60", 11, "write it as in longer:60s"),
        ("dog after:26", 10, "write it as in after:2026-01-31"),
        ("dog after:2026-1", 10, "write it as in after:2026-01-31"),
        ("dog after:2026-13", 10, "no month 2026-13"),
        ("dog before:2026-02-30", 11, "no day 2026-02-30"),
        ("dog lang:english", 9, "write it as in lang:en"),
        ("dog speaker:?!", 12, 'write it as in speaker:"Jane Doe"'),
        ("dog speaker:", 4, "right after the colon"),
        ("dog -speaker:Ann", 4, "cannot be negated"),
        ('dog in:"" x', 4, "right after the colon"),
        ("dog after:2026-01-01 after:2026-01-02", 21, "is given twice"),
        ("dog -in:x", 4, "cannot be negated"),
        ("a then b then c within 5s", 9, "one too many"),
        ("then b within 5s", 0, "before 'then'"),
        ("a near within 5s", 2, "after 'near'"),
        ("x" * (MAX_QUERY_CHARS + 1), MAX_QUERY_CHARS, "shorten"),
    ],
)
def test_errors_have_a_position(text: str, position: int, says: str) -> None:
    with pytest.raises(QueryError, match=says) as caught:
        parse(text)
    assert caught.value.position == position


def test_the_words_of_a_query() -> None:
    assert parse("A dog,  running\tin the Park (dog)").moments[0].words == ("dog", "running", "Park")
    assert content_words("to be or not to be") == ("to", "be", "or", "not")
    assert content_words("C++ & it's") == ("C",)
    assert content_words("Mann mit Bart auf einem Sofa") == ("Mann", "Bart", "Sofa")
    assert content_words("chien qui saute dans la neige") == ("chien", "saute", "neige")
    assert content_words("mono colgado de una rama") == ("mono", "colgado", "rama")
    assert content_words("MIT lecture, Las Vegas") == ("MIT", "lecture", "Las", "Vegas")
    assert content_words("sin, war and a red hat on her son") == ("sin", "war", "red", "hat", "son")
    assert content_words("???") == ()
    assert parse("na\ud800me").moments[0].text == "na?me"
    assert len(content_words(" ".join(f"w{i}" for i in range(99)))) == MAX_WORDS


def test_the_parts_that_are_encoded() -> None:
    [moment] = parse('a 3:dog runs -cat "good boy" said:sit').moments
    everything = ("visual", "speech", "screen", "audio", "text")
    assert [(p.text, p.weight, p.modalities) for p in moment.parts()] == [
        ("a dog runs", 1, everything),
        ("dog", 2, everything),
        ("cat", -1, everything),
        ("good boy", 1, ("speech", "screen", "text")),
        ("sit", 1, ("speech",)),
    ]


def test_the_keywords_of_a_query() -> None:
    [moment] = parse('a 3:dog runs -cat "good boy" said:sit shown:"red ball" -shown:tree -titled:x').moments
    assert [(n.text, n.weight, n.required, n.exact, n.modalities) for n in moment.keywords()] == [
        ("dog", 3, False, False, ("speech", "screen", "text")),
        ("runs", 1, False, False, ("speech", "screen", "text")),
        ("good boy", 1, True, True, ("speech", "screen", "text")),
        ("sit", 1, True, False, ("speech",)),
    ]
    assert [(n.text, n.modalities) for n in moment.excluded()] == [
        ("cat", ("speech", "screen", "text")),
        ("x", ("text",)),
    ]


@given(st.integers(0, 10**9))
def test_durations_are_written_exactly(milliseconds: int) -> None:
    within_s = parse(f"a then b within {duration(milliseconds / 1000)}").within_s
    assert round(1000 * within_s) == milliseconds
