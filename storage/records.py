"""Records passed between the packages: frozen, validated, independent of databases and models.

NumPy is not imported here: the command line names modalities in its help, which must be fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias, get_args

from vfindex.storage.modalities import ModalityName, ModelKind, VideoText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.float32]"
# left, top, right, bottom of a part of the upright picture, in shares of its width and height.
Box: TypeAlias = tuple[float, float, float, float]
# (character of the text, seconds after the start of the segment) of each word, in order.
WordTimes: TypeAlias = tuple[tuple[int, float], ...]
# frames: recognised in the frames.
SegmentSource = Literal["sidecar", "embedded", "asr", "chapter", "frames"]
# Forms of fusion, see `joint.vector.fuse`.
FusionName = Literal["concat", "mean", "weighted", "learned"]
FUSIONS: tuple[FusionName, ...] = get_args(FusionName)


# Of a query's words, and of the values of filters.
_OfWords = Literal["negation", "space", "prefix", "moments", "operator", "lacking", "common"]
_OfValues = Literal["in", "lang", "speaker", "label", "exclude"]
HintKind: TypeAlias = _OfWords | _OfValues


@dataclass(frozen=True, slots=True)
class Hint:
    """A remark on a probable misunderstanding; it changes no result. text: a line to print.

    kind: a negation that excludes nothing, a prefix with a space behind it, a word that is nearly a `prefix`, `moments`
    without a time, an `operator` that there is not, a value of `in:`, `lang:`, `speaker:`,
    `label:` or `--exclude` that matches nothing, a prefix of what the library lacks, a required word in more texts than
    are searched (`common`).
    """

    kind: HintKind
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text of [start_s, end_s). track: its modality.

    language: BCP 47 tag, "" where unknown. confidence: 0 to 1 for what is recognised, None for subtitles.
    box: where its text stands on the picture, None for text that stands on none. word_times: the position of each word
    in the text, and when it begins, to 0.01 s; empty where unknown. speakers: names, of subtitles that have them.
    original: the text of the library, where `text` is a person's correction of it, "" where nothing is said or written.
    Raises ValueError on an empty text or a span that runs backwards.
    """

    start_s: float
    end_s: float
    text: str
    source: SegmentSource
    language: str = ""
    confidence: float | None = None
    track: ModalityName = "speech"
    box: Box | None = None
    word_times: WordTimes = ()
    speakers: tuple[str, ...] = ()
    original: str | None = None

    def __post_init__(self) -> None:
        if not self.text.strip() and self.original is None:
            raise ValueError("a segment needs text")
        if not 0 <= self.start_s <= self.end_s:
            raise ValueError(f"segment runs from {self.start_s} to {self.end_s}")


class Line(NamedTuple):
    """A segment in any library that has its video, with the text of the library: a correction of it goes by this.

    track: its modality. Another recogniser makes other lines, even at the same time.
    """

    fingerprint: str
    track: ModalityName
    start_ms: int
    end_ms: int
    text: str

    @classmethod
    def of(cls, fingerprint: str, segment: Segment) -> Self:
        """Return the line of a segment."""
        text = segment.text if segment.original is None else segment.original
        return cls(fingerprint, segment.track, round(1000 * segment.start_s), round(1000 * segment.end_s), text)


def box_of(stored: str | None) -> Box | None:
    """Return a box from the text that a library stores, None for damaged text or none."""
    try:
        left, top, right, bottom = (float(side) for side in (stored or "").split())
    except ValueError:
        return None
    box = (left, top, right, bottom)
    return box if all(-1 < side < 2 for side in box) else None


def box_text(box: Box) -> str:
    """Return the text that a library stores of a box: its sides, to a ten thousandth of the picture."""
    return " ".join(f"{side:.4f}" for side in box)


def box_words(box: Box) -> str:
    """Return a part of a picture as `bottom left, x 9-21 %, y 69-77 %`, from its left and its top.

    The words are for the ninth of the picture in which its middle lies.
    """
    left, top, right, bottom = (round(100 * side) for side in box)
    column, row = (min(2, int(3 * (first + last) / 2)) for first, last in (box[::2], box[1::2]))
    words = " ".join(filter(None, (("top", "", "bottom")[row], ("left", "", "right")[column]))) or "middle"
    return f"{words}, x {left}-{right} %, y {top}-{bottom} %"


