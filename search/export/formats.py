"""The formats of exports. One table: the command line, REST and tools for agents read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vfindex.search.export.edl import write_edl
from vfindex.search.export.fcpxml import write_fcpxml
from vfindex.search.export.otio import write_otio
from vfindex.search.export.playlist import write_m3u8
from vfindex.search.export.selection import Selection
from vfindex.search.export.subtitles import write_srt, write_vtt
from vfindex.search.export.table import write_csv
from vfindex.search.export.timecode import Timebase
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.modalities import ModalityName, text_tracks

# Where the timeline of an edit list begins by convention, in s.
EDL_START_S = 3600.0
# What is said of an empty selection.
NOTHING = "there is nothing to export: no hits, or no marks in the list"
# Longest offset of a timeline, in s: time codes begin anew after a day.
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Of a timeline. base: its frame rate; None: that of the videos. start_s: where it begins; None: the format's."""

    base: Timebase | None = None
    start_s: float | None = None

    def __post_init__(self) -> None:
        if self.start_s is not None and not 0 <= self.start_s < DAY_S:
            raise UsageError(f"a timeline begins between 0 and 24 hours, not at {self.start_s:g} s")


@dataclass(frozen=True, slots=True)
class Format:
    """A format. is_timeline: its events have a frame rate, `Settings` count. has_words: it writes the text of a track.

    needs_rate: of each video, unless `Settings` give one.
    """

    name: str
    media_type: str
    write: Callable[[Selection, Settings], bytes]
    is_timeline: bool = False
    has_words: bool = False
    needs_rate: bool = False
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Exported:
    """A file. name: to save it under. notes: sentences on what was left out."""

    name: str
    media_type: str
    data: bytes
    notes: tuple[str, ...] = ()


def _on_timeline(
    write: Callable[[Selection, Timebase | None, float], bytes], start_s: float = 0.0
) -> Callable[[Selection, Settings], bytes]:
    def written(selection: Selection, settings: Settings) -> bytes:
        return write(selection, settings.base, start_s if settings.start_s is None else settings.start_s)

    return written


def _json(selection: Selection, _: Settings) -> bytes:
    document: dict[str, Any] = selection.record.to_dict()
    return (json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


_TEXT = "; charset=utf-8"
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format("srt", f"application/x-subrip{_TEXT}", _on_timeline(write_srt), True, has_words=True),
            Format("vtt", f"text/vtt{_TEXT}", _on_timeline(write_vtt), True, has_words=True),
            Format("csv", f"text/csv{_TEXT}", lambda selection, _: write_csv(selection)),
            Format("m3u8", f"application/vnd.apple.mpegurl{_TEXT}", lambda selection, _: write_m3u8(selection)),
            Format("edl", f"text/plain{_TEXT}", _on_timeline(write_edl, EDL_START_S), True, needs_rate=True),
            Format("fcpxml", f"application/xml{_TEXT}", _on_timeline(write_fcpxml), True, needs_rate=True),
            Format("otio", "application/json", _on_timeline(write_otio), True, needs_rate=True),
            Format("json", "application/json", _json),
        )
    }
)


def get_format(name: str) -> Format:
    """Return the format of a name. Raises QueryError."""
    if name not in FORMATS:
        raise QueryError(f"there is no format {name!r}; export to one of {', '.join(FORMATS)}")
    return FORMATS[name]


def tracks_in(format_: str, track: ModalityName | None) -> tuple[ModalityName, ...]:
    """Return the modalities whose text a format writes. track: one of them, by default what is said.

    Raises QueryError for a name that is no format, UsageError for one that is no track, or of a format without text.
    """
    if get_format(format_).has_words:
        return text_tracks(track)
    if track is not None:
        named = ", ".join(each.name for each in FORMATS.values() if each.has_words)
        raise UsageError(f"{format_} has no text of a track; a track is for {named}")
    return ()


def export(selection: Selection, format_: str, settings: Settings | None = None) -> Exported:
    """Return a selection as a file. Raises QueryError for an empty one, UsageError for what a format cannot have."""
    chosen, settings = get_format(format_), settings or Settings()
    if not chosen.is_timeline and settings != Settings():
        named = ", ".join(each.name for each in FORMATS.values() if each.is_timeline)
        raise UsageError(f"{format_} has no timeline; a frame rate and an offset are for {named}")
    if not selection.excerpts and format_ != "json":
        raise QueryError(NOTHING)
    data = chosen.write(selection, settings)
    return Exported(f"{file_name(selection.title)}.{format_}", chosen.media_type, data, selection.notes)


def file_name(title: str) -> str:
    """Return a title as a file name: letters and digits of ASCII, at most 60."""
    words = "".join(char if char.isalnum() and char.isascii() else " " for char in title).split()
    return "-".join(words)[:60].strip("-").lower() or "vfindex"
