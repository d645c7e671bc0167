"""The question: its text checked, its words told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfindex.storage.errors import QueryError

# The text encoders read 256 tokens; a question of this length is a pasted document.
MAX_QUERY_CHARS = 2_000
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
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Query:
    """A question. words: its distinct content words as typed; all its words where it has no other."""

    text: str
    words: tuple[str, ...]


def parse(text: str) -> Query:
    """Return the question in `text`. Raises QueryError if it is empty or longer than MAX_QUERY_CHARS."""
    cleaned = " ".join(text.encode("utf-8", "replace").decode().split())
    if not cleaned:
        raise QueryError('the question is empty; ask for something, as in: vfindex search "dog running in park"')
    if len(cleaned) > MAX_QUERY_CHARS:
        raise QueryError(f"the question has {len(cleaned)} characters; at most {MAX_QUERY_CHARS} are read, shorten it")
    first: dict[str, str] = {}  # in whatever case -> as typed first
    for word in _WORD.findall(cleaned):
        first.setdefault(word.casefold(), word)
    unique = list(first.values())
    content = [word for word in unique if word.casefold() not in STOP_WORDS]
    return Query(cleaned, tuple((content or unique)[:MAX_WORDS]))
