"""Clips of the library as queries: find clips that look like this one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from vfindex.search.query.values import is_number, path_text, seconds_in
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.integrity import shown_paths
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import QueryError, UsageError, counted
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import SEARCHABLE, ClipKey, FloatArray


class NoClip(QueryError):
    """A library has no such clip. has_video: whether it has the clip's video."""

    def __init__(self, text: str, *, has_video: bool = True) -> None:
        super().__init__(text)
        self.has_video = has_video


@dataclass(frozen=True, slots=True)
class Like:
    """The clip of an indexed video at a time. video: its path, or its fingerprint.

    time_s: presentation time, as in hits. typed: the text that it was parsed from, "" otherwise.
    """

    video: Path
    time_s: float
    typed: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the clip of `VIDEO@12.5`, `VIDEO@1:02` or `VIDEO@1:02:03`. Raises UsageError."""
        video, _, time = text.rpartition("@") if isinstance(text, str) else ("", "", "")
        time_s = seconds_in(time)
        if not video or time_s is None:
            raise UsageError(f"a clip is a video and a time, as in beach.mp4@12.5 or beach.mp4@1:02, not {text!r}")
        return cls(Path(video), time_s, text)

    def __str__(self) -> str:
        return self.typed or f"{self.video}@{self.time_s:g}"


def find_video(snapshot: Snapshot, name: str) -> StoredVideo | None:
    """Return the video of a path or fingerprint, or the only one with a path that ends in `name`, as `trip/beach.mp4`.

    None if there is none, or `name` is a file that is not in the library. Raises UsageError if several fit.
    Runs resolve links in the paths that they are given; a deleted file has only its path as typed.
    """
    if not name:
        raise UsageError("the name of the video is empty; give its path, or its fingerprint")
    typed = os.fsencode(name)
    path = snapshot.path_of(list(dict.fromkeys((os.path.realpath(typed), os.path.abspath(typed)))))
    if path is not None:
        return snapshot.video_at(path)
    video = snapshot.video_with(name)
    return video if video is not None or os.path.lexists(name) else _with_path_end(snapshot, name)


def _with_path_end(snapshot: Snapshot, name: str) -> StoredVideo | None:
    """Return the only video with a path that ends in `name`, None if there is none. Raises UsageError for several."""
    end = b"/" + os.fsencode(name)
    found: dict[int, tuple[bytes, StoredVideo]] = {}
    for path in sorted(path for path in snapshot.paths() if path.endswith(end)):
        if (video := snapshot.video_at(path)) is not None:
            found.setdefault(video.id, (path, video))
    if len(found) > 1:
        paths = shown_paths([path for path, _ in found.values()])
        raise UsageError(f"{name} fits {counted(len(found), 'video')}: {paths}; give more of the path")
    return next((video for _, video in found.values()), None)


def clip_of(snapshot: Snapshot, like: Like | ClipKey) -> StoredClip:
    """Return the clip of a video at a time, or with a key. Raises QueryError if the library has none there."""
    name = like.fingerprint if isinstance(like, ClipKey) else str(like.video)
    video = snapshot.video_with(name) if isinstance(like, ClipKey) else find_video(snapshot, name)
    if video is None:
        raise NoClip(f"{name} is not in this library; `vfindex list` shows what is", has_video=False)
    if video.state not in SEARCHABLE:
        raise NoClip(f"{name} is not fully indexed; look it up with: vfindex show {shlex.quote(name)}", has_video=False)
    clips = snapshot.clips_of(video.id)
    if isinstance(like, ClipKey):
        found = next((clip for clip in clips if clip.start_ms == like.start_ms), None)
        if found is None:
            raise NoClip(f"no clip of {name} begins at {like.start_ms} ms; the video was cut anew since")
        return found
    covering = [clip for clip in clips if clip.start_s <= like.time_s <= clip.end_s]
    if not covering:
        extent = f"it runs from {clips[0].start_s:g} s to {clips[-1].end_s:g} s" if clips else "it has no clips"
        raise NoClip(f"no clip of {like.video} covers {like.time_s:g} s: {extent}")
    return covering[-1]


def video_among(snapshots: Sequence[Snapshot], name: str | Path) -> tuple[int, StoredVideo | None]:
    """Return the first library that has a video, as a number, with the video; (0, None) if none has it.

    name: as for `find_video`. Raises UsageError if several videos fit, in one library or in two, or none can.
    """
    name = path_text(name, "the name of a video")
    found = [(n, video) for n, each in enumerate(snapshots) if (video := find_video(each, name)) is not None]
    contents = {video.fingerprint: video.locations[0].path for _, video in found if video.locations}
    if len(contents) > 1 and not os.path.isabs(name) and not os.path.lexists(name):
        paths = shown_paths(sorted(contents.values()))
        fitting = counted(len(contents), "video")
        raise UsageError(f"{name} fits {fitting} of the libraries: {paths}; give more of the path")
    return found[0] if found else (0, None)


def clip_among(snapshots: Sequence[Snapshot], like: Like | ClipKey | str) -> tuple[int, StoredClip]:
    """Return the first library that has a clip, as a number, with the clip.

    Raises as `clip_of` if none has it, of several for the first that has its video; UsageError, QueryError for a value
    that names no clip.
    """
    found = clip_or_reason(snapshots, like)
    if isinstance(found, NoClip):
        raise QueryError(str(found))
    return found


def clip_or_reason(snapshots: Sequence[Snapshot], like: Like | ClipKey | str) -> tuple[int, StoredClip] | NoClip:
    """Return what `clip_among` does, and what it raises for a clip that no library has."""
    like = _checked(Like.parse(like) if isinstance(like, str) else like)
    if isinstance(like, Like) and len(snapshots) > 1:
        video_among(snapshots, str(like.video))  # one name may fit a video in each
    refused: list[NoClip] = []
    for number, snapshot in enumerate(snapshots):
        try:
            return number, clip_of(snapshot, like)
        except NoClip as exc:
            refused.append(exc)
    return max(refused, key=lambda exc: exc.has_video)


def _checked(like: object) -> Like | ClipKey:
    """Return what names a clip. Raises QueryError, UsageError for a value of a wrong type."""
    if isinstance(like, ClipKey) and isinstance(like.fingerprint, str) and type(like.start_ms) is int:
        return like
    if isinstance(like, Like) and is_number(like.time_s):
        path_text(like.video, "the name of a video")
        return like
    raise QueryError(f"a clip is a ClipKey of text and milliseconds, or a Like of a path and seconds, not {like!r}")


def clip_at(snapshot: Snapshot, fingerprint: str, at_s: float) -> list[StoredClip]:
    """Return the clip of a video at a time, if the library has both."""
    video = snapshot.video_with(fingerprint)
    clips = snapshot.clips_of(video.id) if video is not None else []
    return [clip for clip in clips if clip.start_s <= at_s < clip.end_s]


def stored_image(snapshot: Snapshot, clip: StoredClip) -> FloatArray:
    """Return the vector (dim,) of a clip that images are compared with. Raises QueryError if it has none."""
    vector = snapshot.vectors([clip.id])[clip.id].embeddings.get(frame_modality())
    if vector is None:
        raise QueryError(f"the clip at {clip.start_s:g} s has no frames to compare; choose another")
    return vector
