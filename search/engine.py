"""The search engine: from a query to hits.

from pathlib import Path
from vfindex.search import SearchEngine

engine = SearchEngine.open(Path("library"))
for hit in engine.search("dog running in park"):
    print(hit.rank, hit.video, hit.start_s, hit.score)
"""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, RLock, Thread

from vfindex.search.hits import find_hits
from vfindex.search.query.ast import Combination, Query
from vfindex.search.query.encode import EncodedQuery, QueryEncoder
from vfindex.search.query.image import Picture, Pictures
from vfindex.search.query.like import Like
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Example, Request
from vfindex.search.query.values import path_text
from vfindex.search.rank.delta import View
from vfindex.search.results import Hits
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import IndexUnusable, LibraryChanged, LibraryError, ModelError, QueryError, UsageError
from vfindex.storage.index.flat import gpu_devices
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import Comparable
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import (
    Library,
    again_if_changed,
    closed,
    estimated_spec,
    failed_folder,
    reading_hash,
    reading_spec,
    refuse_torn,
)
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import ClipKey, Setup
from vfindex.storage.user.questions import QuestionKeeper

logger = logging.getLogger(__name__)

# From this many clips on, a service copies an index to GPUs. Not measured: no GPU was at hand.
GPU_CLIPS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Searcher:
    """What all threads that search one model version share. generation: the SHA-256 of the file of `index`.

    questions: keeps what the index is asked; None: nothing is kept.
    """

    library: Library
    setup: Setup
    encoder: QueryEncoder
    pictures: Pictures
    questions: QuestionKeeper | None = None
    generation: str = ""
    index: JointIndex | None = None


