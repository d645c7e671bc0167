"""News of watched questions: records, and the arguments of a user's command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vfindex.search.results import Presence, Record
from vfindex.storage.records import ClipKey


@dataclass(frozen=True, slots=True)
class NewsItem(Record):
    """A moment that a watch found in a new video. id: never that of another one. watch: its name.

    video: the path now, None unless `presence` is `present`. start_s, end_s, score, confidence: as found; None
    where words are required and the library gives no label. preview: found in a coarse first reading.
    snippet: what is said then, None for nothing. found_at, told_at: UTC, ISO 8601; told_at: "" if not reported before.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    id: int
    watch: str
    question: str
    video: bytes | None
    presence: Presence
    fingerprint: str
    key: ClipKey
    start_s: float
    end_s: float
    score: float
    confidence: str | None
    preview: bool
    snippet: str | None
    found_at: str
    told_at: str


@dataclass(frozen=True, slots=True)
class WatchInfo(Record):
    """A watched question. least: the confidence that a hit needs. hits: all so far. new: of these, not reported yet.

    doubt: why this library cannot judge every new video, which then waits; None where it can.
    """

    name: str
    question: str
    least: str
    hits: int
    new: int
    by: str
    since: str
    doubt: str | None


@dataclass(frozen=True, slots=True)
class WatchList(Record):
    """Watched questions, by name."""

    watches: tuple[WatchInfo, ...]


@dataclass(frozen=True, slots=True)
class Waiting(Record):
    """A watch that could not judge. videos: new ones that wait for it. reason: a sentence."""

    watch: str
    videos: int
    reason: str


@dataclass(frozen=True, slots=True)
class News(Record):
    """What watches found and nobody was told, the oldest first."""

    news: tuple[NewsItem, ...]
    waiting: tuple[Waiting, ...] = ()


# Of the arguments of a user's command, filled in for each hit.
PLACEHOLDERS = ("{name}", "{question}", "{video}", "{start}", "{end}", "{id}")


def arguments_of(command: Sequence[str], item: NewsItem) -> list[str]:
    """Return a command with `{name}`, `{question}`, `{video}`, `{start}`, `{end}`, `{id}` of its arguments filled in.

    Each argument stays one argument, whatever a name holds. Other braces stay as they are.
    """
    video = "" if item.video is None else os.fsdecode(item.video)
    texts = (item.watch, item.question, video, f"{item.start_s:.3f}", f"{item.end_s:.3f}", str(item.id))
    values = dict(zip(PLACEHOLDERS, texts, strict=True))
    return [_filled(part, values) for part in command]


def _filled(part: str, values: Mapping[str, str]) -> str:
    """Return a text with its placeholders filled in at one pass: a value that holds another one is not filled again."""
    done, rest = "", part
    while rest:
        name = next((each for each in values if rest.startswith(each)), None)
        done += rest[0] if name is None else values[name]
        rest = rest[1 if name is None else len(name) :]
    return done
