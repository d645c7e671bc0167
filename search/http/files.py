"""Files as answers: byte ranges and conditional requests (RFC 9110, 13 and 14) over an open descriptor.

A path is opened once, as a regular file and no link, and what is checked is what is sent.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from vfindex.search.http.limits import Incomplete
from vfindex.search.http.rest.answers import Refusal
from vfindex.storage.files.regular import NotRegularError, regular_no_link

CHUNK_BYTES = 256 << 10
# Players ask for one range. More, or ranges that overlap, are answered with the whole file, as RFC 9110, 14.2 advises.
MAX_RANGES = 8
_RANGES = re.compile(r"bytes=\s*(.+)", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"(\d{0,19})-(\d{0,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from `first` to before `end`."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def content_range(self, size: int) -> str:
        return f"bytes {self.first}-{self.end - 1}/{size}"


def file_response(request: Request, path: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    """Return the answer with a file, or the part of it that was asked for. Raises Refusal if it cannot be opened.

    Opens the file, so call it in a thread.
    """
    try:
        handle = regular_no_link(path, os.O_RDONLY)
    except NotRegularError as exc:
        raise Refusal(404, "NotFound", f"the file cannot be read: it is {exc.kind}") from exc
    except OSError as exc:
        raise Refusal(404, "NotFound", f"the file cannot be read: {exc.strerror}") from exc
    try:
        found = os.fstat(handle)
        modified = datetime.fromtimestamp(int(found.st_mtime), UTC)
        tag = f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'
        known = {
            **headers,
            "etag": tag,
            "last-modified": format_datetime(modified, usegmt=True),
            "accept-ranges": "bytes",
        }
        answer = _answer(request, handle, found.st_size, media_type, known, modified)
    except BaseException:
        os.close(handle)
        raise
    if not isinstance(answer, FileParts):
        os.close(handle)
    return answer


def _answer(
    request: Request, handle: int, size: int, media_type: str, headers: Mapping[str, str], modified: datetime
) -> Response:
    tag = headers["etag"]
    if _is_unchanged(request, tag, modified):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":  # a range is for GET alone
        return Response(headers={**headers, "content-length": str(size), "content-type": media_type})
    wanted = _wanted(request, size, tag, modified)
    if wanted == []:
        unmet = {"content-range": f"bytes */{size}"}
        raise Refusal(416, "RangeNotSatisfiable", f"the file has {size:,} bytes", headers=unmet)
    if wanted is None:
        return FileParts(handle, size, [Span(0, size)], media_type, 200, headers)
    return FileParts(handle, size, wanted, media_type, 206, headers)


class FileParts(StreamingResponse):
    """Some spans of an open file, which is closed at the end, however it comes."""

    def __init__(
        self, handle: int, size: int, spans: Sequence[Span], media_type: str, status: int, headers: Mapping[str, str]
    ) -> None:
        self._handle = handle
        heads, tail = [b""] * len(spans), b""
        more = {"content-type": media_type}
        if status == 206 and len(spans) == 1:
            more["content-range"] = spans[0].content_range(size)
        elif len(spans) > 1:
            boundary = secrets.token_hex(16)
            more["content-type"] = f"multipart/byteranges; boundary={boundary}"
            head = f"\r\n--{boundary}\r\ncontent-type: {media_type}\r\ncontent-range: "
            heads = [f"{head}{span.content_range(size)}\r\n\r\n".encode() for span in spans]
            tail = f"\r\n--{boundary}--\r\n".encode()
        more["content-length"] = str(sum(map(len, heads)) + sum(map(len, spans)) + len(tail))
        super().__init__(self._parts(list(zip(heads, spans, strict=True)), tail), status, {**headers, **more})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._handle)

    async def _parts(self, parts: Sequence[tuple[bytes, Span]], tail: bytes) -> AsyncIterator[bytes]:
        for head, span in parts:
            if head:
                yield head
            at = span.first
            while at < span.end:
                data = await anyio.to_thread.run_sync(os.pread, self._handle, min(CHUNK_BYTES, span.end - at), at)
                if not data:  # the file has become shorter
                    raise Incomplete
                at += len(data)
                yield data
        if tail:
            yield tail


# --- conditions -----------------------------------------------------------------------------------------------------


def _is_unchanged(request: Request, tag: str, modified: datetime) -> bool:
    """Return whether the client has this file already."""
    if (given := request.headers.get("if-none-match")) is not None:
        return given.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in given.split(",")]
    since = _date(request.headers.get("if-modified-since"))
    return since is not None and modified <= since


def _wanted(request: Request, size: int, tag: str, modified: datetime) -> list[Span] | None:
    """Return the ranges that are asked for, in that order; None: the whole file; []: none that the file has."""
    if (condition := request.headers.get("if-range")) is not None:
        date = _date(condition)
        if condition.strip() != tag and (date is None or date != modified):
            return None
    match = _RANGES.fullmatch(request.headers.get("range", "").strip())
    texts = [each.strip() for each in match[1].split(",", MAX_RANGES)] if match is not None else []
    if not texts or len(texts) > MAX_RANGES:
        return None
    spans = []
    for text in filter(None, texts):
        found = _RANGE.fullmatch(text)
        if found is None or text == "-" or (found[1] and found[2] and int(found[1]) > int(found[2])):
            return None  # a header that is wrong counts as none
        first = int(found[1]) if found[1] else max(0, size - int(found[2]))
        end = min(size, int(found[2]) + 1) if found[1] and found[2] else size
        if first < end:
            spans.append(Span(first, end))
    in_order = sorted(spans, key=lambda span: span.first)
    overlap = any(a.end > b.first for a, b in itertools.pairwise(in_order))
    return None if overlap else spans


def _date(text: str | None) -> datetime | None:
    """Return an HTTP date, None for anything else."""
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo is not None else None
