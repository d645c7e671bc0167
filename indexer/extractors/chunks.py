"""Windows: the parts of a text with times that are embedded, and the one rule by which spans describe clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vfindex.storage.records import Segment

WINDOW_WORDS = 25  # about 10 s of speech, the length of a clip; a sentence encoder blurs much longer text
MAX_GAP_S = 10.0  # after a pause as long as a clip, the topic has changed


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive words of a transcript, spoken in [start_s, end_s)."""

    start_s: float
    end_s: float
    text: str


def windows(segments: Iterable[Segment], words: int = WINDOW_WORDS) -> list[Window]:
    """Return the windows over the segments, in order of time.

    Each run of segments of one source and language without a pause of MAX_GAP_S is cut into windows of equal length, at
    most `words` words: a short last window would carry no meaning. Windows do not overlap: starting one every 12 words
    found nothing more and cost twice the embeddings. A word's time is interpolated by its letters.
    """
    found: list[Window] = []
    for stretch in _stretches(sorted(segments, key=lambda s: (s.start_s, s.end_s))):
        timed = [word for segment in stretch for word in _timed(segment)]
        parts = -(-len(timed) // words)
        for n in range(parts):
            part = timed[n * len(timed) // parts : (n + 1) * len(timed) // parts]
            end_s = max(end for _, end, _ in part)
            found.append(Window(part[0][0], end_s, " ".join(word for _, _, word in part)))
    return sorted(found, key=lambda w: (w.start_s, w.end_s))


def overlapping(clips: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Return for each clip (start_s, end_s) the positions of the spans (start_s, end_s) that describe it.

    These are the spans of which at least half lies in the clip, else the one that overlaps it most, if any. A span
    without length, as of a frame, describes the clip that it lies in. Clips and spans are in order of time.
    """
    longest_s = max((end_s - start_s for start_s, end_s in spans), default=0.0)
    described: list[list[int]] = []
    first = 0
    for start_s, end_s in clips:
        while first < len(spans) and spans[first][0] + longest_s < start_s:
            first += 1
        half: list[int] = []
        best, best_s = -1, 0.0
        at = first
        while at < len(spans) and spans[at][0] < end_s:
            from_s, to_s = spans[at]
            shared_s = min(end_s, to_s) - max(start_s, from_s)
            if (shared_s > 0 or from_s == to_s >= start_s) and 2 * shared_s >= to_s - from_s:
                half.append(at)
            if shared_s > best_s:
                best, best_s = at, shared_s
            at += 1
        described.append(half or ([best] if best >= 0 else []))
    return described


def _stretches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    run: list[Segment] = []
    until_s = 0.0
    for segment in segments:
        if run and (
            segment.start_s - until_s > MAX_GAP_S
            or (segment.source, segment.language) != (run[-1].source, run[-1].language)
        ):
            yield run
            run = []
        run.append(segment)
        until_s = max(until_s, segment.end_s)
    if run:
        yield run


def _timed(segment: Segment) -> Iterator[tuple[float, float, str]]:
    """Yield (start_s, end_s, word); every word takes time in proportion to its letters and the space after it."""
    words = segment.text.split()
    length_s = (segment.end_s - segment.start_s) / sum(len(word) + 1 for word in words)
    at = 0
    for word in words:
        start_s = segment.start_s + at * length_s
        at += len(word) + 1
        yield start_s, segment.start_s + at * length_s, word
