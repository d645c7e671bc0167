"""Words in more documents than are searched: the best are found at a bounded cost."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import add_video, axis, clip, install, video

from vfindex.search.engine import SearchEngine
from vfindex.search.query.parser import parse
from vfindex.search.rank import required as required_module
from vfindex.search.rank.lexical import match_keywords
from vfindex.storage.library import Library
from vfindex.storage.records import Document, Segment, UnitPlan, UnitResult
from vfindex.storage.text import document_lists as lists_module
from vfindex.storage.text import full_text as words_module
from vfindex.storage.text.bm25 import saturations
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER
from vfindex.storage.writer import writing

VIDEOS, LINES = 40, 5


@pytest.fixture(autouse=True)
def few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)
    monkeypatch.setattr(words_module, "MAX_LISTED", 20)
    monkeypatch.setattr(words_module, "MAX_NEWEST", 20)
    monkeypatch.setattr(words_module, "LEAST_NEWEST", 3)
    monkeypatch.setattr(words_module, "MAX_COMPARED", 10)
    monkeypatch.setattr(words_module, "MAX_RANKED", 10)
    monkeypatch.setattr(required_module, "MAX_LISTED", 20)
    monkeypatch.setattr(required_module, "MAX_VERIFIED", 10)


def line(number: int) -> str:
    """Every line has `common`, every second `even`, the others `odd`; the last has both, and `common` twice."""
    if number == VIDEOS * LINES - 1:
        return "common even odd common"
    return f"common {'odd' if number % 2 else 'even'} and some more words beside"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("common")
    with writing(folder) as writer:
        install(writer)
        for number in range(VIDEOS):
            said = [Segment(5.0 * i, 5.0 * i + 4, line(LINES * number + i), "asr") for i in range(LINES)]
            if number == 7:
                said[2] = Segment(10, 14, "common zebra speaks", "asr")
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(1 + i % 3)) for i in range(LINES)]
            titles = [Document("title", "common name")] if number == 3 else []
            add_video(writer, f"v{number:02d}", clips, said, titles)
        writer.publish()
        # What is being read is not searchable yet, though its words are the newest.
        being = writer.catalog.begin_video(video("being"), [UnitPlan(0), UnitPlan(1)], recognised=True)
        unit = writer.catalog.pending_units(being)[0][0]
        said = [Segment(i, i + 1, "common even odd", "asr") for i in range(60)]
        writer.commit_unit(being, "being", unit, UnitResult((clip(0, 60, visual=axis(5)),), tuple(said)))
    return folder


def lines(folder: Path, *phrases: str, videos: list[int] | None = None) -> list[str]:
    with Library.open(folder).snapshot() as snapshot:
        return [match.text for match in snapshot.words.match(phrases, 5, videos)]


def found(folder: Path, question: str, top_k: int = VIDEOS) -> set[int]:
    hits = SearchEngine.open(folder).search(question, top_k=top_k)
    return {int((hit.video or b"").rpartition(b"v")[2]) for hit in hits}


LAST = line(VIDEOS * LINES - 1)


def test_the_newest_line_is_found_by_a_common_word(folder: Path) -> None:
    assert lines(folder, "common")[0] == LAST


def test_two_common_words_meet_in_the_newest_line(folder: Path) -> None:
    assert lines(folder, "even", "odd")[0] == LAST
    assert lines(folder, "common", "even", "odd")[0] == LAST


def test_two_common_words_meet_in_the_oldest_line(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        said = ["even odd", *(line(number) for number in range(100))]
        segments = [Segment(i, i + 1, words, "asr") for i, words in enumerate(said)]
        add_video(writer, "a", [clip(0, 200, visual=axis(1))], segments)
    assert lines(tmp_path, "even", "odd")[0] == "even odd"


def test_a_rare_word_leads_among_common_ones(folder: Path) -> None:
    assert lines(folder, "common", "even", "zebra")[0] == "common zebra speaks"


@pytest.mark.parametrize("few", [0, 2000])
def test_in_a_few_videos_common_words_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(lists_module, "FEW_VIDEOS", few)
    with Library.open(folder).snapshot() as snapshot:
        for videos in ([1], [20, 21], [1, 30]):
            matches = snapshot.words.match(["common", "even"], 50, videos)
            assert {match.video_id for match in matches} == set(videos)
    assert lines(folder, "zebra", videos=[8]) == ["common zebra speaks"] and not lines(folder, "zebra", videos=[9])


def test_required_keywords_are_found_in_the_newest_line(folder: Path) -> None:
    assert found(folder, "1 said:even said:odd", top_k=1) == {VIDEOS - 1}
    assert found(folder, '1 "odd common"') == {VIDEOS - 1}
    assert found(folder, '1 said:common "even odd"') == {VIDEOS - 1}
    assert found(folder, "1 said:common said:zebra") == {7}
    assert found(folder, "1 titled:common said:common") == {3}
    assert found(folder, "1 titled:common") == {3}


def test_required_keywords_are_found_in_a_few_videos(folder: Path) -> None:
    for name in ("v01", "v20", f"v{VIDEOS - 1}"):
        assert found(folder, f"1 said:common in:{name}") == {int(name[1:])}
        assert found(folder, f"common said:even said:common in:{name}") == {int(name[1:])}


def test_a_hint_says_that_documents_were_left_out(folder: Path) -> None:
    engine = SearchEngine.open(folder)
    assert [(hint.kind, "common" in hint.text) for hint in engine.search("1 said:common").hints] == [("common", True)]
    assert not engine.search("1 said:zebra").hints and not engine.search("1 said:common said:zebra").hints
    assert not engine.search("common").hints and not engine.search("1 -common").hints


def test_the_share_of_a_required_word_is_that_of_all_its_documents(folder: Path) -> None:
    [moment] = parse("zebra said:common").moments
    with Library.open(folder).snapshot() as snapshot:
        matches = match_keywords(snapshot, moment.keywords())
        total, counts = snapshot.words.document_frequencies(["zebra", "common"])
    rare, common = (math.log1p((total - n + 0.5) / (n + 0.5)) for n in counts)
    assert counts[1] > VIDEOS * LINES and all(len(each.documents) == 10 for each in matches.required.values())
    assert list(matches.shares.values()) == pytest.approx([rare / (rare + common), common / (rare + common)])


def test_an_excluded_common_word_drops_every_clip_with_it(folder: Path) -> None:
    assert found(folder, "1 -common") == set()
    assert found(folder, '1 -"odd common"') == set(range(VIDEOS))
    assert found(folder, "1 -zebra") == set(range(VIDEOS)), "other clips of its video answer"


def test_the_cost_does_not_grow_with_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two common words are looked up together only among the newest documents."""
    monkeypatch.setattr(words_module, "MAX_PASSED", 10)
    assert lines(folder, "even", "odd", videos=list(range(1, VIDEOS + 1)))[0] == LAST


