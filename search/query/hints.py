"""Hints: other readings of a query. They change no hit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from vfindex.search.query.ast import STOP_WORDS, Query, Term
from vfindex.search.query.filters import Unmatched
from vfindex.search.query.parser import FILTER_EXAMPLES, parse
from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import ModalityName, get_modality, modality_names, prefixes
from vfindex.storage.records import Hint
from vfindex.storage.text.folding import folded

# Words of English that negate what follows, and pairs of them.
_NEGATIONS = frozenset(["without", "w/o", "no", "not", "except", "excluding"])
_NEGATING_PAIRS = frozenset([("other", "than"), ("apart", "from"), ("rather", "than"), ("instead", "of")])
# Words between a negation and what it negates; and words after which it is an idiom that negates nothing.
_LEADING_WORDS = "a an the any some all his her its my your their our of for from being having with"
_IDIOM_WORDS = "one longer matter doubt more only just yet even sure enough always"
_LEADING, _IDIOMS = frozenset(_LEADING_WORDS.split()), frozenset(_IDIOM_WORDS.split())
_JOINING = frozenset(["or", "and", "nor"])
_END_OF_PHRASE = (",", ".", ";", ":", "!", "?")
_MARKS = ",.;:!?()[]'\"…"
# A word with a colon in it, as a prefix or a filter has. Not an address, a time, or a drive letter.
_COLON_WORD = re.compile(r"(?P<name>[^\W\d_]{2,}):(?P<value>[^\s:/\\].*)")
# The lowest similarity of a word to a prefix that it is taken for: one letter wrong in five or six.
_NEAR = 0.8
_OPERATORS = {
    "OR": "ask for each by itself",
    "AND": "leave it out; what has a prefix or quotation marks must occur, all of it",
    "NOT": "to exclude, put a dash before a word",
}


def hints(
    query: Query,
    unmatched: Sequence[Unmatched],
    lacking: Mapping[ModalityName, str] = MappingProxyType({}),
    cut: Iterable[str] = (),
) -> tuple[Hint, ...]:
    """Return the hints for a query.

    unmatched: values of filters that match nothing. lacking: the modalities that the library does not have, with the
    sentence that says so. cut: the required words and phrases of which some documents were left out.
    """
    collected = filter_hints(unmatched)
    for moment in query.moments:
        for name in dict.fromkeys(term.modality for term in moment.terms if term.modality):
            if name not in lacking:
                continue
            text = f"{get_modality(name).prefix}: matches nothing: {name} is {lacking[name]}"
            collected.append(Hint("lacking", text))
        for term, following in pairwise(moment.terms):
            if _is_prefix(term) and not following.modality and not following.unlike:
                text = f'"{term.text}" is searched like any other word; as a prefix it has no space behind it'
                collected.append(Hint("space", f"{text}: {term}{following}"))
        collected += _misread(moment.terms, is_alone=query.order is None)
        for words, excluded in _negations(moment.terms):
            text = f'"{words}" is searched like any other word and excludes nothing; to exclude, write: {excluded}'
            collected.append(Hint("negation", text))
    for words in cut:
        text = (
            f'"{words}" is too common to search every text that contains it: the newest come first, and a sample of'
            " the others; a rarer word or a filter finds more"
        )
        collected.append(Hint("common", text))
    return tuple(dict.fromkeys(collected))


def filter_hints(unmatched: Sequence[Unmatched]) -> list[Hint]:
    """Return the hints for values of filters that match nothing in the library."""
    return [Hint(each.filter, _unmatched(each)) for each in unmatched]


def _unmatched(value: Unmatched) -> str:
    near = ", ".join(value.near)
    if value.filter == "in":
        return f"in:{value.value} matches no path in this library; * stands for any characters, and case counts"
    if value.filter == "lang":
        there = f"its languages: {near}" if near else "no transcript has a language"
        return f"lang:{value.value} matches no transcript in this library; {there}"
    if value.filter == "label":
        there = f"labels like it: {near}" if near else "`vfindex list` shows which there are"
        return f"label:{value.value} matches no label of this library; {there}"
    there = f"names like it: {near}" if near else "whole words of a name are compared, case does not count"
    return f"speaker:{value.value} matches no speaker that subtitles name in this library; {there}"


def _misread(terms: Sequence[Term], *, is_alone: bool) -> Iterator[Hint]:
    """Yield the hints for words that look like syntax. is_alone: the query has one moment."""
    words = [term.text if term.is_plain else "" for term in terms]
    for word in words:
        if written := _near_prefix(word):
            yield Hint("prefix", f'"{word}" is searched like any other word; with the prefix, write: {written}')
    for number, word in enumerate(words[1:-1], start=1):
        sides = terms[number - 1], terms[number + 1]
        if word in _OPERATORS and not all(each.is_word and each.text.istitle() for each in sides):  # Tom AND Jerry
            shouted = [each for each in words if each not in ("", word)]
            if not (shouted and all(map(str.isupper, shouted))):
                yield Hint("operator", f'"{word}" is searched like any other word; {_OPERATORS[word]}')
    if is_alone and (written := _two_moments(terms, words)):
        yield Hint("moments", f'"then" is searched like any other word; for two moments, end with a time: {written}')


def _two_moments(terms: Sequence[Term], words: Sequence[str]) -> str:
    """Return a query with a `then` and no time as one of two moments; "" for any other."""
    end, time = len(terms), "20s"
    if "within" in words:
        end = words.index("within")
        time = f"{words[-1]}s" if end == len(words) - 2 and words[-1].isdecimal() else ""
    at = words.index("then") if words.count("then") == 1 else 0
    if not time or not 0 < at < end - 1 or words[at - 1] in ("and", "since", "until", "by"):
        return ""
    return " ".join(map(str, (*terms[:end], "within", time)))


def _near_prefix(word: str) -> str:
    """Return a word with the prefix or filter that it nearly has; "" for other words."""
    found = _COLON_WORD.fullmatch(word)
    if not found:
        return ""
    from difflib import get_close_matches  # 3 ms that few queries take

    name, value = found["name"].lower(), found["value"]
    if name == "text":  # of a title, or on the picture
        return f"titled:{value} or written:{value}"
    if name in modality_names():
        return f"{get_modality(name).prefix}:{value}"
    [near] = get_close_matches(name, [*prefixes(), *FILTER_EXAMPLES], 1, _NEAR) or [""]
    return f"{near}:{value}" if near and _is_query(f"x {near}:{value}") else ""


def _is_query(text: str) -> bool:
    """Return whether a filter takes its value."""
    try:
        parse(text)
    except QueryError:
        return False
    return True


def _is_prefix(term: Term) -> bool:
    """Return whether a word is a prefix of the query language, which a space parts from its word."""
    return term.is_word and term.text.endswith(":") and term.text[:-1] in prefixes()


def _negations(terms: Sequence[Term]) -> Iterator[tuple[str, str]]:
    """Yield each negation before a noun phrase, and the same in the query language."""
    at = 0
    while at < len(terms):
        length = _negation(terms[at : at + 2])
        start = at + max(1, length)
        if length and not _is_name(terms[at : start + 1]):
            excluded, start = _negated(terms, start)
            if excluded and not {*excluded} <= {str(term) for term in terms}:
                yield " ".join(term.text for term in terms[at : at + length]), " ".join(excluded)
        at = start


def _negation(terms: Sequence[Term]) -> int:
    """Return how many of the terms, the first one or two, are a negation; 0 if none is."""
    words = tuple(_word(term) for term in terms)
    return 2 if words in _NEGATING_PAIRS else int(words[0] in _NEGATIONS)


def _is_name(terms: Sequence[Term]) -> bool:
    """Return whether the words are capitalised as in a name: "No Country for Old Men"."""
    return len(terms) > 1 and all(term.text[:1].isupper() and not term.text[1:].isupper() for term in terms)


def _negated(terms: Sequence[Term], start: int) -> tuple[list[str], int]:
    """Return the terms that exclude the noun phrases at `start`, and the end of these."""
    excluded: list[str] = []
    while start < len(terms):
        while start < len(terms) and _word(terms[start]) in _LEADING:
            start += 1
        words: list[str] = []
        ended = False
        while (
            start < len(terms)
            and not ended
            and _is_content(terms[start])
            and (words or _word(terms[start]) not in _IDIOMS)
        ):
            words.append(terms[start].text.strip(_MARKS))
            ended = terms[start].text.endswith(_END_OF_PHRASE)
            start += 1
        if not words:
            break
        excluded.append(f"-{words[0]}" if len(words) == 1 else f'-"{" ".join(words)}"')
        if ended or start >= len(terms) or _word(terms[start]) not in _JOINING:
            break
        start += 1
    return excluded, start


def _is_content(term: Term) -> bool:
    word = _word(term)
    return bool(word) and word not in STOP_WORDS and word not in _NEGATIONS and word not in _JOINING


def _word(term: Term) -> str:
    """Return a plain word, folded, without punctuation around it; "" for any other term."""
    return folded(term.text.strip(_MARKS)) if term.is_word else ""
