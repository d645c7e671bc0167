"""Speech recognition with Whisper (Radford et al. 2022, arXiv 2212.04356): a unit's audio in, plausible segments out.

The model gets only voiced audio, in windows of 30 s. The language is detected in several windows, and segments are
checked for hallucination (`hallucination`).
"""

from __future__ import annotations

import bisect
import itertools
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ
from vfindex.indexer.speech.hallucination import (
    Flaw,
    RawSegment,
    cleaned,
    confidence,
    flaw,
    improbable,
    is_foreign,
    is_stock,
    repeated,
)
from vfindex.indexer.speech.transcribe import Transcript, covered_spans, overlap_s, placed
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray, Segment, WordTimes

log = logging.getLogger(__name__)

Sound = NDArray[np.int16]  # (n,) at SAMPLE_RATE_HZ
VoiceFilter = Callable[[Sound], Sequence[tuple[int, int]]]

WINDOW_S = 30.0  # the model's input length
TIME_STEP_S = 0.02  # to which it rounds times: a short word may get none
# Audio buffered for one unit: 29 MB. A unit has at most 15 minutes; a file with a wrong duration may have more, and the
# buffer is then recognised before more is taken.
HELD_S = 900.0
GAP_S = 0.1  # smaller time jumps are rounding of containers; at larger ones audio is missing or repeated
MIN_PIECE_S = 1.0  # shorter gaps between two subtitles belong to their speech
PAD_S = 0.4  # of audio around voice, for a soft first or last sound: Silero's and faster-whisper's default
MAX_VOICE_S = WINDOW_S - 2 * PAD_S  # of a span of voice
VOICE_PIECE_S = 120.0  # voice activity detection takes 0.4 MB per second of audio
PROBES = 5  # evenly spread windows whose language is detected first
SURE = 0.5  # a language less probable than this is a guess
# Thread seconds of the model per window of a unit; beyond that the rest of the unit is skipped. A core
# takes some 3 s for Whisper base.
LIMIT_WINDOW_S = 600.0
STOPPED = "speech recognition was stopped"


@dataclass(frozen=True, slots=True)
class WindowTranscript:
    """The transcript of one window. language: BCP 47 tag. problem: why it is empty, "" on success."""

    language: str = ""
    probability: float = 0.0
    segments: tuple[RawSegment, ...] = ()
    problem: str = ""


