"""The search engine: from a query to hits.

from pathlib import Path
from vfindex.search import SearchEngine

engine = SearchEngine.open(Path("library"))
for hit in engine.search("dog running in park"):
    print(hit.rank, hit.video, hit.start_s, hit.score)
"""

from __future__ import annotations

import logging
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.search.hits import Facts, find_hits
from vfindex.search.live import LiveLibrary, Searcher
from vfindex.search.query.ast import Combination, Query
from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.image import Picture
from vfindex.search.query.like import Like
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Example, Request
from vfindex.search.rank.delta import View
from vfindex.search.rank.examples import example_results, find_examples, query_vectors
from vfindex.search.rank.query_vectors import QueryVectors, sample_images
from vfindex.search.rank.source import Statistics, local_sources, total
from vfindex.search.results import Feedback, Hits, Missing
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import (
    IndexUnusable,
    LibraryChanged,
    LibraryError,
    LibraryUnreachable,
    ModelError,
    QueryError,
    UsageError,
)
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import Comparable
from vfindex.storage.library import (
    Library,
    failed_folder,
    reading_hash,
)
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import ClipKey
from vfindex.storage.settings_backup import setup_of

if TYPE_CHECKING:  # a search on this machine opens no connection; its start counts
    from vfindex.search.remote.member import RemoteLibrary, RemoteMember


logger = logging.getLogger(__name__)
# How often a question is put to a library on another machine that changes while it is asked.
MOST_TRIES = 3


