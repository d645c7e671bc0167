"""The REST interface, version 1: what each endpoint takes and answers. docs/http.md describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

from starlette.responses import Response

from vfindex.search.calibration.labels import LABELS
from vfindex.search.corrections import CorrectionInfo, CorrectionList, correctable_tracks
from vfindex.search.export.formats import get_format
from vfindex.search.http.limits import Workers
from vfindex.search.http.rest.answers import JSON, Refusal, json_bytes, json_response, not_found, versioned
from vfindex.search.http.rest.endpoints import Call, Endpoint, Param, answers
from vfindex.search.http.settings import Limits, RunCommand, StartedRun, Tools
from vfindex.search.membership import STEPS, Membership
from vfindex.search.query.image import Picture
from vfindex.search.query.request import Example, Judged
from vfindex.search.results import (
    Hits,
    ListList,
    MarkInfo,
    MarkList,
    Record,
    SavedList,
    Transcript,
    VideoInfo,
    VideoList,
)
from vfindex.search.service import SearchService
from vfindex.search.status import RunInfo, RunList, Status, StatusList
from vfindex.storage.errors import EditConflict, LibraryLocked, QueryError, UsageError
from vfindex.storage.modalities import timed_text_modalities
from vfindex.storage.records import Line
from vfindex.storage.user.records import DEFAULT_LIST, MAX_GRADE, SavedQuery

PREFIX = "/api/v1"
MAX_HITS, MAX_PAGE = 1000, 1000
MAX_TIME_S = 1e9
# Of a clip that a request says is right, without saying how much.
RELEVANT_GRADE = 1
# Pictures decoded at a time, each in a process with limits.
UPLOADS = 2

VIDEO = Param("fingerprint", "video", "Fingerprint of a video: the first part of the key of a hit.")
START = Param("start_ms", "integer", "Start of a clip in milliseconds: the second part of the key of a hit.")
K = Param("k", "integer", "Number of hits.", 10, least=1, most=MAX_HITS)
_FIRST = Param("first", "integer", "How many to leave out, for further pages.", 0, least=0, most=1_000_000_000)
PER_VIDEO = Param("per_video", "integer", "Hits per video at most.", 1, least=1, most=MAX_HITS)
_ASKED = (
    Param("q", "text", "The query, in the query language.", ""),
    K,
    _FIRST,
    PER_VIDEO,
    Param("like", "clip", "Find clips that look like this one; may be repeated.", many=True),
    Param("min_confidence", "text", "Only hits with this label or a better one; none: all hits.", choices=LABELS),
    Param("feedback", "boolean", "Judgements of this very question that are kept move it.", False, example=True),
    Param("relevant", "clip", "This clip moves the question towards it; may be repeated.", many=True),
    Param("rejected", "clip", "This clip moves the question away from it; may be repeated.", many=True),
)
_MEMBER = (
    Param("step", "text", "Of the question.", required=True, choices=STEPS),
    Param("question", "object", "The question.", required=True),
)
_ALIKE = (Param("clip", "clip", "Key of the clip.", required=True), K, _FIRST, PER_VIDEO)
LIBRARY = Param("library", "integer", "Which of several libraries: its place in the list of all, from 0.", 0, least=0)
_LISTED = (
    Param("filters", "text", "Filters of the query language.", ""),
    _FIRST,
    Param("limit", "integer", "Videos on a page.", 100, least=1, most=MAX_PAGE),
    LIBRARY,
)
_READ = (
    Param("format", "text", "Of the answer.", "json", choices=("json", "vtt", "srt")),
    Param("track", "text", "Whose text; without one, what is said.", choices=timed_text_modalities()),
)
_LIST = Param("list", "text", "Name of a list.")
_QUESTION = Param("question", "text", "The question of a judgement.")
_COMMAND = Param("command", "text", "What to run.", required=True, choices=get_args(RunCommand))
_ID = Param("id", "integer", "Number.", least=0)
_NAME = Param("name", "text", "Name of a saved question.", required=True)
_OF_LIST = Param("name", "text", "Name of a list.", required=True)
_NEW_NAME = Param("new_name", "text", "What to call it.", required=True)
_OF_MARK = Param("video", "video", "Fingerprint of its video, which tells in which of several libraries it is.")
_MARKED = (
    Param("clip", "clip", "Key of the clip: a text, or a list of its two parts as in a hit.", required=True),
    Param("list", "text", "Name of the list.", DEFAULT_LIST),
    Param("note", "text", "A note; without one, that of an earlier mark stays."),
    Param("question", "text", "Of a judgement: the question.", ""),
    Param("grade", "integer", "Of a judgement: how relevant the clip is.", least=0, most=MAX_GRADE),
    Param("by", "text", "Who marks it; without one, the user who runs the server."),
)
_VIDEO = Param("video", "video", "Only in this video, and in the library that has it.")
_SHOWN = Param("shown", "text", "What the line read when it was shown: if it reads otherwise now, the answer is 409.")
_CORRECTED = (
    Param("video", "video", "Fingerprint of the video.", required=True),
    Param("track", "text", "The track of the line.", required=True, choices=correctable_tracks()),
    Param("start_s", "number", "Start of the line, as in the transcript.", required=True, least=0, most=MAX_TIME_S),
    Param("end_s", "number", "End of the line.", required=True, least=0, most=MAX_TIME_S),
    Param("original", "text", "Its text in the library: original of a corrected segment, else text.", required=True),
    Param("text", "text", "What it should read; empty where nothing is said or written.", required=True),
    _SHOWN,
    Param("by", "text", "Who corrects it; without one, the user who runs the server."),
)
_SAVED = (_NAME, Param("text", "text", "The question, in the query language.", required=True), _MARKED[-1])


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the server is up."""

    status: str


