"""The screen modality: the text in the frames, each line once, with its span and its place on the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from vfindex.indexer.extractors.base import Track, Unit
from vfindex.indexer.extractors.chunks import windows
from vfindex.indexer.extractors.frame_record import colour_histogram
from vfindex.indexer.extractors.ocr import Ocr, Place
from vfindex.indexer.media.decoder import AudioBlock, Frame, FrameTap, ReadEnd, Tap
from vfindex.indexer.models.base import Pixels, is_still
from vfindex.storage.errors import counted
from vfindex.storage.modalities import switches
from vfindex.storage.records import Box, FloatArray, Segment

NAME = "screen"
# A frame a second is looked at; that it changed costs little to see.
TAP = FrameTap(1280, longest=True, fps=1.0)
# A changed frame is read READ_S after the last one, or at once if it begins a shot: what people should read is shown
# for as long. Of fast cuts, BURST frames are read ahead of one every READ_S.
READ_S, BURST = 3.0, 8
# Frames are compared at about this long side: a line of small print is some 8 pixels high there.
COMPARED_PX = 640
# Share of the colours that two frames of one shot have in common: less is a cut (Swain and Ballard 1991).
CUT_COLOURS = 0.5
# Columns of the recogniser for each second of video, 0.3 s of processor, and how many may be saved: a page of 60 lines
# of 80 characters. What exceeds them is left out and counted, the largest print is read first.
COLUMNS_S, MAX_COLUMNS = 4_000, 120_000
# What the recogniser is less sure of is mostly wrong: icons, patterns and blurred print, see docs/decisions/screen.md.
MIN_CONFIDENCE = 0.9
MIN_LETTERS = 2  # a single sign is an icon more often than a word
# Two boxes are one place if they share this much of the smaller one. The same words there are one line from this
# likeness on, and elsewhere, as scrolled text, from the other.
SAME_PLACE, ALIKE_HERE, ALIKE_ELSEWHERE = 0.5, 0.6, 0.9
# Frames in which a line may be overlooked before it counts as gone.
MAX_MISSES = 1


class ScreenExtractor:
    """Reads the text in frames; an `Extractor`. ocr: None if none is read."""

    def __init__(self, ocr: Ocr | None) -> None:
        self._ocr = ocr

    def begin(self, unit: Unit) -> ScreenExtraction:
        return ScreenExtraction(unit, self._ocr)


class ScreenExtraction:
    """The text on the screen of one unit; of a preview, none is read."""

    def __init__(self, unit: Unit, ocr: Ocr | None) -> None:
        self.taps: Sequence[Tap] = () if ocr is None or unit.options.sampling.mode == "sparse" else (TAP,)
        self._unit, self._ocr = unit, ocr
        self._picker, self._lines = FramePicker(), Lines()
        self._columns, self._columns_s = float(MAX_COLUMNS), 0.0
        self._n_read = self._n_left = 0

    def feed(self, item: Frame | AudioBlock) -> None:
        if self._ocr is not None and isinstance(item, Frame) and self._picker.takes(item):
            self._read(self._ocr, item.pixels, item.time_s)

    def finish(self, end: ReadEnd) -> Track:
        if self._ocr is None:
            return Track(switches()[NAME].coverage)
        if not self.taps:
            return Track("the preview reads no text on the screen")
        found = self._lines.finish(self._end_s(end))
        left = f", {counted(self._n_left, 'line')} left out, for there was more text than is read" * bool(self._n_left)
        coverage = f"{counted(len(found), 'line')} in {counted(self._n_read, 'frame')}{left}"
        return Track(coverage, found, tuple(windows(found)))

    def _end_s(self, end: ReadEnd) -> float:
        if self._unit.plan.end_s is not None:
            return self._unit.plan.end_s
        return self._unit.video.end_s if end.last_s is None or not end.error else end.last_s

    def _read(self, ocr: Ocr, pixels: Pixels, now_s: float) -> None:
        """Read the lines of a frame that do not look as they did in the last one read."""
        self._columns = min(MAX_COLUMNS, self._columns + COLUMNS_S * (now_s - self._columns_s))
        self._columns_s = now_s
        self._n_read += 1
        steady = self._lines.begin(pixels)
        for place in sorted(ocr.find(pixels), key=lambda each: -each.height_px):
            if any(shared(place.box, box) >= SAME_PLACE for box in steady):
                continue
            if place.columns > self._columns:
                self._n_left += 1
                continue
            self._columns -= place.columns
            text, confidence = ocr.read(pixels, place)
            if confidence >= MIN_CONFIDENCE and sum(char.isalnum() for char in text) >= MIN_LETTERS:
                self._lines.add(Reading(text, confidence, place), pixels, now_s)
        self._lines.end(now_s)


class FramePicker:
    """Chooses the frames to read, by the frames alone: the machine's speed changes nothing."""

    def __init__(self) -> None:
        self._read: Pixels | None = None
        self._colours: FloatArray | None = None  # of the last frame
        self._read_s = self._now_s = 0.0
        self._credit = float(BURST)

    def takes(self, frame: Frame) -> bool:
        """Return whether to read the next frame."""
        step = max(1, max(frame.pixels.shape[:2]) // COMPARED_PX)
        small = np.ascontiguousarray(frame.pixels[::step, ::step])
        before, self._colours = self._colours, colour_histogram(small)
        begins_shot = before is None or float(np.minimum(self._colours, before).sum()) < CUT_COLOURS
        self._credit = min(BURST, self._credit + (frame.time_s - self._now_s) / READ_S)
        self._now_s = frame.time_s
        if self._read is not None:
            is_early = not begins_shot and frame.time_s - self._read_s < READ_S
            if is_early or self._credit < 1 or is_still(self._read, small):
                return False
        self._credit -= 1
        self._read, self._read_s = small, frame.time_s
        return True


@dataclass(frozen=True, slots=True)
class Reading:
    """A line as it was read in one frame. confidence: 0 to 1."""

    text: str
    confidence: float
    place: Place


@dataclass(slots=True, eq=False)
class Line:
    """A line on the screen as it was read best. box, patch: its place and its pixels when it was last read.

    gone_s: when it was missed.
    """

    best: Reading
    start_s: float
    box: Box
    patch: Pixels
    gone_s: float = 0.0
    misses: int = 0


class Lines:
    """The lines of a unit, each once however often it is read."""

    def __init__(self) -> None:
        self._shown: list[Line] = []
        self._gone: list[Line] = []
        self._seen: set[Line] = set()  # of the shown, in this frame

    def begin(self, pixels: Pixels) -> list[Box]:
        """Begin a frame; return the boxes of the lines that look as they did."""
        self._seen = {line for line in self._shown if is_still(line.patch, patch_of(pixels, line.box))}
        return [line.box for line in self._seen]

    def add(self, reading: Reading, pixels: Pixels, now_s: float) -> None:
        """Add a line of the frame: to the shown line that it is, else as a new one."""
        box = reading.place.box
        alike = [(likeness(line, reading), line) for line in self._shown if line not in self._seen]
        score, line = max(alike, key=lambda each: each[0], default=(0.0, None))
        if line is None or not score:
            line = Line(reading, now_s, box, patch_of(pixels, box))
            self._shown.append(line)
        if reading.confidence > line.best.confidence:
            line.best = reading
        line.box, line.patch = box, patch_of(pixels, box)
        self._seen.add(line)

    def end(self, now_s: float) -> None:
        """End a frame: lines that are missing in it for the second time are gone since the first."""
        for line in self._shown:
            if line in self._seen:
                line.misses = 0
            else:
                line.gone_s = line.gone_s if line.misses else now_s
                line.misses += 1
        self._gone += [line for line in self._shown if line.misses > MAX_MISSES]
        self._shown = [line for line in self._shown if line.misses <= MAX_MISSES]

    def finish(self, end_s: float) -> tuple[Segment, ...]:
        """Return all lines in order of time, those of one span from top to bottom."""
        found = []
        for line in (*self._gone, *self._shown):
            gone_s, best = line.gone_s if line.misses else max(end_s, line.start_s), line.best
            confidence = round(best.confidence, 3)
            found.append(Segment(line.start_s, gone_s, best.text, "frames", "", confidence, NAME, best.place.box))
        return tuple(sorted(found, key=lambda s: (s.start_s, s.end_s, (s.box or ())[1::-1])))


def patch_of(pixels: Pixels, box: Box) -> Pixels:
    """Return the part of a picture inside a box."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = (round(side * size) for side, size in zip(box, (width, height) * 2, strict=True))
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)].copy()


def shared(one: Box, other: Box) -> float:
    """Return the area that two boxes share, as a share of the smaller one."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return wide * high / min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))


def likeness(line: Line, reading: Reading) -> float:
    """Return how alike a line and a reading are if this may be of that line, 0 to 1; else 0.

    Letters are confused by the recogniser, more than digits are: other digits are another line.
    """
    needed = ALIKE_HERE if shared(line.box, reading.place.box) >= SAME_PLACE else ALIKE_ELSEWHERE
    first, second = (_letters(each.text) for each in (line.best, reading))
    if first == second:
        return 1.0
    if 2 * min(len(first), len(second)) < needed * (len(first) + len(second)):
        return 0.0
    if [c for c in first if c.isdigit()] != [c for c in second if c.isdigit()]:
        return 0.0
    ratio = SequenceMatcher(None, first, second, autojunk=False).ratio()
    return ratio if ratio >= needed else 0.0


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())
