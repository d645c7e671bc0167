"""What a library contains, and what its runs did: records as those of `results`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vfindex.search.results import Record

if TYPE_CHECKING:
    from vfindex.storage.modalities import ModalityName, ModelKind
    from vfindex.storage.records import RunProgress, VideoState


@dataclass(frozen=True, slots=True)
class RunInfo(Record):
    """A run. id, run_id: the same number. Times: ISO 8601, UTC.

    finished_at, report: None if it was killed, or is still running; progress: then, how far it had come.
    """

    id: int
    run_id: int
    command: str
    started_at: str
    finished_at: str | None
    report: Mapping[str, Any] | None
    progress: RunProgress | None


@dataclass(frozen=True, slots=True)
class RunList(Record):
    """All runs, the oldest first."""

    runs: tuple[RunInfo, ...]


@dataclass(frozen=True, slots=True)
class FileProblem(Record):
    """A file that could not be indexed, or not all of it. attempts: failed tries. version: of vfindex, for a bug."""

    path: bytes
    state: VideoState
    stage: str | None
    code: str | None
    reason: str | None
    next: str | None
    version: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class ModalityConfidence(Record):
    """Whether scores of a modality label hits, and why. questions: known items that it was measured with."""

    labelled: bool
    auc: float
    questions: int
    reason: str


@dataclass(frozen=True, slots=True)
class IndexSegmentInfo(Record):
    """A segment of the joint index. deleted: of its clips. bytes: of its file.

    search: `exact`, all vectors are scored; `tuned`, by codes, with parameters tuned when they were made; `raised`:
    these found too little of what people asked.
    """

    clips: int
    deleted: int
    bytes: int
    search: Literal["exact", "tuned", "raised"]


@dataclass(frozen=True, slots=True)
class WeightingRecall(Record):
    """Recall@10 of questions at one weighting: `default`, the name of a modality that was asked alone, or `other`.

    filtered: whether filters or phrases chose clips. low, high: the interval of 95 %.
    """

    weighting: str
    filtered: bool
    questions: int
    recall: float
    low: float
    high: float
    is_low: bool


@dataclass(frozen=True, slots=True)
class RecallInfo(Record):
    """How much the index found of what an exact scan finds, of questions that people asked in the last four weeks.

    recall, low, high: None before a question was measured. since, until: the days of the first and the last
    measurement. raised: the day on which the search parameters were raised, with which the measurement began again.
    is_low: below `least`, of all questions or at one weighting; next: what to do then. kept: questions that wait for
    the next run; keeps: whether any are kept.
    """

    least: float
    questions: int
    recall: float | None
    low: float | None
    high: float | None
    since: str | None
    until: str | None
    weightings: tuple[WeightingRecall, ...]
    raised: str | None
    is_low: bool
    next: str | None
    kept: int
    keeps: bool


@dataclass(frozen=True, slots=True)
class IndexInfo(Record):
    """The joint index in use. place: `built-in` or `qdrant:URL`. bytes: of all its files here.

    pending_merges, pending_clips: that runs with time will make. recall: None where all vectors are scored, and in
    Qdrant, where it is not measured.
    """

    place: str
    segments: tuple[IndexSegmentInfo, ...]
    clips: int
    deleted: int
    bytes: int
    pending_merges: int
    pending_clips: int
    recall: RecallInfo | None


@dataclass(frozen=True, slots=True)
class Status(Record):
    """What a library contains, and what failed.

    videos: searchable ones; coarse: of these, preview only. locations: files, copies and failed ones included.
    setup_problem: why there is no preset although there are videos.
    generation: of the joint index in use; index_problem: why there is none although one was published. index: None
    without one.
    spec: hash of setup and JointSpec, equal in libraries whose scores can be compared. roots: ingested paths. removed:
    paths that runs skip.
    confidence: None before it was measured, and for other fusions than `concat`.
    """

    library: Path
    preset: str | None
    sampling: str | None
    setup_problem: str | None
    models: Mapping[ModelKind, str]
    lacks: tuple[ModalityName, ...]
    videos: int
    coarse: int
    locations: int
    states: Mapping[str, int]
    clips: int
    segments: int
    clips_with: Mapping[ModalityName, int]
    video_seconds: float
    confidence: Mapping[ModalityName, ModalityConfidence] | None
    fusion: str
    spec: str | None
    spec_is_shared: bool
    generation: int | None
    clips_in_generation: int
    index_problem: str | None
    index: IndexInfo | None
    roots: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    problems: tuple[FileProblem, ...]
    last_run: RunInfo | None


@dataclass(frozen=True, slots=True)
class StatusList(Record):
    """The status of each of several libraries, in the order in which they were named."""

    libraries: tuple[Status, ...]
