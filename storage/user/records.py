"""Records of `user.db`: frozen, and valid in every model version of a library."""

from __future__ import annotations

from dataclasses import dataclass

from vfindex.storage.records import Line

# The list of marks that name none.
DEFAULT_LIST = "marks"
# Grades of a judgement: 0 is not relevant, higher is more relevant.
MAX_GRADE = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """A clip that people speak of: the fingerprint of its video, and its span when it was marked.

    (fingerprint, start_ms) is its key. The video need not be in the library any more.
    """

    fingerprint: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a list, of one person, with a note; with a question, also a judgement of the moment.

    question: "" without one. grade: 0 to MAX_GRADE, None without a question. at: UTC, ISO 8601.
    """

    id: int
    moment: Moment
    list: str
    note: str
    question: str
    grade: int | None
    by: str
    at: str

    def written(self) -> tuple[str, int]:
        """Return what sorts marks by when they were written: one that is changed keeps its id."""
        return self.at, self.id


@dataclass(frozen=True, slots=True)
class NewMark:
    """A mark to be stored. note: None keeps the one that the same person wrote before. by: None for this user."""

    moment: Moment
    list: str = DEFAULT_LIST
    note: str | None = None
    question: str = ""
    grade: int | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class SavedQuery:
    """A question with a name. text: in the query language. at: UTC, ISO 8601."""

    name: str
    text: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Correction:
    """What a line of a transcript should read. line: its key. by: who wrote it last. at: UTC, ISO 8601."""

    id: int
    line: Line
    text: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Watch:
    """A saved question whose new hits are kept. text: of the question. least: the confidence that a hit needs.

    since: the arrival record that was the newest when the watch began. done: the newest that it has judged. by: who
    began it. at: when, UTC, ISO 8601.
    """

    name: str
    text: str
    least: str
    since: int
    done: int
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class NewHit:
    """A moment that a watch found in a new video. confidence: its label, "" without one. preview: read coarsely."""

    moment: Moment
    score: float
    confidence: str
    preview: bool


@dataclass(frozen=True, slots=True)
class WatchHit:
    """A stored hit of the watch `name`. at: when it was found. told: when it was reported, "" before. UTC, ISO 8601."""

    id: int
    name: str
    hit: NewHit
    told: str
    at: str