def test_bm25_is_that_of_fts5() -> None:
    texts = {n: "dog " * (n % 4) + "cat " * (n % 3) + "the rest" for n in range(1, 40)}
    connection = sqlite3.connect(":memory:")
    connection.execute(f'CREATE VIRTUAL TABLE t USING fts5(text, tokenize="{INDEX_TOKENIZER}")')
    connection.executemany("INSERT INTO t (rowid, text) VALUES (?, ?)", texts.items())
    rows = connection.execute('SELECT rowid, -bm25(t) FROM t WHERE t MATCH \'"dog" OR "rest"\'').fetchall()
    dogs, rest = saturations(texts, ['"dog"', '"rest"'])
    idf = math.log((len(texts) - len(dogs) + 0.5) / (len(dogs) + 0.5))
    expected = {id_: max(idf, 1e-6) * dogs.get(id_, 0.0) + 1e-6 * rest[id_] for id_ in texts}
    assert dict(rows) == pytest.approx(expected)
    assert saturations(texts, ['"bird"']) == [{}]


def test_more_of_a_word_in_a_shorter_line_comes_first(folder: Path) -> None:
    with Library.open(folder).snapshot() as snapshot:
        first, *others = snapshot.words.match(["common"], 5)
    assert first.text == LAST and all(first.bm25 > each.bm25 for each in others)
