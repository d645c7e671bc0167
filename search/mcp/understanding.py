"""The tools for tasks beyond one search. Each answers with moments and says where chance explains them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfindex.search.mcp.documents import MAX_CHAPTERS, MAX_NAME, NOTICE, clip_text, place_of, times_of, untrusted
from vfindex.search.mcp.params import Param
from vfindex.search.mcp.tool import CALL_S, Answer, Call, Tool
from vfindex.search.outline.records import DIGEST_LENGTH_S, DIGEST_WORDS
from vfindex.search.service import SearchService
from vfindex.search.understanding.answering import ask
from vfindex.search.understanding.duplicates import Copy, DuplicateGroup
from vfindex.search.understanding.limits import Progress, stopping
from vfindex.search.understanding.unusual import UnusualClip

SEARCH_S = 20.0
MAX_CLIPS, MAX_GROUPS, MAX_COPIES, MAX_LABELS = 50, 50, 10, 400
NAME = "its fingerprint (`video` of a hit), or its name: a path or the end of one, in any case, with or without suffix"
VIDEO = Param("video", "string", f"The video: {NAME}.", required=True, least=1, most=4096)
_ONLY = Param("video", "string", f"Only this video: {NAME}.", least=1, most=4096)
LIBRARY = Param(
    *("library", "integer", "Which of several libraries: its place in `libraries` of library_status, from 0.", 0, 0),
    most=1000,
)
_FILTERS = Param("filters", "string", "Filters of a query, as in:holiday lang:de longer:10m.", "", most=2000)
_ASK = """\
Answer a question by quotations: the moments whose speech or text on the screen answers it, word for word, with times.
says=false means that nothing is above chance: then say that the library does not say, and do not answer from elsewhere.
says=null: it cannot tell. Quote what you use, with its link.
Do not use it for what is only seen: use search_moments."""
_CHAPTERS = """\
Return the chapters of a video: those of its file, else those found where pictures, speech and text change, with a title
of their most telling words and a central sentence. better_than_chance=false: the video has no parts of its own.
Do not use it for all words (get_transcript) or a summary (summarise_video)."""
_DIGEST = """\
Summarise a video by parts of its own: excerpts whose pictures stand for the rest (with key frames to look at by
show_frames) and sentences that are central in what is said. Nothing is written anew. What is not better than a random
choice is left out. Do not use it to answer a question: use ask_library."""
_UNUSUAL = """\
Find the clips that are least like the others, of the library or of what filters choose. Only those with
stands_out=true are more than chance. among compares with other filters; against with what answers a question.
Do not use it to find something that you can describe: use search_moments."""
_DUPLICATES = """\
Find the same footage in several files: copies, re-encodes, excerpts, shared intros, with what could be deleted. It
deletes nothing. Slow in a large library: give filters. Do not use it for videos that are merely alike: find_similar."""
_LABELS = """\
Return the labels that people gave by classes, and how many videos and clips have each; a query chooses one with
label:NAME. An empty list: nobody has labelled this library. Do not use it to find moments: use search_moments."""


def task_tools(service: SearchService) -> list[Tool]:
    """Return the tools. None writes."""
    calls = _Calls(service)
    question = Param("question", "string", "The question, in plain words.", required=True, least=1, most=2000)
    moments = Param("limit", "integer", "Moments at most.", ask.TOP_K, 1, ask.MAX_TOP_K)
    length = Param("length_s", "number", "Seconds of the excerpts together.", DIGEST_LENGTH_S, 2, 300)
    words = Param("words", "integer", "Words of the sentences together.", DIGEST_WORDS, 0, 1000)
    among = Param("among", "string", "Compare with the clips of these filters instead.", least=1, most=2000)
    against = Param("against", "string", "Compare with what answers this question instead.", "", most=2000)
    clips = Param("limit", "integer", "Number of clips.", 10, 1, MAX_CLIPS)
    groups = Param("limit", "integer", "Number of groups.", 20, 1, MAX_GROUPS)
    unusual, copies = (_FILTERS, among, against, clips, LIBRARY), (_FILTERS, groups, LIBRARY)
    return [
        Tool("ask_library", "Answer by quotations", _ASK, (question, _ONLY, moments), calls.ask_library),
        Tool("get_chapters", "Get chapters", _CHAPTERS, (VIDEO,), calls.get_chapters),
        Tool("summarise_video", "Summarise a video", _DIGEST, (VIDEO, length, words), calls.summarise_video),
        Tool("find_unusual", "Find unusual clips", _UNUSUAL, unusual, calls.find_unusual),
        Tool("find_duplicates", "Find the same footage", _DUPLICATES, copies, calls.find_duplicates),
        Tool("list_labels", "List labels", _LABELS, (_FILTERS, LIBRARY), calls.list_labels),
    ]


class _Calls:
    """What the tools do with a service."""

    def __init__(self, service: SearchService) -> None:
        self._service = service

    def ask_library(self, values: Mapping[str, Any], call: Call) -> Answer:
        video = None if values["video"] is None else self._service.fingerprint(values["video"])
        found = self._service.ask(values["question"], video=video, top_k=values["limit"], timeout_s=SEARCH_S)
        moments = [_moment(each, call) for each in found.moments]
        head = {"notice": NOTICE, "question": values["question"], "says": found.says, "reason": found.reason}
        return Answer({**head, "moments": moments})

    def get_chapters(self, values: Mapping[str, Any], call: Call) -> Answer:
        found = self._service.chapters(
            self._service.fingerprint(values["video"]), progress=_progress("finding chapters", call)
        )
        shown = [
            {
                **times_of(each.start_s, each.end_s),
                "link": call.link(found.video, found.fingerprint, each.start_s, each.end_s),
                "untrusted_title": untrusted(each.title),
                "untrusted_sentence": None if each.sentence is None else untrusted(each.sentence.text),
            }
            for each in found.chapters[:MAX_CHAPTERS]
        ]
        plain = {name: getattr(found, name) for name in ("origin", "better_than_chance", "p_value")}
        left_out = len(found.chapters) - len(shown)
        return Answer({"notice": NOTICE, "video": found.fingerprint, **plain, "chapters": shown, "left_out": left_out})

    def summarise_video(self, values: Mapping[str, Any], call: Call) -> Answer:
        found = self._service.digest(
            self._service.fingerprint(values["video"]),
            length_s=values["length_s"],
            words=values["words"],
            progress=_progress("the digest", call),
        )
        excerpts = [
            {
                **times_of(each.start_s, each.end_s),
                "frame_s": round(each.frame_s, 3),
                "clip": clip_text(each.clip),
                "stands_for": round(each.share, 3),
                "link": call.link(found.video, found.fingerprint, each.start_s, each.end_s),
            }
            for each in found.moments
        ]
        sentences = [
            {**times_of(each.start_s, each.end_s), "track": each.track, "untrusted_text": untrusted(each.text)}
            for each in found.sentences
        ]
        return Answer(
            {
                "notice": NOTICE,
                "video": found.fingerprint,
                "duration_s": round(found.duration_s, 3),
                "untrusted_title": untrusted(found.title),
                "pictures_better_than_chance": found.pictures.better_than_chance,
                "text_better_than_chance": found.text.better_than_chance,
                "excerpts": excerpts,
                "sentences": sentences,
            }
        )

    def find_unusual(self, values: Mapping[str, Any], call: Call) -> Answer:
        found = self._service.alone(values["library"]).unusual(
            values["filters"],
            among=values["among"],
            against=values["against"],
            top_k=values["limit"],
            progress=_progress("comparing clips", call),
        )
        head = {"notice": NOTICE, "scored": found.scored, "compared": found.compared, "fence": round(found.fence, 2)}
        return Answer({**head, "clips": [_unusual(each, call) for each in found.clips]})

    def find_duplicates(self, values: Mapping[str, Any], call: Call) -> Answer:
        one = self._service.alone(values["library"])
        found = one.duplicates(values["filters"], progress=_progress("comparing videos", call))
        groups = [_group(each, call) for each in found.groups[: values["limit"]]]
        head = {"notice": NOTICE, "videos": found.videos, "could_free_bytes": found.could_free}
        return Answer({**head, "groups": groups, "left_out": len(found.groups) - len(groups)})

    def list_labels(self, values: Mapping[str, Any], call: Call) -> Answer:
        found = self._service.alone(values["library"]).labels(values["filters"]).labels
        shown = [
            {"untrusted_name": untrusted(each.label, MAX_NAME), "videos": each.videos, "clips": each.clips}
            for each in found[:MAX_LABELS]
        ]
        return Answer({"notice": NOTICE, "labels": shown, "left_out": len(found) - len(shown)})


def _progress(what: str, call: Call) -> Progress:
    return stopping(what, CALL_S, call.is_over)


def _moment(moment: ask.Moment, call: Call) -> dict[str, Any]:
    quotations = [
        {
            **times_of(each.start_s, each.end_s),
            "track": each.track,
            "source": each.source,
            **place_of(each),
            "untrusted_text": untrusted(each.text),
        }
        for each in moment.quotations
    ]
    return {
        "rank": moment.rank,
        "video": moment.key.fingerprint,
        "clip": clip_text(moment.key),
        **times_of(moment.start_s, moment.end_s),
        "confidence": moment.confidence,
        "link": call.link(moment.video, moment.key.fingerprint, moment.start_s, moment.end_s),
        "untrusted_path": untrusted(moment.video),
        "quotations": quotations,
    }


def _unusual(clip: UnusualClip, call: Call) -> dict[str, Any]:
    nearest = clip.nearest
    near = (
        {}
        if nearest is None
        else {"nearest": {"clip": clip_text(nearest.key), "similarity": round(nearest.similarity, 3)}}
    )
    return {
        "rank": clip.rank,
        "video": clip.key.fingerprint,
        "clip": clip_text(clip.key),
        **times_of(clip.start_s, clip.end_s),
        "deviation": round(clip.deviation, 2),
        "stands_out": clip.stands_out,
        "link": call.link(clip.video, clip.key.fingerprint, clip.start_s, clip.end_s),
        "untrusted_path": untrusted(clip.video),
        **near,
    }


def _group(group: DuplicateGroup, call: Call) -> dict[str, Any]:
    copies = [_copy(each, call) for each in group.copies[:MAX_COPIES]]
    return {
        "kind": group.kind,
        "similarity": round(group.similarity, 3),
        "copies": copies,
        "left_out": len(group.copies) - len(copies),
    }


def _copy(copy: Copy, call: Call) -> dict[str, Any]:
    plain = ("width_px", "height_px", "bytes", "could_go", "why_not")
    return {
        "video": copy.fingerprint,
        **times_of(copy.start_s, copy.end_s),
        "share": round(copy.share, 3),
        **{name: getattr(copy, name) for name in plain},
        "link": call.link(copy.video, copy.fingerprint, copy.start_s, copy.end_s),
        "untrusted_path": untrusted(copy.video),
    }
