"""Answers from what is said and written in videos: the moments that answer a question, quoted word for word.

Extractive question answering by passage retrieval (Voorhees 1999, TREC-8). The moments are the hits of a search, in its
order; the segments in them that match best are the quotations. Whether the library answers at all is a test against
chance: a moment counts only if its score in a modality with timed text is above what background queries, which are
about nothing in the library, reach in it (`calibration.labels`: at least the label `low`). Hits of a search by these
modalities alone follow, so that pictures cannot crowd out the only moment that answers. Where a library has no
calibration that separates the two, no moment is an answer, and the reason says so.

A question for a number (`how many`, `which year`: the answer types of Li and Roth 2002) is answered only by a moment
that has one.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vfindex.search.calibration.labels import META_KEY, Calibration, Label, Labeller, open_weights
from vfindex.search.engine import answer
from vfindex.search.libraries import existing_video
from vfindex.search.live import require_videos
from vfindex.search.query.ast import FURTHER_STOP_WORDS, STOP_WORDS, Filters, Query
from vfindex.search.query.like import video_among
from vfindex.search.query.request import Request
from vfindex.search.rank.group import MERGED_SHARE, REACH_S
from vfindex.search.rank.lexical import match_keywords
from vfindex.search.results import Record
from vfindex.search.understanding.answering.passages import Passage, score_passages
from vfindex.storage.errors import LibraryError, QueryError
from vfindex.storage.library import reading_spec
from vfindex.storage.modalities import ModalityName, get_modality, modality_names
from vfindex.storage.records import SEARCHABLE, Box, ClipKey, Segment, SegmentSource
from vfindex.storage.text.folding import folded
from vfindex.storage.text.tokenizer import plain_words, words_of

if TYPE_CHECKING:
    from vfindex.search.engine import SearchEngine
    from vfindex.search.libraries import OpenLibraries
    from vfindex.search.live import Searcher
    from vfindex.search.results import Hit
    from vfindex.search.understanding.answering.endpoint import Endpoint
    from vfindex.search.understanding.answering.phrase import Phrased
    from vfindex.storage.db.reader import Snapshot
    from vfindex.storage.db.videos import StoredVideo

TOP_K, MAX_TOP_K = 3, 20
# Segments quoted of each track; a clip of ten seconds has two to four of speech, a screen may have dozens.
MAX_QUOTATIONS = 4
NOT_SAID = "the library does not say"
# Text models of English alone, by their references; those of the other presets know many languages.
_ENGLISH_MODELS = frozenset({"all-MiniLM-L6-v2"})
_OTHER_LANGUAGE = "; its text model knows English alone, and none of these words is in it"
_CHANCE = "no answer is better than chance here: "
# Moments that another rule leaves out are replaced by those after them.
_SPARE = 3
_FOR_NUMBER = re.compile(r"\bhow many\b|\b(?:what|which) year\b", re.IGNORECASE)
_NUMBER_WORDS = """
    zero none one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion
