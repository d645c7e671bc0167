"""The endpoints of tasks beyond one search: labels, chapters, digests, answers, unusual clips, copies, and news."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from vfindex.search.http.limits import Tasks, Workers
from vfindex.search.http.rest.answers import JSON, json_bytes, not_found, versioned
from vfindex.search.http.rest.api import LIBRARY, MAX_PAGE, PER_VIDEO, PREFIX, VIDEO, K, fresh, known_video, one_library
from vfindex.search.http.rest.endpoints import Call, Endpoint, Param, answers
from vfindex.search.http.settings import Limits
from vfindex.search.outline.records import DIGEST_LENGTH_S, DIGEST_WORDS, LEAST_CHAPTER_S, ChapterList, Digest
from vfindex.search.results import LabelList
from vfindex.search.service import SearchService
from vfindex.search.understanding.answering.ask import MAX_TOP_K, TOP_K, Answer
from vfindex.search.understanding.duplicates import DuplicateList
from vfindex.search.understanding.feed import SHOWN_ITEMS, atom
from vfindex.search.understanding.limits import Progress
from vfindex.search.understanding.news import News, WatchList
from vfindex.search.understanding.unusual import METHODS, UnusualList
from vfindex.search.understanding.watch import Watches
from vfindex.storage.errors import LibraryError
from vfindex.storage.modalities import modality_names

ATOM = "application/atom+xml"
TITLE = "vfindex: news"
_VIDEO = f"{PREFIX}/videos/{{fingerprint}}"
_OF_VIDEO = replace(VIDEO, example="c0ffee5eed")
_FILTERS = Param("filters", "text", "Filters of the query language.", "", example="in:camera1 after:2026-11-28")
_CHAPTERS = (
    Param("least_s", "number", "The shortest chapter to be found.", LEAST_CHAPTER_S, least=0.1, most=1e6, example=60.0),
    Param("detect", "boolean", "Find chapters even if the file has its own.", False, example=True),
)
_DIGEST = (
    Param("length_s", "number", "Of the excerpts together.", DIGEST_LENGTH_S, least=2.0, most=3600.0, example=60.0),
    Param("words", "integer", "Of the sentences together.", DIGEST_WORDS, least=0, most=10_000, example=200),
)
_ASK = (
    Param("q", "text", "The question, in plain words.", required=True, example="why should climbers wear a helmet"),
    Param("video", "video", "Only what this video says.", example="c0ffee5eed"),
    Param("k", "integer", "Moments at most.", TOP_K, least=1, most=MAX_TOP_K, example=5),
    Param("all", "boolean", "Also moments that are no better than chance.", False, example=True),
)
_UNUSUAL = (
    _FILTERS,
    Param("among", "text", "Filters of the clips to compare with; without it, each other.", example="in:camera1"),
    Param("against", "text", "Compare with the clips that answer this instead.", "", example="an empty street"),
    Param("modality", "text", "Only by this one; without it, by all.", choices=modality_names(), example="visual"),
    Param("method", "text", "Distance to neighbours, or local outlier factor.", "knn", choices=METHODS, example="lof"),
    K,
    PER_VIDEO,
    LIBRARY,
)
_DUPLICATES = (
    replace(_FILTERS, example="in:imports"),
    Param("first", "integer", "Groups to leave out, for further pages.", 0, least=0, most=1_000_000_000, example=100),
    Param("limit", "integer", "Groups on a page.", 100, least=1, most=MAX_PAGE, example=20),
    LIBRARY,
)
_NEWS = (
    Param("limit", "integer", "The newest hits.", SHOWN_ITEMS, least=1, most=MAX_PAGE, example=20),
    Param("new", "boolean", "Only those that no run of `vfindex watch run` has reported.", False, example=True),
    LIBRARY,
)


class Understanding:
    """The endpoints of tasks. None writes; each has a time limit, and ends when its client leaves."""

    def __init__(self, service: SearchService, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self.tasks = Tasks(limits.tasks, limits.waiting_tasks, limits.task_s)
        self.workers = Workers(limits.searches, limits.waiting, "answer")

    @answers(Endpoint("GET", f"{PREFIX}/labels", LabelList, query=(replace(_FILTERS, example="in:holiday"), LIBRARY)))
    async def labels(self, call: Call) -> Response:
        """Return how many videos and clips have each label, the most frequent first.

        Of the hits of a search, `labels` of its answer counts them; the filter `label:` chooses one.
        """
        return await self.workers.run(self._versioned, call, lambda: self._one(call).labels(call["filters"]).to_dict())

    @answers(Endpoint("GET", f"{_VIDEO}/chapters", ChapterList, in_path=(_OF_VIDEO,), query=_CHAPTERS))
    async def chapters(self, call: Call) -> Response:
        """Return the chapters of a video: those of its file, else those found, if they are better than chance."""

        def found(progress: Progress) -> dict[str, Any]:
            options = {"least_s": call["least_s"], "detect": call["detect"], "progress": progress}
            with _without_clips():
                return self._service.chapters(self._known(call), **options).to_dict()

        return await self._answer(call, "finding chapters", found)

    @answers(Endpoint("GET", f"{_VIDEO}/digest", Digest, in_path=(_OF_VIDEO,), query=_DIGEST))
    async def digest(self, call: Call) -> Response:
        """Return excerpts and sentences that stand for a video, if they are better than chance.

        `clip` names the thumbnail of an excerpt, `frame_s` the time of its key frame: both have an endpoint.
        """

        def found(progress: Progress) -> dict[str, Any]:
            options = {"length_s": call["length_s"], "words": call["words"], "progress": progress}
            with _without_clips():
                return self._service.digest(self._known(call), **options).to_dict()

        return await self._answer(call, "the digest", found)

    @answers(Endpoint("GET", f"{PREFIX}/ask", Answer, query=_ASK))
    async def ask(self, call: Call) -> Response:
        """Return quotations that answer a question, or that the library does not say."""

        def found() -> dict[str, Any]:
            video = call["video"] and known_video(self._service, call["video"])
            options = {"top_k": call["k"], "show_all": call["all"], "timeout_s": self._limits.search_s}
            with _without_clips() if video else nullcontext():
                return self._service.ask(call["q"], video=video, **options).to_dict()

        return await self.workers.run(self._versioned, call, found)

    @answers(Endpoint("GET", f"{PREFIX}/unusual", UnusualList, query=_UNUSUAL))
    async def unusual(self, call: Call) -> Response:
        """Return the clips that are least like the others; `stands_out` tells which are so by more than chance."""

        def found(progress: Progress) -> dict[str, Any]:
            options = {name: call[name] for name in ("among", "against", "modality", "method", "per_video")}
            one = self._one(call)
            return one.unusual(call["filters"], top_k=call["k"], progress=progress, **options).to_dict()

        return await self._answer(call, "comparing clips", found)

    @answers(Endpoint("GET", f"{PREFIX}/duplicates", DuplicateList, query=_DUPLICATES))
    async def duplicates(self, call: Call) -> Response:
        """Return the same footage in several files, those first whose copies free the most. Deletes nothing."""

        def found(progress: Progress) -> dict[str, Any]:
            all_ = self._one(call).duplicates(call["filters"], progress=progress)
            return replace(all_, groups=all_.groups[call["first"] :][: call["limit"]]).to_dict()

        return await self._answer(call, "comparing videos", found)

    @answers(Endpoint("GET", f"{PREFIX}/watches", WatchList, query=(LIBRARY,)))
    async def watches(self, call: Call) -> Response:
        """Return the watched questions, by name, and how many hits of each nobody has been told."""
        return fresh(await self.workers.run(lambda: self._watches(call).watched()))

    @answers(Endpoint("GET", f"{PREFIX}/watches/news", News, query=_NEWS))
    async def news(self, call: Call) -> Response:
        """Return the newest hits of the watched questions, the oldest of them first.

        `vfindex watch run` finds and reports them; this only reads, and reports nothing.
        """

        def found() -> News:
            return News(tuple(self._watches(call).items(untold=call["new"], newest=call["limit"])))

        return fresh(await self.workers.run(found))

    @answers(Endpoint("GET", f"{PREFIX}/watches/feed", ATOM, query=(LIBRARY,)))
    async def feed(self, call: Call) -> Response:
        """Return the newest hits of the watched questions as an Atom feed, whose links lead to this server."""

        def found() -> bytes:
            watches, site = self._watches(call), call.request.scope["state"]["site"]
            return atom(watches.items(newest=SHOWN_ITEMS), TITLE, watches.folder, site)

        return Response(await self.workers.run(found), 200, {"cache-control": "no-store"}, ATOM)

    def _one(self, call: Call) -> SearchService:
        return one_library(self._service, call["library"])

    def _watches(self, call: Call) -> Watches:
        return Watches(self._one(call).engine)

    def _known(self, call: Call) -> str:
        return known_video(self._service, call["fingerprint"])

    async def _answer(self, call: Call, what: str, found: Callable[[Progress], dict[str, Any]]) -> Response:
        """Return the document of a task that takes long."""
        return await self.tasks.run(call.request, what, lambda p: self._versioned(call, lambda: found(p)))

    def _versioned(self, call: Call, document: Callable[[], dict[str, Any]]) -> Response:
        """Return a document that its address and the state of the library decide; 304 if the client has it."""
        return versioned(call.request, self._service.version(), lambda: json_bytes(document()), JSON)

    def close(self) -> None:
        """End the tasks that run, and wait for other calls."""
        self.tasks.close()
        self.workers.close()


@contextmanager
def _without_clips() -> Iterator[None]:
    """Raise Refusal for a video that has no clips; what else is wrong with a library has an error of its own."""
    try:
        yield
    except LibraryError as exc:
        if type(exc) is not LibraryError:  # it can be read no longer, or not now
            raise
        raise not_found(str(exc)) from exc
