"""Files of videos: thumbnails, frames, playback and cuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.search.libraries import OpenLibraries, existing_video
from vfindex.search.query.like import Like, clip_among, video_among
from vfindex.search.results import Still
from vfindex.storage.library import again_if_changed
from vfindex.storage.records import ClipKey

if TYPE_CHECKING:  # a search does without; its start counts
    from vfindex.search.playback import MediaStream, Playback, Player
    from vfindex.search.remote.member import RemoteLibrary
    from vfindex.search.stills import FrameReader, VideoFile
    from vfindex.storage.records import CutEnd, Rung


class VideoFiles(OpenLibraries):
    """The files of the videos. Of copies, that of the first library is read, if it is there."""

    def __init__(
        self,
        folder: str | Path | Sequence[str | Path],
        frames: FrameReader | None = None,
        player: Player | None = None,
        remotes: Sequence[RemoteLibrary] = (),
    ) -> None:
        """folder, remotes: see `OpenLibraries`. frames, player: read files; who opened them closes them."""
        super().__init__(folder, remotes)
        self._frames, self._player = frames, player

    @again_if_changed
    def thumbnail(self, clip: Like | ClipKey | str) -> Path | None:
        """Return the WebP image of a clip, None if there is none. clip: as for `similar`. Raises QueryError."""
        with self.opened() as (libraries, snapshots):
            number, found = clip_among(snapshots, clip)
            return libraries[number].thumbnail(found.thumbnail)

    @again_if_changed
    def frames(self, name: str | Path, times_s: Sequence[float], *, size_px: int | None = None) -> list[Still]:
        """Return for each time the frame of a video that is shown then. name: a path, or a fingerprint.

        Before the first frame it is that one. size_px: longest side at most; None: 640. Raises UsageError without a
        frame reader, QueryError, LibraryError if no file of it is there, VideoError if it cannot be decoded.
        """
        from vfindex.search.stills import SIZE_PX, stills_of

        with self.opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return stills_of(self._frames, existing_video(video, name), times_s, SIZE_PX if size_px is None else size_px)

    @again_if_changed
    def file(self, fingerprint: str) -> VideoFile:
        """Return the file of a video. Raises LibraryError if there is no such video, or no file of it."""
        from vfindex.search.stills import VideoFile, file_of

        with self.opened() as (_, snapshots):
            found = [video for each in snapshots if (video := each.video_with(fingerprint)) is not None]
        video = existing_video(found[0] if found else None, fingerprint)
        return VideoFile(file_of(video), video.fingerprint, video.container)

    @again_if_changed
    def playback(self, name: str | Path) -> Playback:
        """Return how a browser plays a video. name: a path, or a fingerprint.

        Raises UsageError without a player, LibraryError if no file of it is there, VideoError.
        """
        from vfindex.search.playback import playback_of

        with self.opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return playback_of(self._player, existing_video(video, name))

    @again_if_changed
    def stream(
        self, name: str | Path, start_s: float, end_s: float | None = None, *, rung: Rung | None = None
    ) -> MediaStream:
        """Return a span of a video, at most ten minutes, as MP4 or WebM; the caller closes it.

        rung: `transcode` where the browser cannot play the copy; None: the first that serves. Raises QueryError,
        UsageError without a player, LibraryError, VideoError, and Overloaded if too many play at once.
        """
        from vfindex.search.playback import stream_of

        with self.opened() as (_, snapshots):
            _, video = video_among(snapshots, name)
        return stream_of(self._player, existing_video(video, name), start_s, end_s, rung)

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

        with self.opened() as (_, snapshots):
            found = [
                (existing_video(video_among(snapshots, name)[1], name), from_s, to_s) for name, from_s, to_s in spans
            ]
        return cut_of(self._player, found, write, exact=exact, timecode=timecode)
