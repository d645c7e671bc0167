"""The pages, which work without JavaScript. Templates escape all text: names and transcripts are not trusted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope as Connection

from vfindex.search.corrections import CorrectionInfo
from vfindex.search.export.formats import FORMATS
from vfindex.search.http import views
from vfindex.search.http.rest.answers import Refusal, not_found
from vfindex.search.http.rest.api import Api, known_video, one_library
from vfindex.search.http.rest.endpoints import CLIP, FINGERPRINT, form_of
from vfindex.search.http.sessions import Sessions
from vfindex.search.http.settings import Settings
from vfindex.search.query.image import Picture
from vfindex.search.query.parser import FILTER_EXAMPLES, parse
from vfindex.search.results import Hit, Hits, VideoInfo, VideoList
from vfindex.search.service import SearchService
from vfindex.search.status import Status
from vfindex.storage.errors import LibraryError, QueryError, VfindexError
from vfindex.storage.modalities import prefixes
from vfindex.storage.records import ClipKey, box_words
from vfindex.storage.user.records import DEFAULT_LIST

FOLDER = Path(__file__).parent
STATIC_FOLDER = FOLDER / "static"
# Videos on a page of results, hits of one video on its own page, rows of the table of videos.
PAGE_CARDS, VIDEO_HITS, PAGE_ROWS = 24, 50, 100
MAX_CARDS = 240
FILTERS = tuple(f"{name}:" for name in FILTER_EXAMPLES)
# What a text comes from, in words.
SOURCES = {
    "sidecar": "subtitles beside the file",
    "embedded": "subtitles in the file",
    "asr": "recognised",
    "frames": "read on the picture",
    "chapter": "chapter",
}
EXAMPLES = (
    ("dog running in park", "what happens, in plain words"),
    ('said:"thank you"', "these very words, spoken"),
    ("written:exit", "text on the screen"),
    ("shown:sunset -clouds", "only what is seen, and without clouds"),
    ("door opens then person enters within 20s", "two moments, one after the other"),
    ("city at night longer:30s", "only in videos of half a minute or more"),
)
# Titles of pages of errors, by status.
_PROBLEMS = {
    400: "That cannot be read",
    403: "Not allowed",
    404: "Not here",
    421: "Another address",
    429: "Too many requests",
    500: "A bug",
    503: "Not now",
}
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
    names = (views.key_text, views.file_name, views.path, views.inside)
    for each in (views.clock, views.marked, views.clip_ms, views.size, *names):
        environment.filters[each.__name__] = each
    environment.filters["place"] = box_words
    return environment


def page(scope: Connection, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page. Its template has `root`, the prefix of all paths, whether the client may write, and `values`."""
    may_write = scope.get("state", {}).get("scope") == "write"
    always = {"root": scope.get("root_path", ""), "may_write": may_write, "query": "", "moves": {}, "sources": SOURCES}
    shown = {**always, **values}
    html = _templates().get_template(template).render(shown)
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


def problem_response(scope: Connection, problem: Refusal) -> Response:
    """Return the answer to an error: a page where a browser asks for one, else the form of the REST interface."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    accepts = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    if b"text/html" not in accepts or path.removeprefix(root).startswith("/api/"):
        return problem.response()
    title = _PROBLEMS.get(problem.status, "That did not work")
    shown = page(scope, "error.html", problem.status, title=title, problem=problem)
    shown.headers.update({"cache-control": "no-store", **problem.headers})
    return shown


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the search page. likes: clips to resemble. first: videos to leave out.

    everything: also hits that are no better than chance. feedback: judgements move it. pictures: how many came with
    it; no address holds them.
    """

    query: str
    likes: tuple[ClipKey, ...]
    first: int
    everything: bool
    pictures: int = 0
    feedback: bool = False

    @classmethod
    def of(cls, request: Request) -> Asked:
        """Return the question of an address; what cannot be read in it counts as left out."""
        given = request.query_params
        likes = [ClipKey(found[1], int(found[2])) for text in given.getlist("like") if (found := CLIP.fullmatch(text))]
        first = min(number_of(given.get("first")), MAX_CARDS)
        return cls(given.get("q", ""), tuple(likes), first, "all" in given, feedback="feedback" in given)

    def address(self, **changed: Any) -> str:
        """Return the query of the address that asks this, with some parts changed."""
        values: dict[str, Any] = {"q": self.query, "like": self.likes, "first": self.first, "all": self.everything}
        values |= {"feedback": self.feedback, **changed}
        pairs = [("q", values["q"])] if values["q"] else []
        pairs += [("like", views.key_text(key)) for key in values["like"]]
        pairs += [(name, str(int(values[name]))) for name in ("first", "all", "feedback") if values[name]]
        return "?" + urlencode(pairs, errors="replace")


