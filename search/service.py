"""The door to a library for programs: searches, videos, transcripts, status, each as a record of `results`.

from pathlib import Path
from vfindex.search import SearchService

with SearchService(Path("library")) as service:
    hits = service.search("dog running in park")
    print(service.similar(hits[0].key).to_dict())
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.search.calibration.labels import Label, check_label
from vfindex.search.contents import run_info, status_of, summaries, transcript_of, video_info
from vfindex.search.engine import SearchEngine, answer, library_path, naming
from vfindex.search.query.ast import Combination, Filters, Query
from vfindex.search.query.filters import filtered, unmatched
from vfindex.search.query.hints import filter_hints
from vfindex.search.query.like import Like, clip_among, video_among
from vfindex.search.query.parser import parse
from vfindex.search.query.request import Example, Request, check_filters
from vfindex.search.results import (
    Hits,
    MarkInfo,
    MarkList,
    RunInfo,
    RunList,
    SavedList,
    Status,
    Still,
    Transcript,
    VideoInfo,
    VideoList,
)
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.runs import stored_runs
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import LibraryError, QueryError, UsageError
from vfindex.storage.library import Library, again_if_changed
from vfindex.storage.modalities import ModalityName, spoken_modalities, timed_text_modalities
from vfindex.storage.records import ClipKey, Hint

if TYPE_CHECKING:  # a search does without; its start counts
    from vfindex.search.export.formats import Exported, Settings
    from vfindex.search.export.gather import Chosen, Span
    from vfindex.search.export.selection import Selection
    from vfindex.search.playback import MediaStream, Playback, Player
    from vfindex.search.stills import FrameReader, VideoFile
    from vfindex.storage.records import CutEnd, Rung
    from vfindex.storage.user.data import UserData
    from vfindex.storage.user.records import Mark, SavedQuery

# Videos read at a time, so that memory does not grow with the library.
PAGE_VIDEOS = 1000


class SearchService:
    """An open library, or several, for any number of threads. It follows runs, upgrades and rollbacks.

    Several are searched as one, see `engine.answer`. A video, a transcript or a thumbnail is that of the first library
    that has it, and so is a mark; lists, saved questions and the status are of the first library.

    Opening reads nothing: every call raises LibraryNotFound, LibraryVersion or LibraryDamaged where there is no library
    to read. `close`, or leaving the `with` block, closes its files; calls that still run end with their answer or
    raise LibraryError, as later ones do.
    """

    def __init__(
        self,
        folder: str | Path | Sequence[str | Path],
        frames: FrameReader | None = None,
        player: Player | None = None,
    ) -> None:
        """folder: one, or several; one named twice is one. frames, player: read files; who opened them closes them."""
        given = folder if isinstance(folder, Sequence) and not isinstance(folder, str | bytes) else [folder]
        folders = [library_path(each) for each in given]
        if not folders:
            raise UsageError("name the folder of a library at least")
        self.folder = folders[0]
        self.engines = [SearchEngine(each) for each in {os.path.realpath(each): each for each in folders}.values()]
        self._frames, self._player = frames, player

    @property
    def engine(self) -> SearchEngine:
        """The engine of the first library."""
        return self.engines[0]

    def __enter__(self) -> SearchService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the libraries permanently; a call then raises LibraryError."""
        for engine in self.engines:
            engine.close()

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
    ) -> Hits:
        """Return the hits of `SearchEngine.search` that are better than chance, or of a library without labels, all.

        min_confidence: only hits with this label or a better one; `none`: all hits.
        """
        check_label(min_confidence)
        weights = {} if weights is None else weights
        request = Request(text, images, top_k, per_video, weights, combine, exact, timeout_s)
        return answer(self.engines, request).with_confidence(min_confidence)

    def similar(
        self, clip: Like | ClipKey | str, *, top_k: int = 10, per_video: int = 1, timeout_s: float | None = None
    ) -> Hits:
        """Return the clips that look most like a clip of the library, best first, without the clip itself.

        clip: its key, or a video and a time as in `VIDEO@1:02`. Raises QueryError, UsageError.
        """
        example = Like.parse(clip) if isinstance(clip, str) else clip
        return self.search(images=[example], top_k=top_k, per_video=per_video, timeout_s=timeout_s)

    # --- videos -------------------------------------------------------------------------------------------------

    def videos(self, filters: str | Filters = "", *, first: int = 0, limit: int = PAGE_VIDEOS) -> VideoList:
        """Return a page of the searchable videos that pass the filters, by path. first: how many to leave out.

        filters: of the query language, as in `in:holiday lang:de`. Raises QueryError, and UsageError for other words.
        """
        for name, value, least in (("first", first, 0), ("limit", limit, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise QueryError(f"{name} must be a whole number of {least} or more, not {value!r}")
        ids, hints = self._matching(filters)
        return self._page(ids, hints, ids[first : first + limit])

    def video_pages(self, filters: str | Filters = "") -> Iterator[VideoList]:
        """Yield all pages of `videos`, at least one. Videos deleted meanwhile are left out."""
        ids, hints = self._matching(filters)
        for start in range(0, max(1, len(ids)), PAGE_VIDEOS):
            yield self._page(ids, hints, ids[start : start + PAGE_VIDEOS])

    @again_if_changed
    def _matching(self, filters: str | Filters) -> tuple[list[int], tuple[Hint, ...]]:
        chosen = _parsed(filters) if isinstance(filters, str) else filters
        check_filters(chosen)
        with self.engine.library().snapshot() as snapshot:
            passing = filtered(snapshot, chosen)
            ids = [id_ for id_ in snapshot.video_ids() if passing is None or id_ in passing]
            return ids, tuple(filter_hints(unmatched(snapshot, chosen)))

    @again_if_changed
    def _page(self, ids: Sequence[int], hints: tuple[Hint, ...], chosen: Sequence[int]) -> VideoList:
        with self.engine.library().snapshot() as snapshot:
            return VideoList(len(ids), hints, tuple(summaries(snapshot, chosen)))

    @again_if_changed
    def video(self, name: str | Path) -> VideoInfo:
        """Return all that the library knows of a video. name: a path, or a fingerprint. Raises LibraryError."""
        with self._opened() as (libraries, snapshots):
            number, video = video_among(snapshots, name)
            return video_info(libraries[number], snapshots[number], _existing(video, name))

    @again_if_changed
    def has_video(self, fingerprint: str) -> bool:
        """Return whether a library has a video with this fingerprint, searchable or not."""
        with self._opened() as (_, snapshots):
            return any(each.video_with(fingerprint) is not None for each in snapshots)

    @again_if_changed
    def fingerprint(self, name: str) -> str:
        """Return the fingerprint of the video that a person means, see `query.names`. Looks at no file.

        Raises UsageError if several videos fit, LibraryError if none does.
        """
        from vfindex.search.query.names import fingerprint_named

        with self._opened() as (_, snapshots):
            return fingerprint_named(snapshots, name)

    @again_if_changed
    def transcript(self, name: str | Path, *, track: ModalityName | None = None) -> Transcript:
        """Return what is said in a video, with times. name: a path, or a fingerprint.

        track: the modality whose text to return instead: `screen` for text on the picture, `text` for chapters.
        Raises UsageError for a modality without text with times, LibraryError.
        """
        if track is not None and track not in timed_text_modalities():
            raise UsageError(f"track must be one of {', '.join(timed_text_modalities())}, not {track!r}")
        with self._opened() as (_, snapshots):
            number, video = video_among(snapshots, name)
            tracks = spoken_modalities() if track is None else (track,)
            return transcript_of(snapshots[number], _existing(video, name), tracks)

    @again_if_changed
    def thumbnail(self, clip: Like | ClipKey | str) -> Path | None:
        """Return the WebP image of a clip, None if there is none. clip: as for `similar`. Raises QueryError."""
        with self._opened() as (libraries, snapshots):
            number, found = clip_among(snapshots, clip)
            return libraries[number].thumbnail(found.thumbnail)

    @again_if_changed
    def frames(self, name: str | Path, times_s: Sequence[float], *, size_px: int | None = None) -> list[Still]:
        """Return for each time the frame of a video that is shown then. name: a path, or a fingerprint.

        Before the first frame it is that one. size_px: longest side at most; None: 640. Raises UsageError without a
        frame reader, QueryError, LibraryError if no file of it is there, VideoError if it cannot be decoded.
        """
        from vfindex.search.stills import SIZE_PX, stills_of

        with self._opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return stills_of(self._frames, _existing(video, name), times_s, SIZE_PX if size_px is None else size_px)

    @again_if_changed
    def file(self, fingerprint: str) -> VideoFile:
        """Return the file of a video. Raises LibraryError if there is no such video, or no file of it."""
        from vfindex.search.stills import VideoFile, file_of

        with self._opened() as (_, snapshots):
            found = [video for each in snapshots if (video := each.video_with(fingerprint)) is not None]
        video = _existing(found[0] if found else None, fingerprint)
        return VideoFile(file_of(video), video.fingerprint, video.container)

    @again_if_changed
    def playback(self, name: str | Path) -> Playback:
        """Return how a browser plays a video. name: a path, or a fingerprint.

        Raises UsageError without a player, LibraryError if no file of it is there, VideoError.
        """
        from vfindex.search.playback import playback_of

        with self._opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return playback_of(self._player, _existing(video, name))

    @again_if_changed
    def stream(
        self, name: str | Path, start_s: float, end_s: float | None = None, *, rung: Rung | None = None
    ) -> MediaStream:
        """Return a span of a video, at most ten minutes, as MP4 or WebM; the caller closes it.

        rung: `transcode` where the browser cannot play the copy; None: the first that serves. Raises QueryError,
        UsageError without a player, LibraryError, VideoError, and Overloaded if too many play at once.
        """
        from vfindex.search.playback import stream_of

        with self._opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return stream_of(self._player, _existing(video, name), start_s, end_s, rung)

    @again_if_changed
    def cut(
        self,
        spans: Sequence[tuple[str | Path, float, float]],
        write: Callable[[int, bytes], None],
        *,
        exact: bool = False,
        timecode: str | None = None,
    ) -> CutEnd:
        """Write one MP4 file of spans (name, start_s, end_s), one after the other, as `Player.cut` says.

        Raises UsageError without a player, QueryError, LibraryError, VideoError, Overloaded.
        """
        from vfindex.search.playback import cut_of

        with self._opened() as (_, snapshots):
            found = [(_existing(video_among(snapshots, name)[1], name), from_s, to_s) for name, from_s, to_s in spans]
        return cut_of(self._player, found, write, exact=exact, timecode=timecode)

    def export(
        self, chosen: Chosen, format_: str, *, span: Span = (None, None), settings: Settings | None = None
    ) -> Exported:
        """Return hits, marks, or a video (a part of it: `span`) as a file for another program, see `export.formats`.

        settings: of a timeline. Raises QueryError, UsageError.
        """
        from vfindex.search.export.formats import export, get_format

        return export(self.selection(chosen, span, words=get_format(format_).has_words), format_, settings)

    @again_if_changed
    def selection(self, chosen: Chosen, span: Span = (None, None), *, words: bool = False) -> Selection:
        """Return hits, marks, or a video as excerpts of files. words: with what is said in them. Raises QueryError."""
        from vfindex.search.export.gather import selection_of

        with self._opened() as (_, snapshots):
            return selection_of(snapshots, chosen, span, words, self._frames)

    @contextmanager
    def _opened(self) -> Iterator[tuple[list[Library], list[Snapshot]]]:
        """Yield all libraries, and a snapshot of each."""
        with ExitStack() as opened:
            libraries, snapshots = [], []
            for engine in self.engines:
                with engine.named_among(self.engines):
                    libraries.append(engine.library())
                    snapshots.append(opened.enter_context(libraries[-1].snapshot()))
            with naming(self.engines, libraries):
                yield libraries, snapshots

    # --- what people write ------------------------------------------------------------------------------------------

    def mark(
        self,
        clip: Like | ClipKey | str,
        *,
        list_: str | None = None,
        note: str | None = None,
        question: str = "",
        grade: int | None = None,
        by: str | None = None,
    ) -> MarkInfo:
        """Store a mark of a clip, at once, also while a run works; return it. clip: as for `similar`.

        The same person's mark of the clip in this list is changed. list_: None for `marks`. note: None keeps its note.
        question, grade: a judgement, see `NewMark`. by: None for the user of this process.
        Raises QueryError, UsageError, LibraryError.
        """
        from vfindex.search.marks import marks_with_paths, moment_of
        from vfindex.storage.user.data import UserData
        from vfindex.storage.user.records import DEFAULT_LIST, NewMark

        with self._opened() as (libraries, snapshots):
            number, found = clip_among(snapshots, clip)
            list_ = DEFAULT_LIST if list_ is None else list_
            new = NewMark(moment_of(snapshots[number], found), list_, note, question, grade, by)
            [made] = marks_with_paths(snapshots[number], [UserData.open(libraries[number].root).add_mark(new)]).marks
        return made

    def marks(self, *, list_: str | None = None, question: str | None = None) -> MarkList:
        """Return the marks of all users. list_, question: only of these."""
        return self._shown(self._written().marks(list_=list_, question=question))

    def remove_marks(self, ids: Iterable[int]) -> MarkList:
        """Delete marks, all or none; return them. Raises UsageError for an id that no mark has."""
        from vfindex.storage.user.data import checked_ids

        data, chosen = self._written(), checked_ids(ids)
        unknown = set(chosen) - {mark.id for mark in data.marks()}
        if unknown:
            raise UsageError(f"there is no mark {min(unknown)}; `vfindex marks` lists them, with their ids")
        return self._shown(data.remove_marks(chosen))

    @again_if_changed
    def _shown(self, marks: Sequence[Mark]) -> MarkList:
        from vfindex.search.marks import marks_with_paths

        with self.engine.library().snapshot() as snapshot:
            return marks_with_paths(snapshot, marks)

    def save_query(self, name: str, text: str, by: str | None = None) -> SavedQuery:
        """Store a question under a name; return it. Raises QueryError, and UsageError if another one has the name."""
        parse(text)
        return self._written().save_query(name, text, by)

    def saved_queries(self) -> SavedList:
        """Return the saved questions of all users, by name."""
        return SavedList(tuple(self._written().saved_queries()))

    def saved_query(self, name: str) -> SavedQuery:
        """Return a saved question. Raises QueryError if there is none of this name."""
        found = self._written().saved_query(name)
        if found is None:
            raise QueryError(f"there is no saved question {name}; save one with: vfindex save {shlex.quote(name)} TEXT")
        return found

    def remove_query(self, name: str) -> SavedQuery:
        """Delete a saved question; return it. Raises QueryError if there is none of this name."""
        found = self.saved_query(name)
        self._written().remove_query(name)
        return found

    def _written(self) -> UserData:
        from vfindex.storage.user.data import UserData

        return UserData.open(self.engine.library().root)

    # --- the library --------------------------------------------------------------------------------------------

    @again_if_changed
    def status(self) -> Status:
        """Return what the library contains, and what failed."""
        library = self.engine.library()
        with library.snapshot() as snapshot:
            return status_of(self.folder, library, snapshot)

    @again_if_changed
    def statuses(self) -> list[Status]:
        """Return the status of each library."""
        with self._opened() as opened:
            return [status_of(library.root, library, snapshot) for library, snapshot in zip(*opened, strict=True)]

    @again_if_changed
    def version(self) -> str:
        """Return a text that no later state of the libraries has: it changes with each commit, and in each process."""
        with self._opened() as (_, snapshots):
            return "-".join(each.remembered("version", lambda: secrets.token_hex(8)) for each in snapshots)

    @again_if_changed
    def runs(self) -> RunList:
        """Return all runs, the oldest first."""
        with self.engine.library().snapshot() as snapshot:
            return RunList(tuple(run_info(run) for run in stored_runs(snapshot)))

    def run(self, run_id: int) -> RunInfo:
        """Return a run. Raises LibraryError if there is none with this number, QueryError for no number."""
        if not isinstance(run_id, int) or isinstance(run_id, bool):
            raise QueryError(f"run_id must be a whole number, not {run_id!r}")
        for run in self.runs().runs:
            if run.id == run_id:
                return run
        raise LibraryError(f"there is no run {run_id} in this library; `vfindex runs list` shows which there are")


def _parsed(filters: str) -> Filters:
    """Return the filters of a query. Raises QueryError, and UsageError for words to search for."""
    query = parse(filters, wordless=True)
    words = " ".join(map(str, query.moments))
    if words:
        raise UsageError(
            "list takes filters only, as in 'vfindex list in:holiday lang:de longer:10m'; "
            f"to search: vfindex search {shlex.quote(words)}"
        )
    return query.filters


def _existing(video: StoredVideo | None, name: str | Path) -> StoredVideo:
    """Return the video of a path or fingerprint. Raises LibraryError if there is none."""
    if video is not None:
        return video
    name = os.fsdecode(name)
    if os.path.isdir(name):
        raise LibraryError(f"{name} is a folder; name one of its videos")
    if os.path.lexists(name):
        raise LibraryError(f"{name} is not in this library; index it with: vfindex ingest {shlex.quote(name)}")
    raise LibraryError(f"{name} is not in this library, and there is no such file; `vfindex list` shows what is")