class Api:
    """The endpoints about searches, videos and what people write. Calls run in threads, searches with a time limit."""

    def __init__(self, service: SearchService, limits: Limits, tools: Tools) -> None:
        self._service, self._limits = service, limits
        self._membership = Membership(service.engines, service.version)
        self._pictures, self._runs = tools.pictures, tools.runs
        self.workers = Workers(limits.searches, limits.waiting, "search")
        self._uploads = Workers(UPLOADS, limits.waiting, "upload")

    @property
    def may_start(self) -> bool:
        """Whether clients may start runs."""
        return self._runs is not None

    def started(self) -> StartedRun | None:
        """Return the run that a client started last, None before the first."""
        return None if self._runs is None else self._runs.state()

    # --- searching --------------------------------------------------------------------------------------------------

    @answers(Endpoint("GET", f"{PREFIX}/search", Hits, query=_ASKED))
    async def search(self, call: Call) -> Response:
        """Search by text, and by clips of the library."""
        if call["feedback"]:  # judgements change the hits, and not the state of the library
            return await self._unkept(call, call["like"])
        return await self._versioned(call, lambda: self._found(call, call["like"]))

    @answers(Endpoint("POST", f"{PREFIX}/search", Hits, body=_ASKED, takes_pictures=True))
    async def search_pictures(self, call: Call) -> Response:
        """Search by pictures in the fields `image` of a form, by text and by clips."""
        return await self._unkept(call, [*await self.pictures(call.files), *call["like"]])

    @answers(Endpoint("GET", f"{PREFIX}/similar", Hits, query=_ALIKE))
    async def similar(self, call: Call) -> Response:
        """Return the clips that look like one, without that one."""
        return await self._versioned(call, lambda: self._alike(call))

    @answers(Endpoint("POST", f"{PREFIX}/member", JSON, body=_MEMBER))
    async def member(self, call: Call) -> Response:
        """Answer a step of a question that another vfindex asks of several libraries.

        Its form belongs to this version of vfindex, and changes with it.
        """
        answer = partial(self._membership.answer, timeout_s=self._limits.search_s)
        found = await self.workers.run(answer, call["step"], call["question"])
        return json_response(found, headers={"cache-control": "no-store"})

    async def pictures(self, files: Sequence[bytes]) -> list[Picture]:
        """Return the pictures of files that a client sent. Raises Refusal, QueryError, ModelError."""
        numbered = enumerate(files, start=1)
        return [await self._uploads.run(self._decoded, data, f"image {number}") for number, data in numbered]

    async def _unkept(self, call: Call, images: Sequence[Example]) -> Response:
        """Return the hits of a search that a browser does not keep."""
        found = await self.workers.run(self._found, call, images)
        return json_response(found, headers={"cache-control": "no-store"})

    def _found(self, call: Call, images: Sequence[Example]) -> dict[str, Any]:
        if not call["q"].strip() and not images:
            raise Refusal(400, "QueryError", "the query is missing: give q, like or a picture")
        options = {name: call[name] for name in ("per_video", "min_confidence", "feedback")}
        judged = [
            *(Judged(key, RELEVANT_GRADE) for key in call["relevant"]),
            *(Judged(key, 0) for key in call["rejected"]),
        ]
        timeout_s = self._limits.search_s
        found = self._service.search(
            call["q"], images=images, top_k=_depth(call), judged=judged, timeout_s=timeout_s, **options
        )
        return _from_first(found, call)

    def _alike(self, call: Call) -> dict[str, Any]:
        options = {"per_video": call["per_video"], "timeout_s": self._limits.search_s}
        return _from_first(self._service.similar(call["clip"], top_k=_depth(call), **options), call)

    def _decoded(self, data: bytes, name: str) -> Picture:
        """Return a picture for the image encoder of the library. Raises Refusal, QueryError, ModelError."""
        if self._pictures is None:
            raise Refusal(501, "NotHere", "this server decodes no pictures")
        for engine in self._service.engines:
            self._pictures.prepare(engine)
        return Picture(name, (self._pictures.read_picture(data, name, self._service.engine.pictures.size_px),))

    # --- videos -----------------------------------------------------------------------------------------------------

    @answers(Endpoint("GET", f"{PREFIX}/videos", VideoList, query=_LISTED))
    async def videos(self, call: Call) -> Response:
        """Return a page of the videos that pass the filters, by path."""

        def read() -> dict[str, Any]:
            return self._one(call).videos(call["filters"], first=call["first"], limit=call["limit"]).to_dict()

        return await self._versioned(call, read)

    @answers(Endpoint("GET", f"{PREFIX}/videos/{{fingerprint}}", VideoInfo, in_path=(VIDEO,)))
    async def video(self, call: Call) -> Response:
        """Return all that the library knows of a video."""
        return await self._versioned(call, lambda: self._service.video(self._known(call)).to_dict())

    @answers(Endpoint("GET", f"{PREFIX}/videos/{{fingerprint}}/transcript", Transcript, in_path=(VIDEO,), query=_READ))
    async def transcript(self, call: Call) -> Response:
        """Return what is said in a video, or the text of another track, with times.

        Times of subtitles are those of a player.
        """
        if call["format"] == "json":
            read = partial(self._service.transcript, track=call["track"])
            return await self._versioned(call, lambda: read(self._known(call)).to_dict())

        def subtitles() -> bytes:
            video = self._service.video(self._known(call))
            try:
                return self._service.export(video, call["format"], track=call["track"]).data
            except QueryError:  # there is none; a player needs a file all the same
                return b"WEBVTT\n" if call["format"] == "vtt" else b""

        def answer() -> Response:
            media_type = get_format(call["format"]).media_type
            return versioned(call.request, self._service.version(), subtitles, media_type)

        return await self.workers.run(answer)

    def _known(self, call: Call) -> str:
        """Return the fingerprint of a video that the library has. Raises Refusal."""
        return known_video(self._service, call["fingerprint"])

    # --- what people write ------------------------------------------------------------------------------------------

    @answers(Endpoint("GET", f"{PREFIX}/lists", ListList))
    async def lists(self, call: Call) -> Response:
        """Return the lists of marks."""
        return fresh(await self.workers.run(self._service.lists))

    @answers(Endpoint("POST", f"{PREFIX}/lists", ListList, body=(_OF_LIST, _NEW_NAME)))
    async def rename_list(self, call: Call) -> Response:
        """Rename a list; return all."""
        with _missing():
            return fresh(await self.workers.run(self._service.rename_list, call["name"], call["new_name"]))

    @answers(Endpoint("DELETE", f"{PREFIX}/lists", MarkList, query=(_OF_LIST,)))
    async def remove_list(self, call: Call) -> Response:
        """Delete a list with its marks; return them."""
        with _missing():
            return fresh(await self.workers.run(self._service.remove_list, call["name"]))

    @answers(Endpoint("GET", f"{PREFIX}/marks", MarkList, query=(_LIST, _QUESTION)))
    async def marks(self, call: Call) -> Response:
        """Return the marks of all users, in the order in which they were made."""
        marks = partial(self._service.marks, list_=call["list"], question=call["question"])
        return fresh(await self.workers.run(marks))

    @answers(Endpoint("POST", f"{PREFIX}/marks", MarkInfo, body=_MARKED))
    async def mark(self, call: Call) -> Response:
        """Mark a clip, or change the mark of the same person in this list."""
        mark = partial(self._service.mark, list_=call["list"], note=call["note"], question=call["question"])
        return fresh(await self.workers.run(mark, call["clip"], grade=call["grade"], by=call["by"]))

    @answers(Endpoint("DELETE", f"{PREFIX}/marks/{{id}}", MarkList, in_path=(_ID,), query=(_OF_MARK,)))
    async def remove_mark(self, call: Call) -> Response:
        """Delete a mark; return it."""
        try:
            return fresh(await self.workers.run(self._service.remove_marks, [call["id"]], call["video"]))
        except UsageError as exc:
            raise not_found(f"there is no mark {call['id']}") from exc

    @answers(Endpoint("GET", f"{PREFIX}/corrections", CorrectionList, query=(_VIDEO,)))
    async def corrections(self, call: Call) -> Response:
        """Return the corrections of transcripts of all users, those whose line is not there any more included."""
        if call["video"] is not None:
            await self.workers.run(known_video, self._service, call["video"])
        return fresh(await self.workers.run(self._service.corrections, call["video"]))

    @answers(Endpoint("POST", f"{PREFIX}/corrections", CorrectionInfo, body=_CORRECTED))
    async def correct(self, call: Call) -> Response:
        """Correct a line of a transcript; all answers have it at once. A later correction replaces it."""
        fingerprint = await self.workers.run(known_video, self._service, call["video"])
        start_ms, end_ms = round(1000 * call["start_s"]), round(1000 * call["end_s"])
        line = Line(fingerprint, call["track"], start_ms, end_ms, call["original"])
        correct = partial(self._service.correct, by=call["by"], shown=call["shown"])
        return fresh(await self.workers.run(correct, line, call["text"]))

    @answers(Endpoint("DELETE", f"{PREFIX}/corrections/{{id}}", CorrectionList, in_path=(_ID,), query=(_VIDEO, _SHOWN)))
    async def remove_correction(self, call: Call) -> Response:
        """Delete a correction, so that the line reads as before; return it."""
        remove = partial(self._service.remove_corrections, shown=call["shown"])
        try:
            return fresh(await self.workers.run(remove, [call["id"]], call["video"]))
        except EditConflict:
            raise
        except UsageError as exc:
            raise not_found(f"there is no correction {call['id']}") from exc

    @answers(Endpoint("GET", f"{PREFIX}/saved", SavedList))
    async def saved(self, call: Call) -> Response:
        """Return the saved questions of all users, by name."""
        return fresh(await self.workers.run(self._service.saved_queries))

    @answers(Endpoint("POST", f"{PREFIX}/saved", SavedQuery, body=_SAVED))
    async def save(self, call: Call) -> Response:
        """Save a question under a name."""
        made = await self.workers.run(self._service.save_query, call["name"], call["text"], call["by"])
        return fresh(made)

    @answers(Endpoint("DELETE", f"{PREFIX}/saved", SavedQuery, query=(_NAME,)))
    async def remove_saved(self, call: Call) -> Response:
        """Delete a saved question; return it."""
        with _missing():
            return fresh(await self.workers.run(self._service.remove_query, call["name"]))

    # --- the library ------------------------------------------------------------------------------------------------

    @answers(Endpoint("GET", f"{PREFIX}/runs", RunList, query=(LIBRARY,)))
    async def runs(self, call: Call) -> Response:
        """Return all runs, the oldest first."""
        return await self._versioned(call, lambda: self._one(call).runs().to_dict())

    @answers(Endpoint("GET", f"{PREFIX}/runs/latest", RunInfo, query=(LIBRARY,)))
    async def latest_run(self, call: Call) -> Response:
        """Return the newest run, whoever started it, with its progress while it works."""
        found = await self.workers.run(lambda: self._one(call).latest_run())
        if found is None:
            raise not_found("this library has seen no run yet")
        return fresh(found)

    @answers(Endpoint("POST", f"{PREFIX}/runs", StartedRun, body=(_COMMAND,)))
    async def start_run(self, call: Call) -> Response:
        """Start a reindex, or a retry of failed files, if the server was started with --allow-write."""
        if self._runs is None:
            raise Refusal(403, "Forbidden", "this server starts no runs; start it with --allow-write")
        try:
            return fresh(await self.workers.run(self._runs.start, call["command"]))
        except LibraryLocked as exc:
            raise Refusal(409, "LibraryLocked", str(exc)) from exc

    @answers(Endpoint("GET", f"{PREFIX}/runs/started", StartedRun))
    async def started_run(self, call: Call) -> Response:
        """Return the run that a client started last, and how it ended."""
        found = await self.workers.run(self.started)
        if found is None:
            raise not_found("no client has started a run")
        return fresh(found)

    @answers(Endpoint("GET", f"{PREFIX}/runs/{{id}}", RunInfo, in_path=(_ID,), query=(LIBRARY,)))
    async def run(self, call: Call) -> Response:
        """Return a run."""
        runs = (await self.workers.run(lambda: self._one(call).runs())).runs
        found = next((run for run in runs if run.id == call["id"]), None)
        if found is None:
            raise not_found(f"there is no run {call['id']} in this library")
        return fresh(found)

    @answers(Endpoint("GET", f"{PREFIX}/status", Status, query=(LIBRARY,)))
    async def status(self, call: Call) -> Response:
        """Return what a library contains, and what failed."""
        return await self._versioned(call, lambda: self._one(call).status().to_dict())

    @answers(Endpoint("GET", f"{PREFIX}/libraries", StatusList))
    async def libraries(self, call: Call) -> Response:
        """Return the status of each library."""
        return await self._versioned(call, lambda: self._service.statuses().to_dict())

    @answers(Endpoint("GET", f"{PREFIX}/health", Health))
    async def health(self, call: Call) -> Response:
        """Return whether the server is up. It asks for no token."""
        return fresh(Health("ok"))

    def _one(self, call: Call) -> SearchService:
        """Return the library that is asked about. Raises Refusal."""
        return one_library(self._service, call["library"])

    async def _versioned(self, call: Call, document: Callable[[], dict[str, Any]]) -> Response:
        """Return a document that its address and the state of the library decide; 304 if the client has it."""

        def answer() -> Response:
            return versioned(call.request, self._service.version(), lambda: json_bytes(document()))

        return await self.workers.run(answer)

    def close(self) -> None:
        """Wait for the calls that run."""
        self.workers.close()
        self._uploads.close()


