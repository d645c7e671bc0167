"""What the pages show of questions, hits and videos: plain values for the templates, no markup but marked words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from vfindex.search.query.ast import Filters, Moment, Query
from vfindex.search.query.parser import parse
from vfindex.search.results import Hit, VideoInfo
from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import MODALITIES, ModalityName, in_table_order
from vfindex.storage.records import Chapter, ClipKey, Segment
from vfindex.storage.text.folding import folded

# Hits of one video on its card.
CARD_HITS = 4
# Labels that narrow a question, the most frequent ones.
MAX_LABELS = 12
# Width of a timeline, in its own units.
TIMELINE = 1000.0
_WORD = re.compile(r"\w+")
# What SQLite keeps beside a database.
_JOURNAL = re.compile(r"(?<=\.db)-(wal|shm|journal)$")
# A word form may lack this many of the last letters of a keyword: `jumping` marks `jumps`.
_ENDING, _STEM = 3, 3


@dataclass(frozen=True, slots=True)
class Card:
    """The hits of one video, best first. name, folder: of its file."""

    fingerprint: str
    name: str
    folder: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Chip:
    """A part of the question that can be taken away. without: the question without it."""

    text: str
    without: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A span on a timeline, in its units. start_s: where it begins in the video."""

    x: float
    width: float
    start_s: float
    label: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text with times of a video. title: its heading. matches: whether the hit matches words of it."""

    title: str
    segments: tuple[Segment, ...]
    matches: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    """The length of a video. rows: the clips that each modality covers. seconds: of each row."""

    rows: tuple[tuple[ModalityName, tuple[Bar, ...], float], ...]
    chapters: tuple[Bar, ...]
    hits: tuple[Bar, ...]


def clock(time_s: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(max(0, round(time_s)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def size(size_bytes: float) -> str:
    """Return bytes as 12 kB, 3.4 MB or 5.6 GB."""
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:.0f} kB"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"


def file_name(path: bytes | None) -> str:
    """Return the name of a file, "" if there is none."""
    return "" if path is None else os.path.basename(os.fsdecode(path))


def path(name: bytes | None) -> str:
    """Return a path as text, "" for none."""
    return "" if name is None else os.fsdecode(name)


def inside(folder: str) -> str:
    """Return the filter on a folder as a question has it, where no quotation mark can stand for itself."""
    return f'in:"{folder.replace(chr(34), "?")}"'


def key_text(key: ClipKey) -> str:
    """Return a key as addresses hold it."""
    return f"{key.fingerprint}:{key.start_ms}"


def clip_ms(start_s: float) -> int:
    """Return the second part of the key of a clip that begins here."""
    return round(1000 * start_s)


def cards_of(hits: Iterable[Hit]) -> list[Card]:
    """Return a card for each video, in the order of their best hits."""
    found: dict[str, list[Hit]] = {}
    for hit in hits:
        found.setdefault(hit.key.fingerprint, []).append(hit)
    cards = []
    for fingerprint, own in found.items():
        path = own[0].video
        folder = "" if path is None else os.path.dirname(os.fsdecode(path))
        cards.append(Card(fingerprint, file_name(path), folder, tuple(own)))
    return cards


def marked(text: str, words: Iterable[str]) -> Markup:
    """Return a text with each form of these words in <mark>; everything else is escaped."""
    stems = [folded(word) for each in words for word in _WORD.findall(each)]
    parts, end = [], 0
    for match in _WORD.finditer(text):
        if any(_is_form(folded(match[0]), stem) for stem in stems):
            parts += [escape(text[end : match.start()]), Markup("<mark>{}</mark>").format(match[0])]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _is_form(word: str, keyword: str) -> bool:
    start = keyword[: max(_STEM, len(keyword) - _ENDING)]
    return word == keyword or (
        len(keyword) > _STEM and word.startswith(start) and abs(len(word) - len(keyword)) <= _ENDING
    )


# --- the question ---------------------------------------------------------------------------------------------------


def chips_of(query: Query) -> list[Chip]:
    """Return what a question has besides plain words: terms with a prefix, weight or minus, and filters."""
    chips = []
    for number, moment in enumerate(query.moments):
        for place, term in enumerate(moment.terms):
            if not term.is_plain:
                chips.append(Chip(str(term), _without_term(query, number, place)))
    for text, rest in _filters(query.filters):
        chips.append(Chip(text, str(replace(query, filters=rest))))
    return chips


def _without_term(query: Query, number: int, place: int) -> str:
    moments = list(query.moments)
    moments[number] = Moment(tuple(term for n, term in enumerate(moments[number].terms) if n != place))
    left = tuple(moment for moment in moments if moment.terms)
    if len(left) < len(query.moments):
        return str(Query(left, filters=query.filters))
    return str(replace(query, moments=left))


def _filters(filters: Filters) -> list[tuple[str, Filters]]:
    """Return each filter as text, with the filters that are left without it."""
    found = []
    for name in (each.name for each in fields(filters)):
        value = getattr(filters, name)
        if isinstance(value, tuple):
            for one in value:
                rest = tuple(each for each in value if each != one)
                found.append((str(_with(Filters(), name, (one,))), _with(filters, name, rest)))
        elif value is not None:
            found.append((str(_with(Filters(), name, value)), _with(filters, name, None)))
    return found


def _with(filters: Filters, name: str, value: Any) -> Filters:
    return replace(filters, **{name: value})


@dataclass(frozen=True, slots=True)
class LabelChip:
    """A label that narrows a question. query: the question with its filter. count: of what is shown."""

    name: str
    count: int
    query: str


def label_chips(query: str, counts: Iterable[tuple[str, int]]) -> list[LabelChip]:
    """Return the most frequent labels, without those that the question has already; none of one that is wrong."""
    try:
        parsed = parse(query, wordless=True)
    except QueryError:
        return []
    chips: list[LabelChip] = []
    for name, count in counts:
        if name not in parsed.filters.labels and len(chips) < MAX_LABELS:
            narrowed = replace(parsed, filters=replace(parsed.filters, labels=(name,)))
            chips.append(LabelChip(name, count, str(narrowed)))
    return chips


def moves(cards: Sequence[Card], before: Sequence[Card]) -> dict[str, int | None]:
    """Return fingerprint -> by how many places its card has moved up; None: it was not among those before."""
    places = {card.fingerprint: place for place, card in enumerate(before)}
    known = ((card.fingerprint, place, places.get(card.fingerprint)) for place, card in enumerate(cards))
    return {name: None if was is None else was - place for name, place, was in known}


def within_video(query: Query, video: VideoInfo) -> Query:
    """Return a question about this video alone, which a filter on folders let through before."""
    globs = tuple(os.fsdecode(path) for path in video.locations)
    return replace(query, filters=replace(query.filters, inside=globs or query.filters.inside))


# --- a video --------------------------------------------------------------------------------------------------------


def texts_of(video: VideoInfo, hit: Hit | None) -> list[Text]:
    """Return what is said in a video, and each other text with times but its chapters, which are on the timeline."""
    found = [Text("Transcript", video.transcript, False)]
    matched = {match.track for match in hit.matches} if hit else set()
    for modality in MODALITIES:
        segments = tuple(each for each in video.other_text if each.track == modality.name)
        if segments and modality.origin == "frames":
            found.append(Text("Text on the picture", segments, modality.name in matched))
    return found


def timeline_of(video: VideoInfo, hits: Sequence[Hit]) -> Timeline:
    """Return the timeline of a video, with the hits in it."""
    rows = []
    for name in in_table_order({name for clip in video.clips for name in clip.modalities}):
        covered = [clip for clip in video.clips if name in clip.modalities]
        bars = tuple(_bar(video, clip.start_s, clip.end_s, name) for clip in covered)
        rows.append((name, bars, sum(clip.end_s - clip.start_s for clip in covered)))
    ticks = [_bar(video, hit.start_s, hit.end_s, f"hit {hit.rank}") for hit in hits]
    return Timeline(tuple(rows), tuple(_chapters(video)), tuple(ticks))


def _chapters(video: VideoInfo) -> Iterable[Bar]:
    timed: list[tuple[float, Chapter]] = [(each.start_s, each) for each in video.chapters if each.start_s is not None]
    ends = [*(start_s for start_s, _ in timed[1:]), *([_end_s(video)] if timed else [])]
    for (start_s, chapter), next_s in zip(timed, ends, strict=True):
        yield _bar(video, start_s, next_s if chapter.end_s is None else chapter.end_s, chapter.title)


def _end_s(video: VideoInfo) -> float:
    """Return when a video ends: with its last frame, or its last clip where sound goes on."""
    return max([video.end_s, *(clip.end_s for clip in video.clips)])


def _bar(video: VideoInfo, start_s: float, end_s: float, label: str) -> Bar:
    scale = TIMELINE / (_end_s(video) - video.start_s or 1.0)
    x = min(TIMELINE, max(0.0, (start_s - video.start_s) * scale))
    return Bar(round(x, 1), round(min(TIMELINE - x, max(2.0, (end_s - start_s) * scale)), 1), start_s, label)


# --- a library ------------------------------------------------------------------------------------------------------


def disk_use(folder: Path) -> dict[str, int]:
    """Return the bytes of the files in a folder by the name of its entry, the largest first; `total` is the last.

    A database includes its journals. What this user may not look into counts as nothing.
    """
    found: dict[str, int] = {}
    for entry in _entries(folder):
        size_bytes, folders = 0, [entry.path] if entry.is_dir(follow_symlinks=False) else []
        if not folders:
            size_bytes = _size_of(entry)
        while folders:
            for inner in _entries(folders.pop()):
                if inner.is_dir(follow_symlinks=False):
                    folders.append(inner.path)
                else:
                    size_bytes += _size_of(inner)
        name = _JOURNAL.sub("", entry.name)
        found[name] = found.get(name, 0) + size_bytes
    by_size = sorted(found.items(), key=lambda item: -item[1])
    return {**dict(by_size), "total": sum(found.values())}


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder; nothing if it was deleted meanwhile, or is not for this user."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except (FileNotFoundError, PermissionError):
        return 0
