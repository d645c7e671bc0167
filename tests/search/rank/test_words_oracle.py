"""Words, phrases, negations and filters on random libraries, against what a reader of all texts would find."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install, place, video

from vfindex.search.query.ast import Keyword
from vfindex.search.query.filters import clips_passing, filtered
from vfindex.search.query.parser import parse
from vfindex.search.rank import prefilter as prefilter_module
from vfindex.search.rank import required as required_module
from vfindex.search.rank.lexical import KeywordMatches, match_keywords
from vfindex.search.rank.prefilter import build_prefilter
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.library import Library
from vfindex.storage.modalities import get_modality
from vfindex.storage.records import Document, Line, Segment, UnitPlan, UnitResult
from vfindex.storage.text import document_lists as lists_module
from vfindex.storage.text import full_text as words_module
from vfindex.storage.text.corrected import Corrections
from vfindex.storage.writer import Writer, writing

VIDEOS, CLIPS = 14, 4
# `all` is in every text, the others in so many, `none` in no text. Porter's stemmer keeps them as they are.
WORDS = {"most": 0.8, "half": 0.5, "kit": 0.3, "few": 0.06}
QUERIES = (
    "said:all",
    "said:most",
    "said:few",
    "said:none",
    "titled:all",
    "titled:few",
    "written:half",
    "said:all said:few",
    "said:most said:half",
    "said:all titled:half",
    "written:half said:kit said:most",
    "said:none said:all",
    '"all most"',
    '"most half"',
    '"half kit"',
    '"few all"',
    '"all most" said:few',
    '"most half" "half kit"',
    'said:"kit all"',
    "-all",
    "-most",
    "-said:half",
    "-titled:few",
    "-few",
    "-none",
    '-"most half"',
    '-said:"kit all"',
    "said:most -half",
    '"all most" -few -titled:half',
    "said:most in:v0*",
    "-kit in:v1*",
    "said:few longer:9s in:v*2 in:v*3",
    "-half lang:de",
    "said:all speaker:ann",
)


@dataclass(frozen=True)
class Text:
    """A document, with the order of a segment in its track; start_s: None for one of a whole video."""

    number: int
    video: int
    kind: str
    words: list[str]
    start_s: float | None = None
    end_s: float = 0.0
    language: str = ""
    speakers: tuple[str, ...] = ()


def sentence(draw: random.Random) -> str:
    chosen = [word for word, share in WORDS.items() if draw.random() < share]
    draw.shuffle(chosen)
    return " ".join(["all", *chosen] if draw.random() < 0.5 else [*chosen, "all"])


def segments(draw: random.Random) -> list[Segment]:
    """Return lines of three tracks; some follow each other at once, some after a pause, some reach into two clips."""
    lines, track_ends = [], {"speech": 0.3, "screen": 0.3, "text": 0.3}
    for track in draw.choices(["speech", "speech", "screen", "text"], k=12):
        start_s = track_ends[track] + draw.choice([0.0, 0.4, 2.6])
        end_s = start_s + draw.choice([0.9, 2.2, 4.3])
        track_ends[track] = end_s
        source, who = ("chapter" if track == "text" else "asr"), draw.choice([(), (), ("Ann Lee",), ("Bo", "Ann Lee")])
        language = draw.choice(["en", "de"]) if track == "speech" else ""
        speakers = who if track == "speech" else ()
        lines.append(Segment(start_s, end_s, sentence(draw), source, language, track=track, speakers=speakers))  # type: ignore[arg-type]
    return lines


def make(folder: Path, draw: random.Random) -> None:
    """Make a library: videos whose units come in turn, removed, missing and unfinished ones, and one read again."""
    with writing(folder) as writer:
        install(writer)
        for number in range(0, VIDEOS, 2):
            add_in_turn(writer, [f"v{number:02d}", f"v{number + 1:02d}"], draw)
        writer.publish()
        writer.catalog.remove(b"/videos/v03")
        writer.catalog.mark_missing([b"/videos/v04"])
        add_video(writer, "v20", clips(), segments(draw), [Document("title", sentence(draw))])
        being = writer.catalog.begin_video(video("being"), [UnitPlan(0), UnitPlan(1)], recognised=True)
        unit = writer.catalog.pending_units(being)[0][0]
        writer.commit_unit(being, "being", unit, UnitResult(tuple(clips()), tuple(segments(draw))))


def clips() -> list:  # type: ignore[type-arg]
    return [clip(5.0 * n, 5.0 * n + 5, visual=axis(n)) for n in range(CLIPS)]


def add_in_turn(writer: Writer, names: Sequence[str], draw: random.Random) -> None:
    """Add videos of two units whose documents' ids alternate."""
    begun = [
        writer.catalog.begin_video(video(name), [UnitPlan(0, 0.0, 10.0), UnitPlan(1, 10.0, None)], recognised=True)
        for name in names
    ]
    lines = [segments(draw) for _ in names]
    for half in (0, 1):
        for name, id_, said in zip(names, begun, lines, strict=True):
            unit = writer.catalog.pending_units(id_)[0][0]
            own = [each for each in said if (each.start_s >= 10) == bool(half)]
            writer.commit_unit(
                id_, f"{name}{half}", unit, UnitResult(tuple(clips()[2 * half : 2 * half + 2]), tuple(own))
            )
    for name, id_ in zip(names, begun, strict=True):
        titles = [Document("title", sentence(draw))] if draw.random() < 0.7 else []
        writer.catalog.finish_video(id_, place(name), [*titles, Document("tag", "all")][: draw.randint(0, 2)])


