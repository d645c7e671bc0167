"""The parser of the query language. What is not exactly syntax is a plain word: `it's`, `C++` and `a AND` are queries.

query    = moment [("then" | "near") moment "within" duration] , filters anywhere
moment   = term { term }
term     = ["-"] [weight ":"] [prefix ":"] (word | '"' phrase '"')
prefix   = of a modality: "shown", "said", "titled"
filter   = "in:" glob | ("after:" | "before:") date | ("longer:" | "shorter:") duration | "lang:" tag
           | "speaker:" name | "label:" name
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, cast

from vfindex.search.query.ast import Filters, Moment, Order, Query, Term
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.modalities import ModalityName, modality_names, prefixes

# The text encoders read 256 tokens; a query of this length is a pasted document.
MAX_QUERY_CHARS = 2_000
MAX_WEIGHT = 100
ORDERS: tuple[Order, ...] = ("then", "near")
# Keyboards and word processors replace the straight quotation mark; other languages have their own.
_QUOTES = (
    '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f\u301d\u301e\u301f\uff02\uff62\uff63'
)
# They also replace the minus: by hyphens, figure, en and em dash, the minus sign, small and full-width ones.
_DASH = "\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_COLON = "[:\uff1a]"
_WEIGHT = rf"(?P<weight>[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?){_COLON}(?=[^\s\d])"
_HEAD = re.compile(rf"(?P<dash>[{_DASH}](?=[^\s{_DASH}]))?(?:{_WEIGHT})?")
_INNER_WEIGHT = re.compile(_WEIGHT)
_PREFIX = re.compile(rf"(?P<prefix>\w+){_COLON}(?=\S)")
_FILTER = re.compile(rf"(?P<dash>[{_DASH}]?)(?P<name>in|after|before|longer|shorter|lang|speaker|label){_COLON}")
_TOKEN = re.compile(r"\S+")
_HAS_WORD = re.compile(r"\w")
_DATE = re.compile(r"([0-9]{4})(-[0-9]{2})?(-[0-9]{2})?")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(s|sec|seconds?|m|min|minutes?|h|hours?)")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8})*")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
# Name of a filter -> it as typed.
FILTER_EXAMPLES = {
    "in": "in:holiday/*",
    "after": "after:2026-01-31",
    "before": "before:2026-01-31",
    "longer": "longer:60s",
    "shorter": "shorter:10m",
    "lang": "lang:en",
    "speaker": 'speaker:"Jane Doe"',
    "label": "label:cooking",
}


@dataclass(slots=True)
class _Read:
    """The terms and filters read so far."""

    terms: list[Term] = field(default_factory=list)
    filters: dict[str, Any] = field(default_factory=dict)


def parse(text: str, *, wordless: bool = False) -> Query:
    """Return the query in `text`. wordless: it may be empty, as with a picture.

    Raises QueryError, with the position of the wrong character, if it is empty, longer than MAX_QUERY_CHARS or wrong.
    """
    if not isinstance(text, str):
        raise QueryError(f"a query must be text, not {text!r}")
    typed = text  # paths keep bytes that are not UTF-8; in words each becomes "?"
    text = text.encode("utf-8", "replace").decode()
    length = len(" ".join(text.split()))
    if not length and not wordless:
        raise QueryError("the query is empty; enter words, as in: vfindex search dog running in park", 0)
    if length > MAX_QUERY_CHARS:
        raise QueryError(f"the query has {length} characters, more than {MAX_QUERY_CHARS}; shorten it", MAX_QUERY_CHARS)
    read = _Read()
    token = _TOKEN.search(text)
    while token is not None:
        match = _FILTER.match(text, token.start())
        end = _read_filter(typed, match, read) if match else _read_term(text, token, read)
        token = _TOKEN.search(text, end)
    if not read.terms and not wordless:
        message = "the query has filters and no words; add a word, or list these videos with: vfindex list"
        raise QueryError(message, len(text.rstrip()))
    return _paired(read.terms, Filters(**read.filters))


def joined(arguments: Sequence[str]) -> str:
    """Return the query of a command's arguments: one is a query as typed; of several, the shell took the marks."""
    return " ".join(map(requoted, arguments) if len(arguments) > 1 else arguments)


def requoted(argument: str) -> str:
    """Return an argument with the quotation marks that the shell took: `in:My Trip` was typed as `in:"My Trip"`."""
    head = _FILTER.match(argument) or _HEAD.match(argument)
    end = head.end() if head else 0
    prefix = _PREFIX.match(argument, end)
    if prefix and prefix["prefix"] in prefixes():
        end = prefix.end()
        if weight := _INNER_WEIGHT.match(argument, end):
            end = weight.end()
    value = argument[end:]
    is_one = len(value.split()) > 1 and not set(f":{_QUOTES}") & set(value)
    return f'{argument[:end]}"{value}"' if end and is_one else argument


def _read_term(text: str, token: re.Match[str], read: _Read) -> int:
    """Read the term that starts with the token; return its end."""
    head = _HEAD.match(text, token.start())
    start = head.end() if head else token.start()
    dash, weight = head.group("dash", "weight") if head else (None, None)
    prefix = _PREFIX.match(text, start)
    modality = prefixes().get(prefix["prefix"]) if prefix else None
    if prefix and modality:
        start = prefix.end()
        while inner := _INNER_WEIGHT.match(text, start):
            if weight:
                raise QueryError(f"the weight {inner['weight']}: is one too many; a term has at most one", start)
            weight, start = inner["weight"], inner.end()
    phrase = text[start] in _QUOTES
    body, end = _quoted(text, start) if phrase else (text[start : token.end()], token.end())
    if phrase:
        body = " ".join(body.split())
        if not _HAS_WORD.search(body):
            raise QueryError(f"there is no word between the quotation marks at character {start + 1}", start)
    # "-5 degrees" is cold, "->" is an arrow: a dash is syntax before a letter, or a mark, with a word behind it.
    is_number = bool(dash) and not weight and not modality and body[0].isdigit()
    if not phrase and (is_number or not _HAS_WORD.search(body)):
        read.terms.append(Term(token[0], position=token.start()))
        return token.end()
    read.terms.append(
        Term(
            body,
            phrase=phrase,
            modality=modality,
            unlike=bool(dash),
            weight=_weight(weight, token.start()) if weight else 1.0,
            position=token.start(),
        )
    )
    return end


