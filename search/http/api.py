"""The REST interface, version 1: what each endpoint takes and answers. docs/http.md describes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from vfindex import __version__
from vfindex.search.calibration.labels import LABELS
from vfindex.search.http.answers import JSON, Refusal, json_bytes
from vfindex.search.http.endpoints import Call, Endpoint, Param
from vfindex.search.http.limits import Workers
from vfindex.search.http.settings import Limits
from vfindex.search.results import Hits, Status
from vfindex.search.service import SearchService

PREFIX = "/api/v1"
MAX_HITS, MAX_PAGE = 1000, 1000
P = ParamSpec("P")
T = TypeVar("T")

VIDEO = Param("fingerprint", "video", "Fingerprint of a video: the first part of the key of a hit.")
START = Param("start_ms", "integer", "Start of a clip in milliseconds: the second part of the key of a hit.")
K = Param("k", "integer", "Number of hits.", 10, least=1, most=MAX_HITS)
PER_VIDEO = Param("per_video", "integer", "Hits per video at most.", 1, least=1, most=MAX_HITS)
ASKED = (
    Param("q", "text", "The query, in the query language.", ""),
    K,
    Param("first", "integer", "How many of the best hits to leave out.", 0, least=0, most=MAX_HITS),
    PER_VIDEO,
    Param("like", "clip", "Find clips that look like this one; may be repeated.", many=True),
    Param("min_confidence", "text", "Only hits with this label or a better one; none: all hits.", choices=LABELS),
)


class Api:
    """The endpoints of a service. Calls run in threads, and end at the time limit of a search."""

    def __init__(self, service: SearchService, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self.workers = Workers(limits.searches, limits.waiting, "search")

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return all endpoints."""
        get = partial(Endpoint, "GET")
        return (
            get(f"{PREFIX}/search", "search", "Search by text, and by clips of the library.", self.search, Hits, ASKED),
            get(f"{PREFIX}/status", "status", "What the library contains, and what failed.", self.status, Status),
            get(f"{PREFIX}/health", "health", "Whether the server is up.", self.health, JSON),
        )

    async def search(self, call: Call) -> Response:
        return await self._answered(call, lambda: _hits(self._service, call, self._limits.search_s))

    async def status(self, call: Call) -> Response:
        return await self._answered(call, lambda: self._service.status().to_dict())

    async def health(self, call: Call) -> Response:
        return Response(json_bytes({"status": "ok", "version": __version__}), 200, {"cache-control": "no-store"}, JSON)

    async def _answered(self, call: Call, document: Callable[[], dict[str, Any]]) -> Response:
        """Return a document, or that it is the one the client has: it depends on the library and the address alone."""
        return await self.workers.run(_versioned, self._service, call.request, document)


def _versioned(service: SearchService, request: Request, document: Callable[[], dict[str, Any]]) -> Response:
    tag = etag(service.version(), request.url.path, request.url.query)
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if is_known(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(json_bytes(document()), 200, headers, JSON)


def etag(*parts: str) -> str:
    """Return a weak entity tag of some texts."""
    return f'W/"{hashlib.sha256("|".join((__version__, *parts)).encode("utf-8", "replace")).hexdigest()[:32]}"'


def is_known(request: Request, tag: str) -> bool:
    """Return whether the client has the answer with this tag (RFC 9110, 13.1.2: a weak comparison)."""
    given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag.removeprefix("W/") in given or given == ["*"]


def _hits(service: SearchService, call: Call, timeout_s: float) -> dict[str, Any]:
    if not call["q"].strip() and not call["like"] and not call.files:
        raise Refusal(400, "QueryError", "the query is missing: give q, like or a picture")
    first, k = call["first"], call["k"]
    found = service.search(
        call["q"],
        images=call["like"],
        top_k=min(first + k, MAX_HITS),
        per_video=call["per_video"],
        timeout_s=timeout_s,
        min_confidence=call["min_confidence"],
    )
    document = found.to_dict()
    return document | {"hits": document["hits"][first:]}
