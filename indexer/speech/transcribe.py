"""Speech recognition of the audio that no subtitles cover, with PocketSphinx."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Protocol

from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.speech.recognizer_pool import Recognition, RecognizerPool, Word
from vfindex.indexer.speech.vad import Utterance, VoiceFinder, syllable_depth
from vfindex.storage.records import Segment

LANGUAGE = "en"  # of PocketSphinx's model
PENDING_S = 120.0  # audio waiting for recognisers: 4 MB per video, enough for a dozen of them
PAUSE_S = 0.5  # a segment ends at a pause as long as this: the end of a phrase
MAX_SEGMENT_S = 8.0  # and at the next word after this: the length of a line of subtitles
# Measured: of 17 segments hallucinated over music and noise 1 is above it, of 49 over speech 5 are below. Speech
# queries: nDCG@10 0.88 without a threshold, 0.91 from 0.1 to 0.2, 0.88 at 0.25, 0.86 at 0.3.
MIN_CONFIDENCE = 0.15
# Measured, words a second in utterances of over a second: talk 1.5 to 4.8, music, noise and nature 0 to 1.3. In shorter
# ones a single word determines the rate.
SONG_WORDS_PER_S = 1.0
TALK_WORDS_PER_S = 2.0
# Measured, syllable depth of utterances of 2 s or more: talk 0.75 to 1.7; music, wind and water 0.3 to 0.5 for half of
# their time. Talk with music or noise 10 dB below it 0.64 to 1.2 and partly understood, 5 dB 0.53 to 1.1 with little
# right, at its own level 0.43 to 0.9 with nothing right. Shorter utterances have too few syllables.
TALK_DEPTH = 0.55
JUDGED_FROM_S = 2.0
MARGIN_S = 0.4  # silence that voice activity detection keeps around an utterance
COMPLETE_SHARE = 1 / 3  # subtitles cover 60 to 90 % of speech; a few translated signs cover 5 %
COVERED_SHARE = 0.5  # an utterance is covered if subtitles overlap this much of it


@dataclass(frozen=True, slots=True)
class Transcript:
    """The recognised segments, in order of time.

    voiced_s: seconds of possible speech without subtitles. steady_s: those of them that were skipped, see `is_steady`.
    recognised_s, dropped_s: seconds of the segments kept, and of those with too little confidence.
    problems: sentences.
    """

    segments: list[Segment]
    voiced_s: float
    recognised_s: float
    dropped_s: float
    problems: list[str]
    steady_s: float = 0.0


class Transcriber(Protocol):
    """Recognises one unit's audio: feed its blocks in order, then finish."""

    def feed(self, block: AudioBlock) -> None:
        """Take the next block; waits while too much audio is pending."""
        ...

    def finish(self) -> Transcript:
        """Wait for recognition and return the transcript."""
        ...


class Speech(Protocol):
    """A speech model shared by the running units, each with its own transcriber."""

    def transcriber(self, covered: Sequence[tuple[float, float]]) -> Transcriber:
        """Return a transcriber for one unit. covered: spans (start_s, end_s) of the video's subtitles."""
        ...

    def kill(self) -> None:
        """Stop at once, from any thread; running recognitions resolve with a problem."""
        ...

    def close(self) -> None:
        """Wait for the audio already fed, then free the model."""
        ...


class PocketSphinx:
    """The `lite` preset's recognisers, in child processes; a `Speech`."""

    def __init__(self, workers: int) -> None:
        """workers: maximum number of child processes."""
        self._pool = RecognizerPool(workers)

    def transcriber(self, covered: Sequence[tuple[float, float]]) -> PocketSphinxTranscriber:
        return PocketSphinxTranscriber(self._pool, covered)

    def kill(self) -> None:
        self._pool.kill()

    def close(self) -> None:
        self._pool.close()


