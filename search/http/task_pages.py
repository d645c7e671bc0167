"""The pages of tasks beyond one search: answers by quotations, and findings: news, unusual clips, the same footage."""

from __future__ import annotations

import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vfindex.search.http.pages import number_of, page
from vfindex.search.http.rest.answers import Refusal
from vfindex.search.http.rest.api import one_library
from vfindex.search.http.rest.understanding import Understanding
from vfindex.search.http.settings import Limits
from vfindex.search.service import SearchService
from vfindex.search.understanding.answering.ask import Answer
from vfindex.search.understanding.limits import Progress
from vfindex.search.understanding.news import NewsItem, WatchInfo
from vfindex.search.understanding.watch import Watches
from vfindex.storage.errors import VfindexError

# Moments of an answer, clips that are unusual, groups of the same footage, and hits of watched questions on a page.
MOMENTS, CLIPS, GROUPS, NEWS = 5, 24, 50, 24
EXAMPLES = ("why should climbers wear a helmet", "how many people live there", "when does the last ferry leave")


class TaskPages:
    """The pages of tasks. Each works without JavaScript."""

    def __init__(self, service: SearchService, limits: Limits, understanding: Understanding) -> None:
        self._service, self._limits = service, limits
        self._tasks, self._workers = understanding.tasks, understanding.workers

    def routes(self) -> list[Route]:
        return [Route("/ask", self.ask), Route("/findings", self.findings)]

    async def ask(self, request: Request) -> Response:
        """Return the quotations that answer `q`; with `all`, also those no better than chance."""
        question, everything = request.query_params.get("q", ""), "all" in request.query_params
        answer: Answer | None = None
        problem = None

        def found() -> Answer:
            return self._service.ask(question, top_k=MOMENTS, show_all=everything, timeout_s=self._limits.search_s)

        try:
            if question.strip():
                answer = await self._workers.run(found)
        except (VfindexError, Refusal) as exc:
            problem = exc if isinstance(exc, Refusal) else Refusal.of(exc)
        status = 200 if problem is None else problem.status
        shown = {"query": question, "answer": answer, "problem": problem, "everything": everything}
        return page(request.scope, "ask.html", status, examples=EXAMPLES, **shown)

    async def findings(self, request: Request) -> Response:
        """Return what watched questions found; with `show`, unusual clips, or the same footage in several files.

        Of one library, which `library` names by its place among several.
        """
        show, filters = request.query_params.get("show", ""), request.query_params.get("filters", "")
        number = number_of(request.query_params.get("library"))
        one = one_library(self._service, number)
        tasks = {"unusual": ("comparing clips", self._unusual), "duplicates": ("comparing videos", self._duplicates)}
        watches: tuple[WatchInfo, ...] = ()
        news: list[NewsItem] = []
        found: Any = None
        problem = None
        try:
            watches, news = await self._workers.run(self._news, one)
            if show in tasks:
                what, task = tasks[show]
                found = await self._tasks.run(request, what, lambda progress: task(one, filters, progress))
        except (VfindexError, Refusal) as exc:
            problem = exc if isinstance(exc, Refusal) else Refusal.of(exc)
        status = 200 if problem is None else problem.status
        names = [os.fspath(each.folder) for each in self._service.engines]
        shown = {"watches": watches, "news": news, "show": show, "filters": filters, "found": found}
        shown |= {"number": number, "names": names}
        return page(request.scope, "findings.html", status, problem=problem, most=GROUPS, **shown)

    def _news(self, one: SearchService) -> tuple[tuple[WatchInfo, ...], list[NewsItem]]:
        """Return the watched questions, and their newest hits, the newest first."""
        watches = Watches(one.engine)
        watched = watches.watched().watches
        return watched, watches.items(newest=NEWS)[::-1] if watched else []

    def _unusual(self, one: SearchService, filters: str, progress: Progress) -> Any:
        return one.unusual(filters, top_k=CLIPS, progress=progress)

    def _duplicates(self, one: SearchService, filters: str, progress: Progress) -> Any:
        return one.duplicates(filters, progress=progress)
