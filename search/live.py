"""An open library that searches read while runs change it: model version, index, encoders, and what one search sees."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import TYPE_CHECKING

from vfindex.search.query.ast import Query
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.image import Pictures
from vfindex.search.query.request import Request
from vfindex.search.query.values import path_text
from vfindex.search.rank.delta import View
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import IndexUnusable, LibraryError, QueryError, UsageError
from vfindex.storage.index.flat import gpu_devices
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.index.reader import JointIndex, VectorIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import Library, again_if_changed, closed, estimated_spec, reading_spec, refuse_torn
from vfindex.storage.meta import LibraryMeta, no_videos
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Setup
from vfindex.storage.settings_backup import lost_setup
from vfindex.storage.user.questions import QuestionKeeper

if TYPE_CHECKING:
    from vfindex.storage.qdrant.index import OpenIndex

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
    index: OpenIndex | None = None


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


class LiveLibrary:
    """An open library. It follows new generations of the index and model upgrades. Any number of threads may read.

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
            setup = required_setup(snapshot, self._folder)
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

    @contextmanager
    def named_among(self, libraries: Sequence[LiveLibrary]) -> Iterator[None]:
        """Name the library in its errors if it is one of several."""
        try:
            yield
        except LibraryError as exc:
            if len(libraries) == 1 or str(self._folder) in str(exc):
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
        if problem:
            from vfindex.storage.qdrant.index import without_index

            problem = without_index(problem, snapshot.generation())
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
        index: VectorIndex | None = None
        problem = ""
        if generation is not None and not request.exact:
            opened = self._index(searcher, snapshot, generation)
            try:
                if isinstance(opened, IndexUnusable):
                    raise opened
                index = opened.within(snapshot, generation.spec)
            except IndexUnusable as exc:
                problem = str(exc)
        watermark = 0 if generation is None else generation.watermark
        present = {m: part.weight for m, part in spec.parts.items() if part.weight > 0}
        ranks = present if request.combine == "rrf" else None
        read = View(snapshot, spec, searcher.setup, index, watermark, ranks)
        keeper = searcher.questions if isinstance(index, JointIndex) else None
        return replace(read, only_named=only_named, questions=keeper), problem

    def _spec(self, snapshot: Snapshot) -> tuple[JointSpec, Generation | None]:
        fusion = self._fusion
        if fusion is None:
            return reading_spec(snapshot)
        return snapshot.remembered(("estimated spec of", id(self)), lambda: estimated_spec(snapshot, fusion)), None

    def _index(self, searcher: Searcher, snapshot: Snapshot, generation: Generation) -> OpenIndex | IndexUnusable:
        """Return the index of a generation, opened once for all threads; why it cannot be used, until a commit."""
        now = self._searcher
        for each in (searcher, *([now] if now is not None and now.library is searcher.library else [])):
            if each.index is not None and each.generation == generation.sha256:
                return each.index
        opened = snapshot.remembered(
            ("index", generation.id), lambda: _opened_index(searcher.library, generation, searcher.index)
        )
        if not isinstance(opened, IndexUnusable):
            with self._lock:
                if self._searcher is not None and self._searcher.library is searcher.library:
                    self._searcher = replace(self._searcher, generation=generation.sha256, index=opened)
                    if self._gpus is not None and isinstance(opened, JointIndex):
                        self._gpus.follow(opened)
        return opened


def require_videos(snapshot: Snapshot, folder: Path) -> None:
    """Raise QueryError for a library without searchable videos, LibraryDamaged for one without its setup."""
    required_setup(snapshot, folder)
    if not snapshot.video_ids():
        raise QueryError(no_videos(folder))


def required_setup(snapshot: Snapshot, folder: Path) -> Setup:
    """Return the setup of a library. Raises QueryError for one without videos, LibraryDamaged for one that lost it."""
    setup = LibraryMeta(snapshot).setup
    if setup is None:
        raise lost_setup(snapshot, in_use(folder)) or QueryError(no_videos(folder))
    return setup


def library_path(folder: object) -> Path:
    """Return the absolute path of a library, so that the working folder may change. Raises UsageError."""
    text = path_text(folder, "the folder of a library")
    if not text:
        raise UsageError("the folder of a library is empty; name a folder")
    try:
        return Path(text).absolute()
    except FileNotFoundError:  # the working folder is gone, and so is what is in it
        return Path(text)


def _opened_index(library: Library, generation: Generation, known: OpenIndex | None) -> OpenIndex | IndexUnusable:
    try:
        return library.open_index(generation, known=known)
    except IndexUnusable as exc:
        return exc


def _only_named(spec: JointSpec, query: Query, request: Request) -> frozenset[ModalityName]:
    """Return the modalities of default weight 0 that the query names, unless the request sets their weights."""
    if spec.adds_up:  # weights are inside the vectors
        return frozenset()
    return frozenset(m for m in query.named - request.weights.keys() if m in spec.parts and not spec.parts[m].weight)
