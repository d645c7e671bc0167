"""The tools that agents call: what each takes, when to use it, and what it answers. docs/mcp.md describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vfindex.search.export.formats import FORMATS
from vfindex.search.mcp.documents import (
    NOTICE,
    hits_document,
    status_document,
    summary_document,
    transcript_document,
    untrusted,
    video_document,
)
from vfindex.search.mcp.exports import CUT, MAX_CLIPS, MAX_CUT_S, ExportFolder
from vfindex.search.mcp.params import Param
from vfindex.search.mcp.tool import Answer, Call, Tool
from vfindex.search.mcp.understanding import LIBRARY, NAME, VIDEO, task_tools
from vfindex.search.query.like import Like
from vfindex.search.service import SearchService
from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import timed_text_modalities
from vfindex.storage.records import ClipKey

MAX_HITS, MAX_FRAMES, MAX_PAGE = 50, 8, 100
SEARCH_S, EXPORT_S = 20.0, 300.0
_LIMIT = Param("limit", "integer", "Number of hits.", 10, 1, MAX_HITS)
_PERVIDEO = Param("per_video", "integer", "Hits of one video at most.", 1, 1, MAX_HITS)
_EVERY_HIT = Param("include_unlikely", "boolean", "Also hits that are no better than chance.", False)
INSTRUCTIONS = (
    "vfindex finds moments in a private library of indexed videos, by what is seen, said, or written on the screen. "
    "Begin with search_moments. A video is named by its fingerprint (`video` of a hit), times are in seconds. Give the "
    f"`link` of a hit when you mention it. {NOTICE}"
)
_SEARCH = """\
Find moments in the videos by describing what is seen, said or written in them.
The query is plain words, best one short description: dog running in park. It may also have
  "exact words" (must be said, written on the screen, or in the title), -cat (not this), said:rocket (must be spoken),
  shown:"red car" (pictures only), written:exit (text on the screen), titled:holiday (title, file name, folders),
  door opens then dog barks within 20s; thunder near rain within 1m (two moments of one video),
  in:holiday in:"Trip/*.mp4" after:2026-01-31 before:2026-03-01 longer:60s shorter:10m lang:en (filters),
  label:cooking (one of list_labels).
