"""Videos in a form that a browser plays, and cuts of them. What reads the media comes in through `Player`.

A ladder of four rungs, the first that serves: the file itself by byte ranges; a span of it, its packets copied to
fragmented MP4 or WebM; a span of it encoded again; a strip of frames (`search.stills`). A page that meets a codec which
its browser lacks asks for the next rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from vfindex.search.query.values import is_number
from vfindex.search.results import Record
from vfindex.search.stills import file_of
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import NoDecoder, QueryError
from vfindex.storage.records import CutEnd, CutPart, Playability, Rung

# Of one stream: a page asks for the next one as it nears the end.
SPAN_S = 600.0


class MediaStream(Protocol):
    """The bytes of a span, made as they are read, in a child process of its own.

    Closing it, from any thread, also while another reads, ends the child; so does reading to the end. Reading raises
    VideoError where the file is damaged beyond reading on. A stream that nobody reads for a minute may be closed in
    favour of another one; it then ends early.
    """

    @property
    def rung(self) -> Rung:
        """`remux` or `transcode`."""

    @property
    def content_type(self) -> str:
        """The MIME type with the codecs, for `canPlayType` and Media Source Extensions."""

    @property
    def start_s(self) -> float:
        """Time of the video that is 0 s in the stream: the keyframe at or before the start that was asked for."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Player(Protocol):
    """Prepares files; `indexer.playback.player.MediaPlayer` does, in confined child processes. Safe for threads."""

    def playability(self, path: bytes) -> Playability:
        """Return the first rung for a file; `strip`, with the reason, if it cannot be decoded. Raises VideoError."""

    def stream(self, path: bytes, start_s: float, end_s: float, rung: Rung | None) -> MediaStream:
        """Return a span as media. rung: `transcode` to skip the copy. Raises VideoError, Overloaded."""

    def cut(
        self, parts: Sequence[CutPart], write: Callable[[int, bytes], None], *, exact: bool, timecode: str | None = None
    ) -> CutEnd:
        """Write one MP4 file of the parts, one after the other.

        write: (offset, bytes), in no order of offsets. exact: encode again, so that each part begins and ends with the
        frame asked for; otherwise copy packets from the keyframe before. timecode: of the first frame of an exact
        cut, SMPTE ST 12-1; a copy begins with another frame.
        Raises VideoError, also for parts that only `exact` can cut or join, and Overloaded.
        """


@dataclass(frozen=True, slots=True)
class Playback(Record):
    """How a browser plays a video: rung, MIME type with codecs ("" for a strip), and why no rung before serves.

    start_s, end_s: of the video. On every rung but `file`, times are those of a stream plus its `start_s`.
    """

    video: bytes
    video_id: int
    fingerprint: str
    rung: Rung
    content_type: str
    reason: str
    start_s: float
    end_s: float


def playback_of(player: Player | None, video: StoredVideo) -> Playback:
    """Return how a browser plays a video. Raises NoDecoder, LibraryError, VideoError."""
    path = file_of(video)
    found = _given(player).playability(path)
    return Playback(
        path, video.id, video.fingerprint, found.rung, found.content_type, found.reason, video.start_s, video.end_s
    )


def stream_of(
    player: Player | None, video: StoredVideo, start_s: float, end_s: float | None, rung: Rung | None
) -> MediaStream:
    """Return a span of a video as media, at most SPAN_S of it.

    Raises NoDecoder, QueryError, LibraryError, VideoError, Overloaded.
    """
    for name, time_s in (("start_s", start_s), ("end_s", end_s)):
        if not (is_number(time_s) or (name == "end_s" and time_s is None)):
            raise QueryError(f"{name} must be a number of seconds, not {time_s!r}")
    if rung not in (None, "remux", "transcode"):
        raise QueryError(f"rung must be remux or transcode, not {rung!r}")
    from_s = min(max(float(start_s), video.start_s), video.last_s)
    to_s = min(video.end_s if end_s is None else float(end_s), from_s + SPAN_S)
    if to_s <= from_s:
        raise QueryError(f"end_s must be after start_s, not {end_s!r}")
    return _given(player).stream(file_of(video), from_s, to_s, rung)


def cut_of(
    player: Player | None,
    spans: Sequence[tuple[StoredVideo, float, float]],
    write: Callable[[int, bytes], None],
    *,
    exact: bool,
    timecode: str | None,
) -> CutEnd:
    """Write one MP4 file of spans of videos. Raises NoDecoder, QueryError, LibraryError, VideoError, Overloaded."""
    parts = []
    for video, start_s, end_s in spans:
        if not (is_number(start_s) and is_number(end_s) and start_s < end_s):
            raise QueryError(f"a span to cut must be two rising times, not {start_s!r} and {end_s!r}")
        from_s, to_s = max(float(start_s), video.start_s), min(float(end_s), video.end_s)
        if from_s >= to_s:
            raise QueryError(f"the span {start_s:g} to {end_s:g} s lies outside the video")
        parts.append(CutPart(file_of(video), from_s, to_s))
    if not parts:
        raise QueryError("name a span to cut at least")
    return _given(player).cut(parts, write, exact=exact, timecode=timecode)


def _given(player: Player | None) -> Player:
    if player is None:
        raise NoDecoder("this service plays no videos; open it with SearchService(folder, player=MediaPlayer())")
    return player
