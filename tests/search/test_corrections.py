"""A corrected transcript is read and searched as one that always said so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import add_video, axis, clip, install
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, stored

from vfindex.search.corrections import CorrectionInfo
from vfindex.search.engine import SearchEngine
from vfindex.search.service import SearchService
from vfindex.storage.db.documents import rebuild_index
from vfindex.storage.errors import UsageError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.modalities import MODALITIES
from vfindex.storage.records import Line, Segment, WordTimes
from vfindex.storage.text import full_text
from vfindex.storage.writer import Writer, writing

# What was recognised in each video, and how some of it should read.
SAID = {
    "a": ("the whether is fine today", "we meat at the harbour"),
    "b": ("whether or not it rains", "the ferry leaves the harbour"),
    "c": ("nothing happens here", "weather report at nine"),
}
RIGHT = {
    "the whether is fine today": "the weather is fine today",
    "we meat at the harbour": "we meet at the harbour, in Größenwahn",
    "the ferry leaves the harbour": "the fairy leaves the arbour",
}
TIMES: WordTimes = ((0, 0.0), (4, 0.4))
QUERIES = (
    *("whether", "weather", "harbour", "harbor", "meet", "meat", "arbour fairy", "the weather is", "groessenwahn"),
    *('"weather is fine"', 'said:"the fairy leaves"', "weather -fine", "whether -rains", "said:größenwahn harbour"),
    *('"fine today we meet"', '"today we meat"', "leaves the", "ferry OR fairy"),
)


def add(writer: Writer, name: str, said: tuple[str, ...], number: int) -> None:
    clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(number), speech=axis(number)) for n in range(len(said))]
    segments = [Segment(5.0 * n + 1, 5.0 * n + 4, text, "asr", "en", word_times=TIMES) for n, text in enumerate(said)]
    add_video(writer, name, clips, segments)


def made(folder: Path, texts: dict[str, str]) -> Path:
    """Return a library of SAID, each line replaced by its text of `texts`."""
    with writing(folder) as writer:
        install(writer)
        for number, (name, said) in enumerate(SAID.items()):
            add(writer, name, tuple(texts.get(line, line) for line in said), number)
        writer.publish()
    return folder


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SearchService]:
    with SearchService(made(tmp_path / "library", {})) as opened:
        yield opened


def lines_of(service: SearchService, name: str) -> dict[str, Line]:
    found = service.transcript(name)
    return {segment.text: Line.of(found.fingerprint, segment) for segment in found.segments}


def correct_all(service: SearchService) -> None:
    for name in SAID:
        for text, line in lines_of(service, name).items():
            if text in RIGHT:
                service.correct(line, RIGHT[text])


def comparable(service: SearchService, query: str) -> list[dict[str, Any]]:
    """Return the hits of a query without what two libraries never share."""
    hits = service.search(query, top_k=10, per_video=3, min_confidence="none").to_dict()["hits"]
    return [{**hit, "library": "", "score": round(hit["score"], 6)} for hit in hits]


@pytest.mark.parametrize("few", [False, True], ids=["compared by FTS5", "compared apart"])
def test_searches_are_those_of_a_library_that_always_said_so(
    tmp_path: Path, service: SearchService, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    if few:  # of words in this many documents, only some are looked at
        monkeypatch.setattr(full_text, "MAX_COMPARED", 0)
        monkeypatch.setattr(full_text, "MAX_LISTED", 0)
    correct_all(service)
    with SearchService(made(tmp_path / "right", RIGHT)) as right:
        for query in QUERIES:
            found = comparable(service, query)
            expected = comparable(right, query)
            for hit in (*found, *expected):
                for match in hit["matches"]:
                    match["phrase_s"] = None  # a corrected line has the times of the words that stay
                hit["start_s"] = 5 * (hit["start_s"] // 5)
            assert found == expected, query


def test_the_corrected_words_find_the_moment_and_the_wrong_ones_no_longer(service: SearchService) -> None:
    def found(query: str) -> list[tuple[str, float]]:
        hits = service.search(query, min_confidence="none", per_video=2)
        return [(hit.key.fingerprint, hit.key.start_ms / 1000) for hit in hits if hit.words]

    assert set(found("said:whether")) == {("a", 0.0), ("b", 0.0)}
    assert set(found("said:weather")) == {("c", 5.0)}
    made_ = service.correct(lines_of(service, "a")["the whether is fine today"], "the weather is fine today")
    assert set(found("said:whether")) == {("b", 0.0)}
    assert set(found("said:weather")) == {("a", 0.0), ("c", 5.0)}
    [hit, *_] = [hit for hit in service.search("said:weather", per_video=2) if hit.key.fingerprint == "a"]
    assert hit.snippet == "the weather is fine today" and [each.text for each in hit.matches] == [hit.snippet]
    assert service.search("0")[0].snippet == "the weather is fine today", "without a matched word, too"
    service.remove_corrections([made_.id])
    assert set(found("said:whether")) == {("a", 0.0), ("b", 0.0)}
    assert set(found("said:weather")) == {("c", 5.0)}


def test_transcripts_have_it_everywhere(service: SearchService) -> None:
    correct_all(service)
    [first, second] = service.transcript("a").segments
    assert (first.text, first.original) == ("the weather is fine today", "the whether is fine today")
    assert first.word_times == TIMES and second.original == "we meat at the harbour"
    assert service.video("a").transcript == (first, second)
    assert service.transcript("c").segments[0].original is None
    for format_ in ("srt", "vtt"):
        for chosen in (service.video("a"), service.search("said:weather")):
            text = service.export(chosen, format_).data.decode()
            assert "the weather is fine today" in text and "whether" not in text


def test_the_word_before_is_where_a_phrase_begins(service: SearchService) -> None:
    correct_all(service)
    [hit] = [h for h in service.search('said:"weather is fine"', min_confidence="none") if h.key.fingerprint == "a"]
    assert (hit.start_s, hit.matches[0].phrase_s) == (1.4, 1.4)


def state_of(service: SearchService) -> CorrectionInfo:
    [found] = service.corrections("a").corrections
    return found


def test_a_correction_outlives_an_index_made_again_and_never_moves_to_another_line(service: SearchService) -> None:
    line = lines_of(service, "a")["the whether is fine today"]
    first = service.correct(line, "the weather is fine today", by="ana")
    assert first == state_of(service) == service.corrections().corrections[0]
    assert (first.state, first.video, first.original) == ("applied", b"/videos/a", line.text)
    assert (first.start_s, first.end_s, first.track, first.by) == (1.0, 4.0, line.track, "ana")

    def index_again(*said: str) -> None:
        with writing(service.folder) as writer:
            writer.catalog.remove(b"/videos/a")
            if said:
                add(writer, "a", said, 0)

    index_again(*SAID["a"])
    assert state_of(service).state == "applied"
    assert service.transcript("a").segments[0].text == "the weather is fine today"
    index_again("the whether is fine", "we meat at the harbour")
    assert state_of(service).state == "stale"
    shown = service.transcript("a").segments[0]
    assert (shown.text, shown.original) == ("the whether is fine", None)
    index_again("the weather is fine today", "we meat at the harbour")
    assert state_of(service).state == "taken_up"
    index_again()
    [absent] = service.corrections().corrections
    assert (absent.state, absent.video, absent.text) == ("absent", None, "the weather is fine today")


def test_a_line_that_is_not_there_cannot_be_corrected(service: SearchService) -> None:
    line = lines_of(service, "a")["the whether is fine today"]
    for wrong in (line._replace(text="the weather"), line._replace(end_ms=4001), line._replace(fingerprint="b")):
        with pytest.raises(UsageError, match=r"no line of speech from 1\.000 s to 4\.00\d s with this text any more"):
            service.correct(wrong, "x")
    for track in ("nothing", next(each.name for each in MODALITIES if each.has_documents)):
        with pytest.raises(UsageError, match="track must be one of speech, screen"):
            service.correct(line._replace(track=track), "x")
    with pytest.raises(UsageError, match="there is no correction 7; `vfindex corrections` lists them"):
        service.remove_corrections([7])
    assert not (service.folder / "user.db").exists()


def test_a_correction_is_made_while_a_run_holds_the_library(service: SearchService) -> None:
    with writing(service.folder):
        correct_all(service)
        assert service.search("said:fairy")[0].matches[0].text == RIGHT["the ferry leaves the harbour"]
    assert verify(Library.open(service.folder)).problems == []


def test_the_library_keeps_what_was_recognised(service: SearchService) -> None:
    correct_all(service)
    with Library.open(service.folder).snapshot() as snapshot:
        texts = [segment.text for video in snapshot.videos() for segment in snapshot.segments(video.id)]
    assert texts == [line for said in SAID.values() for line in said]


def test_each_correction_is_another_version(service: SearchService) -> None:
    versions = [service.version()]
    assert versions[0] == service.version()
    for name in ("a", "b"):
        service.correct(next(iter(lines_of(service, name).values())), f"text of {name}")
        versions.append(service.version())
    service.mark("a@1")
    assert service.version() == versions[-1]
    assert len(set(versions)) == 3


def test_the_second_library_keeps_the_corrections_of_its_videos(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, name in zip(folders, ("a", "b"), strict=True):
        with writing(folder) as writer:
            install(writer)
            add(writer, name, SAID[name], 1)
            writer.publish()
    with SearchService(folders) as service:
        service.correct(lines_of(service, "b")["whether or not it rains"], "weather it rains")
        assert service.transcript("b").segments[0].text == "weather it rains"
        [found] = service.corrections("b").corrections
        assert service.corrections().corrections == (found,) and service.corrections("a").corrections == ()
        with pytest.raises(UsageError, match="there is no correction 1"):
            service.remove_corrections([found.id])
        assert service.remove_corrections([found.id], "b").corrections == (found,)
        assert service.transcript("b").segments[0].text == "whether or not it rains"
    assert not (folders[0] / "user.db").exists()


def test_a_library_of_an_older_fold_finds_corrected_words(service: SearchService) -> None:
    with writing(service.folder) as writer, writer.catalog.engine.begin() as connection:
        rebuild_index(connection, fold=0)
    correct_all(service)
    assert SearchEngine.open(service.folder).search("said:größenwahn")[0].words


@pytest.mark.parametrize("version", [BEFORE_TRACKS, BEFORE_FRAMES])
def test_the_library_of_an_older_vfindex_is_corrected(version: str, tmp_path: Path) -> None:
    with SearchService(stored(version, tmp_path)) as service:
        videos = [service.transcript(each.fingerprint) for each in service.videos().videos]
        found = next(each for each in videos if each.segments)
        first = found.segments[0]
        service.correct(Line.of(found.fingerprint, first), "a quokka in the yard")
        assert service.transcript(found.fingerprint).segments[0].original == first.text
        assert service.search("said:quokka", min_confidence="none")[0].key.fingerprint == found.fingerprint