def known_video(service: SearchService, fingerprint: str) -> str:
    """Return the fingerprint of a video that a library has. Raises Refusal.

    The service also takes paths, and says whether there is such a file: never ask it for a name that is no fingerprint.
    """
    if not service.has_video(fingerprint):
        raise not_found("the library has no video with this fingerprint")
    return fingerprint


@contextmanager
def _missing() -> Iterator[None]:
    """Raise Refusal where nothing has the name that a client gives."""
    try:
        yield
    except QueryError as exc:
        raise not_found(str(exc)) from exc


def one_library(service: SearchService, number: int) -> SearchService:
    """Return the service of one library of several. Raises Refusal if there are not so many."""
    try:
        return service.alone(number)
    except QueryError as exc:
        raise not_found(str(exc)) from exc


def fresh(found: Record | SavedQuery | StartedRun | Health) -> Response:
    """Return a record that a browser does not keep."""
    document = found.to_dict() if isinstance(found, Record) else asdict(found)
    return json_response(document, headers={"cache-control": "no-store"})


def _depth(call: Call) -> int:
    """Return how many hits a search needs for a page. Raises Refusal beyond MAX_HITS."""
    depth: int = call["first"] + call["k"]
    if depth > MAX_HITS:
        raise Refusal(400, "WrongParameter", f"first and k together must be at most {MAX_HITS:,}")
    return depth


def _from_first(hits: Hits, call: Call) -> dict[str, Any]:
    """Return the document of hits, without those of earlier pages."""
    document = hits.to_dict()
    return document | {"hits": document["hits"][call["first"] :]}