class Pages:
    """The pages of a service, and logging in and out."""

    def __init__(self, service: SearchService, settings: Settings, sessions: Sessions, api: Api) -> None:
        self._service, self._settings, self._sessions, self._api = service, settings, sessions, api
        self._workers = api.workers

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        return [
            Route("/", self.search, methods=["GET", "POST"]),
            Route("/videos/{fingerprint}", self.video),
            Route("/marks", self.marks),
            Route("/library", self.library),
            Route("/login", self.login, methods=["GET", "POST"]),
            Route("/logout", self.logout, methods=["POST"]),
        ]

    # --- searching --------------------------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        """Return the search page, with the hits of `q` and `like`; of a form, also of its pictures."""
        asked = Asked.of(request)
        hits, before, problem, saved = Hits(), Hits(), None, None
        try:
            pictures: list[Picture] = []
            if request.method == "POST":
                fields, files = await form_of(request)
                asked = replace(asked, query=dict(fields).get("q", ""), pictures=len(files))
                pictures = await self._api.pictures(files)
            if asked.query.strip() or asked.likes or pictures:
                hits = await self._workers.run(self._found, asked, pictures)
                if hits.feedback is not None:
                    before = await self._workers.run(
                        self._found, replace(asked, feedback=False, everything=True), pictures
                    )
            else:
                saved = await self._workers.run(self._service.saved_queries)
        except VfindexError as exc:
            problem = Refusal.of(exc)
        except Refusal as exc:
            problem = exc
        return self._results(request, asked, hits, problem, before=before, saved=() if saved is None else saved.saved)

    def _found(self, asked: Asked, pictures: Sequence[Picture]) -> Hits:
        return self._service.search(
            asked.query,
            images=[*pictures, *asked.likes],
            top_k=views.CARD_HITS * (asked.first + PAGE_CARDS + 1),
            per_video=views.CARD_HITS,
            min_confidence="none" if asked.everything else None,
            timeout_s=self._settings.limits.search_s,
            feedback=asked.feedback,
        )

    def _results(
        self,
        request: Request,
        asked: Asked,
        hits: Hits,
        problem: Refusal | None,
        *,
        before: Hits,
        saved: Sequence[object],
    ) -> Response:
        """before: the hits without judgements, of a question that they moved."""
        cards = views.cards_of(hits)
        is_alone = len(self._service.engines) == 1 and not self._service.remotes
        last = asked.first + PAGE_CARDS
        has_more = len(cards) > last and last < MAX_CARDS and not asked.pictures
        return page(
            request.scope,
            "search.html",
            200 if problem is None else problem.status,
            query=asked.query,
            asked=asked,
            chips=[] if problem else _chips(asked.query),
            hits=hits,
            labels=views.label_chips(asked.query, hits.labels.items()),
            judges=bool(is_alone and asked.query and not asked.pictures and not problem),
            moves=views.moves(cards, views.cards_of(before)) if before else {},
            cards=cards[asked.first : last],
            top=max((hit.score for hit in hits), default=0.0),
            more=asked.address(first=last) if has_more else None,
            problem=problem,
            saved=saved,
            examples=EXAMPLES,
            prefixes=[f"{prefix}:" for prefix in prefixes()],
            filters=FILTERS,
        )

    # --- a video ----------------------------------------------------------------------------------------------------

    async def video(self, request: Request) -> Response:
        """Return the page of a video, at the time `t` or at the clip `clip`, with the hits of `q` in it."""
        fingerprint, given = request.path_params["fingerprint"], request.query_params
        if FINGERPRINT.fullmatch(fingerprint) is None:
            raise not_found("the library has no such video")
        await self._workers.run(known_video, self._service, fingerprint)
        video: VideoInfo = await self._workers.run(self._service.video, fingerprint)
        hits: Sequence[Hit] = await self._workers.run(self._hits_in, video, given.get("q", ""))
        start_s = _seconds(given.get("t"), video.start_s)
        end_s = _seconds(given.get("end"), 0.0)
        clip = next((each for each in video.clips if str(each.key.start_ms) == given.get("clip")), None)
        clip = clip or next((each for each in reversed(video.clips) if each.start_s <= start_s + 0.001), None)
        shown = next((hit for hit in hits if clip is not None and hit.key == clip.key), None)
        shown = shown or next((hit for hit in hits if hit.start_s <= start_s < hit.end_s), None)
        stale, unread = await self._workers.run(self._stale, fingerprint)
        return page(
            request.scope,
            "video.html",
            query=given.get("q", ""),
            video=video,
            name=views.file_name(video.video),
            folder=os.path.dirname(os.fsdecode(video.video)) if video.video else "",
            start_s=start_s,
            end_s=end_s if end_s > start_s else None,
            clip=clip,
            hits=hits,
            hit=shown,
            top=max((hit.score for hit in hits), default=0.0),
            timeline=views.timeline_of(video, hits),
            texts=views.texts_of(video, shown),
            stale=stale,
            unread=unread,
            width=views.TIMELINE,
        )

    def _hits_in(self, video: VideoInfo, query: str) -> list[Hit]:
        """Return the hits of a question in one video, by time; none if the question is wrong or out of time."""
        if not query.strip():
            return []
        try:
            inside = views.within_video(parse(query), video)
            hits = self._service.search(
                inside, top_k=VIDEO_HITS, per_video=VIDEO_HITS, timeout_s=self._settings.limits.search_s
            )
        except QueryError:
            return []
        return sorted((hit for hit in hits if hit.key.fingerprint == video.fingerprint), key=lambda hit: hit.start_s)

    def _stale(self, fingerprint: str) -> tuple[list[CorrectionInfo], str]:
        """Return the corrections of lines that a video no longer has, and why they cannot be read, else ""."""
        try:
            found = self._service.corrections(fingerprint).corrections
        except LibraryError as exc:
            return [], str(exc)
        return [each for each in found if each.state == "stale"], ""

    # --- marks and the library --------------------------------------------------------------------------------------

    async def marks(self, request: Request) -> Response:
        """Return the page of a list of marks, by default the one that marks go into."""
        marks = (await self._workers.run(self._service.marks)).marks
        chosen = request.query_params.get("list", DEFAULT_LIST)
        counts = Counter(mark.list for mark in marks if not mark.question)
        shown = [mark for mark in marks if mark.list == chosen and not mark.question]
        lists = sorted({DEFAULT_LIST, chosen, *counts})
        return page(
            request.scope,
            "marks.html",
            marks=shown,
            chosen=chosen,
            counts=counts,
            lists=lists,
            formats=[*FORMATS, "mp4"],
        )

    async def library(self, request: Request) -> Response:
        """Return the page of a library: what it covers, what failed, its runs, a page of its videos."""
        given = request.query_params
        filters, first = given.get("filters", ""), number_of(given.get("first"))
        number = number_of(given.get("library"))
        one = one_library(self._service, number)
        status: Status = await self._workers.run(one.status)
        runs = (await self._workers.run(one.runs)).runs
        videos, problem = VideoList(0, (), ()), None
        try:
            videos = await self._workers.run(one.videos, filters, first=first, limit=PAGE_ROWS)
        except VfindexError as exc:
            problem = Refusal.of(exc)
        folders = Counter(os.path.dirname(os.fsdecode(each.video)) for each in videos.videos if each.video)
        last, shown = first + PAGE_ROWS, [("library", number)] if number else []
        return page(
            request.scope,
            "library.html",
            library=status,
            number=number,
            names=[os.fspath(each.folder) for each in self._service.engines],
            runs=runs[::-1][:20],
            videos=videos,
            folders=sorted(folders.items()),
            labels=views.label_chips(filters, ((each.label, each.videos or each.clips) for each in videos.labels)),
            filters=filters,
            problem=problem,
            may_start=self._api.may_start and not number,
            has_started=await self._workers.run(self._api.started) is not None,
            disk=await self._workers.run(views.disk_use, one.folder),
            more="?" + urlencode([*shown, ("filters", filters), ("first", last)]) if last < videos.total else None,
        )

    # --- logging in -------------------------------------------------------------------------------------------------

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


def _chips(query: str) -> list[views.Chip]:
    try:
        return views.chips_of(parse(query, wordless=True))
    except QueryError:
        return []


def number_of(text: str | None) -> int:
    """Return the whole number of an address, 0 for none, and for what is none."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text) else 0


def _seconds(text: str | None, default: float) -> float:
    """Return the time of an address; the default for none, and for what is no time."""
    return float(text) if text and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,25})?", text) else default