def word_times_of(stored: str | None) -> WordTimes:
    """Return word times from the text that a library stores, () for damaged text or none."""
    try:
        steps = [int(step) for step in (stored or "").split()]
        places, times = accumulate(steps[::2]), accumulate(steps[1::2])
        return tuple((place, time / 100) for place, time in zip(places, times, strict=False))
    except (ValueError, OverflowError):
        return ()


def word_times_text(times: WordTimes) -> str | None:
    """Return the text that a library stores of word times, None without any.

    For each word, by how many characters and hundredths of a second it comes after the one before: half of the size of
    the text itself.
    """
    flat = [(0, 0), *((place, round(100 * time_s)) for place, time_s in times)]
    return " ".join(f"{b[0] - a[0]} {b[1] - a[1]}" for a, b in pairwise(flat)) or None


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is. total_files, total_s: known so far. done_s, total_s: seconds of video. at: ISO 8601, UTC."""

    done_files: int
    total_files: int
    done_s: float
    total_s: float
    at: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """A titled part of a video. start_s, end_s: None where only its title is known."""

    title: str
    start_s: float | None = None
    end_s: float | None = None

    @classmethod
    def parse(cls, stored: Any) -> Chapter:
        """Return a chapter of a library's JSON: an object, or the title alone that older libraries hold.

        Raises TypeError.
        """
        return cls(stored) if isinstance(stored, str) else cls(**stored)

    def stored(self) -> Any:
        """Return the chapter as `parse` reads it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Video:
    """A source file's content. Its identity is `fingerprint`; its paths are Locations.

    Times are presentation times of the container (PTS x time_base), not rebased to 0: start_s of the first frame,
    last_s of the last, end_s when the last has been shown.
    width_px, height_px: as shown, after rotation and pixel aspect. rotation_deg: counter-clockwise, as stored in the
    display matrix. frames: coded frames of the chosen stream, None while unknown.
    fps, time_base: fractions, "30000/1001" frames a second and "1/90000" s, as the container states them; fps is an
    average where it varies. start_timecode: "HH:MM:SS:FF", a semicolon before FF where frames are dropped. All None
    where unknown, and in libraries from before they were recorded.
    """

    fingerprint: str
    size_bytes: int
    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    start_s: float
    last_s: float
    end_s: float
    frames: int | None
    has_audio: bool
    title: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    chapters: tuple[Chapter, ...] = ()
    fps: str | None = None
    time_base: str | None = None
    start_timecode: str | None = None


class ClipKey(NamedTuple):
    """A clip in any library that has its video: the fingerprint, and the clip's start in milliseconds.

    Ids change when a library is rebuilt or a video indexed again; what people write about a clip goes by its key.
    """

    fingerprint: str
    start_ms: int


@dataclass(frozen=True, slots=True)
class Location:
    """A copy of a video: absolute path as bytes, and the stat that shows whether it changed.

    sidecar_state: changes with the subtitle and description files next to it; "" without any.
    """

    path: bytes
    size_bytes: int
    mtime_ns: int
    inode: int
    sidecar_state: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """The unit indexed and returned: [start_s, end_s) inside one shot.

    start_uncertainty_s: the sampling gap before a shot boundary, 0 for an exact start.
    embeddings: modality -> (dim,) float32 of length 1; a missing key means the clip has none.
    frame_vectors: (n_frames, dim) float32 of length 1 with `frame_times_s` (n_frames,), increasing.
    thumbnail: WebP bytes or None.
    """

    start_s: float
    end_s: float
    start_uncertainty_s: float
    embeddings: Mapping[ModalityName, FloatArray]
    frame_vectors: FloatArray
    frame_times_s: NDArray[np.float64]
    thumbnail: bytes | None = None

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(f"clip runs from {self.start_s} to {self.end_s}")
        if len(self.frame_vectors) != len(self.frame_times_s):
            raise ValueError("one time per frame vector")


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A decoded frame as a WebP image, upright. time_s: its presentation time."""

    time_s: float
    width_px: int
    height_px: int
    image: bytes


# How a browser gets a video: the file by byte ranges, a span copied to another container, a span encoded again, frames.
Rung = Literal["file", "remux", "transcode", "strip"]


@dataclass(frozen=True, slots=True)
class Playability:
    """The first rung on which a browser plays a file.

    content_type: MIME type with codecs, "" for a strip. reason: why the rungs before do not serve, "" for the file.
    """

    rung: Rung
    content_type: str
    reason: str


# People and programs give times in thousandths, and some containers round theirs: a frame that begins this near to an
# edge of a span begins there.
ROUNDING_S = 0.001


@dataclass(frozen=True, slots=True)
class CutPart:
    """A span of a file to cut out, [start_s, end_s) of its presentation times, up to ROUNDING_S."""

    path: bytes
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class CutEnd:
    """What a cut holds. spans: (start_s, end_s) of each part as cut: a copy begins at the keyframe before.

    duration_s: of the cut. error: what was lost to damage, or "".
    """

    spans: tuple[tuple[float, float], ...]
    duration_s: float
    error: str


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file says of its times. clock_s: what players call 0, as time of hits. The others are those of Video."""

    clock_s: float
    fps: str | None
    start_timecode: str | None