"""
_NUMBERS = frozenset(_NUMBER_WORDS.split())
_TIMES = frozenset({"start_s", "end_s"})


@dataclass(frozen=True, slots=True)
class Quotation(Record):
    """A segment, word for word. words: those of the question in it. Otherwise as `Match`."""

    rounded: ClassVar[frozenset[str]] = _TIMES

    text: str
    track: ModalityName
    source: SegmentSource
    start_s: float
    end_s: float
    words: tuple[str, ...]
    box: Box | None
    speakers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moment(Record):
    """A hit whose quotations may answer the question. rank: from 1. start_s, end_s: of the hit.

    score, share, confidence: as of a hit, by what is said and written alone.
    """

    rounded: ClassVar[frozenset[str]] = _TIMES

    rank: int
    library: Path | str
    video: bytes | None
    key: ClipKey
    start_s: float
    end_s: float
    score: float
    share: float | None
    confidence: Label | None
    quotations: tuple[Quotation, ...]


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """What the libraries say to a question.

    says: whether a moment is better than chance; None if the libraries cannot tell. reason: why there is no answer,
    None if there is one. moments: best first. phrased: by an endpoint, None if none was asked.
    """

    question: str
    video: bytes | None
    says: bool | None
    reason: str | None
    moments: tuple[Moment, ...]
    phrased: Phrased | None


def ask(  # noqa: PLR0913  the options of `SearchService.ask`
    libraries: OpenLibraries,
    question: str,
    *,
    video: str | Path | None = None,
    top_k: int = TOP_K,
    show_all: bool = False,
    endpoint: Endpoint | None = None,
    timeout_s: float | None = None,
) -> Answer:
    """Return the moments whose speech or text answers a question.

    video: only this one. show_all: also moments no better than chance. endpoint: phrases an answer, if there is one.
    timeout_s: of each search. Raises QueryError for a question without words, or if nothing is said or written;
    QueryTimeout, LibraryError, UsageError.
    """
    if not isinstance(question, str) or not question.split():
        raise QueryError("the question has no words")
    if not isinstance(top_k, int) or not 1 <= top_k <= MAX_TOP_K:
        raise QueryError(f"top_k must be a whole number from 1 to {MAX_TOP_K}, not {top_k!r}")
    for engine in libraries.engines:
        with engine.named_among(libraries.engines):
            engine.searcher()  # an empty library says so
    with libraries.opened() as (_, snapshots):
        specs = []
        for engine, snapshot in zip(libraries.engines, snapshots, strict=True):
            with engine.named_among(libraries.engines):
                specs.append(reading_spec(snapshot)[0])
        if not any(snapshot.video_ids() for snapshot in snapshots):
            require_videos(snapshots[0], libraries.engines[0].folder)
        path = None if video is None else _path_of(snapshots, video)
        _check_text(snapshots, video)
        uncalibrated = _why_uncalibrated(snapshots)
        has_scores = all(spec.weights_are_open for spec in specs)
        query = Query.plain(question)
        is_foreign = _is_foreign(libraries.engines, snapshots, query)
        if path is not None:
            query = replace(query, filters=Filters(inside=(escape(os.fsdecode(path)),)))
        labeller = _labeller(snapshots, query)
    asked = _Asked(libraries, question, query, labeller, top_k + _SPARE)
    hits = asked.hits(top_k, timeout_s) if has_scores and (show_all or not is_foreign) else []
    found = asked.moments([hit for hit in hits if show_all or asked.counts(hit)])
    says = True if any(map(_is_above_chance, found)) else None if not has_scores else asked.says_nothing(hits)
    if is_foreign and has_scores:
        says = False
    not_said = ("the video does not say" if video is not None else NOT_SAID) + (_OTHER_LANGUAGE if is_foreign else "")
    reason = None if says else not_said if says is False else f"{_CHANCE}{uncalibrated}"
    moments = tuple(replace(each, rank=rank) for rank, each in enumerate(found[:top_k], start=1))
    phrased = None
    if says and endpoint is not None:
        from vfindex.search.understanding.answering.phrase import phrase

        phrased = phrase(endpoint, question, [" / ".join(q.text for q in each.quotations) for each in moments])
    return Answer(question, path, says, reason, moments, phrased)


def _is_foreign(engines: Sequence[SearchEngine], snapshots: Sequence[Snapshot], query: Query) -> bool:
    """Return whether a question has function words of another language than English and matches nothing by its words.

    Only where the text model of every library knows English alone. By vectors, it takes what is written in a language
    for an answer to whatever is asked in it.
    """
    if any(engine.setup.references.get("text") not in _ENGLISH_MODELS for engine in engines):
        return False
    [moment] = query.moments
    typed = {folded(word) for word in words_of(moment.text) if word == word.lower()}
    if not typed & FURTHER_STOP_WORDS - STOP_WORDS:
        return False
    return not any(match_keywords(each, moment.keywords()).documents for each in snapshots)


def _path_of(snapshots: Sequence[Snapshot], name: str | Path) -> bytes:
    """Return the first path of a searchable video. Raises LibraryError, UsageError."""
    _, video = video_among(snapshots, name)
    video = existing_video(video, name)
    if video.state not in SEARCHABLE or not video.locations:
        shown = shlex.quote(os.fsdecode(name))
        raise LibraryError(f"{os.fsdecode(name)} is not fully indexed; look it up with: vfindex show {shown}")
    return video.locations[0].path


def _check_text(snapshots: Sequence[Snapshot], name: str | Path | None) -> None:
    """Raise QueryError if nothing is said or written: in the libraries, or in one video."""
    if name is not None:
        number, video = video_among(snapshots, name)
        if video is not None and not any(each.track in tracks() for each in snapshots[number].segments(video.id)):
            shown = os.fsdecode(name)
            raise QueryError(
                f"nothing is said or written in {shown}, as far as it was read: vfindex show {shlex.quote(shown)}"
            )
    elif not any(each.modality_counts().get(track) for each in snapshots for track in tracks()):
        raise QueryError(
            "nothing is said or written in this library: it has no speech and no text on the screen; "
            "to add what it lacks, run: vfindex upgrade"
        )


def _why_uncalibrated(snapshots: Sequence[Snapshot]) -> str:
    """Return why scores of these libraries may not tell an answer from chance, as a clause."""
    for snapshot in snapshots:
        fusion = reading_spec(snapshot)[0].fusion
        if fusion != "concat":
            return f"scores of the fusion {fusion} are not calibrated; for that run: vfindex rebuild --fusion concat"
        calibration = Calibration.from_json(snapshot.get(META_KEY))
        if calibration is None:
            return "the scores of this library are not calibrated yet, which its next vfindex ingest does"
        lacking = {m: each for m, each in calibration.modalities.items() if m in tracks() and not each.is_reliable}
        if lacking:
            return ", ".join(f"{m} has {each.reason()}" for m, each in lacking.items())
    return "the weights of this library have changed since its scores were calibrated; run: vfindex ingest"


def tracks() -> tuple[ModalityName, ...]:
    """Return the modalities whose evidence is text with times, and nothing else."""
    kinds = [get_modality(name) for name in modality_names()]
    return tuple(kind.name for kind in kinds if kind.has_segments and not kind.has_documents)


def text_weights() -> dict[ModalityName, float]:
    """Return weights that leave out all modalities whose evidence is no text with times."""
    return {name: 0.0 for name in modality_names() if name not in tracks()}


def _labeller(snapshots: Sequence[Snapshot], query: Query) -> Labeller:
    """Return what labels hits by their timed text alone: what pictures show is no answer that could be quoted."""
    open_ = {m: weight for m, weight in open_weights(reading_spec(snapshots[0])[0]).items() if m in tracks()}
    return Labeller.of([each.get(META_KEY) for each in snapshots], query, open_)


def _said(hit: Hit) -> dict[ModalityName, float | None]:
    """Return the scores of a hit by what is said and written."""
    return {m: score for m, score in hit.modalities.items() if m in tracks()}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question to libraries. labeller: of its hits. depth: hits that are looked at."""

    libraries: OpenLibraries
    question: str
    query: Query
    labeller: Labeller
    depth: int

    def hits(self, top_k: int, timeout_s: float | None) -> list[Hit]:
        """Return the hits of a search in its order; then, if few of them count, those by timed text alone."""
        request = Request(self.query, top_k=self.depth, per_video=self.depth, timeout_s=timeout_s)
        hits = list(answer(self.libraries.engines, request))
        if sum(map(self.counts, hits)) < top_k:
            hits += answer(self.libraries.engines, replace(request, weights=text_weights()))
        return hits

    def counts(self, hit: Hit) -> bool:
        return self.labeller.label(_said(hit)) not in (None, "none")

    def says_nothing(self, hits: Sequence[Hit]) -> bool | None:
        """Return what no moment means: False, or None if the library cannot tell."""
        labels = {self.labeller.label(_said(hit)) for hit in hits}
        return None if labels == {None} or labels == {None, "none"} else False

    def moments(self, hits: Sequence[Hit]) -> list[Moment]:
        """Return the moments of hits that can be quoted, in their order; with a number if one is asked for."""
        found: list[tuple[int, Moment]] = []
        with self.libraries.opened() as (opened, snapshots):
            for library, snapshot, engine in zip(opened, snapshots, self.libraries.engines, strict=True):
                own = [(place, hit) for place, hit in enumerate(hits) if hit.library == library.root]
                found += self._quoted(own, snapshot, engine.searcher())
        wants_number = _FOR_NUMBER.search(self.question) is not None
        ordered = [each for _, each in sorted(found, key=lambda each: each[0])]
        return _distinct([each for each in ordered if not wants_number or _has_number(each.quotations)])

    def _quoted(
        self, hits: Sequence[tuple[int, Hit]], snapshot: Snapshot, searcher: Searcher
    ) -> list[tuple[int, Moment]]:
        """Return the moments of the hits of one library, each with the place of its hit."""
        videos = [snapshot.video_with(hit.key.fingerprint) for _, hit in hits]
        stretches = [
            (0 if video is None else video.id, _segments(snapshot, video, hit))
            for video, (_, hit) in zip(videos, hits, strict=True)
        ]
        scored = score_passages(snapshot, searcher, self.question, stretches)
        return [
            (place, _moment(hit, passages, self.labeller))
            for (place, hit), passages in zip(hits, scored, strict=True)
            if passages
        ]


