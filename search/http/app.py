"""The application: the endpoints, the pages and the gate before both."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vfindex.search.http.pages import STATIC_FOLDER, Pages, problem_response
from vfindex.search.http.rest.answers import JSON, Refusal, json_bytes
from vfindex.search.http.rest.api import PREFIX, Api
from vfindex.search.http.rest.endpoints import endpoints_of
from vfindex.search.http.rest.media import Media
from vfindex.search.http.rest.openapi import openapi
from vfindex.search.http.rest.understanding import Understanding
from vfindex.search.http.security import HEADERS, MCP, Gate
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Settings, Tools
from vfindex.search.http.task_pages import TaskPages
from vfindex.search.service import SearchService
from vfindex.storage.errors import VfindexError

logger = logging.getLogger(__name__)
_KINDS = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}
_WORDS = {404: "there is nothing at this address", 405: "this address does not take that method"}
_BUG = "this is a bug of vfindex: please report it with the lines that the server printed"


def create_app(
    service: SearchService,
    settings: Settings,
    sessions: Sessions | None = None,
    tools: Tools | None = None,
) -> Starlette:
    """Return the ASGI application of a service, which whoever opened it closes.

    sessions: to make login links with. tools: what clients may use beside the service.
    """
    sessions, tools = sessions or Sessions(settings), tools or Tools()
    handlers = (
        api := Api(service, settings.limits, tools),
        understanding := Understanding(service, settings.limits),
        Media(service, settings.limits),
    )
    endpoints = [endpoint for each in handlers for endpoint in endpoints_of(each)]
    document = json_bytes(openapi(endpoints, settings.root_path))
    pages = Pages(service, settings, sessions, api)
    task_pages = TaskPages(service, settings.limits, understanding)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            if tools.agents is not None:
                await opened.enter_async_context(tools.agents.running())
            yield
        for each in handlers:  # in a thread: calls end by what other tasks do
            await anyio.to_thread.run_sync(each.close)

    async def description(_: Request) -> Response:
        return Response(document, 200, {"cache-control": "private, max-age=3600"}, JSON)

    async def bug(request: Request, exc: Exception) -> Response:
        logger.error("%s %s", request.method, request.url.path, exc_info=exc)
        scope = {**request.scope, "root_path": settings.root_path}  # as the gate, which this answer does not pass
        answer = problem_response(scope, Refusal(500, "Bug", _BUG))
        answer.headers.update(HEADERS)
        return answer

    app = Starlette(
        routes=[
            *(Route(each.path, each.__call__, methods=[each.method], name=each.name) for each in endpoints),
            Route(f"{PREFIX}/openapi.json", description),
            *([Route(MCP, tools.agents, methods=["POST"])] if tools.agents is not None else []),
            *pages.routes(),
            *task_pages.routes(),
            Mount("/static", _Static(directory=STATIC_FOLDER), name="static"),
        ],
        middleware=[Middleware(Gate, settings, sessions)],
        exception_handlers={
            **dict.fromkeys((Refusal, VfindexError, HTTPException), _error),
            ClientDisconnect: _gone,
            Exception: bug,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a path with another slash is another path
    return app


class _Static(StaticFiles):
    """Files of the pages, which browsers ask for each time: pages and scripts of one version belong together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["cache-control"] = "no-cache"
        return answer


async def _gone(_: Request, exc: Exception) -> Response:
    """Return an answer that nobody reads: the client has left before its request was complete."""
    logger.debug("a client has left: %r", exc)
    return Response(status_code=400)


async def _error(request: Request, exc: Exception) -> Response:
    """Return the answer to an error; of the framework: an unknown path or method, a form that cannot be read."""
    if isinstance(exc, VfindexError):
        exc = Refusal.of(exc)
    elif isinstance(exc, HTTPException):
        kind, words = _KINDS.get(exc.status_code, "BadRequest"), _WORDS.get(exc.status_code, exc.detail)
        exc = Refusal(exc.status_code, kind, words, headers=exc.headers)
    if not isinstance(exc, Refusal):
        raise exc
    return problem_response(request.scope, exc)
