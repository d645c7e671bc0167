"""The hits of a search: its results with what a reader of them needs besides, as the records of `results`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from vfindex.search.calibration.labels import META_KEY, Labeller, open_weights
from vfindex.search.query.ast import Query
from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.filters import Unmatched, unmatched, unmatched_in_all
from vfindex.search.query.hints import hints
from vfindex.search.query.like import Like
from vfindex.search.query.request import Request
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Result
from vfindex.search.rank.lexical import DocumentMatch, phrase_s
from vfindex.search.rank.retrieve import retrieve
from vfindex.search.rank.score import ScoredClip
from vfindex.search.rank.source import LocalSource, Source
from vfindex.search.results import Hit, Hits, Match, Place, Span
from vfindex.storage.db.units import searchable_prints
from vfindex.storage.labels import labels_of, probability_by_name
from vfindex.storage.library import Library
from vfindex.storage.modalities import ModalityName, get_modality, modality_names
from vfindex.storage.records import COARSE, ClipKey, Setup

# Characters of transcript shown with a hit without matched keywords.
SNIPPET_CHARS = 160


@dataclass(frozen=True, slots=True)
class Facts:
    """What labels and hints take from a library.

    weights: of the query, see `open_weights`. models: the modalities it has. calibration: JSON, None before it is
    measured. unmatched: values of filters that match nothing in it.
    """

    weights: Mapping[ModalityName, float]
    models: Collection[ModalityName]
    calibration: str | None
    unmatched: Sequence[Unmatched]

    @classmethod
    def of(cls, view: View, query: Query) -> Facts:
        """Return the facts of a library on this machine."""
        stored = view.snapshot.get(META_KEY) if view.rank_weights is None else None
        return cls(open_weights(view.spec), view.setup.models, stored, unmatched(view.snapshot, query.filters))


@dataclass(frozen=True, slots=True)
class Found:
    """What one library has of the results of a search.

    hits: of its own results, by the ids of their clips, without rank, label and places in other libraries. videos: id
    -> path, of its videos among the duplicates. copies: fingerprint -> its paths of a video of another library.
    """

    hits: Mapping[tuple[int, ...], Hit]
    videos: Mapping[int, bytes | None]
    copies: Mapping[str, Sequence[bytes]]


class Member(Source, Protocol):
    """A library on another machine."""

    @property
    def place(self) -> str:
        """What names it in hits."""

    def prints(self, results: Sequence[Result]) -> Collection[str]:
        """Return the fingerprints of its videos among results."""

    def describe(self, results: Sequence[Result], prints: Collection[str]) -> None:
        """Begin to ask for what `found` returns. prints: fingerprints of videos of all libraries."""

    def found(self) -> Found:
        """Return what it has of the results, and set the spans of its own."""


def find_hits(
    sources: Sequence[LocalSource | Member],
    facts: Sequence[Facts],
    encoded: EncodedQuery,
    request: Request,
    examples: Sequence[Result] = (),
) -> Hits:
    """Return the best hits of all libraries. facts: of each. examples: clips among the images of the query."""
    results = retrieve(sources, encoded.query, (request.top_k, request.per_video), examples)
    found = _found(sources, results)
    stored = [None if encoded.has_images or request.judged else each.calibration for each in facts]
    labeller = Labeller.of(stored, encoded.query, facts[0].weights)
    lacking = [m for m in modality_names() if not any(m in each.models for each in facts)]
    return Hits(
        [_hit(rank, result, found, (sources, labeller)) for rank, result in enumerate(results, start=1)],
        hints(
            encoded.query,
            unmatched_in_all([each.unmatched for each in facts]),
            {m: _lacking(m) for m in lacking},
            dict.fromkeys(word for each in sources for word in each.cut),
        ),
        query=str(request.text),
        images=tuple(str(each) for each in request.images if not isinstance(each, Like | ClipKey)),
        like=tuple(str(each) if isinstance(each, Like) else "{}@{}ms".format(*each) for each in encoded.likes),
    )


def _found(sources: Sequence[LocalSource | Member], results: Sequence[Result]) -> list[Found]:
    """Return what each library has of the results; those on other machines are asked at once."""
    prints: set[str] = set()
    for each in sources if len(sources) > 1 else ():
        prints.update(_prints(each, results) if isinstance(each, LocalSource) else each.prints(results))
    for each in sources:
        if not isinstance(each, LocalSource):
            each.describe(results, prints)
    return [
        found_in(each, results, prints, _duplicates(each, results)) if isinstance(each, LocalSource) else each.found()
        for each in sources
    ]


def _duplicates(source: LocalSource, results: Sequence[Result]) -> set[int]:
    return {copy.video[1] for each in results for copy in each.duplicates if copy.video[0] == source.number}


def _prints(source: LocalSource, results: Sequence[Result]) -> set[str]:
    videos = [each.video[1] for each in results if each.video[0] == source.number]
    return {fingerprint for fingerprint, _ in source.view.snapshot.named(videos).values()}


def found_in(
    source: LocalSource, results: Sequence[Result], prints: Collection[str], duplicates: Collection[int]
) -> Found:
    """Return what a library on this machine has of the results.

    prints: see `Member.describe`. duplicates: its videos among those of the results.
    """
    view, snapshot = source.view, source.view.snapshot
    own = [each for each in results if each.video[0] == source.number]
    videos = snapshot.named(list({*(each.video[1] for each in own), *duplicates}))
    clips = [each.clip.id for result in own for each in result.moments]
    said, coverage, labels = snapshot.said(clips), snapshot.coverage_of(clips), labels_of(snapshot, clips)
    details = ClipDetails(source.library, view.setup, videos, said, coverage, labels)
    mine = {fingerprint for fingerprint, _ in videos.values()}
    known = searchable_prints(snapshot) if prints else {}
    elsewhere = [known[each] for each in prints if each in known and each not in mine]
    return Found(
        {tuple(each.clip.id for each in result.moments): _own_hit(result, details) for result in own},
        {id_: _existing_first(videos[id_][1])[0] for id_ in duplicates},
        dict(snapshot.named(elsewhere).values()) if elsewhere else {},
    )


@dataclass(frozen=True, slots=True)
class ClipDetails:
    """What the hits of one library need beyond scores.

    setup: of the library. videos: video id -> fingerprint and paths. said, coverage, labels: by clip id.
    """

    library: Library
    setup: Setup
    videos: Mapping[int, tuple[str, Sequence[bytes]]]
    said: Mapping[int, str]
    coverage: Mapping[int, Mapping[str, str]]
    labels: Mapping[int, Mapping[str, float]]


def _hit(rank: int, result: Result, found: Sequence[Found], by: tuple[Sequence[LocalSource | Member], Labeller]) -> Hit:
    """Return a hit with what depends on the other libraries and all calibrations."""
    sources, labeller = by
    number, _ = result.video
    hit = found[number].hits[tuple(each.clip.id for each in result.moments)]
    also, known = list(hit.also), {hit.video, *(each.video for each in hit.also)}
    for source, each in zip(sources, found, strict=True):
        paths = each.copies.get(hit.key.fingerprint, ()) if source.number != number else ()
        is_new = [path for path in paths if path not in known or not isinstance(source, LocalSource)]
        also += [Place(path, result.start_s, result.end_s, _place(source)) for path in is_new]
    for duplicate in result.duplicates:
        of, id_ = duplicate.video
        also.append(Place(found[of].videos[id_], duplicate.start_s, duplicate.end_s, _place(sources[of])))
    share, label = labeller.share(hit.modalities), labeller.label(hit.modalities)
    return replace(hit, rank=rank, also=tuple(also), share=share, confidence=label)


def _place(source: LocalSource | Member) -> Path | str:
    return source.library.root if isinstance(source, LocalSource) else source.place


def _own_hit(result: Result, details: ClipDetails) -> Hit:
    """Return a hit as its library knows it: without rank, label, and places in other libraries."""
    best = max(result.moments, key=lambda each: each.score)
    video_id, root = result.video[1], details.library.root
    fingerprint, paths = details.videos[video_id]
    first, *copies = _existing_first(paths)
    matches = _matches(result)
    modalities = {m: _sum(each.contributions.get(m) for each in result.moments) for m in modality_names()}
    return Hit(
        rank=0,
        library=root,
        video=first,
        video_id=video_id,
        clip_id=best.clip.id,
        key=ClipKey(fingerprint, best.clip.start_ms),
        start_s=_start_s(result, matches),
        end_s=result.end_s,
        frame_s=best.frame_s,
        score=result.score,
        share=None,
        confidence=None,
        coarse=COARSE in details.coverage.get(best.clip.id, ()),
        modalities=modalities,
        words=tuple(dict.fromkeys(word for each in result.moments for word in each.words)),
        snippet=best.snippet or details.said.get(best.clip.id, "")[:SNIPPET_CHARS] or None,
        moments=tuple(Span(each.clip.start_s, each.clip.end_s, each.frame_s, each.score) for each in result.moments),
        also=tuple(Place(path, result.start_s, result.end_s, root) for path in copies),
        matches=matches,
        missing={m: _why_missing(m, best, details) for m in modality_names() if modalities[m] is None},
        thumbnail=details.library.thumbnail(best.clip.thumbnail),
        labels=probability_by_name(details.labels.get(best.clip.id, {})),
    )


def _matches(result: Result) -> tuple[Match, ...]:
    """Return the texts that contain words of the query, each once, those with the most words first."""
    by_id = {each.document.document_id: each for scored in result.moments for each in scored.matches}
    ordered = sorted(by_id.values(), key=lambda each: (-len(each.keywords), each.document.start_s or 0.0))
    return tuple(
        Match(
            tuple(dict.fromkeys(keyword.text for keyword in each.keywords)),
            each.document.text,
            each.document.kind,
            each.modality,
            each.document.start_s,
            each.document.end_s,
            each.document.source,
            each.document.box,
            _phrase_s(each),
            each.document.speakers,
        )
        for each in ordered
    )


def _phrase_s(match: DocumentMatch) -> float | None:
    """Return when the first of the exact phrases in a text begins, None if that is unknown."""
    times = (phrase_s(match.document, keyword.text) for keyword in match.keywords if keyword.exact)
    return min((time_s for time_s in times if time_s is not None), default=None)


def _start_s(result: Result, matches: Sequence[Match]) -> float:
    """Return the start of a hit: of the exact phrase in it, if its time is known, else of its first clip."""
    if len(result.moments) > 1:
        return result.start_s
    times = (match.phrase_s for match in matches if match.phrase_s is not None)
    return min((time_s for time_s in times if result.start_s <= time_s < result.end_s), default=result.start_s)


def _why_missing(modality: ModalityName, scored: ScoredClip, details: ClipDetails) -> str:
    if modality in scored.vectors.embeddings:
        return "not asked for"
    if modality not in details.setup.models:
        return _lacking(modality)
    covered = details.coverage.get(scored.clip.id, {}).get(modality)
    return f"nothing in this clip ({covered})" if covered else "nothing in this clip"


def _lacking(modality: ModalityName) -> str:
    """Return the sentence about a modality that a library does not have."""
    kind = get_modality(modality)
    option = f" --{kind.model} NAME" if kind.is_optional else ""
    return f"not in this library; to add it: vfindex upgrade{option}"


def _existing_first(paths: Sequence[bytes]) -> list[bytes | None]:
    """Return paths, those that exist first; [None] if there are none."""
    return [*sorted(paths, key=lambda path: not os.path.exists(path))] or [None]


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum of the values that are not None; None if all are."""
    present = [value for value in values if value is not None]
    return sum(present) if present else None
