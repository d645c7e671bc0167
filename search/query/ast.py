"""A question as records: what is asked for, of which modality, how much it counts, and where to look.

`grammar.parse` makes them of text, and `str` prints them so that they are parsed back to the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, get_args

from vfindex.storage.records import MODALITIES, Modality
from vfindex.storage.text.folding import folded
from vfindex.storage.text.tokenizer import words_of

# Words looked up one by one; the rest of a long question counts through its embedding.
MAX_WORDS = 32
# Function words of English, which stand in every transcript and tell nothing (closed classes only).
_FUNCTION_WORDS = """
    a about above after again all also am an and any are as at be been before being below between both but by can could
    did do does doing down during each for from further had has have having he her here hers him his how i if in into
    is it its itself just me more most my no nor not of off on once only or other our out over own same she should so
    some such than that the their them then there these they this those through to too under until up very was we were
    what when where which while who whom why will with would you your s t re ve ll d m
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
# How a question names a modality.
PREFIXES: Mapping[str, Modality] = {"said": "speech", "shown": "visual", "titled": "text"}
# Where words stand; pictures hold none.
Place = Literal["speech", "text"]
PLACES: tuple[Place, ...] = ("speech", "text")
Order = Literal["then", "near"]
# convex: a score is the weighted sum of similarities and words. rrf: the sum of reciprocal ranks, see `reciprocal`.
Combination = Literal["convex", "rrf"]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)
_UNITS_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a quoted phrase as typed. modality: the only one that it asks, None for all. weight: above 0."""

    text: str
    phrase: bool = False
    modality: Modality | None = None
    unlike: bool = False
    weight: float = 1.0
    position: int = field(default=0, compare=False)

    @property
    def is_plain(self) -> bool:
        return not (self.phrase or self.modality or self.unlike or self.weight != 1.0)

    @property
    def is_word(self) -> bool:
        """Whether this is a word of the sentence that is asked, whatever its weight."""
        return not (self.phrase or self.modality or self.unlike)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its words may stand."""
        return tuple(place for place in PLACES if self.modality in (None, place))

    @property
    def required(self) -> bool:
        """Whether a clip without these words is no hit: quoted phrases, `said:` and `titled:`."""
        return not self.unlike and (self.phrase or self.modality is not None) and self.modality != "visual"

    def __str__(self) -> str:
        prefix = next((f"{name}:" for name, modality in PREFIXES.items() if modality == self.modality), "")
        weight = "" if self.weight == 1.0 else f"{self.weight:.6g}:"
        body = f'"{self.text}"' if self.phrase else self.text
        return f"{'-' if self.unlike else ''}{weight}{prefix}{body}"


@dataclass(frozen=True, slots=True)
class Part:
    """What is encoded as one text. weight: what its centred similarity counts, in these modalities; may be negative."""

    text: str
    words: tuple[str, ...]
    weight: float
    modalities: tuple[Modality, ...]


@dataclass(frozen=True, slots=True)
class Needle:
    """Words looked for as text: one word, or several in this order. weight: what it counts beside its rarity.

    exact: as typed but for case and accents, else in any form of the word.
    """

    text: str
    weight: float
    places: tuple[Place, ...]
    required: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """What is asked of one clip."""

    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The sentence asked: all plain words, whatever their weight."""
        return " ".join(term.text for term in self.terms if term.is_word)

    @property
    def words(self) -> tuple[str, ...]:
        """The distinct content words of the sentence as typed; all its words where it has no other."""
        return content_words(self.text)

    def parts(self) -> tuple[Part, ...]:
        """Return what is encoded: score = sum over parts of weight times similarity.

        The sentence is asked whole; a word of weight w counts w - 1 more by itself, so that weight 1 changes nothing.
        A quoted phrase is something said or written, so pictures are not asked for it; what is unlike it may be.
        """
        parts = [Part(self.text, self.words, 1.0, MODALITIES)] if self.text else []
        for term in self.terms:
            modalities: tuple[Modality, ...] = (term.modality,) if term.modality else MODALITIES
            weight = term.weight
            if term.is_word:
                weight -= 1.0
            elif term.unlike:
                weight = -weight
            elif term.phrase and not term.modality:
                modalities = PLACES
            if weight:
                parts.append(Part(term.text, content_words(term.text), weight, modalities))
        return tuple(parts)

    def needles(self) -> tuple[Needle, ...]:
        """Return the words that lift a clip, or without which it is no hit; each once."""
        weights: dict[str, float] = {}
        for term in self.terms:
            for word in words_of(term.text) if term.is_word else ():
                weights[folded(word)] = max(weights.get(folded(word), 0.0), term.weight)
        found = [Needle(w, weights[folded(w)], PLACES, required=False, exact=False) for w in self.words]
        found += [Needle(t.text, t.weight, t.places, True, t.phrase) for t in self.terms if t.required]
        return tuple(dict.fromkeys(found))

    def unwanted(self) -> tuple[Needle, ...]:
        """Return the words whose clips are no hits."""
        unlike = (term for term in self.terms if term.unlike and term.places)
        return tuple(Needle(term.text, term.weight, term.places, False, term.phrase) for term in unlike)

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))


@dataclass(frozen=True, slots=True)
class Filters:
    """Which videos are looked at; all conditions hold, of `inside` and `languages` one each.

    inside: globs of paths. since, until: of its day, until excluded. languages: BCP 47, lower case.
    """

    inside: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    longer_s: float | None = None
    shorter_s: float | None = None
    languages: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Filters()

    def __str__(self) -> str:
        words = [f'in:"{glob}"' if re.search(r"\s", glob) else f"in:{glob}" for glob in self.inside]
        days = {"after": self.since, "before": self.until}
        spans = {"longer": self.longer_s, "shorter": self.shorter_s}
        words += [f"{name}:{day.isoformat()}" for name, day in days.items() if day is not None]
        words += [f"{name}:{duration(value)}" for name, value in spans.items() if value is not None]
        return " ".join(words + [f"lang:{language}" for language in self.languages])


@dataclass(frozen=True, slots=True)
class Query:
    """A question: one moment, or two of the same video, `order` apart by at most `within_s` seconds."""

    moments: tuple[Moment, ...]
    order: Order | None = None
    within_s: float = 0.0
    filters: Filters = Filters()

    @classmethod
    def plain(cls, text: str) -> Query:
        """Return a question whose every character is text."""
        return cls((Moment(tuple(Term(word) for word in text.encode("utf-8", "replace").decode().split())),))

    def __str__(self) -> str:
        asked = f" {self.order} ".join(map(str, self.moments))
        if self.order:
            asked += f" within {duration(self.within_s)}"
        return f"{asked} {self.filters}".strip()


def content_words(text: str) -> tuple[str, ...]:
    """Return the distinct content words of a text as typed; all its words where it has no other."""
    unique = list(distinct(words_of(text)))
    content = [word for word in unique if folded(word) not in STOP_WORDS]
    return tuple((content or unique)[:MAX_WORDS])


def distinct(words: Iterable[str]) -> Iterable[str]:
    """Return words that differ in more than case and accents, each as it came first."""
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(folded(word), word)
    return first.values()


def duration(seconds: float) -> str:
    """Return the shortest way to write seconds, to a millisecond: `90s`, `2h`."""
    milliseconds = round(1000 * seconds)
    written = (f"{milliseconds / (1000 * unit):.3f}".rstrip("0").rstrip(".") + name for name, unit in _UNITS_S.items())
    exact = (text for text in written if round(1000 * float(text[:-1]) * _UNITS_S[text[-1]]) == milliseconds)
    return min(exact, key=len)
