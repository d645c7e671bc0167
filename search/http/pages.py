"""The pages, which work without JavaScript. Templates escape all text: names and transcripts are not trusted."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope as Connection

from vfindex.search.http.answers import Refusal, not_found
from vfindex.search.http.api import known_video
from vfindex.search.http.endpoints import FINGERPRINT
from vfindex.search.http.limits import Workers
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Settings
from vfindex.search.results import Hits, VideoInfo
from vfindex.search.service import SearchService
from vfindex.storage.errors import QueryError

FOLDER = Path(__file__).parent
STATIC_FOLDER = FOLDER / "static"
PAGE_HITS = 24
# A path and a query; "//host" and "/\\host" lead to other hosts.
_IS_LOCAL = re.compile(r"/(?![/\\])[!-~]*")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = clock
    return environment


def clock(time_s: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(max(0, round(time_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def page(scope: Connection, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page. Its template has `root`, the prefix of all paths, and `values`."""
    html = _templates().get_template(template).render(root=scope.get("root_path", ""), **values)
    # Bytes of a path that are not UTF-8 are lone surrogates, which HTML cannot hold.
    body = html.encode("utf-8", "replace")
    return HTMLResponse(body, status, {"cache-control": "private, no-cache"})


def login_page(
    scope: Connection, *, here: str | None = None, is_from_elsewhere: bool = False, wrong: bool = False
) -> HTMLResponse:
    """Return the page that asks for a token. here: where to go then; None: where the request went.

    is_from_elsewhere: a link on another site led here. Browsers then send no cookie, so the page loads itself once
    more, as a request of this site.
    """
    if here is None:
        query = scope["query_string"].decode("latin-1")
        here = f"{scope['path']}?{query}" if query else str(scope["path"])
    return page(scope, "login.html", 401, here=here, reload=is_from_elsewhere, wrong=wrong)


class Pages:
    """The pages of a service, and logging in and out."""

    def __init__(self, service: SearchService, settings: Settings, sessions: Sessions, workers: Workers) -> None:
        self._service, self._settings, self._sessions, self._workers = service, settings, sessions, workers

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        return [
            Route("/", self.search),
            Route("/videos/{fingerprint}", self.video),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
        ]

    async def search(self, request: Request) -> Response:
        """Return the search page, with the hits of `q`."""
        query = request.query_params.get("q", "")
        hits, problem = Hits(), None
        if query.strip():
            try:
                timeout_s = self._settings.limits.search_s
                hits = await self._workers.run(self._service.search, query, top_k=PAGE_HITS, timeout_s=timeout_s)
            except QueryError as exc:
                problem = Refusal.of(exc)
        names = {hit.key.fingerprint: _name(hit.video) for hit in hits}
        return page(request.scope, "search.html", query=query, hits=hits, problem=problem, names=names)

    async def video(self, request: Request) -> Response:
        """Return the page of a video, at the time `t`."""
        fingerprint = request.path_params["fingerprint"]
        if FINGERPRINT.fullmatch(fingerprint) is None:
            raise not_found("the library has no such video")
        await self._workers.run(known_video, self._service, fingerprint)
        video: VideoInfo = await self._workers.run(self._service.video, fingerprint)
        try:
            start_s = float(request.query_params.get("t", "0"))
        except ValueError:
            start_s = 0.0
        return page(request.scope, "video.html", video=video, name=_name(video.video), start_s=start_s)

    async def login(self, request: Request) -> Response:
        """Log in with a link used once, or with a token by a form; without either, return that form."""
        secret, form = request.query_params.get("once"), {}
        scope = None if secret is None else self._sessions.redeem(secret)
        if request.method == "POST":
            form = {
                name: texts[0] for name, texts in parse_qs((await request.body()).decode("utf-8", "replace")).items()
            }
            scope = self._sessions.scope_of({"authorization": f"Bearer {form.get('token', '')}"})
        if scope is None:
            return login_page(request.scope, here=self._local(form.get("next")), wrong=secret is not None or bool(form))
        headers = {"set-cookie": self._sessions.cookie(scope), "cache-control": "no-store"}
        return RedirectResponse(self._local(form.get("next")), 303, headers)

    async def logout(self, request: Request) -> Response:
        headers = {"set-cookie": self._sessions.end_cookie(), "cache-control": "no-store"}
        return RedirectResponse(f"{self._settings.root_path}/login", 303, headers)

    def _local(self, address: str | None) -> str:
        """Return an address if it is a page of this server, else that of the search page."""
        home = f"{self._settings.root_path}/"
        is_page = address is not None and address.startswith(home) and _IS_LOCAL.fullmatch(address)
        return address if address is not None and is_page else home


def _name(path: bytes | None) -> str:
    return "" if path is None else os.path.basename(os.fsdecode(path))