def texts(snapshot: Snapshot) -> list[Text]:
    """Return all documents of searchable videos, as corrected."""
    rows = snapshot._fetched(
        "SELECT d.id, d.video_id, d.kind, d.text, s.id, s.start_s, s.end_s, s.language, s.speakers FROM document d"
        " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
        " WHERE v.state IN ('indexed', 'partial')"
    )
    corrected = snapshot.words.corrected.segments
    return [
        Text(id_, of, kind, corrected.get(s, text).split(), start, end or 0.0, language, tuple((who or "").split("\n")))
        for id_, of, kind, text, s, start, end, language, who in rows
    ]


def holds(text: Text, words: Sequence[str]) -> bool:
    return any(text.words[n : n + len(words)] == list(words) for n in range(len(text.words)))


def containing(every: Sequence[Text], keyword: Keyword) -> set[int]:
    """Return the numbers of the texts that contain a keyword, alone or with the one before or after."""
    words = keyword.text.split()
    kinds = {kind for modality in keyword.modalities for kind in get_modality(modality).document_kinds}
    chosen = [each for each in every if each.kind in kinds]
    found = {each.number for each in chosen if holds(each, words)}
    timed = sorted((each for each in chosen if each.start_s is not None), key=lambda each: (each.start_s, each.number))
    for second in timed if keyword.exact else ():
        before = [
            each
            for each in timed[: timed.index(second)]
            if (each.video, each.kind) == (second.video, second.kind) and each.end_s >= (second.start_s or 0) - 2
        ]
        for cut in range(1, len(words)) if before else ():
            if before[-1].words[-cut:] == words[:cut] and second.words[: len(words) - cut] == words[cut:]:
                found |= {before[-1].number, second.number}
    return found


def overlaps(text: Text, start_s: float, end_s: float) -> bool:
    return text.start_s is None or (text.start_s < end_s and text.end_s > start_s)


def expected(snapshot: Snapshot, query: str) -> set[int]:
    """Return the clips that may answer a query."""
    parsed, every = parse(query), texts(snapshot)
    [moment] = parsed.moments
    answers = set()
    wanted = [containing(every, each) for each in moment.keywords() if each.required]
    excluded = [containing(every, each) for each in moment.excluded()]
    for each in snapshot.clips(snapshot.clip_ids()).values():
        own = [text for text in every if text.video == each.video_id]
        during = {text.number for text in own if overlaps(text, each.start_s, each.end_s)}
        spoken = [text for text in own if text.kind == "speech"]
        name = snapshot.named([each.video_id])[each.video_id][1][0].decode().removeprefix("/videos/")
        passes = not parsed.filters.inside or any(
            name.startswith(glob.rstrip("*")) if glob.endswith("*") else name.endswith(glob[-1])
            for glob in parsed.filters.inside
        )
        passes &= not parsed.filters.languages or any(text.language == "de" for text in spoken)
        passes &= not parsed.filters.speakers or any(
            "Ann Lee" in text.speakers and text.number in during for text in spoken
        )
        if passes and all(during & found for found in wanted) and not any(during & found for found in excluded):
            answers.add(each.id)
    return answers