class _GpuCopies:
    """Copies the newest large index of a library to all GPUs, in a thread of its own; searches do not wait for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._newest: JointIndex | None = None
        self._copied: JointIndex | None = None
        self._threads: list[Thread] = []

    def follow(self, index: JointIndex) -> None:
        """Copy an index, unless it is small, in place of the one before."""
        if index is self._newest or len(index) < GPU_CLIPS:
            return
        self._newest = index
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(Thread(target=self._copy, args=(index,), name="vfindex-gpus", daemon=True))
        self._threads[-1].start()

    def close(self) -> None:
        """Free the GPUs; a copy that is under way ends after the block that it copies."""
        self._newest = None
        for thread in self._threads:
            thread.join()
        if self._copied is not None:
            self._copied.shards = None

    def _copy(self, index: JointIndex) -> None:
        with self._lock:
            if self._copied is not None:
                self._copied.shards = None  # its memory is needed
            try:
                self._check(index)
                index.copy_to(gpu_devices(2 * index.dim * len(index)), partial(self._check, index))
                self._copied = index
            except _Superseded:
                return
            except (RuntimeError, MemoryError) as exc:
                logger.warning("the joint index is searched on the processor: no copy was made on the GPUs (%s)", exc)

    def _check(self, index: JointIndex) -> None:
        if index is not self._newest:
            raise _Superseded


class _Superseded(Exception):
    """There is a newer index, or the library was closed."""


class SearchEngine:
    """An open library. It follows new generations of the index and model upgrades. Any number of threads may search.

    A thread searches with the `Searcher` that is there when it begins; another replaces it as a whole.
    """

    def __init__(self, folder: str | Path, fusion: Fusion | None = None, *, for_people: bool = False) -> None:
        """Open nothing yet. fusion: see `open`. Raises UsageError for a folder of a wrong type.

        for_people: some questions are kept, to measure the recall of the index with them; not those of a program.
        """
        self._folder, self._fusion, self._for_people = library_path(folder), fusion, for_people
        self._process = os.getpid()
        self._lock, self._is_closed = RLock(), False
        self._library: Library | None = None
        self._searcher: Searcher | None = None
        self._logged_problem = ""
        self._gpus: _GpuCopies | None = None

    @classmethod
    def open(cls, folder: str | Path, fusion: Fusion | None = None) -> SearchEngine:
        """Open the library in `folder`. Raises LibraryNotFound, LibraryVersion, LibraryDamaged, QueryError if empty.

        fusion: replaces the library's own for this engine; searches then scan all clips, and nothing is stored.
        """
        engine = cls(folder, fusion)
        engine.searcher()
        return engine

    def use_gpus(self) -> None:
        """Copy large indexes to the GPUs of this machine, once a search has opened them. For a service that stays."""
        self._gpus = self._gpus or _GpuCopies()

    @property
    def folder(self) -> Path:
        """The folder of the library, absolute."""
        return self._folder

    def library(self) -> Library:
        """Return the model version in use, open; another one after an upgrade or its rollback. Raises LibraryError."""
        if os.getpid() != self._process:  # locks that other threads held at the fork are never released here
            raise LibraryError(
                f"the library {self._folder} was opened before this process was forked; open it again in this one"
            )
        library = self._library
        if library is None or not library.is_in_use():
            with self._lock:
                library = self._library
                if self._is_closed:
                    raise closed(self._folder)
                if library is None or not library.is_in_use():
                    library = Library.open(self._folder, corrected=True)
                    refuse_torn(library)
                    self._library = library
        return library

    @again_if_changed
    def searcher(self) -> Searcher:
        """Return what searches read now. Raises LibraryError, and QueryError for a library without videos."""
        library, searcher = self.library(), self._searcher
        if searcher is not None and searcher.library is library:
            return searcher
        with library.snapshot() as snapshot:
            setup = LibraryMeta(snapshot).setup
        if setup is None:
            raise QueryError(f"the library {self._folder} holds no videos yet; add some with: vfindex ingest VIDEOS")
        with self._lock:
            if self._searcher is None or self._searcher.library is not library:
                questions = QuestionKeeper(library.root, library.folder) if self._for_people else None
                encoder, pictures = QueryEncoder(library, setup), Pictures(library, setup)
                self._searcher = Searcher(library, setup, encoder, pictures, questions)
            return self._searcher

    def close(self) -> None:
        """Close the library. Searches that still run end with their hits or raise LibraryError, as later ones do."""
        if os.getpid() != self._process:  # the files are those of the parent
            return
        with self._lock:
            library, self._library, self._searcher, self._is_closed = self._library, None, None, True
        if self._gpus is not None:
            self._gpus.close()
        if library is not None:
            library.close(permanently=True)

    @property
    def setup(self) -> Setup:
        """The preset, models and sampling of the library."""
        return self.searcher().setup

    @property
    def pictures(self) -> Pictures:
        """The image encoder of the library."""
        return self.searcher().pictures

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
    def named_among(self, engines: Sequence[SearchEngine]) -> Iterator[None]:
        """Name the library in its errors if it is one of several."""
        try:
            yield
        except LibraryError as exc:
            if len(engines) == 1 or str(self._folder) in str(exc):
                raise
            raise type(exc)(f"{self._folder}: {exc}") from exc

    def open_view(
        self, request: Request, query: Query, opened: ExitStack, until_s: float | None
    ) -> tuple[Library, View]:
        """Return the library and what a search reads of it; its snapshot is closed with `opened`."""
        searcher = self.searcher()
        snapshot = opened.enter_context(searcher.library.snapshot(until_s))
        view, problem = self._view(searcher, snapshot, request, query)
        if problem:
            # The generation may have been superseded between reading its id and opening its file: read the id once
            # more. If the index is still unusable, all clips are scanned.
            snapshot = opened.enter_context(searcher.library.snapshot(until_s))
            view, problem = self._view(searcher, snapshot, request, query)
        if problem and problem != self._logged_problem:
            logger.warning("%s", problem)
            self._logged_problem = problem
        return searcher.library, view

    def _view(self, searcher: Searcher, snapshot: Snapshot, request: Request, query: Query) -> tuple[View, str]:
        """Return what the search reads, and why the index that should be in it cannot be used, else ""."""
        spec, generation = self._spec(snapshot)
        if request.weights and not spec.weights_are_open:
            raise UsageError(
                f"this library's vectors are fused as {spec.fusion}, with fixed weights: a query cannot have its own; "
                "for that run: vfindex rebuild --fusion concat"
            )
        only_named = _only_named(spec, query, request)
        spec = spec.with_weights({m: spec.alone_weight(m) for m in only_named})
        spec = spec.with_weights({m: float(weight) for m, weight in request.weights.items()})
        opened = None if generation is None or request.exact else self._index(searcher, snapshot, generation)
        index, problem = (None, str(opened)) if isinstance(opened, IndexUnusable) else (opened, "")
        watermark = 0 if generation is None else generation.watermark
        present = {m: part.weight for m, part in spec.parts.items() if part.weight > 0}
        ranks = present if request.combine == "rrf" else None
        read = View(snapshot, spec, searcher.setup, index, watermark, ranks)
        return replace(read, only_named=only_named, questions=searcher.questions), problem

    def _spec(self, snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
        fusion = self._fusion
        if fusion is None:
            return reading_spec(snapshot)
        return snapshot.remembered(("estimated spec of", id(self)), lambda: estimated_spec(snapshot, fusion)), None

    def _index(self, searcher: Searcher, snapshot: Snapshot, generation: Generation) -> JointIndex | IndexUnusable:
        """Return the index of a generation, opened once for all threads; why it cannot be used, until a commit."""
        now = self._searcher
        for each in (searcher, *([now] if now is not None and now.library is searcher.library else [])):
            if each.index is not None and each.generation == generation.sha256:
                return each.index
        opened = snapshot.remembered(
            ("index", generation.id), lambda: _opened_index(searcher.library, generation, searcher.index)
        )
        if isinstance(opened, JointIndex):
            with self._lock:
                if self._searcher is not None and self._searcher.library is searcher.library:
                    self._searcher = replace(self._searcher, generation=generation.sha256, index=opened)
                    if self._gpus is not None:
                        self._gpus.follow(opened)
        return opened


def library_path(folder: object) -> Path:
    """Return the absolute path of a library, so that the working folder may change. Raises UsageError."""
    text = path_text(folder, "the folder of a library")
    if not text:
        raise UsageError("the folder of a library is empty; name a folder")
    try:
        return Path(text).absolute()
    except FileNotFoundError:  # the working folder is gone, and so is what is in it
        return Path(text)


@contextmanager
def naming(engines: Sequence[SearchEngine], libraries: Sequence[Library]) -> Iterator[None]:
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


def answer(engines: Sequence[SearchEngine], request: Request) -> Hits:
    """Return the hits of `SearchEngine.search`. Several libraries are searched as one library of all their videos.

    A content that several have is a hit of the first; its places in the others are in `also`. Raises UsageError if
    scores of two libraries cannot be compared.
    """
    until_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
    libraries = []
    for engine in engines:
        with engine.named_among(engines):
            libraries.append(engine.searcher().library)
    try:
        return _answer(engines, request, until_s)
    except (LibraryError, ModelError) as exc:
        if not isinstance(exc, LibraryChanged) and all(library.is_in_use() for library in libraries):
            raise
    return _answer(engines, request, until_s)  # changed, or upgraded, meanwhile


def _answer(engines: Sequence[SearchEngine], request: Request, until_s: float | None) -> Hits:
    searcher, query = engines[0].searcher(), _parsed(request)
    with ExitStack() as opened:
        read = []
        for engine in engines:
            with engine.named_among(engines):
                read.append(engine.open_view(request, query, opened, until_s))
        libraries, snapshots = [library for library, _ in read], [view.snapshot for _, view in read]
        if len(read) > 1:
            _check_comparable([library.root for library in libraries], [view for _, view in read])
        views = [
            replace(view, number=number, others=[each for each in snapshots if each is not view.snapshot])
            for number, (_, view) in enumerate(read)
        ]
        encoded = _encode(searcher, query, request.images, views[0])
        with naming(engines, libraries):
            return find_hits(libraries, views, encoded, request)


def _check_comparable(folders: Sequence[Path], views: Sequence[View]) -> None:
    """Raise UsageError, with what cures it, unless all libraries have equal setups and one JointSpec."""
    if any(view.rank_weights is not None for view in views):
        raise UsageError("rrf fuses ranks, which are of one library; search several with --combine convex")
    snapshots = [view.snapshot for view in views]
    first = Comparable.of(LibraryMeta(snapshots[0]).existing_setup())
    for folder, snapshot in zip(folders[1:], snapshots[1:], strict=True):
        different = Comparable.of(LibraryMeta(snapshot).existing_setup()).difference(first)
        if different:
            raise UsageError(
                f"the library {folder} has another setup than {folders[0]} ({different}), so their scores cannot be "
                f"compared; change one of them with: vfindex upgrade --library {shlex.quote(str(folder))}"
            )
    if len({reading_hash(snapshot) for snapshot in snapshots}) > 1:
        named = " ".join(f"--library {shlex.quote(str(folder))}" for folder in folders)
        raise UsageError(
            "the libraries have different specs, so their scores cannot be compared; run: "
            f"vfindex spec export spec.json {named}, and for each of them: vfindex spec use spec.json --library DIR"
        )


def _opened_index(library: Library, generation: Generation, known: JointIndex | None) -> JointIndex | IndexUnusable:
    try:
        return library.open_index(generation, known=known)
    except IndexUnusable as exc:
        return exc


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


def _only_named(spec: JointSpec, query: Query, request: Request) -> frozenset[ModalityName]:
    """Return the modalities of default weight 0 that the query names, unless the request sets their weights."""
    if spec.adds_up:  # weights are inside the vectors
        return frozenset()
    return frozenset(m for m in query.named - request.weights.keys() if m in spec.parts and not spec.parts[m].weight)


def _encode(searcher: Searcher, query: Query, images: Sequence[Example], view: View) -> EncodedQuery:
    """Return the query with the vectors that count."""
    without = {m for m, part in view.spec.parts.items() if not part.weight} | view.only_named
    words = [[searcher.encoder.encode(part.but(without)) for part in moment.parts()] for moment in query.moments]
    pictures = [
        searcher.pictures.encode(image if isinstance(image, Picture) else Path(image))
        for image in images
        if not isinstance(image, Like | ClipKey)
    ]
    return EncodedQuery(query, words, pictures, [image for image in images if isinstance(image, Like | ClipKey)])