Hits carry a confidence: high, medium, low; those no better than chance are left out and counted in left_out. No hits
means that the library has no such moment: say so. `contributions` says what made a hit: pictures, speech, text.
Do not use it to read on in a video (get_transcript), to look at one (show_frames), or to count or list videos
(library_status); it knows no facts beyond the videos."""
_SIMILAR = """\
Find moments that look like one that you have: give `clip` of a hit, or `video` and `time_s`; a `video` without a time
finds what looks like it as a whole. Only pictures are compared. Do not use it for what is said, or with words: use
search_moments."""
_TRANSCRIPT = """\
Read what is said in a video, with times. track gives another text instead: screen for what is written on the picture,
text for the chapters. Give start_s and end_s for a part. A long one is cut: call again with first set to next_first.
A segment with `corrected` was put right by a person. Do not use it to find something: search_moments is faster."""
_FRAMES = """\
Look at a video: returns the frames shown at some times, as images. Use it to check a hit (its frame_s, or times between
start_s and end_s). Do not use it to search through a video: use search_moments, then look."""
_GETVIDEO = """\
Return what is known of one video: length, size, codec, languages, chapters, tags, what is indexed, and problems.
Do not use it for its words (get_transcript)."""
_STATUS = """\
Return what the library has: numbers of videos and clips, what is searchable, problems; with list_videos also a page of
the videos. filters of that list are those of a query, as in:holiday lang:de longer:10m. Do not use it to find
moments."""
_EXPORT = f"""\
Write moments into one new file of the export folder: mp4 (one film of all of them, {MAX_CUT_S / 60:g} minutes at
most), or a file for an editor, a player or a spreadsheet: {", ".join(FORMATS)}. It replaces no file. Use it only when
the user asks for a file."""
_SPAN = Param(
    "clip",
    "object",
    fields=(
        VIDEO,
        Param("start_s", "number", "Start in seconds.", least=-1e9, most=1e9, required=True),
        Param("end_s", "number", "End in seconds.", least=-1e9, most=1e9, required=True),
        Param("note", "string", "A remark for the editor.", "", most=500),
    ),
)


def tools_of(service: SearchService, folder: ExportFolder | None = None) -> list[Tool]:
    """Return the tools of a service. folder: where files may be written; None: there is no tool that writes."""
    calls = _Calls(service)
    part = (
        Param("start_s", "number", "Only from this time on, in seconds.", least=-1e9, most=1e9),
        Param("end_s", "number", "Only before this time, in seconds.", least=-1e9, most=1e9),
    )
    track = Param("track", "string", "Whose text; without one, what is said.", choices=timed_text_modalities())
    first = Param("first", "integer", "Number of the first segment: next_first of the call before.", 0, 0, 10_000_000)
    chars = Param("max_chars", "integer", "Length of the text.", 12_000, 200, 40_000)
    query = Param("query", "string", "The query.", required=True, least=1, most=2000)
    clip = Param("clip", "string", "`clip` of a hit.", most=200)
    of_video = Param("video", "string", f"Instead of clip: {NAME}.", least=1, most=4096)
    at_s = Param("time_s", "number", "A time of it in seconds; without one, the whole video.", least=-1e9, most=1e9)
    time_s = Param("time", "number", least=-1e9, most=1e9)
    times = Param("times_s", "array", "Times in seconds.", least=1, most=MAX_FRAMES, required=True, items=time_s)
    size = Param("size_px", "integer", "Longest side of the images.", 512, 64, 1024)
    listed = (
        Param("list_videos", "integer", "How many videos to list.", 0, 0, MAX_PAGE),
        Param("first", "integer", "How many of them to leave out.", 0, 0, 1_000_000_000),
        Param("filters", "string", "Filters of the list.", "", most=2000),
        LIBRARY,
    )
    found = [
        Tool(
            *("search_moments", "Search moments", _SEARCH, (query, _LIMIT, _PERVIDEO, _EVERY_HIT)),
            calls.search_moments,
        ),
        Tool(
            *("find_similar", "Find similar moments", _SIMILAR, (clip, of_video, at_s, _LIMIT, _PERVIDEO)),
            calls.find_similar,
        ),
        Tool(
            *("get_transcript", "Read a transcript", _TRANSCRIPT, (VIDEO, track, *part, first, chars)),
            calls.get_transcript,
        ),
        Tool("show_frames", "Look at frames", _FRAMES, (VIDEO, times, size), calls.show_frames),
        Tool("get_video", "Get a video", _GETVIDEO, (VIDEO,), calls.get_video),
        Tool("library_status", "Get the library's status", _STATUS, listed, calls.library_status),
    ]
    found += task_tools(service)
    return found if folder is None else [*found, _export(service, folder)]


def _export(service: SearchService, folder: ExportFolder) -> Tool:
    clips = Param("clips", "array", "The moments, in order.", least=1, most=MAX_CLIPS, required=True, items=_SPAN)
    params = (
        clips,
        Param("format", "string", "Of the file.", required=True, choices=(CUT, *FORMATS)),
        Param("title", "string", "What to call it; the file's name is made of it.", "clips", least=1, most=100),
        Param(
            "track", "string", "srt and vtt: whose text; without one, what is said.", choices=timed_text_modalities()
        ),
        Param("exact", "boolean", "mp4: cut at the very frames, which takes longer; else at keyframes.", False),
    )

    def run(values: Mapping[str, Any], call: Call) -> Answer:
        return Answer(folder.export(service, values, call.is_over))

    return Tool("export_clips", "Export moments", _EXPORT, params, run, EXPORT_S, writes=True)


class _Calls:
    """What the tools do with a service."""

    def __init__(self, service: SearchService) -> None:
        self._service = service

    def search_moments(self, values: Mapping[str, Any], call: Call) -> Answer:
        hits = self._service.search(
            values["query"],
            top_k=values["limit"],
            per_video=values["per_video"],
            timeout_s=SEARCH_S,
            min_confidence="none" if values["include_unlikely"] else None,
        )
        return Answer({"query": values["query"], **hits_document(hits, call.link)})

    def find_similar(self, values: Mapping[str, Any], call: Call) -> Answer:
        options = {"top_k": values["limit"], "per_video": values["per_video"], "timeout_s": SEARCH_S}
        return Answer(hits_document(self._service.similar(self._clip(values), **options), call.link))

    def _clip(self, values: Mapping[str, Any]) -> ClipKey | Like | str:
        clip, video, time_s = values["clip"], values["video"], values["time_s"]
        if clip is None and video is not None:
            found = self._service.fingerprint(video)
            return found if time_s is None else Like(Path(found), time_s)
        fingerprint, _, start_ms = (clip or "").rpartition(":")
        if video is not None or time_s is not None or not fingerprint or not start_ms.removeprefix("-").isdecimal():
            raise UsageError("find_similar takes clip, as the clip of a hit, or else video, with or without time_s")
        return ClipKey(fingerprint, int(start_ms))

    def get_transcript(self, values: Mapping[str, Any], call: Call) -> Answer:
        found = self._service.transcript(self._service.fingerprint(values["video"]), track=values["track"])
        start_s, end_s = values["start_s"], values["end_s"]
        segments = [
            each
            for each in found.segments
            if (start_s is None or each.end_s > start_s) and (end_s is None or each.start_s < end_s)
        ]
        head = {"video": found.fingerprint, "untrusted_path": untrusted(found.video), "total": len(segments)}
        return Answer({**head, **transcript_document(segments, values["first"], values["max_chars"])})

    def show_frames(self, values: Mapping[str, Any], call: Call) -> Answer:
        fingerprint = self._service.fingerprint(values["video"])
        stills = self._service.frames(fingerprint, values["times_s"], size_px=values["size_px"])
        frames = [
            {"time_s": round(each.time_s, 3), "width_px": each.width_px, "height_px": each.height_px} for each in stills
        ]
        document = {"notice": NOTICE, "video": fingerprint, "frames": frames}
        return Answer(document, [each.image for each in stills])

    def get_video(self, values: Mapping[str, Any], call: Call) -> Answer:
        return Answer(video_document(self._service.video(self._service.fingerprint(values["video"])), call.link))

    def library_status(self, values: Mapping[str, Any], call: Call) -> Answer:
        document: dict[str, Any] = {
            "notice": NOTICE,
            "libraries": [status_document(each) for each in self._service.statuses().libraries],
        }
        if values["list_videos"]:
            one = self._service.alone(values["library"])
            page = one.videos(values["filters"], first=values["first"], limit=values["list_videos"])
            document["total"] = page.total
            document["untrusted_hints"] = [untrusted(each.text) for each in page.hints]
            document["list"] = [summary_document(each) for each in page.videos]
        return Answer(document)