def _distinct(moments: Sequence[Moment]) -> list[Moment]:
    """Return the moments without those that quote nothing new: hits of one video share segments at their ends."""
    seen: set[tuple[object, ...]] = set()
    distinct = []
    for each in moments:
        quoted = {(each.key.fingerprint, q.track, q.start_s, q.text) for q in each.quotations}
        if not quoted <= seen:
            distinct.append(each)
        seen |= quoted
    return distinct


def _is_above_chance(moment: Moment) -> bool:
    return moment.confidence not in (None, "none")


def _segments(snapshot: Snapshot, video: StoredVideo | None, hit: Hit) -> list[Segment]:
    """Return the segments during a hit that may be quoted, in order of time; none of a video that has left."""
    return [
        each
        for each in ([] if video is None else snapshot.segments(video.id))
        if each.track in tracks() and each.text.strip() and each.start_s < hit.end_s and each.end_s > hit.start_s
    ]


def _chosen(passages: Sequence[Passage]) -> list[Passage]:
    """Return the best passage of a track, and others that score nearly as well and are near it, each segment once."""
    chosen: list[Passage] = []
    for each in passages:
        quoted = {id(segment) for one in chosen for segment in one.segments}
        best = chosen[0] if chosen else each
        is_near = each.start_s < best.end_s + REACH_S and each.end_s > best.start_s - REACH_S
        new = [segment for segment in each.segments if id(segment) not in quoted]
        if new and is_near and (not chosen or each.score >= MERGED_SHARE * best.score):
            if len(quoted) + len(new) > MAX_QUOTATIONS:
                break
            chosen.append(replace(each, segments=tuple(new)))
    return chosen


def _moment(hit: Hit, passages: Sequence[Passage], labeller: Labeller) -> Moment:
    """Return a moment that quotes the track with the best passage, and every other that is above chance in it."""
    said = _said(hit)
    quoted = [
        track
        for number, track in enumerate(dict.fromkeys(each.track for each in passages))
        if number == 0 or labeller.label({track: said.get(track)}) not in (None, "none")
    ]
    quotations = [
        Quotation(each.text, each.track, each.source, each.start_s, each.end_s, passage.words, each.box, each.speakers)
        for track in quoted
        for passage in _chosen([each for each in passages if each.track == track])
        for each in passage.segments
    ]
    return Moment(
        rank=hit.rank,
        library=hit.library,
        video=hit.video,
        key=hit.key,
        start_s=hit.start_s,
        end_s=hit.end_s,
        score=sum(score for score in said.values() if score is not None),
        share=labeller.share(said),
        confidence=labeller.label(said),
        quotations=tuple(sorted(quotations, key=lambda each: each.start_s)),
    )


def _has_number(quotations: Sequence[Quotation]) -> bool:
    return any(
        word in _NUMBERS or any(char.isdigit() for char in word)
        for each in quotations
        for word in plain_words(each.text)
    )