class SearchEngine(LiveLibrary):
    """An open library, and its searches."""

    @classmethod
    def open(cls, folder: str | Path, fusion: Fusion | None = None) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged, QueryError if empty.

        fusion: replaces the library's own for this engine; searches then scan all clips, and nothing is stored.
        """
        engine = cls(folder, fusion)
        engine.searcher()
        return engine

    def search(  # noqa: PLR0913  every option of a search has its name; no record to import for one of them
        self,
        text: str | Query = "",
        *,
        images: Sequence[Example] = (),
        top_k: int = 10,
        per_video: int = 1,
        weights: Mapping[ModalityName, float] | None = None,
        combine: Combination = "convex",
        exact: bool = False,
        timeout_s: float | None = None,
    ) -> Hits:
        """Return the best `top_k` hits, at most `per_video` of one video, those no better than chance included.

        text: in the query language of docs/query.md; `Query.plain` makes a query without syntax.
        images: picture files and clips of the library to find similar clips for; text may then be empty.
        weights: override the default weights of these modalities; 0 leaves one out. combine: `rrf` fuses ranks; such
        hits have no confidence, which is calibrated on scores. exact: scan every clip of library.db instead of using
        the joint index; slow in a large library. timeout_s: a search that takes longer raises QueryTimeout.
        Raises QueryError, UsageError, ModelError, LibraryDamaged.
        """
        weights = {} if weights is None else weights
        return answer([self], Request(text, images, top_k, per_video, weights, combine, exact, timeout_s))


@contextmanager
def naming(engines: Sequence[LiveLibrary], libraries: Sequence[Library]) -> Iterator[None]:
    """Name the library whose database could not be read in its error, if it is one of several."""
    try:
        yield
    except LibraryError as exc:
        failed = failed_folder(exc)
        for engine, library in zip(engines, libraries, strict=False):  # the last could not be opened
            if library.folder == failed:
                with engine.named_among(engines):
                    raise
        raise


def answer(engines: Sequence[LiveLibrary], request: Request, remotes: Sequence[RemoteLibrary] = ()) -> Hits:
    """Return the hits of `SearchEngine.search`. Several libraries are searched as one library of all their videos.

    A content that several have is a hit of the first; its places in the others are in `also`. remotes: libraries on
    other machines, after those of `engines`; `Hits.missing` names those that give no answer. Raises UsageError if
    scores of two libraries cannot be compared.
    """
    until_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
    libraries = []
    for engine in engines:
        with engine.named_among(engines):
            libraries.append(engine.searcher().library)
    for _ in engines:
        try:
            return _answer(engines, request, until_s, remotes)
        except IndexUnusable as exc:  # Qdrant has failed since the search began, which the next try knows
            logger.info("%s", exc)
        except (LibraryError, ModelError) as exc:
            if not isinstance(exc, LibraryChanged) and all(library.is_in_use() for library in libraries):
                raise
            break
    return _answer(engines, request, until_s, remotes)  # changed, upgraded, or without its index meanwhile


def _answer(
    engines: Sequence[LiveLibrary], request: Request, until_s: float | None, remotes: Sequence[RemoteLibrary]
) -> Hits:
    """Return the hits of all libraries but those on other machines that do not answer."""
    query, missing, tries = _parsed(request), dict[str, str](), Counter[str]()
    while True:
        asked = [each for each in remotes if each.place not in missing]
        if not engines and not asked:
            raise LibraryError("; ".join(f"{place}: {reason}" for place, reason in missing.items()))
        with ExitStack() as opened:
            members = [opened.enter_context(each.ask(request, query, until_s)) for each in asked]
            try:
                hits = _hits(engines, members, (request, query), (opened, until_s))
            except LibraryUnreachable as exc:
                tries[exc.place] += 1
                # Before the connections are closed, by which those that are still waiting fail too.
                failed = {each.place: reason for each in members if (reason := each.failure())}
                if not exc.has_changed or tries[exc.place] == MOST_TRIES:
                    failed[exc.place] = exc.reason
                missing |= failed
            else:
                hits.missing = tuple(Missing(*each) for each in missing.items())
                return hits


def _hits(
    engines: Sequence[LiveLibrary],
    members: Sequence[RemoteMember],
    asked: tuple[Request, Query],
    reading: tuple[ExitStack, float | None],
) -> Hits:
    """Return the hits of all libraries. reading: what closes their snapshots, and until when they are read."""
    (request, query), (opened, until_s) = asked, reading
    read: list[tuple[Library, View]] = []
    for engine in engines:
        with engine.named_among(engines):
            library, view = engine.open_view(request, query, opened, until_s)
            read.append((library, replace(view, number=len(read))))
    libraries, views = [library for library, _ in read], [view for _, view in read]
    if len(read) + len(members) > 1 and request.combine == "rrf":
        raise UsageError("rrf fuses ranks, which are of one library; search several with --combine convex")
    if len(read) > 1:
        check_comparable(libraries, [view.snapshot for view in views])
    encoded = _encode(engines[0].searcher() if engines else None, (request, query), views, opened)
    with naming(engines, libraries):
        _open(members, libraries, views)
        examples = find_examples([view.snapshot for view in views], encoded.likes, [each.likes for each in members])
        images = [*encoded.pictures, *(each.image for each in examples)]
        alone = len(read) + len(members) == 1
        statistics = [] if alone else [Statistics.of(view, query, images) for view in views]
        for member in members:
            member.compare(images)
        statistics += [member.finish_statistics() for member in members]
        sample = sample_images(views[0], images, alone=True) if alone and views else total(statistics, query).sample
        elsewhere = [total([*statistics[:n], *statistics[n + 1 :]], query) for n in range(len(statistics))]
        vectors = cache(lambda: query_vectors(encoded, images, sample.spreads(), views[0].spec) if views else [])
        feedback = None
        if request.judged:
            judged, feedback = _moved(views, members, vectors(), request)
            vectors = cache(lambda: judged)
            if not feedback.used:  # their clips have left: the question is as it was typed, and has labels
                request = replace(request, judged=())
        sources, seen = local_sources(read, query, vectors, None if alone else elsewhere[: len(read)])
        shown = [result for view in views for result in example_results(view, examples, vectors()[0])]
        for number, member in enumerate(members):
            member.begin(elsewhere[len(read) + number], sample.spreads(), (seen, members[:number]), examples)
        shown += [result for member in members for result in member.examples()] if examples else []
        facts = [*(Facts.of(view, query) for view in views), *(member.facts for member in members)]
        hits = find_hits([*sources, *members], facts, encoded, request, shown)
        hits.feedback = feedback
        return hits


def _moved(
    views: Sequence[View], members: Sequence[RemoteMember], vectors: Sequence[QueryVectors], request: Request
) -> tuple[list[QueryVectors], Feedback]:
    """Return the vectors of a question that judged clips move, and how far. Raises UsageError, QueryError."""
    from vfindex.search.rank.feedback import moved

    if len(views) + len(members) > 1:
        raise UsageError("judgements move the question in one library; search it alone")
    if len(vectors) > 1:
        raise QueryError("judgements move a question of one moment; leave out then, near and within")
    found = moved(views[0], vectors[0], request.judged)
    return [found.query], Feedback(len(request.judged), found.used, found.cosines)


def _open(members: Sequence[RemoteMember], libraries: Sequence[Library], views: Sequence[View]) -> None:
    """Number the libraries on other machines after those on this one; raise LibraryUnreachable for another scale."""
    if not members:
        return
    from vfindex.search.remote.member import Scale  # with ssl, which a search on this machine does without

    scale = None
    for library, view in zip(libraries[:1], views, strict=False):
        dims = {m: part.dim for m, part in view.spec.parts.items()}
        scale = Scale(str(library.root), reading_hash(view.snapshot, library.folder), dims)
    for number, member in enumerate(members, start=len(views)):
        scale = member.open(number, scale)


def check_comparable(libraries: Sequence[Library], snapshots: Sequence[Snapshot]) -> None:
    """Raise UsageError, with what cures it, unless all libraries have equal setups and one JointSpec.

    Raises LibraryDamaged for one that has lost its setup.
    """
    pairs = list(zip(libraries, snapshots, strict=True))
    setups = [setup_of(snapshot, library.folder) for library, snapshot in pairs]
    for library, setup in zip(libraries[1:], setups[1:], strict=True):
        different = Comparable.of(setup).difference(Comparable.of(setups[0]))
        if different:
            raise UsageError(
                f"the library {library.root} has another setup than {libraries[0].root} ({different}), so their scores "
                "cannot be compared; change one of them with: vfindex upgrade --library "
                f"{shlex.quote(str(library.root))}"
            )
    if len({reading_hash(snapshot, library.folder) for library, snapshot in pairs}) > 1:
        named = " ".join(f"--library {shlex.quote(str(library.root))}" for library in libraries)
        raise UsageError(
            "the libraries have different specs, so their scores cannot be compared; run: "
            f"vfindex spec export spec.json {named}, and for each of them: vfindex spec use spec.json --library DIR"
        )


def _parsed(request: Request) -> Query:
    """Return the query of a request. Raises QueryError."""
    text, images = request.text, request.images
    query = parse(text, wordless=bool(images)) if isinstance(text, str) else text
    if images and query.order is not None:
        raise QueryError(
            "images go with one moment, and this query has two; leave out then, near and within",
            query.moments[1].terms[0].position,
        )
    return query


def _encode(
    searcher: Searcher | None, asked: tuple[Request, Query], views: Sequence[View], opened: ExitStack
) -> EncodedQuery:
    """Return the query with the vectors that count; without a library on this machine, there are none of words.

    opened: see `QueryEncoder.begin`.
    """
    request, query = asked
    likes = [image for image in request.images if isinstance(image, Like | ClipKey)]
    files = [image for image in request.images if not isinstance(image, Like | ClipKey)]
    if searcher is None:
        if files:
            raise UsageError(
                "pictures and clips of files are read by the models of a library on this machine; "
                "name one with --library DIR beside the others, or give a clip of theirs with --like"
            )
        return EncodedQuery(query, list, [], likes)
    words = searcher.encoder.begin(query, views[0].unused, opened)
    pictures = [searcher.pictures.encode(each if isinstance(each, Picture) else Path(each)) for each in files]
    return EncodedQuery(query, words, pictures, likes)