def answered(snapshot: Snapshot, query: str) -> tuple[set[int], KeywordMatches]:
    """Return the clips that a search accepts, and its keyword matches."""
    parsed = parse(query)
    [moment] = parsed.moments
    videos, spoken = filtered(snapshot, parsed.filters), clips_passing(snapshot, parsed.filters)
    matches = match_keywords(snapshot, moment.keywords(), videos)
    prefilter = build_prefilter(snapshot, moment, matches, videos, (), spoken)
    every = snapshot.clip_ids()
    return set(every if prefilter is None else prefilter.accepted(every)), matches


@pytest.fixture(scope="module", params=range(4))
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp(f"oracle{request.param}")
    make(folder, random.Random(request.param))
    return folder


@pytest.fixture
def library(folder: Path) -> Library:
    """Return the library with nothing cached."""
    return Library.open(folder)


def snapshots(library: Library) -> Iterator[Snapshot]:
    """Yield snapshots without corrections, and with some in which words come and go."""
    with library.snapshot() as snapshot:
        yield snapshot
        lines = {}
        for fingerprint, id_ in snapshot._fetched("SELECT fingerprint, id FROM video WHERE staged = 0"):
            for number, each in enumerate(snapshot.segments(id_)):
                if number % 3 == 0 and each.track != "text":
                    line = Line(
                        fingerprint, each.track, round(1000 * each.start_s), round(1000 * each.end_s), each.text
                    )
                    lines[line] = ("few most half", "kit all few", "nothing")[number % 9 // 3]
    with Snapshot(library._engine, corrections=Corrections(lines, "1")) as snapshot:
        assert snapshot.words.corrected.documents
        yield snapshot


def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at few documents of every word, in few videos at once."""
    small = {"MAX_WHOLE": 8, "MAX_PASSED": 12, "MAX_RUNS": 3, "PER_RUN": 2, "FEW_VIDEOS": 3}
    for name, value in small.items():
        monkeypatch.setattr(lists_module, name, value)
    for name in ("MAX_LISTED", "MAX_NEWEST", "MAX_BROKEN"):
        monkeypatch.setattr(words_module, name, 5)
    monkeypatch.setattr(words_module, "MAX_PASSED", 12)
    monkeypatch.setattr(words_module, "MAX_WHOLE", 8)
    monkeypatch.setattr(words_module, "LEAST_NEWEST", 2)
    monkeypatch.setattr(required_module, "MAX_LISTED", 5)
    monkeypatch.setattr(required_module, "MAX_VERIFIED", 4)
    monkeypatch.setattr(prefilter_module, "FEW_VIDEOS", 3)


def test_words_and_filters_choose_the_clips_that_a_reader_of_all_texts_would(library: Library) -> None:
    for snapshot in snapshots(library):
        for query in QUERIES:
            found, matches = answered(snapshot, query)
            assert found == expected(snapshot, query) and not matches.cut, query


def test_of_common_words_some_documents_are_left_out_and_none_is_wrong(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch)
    told = 0
    for snapshot in snapshots(library):
        for query in QUERIES:
            found, matches = answered(snapshot, query)
            right = expected(snapshot, query)
            assert found <= right and (matches.cut or found == right), query
            told += bool(matches.cut)
    assert 0 < told < 2 * len(QUERIES), "of rare words all documents are found"


def test_the_newest_documents_of_a_common_word_are_not_left_out(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch)
    for snapshot in snapshots(library):
        spoken = [each for each in texts(snapshot) if each.kind == "speech"]
        for word in ("all", "most"):
            newest = max(each.number for each in spoken if holds(each, [word]))
            _, matches = answered(snapshot, f"said:{word}")
            assert all(newest in each.documents for each in matches.required.values()) and matches.cut == (word,)


def test_optional_words_are_found_in_every_document_that_holds_them(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    for few in (100, 2):
        monkeypatch.setattr(lists_module, "FEW_VIDEOS", few)
        for snapshot in snapshots(library):
            every = texts(snapshot)
            for videos in (None, sorted({each.video for each in every})[::2]):
                found = snapshot.words.match(["few", "kit", "none"], 1000, videos)
                among = [each for each in every if videos is None or each.video in videos]
                assert {each.document_id: each.phrases for each in found} == {
                    each.number: {word for word in ("few", "kit") if holds(each, [word])}
                    for each in among
                    if {"few", "kit"} & set(each.words)
                }
                assert all(replace(each, bm25=0.0).text for each in found)
