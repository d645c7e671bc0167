"""A tool as data: what it takes, what it answers, and how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vfindex.search.mcp.documents import Link
from vfindex.search.mcp.params import Param, values_of

# Seconds that a call may take.
CALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answers: a document, and images as WebP."""

    document: Mapping[str, Any]
    images: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A call under way. link: makes addresses for who asks. is_over: whether nobody waits for the answer any longer."""

    link: Link
    is_over: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool. run: takes the values of its parameters; raises VfindexError. within_s: how long it may take."""

    name: str
    title: str
    about: str
    params: tuple[Param, ...]
    run: Callable[[Mapping[str, Any], Call], Answer]
    within_s: float = CALL_S
    writes: bool = field(default=False, kw_only=True)

    def answer(self, given: Mapping[str, Any], call: Call) -> Answer:
        """Check the parameters and run. Raises VfindexError, with one sentence."""
        return self.run(values_of(given, self.params, self.name), call)
