"""Subtitle file names: language, kind, and whether the file belongs to a video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfindex.indexer.languages import named_language
from vfindex.indexer.scan.sidecars import INFO_SUFFIX, TEXT_SUFFIXES, mark_text, sidecar_suffix

_SIGNS, _SDH, _PLAIN = "signs", "sdh", "plain"
# Words about the kind of subtitles, as players, download tools and recognisers write them.
_KIND_WORDS = {
    _SIGNS: "forced foreign signs songs karaoke commentary comment comments lyrics",
    _SDH: "sdh cc hoh captions closed caption hi hearing impaired",
    _PLAIN: "default full complete auto asr generated orig original sub subs subtitle subtitles track text utf utf8 "
    "dialog dialogue transcript transcription whisper whisperx large medium small base turbo sync synced fixed final "
    "brazil brazilian latin american european simplified traditional us und unk unknown none mp4 mkv avi mov webm m4v",
}
_KINDS = {word: kind for kind, words in _KIND_WORDS.items() for word in words.split()}
_VARIANTS = {("pt", "brazil"): "pt-br", ("pt", "brazilian"): "pt-br", ("es", "latin"): "es-419"}
_VARIANTS |= {("zh", "simplified"): "zh-hans", ("zh", "traditional"): "zh-hant", ("en", "us"): "en-us"}
_BETWEEN = re.compile(r"[.\s()\[\]{}+,;&='\"#@!~]+")
_INNER = re.compile(r"[-_]+")
_TRACK = re.compile(r"(?:track|stream)\d{1,3}")  # extraction tools number the tracks
# Resolution, codec, source and packaging marks of file names; the split into words comes after.
RELEASE_MARKS = re.compile(
    r"(?<![^\W_])(?:\d{3,4}[pi](?:\d{2,3})?(?:fps)?|\d{3,4}\s?x\s?\d{3,4}|[248]k|u?hd|uhdtv|fhd|\d{2,3}fps"
    r"|(?:8|10|12)[ -]?bit|hdr(?:10)?|[xh][ .]?26[345]|hevc|avc|av1|vp[89]|xvid|divx"
    r"|aac(?:2[ .]0|5[ .]1)?|e?ac3|ddp?[257][ .][01]|dts(?:-hd)?|flac|opus"
    r"|web[ .-]?(?:dl|rip)|blu-?ray|b[dr]rip|dvd(?:rip|scr)?|hdtv|hdrip|remux|repack|proper|mp4|m4v)(?![^\W_])",
    re.IGNORECASE,
)
_MAX_MARK = 200  # characters of a name that are examined


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in a name. partial: signs, songs, forced passages or commentary, no transcript. sdh: for the deaf.

    language: its tag, "" if unmarked. foreign: the words that mark another video, "" if there are none.
    """

    language: str = ""
    partial: bool = False
    sdh: bool = False
    foreign: str = ""


def read_marks(text: str, *, named: bool = True) -> Marks:
    """Return the marks between a video's name and the suffix.

    Unknown words before the language mark the file as another video's ("talk.part2.srt", "talk show.srt");
    words after it are a title or a download tool's suffix. `hi` alone is Hindi; after a language it is "hearing
    impaired". named: the file bears the video's name; else (`Subs/2_English.srt`) numbers and words may precede.
    """
    language = ""
    kinds: set[str] = set()
    strange: list[str] = []
    for piece in _BETWEEN.split(RELEASE_MARKS.sub(" ", text[:_MAX_MARK])):
        words = [word for word in _INNER.split(piece) if word]
        at = 0
        while at < len(words):
            word = words[at]
            lower = word.lower()
            at += 1
            if language and (language.split("-")[0], lower) in _VARIANTS:
                language = _VARIANTS[language.split("-")[0], lower]
            elif lower in _KINDS and (language or lower != "hi") and not (not language and named_language(word)):
                kinds.add(_KINDS[lower])
            elif not language and (found := named_language(word)):
                language, used = _with_region(found, words[at:])
                at += used
            elif not language and not (word.isdecimal() and not named) and not _TRACK.fullmatch(lower):
                strange.append(word)
    foreign = " ".join(strange) if strange and named else ""
    return Marks(language, _SIGNS in kinds, _SDH in kinds, foreign)


def _with_region(code: str, following: Sequence[str]) -> tuple[str, int]:
    """Return a language with the script and region in the following words, and the number of these words."""
    tag, used = code, 0
    for word in following[:2]:
        longer = named_language(f"{tag}-{word}")
        if longer == tag or word.lower() in _KINDS:
            break
        tag, used = longer, used + 1
    return tag, used


def preference(language: str) -> int:
    """Return 0 for English, 1 for no language, 2 for others: `lite` supports English only."""
    if language.split("-")[0] == "en":
        return 0
    return 2 if language else 1


def marks_of(video: bytes, sidecar: bytes) -> Marks:
    """Return the marks of a sidecar. video: base name. sidecar: path relative to the video's folder."""
    text = mark_text(video, sidecar)
    if text is not None:
        return read_marks(text)
    return read_marks(os.fsdecode(os.path.splitext(os.path.basename(sidecar))[0]), named=False)


def sort_sidecars(video: bytes, sidecars: Iterable[bytes]) -> tuple[list[bytes], list[tuple[bytes, str, str]]]:
    """Return the subtitle files to try, best first, and the unused ones with code and reason.

    Order: full transcripts before signs and commentary, English before unmarked before other languages, those for the
    deaf last, plainer formats first.
    """
    ranked = []
    unread: list[tuple[bytes, str, str]] = []
    for sidecar in sidecars:
        suffix = sidecar_suffix(sidecar)
        is_another = mark_text(video, sidecar) is None and b"/" not in sidecar
        if suffix == INFO_SUFFIX or not suffix or sidecar == video or is_another:
            continue
        marks = marks_of(video, sidecar)
        if suffix not in TEXT_SUFFIXES:
            unread.append((sidecar, "not_read", f"subtitles in the format {suffix.decode()} are not read"))
        elif marks.foreign:
            unread.append((sidecar, "name", f"{marks.foreign!r} in its name is no language: it may be another video's"))
        else:
            rank = (marks.partial, preference(marks.language), marks.sdh, TEXT_SUFFIXES.index(suffix), sidecar)
            ranked.append((rank, sidecar))
    return [sidecar for _, sidecar in sorted(ranked)], sorted(unread)
