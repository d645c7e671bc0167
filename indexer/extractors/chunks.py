"""Windows: the parts of a text with times that are embedded, and the one rule by which spans describe clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from vfindex.storage.records import Segment

WINDOW_WORDS = 25  # about 10 s of speech, the length of a clip; a sentence encoder blurs much longer text
MAX_GAP_S = 10.0  # after a pause as long as a clip, the topic has changed
# A line on the picture repeats the transcript if it is a phrase, of three words or more, and this share of its words
# is said in order. Subtitles come and go up to LAG_S before or after what is said.
MIN_REPEATED_WORDS, REPEATED_SHARE, LAG_S = 3, 0.8, 2.0
# Text on the picture has a window every SHOWN_S, the length of the shortest clip: every clip has all texts shown in it,
# each by how long it is.
SHOWN_S = 2.0

_MARKS = ".,;:!?\"'()[]-\u2013\u2014\u2026\u201c\u201d\u2018\u2019\u00ab\u00bb"


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
    kept = []
    for segment in shown:
        words = _bare(segment.text)
        if segment.box is not None and len(words) >= MIN_REPEATED_WORDS:
            around = (s for s in said if s.start_s < segment.end_s + LAG_S and s.end_s > segment.start_s - LAG_S)
            spoken = [word for each in around for word in _bare(each.text)]
            alike = SequenceMatcher(None, words, spoken, autojunk=False).get_matching_blocks()
            if sum(block.size for block in alike) >= REPEATED_SHARE * len(words):
                continue
        kept.append(segment)
    return kept


def _bare(text: str) -> list[str]:
    """Return the words of a text in lower case, without the marks around them."""
    return [word for word in (each.strip(_MARKS) for each in text.casefold().split()) if word]


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