class SpeechModel(Protocol):
    """A Whisper back end. workers: threads that may call it at once. batch: best number of inputs per call."""

    @property
    def workers(self) -> int: ...

    @property
    def batch(self) -> int: ...

    def knows(self, language: str) -> bool:
        """Return whether the model recognises a language, by its BCP 47 tag."""
        ...

    def transcribe(self, sounds: Sequence[FloatArray], language: str) -> list[WindowTranscript]:
        """Return one transcript per input. Raises ModelError if the model fails, as for too large a batch.

        sounds: (n,) from -1 to 1, at most WINDOW_S. language: of all inputs, with probability 1; "": detected for each
        among the languages of the model.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """One input of Whisper, from start_s of the video on; voiced: its voiced spans, in seconds from its start.

    Around them it has up to PAD_S of other audio.
    """

    start_s: float
    samples: Sound
    voiced: tuple[tuple[float, float], ...]

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return len(self.samples) / SAMPLE_RATE_HZ

    @property
    def sound(self) -> FloatArray:
        """The samples as float32 from -1 to 1, Whisper's input."""
        return self.samples.astype(np.float32) / 32768.0

    def spoken(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return a span without what precedes its first and follows its last voice; as it is if it has none."""
        heard = [span for span in self.voiced if span[0] < end_s and span[1] > start_s]
        return (max(start_s, heard[0][0]), min(end_s, heard[-1][1])) if heard else (start_s, end_s)


class Allowance:
    """A budget of thread seconds for recognising some windows, shared by them."""

    def __init__(self, n_windows: int) -> None:
        self.limit_s = LIMIT_WINDOW_S * n_windows
        self._spent_s = 0.0
        self._lock = threading.Lock()

    def spend(self, seconds: float) -> None:
        """Take seconds off."""
        with self._lock:
            self._spent_s += seconds

    @property
    def used_up(self) -> bool:
        """Whether the budget is used up."""
        return self._spent_s >= self.limit_s


class Whisper:
    """A Whisper model shared by the running units, each with its own transcriber."""

    def __init__(self, model: SpeechModel, voice: VoiceFilter, main_language: str = "") -> None:
        """voice: samples -> possible speech as spans (first, last + 1) in samples, in order, up to MAX_VOICE_S.

        main_language: of the library, a BCP 47 tag; "" if it is not known.
        """
        self._model = model
        self.main_language = main_language if model.knows(main_language) else "en"
        self.voice = voice
        self._threads = ThreadPoolExecutor(model.workers, thread_name_prefix="whisper")
        self._killed, self._failed = threading.Event(), threading.Event()

    @property
    def is_intact(self) -> bool:
        """Whether it was not killed and has failed on no window."""
        return not (self._killed.is_set() or self._failed.is_set())

    def transcriber(self, covered: Sequence[tuple[float, float]]) -> WhisperTranscriber:
        """Return a transcriber for one unit. covered: spans (start_s, end_s) of the video's subtitles."""
        return WhisperTranscriber(self, covered)

    def transcribe(self, windows: Sequence[Window], language: str, allowance: Allowance) -> list[WindowTranscript]:
        """Return the transcripts of windows, computed in the model's threads."""
        size = self._model.batch
        batches = [windows[at : at + size] for at in range(0, len(windows), size)]
        futures = [self._threads.submit(self._transcribe, batch, language, allowance) for batch in batches]
        return [heard for future in futures for heard in future.result()]

    def _transcribe(self, windows: Sequence[Window], language: str, allowance: Allowance) -> list[WindowTranscript]:
        """Return the transcripts of a batch. A failed batch is retried in halves, because it may be too large."""
        problem = self._refusal(allowance)
        if problem:
            return [WindowTranscript(problem=problem)] * len(windows)
        began = time.monotonic()
        try:
            return self._model.transcribe([window.sound for window in windows], language)
        except ModelError as exc:
            problem = str(exc)
        finally:
            allowance.spend(time.monotonic() - began)
        if len(windows) == 1:
            self._failed.set()
            return [WindowTranscript(problem=problem)]
        log.debug("a batch of %d windows failed and is halved: %s", len(windows), problem)
        halves = windows[: len(windows) // 2], windows[len(windows) // 2 :]
        return [heard for half in halves for heard in self._transcribe(half, language, allowance)]

    def _refusal(self, allowance: Allowance) -> str:
        if self._killed.is_set():
            return STOPPED
        return f"speech recognition took longer than {allowance.limit_s:.0f} s" if allowance.used_up else ""

    def kill(self) -> None:
        """Stop, from any thread: running batches finish, the rest resolves with a problem."""
        self._killed.set()

    def close(self) -> None:
        """Wait for running batches, then free the model."""
        self._threads.shutdown(wait=True)
        self._model.close()


@dataclass(slots=True)
class _Run:
    """Audio without a gap, from start_s on; pcm: its samples as bytes."""

    start_s: float
    pcm: bytearray = field(default_factory=bytearray)

    @property
    def length_s(self) -> float:
        return len(self.pcm) / (2 * SAMPLE_RATE_HZ)

    @property
    def end_s(self) -> float:
        return self.start_s + self.length_s

    @property
    def samples(self) -> Sound:
        return np.frombuffer(self.pcm, dtype=np.int16)


class WhisperTranscriber:
    """Recognises the audio of one unit: feed its blocks in order, then finish.

    covered: spans (start_s, end_s) of its subtitles, see `covered_spans`; covered audio is not buffered.
    """

    def __init__(self, whisper: Whisper, covered: Sequence[tuple[float, float]] = ()) -> None:
        self._whisper = whisper
        self._covered = covered_spans(covered)
        self._runs: list[_Run] = []
        self._voiced_s = self._recognised_s = self._dropped_s = 0.0
        self._segments: list[Segment] = []
        self._problems: dict[str, None] = {}  # an ordered set
        self._assumed: Counter[str] = Counter()

    def feed(self, block: AudioBlock) -> None:
        """Take the next block; a buffer of HELD_S is recognised first."""
        for start_s, samples in uncovered(block, self._covered):
            if not self._runs or abs(start_s - self._runs[-1].end_s) > GAP_S:
                if self._runs and self._runs[-1].length_s < MIN_PIECE_S:
                    self._runs.pop()  # a hostile file may have a gap after each sample
                self._runs.append(_Run(start_s))
            self._runs[-1].pcm += samples.astype(np.int16).tobytes()
        if sum(run.length_s for run in self._runs) >= HELD_S:
            self._recognise()

    def finish(self) -> Transcript:
        """Wait for recognition and return the transcript."""
        self._recognise()
        segments = sorted(self._segments, key=lambda s: (s.start_s, s.end_s))
        seconds = (self._voiced_s, self._recognised_s, self._dropped_s)
        return Transcript(segments, *seconds, list(self._problems), {k: n for k, n in self._assumed.items() if n})

    def _recognise(self) -> None:
        """Recognise the buffered audio."""
        runs, self._runs = self._runs, []
        windows = [window for run in runs for window in windows_of(run.start_s, run.samples, self._whisper.voice)]
        self._voiced_s += sum(end_s - start_s for window in windows for start_s, end_s in window.voiced)
        if windows:
            self._keep(windows, self._listen(windows, Allowance(len(windows))))

    def _listen(self, windows: Sequence[Window], allowance: Allowance) -> list[WindowTranscript]:
        """Return the transcripts of windows: in one language if PROBES of them agree, else each in its own.

        A window whose language is less probable than SURE is transcribed again: in the language of the sure windows,
        else in the library's main one.
        """
        probes = sorted({round(n) for n in np.linspace(0, len(windows) - 1, PROBES)})
        heard: dict[int, WindowTranscript] = {}

        def listen(rows: Sequence[int], language: str) -> None:
            answers = self._whisper.transcribe([windows[n] for n in rows], language, allowance)
            heard.update(zip(rows, answers, strict=True))

        listen(probes, "")
        first = heard[0].language
        agreed = all(h.language == first and h.probability >= SURE for h in heard.values())
        listen([n for n in range(len(windows)) if n not in heard], first if agreed else "")
        total: defaultdict[str, float] = defaultdict(float)
        for h in heard.values():
            if h.probability >= SURE:
                total[h.language] += h.probability
        main = max(total, key=lambda language: total[language], default=self._whisper.main_language)
        unsure = [n for n, h in heard.items() if not h.problem and h.probability < SURE]
        self._assumed[main] += len(unsure)
        listen([n for n in unsure if heard[n].language != main], main)
        return [heard[n] for n in range(len(windows))]

    def _keep(self, windows: Sequence[Window], answers: Sequence[WindowTranscript]) -> None:
        """Keep the plausible segments of the windows, and count the others."""
        found: list[tuple[Segment, Flaw, float]] = []
        for window, heard in zip(windows, answers, strict=True):
            if heard.problem:
                self._problems[heard.problem] = None
            found += judged(window, heard)
        again = repeated([segment.text for segment, _, _ in found])
        for (segment, why, voiced_s), said_before in zip(found, again, strict=True):
            if why or said_before:
                log.debug("%.2f to %.2f s dropped: %s", segment.start_s, segment.end_s, why or "said before")
                self._dropped_s += voiced_s
            else:
                self._recognised_s += voiced_s
                self._segments.append(segment)


def judged(window: Window, heard: WindowTranscript) -> Iterator[tuple[Segment, Flaw, float]]:
    """Yield a window's segments in times of the video, with the reason to drop each, or "", and its seconds of voice.

    They begin and end with voice, for Whisper often has a segment begin with its input; segments without text are
    skipped. Voice in two segments counts for the first.
    """
    counted_s = 0.0
    is_empty_talk = is_stock([cleaned(raw.text) for raw in heard.segments])
    for raw, has_failed in zip(heard.segments, improbable(heard.segments), strict=True):
        text, start_s, end_s = cleaned(raw.text), max(raw.start_s, 0.0), min(raw.end_s, window.length_s)
        if not text:
            continue
        raw = replace(raw, start_s=start_s, end_s=max(start_s, end_s))
        around_s = 0.0 if raw.end_s > raw.start_s else TIME_STEP_S
        why = flaw(raw, overlap_s(window.voiced, raw.start_s - around_s, raw.end_s + around_s))
        why = why or ("improbable" if has_failed else "stock" if is_empty_talk else "")
        why = why or ("script" if is_foreign(text, heard.language) else "")
        start_s, end_s = window.spoken(raw.start_s, raw.end_s)
        begin_s = max(0.0, window.start_s + start_s)
        times = word_times(text, raw.words, window, (start_s, end_s))
        end_s = max(begin_s, window.start_s + end_s)
        voiced_s = overlap_s(window.voiced, max(raw.start_s, counted_s), raw.end_s)
        counted_s = max(counted_s, raw.end_s)
        yield Segment(begin_s, end_s, text, "asr", heard.language, confidence(raw), word_times=times), why, voiced_s


def word_times(text: str, words: Sequence[tuple[float, str]], window: Window, span_s: tuple[float, float]) -> WordTimes:
    """Return the positions of the words in the text of a segment and when they begin, as `Segment` has it.

    words: in order, with times of the window; one that begins in a pause begins with the voice after it. span_s: the
    segment's start and end in the window.
    """
    if not words:
        return ()
    start_s, end_s = span_s
    ends = [*(time_s for time_s, _ in words[1:]), end_s]
    begun = (window.spoken(time_s, max(until_s, time_s))[0] for (time_s, _), until_s in zip(words, ends, strict=True))
    times = (min(time_s, end_s) - start_s for time_s in begun)
    return placed(text, ((time_s, cleaned(word)) for time_s, (_, word) in zip(times, words, strict=True)))


def uncovered(block: AudioBlock, covered: Sequence[tuple[float, float]]) -> Iterator[tuple[float, Sound]]:
    """Yield the parts of a block outside the spans, with their times; spans are disjoint and in order."""
    block_end_s = block.time_s + len(block.samples) / SAMPLE_RATE_HZ
    first = bisect.bisect_right(covered, block.time_s, key=lambda span: span[1])
    at = 0
    spans = (covered[n] for n in range(first, len(covered)))
    for span in itertools.takewhile(lambda span: span[0] < block_end_s, spans):
        start, end = (round((time_s - block.time_s) * SAMPLE_RATE_HZ) for time_s in span)
        if start > at:
            yield block.time_s + at / SAMPLE_RATE_HZ, block.samples[at:start]
        at = end
    if at < len(block.samples):
        yield block.time_s + at / SAMPLE_RATE_HZ, block.samples[at:]


def windows_of(start_s: float, samples: Sound, voice: VoiceFilter) -> Iterator[Window]:
    """Yield the windows of gapless audio that begins at start_s: voiced spans and the gaps between them.

    Each contains as many spans as fit into WINDOW_S, with PAD_S around them. Times in it are times of the video, and no
    input costs more than all of its audio.
    """
    if len(samples) < MIN_PIECE_S * SAMPLE_RATE_HZ:
        return
    piece, most = int(VOICE_PIECE_S * SAMPLE_RATE_HZ), int(WINDOW_S * SAMPLE_RATE_HZ)
    spans: list[tuple[int, int]] = []
    for at in range(0, len(samples), piece):
        spans += [(at + first, at + last) for first, last in voice(samples[at : at + piece])]
    padded = _padded(spans, len(samples))
    while padded:
        begin = padded[0][0]
        n = max(1, sum(last - begin <= most for _, last in padded))
        end = padded[n - 1][1]
        voiced = tuple(((a - begin) / SAMPLE_RATE_HZ, (b - begin) / SAMPLE_RATE_HZ) for a, b in spans[:n])
        yield Window(start_s + begin / SAMPLE_RATE_HZ, samples[begin:end], voiced)
        del spans[:n], padded[:n]


def _padded(spans: Sequence[tuple[int, int]], n_samples: int) -> list[tuple[int, int]]:
    """Return spans with PAD_S around each, or half of a shorter gap between two."""
    pad = int(PAD_S * SAMPLE_RATE_HZ)
    padded, after = [], 0
    for n, (first, last) in enumerate(spans):
        until = (last + spans[n + 1][0]) // 2 if n + 1 < len(spans) else n_samples
        padded.append((max(first - pad, after), min(last + pad, until)))
        after = until
    return padded
