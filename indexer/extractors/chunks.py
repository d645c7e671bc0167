"""Windows: the parts of a text with times that are embedded, and the one rule by which spans describe clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vfindex.storage.records import Segment
from vfindex.storage.text.repeats import repeats

WINDOW_WORDS = 25  # about 10 s of speech, the length of a clip; a sentence encoder blurs much longer text
MAX_GAP_S = 10.0  # after a pause as long as a clip, the topic has changed
LAG_S = 2.0  # subtitles come and go up to this long before or after what is said
# Text on the picture has a window every SHOWN_S, the length of the shortest clip: every clip has all texts shown in it,
# each by how long it is.
SHOWN_S = 2.0


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive words of a text, spoken or shown in [start_s, end_s)."""

    start_s: float
    end_s: float
    text: str


def windows(segments: Iterable[Segment], words: int = WINDOW_WORDS) -> list[Window]:
    """Return the windows over the segments, in order of time.

    Each run of segments of one source and language without a pause of MAX_GAP_S is cut into windows of equal length, at
    most `words` words: a short last window would carry no meaning. Windows do not overlap: starting one every 12 words
    found nothing more and cost twice the embeddings. A word's time is interpolated by its letters.
    Lines on the picture are one text while they are shown together, so it has its windows every SHOWN_S.
    """
    ordered = sorted(segments, key=lambda s: (s.start_s, s.end_s))
    found = _pages([segment for segment in ordered if segment.box is not None], words)
    for stretch in _stretches([segment for segment in ordered if segment.box is None]):
        timed = [word for segment in stretch for word in _timed(segment)]
        parts = -(-len(timed) // words)
        for n in range(parts):
            part = timed[n * len(timed) // parts : (n + 1) * len(timed) // parts]
            end_s = max(end for _, end, _ in part)
            found.append(Window(part[0][0], end_s, " ".join(word for _, _, word in part)))
    return sorted(found, key=lambda w: (w.start_s, w.end_s))


def unrepeated(shown: Iterable[Segment], said: Sequence[Segment]) -> list[Segment]:
    """Return the segments that no transcript repeats, so that burnt-in subtitles do not count twice.

    said: the transcript, in order of time. Segments that do not stand on the picture are kept.
    """

    def is_repeated(segment: Segment) -> bool:
        around = [s.text for s in said if s.start_s < segment.end_s + LAG_S and s.end_s > segment.start_s - LAG_S]
        return repeats(segment.text, around)

    return [segment for segment in shown if segment.box is None or not is_repeated(segment)]


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


def _pages(shown: Sequence[Segment], words: int) -> list[Window]:
    """Return the windows over lines on the picture: every SHOWN_S, the text of the lines shown for most of that time.

    A line that is shown for less counts where most of it lies. Words are in order of reading.
    """
    lines_of: dict[int, list[Segment]] = {}
    for segment in shown:
        first, last = int(segment.start_s / SHOWN_S), int(segment.end_s / SHOWN_S)
        for n in range(first, last + 1):
            shared_s = min((n + 1) * SHOWN_S, segment.end_s) - max(n * SHOWN_S, segment.start_s)
            if 2 * shared_s >= min(SHOWN_S, segment.end_s - segment.start_s):
                lines_of.setdefault(n, []).append(segment)
    found = []
    for n, lines in sorted(lines_of.items()):
        lines.sort(key=lambda s: (round(s.box[1], 2), s.box[0]) if s.box else (0.0, 0.0))
        text = [word for line in lines for word in line.text.split()]
        parts = -(-len(text) // words)
        cuts = [k * len(text) // parts for k in range(parts + 1)]
        found += [Window(n * SHOWN_S, (n + 1) * SHOWN_S, " ".join(text[i:j])) for i, j in pairwise(cuts)]
    return found


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
