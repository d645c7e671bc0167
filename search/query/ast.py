"""The syntax tree of a query: moments, terms, filters. `parser.parse` reads it from text, and `str` is its inverse.

The language has no escape, so the inverse holds for queries that were parsed: `Query.plain` also makes others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal, get_args

from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import ModalityName, get_modality, modality_names, word_modalities
from vfindex.storage.text.folding import folded
from vfindex.storage.text.tokenizer import words_of

# Words that become keywords; the rest of a long query counts through its embedding.
MAX_WORDS = 32
# Function words of English, which occur in every transcript (closed classes only).
_FUNCTION_WORDS = """
    a about above after again all also am an and any are as at be been before being below between both but by can could
    did do does doing down during each for from further had has have having he her here hers him his how i if in into
    is it its itself just me more most my no nor not of off on once only or other our out over own same she should so
    some such than that the their them then there these they this those through to too under until up very was we were
    what when where which while who whom why will with would you your s t re ve ll d m
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
# Those of German, French and Spanish (closed classes), but for letters and for words that English has as well. Folded.
# Only as typed in lower case: names and abbreviations such as "Las Vegas" or "MIT" begin with capitals.
_FURTHER_FUNCTION_WORDS = """
    der das dem des ein eine einem einen einer eines und oder aber mit ohne auf aus bei durch gegen hinter im ins neben
    nach seit uber um unter vom von vor zu zum zur zwischen ich du er sie es wir ihr mich dich sich uns euch mein dein
    sein ihre ihren ihrem ihrer seine seinen seinem seiner ist sind wird werden wurde nicht kein keine auch wenn wie
    dass ob nur sehr jemand etwas wo wer
    le la les un une du de au aux et ou mais avec dans sur sous en entre vers chez depuis je tu il elle nous vous ils
    elles se ce cet cette ces qui que qu dont ne pas mon ma mes ton ta tes ses sa leur leurs notre votre est sont etait
    etre ont tres aussi comme
    el los las una unos unas del al pero por para hacia hasta desde yo ella nosotros ellos ellas su sus mi mis tus
    quien cual cuando donde como si ya muy mas estan ser fue hay esta este estos estas ese esa eso esto
"""
FURTHER_STOP_WORDS = frozenset(_FURTHER_FUNCTION_WORDS.split())
Order = Literal["then", "near"]
# convex: a score is the weighted sum of similarities and words. rrf: the sum of reciprocal ranks, see `rank/rrf.py`.
Combination = Literal["convex", "rrf"]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)
_UNITS_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Term:
    """A word or a quoted phrase as typed. modality: None for all. unlike: negated. weight: above 0."""

    text: str
    phrase: bool = False
    modality: ModalityName | None = None
    unlike: bool = False
    weight: float = 1.0
    position: int = field(default=0, compare=False)

    @property
    def is_plain(self) -> bool:
        return not (self.phrase or self.modality or self.unlike or self.weight != 1.0)

    @property
    def is_word(self) -> bool:
        """Whether this is a word of the sentence, with any weight."""
        return not (self.phrase or self.modality or self.unlike)

    @property
    def word_modalities(self) -> tuple[ModalityName, ...]:
        """The modalities whose text its words may occur in."""
        return tuple(name for name in word_modalities() if self.modality in (None, name))

    @property
    def required(self) -> bool:
        """Whether hits must contain its words: quoted phrases, and prefixes of modalities with words."""
        return not self.unlike and (self.phrase or self.modality is not None) and bool(self.word_modalities)

    def __str__(self) -> str:
        prefix = f"{get_modality(self.modality).prefix}:" if self.modality else ""
        weight = "" if self.weight == 1.0 else f"{self.weight:.6g}:"
        body = f'"{self.text}"' if self.phrase else self.text
        return f"{'-' if self.unlike else ''}{weight}{prefix}{body}"


@dataclass(frozen=True, slots=True)
class Part:
    """A text that is encoded as a whole. weight: of its centred similarity in these modalities; may be negative.

    is_named: whether its term names the modality.
    """

    text: str
    words: tuple[str, ...]
    weight: float
    modalities: tuple[ModalityName, ...]
    is_named: bool = False

    def but(self, without: Collection[ModalityName]) -> Part:
        """Return the part without some modalities, unless it names its own."""
        return (
            self if self.is_named else replace(self, modalities=tuple(m for m in self.modalities if m not in without))
        )


