"""What a served library answers to a question that another machine asks of several; `remote.member` asks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vfindex import __version__
from vfindex.search.engine import SearchEngine
from vfindex.search.hits import Facts, found_in
from vfindex.search.query.ast import Query
from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.like import Like, NoClip, clip_or_reason
from vfindex.search.query.names import fingerprint_named
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Request
from vfindex.search.rank.delta import View
from vfindex.search.rank.examples import ExampleClip, example_of, example_results, query_vectors
from vfindex.search.rank.group import Result, merge_neighbours, select_results
from vfindex.search.rank.retrieve import depths
from vfindex.search.rank.score import ScoredClip
from vfindex.search.rank.source import LocalSource, Statistics, local_sources
from vfindex.search.remote import documents
from vfindex.search.remote.documents import Document
from vfindex.storage.errors import LibraryChanged, LibraryError, QueryError, UsageError
from vfindex.storage.library import Library, again_if_changed, reading_hash
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import ClipKey, FloatArray

STEPS = ("statistics", "candidates", "hits")
# The name of no library of this machine in `ExampleClip.number`.
_ELSEWHERE, _NO_IMAGE = -1, np.zeros(0, np.float32)
_WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


class Membership:
    """A library as a member of questions. state: a text that changes with each commit."""

    def __init__(self, engines: Sequence[SearchEngine], state: Callable[[], str]) -> None:
        self._engines, self._state = engines, state

    def answer(self, step: str, question: Mapping[str, Any], timeout_s: float) -> Document:
        """Return the answer to one step of a question. Raises UsageError, QueryError, LibraryError."""
        if len(self._engines) > 1:
            raise UsageError("this server serves several libraries as one; serve each at an address of its own")
        try:
            return self._answered(step, question, timeout_s)
        except _WRONG as exc:
            raise QueryError("the question of another machine is not of this version's form") from exc

    @again_if_changed
    def _answered(self, step: str, question: Mapping[str, Any], timeout_s: float) -> Document:
        if question["version"] != __version__:
            return {"version": __version__}
        text, top_k, per_video = documents.typed(question["text"]), question["top_k"], question["per_video"]
        request = Request(text, (), top_k, per_video, dict(question["weights"]), exact=question["exact"])
        query = parse(text, wordless=True)
        with ExitStack() as opened:
            state = self._state()
            library, view = self._engines[0].open_view(request, query, opened, time.monotonic() + timeout_s)
            asked = Asked(self._engines[0], (library, view), (request, query), question, opened)
            if step == "statistics":
                return asked.statistics() | {"version": __version__, "state": state}
            if question["spec"] != reading_hash(view.snapshot, library.folder) or question["state"] != state:
                raise LibraryChanged("the library has changed since the question began; ask again")
            return asked.candidates() if step == "candidates" else asked.hits()


@dataclass(frozen=True, slots=True)
class Asked:
    """One step of a question to a library. reading: what ends with it."""

    engine: SearchEngine
    opened: tuple[Library, View]
    asked: tuple[Request, Query]
    question: Mapping[str, Any]
    reading: ExitStack

    @property
    def view(self) -> View:
        return self.opened[1]

    def statistics(self) -> Document:
        """Return what the scores, labels and hints of all libraries take from this one, and its clips of the query."""
        view, query = self.view, self.asked[1]
        return {
            "spec": reading_hash(view.snapshot, self.opened[0].folder),
            "dims": {m: part.dim for m, part in view.spec.parts.items()},
            "facts": documents.facts_document(Facts.of(view, query)),
            "statistics": documents.statistics_document(Statistics.of(view, query, self._images())),
            "likes": [documents.example_document(self._like(each)) for each in self.question["likes"]],
        }

    def _images(self) -> tuple[FloatArray, ...]:
        images = documents.listed(documents.vector, self.question.get("images", []))
        dims = [part.dim for m, part in self.view.spec.parts.items() if m == frame_modality()]
        if any([len(image)] != dims for image in images):
            raise QueryError("the images have another dimension than this library's")
        return images

    def _like(self, like: Sequence[Any]) -> ExampleClip | NoClip:
        """Return the clip that somebody means. No file is looked for: the client is on another machine."""
        kind, name, at = like
        snapshot = self.view.snapshot
        try:
            if kind == "key":
                found = clip_or_reason([snapshot], ClipKey(documents.typed(name), at))
            else:
                fingerprint = fingerprint_named([snapshot], documents.typed(name))
                found = clip_or_reason([snapshot], Like(Path(fingerprint), documents.number(at)))
            return found if isinstance(found, NoClip) else example_of(snapshot, 0, found[1])
        except LibraryError as exc:
            return NoClip(str(exc), has_video=False)
        except (QueryError, UsageError) as exc:
            return NoClip(str(exc))

    def _source(self) -> tuple[LocalSource, list[Result]]:
        """Return the library with its candidates, and its clips that are examples."""
        view, query, question = self.view, self.asked[1], self.question
        words = self.engine.searcher().encoder.begin(query, view.unused, self.reading)
        spreads, images = documents.listed(documents.number, question["spreads"]), self._images()
        if any(spread <= 0 for spread in spreads):
            raise QueryError("a spread is above 0")
        encoded = EncodedQuery(query, words, [], [])
        vectors = cache(lambda: query_vectors(encoded, images, spreads, view.spec))
        counts = [len(moment.keywords()) for moment in query.moments]
        elsewhere = documents.read_statistics(
            {"frequencies": question["elsewhere"], "sample": [0, []]}, counts, len(images)
        )
        [source], _ = local_sources([self.opened], query, vectors, [elsewhere])
        shown = [(documents.text(name), documents.number(at)) for name, at in question["examples"]]
        examples = [ExampleClip(_ELSEWHERE, name, at, _NO_IMAGE) for name, at in shown]
        return source, example_results(view, examples, vectors()[0])

    def candidates(self) -> Document:
        """Return the best candidates with their scores, and for two moments the best pairs."""
        (request, query), depth = self.asked, documents.whole(self.question["depth"])
        first, deepest = depths((request.top_k, request.per_video))
        if not 0 < depth <= deepest:
            raise QueryError("the depth is out of range")
        source, examples = self._source()
        tops = [source.top_scores(moment, depth) for moment in range(len(query.moments))]
        clips: list[ScoredClip] = []
        pairs = []
        if query.order is None:
            clips = source.score(tops[0])
        else:
            pairs = source.pairs(tops, (query.order, query.within_s), first)
        shown = [each.moments[0] for each in examples]
        used = [*clips, *shown, *(clip for each in pairs for clip in (each.first, each.second))]
        names = self.view.snapshot.named(list({each.clip.video_id for each in used}))
        return {
            "cut": list(source.cut),
            "sizes": [source.size(moment) for moment in range(len(query.moments))],
            "tops": [list(map(list, top.items())) for top in tops],
            "clips": [documents.clip_document(each) for each in clips],
            "pairs": [[documents.clip_document(each.first), documents.clip_document(each.second)] for each in pairs],
            "videos": [[id_, name, source.duration_s(id_)] for id_, (name, _) in names.items()],
            "examples": [documents.clip_document(each) for each in shown],
            "spans": self._spans(source, clips, examples) if request.per_video > 1 else [],
        }

    def _spans(
        self, source: LocalSource, clips: Sequence[ScoredClip], examples: Sequence[Result]
    ) -> list[tuple[int, float, float]]:
        """Return clip and merged span of the results that this library would have alone, in their order."""
        request, duration_s = self.asked[0], self.view.snapshot.duration_s
        results = select_results(
            [(each,) for each in clips],
            (request.top_k, request.per_video),
            lambda video: duration_s(video[1]),
            lambda new, before: source.merge([new], before, is_last=False),
            examples,
        )
        return [(each.moments[0].clip.id, each.start_s, each.end_s) for each in results]

    def hits(self) -> Document:
        """Return what a reader needs of results; their neighbours are merged where that is not done yet."""
        source, examples = self._source()
        given = [(documents.listed(documents.whole, each["ids"]), each["span"]) for each in self.question["groups"]]
        moments = [
            {each.clip.id: each for each in candidates.score({ids[number] for ids, _ in given})}
            for number, candidates in enumerate(source.moments)
        ]
        results = [Result.of(tuple(of[id_] for of, id_ in zip(moments, ids, strict=True))) for ids, _ in given]
        merged: list[Result] = []
        for result, (_, span) in zip(results, given, strict=True):
            if span is not None:
                result.start_s, result.end_s = documents.listed(documents.number, span)
                merged.append(result)
        new = [result for result, (_, span) in zip(results, given, strict=True) if span is None]
        merge_neighbours(self.view.snapshot, source.moments[0], new, [*examples, *merged])
        prints = documents.listed(documents.text, self.question["prints"])
        found = found_in(source, results, prints, documents.listed(documents.whole, self.question["duplicates"]))
        return documents.found_document(found, [(each.start_s, each.end_s) for each in results])
