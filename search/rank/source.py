"""One library of a search: what `retrieve` takes from it, and the one whose files are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol

from vfindex.search.query.ast import Order, Query
from vfindex.search.query.filters import clips_passing, filtered
from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Result, merge_neighbours
from vfindex.search.rank.lexical import NO_DOCUMENTS, Frequencies, KeywordMatches, find_frequencies, match_keywords
from vfindex.search.rank.prefilter import Prefilter, build_prefilter
from vfindex.search.rank.query_vectors import ImageSample, QueryVectors, sample_images
from vfindex.search.rank.score import ScoredClip
from vfindex.search.rank.temporal import Pair, best_pairs
from vfindex.storage.db.units import searchable_prints
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.library import Library
from vfindex.storage.records import FloatArray


@dataclass(frozen=True, slots=True)
class Statistics:
    """What scores take from whole libraries; those of several add up.

    frequencies: of the keywords of each moment. sample: of the images of the query.
    """

    frequencies: tuple[Frequencies, ...]
    sample: ImageSample = field(default_factory=ImageSample)

    @classmethod
    def none(cls, query: Query) -> Statistics:
        """Return the statistics of no library."""
        return cls((NO_DOCUMENTS,) * len(query.moments))

    @classmethod
    def of(cls, view: View, query: Query, images: Sequence[FloatArray]) -> Statistics:
        """Return what others that are searched with a library take from it."""
        frequencies = tuple(find_frequencies(view.snapshot, moment.keywords()) for moment in query.moments)
        return cls(frequencies, sample_images(view, images, alone=False))

    def plus(self, other: Statistics) -> Statistics:
        """Return the statistics of both."""
        pairs = zip(self.frequencies, other.frequencies, strict=True)
        return Statistics(tuple(one.plus(another) for one, another in pairs), self.sample.plus(other.sample))


def total(statistics: Iterable[Statistics], query: Query) -> Statistics:
    """Return the statistics of libraries together."""
    return reduce(Statistics.plus, statistics, Statistics.none(query))


class Source(Protocol):
    """A library of a search. moment: 0, or 1 for the second of two."""

    @property
    def number(self) -> int:
        """Its place among the libraries of the search."""

    @property
    def cut(self) -> Sequence[str]:
        """The required words that more documents contain than were searched."""

    def look(self, depth: int) -> None:
        """Begin to read the candidates to a depth; the calls below wait for them."""

    def size(self, moment: int) -> int:
        """Return how many candidates an unlimited depth gives at most."""

    def top_scores(self, moment: int, depth: int) -> Mapping[int, float]:
        """Return the preliminary scores of `Candidates.top_scores`."""

    def bound(self, moment: int, scores: Sequence[float], depth: int) -> float:
        """Return an upper bound of the score of clips outside `top_scores`, whose scores are `scores`."""

    def best(self, depth: int) -> list[ScoredClip]:
        """Return the best candidates of a library that is searched alone, best first."""

    def score(self, ids: Iterable[int]) -> list[ScoredClip]:
        """Return clips for the first moment, scored, best first."""

    def pairs(self, tops: Sequence[Mapping[int, float]], when: tuple[Order, float], limit: int) -> list[Pair]:
        """Return the best pairs with a clip among `tops`, best first, see `best_pairs`."""

    def merge(self, results: Sequence[Result], apart: Sequence[Result], *, is_last: bool) -> None:
        """Merge the neighbours of results of this library, see `merge_neighbours`.

        is_last: the spans are read only with the hits.
        """

    def duration_s(self, video_id: int) -> float:
        """Return the length of a video."""


@dataclass(frozen=True, slots=True, eq=False)
class LocalSource:
    """A library on this machine. moments: its candidates for each moment. cut: see `KeywordMatches`."""

    library: Library
    view: View
    moments: tuple[Candidates, ...]
    cut: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return self.view.number

    def look(self, depth: int) -> None:
        """Do nothing: candidates are read when they are needed."""

    def size(self, moment: int) -> int:
        return self.moments[moment].size

    def top_scores(self, moment: int, depth: int) -> Mapping[int, float]:
        return self.moments[moment].top_scores(depth)

    def bound(self, moment: int, scores: Sequence[float], depth: int) -> float:
        return self.moments[moment].bound(scores, depth)

    def best(self, depth: int) -> list[ScoredClip]:
        return self.moments[0].best(depth)

    def score(self, ids: Iterable[int]) -> list[ScoredClip]:
        return self.moments[0].score(ids)

    def pairs(self, tops: Sequence[Mapping[int, float]], when: tuple[Order, float], limit: int) -> list[Pair]:
        return best_pairs(self.view.snapshot, (self.moments[0], self.moments[1]), tops, when, limit)

    def merge(self, results: Sequence[Result], apart: Sequence[Result], *, is_last: bool) -> None:
        merge_neighbours(self.view.snapshot, self.moments[0], results, apart)

    def duration_s(self, video_id: int) -> float:
        return self.view.snapshot.duration_s(video_id)


def local_sources(
    opened: Sequence[tuple[Library, View]],
    query: Query,
    vectors: Callable[[], Sequence[QueryVectors]],
    elsewhere: Sequence[Statistics] | None,
) -> tuple[list[LocalSource], set[str]]:
    """Return the libraries with their candidates, and the fingerprints that others need not search, if there are any.

    A video of several is searched in the first whose copy passes the filters. vectors: waits for those of each moment.
    elsewhere: for each library, the statistics of all others; None for one that is searched alone.
    """
    looked_up, seen = [], set[str]()
    statistics = [Statistics.none(query)] * len(opened) if elsewhere is None else elsewhere
    for (library, view), others in zip(opened, statistics, strict=True):
        videos, hidden = filtered(view.snapshot, query.filters), list[int]()
        if elsewhere is not None:
            prints = searchable_prints(view.snapshot)
            hidden = [prints[each] for each in prints.keys() & seen]
            seen.update(each for each, id_ in prints.items() if videos is None or id_ in videos)
        found, clips = [], clips_passing(view.snapshot, query.filters)
        for moment, frequencies in zip(query.moments, others.frequencies, strict=True):
            keywords = match_keywords(view.snapshot, moment.keywords(), videos, frequencies)
            found.append((keywords, build_prefilter(view.snapshot, moment, keywords, videos, hidden, clips)))
        looked_up.append((library, view, found))
    for _, view, _ in looked_up:
        if isinstance(view.index, JointIndex):
            view.index.prepare()  # while the words are encoded
    return [_source(library, view, vectors(), found) for library, view, found in looked_up], seen


def _source(
    library: Library,
    view: View,
    vectors: Sequence[QueryVectors],
    found: Sequence[tuple[KeywordMatches, Prefilter | None]],
) -> LocalSource:
    """Return a library with its candidates. vectors, found: of each moment."""
    moments = [Candidates(view, each, *words) for each, words in zip(vectors, found, strict=True)]
    return LocalSource(library, view, tuple(moments), tuple(word for keywords, _ in found for word in keywords.cut))