class PocketSphinxTranscriber:
    """Recognises the audio of one unit: feed its blocks in order, then finish.

    covered: spans (start_s, end_s) of its subtitles. If these are a full transcript (at least COMPLETE_SHARE of the
    time from the first to the last), all of that time counts as covered: the gaps are pauses and music. Otherwise
    (signs, foreign passages) only the spans do. Covered audio is not recognised.
    """

    def __init__(self, pool: RecognizerPool, covered: Sequence[tuple[float, float]] = ()) -> None:
        self._pool = pool
        self._covered = covered_spans(covered)
        self._finder = VoiceFinder()
        self._pending: deque[tuple[Utterance, Future[Recognition]]] = deque()
        self._pending_s = 0.0
        self._voiced_s = self._recognised_s = self._dropped_s = self._steady_s = 0.0
        self._segments: list[Segment] = []
        self._problems: dict[str, None] = {}  # an ordered set

    def feed(self, block: AudioBlock) -> None:
        """Take the next block. Waits while more than PENDING_S of audio are being recognised."""
        for utterance in self._finder.feed(block):
            self._submit(utterance)

    def finish(self) -> Transcript:
        """Wait for every utterance and return the transcript."""
        for utterance in self._finder.finish():
            self._submit(utterance)
        while self._pending:
            self._collect()
        segments = sorted(self._segments, key=lambda s: (s.start_s, s.end_s))
        seconds = (self._voiced_s, self._recognised_s, self._dropped_s)
        return Transcript(segments, *seconds, list(self._problems), steady_s=self._steady_s)

    def _submit(self, utterance: Utterance) -> None:
        start_s, end_s = utterance.start_s, utterance.start_s + utterance.length_s
        if overlap_s(self._covered, start_s, end_s) >= COVERED_SHARE * utterance.length_s:
            return
        self._voiced_s += utterance.length_s
        if is_steady(utterance):
            self._steady_s += utterance.length_s
            return
        while self._pending and self._pending_s + utterance.length_s > PENDING_S:
            self._collect()
        self._pending_s += utterance.length_s
        self._pending.append((utterance, self._pool.submit(utterance.samples)))

    def _collect(self) -> None:
        """Wait for the oldest utterance and take its segments."""
        utterance, future = self._pending.popleft()
        self._pending_s -= utterance.length_s
        try:
            recognition = future.result()
        except CancelledError:
            recognition = Recognition((), "speech recognition was stopped")
        if recognition.problem:
            self._problems[recognition.problem] = None
        for segment in segments(recognition.words, utterance.start_s, utterance.length_s):
            if (segment.confidence or 0.0) < MIN_CONFIDENCE:
                self._dropped_s += segment.end_s - segment.start_s
            else:
                self._recognised_s += segment.end_s - segment.start_s
                self._segments.append(segment)


def is_steady(utterance: Utterance) -> bool:
    """Return whether an utterance is too steady to be speech: music, wind, an engine.

    It is if its `syllable_depth`, to three digits, is below TALK_DEPTH; short utterances never are. Recognising such
    audio took a quarter of the recognition time, and no word of it was right.
    """
    return utterance.length_s >= JUDGED_FROM_S and round(syllable_depth(utterance.samples), 3) < TALK_DEPTH


def segments(words: Sequence[Word], start_s: float, length_s: float) -> Iterator[Segment]:
    """Yield the segments of an utterance that begins at start_s and lasts length_s.

    Their confidence is `talk_share` of the utterance times `posterior` of the segment's words.
    """
    talk = talk_share(len(words), length_s)
    for run in _phrases(words):
        begin_s = max(0.0, start_s + run[0].start_s)
        end_s = max(begin_s, start_s + run[-1].end_s)
        yield Segment(begin_s, end_s, " ".join(w.text for w in run), "asr", LANGUAGE, talk * posterior(run))


def talk_share(n_words: int, length_s: float) -> float:
    """Return how close an utterance's word rate is to speech: 0 up to SONG_WORDS_PER_S, 1 from TALK_WORDS_PER_S on.

    Posteriors alone do not separate music from talk: over music, often a single long word survives the search with a
    posterior of 1.
    """
    rate = n_words / max(length_s - MARGIN_S, MARGIN_S)
    return min(max((rate - SONG_WORDS_PER_S) / (TALK_WORDS_PER_S - SONG_WORDS_PER_S), 0.0), 1.0)


def posterior(words: Sequence[Word]) -> float:
    """Return the geometric mean of the words' posterior probabilities, 0 to 1."""
    return math.exp(sum(math.log(max(w.probability, 1e-6)) for w in words) / len(words))


def _phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    run: list[Word] = []
    for word in words:
        if run and (word.start_s - run[-1].end_s >= PAUSE_S or word.end_s - run[0].start_s > MAX_SEGMENT_S):
            yield run
            run = []
        run.append(word)
    if run:
        yield run


def covered_spans(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the time covered by subtitles as disjoint spans in order, see `PocketSphinxTranscriber`."""
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    if merged and sum(end - start for start, end in merged) >= COMPLETE_SHARE * (merged[-1][1] - merged[0][0]):
        return [(merged[0][0], merged[-1][1])]
    return merged


def overlap_s(spans: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Return how many seconds of [start_s, end_s) the spans cover; they are disjoint and in order."""
    first = bisect.bisect_right(spans, start_s, key=lambda span: span[1])
    inside = itertools.takewhile(lambda span: span[0] < end_s, (spans[at] for at in range(first, len(spans))))
    return sum(min(end, end_s) - max(start, start_s) for start, end in inside)
