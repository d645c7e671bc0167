"""The hits of a search: its results with what a reader of them needs besides, as the records of `results`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vfindex.search.calibration.labels import META_KEY, Labeller
from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.filters import unmatched, unmatched_in_all
from vfindex.search.query.hints import hints
from vfindex.search.query.like import Like
from vfindex.search.query.request import Request
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Result
from vfindex.search.rank.lexical import DocumentMatch, phrase_s
from vfindex.search.rank.retrieve import retrieve
from vfindex.search.rank.score import ScoredClip
from vfindex.search.results import Hit, Hits, Match, Place, Span
from vfindex.storage.db.units import searchable_prints
from vfindex.storage.library import Library
from vfindex.storage.modalities import ModalityName, get_modality, modality_names
from vfindex.storage.records import COARSE, ClipKey, Setup

# Characters of transcript shown with a hit without matched keywords.
SNIPPET_CHARS = 160


@dataclass(frozen=True, slots=True)
class ClipDetails:
    """What the hits of one library need beyond scores.

    setup: of the library. videos: video id -> fingerprint and paths. said, coverage: by clip id. elsewhere:
    fingerprint -> paths in the other libraries that are searched.
    """

    library: Library
    setup: Setup
    videos: Mapping[int, tuple[str, Sequence[bytes]]]
    said: Mapping[int, str]
    coverage: Mapping[int, Mapping[str, str]]
    elsewhere: Mapping[str, Sequence[bytes]]


def find_hits(libraries: Sequence[Library], views: Sequence[View], encoded: EncodedQuery, request: Request) -> Hits:
    """Return the best hits of all libraries. views: one for each library."""
    results, cut = retrieve(views, encoded, (request.top_k, request.per_video))
    details = [_details(*each, results) for each in zip(libraries, views, strict=True)]
    if len(views) > 1:
        details = [
            replace(each, elsewhere=_elsewhere(views, number, each.videos)) for number, each in enumerate(details)
        ]
    first = views[0]
    is_calibrated = first.rank_weights is None and not encoded.has_images
    stored = [view.snapshot.get(META_KEY) if is_calibrated else None for view in views]
    labeller = Labeller.of(stored, encoded.query, first.spec)
    lacking = [m for m in modality_names() if not any(m in view.setup.models for view in views)]
    return Hits(
        [_hit(rank, result, details, labeller) for rank, result in enumerate(results, start=1)],
        hints(
            encoded.query,
            unmatched_in_all([unmatched(view.snapshot, encoded.query.filters) for view in views]),
            {m: _lacking(m) for m in lacking},
            cut,
        ),
        query=str(request.text),
        images=tuple(str(each) for each in request.images if not isinstance(each, Like | ClipKey)),
        like=tuple(str(each) if isinstance(each, Like) else "{}@{}ms".format(*each) for each in encoded.likes),
    )


def _details(library: Library, view: View, results: Sequence[Result]) -> ClipDetails:
    places = [video for each in results for video in (each.video, *(copy.video for copy in each.duplicates))]
    videos = {id_ for number, id_ in places if number == view.number}
    clips = [each.clip.id for result in results for each in result.moments if each.library == view.number]
    snapshot = view.snapshot
    of_videos, said, coverage = snapshot.named(list(videos)), snapshot.said(clips), snapshot.coverage_of(clips)
    return ClipDetails(library, view.setup, of_videos, said, coverage, {})


def _elsewhere(
    views: Sequence[View], number: int, videos: Mapping[int, tuple[str, Sequence[bytes]]]
) -> dict[str, list[bytes]]:
    """Return fingerprint -> the paths that the other libraries have of the videos of one."""
    paths: dict[str, list[bytes]] = {}
    for view in views:
        prints = searchable_prints(view.snapshot) if view.number != number else {}
        ids = [prints[fingerprint] for fingerprint, _ in videos.values() if fingerprint in prints]
        for fingerprint, found in view.snapshot.named(ids).values() if ids else ():
            paths.setdefault(fingerprint, []).extend(found)
    return paths


def _hit(rank: int, result: Result, libraries: Sequence[ClipDetails], labeller: Labeller) -> Hit:
    best = max(result.moments, key=lambda each: each.score)
    number, video_id = result.video
    details = libraries[number]
    fingerprint, paths = details.videos[video_id]
    first, *copies = _existing_first(paths)
    copies += [path for path in details.elsewhere.get(fingerprint, ()) if path not in paths]
    also = [Place(path, result.start_s, result.end_s) for path in copies if path is not None]
    for duplicate in result.duplicates:
        of, id_ = duplicate.video
        path = _existing_first(libraries[of].videos[id_][1])[0]
        also.append(Place(path, duplicate.start_s, duplicate.end_s))
    matches = _matches(result)
    modalities = {m: _sum(each.contributions.get(m) for each in result.moments) for m in modality_names()}
    return Hit(
        rank=rank,
        library=details.library.root,
        video=first,
        video_id=video_id,
        clip_id=best.clip.id,
        key=ClipKey(fingerprint, best.clip.start_ms),
        start_s=_start_s(result, matches),
        end_s=result.end_s,
        frame_s=best.frame_s,
        score=result.score,
        share=labeller.share(modalities),
        confidence=labeller.label(modalities),
        coarse=COARSE in details.coverage.get(best.clip.id, ()),
        modalities=modalities,
        words=tuple(dict.fromkeys(word for each in result.moments for word in each.words)),
        snippet=best.snippet or details.said.get(best.clip.id, "")[:SNIPPET_CHARS] or None,
        moments=tuple(Span(each.clip.start_s, each.clip.end_s, each.frame_s, each.score) for each in result.moments),
        also=tuple(also),
        matches=matches,
        missing={m: _why_missing(m, best, details) for m in modality_names() if modalities[m] is None},
        thumbnail=details.library.thumbnail(best.clip.thumbnail),
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
