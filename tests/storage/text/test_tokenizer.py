"""Words of scripts without spaces, accents, optional vowel signs: all are found, also in older libraries."""
# ruff: noqa: RUF001  letters of other scripts are the matter of this file

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import add_video, axis, clip, install
from sqlalchemy import text

from vfindex.search.query.ast import content_words
from vfindex.storage.db.engine import connect
from vfindex.storage.db.migrations import migrate
from vfindex.storage.errors import LibraryVersion
from vfindex.storage.library import Library
from vfindex.storage.records import Document, Segment
from vfindex.storage.text.tokenizer import index_form, words_of
from vfindex.storage.writer import writing

LINES = {
    "zh": "公园里有很多狗和猫。",
    "ja": "今日は公園でコンピューターを見ました。",
    "th": "แมวของฉันชอบนอนบนโซฟา",
    "ko": "고양이가 소파에서 자고 있어요.",
    "hi": "मेरी बिल्ली सोफे पर सोती है।",
    "ar": "مُحَمَّدٌ في القطار",
    "ru": "Поезд опоздал",
    "fr": "Un café à l'été, ２０２６",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("scripts")
    with writing(folder) as writer:
        install(writer)
        for name, line in LINES.items():
            add_video(writer, name, [clip(visual=axis(0))], [Segment(0, 2, line, "sidecar", name)])
    return Library.open(folder)


@pytest.mark.parametrize(
    ("word", "language"),
    [
        *(("猫", "zh"), ("公园", "zh"), ("コンピューター", "ja"), ("公園", "ja"), ("แมว", "th"), ("โซฟา", "th")),
        *(("고양이", "ko"), ("बिल्ली", "hi"), ("محمد", "ar"), ("ПОЕЗД", "ru"), ("cafe", "fr"), ("2026", "fr")),
        ("ｃａｆé", "fr"),
    ],
)
def test_a_word_is_found_in_its_line_alone(library: Library, word: str, language: str) -> None:
    with library.snapshot() as snapshot:
        assert [match.text for match in snapshot.words.match([word], 9)] == [LINES[language]]
        assert [match.text for match in snapshot.words.documents(snapshot.words.holders(word).ids)] == [LINES[language]]


def test_vowel_signs_are_part_of_hindi_and_thai_words(library: Library) -> None:
    with library.snapshot() as snapshot:
        assert snapshot.words.match(["बल"], 9) == []
        assert snapshot.words.match(["แมา"], 9) == []


@given(st.text())
def test_any_text_has_a_form_and_asking_for_it_is_no_error(library: Library, word: str) -> None:
    clean = word.encode("utf-8", "replace").decode()
    assert index_form(index_form(clean)).split() == index_form(clean).split()
    with library.snapshot() as snapshot:
        assert isinstance(snapshot.words.match([*words_of(clean), "x"], 9), list)


def test_the_words_of_questions_without_spaces() -> None:
    assert content_words("公园里的猫") == ("公园", "园里", "里的", "的猫")
    assert content_words("猫 dog") == ("猫", "dog")
    assert content_words("コンピューターと公園の猫") == ("コンピューター", "公園", "猫")
    assert content_words("ねこ") == ("ねこ",)
    assert content_words("고양이가 sofa") == ("고양", "양이", "이가", "sofa")
    assert content_words("แมว") == ("แมว",)


def test_full_text_of_an_older_library_is_rebuilt(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(0))], documents=[Document("title", "公园里有猫")])
    engine = connect(tmp_path / "library.db", write=True)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE document_fts"))
        connection.execute(
            text(
                "CREATE VIRTUAL TABLE document_fts USING fts5(text, content='document', content_rowid='id',"
                " tokenize='porter unicode61 remove_diacritics 2')"
            )
        )
        connection.execute(text("INSERT INTO document_fts(document_fts) VALUES ('rebuild')"))
        connection.execute(text("DELETE FROM migration WHERE name = 'index_every_script'"))
        connection.execute(text("DELETE FROM meta WHERE key = 'fold'"))
    with pytest.raises(LibraryVersion, match="run `vfindex ingest` once"):
        Library.open(tmp_path).snapshot()
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()
    with Library.open(tmp_path).snapshot() as snapshot:
        assert [match.text for match in snapshot.words.match(["公园"], 9)] == ["公园里有猫"]
