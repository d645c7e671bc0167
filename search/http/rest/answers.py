"""Answers of the REST interface: JSON documents, and one form of error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from vfindex import __version__
from vfindex.storage.errors import (
    EditConflict,
    LibraryError,
    ModelError,
    Overloaded,
    QueryError,
    QueryTimeout,
    UsageError,
    VfindexError,
    VideoError,
)

JSON = "application/json"
# Status of each error, the most special first.
_STATUS: tuple[tuple[type[VfindexError], int], ...] = (
    (QueryTimeout, 503),
    (QueryError, 400),
    (EditConflict, 409),
    (UsageError, 400),
    (VideoError, 422),
    (Overloaded, 503),
    (LibraryError, 503),
    (ModelError, 503),
)
RETRY_S = 2


class Refusal(Exception):
    """An answer that is an error. kind: a short stable word for programs. position: of the wrong character."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        position: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.position = status, kind, message, position
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, exc: VfindexError) -> Refusal:
        """Return the refusal for an error of vfindex."""
        status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
        position = exc.position if isinstance(exc, QueryError) else None
        headers = {"retry-after": str(RETRY_S)} if status == 503 else {}
        return cls(status, type(exc).__name__, str(exc), position, headers)

    def document(self) -> dict[str, Any]:
        """Return the JSON document, that of `vfindex --json` too."""
        position = {} if self.position is None else {"position": self.position}
        return {"error": {"kind": self.kind, "message": self.message, **position}}

    def response(self) -> Response:
        return json_response(self.document(), self.status, {"cache-control": "no-store", **self.headers})


def not_found(what: str) -> Refusal:
    """Return the refusal for something that is not there."""
    return Refusal(404, "NotFound", what)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a document as ASCII; bytes of paths that are not UTF-8 are lone surrogates, escaped."""
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def json_response(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(document), status, headers, JSON)


def versioned(request: Request, version: str, body: Callable[[], bytes], media_type: str = JSON) -> Response:
    """Return an answer that depends on its address and the state of the library alone; 304 if the client has it."""
    tag = etag(version, request.url.path, request.url.query)
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if is_known(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body(), 200, headers, media_type)


def etag(*parts: str) -> str:
    """Return a weak entity tag of some texts."""
    return f'W/"{hashlib.sha256("|".join((__version__, *parts)).encode("utf-8", "replace")).hexdigest()[:32]}"'


def is_known(request: Request, tag: str) -> bool:
    """Return whether the client has the answer with this tag (RFC 9110, 13.1.2: a weak comparison)."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag.removeprefix("W/") in given or given == ["*"]
