"""What a page shows, plays and saves: thumbnails, frames, files by ranges, streams of spans, exports.

Only files that the library names are opened: videos by their fingerprint, thumbnails by their clip. No request holds a
path.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vfindex.search.export.cuts import present, remarks, start_timecode
from vfindex.search.export.formats import FORMATS, NOTHING, Exported, Settings
from vfindex.search.export.gather import Chosen
from vfindex.search.export.timecode import Timebase
from vfindex.search.http.files import FileParts, Span, file_response
from vfindex.search.http.limits import Incomplete, Workers
from vfindex.search.http.rest.answers import Refusal, json_bytes, not_found, versioned
from vfindex.search.http.rest.api import PER_VIDEO, PREFIX, START, VIDEO, K, known_video
from vfindex.search.http.rest.endpoints import Call, Endpoint, Param, answers
from vfindex.search.http.settings import Limits
from vfindex.search.playback import MediaStream, Playback
from vfindex.search.service import SearchService
from vfindex.search.stills import MAX_SIZE_PX, MIN_SIZE_PX, SIZE_PX
from vfindex.storage.errors import FileMissing, NoDecoder, QueryError, VideoError, counted
from vfindex.storage.modalities import timed_text_modalities
from vfindex.storage.records import ClipKey

# Threads for files, for frames (one process decodes them), and for streams, of which each holds one while it reads.
FILE_THREADS, FRAME_THREADS, STREAM_THREADS = 8, 2, 16
# A clip that is indexed again may have another image under the same key.
_THUMBNAIL_AGE_S = 3600
# FFmpeg's name of a container -> what browsers call it. Others are for download.
_TYPES = {"mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "matroska,webm": "video/webm", "ogg": "video/ogg"}
OTHER_TYPE = "application/octet-stream"
_VIDEO = f"{PREFIX}/videos/{{fingerprint}}"
_TIME = Param("t", "number", "Time in seconds of the video's own clock, as in hits.", 0.0)
_SIZE = Param("size", "integer", "Longest side in pixels at most.", SIZE_PX, least=MIN_SIZE_PX, most=MAX_SIZE_PX)
_SPAN = (
    Param("start_s", "number", "Where to begin, in seconds.", 0.0),
    Param("end_s", "number", "Where to end; ten minutes later at most."),
    Param("rung", "text", "transcode, where the browser cannot play the copy.", choices=("remux", "transcode")),
)
CUT = "mp4"
# Of one cut: its file lies in the temporary folder until it is sent.
MAX_CUT_S = 1800.0
# Of the notes in a header: clients and proxies refuse long ones, some from 4 or 8 KiB on.
MAX_NOTES_CHARS = 3000
_EXPORTED = (
    Param("format", "text", "Of the file.", required=True, choices=(*FORMATS, CUT)),
    Param("q", "text", "Export the hits of this query."),
    K,
    PER_VIDEO,
    Param("list", "text", "Export the marks of this list."),
    Param("video", "video", "Export this video: its fingerprint."),
    Param("start_s", "number", "Of a video: where the part to export begins, in seconds."),
    Param("end_s", "number", "Of a video: where it ends."),
    Param("rate", "text", "Frame rate of a timeline, as 25, 23.976 or 29.97df; without one, that of the videos."),
    Param("offset_s", "number", "The start time code of a timeline, in seconds: 3600 is 01:00:00:00."),
    Param("track", "text", "Of srt and vtt: whose text; without one, what is said.", choices=timed_text_modalities()),
    Param("exact", "boolean", "Of mp4: encode again from the very frame, instead of copying from the keyframe before."),
)


class Media:
    """The endpoints that answer with pictures, videos and files for other programs."""

    def __init__(self, service: SearchService, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self._files = Workers(FILE_THREADS, limits.waiting, "files")
        self._frames = Workers(FRAME_THREADS, limits.waiting, "frames")
        self._streams = Workers(STREAM_THREADS, limits.waiting, "streams")

    @answers(Endpoint("GET", f"{_VIDEO}/thumbnails/{{start_ms}}", "image/webp", in_path=(VIDEO, START)))
    async def thumbnail(self, call: Call) -> Response:
        """Return the image of a clip."""
        return await self._files.run(self._thumbnail, call)

    def _thumbnail(self, call: Call) -> Response:
        try:
            path = self._service.thumbnail(ClipKey(call["fingerprint"], call["start_ms"]))
        except QueryError as exc:
            raise not_found("the library has no clip with this key") from exc
        if path is None:
            raise not_found("this clip has no image")
        headers = {"cache-control": f"private, max-age={_THUMBNAIL_AGE_S}"}
        return file_response(call.request, os.fsencode(path), "image/webp", headers)

    @answers(Endpoint("GET", f"{_VIDEO}/frame", "image/webp", in_path=(VIDEO,), query=(_TIME, _SIZE)))
    async def frame(self, call: Call) -> Response:
        """Return the frame that is shown at a time."""

        def image() -> bytes:
            fingerprint = known_video(self._service, call["fingerprint"])
            with _decoding():
                [still] = self._service.frames(fingerprint, [call["t"]], size_px=call["size"])
            return still.image

        def answer() -> Response:
            return versioned(call.request, self._service.version(), image, "image/webp")

        return await self._frames.run(answer)

    @answers(Endpoint("GET", f"{_VIDEO}/media", "video/*", in_path=(VIDEO,)))
    async def media(self, call: Call) -> Response:
        """Return the file of a video, or the byte ranges of it that are asked for."""
        return await self._files.run(self._media, call)

    def _media(self, call: Call) -> Response:
        fingerprint = known_video(self._service, call["fingerprint"])
        with _decoding():
            file = self._service.file(fingerprint)
        name = quote(os.path.basename(file.path), safe="")
        headers = {"content-disposition": f"inline; filename*=UTF-8''{name}", "cache-control": "private, no-cache"}
        return file_response(call.request, file.path, _TYPES.get(file.container, OTHER_TYPE), headers)

    @answers(Endpoint("GET", f"{_VIDEO}/playback", Playback, in_path=(VIDEO,)))
    async def playback(self, call: Call) -> Response:
        """Return how a browser plays a video: from its file, as a stream, or as a strip of frames."""

        def document() -> bytes:
            fingerprint = known_video(self._service, call["fingerprint"])
            with _decoding():
                return json_bytes(self._service.playback(fingerprint).to_dict())

        return await self._frames.run(lambda: versioned(call.request, self._service.version(), document))

    @answers(Endpoint("GET", f"{_VIDEO}/stream", "video/*", in_path=(VIDEO,), query=_SPAN))
    async def stream(self, call: Call) -> Response:
        """Return a span of a video as fragmented MP4 or WebM, made while it is sent.

        Its time 0 is the time `vfindex-start-s` of the video: the keyframe at or before the start asked for.
        """
        if call.request.method == "HEAD":  # nothing is decoded for it
            await self._files.run(known_video, self._service, call["fingerprint"])
            return Response(headers={"cache-control": "no-store"})
        return Stream(await self._streams.run(self._stream, call), self._streams)

    def _stream(self, call: Call) -> MediaStream:
        fingerprint = known_video(self._service, call["fingerprint"])
        with _decoding():
            return self._service.stream(fingerprint, call["start_s"], call["end_s"], rung=call["rung"])

    @answers(Endpoint("GET", f"{PREFIX}/export", "application/octet-stream", query=_EXPORTED))
    async def export(self, call: Call) -> Response:
        """Return the hits of a query, a list, or a video as a file for another program.

        mp4 joins all moments, of half an hour at most. `vfindex-notes` is a JSON list of sentences on what is otherwise
        than asked for, percent-encoded.
        """
        if call["format"] == CUT:
            return await self._streams.run(self._cut, call)
        made = await self._files.run(self._exported, call)
        return Response(made.data, 200, _attachment(made.name, made.notes), made.media_type)

    def _chosen(self, call: Call) -> Chosen:
        """Return the record to export. Raises Refusal unless one thing is named, QueryError, UsageError."""
        named = [name for name in ("q", "list", "video") if call[name] is not None]
        if len(named) != 1:
            raise Refusal(400, "WrongParameter", "name one thing to export: q, list or video")
        if named == ["list"]:
            return self._service.marks(list_=call["list"])
        if named == ["video"]:
            return self._service.video(known_video(self._service, call["video"]))
        options = {"per_video": call["per_video"], "timeout_s": self._limits.search_s}
        return self._service.search(call["q"], top_k=call["k"], **options)

    def _exported(self, call: Call) -> Exported:
        base = None if call["rate"] is None else Timebase.parse(call["rate"])
        settings, span = Settings(base, call["offset_s"]), (call["start_s"], call["end_s"])
        chosen = self._chosen(call)
        return self._service.export(chosen, call["format"], span=span, settings=settings, track=call["track"])

    def _cut(self, call: Call) -> Response:
        """Raises Refusal for too long a cut, QueryError, UsageError, LibraryError, VideoError, Overloaded."""
        if any(call[name] is not None for name in ("rate", "offset_s", "track")):
            raise Refusal(400, "WrongParameter", "mp4 has no timeline and no text; leave out rate, offset_s and track")
        selection = self._service.selection(self._chosen(call), (call["start_s"], call["end_s"])).once()
        excerpts, lost = present(selection.excerpts, self._service.file)
        spans = [(each.source.fingerprint, each.start_s, each.end_s) for each in excerpts]
        if not spans:
            raise Refusal(400, "QueryError", NOTHING)
        if sum(end_s - start_s for _, start_s, end_s in spans) > MAX_CUT_S:
            reason = f"the moments are longer than {MAX_CUT_S / 60:g} minutes together; choose fewer"
            raise Refusal(400, "WrongParameter", reason)
        with tempfile.TemporaryFile() as file, _decoding():
            exact, write = bool(call["exact"]), partial(_write_at, file.fileno())
            timecode = start_timecode(excerpts, exact=exact)
            made = self._service.cut(spans, write, exact=exact, timecode=timecode)
            size, handle = os.fstat(file.fileno()).st_size, os.dup(file.fileno())
        notes = (*selection.notes, *lost, *remarks(excerpts, made))
        return FileParts(handle, size, [Span(0, size)], "video/mp4", 200, _attachment("moments.mp4", notes))

    def close(self) -> None:
        """Wait for the calls that run."""
        for workers in (self._files, self._frames, self._streams):
            workers.close()


def _attachment(name: str, notes: Sequence[str]) -> dict[str, str]:
    """Return the headers of a file to save. name: of letters, digits and dashes. Of many notes, the first."""
    shown, room = list(notes), MAX_NOTES_CHARS
    for number, note in enumerate(notes):
        room -= len(quote(json.dumps(note)))
        if room < 0:
            shown[number:] = [f"{counted(len(notes) - number, 'further note')} left out"]
            break
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return headers | ({"vfindex-notes": quote(json.dumps(shown))} if shown else {})


def _write_at(handle: int, at: int, data: bytes) -> None:
    """Write to a file at an offset. Raises Refusal if the disk is full."""
    rest = memoryview(data)
    try:
        while rest:
            count = os.pwrite(handle, rest, at)
            rest, at = rest[count:], at + count
    except OSError as exc:
        raise Refusal(507, "NoRoom", f"the cut cannot be stored ({exc.strerror}) in the temporary folder") from exc


@contextmanager
def _decoding() -> Iterator[None]:
    """Raise Refusal for a file that is not there, and where nothing decodes videos, as without the extra `index`."""
    try:
        yield
    except FileMissing as exc:
        raise not_found(str(exc)) from exc
    except NoDecoder as exc:
        reason = "this server decodes no videos; where it runs, install: pip install 'vfindex[index]'"
        raise Refusal(501, "NotHere", reason) from exc


class Stream(StreamingResponse):
    """A span as media. Its child process ends with the answer, also if the client leaves."""

    def __init__(self, stream: MediaStream, workers: Workers) -> None:
        self._stream, self._workers = stream, workers
        start_s = f"{stream.start_s:.6f}"
        headers = {"cache-control": "no-store", "vfindex-start-s": start_s, "vfindex-rung": stream.rung}
        super().__init__(self._chunks(), 200, headers, stream.content_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # In a thread, since it waits for the child to end. Not awaited: a server that stops cancels this task.
            asyncio.get_running_loop().run_in_executor(None, self._stream.close)

    async def _chunks(self) -> AsyncIterator[bytes]:
        chunks = iter(self._stream)
        try:
            while (chunk := await self._workers.run(next, chunks, None)) is not None:
                yield chunk
        except VideoError as exc:  # the file is damaged there; the client has what came before
            raise Incomplete from exc
