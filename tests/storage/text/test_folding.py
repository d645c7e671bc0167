"""Letters that look the same to a reader have one form in the index, in queries and in comparisons."""
# ruff: noqa: RUF001  letters of other scripts are the matter of this file

from __future__ import annotations

from pathlib import Path

import pytest
from asking import axis_of_digit, fake_query_vectors
from hypothesis import given
from hypothesis import strategies as st
from library_maker import add_video, axis, clip, install
from sqlalchemy import text

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import content_words
from vfindex.storage.db.documents import rebuild_index, stored_fold
from vfindex.storage.db.engine import connect
from vfindex.storage.db.migrations import migrate
from vfindex.storage.errors import LibraryVersion
from vfindex.storage.library import Library
from vfindex.storage.maintenance.damage import false_words
from vfindex.storage.records import Document, Segment
from vfindex.storage.text.corrected import NO_CORRECTIONS
from vfindex.storage.text.folding import FOLD, folded, readable_form
from vfindex.storage.text.full_text import Words
from vfindex.storage.text.tokenizer import index_form
from vfindex.storage.writer import writing

# What is said, and what asks for it.
SAME = [
    ("ένας μεγάλος δρόμος", "μεγαλος"),
    ("ένας μεγάλος δρόμος", "ΜΕΓΑΛΟΣ"),
    ("στην Αθήνα σήμερα", "ΑΘΗΝΑ"),
    ("он нашёл собаку", "нашел"),
    ("он нашел кошку", "НАШЁЛ"),
    ("auf der Straße", "STRASSE"),
    ("auf der Strasse hier", "straße"),
    ("DIE GROẞE WELT", "große"),
    ("wczoraj w Łodzi", "lodzi"),
    ("huset i Økland", "okland"),
    ("a ｄｏｇ barks", "dog"),
    ("a dog sleeps", "ｄｏｇ"),
    ("ﬁsh and chips", "fish"),
    ("fish and rice", "ﬁsh"),
    ("İSTANBUL'da", "istanbul"),
    ("ışık söndü", "isik"),
    ("Þórlákur og ég", "thorlakur"),
    ("le cœur bat", "coeur"),
    ("Cafe\u0301 Müller", "café muller"),
    ("Đakovo u jutro", "dakovo"),
    ("Huế và Đà Nẵng", "hue"),
    ("kranken\u00adhaus", "Krankenhaus"),
    ("п\u02bcять хвилин", "п'ять"),
    ("ｶﾞﾗｽ の", "ガラス"),
    ("한국어", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ("בֵּית־סֵפֶר", "בית ספר"),
]
# Letters of their own, which are not the same.
APART = [("мой", "мои"), ("Київ", "Киів"), ("がく", "かく"), ("बिल", "बल"), ("แม่", "แม"), ("パン", "ハン")]


@pytest.mark.parametrize(("said", "asked"), SAME)
def test_the_same_to_a_reader_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, asked: str) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "right", [clip(visual=axis(0))], [Segment(0, 4, said, "sidecar")])
        add_video(writer, "other", [clip(visual=axis(1))], [Segment(0, 4, "nothing of it", "sidecar")])
    engine = SearchEngine.open(tmp_path)
    for question in (f'1 "{asked}"', f'1 said:"{asked}"'):
        hits = engine.search(question)
        assert [(hit.video, hit.snippet) for hit in hits] == [(b"/videos/right", said)], "shown as it was said"
    assert [hit.video for hit in engine.search(f'1 -"{asked}"')] == [b"/videos/other"]


@pytest.mark.parametrize(("one", "other"), APART)
def test_letters_of_their_own_stay(one: str, other: str) -> None:
    assert folded(other) != folded(one)


@given(st.text())
def test_folding_twice_changes_nothing(words: str) -> None:
    assert folded(folded(words)) == folded(words)
    assert folded(words.lower()) == folded(words)
    assert words.isascii() is False or folded(words) == words.lower()


def test_words_that_differ_in_accents_are_searched_once() -> None:
    assert content_words("Łodzi lodzi ŁODZI") == ("Łodzi",)
    assert content_words("ｔｈｅ dog") == ("dog",)