@dataclass(frozen=True, slots=True)
class Keyword:
    """A word or phrase for full-text search. weight: factor of its inverse document frequency.

    modalities: those whose text it may occur in. exact: as typed but for case and accents; otherwise any form of the
    word.
    """

    text: str
    weight: float
    modalities: tuple[ModalityName, ...]
    required: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """The terms that one clip should match."""

    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The sentence: all plain words, with any weight."""
        return " ".join(term.text for term in self.terms if term.is_word)

    @property
    def words(self) -> tuple[str, ...]:
        """The distinct content words of the sentence as typed; all its words if it has none."""
        return content_words(self.text)

    def parts(self) -> tuple[Part, ...]:
        """Return the texts to encode: score = sum over parts of weight times similarity.

        The sentence is one part; a word of weight w is also a part of weight w - 1, so that weight 1 changes nothing.
        A quoted phrase is words that occur, so only modalities with words have it, unless it is negated.
        """
        parts = [Part(self.text, self.words, 1.0, modality_names())] if self.text else []
        for term in self.terms:
            modalities: tuple[ModalityName, ...] = (term.modality,) if term.modality else modality_names()
            weight = term.weight
            if term.is_word:
                weight -= 1.0
            elif term.unlike:
                weight = -weight
            elif term.phrase and not term.modality:
                modalities = word_modalities()
            if weight:
                parts.append(Part(term.text, content_words(term.text), weight, modalities, bool(term.modality)))
        return tuple(parts)

    def keywords(self) -> tuple[Keyword, ...]:
        """Return the distinct keywords: optional words of the sentence, and required words and phrases."""
        weights: dict[str, float] = {}
        for term in self.terms:
            for word in words_of(term.text) if term.is_word else ():
                weights[folded(word)] = max(weights.get(folded(word), 0.0), term.weight)
        every = word_modalities()
        keywords = [Keyword(w, weights[folded(w)], every, required=False, exact=False) for w in self.words]
        keywords += [Keyword(t.text, t.weight, t.word_modalities, True, t.phrase) for t in self.terms if t.required]
        return tuple(dict.fromkeys(keywords))

    def excluded(self) -> tuple[Keyword, ...]:
        """Return the keywords that no hit may contain."""
        unlike = (term for term in self.terms if term.unlike and term.word_modalities)
        return tuple(Keyword(term.text, term.weight, term.word_modalities, False, term.phrase) for term in unlike)

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions on videos. All must hold; of `inside`, `languages`, `speakers` and `labels` any one each.

    inside: globs of paths. since, until: the day of the video, `until` excluded. languages: BCP 47, lower case.
    speakers: names or parts of them. labels: names of classes. Both are conditions on clips, too. prints: fingerprints
    of the videos; of programs alone, the query language has no word for it.
    """

    inside: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    longer_s: float | None = None
    shorter_s: float | None = None
    languages: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Filters()

    def __str__(self) -> str:
        words = [_named("in", glob) for glob in self.inside]
        days = {"after": self.since, "before": self.until}
        spans = {"longer": self.longer_s, "shorter": self.shorter_s}
        words += [f"{name}:{day.isoformat()}" for name, day in days.items() if day is not None]
        words += [f"{name}:{duration(value)}" for name, value in spans.items() if value is not None]
        words += [f"lang:{language}" for language in self.languages]
        words += [_named("speaker", name) for name in self.speakers]
        return " ".join(words + [_named("label", name) for name in self.labels])


def _named(name: str, value: str) -> str:
    return f'{name}:"{value}"' if re.search(r"\s", value) else f"{name}:{value}"


@dataclass(frozen=True, slots=True)
class Query:
    """A query: one moment, or two of the same video in this order with a gap of at most `within_s` seconds."""

    moments: tuple[Moment, ...]
    order: Order | None = None
    within_s: float = 0.0
    filters: Filters = Filters()

    @property
    def named(self) -> frozenset[ModalityName]:
        """The modalities that terms name."""
        return frozenset(term.modality for moment in self.moments for term in moment.terms if term.modality)

    @classmethod
    def plain(cls, text: str) -> Query:
        """Return a query of words alone: no character is syntax.

        Its `str` is the words; `parse` reads them as syntax where they are syntax, as in `in:paris`.
        Raises QueryError for what is no text.
        """
        if not isinstance(text, str):
            raise QueryError(f"a query must be text, not {text!r}")
        return cls((Moment(tuple(Term(word) for word in text.encode("utf-8", "replace").decode().split())),))

    def __str__(self) -> str:
        text = f" {self.order} ".join(map(str, self.moments))
        if self.order:
            text += f" within {duration(self.within_s)}"
        return f"{text} {self.filters}".strip()


def content_words(text: str) -> tuple[str, ...]:
    """Return the distinct content words of a text as typed; all its words if it has none."""
    unique = list(distinct(words_of(text)))
    content = [word for word in unique if not _is_function_word(word)]
    return tuple((content or unique)[:MAX_WORDS])


def _is_function_word(word: str) -> bool:
    bare = folded(word)
    return bare in STOP_WORDS or (bare in FURTHER_STOP_WORDS and word == word.lower())


def distinct(words: Iterable[str]) -> Iterable[str]:
    """Return the words that differ in more than case and accents, each in its first form."""
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(folded(word), word)
    return first.values()


def duration(seconds: float) -> str:
    """Return the shortest text for a duration, exact to a millisecond: `90s`, `2h`."""
    milliseconds = round(1000 * seconds)
    written = (f"{milliseconds / (1000 * unit):.3f}".rstrip("0").rstrip(".") + name for name, unit in _UNITS_S.items())
    exact = (text for text in written if round(1000 * float(text[:-1]) * _UNITS_S[text[-1]]) == milliseconds)
    return min(exact, key=len)
