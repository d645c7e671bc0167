"""The exceptions of vfindex. Their text is one sentence for the user: what failed, which file, what to do next.

VfindexError
├── VideoError          one file or one stretch of it; never stops a run
├── ModelError          weights, tokenizers, ONNX graphs
├── LibraryError        the library folder
│   ├── LibraryNotFound
│   ├── LibraryVersion  written by a newer vfindex, or for other models
│   ├── LibraryLocked   another writer is at work
│   ├── LibraryDamaged  a checksum or a bijection does not hold
│   │   └── DatabaseLost  library.db is missing, empty or no database
│   ├── LibraryChanged  a writer came between two reads of a reader that cannot lock
│   ├── IndexUnusable   a joint index that is missing, damaged or may not be read
│   ├── NotPublished    a new joint index that is worse than the one before
│   └── DimensionError  vectors of another length
├── Overloaded          too many at once; the same call may succeed later
├── ClusterError        Ray, or machines that should help
├── QueryError          the question
│   └── QueryTimeout    took longer than it may
└── UsageError          options that contradict each other or the library; exit code 2
    ├── EditConflict    somebody else has changed what was to be changed
    └── NoDecoder       opened without what decodes videos
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Literal

# Code of a problem that is not the file's fault: vfindex raised an unexpected exception.
BUG = "bug"
Stage = Literal["discover", "open", "probe", "decode", "transcribe", "encode", "commit"]


class VfindexError(Exception):
    """One sentence for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file could not be indexed, or not all of it.

    code: a short stable word for programs (`empty`, `not_a_video`, `playlist`, `truncated`, `killed`, ...).
    reason: what is wrong, as a sentence. next: what the user can do about it. trace: Python's traceback of a bug in
    this run.
    """

    path: bytes
    stage: Stage
    code: str
    reason: str
    next: str
    trace: str = ""

    def sentence(self) -> str:
        """Return the problem as one line; the path is not escaped for a terminal."""
        return f"{os.fsdecode(self.path)}: {self.reason}; {self.next}"


class VideoError(VfindexError):
    """A file that cannot be indexed; `problem` says why. `quarantine`: it killed or outlasted its decoder."""

    def __init__(self, problem: Problem, *, quarantine: bool = False) -> None:
        super().__init__(problem.sentence())
        self.problem = problem
        self.quarantine = quarantine


class ModelError(VfindexError):
    """Weights, a tokenizer or a graph are missing, damaged or of the wrong shape."""


class LibraryError(VfindexError):
    """The library folder cannot be used."""


class LibraryNotFound(LibraryError):
    """There is no library in this folder."""


class LibraryVersion(LibraryError):
    """The library was written by a newer vfindex, or for other models."""


class LibraryLocked(LibraryError):
    """Another process is writing to the library."""


class LibraryUnreachable(LibraryError):
    """A library on another machine gives no answer that can be used. place: its address.

    has_changed: it changed while it was asked; the same question may succeed.
    """

    def __init__(self, place: str, reason: str, *, has_changed: bool = False) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason, self.has_changed = place, reason, has_changed


class LibraryDamaged(LibraryError):
    """A checksum or a bijection inside the library does not hold."""


class DatabaseLost(LibraryDamaged):
    """The library's database is missing, empty or no database."""


class LibraryChanged(LibraryError):
    """The library changed while it was read without a lock; the data may mix two states."""


class FileMissing(LibraryError):
    """No file of a video is there, or it has changed since it was indexed."""


class IndexUnusable(LibraryError):
    """The file of the joint index is missing, damaged or may not be read; searches scan library.db instead."""


class NotPublished(LibraryError):
    """A new joint index finds less than it should, so the previous one stays in use."""


class DimensionError(LibraryError):
    """Vectors with an unexpected dimension or number."""


class Overloaded(VfindexError):
    """More of this kind of work is under way than the machine takes; the same call may succeed a little later."""


class ClusterError(VfindexError):
    """Ray cannot be started or reached, has failed, or one of its machines sees other files than the driver."""


class QueryError(VfindexError):
    """An invalid query. position: of the wrong character, from 0; None if there is no single one."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class QueryTimeout(QueryError):
    """A search that reached its time limit. There are no hits: part of them could be the wrong ones."""

    def __init__(self, what: str = "the search") -> None:
        super().__init__(
            f"{what} reached its time limit and was stopped; give it more time, or filters such as in: and after:"
        )


class UsageError(VfindexError):
    """Options that contradict each other or the library."""


class EditConflict(UsageError):
    """Somebody else has changed what was to be changed."""


class NoDecoder(UsageError):
    """A service was asked for media, and opened without what decodes videos."""


def problem_json(problem: Problem | None) -> str | None:
    """Return a problem as stored JSON, without its path, a bug with the version of vfindex; None for None."""
    if problem is None:
        return None
    from importlib.metadata import version  # slow to import, and not needed for help

    fields = {"stage": problem.stage, "code": problem.code, "reason": problem.reason, "next": problem.next}
    return json.dumps(fields | ({"version": version("vfindex")} if problem.code == BUG else {}))


def counted(n: int, noun: str) -> str:
    """Return `1 clip`, `2 clips`, `2 libraries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"
