"""The door to a library for programs: searches, videos, transcripts, status, each as a record of `results`.

from pathlib import Path
from vfindex.search import SearchService

with SearchService(Path("library")) as service:
    hits = service.search("dog running in park")
    print(service.similar(hits[0].key).to_dict())
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vfindex.search.calibration.labels import Label, check_label
from vfindex.search.engine import answer, check_comparable
from vfindex.search.files import VideoFiles
from vfindex.search.libraries import existing_video
from vfindex.search.query.ast import Combination, Filters, Query
from vfindex.search.query.filters import filtered, unmatched
from vfindex.search.query.hints import filter_hints
from vfindex.search.query.like import Like, video_among
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Example, Judged, Request, check_filters
from vfindex.search.results import Hits, LabelList, Transcript, VideoInfo, VideoList
from vfindex.search.user import UserWriting
from vfindex.storage.errors import LibraryError, QueryError, UsageError
from vfindex.storage.labels import LabelCount, label_counts
from vfindex.storage.library import again_if_changed
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, text_tracks
from vfindex.storage.records import ClipKey, Hint

if TYPE_CHECKING:  # a search does without; its start counts
    from vfindex.search.export.formats import Exported, Settings
    from vfindex.search.export.gather import Chosen, Span
    from vfindex.search.export.selection import Selection
    from vfindex.search.outline.records import ChapterList, Digest
    from vfindex.search.status import RunInfo, RunList, Status, StatusList
    from vfindex.search.understanding.answering.ask import Answer
    from vfindex.search.understanding.answering.endpoint import Endpoint
    from vfindex.search.understanding.duplicates import DuplicateList
    from vfindex.search.understanding.unusual import UnusualList

# Videos read at a time, so that memory does not grow with the library.
PAGE_VIDEOS = 1000


class _Matching(NamedTuple):
    """The videos that pass filters, by path, the hints for these, and the labels of all."""

    ids: list[int]
    hints: tuple[Hint, ...]
    labels: tuple[LabelCount, ...]


class SearchService(VideoFiles, UserWriting):
    """An open library, or several, for any number of threads.

    Several are searched as one, see `engine.answer`. A video, a transcript or a thumbnail is that of the first library
    that has it, and so is a mark; lists, saved questions and the status are of the first library.
    """

    # --- searching ----------------------------------------------------------------------------------------------

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
        min_confidence: Label | None = None,
        feedback: bool = False,
        judged: Sequence[Judged] = (),
    ) -> Hits:
        """Return the hits of `SearchEngine.search` that are better than chance, or of a library without labels, all.

        min_confidence: only hits with this label or a better one; `none`: all hits. feedback: judgements of this very
        question, by anybody, move it (docs/feedback.md); judged: these do, too. Such hits have no label.
        """
        check_label(min_confidence)
        weights = {} if weights is None else weights
        judged = [*(self.judged(str(text)) if feedback else ()), *judged]
        request = Request(text, images, top_k, per_video, weights, combine, exact, timeout_s, judged)
        return answer(self.engines, request, self.remotes).with_confidence(min_confidence)

    @again_if_changed
    def similar(
        self,
        clip: Like | ClipKey | str,
        *,
        top_k: int = 10,
        per_video: int = 1,
        timeout_s: float | None = None,
        balance: float = 1.0,
    ) -> Hits:
        """Return the clips that look most like a clip of the library, or like a video, best first, without itself.

        clip: its key, a video and a time as in `VIDEO@1:02`, or a video. balance: below 1, entries that look like one
        before them come later, or not (maximal marginal relevance). Raises QueryError, UsageError.
        """
        from vfindex.search.understanding.similar import Examples, chosen_hits, examples_of, pool_size

        if isinstance(clip, str) and self.engines:
            with self.opened() as (_, snapshots):
                examples = examples_of(snapshots, clip)
        else:
            examples = Examples((Like.parse(clip) if isinstance(clip, str) else clip,))
        depth = pool_size(top_k, per_video, balance, examples)
        hits = self.search(images=examples.clips, top_k=depth, per_video=per_video, timeout_s=timeout_s)
        if balance == 1.0 and examples.video is None:
            return hits
        with self.opened() as opened:
            return chosen_hits(hits, opened, examples, top_k, balance)

    @again_if_changed
    def unusual(  # noqa: PLR0913  as for `search`
        self,
        filters: str | Filters = "",
        *,
        among: str | Filters | None = None,
        against: str = "",
        modality: ModalityName | None = None,
        method: str = "knn",
        top_k: int = 10,
        per_video: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> UnusualList:
        """Return the clips that are least like the others, see `understanding.unusual`.

        filters: the clips that are scored. among: those that they are compared with; None: each other. against: a
        question, whose answers they are compared with instead. method: `knn` or `lof`. progress: is called with the
        numbers of clips scored and of all. Raises QueryError where there is too little to compare, UsageError.
        """
        from vfindex.search.understanding.unusual import UnusualChoice, unusual

        chosen = None if among is None else _filters(among, "unusual")
        choice = UnusualChoice(_filters(filters, "unusual"), chosen, against, modality, method, top_k, per_video)
        return unusual(self.engine, choice, progress or (lambda done, total: None))

    @again_if_changed
    def duplicates(
        self, filters: str | Filters = "", *, progress: Callable[[int, int], None] | None = None
    ) -> DuplicateList:
        """Return the footage that is in several files, see `understanding.duplicates`. Deletes nothing.

        filters: one video of each pair passes them. progress: as for `unusual`. Raises QueryError, UsageError.
        """
        from vfindex.search.understanding.duplicates import duplicates

        return duplicates(self.engine, _filters(filters, "duplicates"), progress or (lambda done, total: None))

    @again_if_changed
    def ask(
        self,
        question: str,
        *,
        video: str | Path | None = None,
        top_k: int = 3,
        show_all: bool = False,
        endpoint: Endpoint | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the moments whose speech or text answers a question, quoted, see `understanding.answering.ask`.

        video: only this one. show_all: also moments no better than chance. endpoint: phrases an answer if there is one.
        timeout_s: of the search. Raises QueryError, QueryTimeout, UsageError, LibraryError.
        """
        from vfindex.search.understanding.answering.ask import ask

        return ask(self, question, video=video, top_k=top_k, show_all=show_all, endpoint=endpoint, timeout_s=timeout_s)

    # --- videos -------------------------------------------------------------------------------------------------

    def videos(self, filters: str | Filters = "", *, first: int = 0, limit: int = PAGE_VIDEOS) -> VideoList:
        """Return a page of the searchable videos that pass the filters, by path. first: how many to leave out.

        filters: of the query language, as in `in:holiday lang:de`. Raises QueryError, and UsageError for other words.
        """
        for name, value, least in (("first", first, 0), ("limit", limit, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise QueryError(f"{name} must be a whole number of {least} or more, not {value!r}")
        matching = self._matching(filters)
        return self._page(matching, matching.ids[first : first + limit])

    def video_pages(self, filters: str | Filters = "") -> Iterator[VideoList]:
        """Yield all pages of `videos`, at least one. Videos deleted meanwhile are left out."""
        matching = self._matching(filters)
        for start in range(0, max(1, len(matching.ids)), PAGE_VIDEOS):
            yield self._page(matching, matching.ids[start : start + PAGE_VIDEOS])

    @again_if_changed
    def _matching(self, filters: str | Filters) -> _Matching:
        chosen = _filters(filters, "list")
        with self.engine.library().snapshot() as snapshot:
            passing = filtered(snapshot, chosen)
            ids = [id_ for id_ in snapshot.video_ids() if passing is None or id_ in passing]
            labels = label_counts(snapshot, None if passing is None else ids)
            return _Matching(ids, tuple(filter_hints(unmatched(snapshot, chosen))), tuple(labels))

    @again_if_changed
    def _page(self, matching: _Matching, chosen: Sequence[int]) -> VideoList:
        from vfindex.search.contents import summaries

        with self.engine.library().snapshot() as snapshot:
            videos = tuple(summaries(snapshot, chosen))
        return VideoList(len(matching.ids), matching.hints, videos, matching.labels)

    @again_if_changed
    def labels(self, filters: str | Filters = "") -> LabelList:
        """Return the labels of the videos that pass the filters. Raises QueryError, UsageError."""
        chosen = _filters(filters, "list")
        with self.engine.library().snapshot() as snapshot:
            return LabelList(tuple(label_counts(snapshot, filtered(snapshot, chosen))))

    @again_if_changed
    def video(self, name: str | Path) -> VideoInfo:
        """Return all that the library knows of a video. name: a path, or a fingerprint. Raises LibraryError."""
        from vfindex.search.contents import video_info

        with self.opened() as (libraries, snapshots):
            number, video = video_among(snapshots, name)
            return video_info(libraries[number], snapshots[number], existing_video(video, name))

    @again_if_changed
    def has_video(self, fingerprint: str) -> bool:
        """Return whether a library has a video with this fingerprint, searchable or not."""
        with self.opened() as (_, snapshots):
            return any(each.video_with(fingerprint) is not None for each in snapshots)

    @again_if_changed
    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of the video that a person means, see `query.names`. Looks at no file.

        Raises UsageError if several videos fit, LibraryError if none does.
        """
        from vfindex.search.query.names import fingerprint_named

        with self.opened() as (_, snapshots):
            return fingerprint_named(snapshots, name)

    @again_if_changed
    def transcript(self, name: str | Path, *, track: ModalityName | None = None) -> Transcript:
        """Return what is said in a video, with times. name: a path, or a fingerprint.

        track: the modality whose text to return instead: `screen` for text on the picture, `text` for chapters.
        Raises UsageError for a modality without text with times, LibraryError.
        """
        from vfindex.search.contents import transcript_of

        tracks = text_tracks(track)
        with self.opened() as (_, snapshots):
            number, video = video_among(snapshots, name)
            return transcript_of(snapshots[number], existing_video(video, name), tracks)

    @again_if_changed
    def chapters(
        self,
        name: str | Path,
        *,
        least_s: float | None = None,
        detect: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> ChapterList:
        """Return the chapters of a video: those of its file, else those found. name: a path, or a fingerprint.

        least_s: the shortest to be found; None: 5 s. detect: even if the file states some. progress: called with
        (done, of all). Raises QueryError, UsageError, LibraryError.
        """
        from vfindex.search.outline.chapters import chapters_of

        with self.opened() as (_, snapshots):
            number, video = video_among(snapshots, name)
            found = existing_video(video, name)
            return chapters_of(snapshots[number], found, least_s=least_s, detect=detect, progress=progress)

    @again_if_changed
    def digest(
        self,
        name: str | Path,
        *,
        length_s: float | None = None,
        words: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Digest:
        """Return excerpts and sentences that stand for a video. name: a path, or a fingerprint.

        length_s: of the excerpts together, at most; None: 30. words: of the sentences, at most; None: 100. progress:
        called with the numbers of steps done and of all. Raises QueryError, UsageError, LibraryError.
        """
        from vfindex.search.outline.digest import Wanted, digest_of
        from vfindex.search.outline.records import DIGEST_LENGTH_S, DIGEST_WORDS

        wanted = Wanted(DIGEST_LENGTH_S if length_s is None else length_s, DIGEST_WORDS if words is None else words)
        with self.opened() as (libraries, snapshots):
            number, video = video_among(snapshots, name)
            found = existing_video(video, name)
            return digest_of(libraries[number], snapshots[number], found, wanted, progress or (lambda done, of: None))

    def export(
        self,
        chosen: Chosen,
        format_: str,
        *,
        span: Span = (None, None),
        settings: Settings | None = None,
        track: ModalityName | None = None,
    ) -> Exported:
        """Return hits, marks, a digest or a video (of it `span`) as a file for another program, see `export.formats`.

        settings: of a timeline. track: whose text is written, see `transcript`. Raises QueryError, UsageError.
        """
        from vfindex.search.export.formats import export, tracks_in

        return export(self.selection(chosen, span, tracks_in(format_, track)), format_, settings)

    @again_if_changed
    def selection(self, chosen: Chosen, span: Span = (None, None), tracks: tuple[ModalityName, ...] = ()) -> Selection:
        """Return hits, marks, a digest or a video as excerpts of files. tracks: whose text. Raises QueryError."""
        from vfindex.search.export.gather import selection_of

        with self.opened() as (_, snapshots):
            return selection_of(snapshots, chosen, span, tracks, self._frames)

    # --- the library --------------------------------------------------------------------------------------------

    @again_if_changed
    def status(self) -> Status:
        """Return what the library contains, and what failed."""
        from vfindex.search.contents import status_of

        library = self.engine.library()
        with library.snapshot() as snapshot:
            return status_of(self.folder, library, snapshot)

    @again_if_changed
    def statuses(self) -> StatusList:
        """Return the status of each library."""
        from vfindex.search.contents import status_of
        from vfindex.search.status import StatusList

        with self.opened() as opened:
            return StatusList(
                tuple(status_of(each.root, each, snapshot) for each, snapshot in zip(*opened, strict=True))
            )

    @again_if_changed
    def version(self) -> str:
        """Return a text that no later state of the libraries has: it changes with each commit, and in each process."""
        with self.opened() as (_, snapshots):
            states = [each.remembered("version", lambda: secrets.token_hex(8)) for each in snapshots]
            return "-".join([*states, *(each.words.version for each in snapshots)])

    @again_if_changed
    def check(self) -> None:
        """Raise LibraryError for a folder without a sound library, UsageError for libraries with incomparable scores.

        A library that is still empty is not compared.
        """
        from vfindex.storage.settings_backup import lost_setup

        with self.opened() as opened:
            for library, snapshot in zip(*opened, strict=True):
                if fault := lost_setup(snapshot, library.folder):
                    raise fault
            filled = [(each, snapshot) for each, snapshot in zip(*opened, strict=True) if LibraryMeta(snapshot).setup]
            if len(filled) > 1:
                check_comparable(*zip(*filled, strict=True))

    @again_if_changed
    def runs(self) -> RunList:
        """Return all runs, the oldest first."""
        from vfindex.search.contents import run_info
        from vfindex.search.status import RunList
        from vfindex.storage.db.runs import stored_runs

        with self.engine.library().snapshot() as snapshot:
            return RunList(tuple(run_info(run) for run in stored_runs(snapshot)))

    @again_if_changed
    def latest_run(self) -> RunInfo | None:
        """Return the newest run, with its progress while it works; None before the first."""
        from vfindex.search.contents import run_info
        from vfindex.storage.db.runs import last_run

        with self.engine.library().snapshot() as snapshot:
            found = last_run(snapshot)
        return None if found is None else run_info(found)

    def run(self, run_id: int) -> RunInfo:
        """Return a run. Raises LibraryError if there is none with this number, QueryError for no number."""
        if not isinstance(run_id, int) or isinstance(run_id, bool):
            raise QueryError(f"run_id must be a whole number, not {run_id!r}")
        for run in self.runs().runs:
            if run.id == run_id:
                return run
        raise LibraryError(f"there is no run {run_id} in this library; `vfindex runs list` shows which there are")


def _filters(filters: str | Filters, command: str) -> Filters:
    """Return filters, checked. command: what takes them. Raises QueryError, UsageError."""
    chosen = _parsed(filters, command) if isinstance(filters, str) else filters
    check_filters(chosen)
    return chosen


def _parsed(filters: str, command: str) -> Filters:
    """Return the filters of a query. Raises QueryError, and UsageError for words to search for."""
    query = parse(filters, wordless=True)
    words = " ".join(map(str, query.moments))
    if words:
        raise UsageError(
            f"{command} takes filters only, as in 'vfindex {command} in:holiday lang:de longer:10m'; "
            f"to search: vfindex search {shlex.quote(words)}"
        )
    return query.filters
