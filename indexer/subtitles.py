"""Subtitles that lie beside a video or inside it, as transcript segments."""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Iterable, Sequence

from vfindex.indexer.subtitle_formats import Cue, parse_cues, parse_packets
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.records import Segment, SegmentSource

MAX_SIDECAR_BYTES = 10_000_000  # the subtitles of a 3-hour film are 0.2 MB, with karaoke effects 5 MB
SUFFIXES = (
    b".srt",
    b".vtt",
    b".ass",
    b".ssa",
)  # the earlier is preferred: the plainer the format, the plainer the text

# What may stand between the video's name and the suffix: a language, or a word about the kind of subtitles.
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][a-z0-9]{2,8}){0,3}")
_KINDS = frozenset({"forced", "sdh", "cc", "hi", "default", "full", "auto"})
_NO_LANGUAGE = frozenset({"", "und", "unk", "mis", "zxx", "none"})


def find_sidecars(video_path: bytes, siblings: Iterable[bytes] | None) -> list[bytes]:
    """Return the paths of a video's subtitle files, the one to read first first.

    siblings: names or paths of files in the video's folder; None lists the folder. A sidecar of `talk.mp4` is
    `talk.srt` or `talk.mp4.srt`, with up to three marks before the suffix: `talk.en.srt`, `talk.en.forced.srt`. Only
    the suffix and the marks may differ in case. `lite` knows English, and several languages would fill a clip with the
    same words twice, so one transcript is taken: English before unmarked before others, forced ones last.
    """
    folder, video = os.path.split(video_path)
    try:
        names = sorted(
            {os.path.basename(name) for name in (os.listdir(folder or b".") if siblings is None else siblings)}
        )
    except OSError:
        return []  # a folder that cannot be listed: the video itself was named, and is opened and reported on its own
    ranked = []
    for name in names:
        marks = _marks(video, name)
        if marks is not None and name != video:
            suffix = SUFFIXES.index(os.path.splitext(name)[1].lower())
            ranked.append(("forced" in marks, _rank(_language(marks)), suffix, name))
    return [os.path.join(folder, name) for _, _, _, name in sorted(ranked)]


def sidecar_language(video_path: bytes, sidecar: bytes) -> str:
    """Return the language tag in the sidecar's name (`talk.en.srt` -> "en"), "" where it has none."""
    return _language(_marks(os.path.basename(video_path), os.path.basename(sidecar)) or [])


def read_sidecar(path: bytes, language: str = "") -> list[Segment]:
    """Return the segments of one subtitle file in order of time.

    Format: by content. Encoding: the byte order mark; else UTF-16 where every second byte of the beginning is mostly
    zero; else UTF-8 if it is valid throughout; else Windows-1252, the usual one of old files, which refuses nothing.
    Raises VideoError (stage `transcribe`) with code `too_large` above MAX_SIDECAR_BYTES, `not_regular`, `unreadable`.
    """
    return _segments(parse_cues(_decode(_read(path))), "sidecar", language)


def sidecar_transcript(video_path: bytes, siblings: Iterable[bytes] | None) -> tuple[list[Segment], list[Problem]]:
    """Return the segments of the first of `find_sidecars` that has any, and what was wrong with those tried before."""
    problems: list[Problem] = []
    for path in find_sidecars(video_path, siblings):
        try:
            segments = read_sidecar(path, sidecar_language(video_path, path))
        except VideoError as error:
            problems.append(error.problem)
            continue
        if segments:
            return segments, problems
        problems.append(_problem(path, "no_text", "the file holds no subtitle that can be read", "check its format"))
    return [], problems


def preferred(languages: Sequence[str]) -> list[int]:
    """Return the positions of `languages` in the order to try: English, unmarked, the others as they stand."""
    return sorted(range(len(languages)), key=lambda i: _rank(language_tag(languages[i])))


def from_packets(packets: Iterable[tuple[float, float, str]], codec: str, language: str) -> list[Segment]:
    """Return the segments of an embedded text track in order of time.

    packets: (start_s, end_s, raw text) as `Decoder.subtitles` gives them. codec: FFmpeg's name. language: as the
    container has it.
    """
    return _segments(parse_packets(packets, codec), "embedded", language_tag(language))


def language_tag(text: str) -> str:
    """Return a language as containers and file names write it in lower case, English as "en", unknown as ""."""
    tag = text.strip().lower().replace("_", "-")
    if tag in ("eng", "english"):
        return "en"
    return "" if tag in _NO_LANGUAGE or not _LANGUAGE.fullmatch(tag) else tag


def _rank(language: str) -> int:
    if language.split("-")[0] == "en":
        return 0
    return 2 if language else 1


def _marks(video: bytes, name: bytes) -> list[str] | None:
    """Return the marks between the video's name and the suffix of a sidecar, None where it is not one."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in SUFFIXES:
        return None
    for own in (video, os.path.splitext(video)[0]):
        if stem == own:
            return []
        if stem.startswith(own + b"."):
            marks = os.fsdecode(stem[len(own) + 1 :]).lower().split(".")
            if len(marks) <= 3 and all(m in _KINDS or m == "english" or _LANGUAGE.fullmatch(m) for m in marks):
                return marks
    return None


def _language(marks: Sequence[str]) -> str:
    return next((language_tag(mark) for mark in marks if mark not in _KINDS), "")


def _problem(path: bytes, code: str, reason: str, advice: str) -> Problem:
    return Problem(path=path, stage="transcribe", code=code, reason=reason, next=advice)


def _read(path: bytes) -> bytes:
    """Return the bytes of a regular file; a link is not followed and a pipe not waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        advice = "replace the link by the file" if os.path.islink(path) else "check its permissions"
        reason = f"the subtitle file cannot be opened: {os.strerror(error.errno or 0)}"
        raise VideoError(_problem(path, "unreadable", reason, advice)) from error
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise VideoError(_problem(path, "not_regular", "the subtitle file is not a regular file", "remove it"))
        try:
            data = file.read(MAX_SIDECAR_BYTES + 1)
        except OSError as error:
            reason = f"the subtitle file cannot be read: {os.strerror(error.errno or 0)}"
            raise VideoError(_problem(path, "unreadable", reason, "check the disk")) from error
    if len(data) > MAX_SIDECAR_BYTES:
        reason = f"the subtitle file is larger than {MAX_SIDECAR_BYTES // 1_000_000} MB"
        raise VideoError(_problem(path, "too_large", reason, "split or shorten it"))
    return data


def _decode(data: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    head = data[:4096]
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head[first::2].count(0) > len(head) // 4 and head[1 - first :: 2].count(0) < len(head) // 16:
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _segments(cues: Iterable[Cue], source: SegmentSource, language: str) -> list[Segment]:
    return [Segment(c.start_s, c.end_s, c.text, source, language) for c in cues]
