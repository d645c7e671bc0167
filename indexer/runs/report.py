"""Reports of runs: the outcome of every file, as printed and as stored in the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from vfindex.storage.errors import Problem
from vfindex.storage.records import Hint


@dataclass(slots=True)
class Report:
    """One run. found = indexed + unchanged + moved + reworded + coarse + partial + failed + skipped.

    unchanged: known content, at the same path or as a further copy. moved: known content at another path. reworded:
    known content with other sidecars; no frame was decoded. coarse: searchable by a preview, still to be indexed fully.
    partial: searchable, but a part could not be decoded. clips, video_seconds: added by this run. vanished: files that
    are missing, or excluded now. left: files that the run did not reach, None if it was broken off before all files
    were found. left_alone: roots that are missing, or have lost too many files at once to count them as deleted. notes:
    oddities of sidecars and subtitle tracks; their videos are counted elsewhere. left_out: number of skipped system
    folders and files, by kind. hints: globs of --exclude without a match.
    out_of_time: the deadline ended the run. error: why it ended before its files were done, "" if it did not.
    not_published: why no new joint index was published, "" if one was or none
    was due. gpu_busy: GPU -> share of the time in which it encoded images.
    """

    run_id: int = 0
    found: int = 0
    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    reworded: int = 0
    coarse: int = 0
    partial: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    vanished: int = 0
    left: int | None = None
    left_alone: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    hints: list[Hint] = field(default_factory=list)
    clips: int = 0
    video_seconds: float = 0.0
    wall_s: float = 0.0
    interrupted: bool = False
    out_of_time: bool = False
    not_published: str = ""
    error: str = ""
    gpu_busy: dict[str, float] = field(default_factory=dict)

    def bugs(self) -> list[Problem]:
        """Return the failures, of whole files or of parts, that are bugs met by this run."""
        return bugs([*self.failed, *self.partial])

    def adds_up(self) -> bool:
        """Return whether every file found has exactly one outcome."""
        counted = self.indexed + self.unchanged + self.moved + self.reworded + self.coarse
        return self.found == counted + len(self.partial) + len(self.failed) + len(self.skipped)

    def has_changed(self) -> bool:
        """Return whether the run changed the videos or the text of the library."""
        return bool(self.indexed or self.moved or self.reworded or self.coarse or self.partial or self.vanished)

    def sort(self) -> None:
        """Sort the problems by path, so that a report does not depend on the order in which workers finish."""
        for problems in (self.partial, self.failed, self.skipped, self.left_alone, self.notes):
            problems.sort(key=lambda problem: problem.path)
        self.left_out = dict(sorted(self.left_out.items()))

    def to_dict(self, path: Callable[[bytes], str]) -> dict[str, Any]:
        """Return the report for JSON; path: how a path becomes text."""
        document = _document(self, path)
        return {name: value for name, value in document.items() if value or name != "gpu_busy"}


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run at once. report: what it had done by then, as stored in the library."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


@dataclass(slots=True)
class UpgradeReport:
    """One upgrade. version: the number of the new one. before, after: preset, models and sampling of the two.

    videos, clips: searchable in the new version. By this call: taken_over, videos copied without opening a file; heard,
    videos of which only the audio was decoded; decoded, videos of which frames were decoded, decoded_s their length;
    transcripts_reused, those among these that kept their transcript. lost: videos that the new version lacks.
    dropped_heads: sets of classes whose temporal head is not in it, for it reads frame vectors of another model.
    """

    version: int
    before: Mapping[str, str]
    after: Mapping[str, str]
    videos: int = 0
    clips: int = 0
    taken_over: int = 0
    heard: int = 0
    decoded: int = 0
    decoded_s: float = 0.0
    transcripts_reused: int = 0
    lost: list[Problem] = field(default_factory=list)
    dropped_heads: tuple[str, ...] = ()
    swapped: bool = False
    interrupted: bool = False
    wall_s: float = 0.0

    def to_dict(self, path: Callable[[bytes], str]) -> dict[str, Any]:
        """Return the report for JSON; path: how a path becomes text."""
        names = {"version": "edition", "decoded_s": "decoded_seconds"}
        return {names.get(name, name): value for name, value in _document(self, path).items()}


def _document(report: Report | UpgradeReport, path: Callable[[bytes], str]) -> dict[str, Any]:
    """Return the fields of a report for JSON, in their order; seconds and shares with three decimals."""

    def row(problem: Problem) -> dict[str, str]:
        trace = {"traceback": problem.trace} if problem.trace else {}
        words = {"stage": problem.stage, "code": problem.code, "reason": problem.reason, "next": problem.next}
        return {"path": path(problem.path), **words, **trace}

    def value(found: Any) -> Any:
        if isinstance(found, float):
            return round(found, 3)
        if isinstance(found, Mapping):
            return {name: value(found[name]) for name in found}
        if isinstance(found, list):
            return [row(each) if isinstance(each, Problem) else asdict(each) for each in found]
        return found

    return {each.name: value(getattr(report, each.name)) for each in fields(report)}


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run. total_files, total_s: known so far. done_s, total_s: seconds of video."""

    done_files: int
    total_files: int
    done_s: float
    total_s: float


def bugs(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems that are bugs of vfindex, met by this run."""
    return [problem for problem in problems if problem.trace]


ProgressCallback = Callable[[Progress], None]
