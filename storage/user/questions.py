"""Questions that people asked, kept until a run measures with them how much the joint index finds.

    questions/17.question    in the folder of a model version; one of SLOTS, drawn at random and replaced
    questions/off            in the folder of the library: none are kept

A question is kept as what the index was asked for: its joint vector, the depth, and the clips that filters selected;
no words, no time, no name. No locks: a file is written under another name and renamed. So what is kept is bounded,
however many processes ask, and a question is replaced by later ones. What is damaged or of another form is passed over.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.files.file_systems import is_on_shared
from vfindex.storage.files.permissions import share
from vfindex.storage.files.regular import regular_no_link
from vfindex.storage.files.writes import make_folder, on_disk, write_file
from vfindex.storage.records import FloatArray

logger = logging.getLogger(__name__)

FOLDER, OFF, _SUFFIX = "questions", "off", ".question"
# Two of 4,096 dimensions are 32 KB: 128 are 2 MB, and at most 18 MB with filters.
SLOTS = 128
# A process keeps at most one in this time.
INTERVAL_S = 1.0
# After one could not be written: a disk that is full may have room later, a service stays open for months.
AGAIN_S = 600.0
# Ranges of consecutive clip ids of a filter, 16 bytes each; questions with more are not kept. A video is one range.
MOST_RANGES = 8192
_MOST_BYTES = 1 << 20
_NOT_AS_WRITTEN = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True, eq=False)
class AskedQuestion:
    """What the index was asked for. query: joint vector (dim,). among: (n, 2), first and last of ranges of clip ids."""

    query: FloatArray
    top_k: int
    among: NDArray[np.int64] | None

    def clips(self, ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return those of `ids` (n,), increasing, that the filters selected; None without filters."""
        if self.among is None:
            return None
        at = np.searchsorted(self.among[:, 0], ids, side="right") - 1
        return ids[(at >= 0) & (ids <= self.among[np.maximum(at, 0), 1])] if len(self.among) else ids[:0]


class QuestionKeeper:
    """Keeps questions of one model version, for any number of threads.

    Keeps none where the folder cannot be written, or lies on another machine: readers create nothing there.
    """

    def __init__(self, root: Path, version: Path) -> None:
        """root: the library. version: the folder of the model version."""
        self._root, self._off, self._folder = root, root / FOLDER / OFF, version / FOLDER
        self._next_s = 0.0  # on the monotonic clock

    def keep(self, query: FloatArray, top_k: int, among: NDArray[np.int64] | None) -> None:
        """Keep a question, unless one was kept a moment ago. query: (dim,). among: clip ids, increasing; None: all."""
        if time.monotonic() < self._next_s or os.path.lexists(self._off) or is_on_shared(self._root):
            return
        self._next_s = time.monotonic() + INTERVAL_S
        ranges = None if among is None else _ranges(among)
        if ranges is not None and len(ranges) > MOST_RANGES:
            return
        path = self._folder / f"{secrets.randbelow(SLOTS)}{_SUFFIX}"
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")  # of this thread alone
        try:
            make_folder(self._folder)
            part.write_bytes(_packed(AskedQuestion(query, top_k, ranges)))
            share(part)
            part.replace(path)
        except OSError as exc:  # a library that only others may write, or a full disk
            self._next_s = time.monotonic() + AGAIN_S
            logger.info("no questions are kept to measure the joint index with: %s", exc)
            with suppress(OSError):
                part.unlink(missing_ok=True)


def kept_questions(version: Path, dim: int) -> Iterator[tuple[Path, AskedQuestion]]:
    """Yield the questions of a model version with vectors of `dim` dimensions, with their files, in random order.

    Other files are deleted: they are damaged, or of other models. For the writer. Raises OSError.
    """
    paths = _files(version)
    secrets.SystemRandom().shuffle(paths)
    for path in paths:
        question = _read(path)
        if question is not None and len(question.query) == dim:
            yield path, question
        else:
            path.unlink(missing_ok=True)


def kept_count(version: Path) -> int:
    """Return how many questions of a model version are kept."""
    return len(_files(version))


def forget_questions(root: Path) -> int:
    """Delete the questions of all model versions; return how many. Raises LibraryError."""
    paths = [path for folder in (root, *root.glob("editions/*")) for path in _files(folder, parts=True)]
    with on_disk("a question"):
        for path in paths:
            path.unlink(missing_ok=True)
    return sum(path.suffix == _SUFFIX for path in paths)


def keeps_questions(root: Path) -> bool:
    """Return whether questions may be kept."""
    return not os.path.lexists(root / FOLDER / OFF)


def keep_questions(root: Path, wanted: bool) -> None:
    """Let questions be kept from now on, or not. Raises LibraryError."""
    with on_disk("the choice about questions"):
        if wanted:
            (root / FOLDER / OFF).unlink(missing_ok=True)
        else:
            write_file(root / FOLDER / OFF, b"")


def _files(version: Path, *, parts: bool = False) -> list[Path]:
    """Return the files of questions. parts: those that a killed process has left half written, too."""
    found = list((version / FOLDER).glob(f"*{_SUFFIX}"))
    return [*found, *(version / FOLDER).glob(f"*{_SUFFIX}.*.part")] if parts else found


def _ranges(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return increasing ids as ranges (n, 2), first and last."""
    starts = np.flatnonzero(np.diff(ids, prepend=-2) > 1)
    ends = np.append(starts[1:], len(ids))[: len(starts)] - 1
    return np.stack([ids[starts], ids[ends]], axis=1)


def _packed(question: AskedQuestion) -> bytes:
    """Return a line of JSON, then the vector and the ranges."""
    ranges = b"" if question.among is None else question.among.astype("<i8").tobytes()
    body = question.query.astype("<f4").tobytes() + ranges
    count = None if question.among is None else len(question.among)
    head = {"dim": len(question.query), "top_k": question.top_k, "ranges": count, "crc32": zlib.crc32(body)}
    return json.dumps(head).encode() + b"\n" + body


def _read(path: Path) -> AskedQuestion | None:
    """Return a stored question, None for one that is gone, damaged or of another form."""
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            line, _, body = file.read(_MOST_BYTES).partition(b"\n")
        head = json.loads(line)
        dim, top_k, count = int(head["dim"]), int(head["top_k"]), head["ranges"]
        if zlib.crc32(body) != head["crc32"] or len(body) != 4 * dim + 16 * int(count or 0) or top_k < 1:
            raise ValueError("its parts do not fit together")
        query = np.frombuffer(body, "<f4", dim).astype(np.float32)
        among = None if count is None else np.frombuffer(body, "<i8", offset=4 * dim).reshape(-1, 2).astype(np.int64)
        if not np.all(np.isfinite(query)):
            raise ValueError("its vector is no vector")
        return AskedQuestion(query, top_k, among)
    except (OSError, *_NOT_AS_WRITTEN) as exc:
        logger.info("the question %s is passed over: %s", path, exc)
        return None
