"""Recognisers in child processes: utterances in, words out. No audio can stop a run."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.boundary import lacks_resources
from vfindex.indexer.media import protocol
from vfindex.indexer.media.child import Child
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ

log = logging.getLogger(__name__)

MAX_WORDS_PER_S = 30  # ten times fast speech; a recogniser never returns more
MAX_WORD_CHARS = 100


@dataclass(frozen=True, slots=True)
class SpeechLimits:
    """Limits of one utterance; beyond them its recogniser is killed.

    memory_bytes: address space; model and search take 0.3 GiB. base_s, factor: the wall clock is base_s plus factor
    times the utterance's length, as the machine may be busy; processor time is half of that. failures: consecutive
    deaths after which the pool gives up.
    """

    memory_bytes: int = 1 << 30
    base_s: float = 60.0
    factor: float = 20.0
    failures: int = 5


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word; start_s, end_s from the utterance's beginning, probability: its posterior, 0 to 1."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Recognition:
    """The words of one utterance in order of time. problem: why there are none, "" on success."""

    words: tuple[Word, ...]
    problem: str = ""


class RecognizerPool:
    """Recognisers shared by all videos, each started on demand."""

    def __init__(self, workers: int, limits: SpeechLimits | None = None, command: Sequence[str] | None = None) -> None:
        """workers: maximum number of children. command: argv that replaces the child's, for tests."""
        self._limits = limits or SpeechLimits()
        module = "vfindex.indexer.speech.recognizer_child"
        self._command = command or (sys.executable, "-P", "-m", module, str(self._limits.memory_bytes))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="speech")  # a thread waits for one child
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._failures = 0  # children that died in a row
        self._killed = False

    def submit(self, samples: NDArray[np.int16]) -> Future[Recognition]:
        """Return the future words of one utterance: (n,) int16 at SAMPLE_RATE_HZ, silence cut off.

        The future raises OSError if the machine lacks what a recogniser needs, and never because of the audio. It is
        cancelled if the pool is killed first.
        """
        return self._threads.submit(self._recognize, samples)

    def _recognize(self, samples: NDArray[np.int16]) -> Recognition:
        length_s = len(samples) / SAMPLE_RATE_HZ
        try:
            child = self._take()
        except OSError as error:
            if lacks_resources(error):  # not the audio's fault: the next run reads the video
                raise
            return Recognition((), f"speech recognition cannot start its process ({error.strerror})")
        if child is None:
            return Recognition((), "speech recognition is off: its process ended again and again, or was stopped")
        wall_s = self._limits.base_s + self._limits.factor * length_s
        try:
            words = _ask(child, samples, wall_s)
        except (OSError, EOFError, protocol.WireError, ValueError) as error:
            reason = _failure(child, error)
            self._drop(child)
            log.debug("recogniser lost over %.1f s of audio: %s", length_s, reason)
            return Recognition((), f"speech recognition of {length_s:.0f} s of audio failed: its process {reason}")
        self._give(child)
        return Recognition(words)

    def _take(self) -> Child | None:
        """Return an idle child or a new one; None if too many died, or the pool is killed."""
        with self._lock:
            if self._killed or self._failures >= self._limits.failures:
                return None
            child = self._idle.pop() if self._idle else Child(self._command)
            self._busy.add(child)
            return child

    def _give(self, child: Child) -> None:
        with self._lock:
            self._failures = 0
            self._busy.discard(child)
            if not self._killed:
                self._idle.append(child)
                return
        child.close()

    def _drop(self, child: Child) -> None:
        with self._lock:
            self._failures += 1
            self._busy.discard(child)
        child.close()

    def close(self) -> None:
        """Wait for the utterances submitted, then end the children."""
        self._threads.shutdown(wait=True)
        with self._lock:
            self._killed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def kill(self) -> None:
        """End the children at once, from any thread; their utterances resolve with a problem."""
        with self._lock:
            self._killed = True
            idle, self._idle = self._idle, []
            for child in self._busy:
                child.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in idle:
            child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.close()


def _ask(child: Child, samples: NDArray[np.int16], wall_s: float) -> tuple[Word, ...]:
    """Send an utterance and return its words. Raises OSError, EOFError, WireError, ValueError."""
    pcm = np.ascontiguousarray(samples, dtype="<i2")
    child.start_clock(wall_s=wall_s)
    child.send(protocol.pack({"cpu_s": wall_s / 2}, pcm.data.cast("B") if len(pcm) else b""))
    header, _ = protocol.unpack(child.read_exactly)
    return _checked(header.get("words"), len(samples) / SAMPLE_RATE_HZ)


def _checked(words: Any, length_s: float) -> tuple[Word, ...]:
    """Return the words of an answer. Raises ValueError for an invalid field."""
    if not isinstance(words, list) or len(words) > MAX_WORDS_PER_S * (length_s + 1):
        raise ValueError("no list of words")
    checked = []
    for fields in words:
        if not (isinstance(fields, list) and len(fields) == 4 and isinstance(fields[0], str)):
            raise ValueError("no word")
        if not all(type(number) in (int, float) for number in fields[1:]):
            raise ValueError("no number")
        text, (start_s, end_s, probability) = fields[0], map(float, fields[1:])
        if not (0 < len(text) <= MAX_WORD_CHARS and text.isprintable() and 0 <= start_s <= end_s <= length_s + 1):
            raise ValueError("a word outside its utterance")
        checked.append(Word(text, start_s, end_s, min(max(probability, 0.0), 1.0)))
    if any(later.start_s < earlier.start_s for earlier, later in itertools.pairwise(checked)):
        raise ValueError("words out of order")
    return tuple(checked)


def _failure(child: Child, error: Exception) -> str:
    """Return why a child did not answer, as a predicate."""
    if isinstance(error, TimeoutError):
        return str(error)
    if isinstance(error, protocol.WireError | ValueError):
        return f"gave no usable answer ({error})"
    return str(child.death())
