"""Files that agents write: below one folder that a person named, each a new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from vfindex.search.export.cuts import present, remarks, start_timecode
from vfindex.search.export.formats import file_name
from vfindex.search.mcp.documents import NOTICE, untrusted
from vfindex.search.results import MarkInfo, MarkList
from vfindex.search.service import SearchService
from vfindex.storage.errors import UsageError
from vfindex.storage.records import ClipKey

CUT = "mp4"
MAX_CLIPS = 100
# Of one film, in s.
MAX_CUT_S = 600.0
# Files of one name: clips.edl, clips-2.edl, ...
_MAX_SAME = 1000


class ExportFolder:
    """A folder that exports go into, and nowhere else: no link is followed in it, and no file replaced."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError if it is no folder."""
        self.folder = Path(os.path.realpath(folder))
        if not self.folder.is_dir():
            raise UsageError(f"{folder} is no folder; make it first: mkdir {folder}")
        self._unfinished: set[str] = set()

    def discard(self) -> None:
        """Delete the files that are not complete, as the process ends."""
        for name in tuple(self._unfinished):
            (self.folder / name).unlink(missing_ok=True)

    def export(self, service: SearchService, values: Mapping[str, Any], is_over: Callable[[], bool]) -> dict[str, Any]:
        """Write one file of the parameters of `export_clips`; return what was written. Raises VfindexError.

        is_over: whether nobody waits for it any longer; then no file is left.
        """
        clips = _clips(service, values["clips"], values["title"])
        stem = Path(file_name(values["title"])).name
        if values["format"] == CUT:
            if values["track"] is not None:
                raise UsageError("track is for srt and vtt")
            name, notes = self._cut(service, clips, f"{stem}.{CUT}", values["exact"], is_over)
        elif values["exact"]:
            raise UsageError(f"exact is for {CUT}")
        else:
            made = service.export(clips, values["format"], track=values["track"])
            notes = made.notes
            with self._new_file(f"{stem}.{values['format']}", is_over) as (file, name):
                file.write(made.data)
        path = untrusted(str(self.folder / name), 4096)
        return {"notice": NOTICE, "file": path, "untrusted_notes": [untrusted(each) for each in notes]}

    def _cut(
        self, service: SearchService, clips: MarkList, name: str, exact: bool, is_over: Callable[[], bool]
    ) -> tuple[str, Sequence[str]]:
        total_s = sum(each.end_s - each.start_s for each in clips.marks)
        if total_s > MAX_CUT_S:
            raise UsageError(f"a film has at most {MAX_CUT_S:g} s, these clips have {total_s:.0f}; choose fewer")
        selection = service.selection(clips)
        excerpts, lost = present(selection.once().excerpts, service.file)
        if not excerpts:
            raise UsageError("no file of these videos is known, so there is nothing to cut")
        spans = [(each.source.fingerprint, each.start_s, each.end_s) for each in excerpts]
        with self._new_file(name, is_over) as (file, name):

            def write(at: int, data: bytes) -> None:
                _check(is_over)
                file.seek(at)
                file.write(data)

            made = service.cut(spans, write, exact=exact, timecode=start_timecode(excerpts, exact=exact))
        return name, (*selection.notes, *lost, *remarks(excerpts, made))

    @contextmanager
    def _new_file(self, name: str, is_over: Callable[[], bool]) -> Iterator[tuple[BinaryIO, str]]:
        """Yield a file that did not exist, and its name; it is deleted if the block raises. Raises UsageError."""
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                handle, name = _created(folder, name)
                self._unfinished.add(name)
                try:
                    with open(handle, "wb") as file:
                        yield file, name
                    _check(is_over)
                except BaseException:
                    os.unlink(name, dir_fd=folder)
                    raise
                finally:
                    self._unfinished.discard(name)
            finally:
                os.close(folder)
        except OSError as exc:
            raise UsageError(f"{self.folder / name} cannot be written ({exc.strerror})") from exc


def _check(is_over: Callable[[], bool]) -> None:
    if is_over():
        raise UsageError("the film takes too long to make; choose fewer clips, or do without exact")


def _created(folder: int, name: str) -> tuple[int, str]:
    """Return the descriptor of a new file, and its name: with a number if others have that. Raises OSError."""
    stem, _, suffix = name.rpartition(".")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for number in range(1, _MAX_SAME + 1):
        tried = name if number == 1 else f"{stem}-{number}.{suffix}"
        try:
            return os.open(tried, flags, 0o666, dir_fd=folder), tried
        except FileExistsError:
            continue
    raise UsageError(f"there are {_MAX_SAME:,} files named {stem} in the export folder; give another title")


def _clips(service: SearchService, given: Sequence[Mapping[str, Any]], title: str) -> MarkList:
    """Return spans of videos as marks, which are not kept. Raises UsageError, LibraryError."""
    marks, at = [], datetime.now(UTC).isoformat(timespec="seconds")
    for number, each in enumerate(given, start=1):
        video = service.video(service.fingerprint(each["video"]))
        start_s, end_s = max(each["start_s"], video.start_s), min(each["end_s"], video.end_s)
        if start_s >= end_s:
            extent = f"the video runs from {video.start_s:g} s to {video.end_s:g} s"
            raise UsageError(f"clip {number} is empty: {extent}, and a clip ends after its start")
        marks.append(
            MarkInfo(
                id=number,
                video=video.video,
                presence="present",
                fingerprint=video.fingerprint,
                key=ClipKey(video.fingerprint, round(1000 * start_s)),
                clip=None,
                start_s=start_s,
                end_s=end_s,
                list=title,
                note=each["note"],
                question="",
                grade=None,
                by="agent",
                at=at,
            )
        )
    return MarkList(tuple(marks))