def test_a_word_keeps_its_marks() -> None:
    assert content_words("наше\u0308л बिल्ली") == ("нашёл", "बिल्ली")


@pytest.mark.parametrize(
    ("typed", "read"),
    [("ｄｏｇ ﬁsh", "dog fish"), ("a “dog” … it’s", "a “dog” … it’s"), ("Cafe\u0301", "Café"), ("ＤＯＧ！", "DOG!")],
)
def test_models_read_plain_letters_and_the_case_as_it_is(typed: str, read: str) -> None:
    assert readable_form(typed) == read


def old_library(folder: Path) -> None:
    """Make a library whose words are indexed as before there was a fold."""
    with writing(folder) as writer:
        install(writer)
        said = [Segment(0, 4, "он нашёл Straße café", "sidecar")]
        add_video(writer, "a", [clip(visual=axis(0))], said, [Document("title", "Łodzi")])
    engine = connect(folder / "library.db", write=True)
    with engine.begin() as connection:
        rebuild_index(connection, fold=0)
        connection.execute(text("DELETE FROM migration WHERE name = 'fold_words'"))
        connection.execute(text("DELETE FROM meta WHERE key = 'fold'"))
    engine.dispose()


def found(folder: Path, word: str) -> int:
    engine = connect(folder / "library.db", write=False)
    with engine.connect() as connection:

        def rows(query: str, parameters: tuple[object, ...]) -> list[object]:
            return list(map(tuple, connection.exec_driver_sql(query, parameters).all()))

        return len(Words(rows, lambda _, compute: compute(), NO_CORRECTIONS).match([word], 9))


def test_a_library_of_an_older_fold_is_asked_in_it_and_indexed_again_once(tmp_path: Path) -> None:
    old_library(tmp_path)
    assert [found(tmp_path, word) for word in ("нашёл", "straße", "cafe", "Łodzi")] == [1, 1, 1, 1]
    assert [found(tmp_path, word) for word in ("нашел", "strasse", "lodzi")] == [0, 0, 0]
    engine = connect(tmp_path / "library.db", write=True)
    with engine.begin() as connection:
        migrate(connection)
        assert stored_fold(connection) == FOLD
    assert [found(tmp_path, word) for word in ("нашел", "STRASSE", "café", "lodzi")] == [1, 1, 1, 1]
    assert false_words(engine) == []
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM document_fts_docsize"))
        migrate(connection)
        assert connection.scalar(text("SELECT count(*) FROM document_fts_docsize")) == 0, "not indexed again"
    engine.dispose()


def test_a_raised_fold_indexes_again_and_a_lower_one_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_library(tmp_path)
    engine = connect(tmp_path / "library.db", write=True)
    with engine.begin() as connection:
        migrate(connection)
        connection.execute(text("UPDATE meta SET value = '0' WHERE key = 'fold'"))
        migrate(connection)
        assert stored_fold(connection) == FOLD
        connection.execute(text("UPDATE meta SET value = '99' WHERE key = 'fold'"))
        with pytest.raises(LibraryVersion, match="upgrade"):
            migrate(connection)
    engine.dispose()


def test_words_of_a_video_leave_the_index_with_it(tmp_path: Path) -> None:
    old_library(tmp_path)
    with writing(tmp_path) as writer:
        writer.catalog.remove(b"/videos/a")
    with Library.open(tmp_path).snapshot() as snapshot:
        words = ["нашёл", "Straße", "Łodzi"]
        assert snapshot.words.document_frequencies(words) == (0, [0, 0, 0])


@given(st.text())
def test_the_index_form_of_an_index_form_has_the_same_words(words: str) -> None:
    assert index_form(index_form(words)).split() == index_form(words).split()


def test_a_title_of_marks_alone_is_not_missing_from_the_index(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(
            writer, "a", [clip(visual=axis(0))], documents=[Document("title", "\u02bc"), Document("tag", "\u0640")]
        )
    engine = connect(tmp_path / "library.db", write=False)
    assert false_words(engine) == []
    engine.dispose()