VideoState = Literal["indexing", "indexed", "partial", "failed", "quarantined", "vanished"]
# States of fully committed videos. A search never returns a part of a video.
SEARCHABLE: tuple[VideoState, ...] = ("indexed", "partial")


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """A work unit: [start_s, end_s) of a video; None means from its beginning, or to its end."""

    number: int
    start_s: float | None = None
    end_s: float | None = None

    def length_s(self, video: Video) -> float:
        """Return the length of the unit, by the header of its video."""
        start_s = video.start_s if self.start_s is None else self.start_s
        return (video.end_s if self.end_s is None else self.end_s) - start_s


Care = Literal["usual", "safe"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A failed attempt at a unit, or at a file before its units.

    unit: its number; None: before the units. care: the kind of attempt. at: UTC, ISO 8601.
    """

    unit: int | None
    care: Care
    code: str
    reason: str
    at: str


# Key in the coverage of a unit that is indexed as a preview.
COARSE = "coarse"


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Everything that one unit adds to the library, committed in one transaction.

    coverage: modality or COARSE -> a sentence on its coverage, for `show`. error: a description of unreadable parts, or
    "".
    """

    clips: tuple[Clip, ...]
    segments: tuple[Segment, ...]
    coverage: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """Full text of a whole video."""

    kind: VideoText
    text: str


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file as stored in the library."""

    video_id: int
    fingerprint: str
    location: Location
    state: VideoState
    recognised: bool
    problem: Mapping[str, str] | None = None


# (path, size_bytes, mtime_ns, sidecar state): a file with the same values is up to date.
FileState: TypeAlias = tuple[bytes, int, int, str]


class FileStamp(NamedTuple):
    """A file in the scan cache, compared with the scan; a tuple, because there may be millions."""

    path: bytes
    size_bytes: int
    mtime_ns: int
    state: VideoState
    recognised: int
    sidecar_state: str = ""
    coarse: int = 0


@dataclass(frozen=True, slots=True)
class QueryModel:
    """The query encoder of a modality, and its prompts.

    folder: name below the library's `query/`. templates: `{}` is replaced by the query; their vectors are averaged.
    """

    folder: str
    templates: tuple[str, ...] = ("{}",)


@dataclass(frozen=True, slots=True)
class Setup:
    """The models and parameters behind a library's vectors and scores; fixed when the library is created.

    models: modality -> model, tag and weights hash. sampling: as typed (`auto`, `keyframes`, frames a second).
    frame_weight: share of the best frame in the visual term, the rest is the clip's own vector.
    word_weight: score of a perfect match of words, in units of the joint score.
    imputed_share: for words of a query that no document contains: the share of them that a text is taken to match, per
    spread of its similarity above noise. 0 in libraries from before it.
    references: the models by the names they are found by; empty: those of the preset.
    """

    preset: str
    models: Mapping[ModalityName, str]
    query: Mapping[ModalityName, QueryModel]
    sampling: str
    frame_weight: float
    word_weight: float
    references: Mapping[ModelKind, str] = field(default_factory=dict)
    imputed_share: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file below `index/`, and what vouches for it: its size and the SHA-256 of its footer."""

    name: str
    size_bytes: int
    sha256: str