def _quoted(text: str, start: int) -> tuple[str, int]:
    """Return the text between the quotation mark at `start` and the next one, and the end of that."""
    for end in range(start + 1, len(text)):
        if text[end] in _QUOTES:
            return text[start + 1 : end], end + 1
    message = f"the quotation mark at character {start + 1} is never closed; close it after the phrase, or leave it out"
    raise QueryError(message, start)


def _weight(text: str, position: int) -> float:
    weight = round(float(text), 3)
    if not 0 < weight <= MAX_WEIGHT:
        raise QueryError(f"a weight is a number above 0 and at most {MAX_WEIGHT}, not {text}", position)
    return weight


def _read_filter(text: str, match: re.Match[str], read: _Read) -> int:
    """Read a filter; return its end."""
    name, start = match["name"], match.end()
    if match["dash"]:
        raise QueryError(f"the filter {name}: cannot be negated", match.start())
    quoted = start < len(text) and text[start] in _QUOTES
    token = _TOKEN.match(text, start)
    value, end = _quoted(text, start) if quoted else (token[0] if token else "", token.end() if token else start)
    if not value.strip():
        raise QueryError(
            f"the filter {name}: needs a value right after the colon, as in {FILTER_EXAMPLES[name]}", match.start()
        )
    key, parsed = _filter_value(name, value, start)
    if isinstance(parsed, str):
        read.filters[key] = tuple(dict.fromkeys((*read.filters.get(key, ()), parsed)))
    elif key in read.filters:
        raise QueryError(f"the filter {name}: is given twice", match.start())
    else:
        read.filters[key] = parsed
    return end


def _filter_value(name: str, value: str, position: int) -> tuple[str, str | date | float]:
    """Return the field of Filters that a filter sets, and its value. Raises QueryError."""
    if name == "in":
        return "inside", value
    if name in ("speaker", "label") and _HAS_WORD.search(value):
        return f"{name}s", " ".join(value.split())
    if name == "lang" and _LANGUAGE.fullmatch(value.lower()):
        return "languages", value.lower()
    if name in ("longer", "shorter"):
        seconds = _seconds(value)
        if seconds is not None:
            return f"{name}_s", seconds
    if name in ("after", "before") and (match := _DATE.fullmatch(value)):
        first = (match[1], match[2] or "-01", match[3] or "-01")  # of the year or month
        try:
            return ("since" if name == "after" else "until"), date.fromisoformat("".join(first))
        except ValueError:
            kind = "day" if match[3] else "month" if match[2] else "year"
            raise QueryError(f"there is no {kind} {value}", position) from None
    raise QueryError(f"the filter {name}: does not take {value!r}; write it as in {FILTER_EXAMPLES[name]}", position)


def _seconds(text: str) -> float | None:
    """Return a duration in seconds, rounded to a millisecond; None for another text."""
    match = _DURATION.fullmatch(text)
    return round(float(match[1]) * _SECONDS[match[2][0]], 3) if match else None


def _paired(terms: Sequence[Term], filters: Filters) -> Query:
    """Return the query: with two moments if it ends in `within` and a duration and contains a `then` or `near`."""
    within = _within(terms)
    if within is not None:
        end, within_s = within
        orders = [i for i in range(end) if terms[i].is_plain and terms[i].text in ORDERS]
        if len(orders) > 1:
            second = terms[orders[1]]
            message = (
                f"{second.text!r} at character {second.position + 1} is one too many: a query has at most two moments"
            )
            raise QueryError(message, second.position)
        if orders:
            [at] = orders
            sides = tuple(terms[:at]), tuple(terms[at + 1 : end])
            if not all(sides):
                side = "after" if sides[0] else "before"
                message = f"nothing {side} {terms[at].text!r}; write it as in: door opens then dog barks within 20s"
                raise QueryError(message, terms[at].position)
            return Query(tuple(map(Moment, sides)), cast(Order, terms[at].text), within_s, filters)
    return Query((Moment(tuple(terms)),), filters=filters)


def _within(terms: Sequence[Term]) -> tuple[int, float] | None:
    """Return the index of a final `within` and its seconds; None without. `20s` and `20 seconds` are the same."""
    for words in (1, 2):
        tail = terms[-words - 1 :]
        if len(tail) == words + 1 and tail[0].text == "within" and all(term.is_plain for term in tail):
            seconds = _seconds(" ".join(term.text for term in tail[1:]))
            if seconds is not None:
                return len(terms) - words - 1, seconds
    return None


def parse_weights(text: str) -> dict[ModalityName, float]:
    """Return modality -> weight of `speech=0.5,text=0`. Raises UsageError."""
    weights: dict[ModalityName, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        modality = next((m for m in modality_names() if m == name.strip()), None)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if modality is None or not 0 <= number < float("inf"):
            raise UsageError(
                f"a weight is a modality and a number from 0, as in visual=1,speech=0.5,text=0, not {part!r}"
            )
        weights[modality] = number
    return weights
