"""Subtitles in sidecars and inside a video, as transcript segments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfindex.indexer.boundary import lacks_resources
from vfindex.indexer.languages import language_tag
from vfindex.indexer.media.decoder import SubtitleTrack
from vfindex.indexer.scan.sidecar_names import marks_of, preference, read_marks, sort_sidecars
from vfindex.indexer.scan.walk import sidecars_of
from vfindex.indexer.speech.cues import Cue
from vfindex.indexer.speech.subtitle_formats import MAX_TIME_S, Cues, read_cues, read_packets
from vfindex.indexer.speech.telemetry import is_log, is_telemetry
from vfindex.indexer.speech.text_encoding import decode_text, is_mojibake
from vfindex.indexer.speech.transcribe import placed
from vfindex.storage.errors import Problem, VideoError, counted
from vfindex.storage.files.regular import NotRegularError, regular_no_link
from vfindex.storage.records import Segment, SegmentSource, WordTimes

MAX_SIDECAR_BYTES = 10_000_000  # the subtitles of a 3-hour film are 0.2 MB, with karaoke effects 5 MB
LATE_SHARE = 0.1  # of the subtitles; fewer after the end are credits of a longer cut
MAX_TRIED = 20  # sidecars of a video that are tried
MAX_SHOWN = 20  # sidecars of a video that `show` lists
_VTT_LANGUAGE = re.compile(r"^Language:\s{0,10}([A-Za-z][\w-]{1,30})\s*$", re.MULTILINE)
# Headers of WebVTT end at the first empty line.
_VTT_KIND = re.compile(
    r"WEBVTT[^\r\n]{0,200}\r?\n(?:[^\r\n]{1,200}\r?\n){0,9}?Kind:\s{0,10}(chapters|metadata)\s*$",
    re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SubtitleText:
    """The segments of a file or track in order of time, and its oddities as (code, reason)."""

    segments: tuple[Segment, ...]
    oddities: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sidecars:
    """The subtitles of a video's sidecars.

    problems: files that could not be read. notes: further entries of the report. words: the used file, the unused ones
    and why, as one line for `show`; "" without sidecars.
    """

    segments: tuple[Segment, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    words: str = ""


def read_sidecar(path: bytes, language: str = "", end_s: float = MAX_TIME_S) -> SubtitleText:
    """Return the text of one subtitle file of a video that ends at `end_s`.

    Format and encoding are detected from the content. language: from the name; "": from a WebVTT header.
    Raises VideoError (stage `transcribe`) with code `too_large` above MAX_SIDECAR_BYTES, `not_regular`, `unreadable`.
    """
    decoded = decode_text(_read(path), language)
    if kind := _VTT_KIND.match(decoded.text):
        return SubtitleText((), (("kind", f"it holds {kind[1]}, no speech"),))
    header = _VTT_LANGUAGE.search(decoded.text[:1000]) if decoded.text.startswith("WEBVTT") else None
    spoken = language or (language_tag(header[1]) if header else "")
    found = _text(read_cues(decoded.text, end_s), "sidecar", spoken, end_s)
    doubts = [("encoding", f"its encoding is in doubt: {decoded.doubt}")] if decoded.doubt else []
    return SubtitleText(found.segments, (*doubts, *found.oddities))


def sidecar_transcript(video_path: bytes, siblings: Iterable[bytes] | None, end_s: float = MAX_TIME_S) -> Sidecars:
    """Return the segments of the first sidecar with any before `end_s`, the video's end, and notes on the others.

    siblings: its sidecars as paths relative to its folder; None lists the folder. Only one is used, because several
    languages would repeat the same words; the order is that of `sort_sidecars`.
    """
    folder, video = os.path.split(video_path)
    ranked, unread = sort_sidecars(video, sidecars_of(video_path) if siblings is None else siblings)
    problems: list[Problem] = []
    notes: list[Problem] = []
    lines: list[str] = []
    segments: tuple[Segment, ...] = ()
    for n, sidecar in enumerate(ranked):
        name, path = os.fsdecode(sidecar), os.path.join(folder, sidecar)
        if segments or n >= MAX_TRIED:
            why = "another was preferred" if segments else f"the first {MAX_TRIED} hold no subtitles"
            lines.append(f"{name}: not used, {why}")
            continue
        try:
            text = read_sidecar(path, marks_of(video, sidecar).language, end_s)
            if not text.segments and not text.oddities:
                raise VideoError(_problem(path, "no_text", "the file holds no subtitle that can be read"))
        except VideoError as error:
            problems.append(error.problem)
            lines.append(f"{name}: not used, {error.problem.reason}")
            continue
        segments = text.segments
        notes += notes_of(path, text)
        lines.append(f"{name}: {use_of(text)}")
    lines += [f"{os.fsdecode(sidecar)}: not used, {reason}" for sidecar, _, reason in unread]
    if not segments:
        notes += [_problem(os.path.join(folder, sidecar), code, reason) for sidecar, code, reason in unread]
    if len(lines) > MAX_SHOWN:
        lines[MAX_SHOWN:] = [f"{counted(len(lines) - MAX_SHOWN, 'further subtitle file')} not used"]
    return Sidecars(segments, tuple(problems), tuple(notes), "; ".join(lines))


def track_order(tracks: Sequence[SubtitleTrack]) -> list[list[int]]:
    """Return the positions of the tracks to try, in groups of equal preference, best first.

    Full tracks come before forced ones, signs and commentary; English before unmarked before other languages. Within a
    group those for the deaf are last, and the default track is first.
    """
    groups: dict[tuple[bool, int, str], list[tuple[bool, bool, int]]] = {}
    for position, track in enumerate(tracks):
        marks = read_marks(track.title, named=False)
        language = language_tag(track.language) or marks.language
        partial = track.forced or track.comment or marks.partial
        spoken = (partial, preference(language), language)
        groups.setdefault(spoken, []).append((track.hearing_impaired or marks.sdh, not track.default, position))
    by_worth = sorted(groups, key=lambda spoken: (*spoken[:2], min(position for _, _, position in groups[spoken])))
    return [[position for _, _, position in sorted(groups[spoken])] for spoken in by_worth]


def from_packets(
    packets: Iterable[tuple[float, float, str]], track: SubtitleTrack, end_s: float = MAX_TIME_S
) -> SubtitleText:
    """Return the text of an embedded track of a video that ends at `end_s`.

    packets: (start_s, end_s, raw text) as `Decoder.subtitles` gives them.
    """
    language = language_tag(track.language) or read_marks(track.title, named=False).language
    return _text(read_packets(packets, track.codec, end_s), "embedded", language, end_s)


def fullest(texts: Sequence[SubtitleText]) -> int:
    """Return the position of the text to use: the first, or the longest if that has twice as much text.

    Forced tracks are not always marked; a track for the deaf has at most 1.5 times the text.
    """
    sizes = [sum(len(segment.text) for segment in text.segments) for text in texts]
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    return longest if sizes[longest] > 2 * sizes[0] else 0


def notes_of(path: bytes, text: SubtitleText, what: str = "") -> list[Problem]:
    """Return the report's notes about a text's oddities; what: the beginning of each sentence."""
    return [_problem(path, code, what + reason) for code, reason in text.oddities]


def _text(found: Cues, source: SegmentSource, language: str, end_s: float) -> SubtitleText:
    """Return the cues that are speech as segments, and their oddities."""
    cues: Sequence[Cue] = found.cues
    odd = _odd_times(found, end_s)
    texts = [each.text for each in cues]
    if is_log(texts):
        return SubtitleText((), (("flight_log", "it holds a flight log or other measured values, no speech"), *odd))
    spoken = [each for each in cues if not is_telemetry(each.text)]
    if len(spoken) < len(cues):
        odd.append(("telemetry", f"lines of measured values left out: {len(cues) - len(spoken)}"))
    if found.crowded:
        odd.append(("crowded", f"subtitles cut or left out, as nobody can say so much in the time: {found.crowded}"))
    if is_mojibake(texts):
        odd.append(("mojibake", "its letters were garbled by a wrong encoding before it was saved"))
    segments = tuple(
        Segment(each.start_s, each.end_s, each.text, source, language, word_times=_times(each), speakers=each.speakers)
        for each in spoken
    )
    return SubtitleText(segments, tuple(odd))


def _times(shown: Cue) -> WordTimes:
    return placed(shown.text, ((time_s - shown.start_s, word) for time_s, word in shown.words))


def _odd_times(found: Cues, end_s: float) -> list[tuple[str, str]]:
    odd: list[tuple[str, str]] = []
    total = len(found.cues) + found.late + found.early + found.unreadable
    if found.late > LATE_SHARE * total:
        late = f"{found.late} of {total}, the first at {_clock(found.first_late_s)}"
        odd.append(("clock", f"subtitles after the end of the video at {_clock(end_s)}: {late}"))
    if found.early:
        odd.append(("clock", f"subtitles before the beginning of the video: {found.early} of {total}"))
    if found.unreadable:
        odd.append(("times", f"subtitles without a time that can be read: {found.unreadable} of {total}"))
    return odd


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(int(time_s), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def use_of(text: SubtitleText) -> str:
    """Return whether and how a file is used, for `show`."""
    reasons = "; ".join(reason for _, reason in text.oddities)
    if not text.segments:
        return f"not used, {reasons}"
    language = text.segments[0].language
    return f"used{f' as {language}' if language else ''}{f', but {reasons}' if reasons else ''}"


_ADVICE = {
    "no_text": "check its format",
    "not_read": "convert it to .srt",
    "name": "name it like the video, with a language if you like: talk.en.srt for talk.mp4",
    "flight_log": "nothing to do",
    "kind": "nothing to do",
    "telemetry": "nothing to do",
    "clock": "shift its times if it belongs to this video",
    "times": "correct them if you need these lines",
    "crowded": "check the file",
    "encoding": "save it as UTF-8 if it reads wrongly",
    "mojibake": "replace it by a sound copy",
}


def _problem(path: bytes, code: str, reason: str, advice: str = "") -> Problem:
    return Problem(path=path, stage="transcribe", code=code, reason=reason, next=advice or _ADVICE[code])


def _read(path: bytes) -> bytes:
    """Return the bytes of a sidecar. Raises VideoError, and OSError for lack of machine resources."""
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except NotRegularError as error:
        advice = "replace the link by the file" if os.path.islink(path) else "remove it"
        raise VideoError(_problem(path, "not_regular", f"the subtitle file is {error.kind}", advice)) from error
    except OSError as error:
        if lacks_resources(error):
            raise
        reason = f"the subtitle file cannot be read: {os.strerror(error.errno or 0)}"
        raise VideoError(_problem(path, "unreadable", reason, "check the disk and its permissions")) from error
    if len(data) > MAX_SIDECAR_BYTES:
        reason = f"the subtitle file is larger than {MAX_SIDECAR_BYTES // 1_000_000} MB"
        raise VideoError(_problem(path, "too_large", reason, "split or shorten it"))
    return data
