"""What a run did: the counts and the reasons that `vfindex ingest` prints and keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vfindex.storage.errors import Problem


@dataclass(slots=True)
class Report:
    """One run. found = indexed + unchanged + moved + partial + failed + skipped.

    unchanged: content that the library already has, at the same place or as a further copy. moved: content whose file
    was elsewhere. partial: searchable, but not all of it could be read. clips, video_seconds: added by this run.
    """

    run_id: int = 0
    found: int = 0
    indexed: int = 0
    unchanged: int = 0
    moved: int = 0
    partial: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    clips: int = 0
    video_seconds: float = 0.0
    wall_s: float = 0.0
    interrupted: bool = False

    def adds_up(self) -> bool:
        """Return whether every file found ended in exactly one way."""
        ends = self.indexed + self.unchanged + self.moved + len(self.partial) + len(self.failed) + len(self.skipped)
        return self.found == ends

    def sort(self) -> None:
        """Put the problems in order of path, so that a report does not depend on who was fastest."""
        for problems in (self.partial, self.failed, self.skipped):
            problems.sort(key=lambda problem: problem.path)

    def to_dict(self, path: Callable[[bytes], str]) -> dict[str, Any]:
        """Return the report for JSON; path: how a path becomes text."""

        def rows(problems: list[Problem]) -> list[dict[str, str]]:
            return [
                {"path": path(p.path), "stage": p.stage, "code": p.code, "reason": p.reason, "next": p.next}
                for p in problems
            ]

        return {
            "run_id": self.run_id,
            "found": self.found,
            "indexed": self.indexed,
            "unchanged": self.unchanged,
            "moved": self.moved,
            "partial": rows(self.partial),
            "failed": rows(self.failed),
            "skipped": rows(self.skipped),
            "clips": self.clips,
            "video_seconds": round(self.video_seconds, 3),
            "wall_s": round(self.wall_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. total_files, total_s: what is known so far, growing while folders are still being read.

    done_s, total_s: seconds of video.
    """

    done_files: int
    total_files: int
    done_s: float
    total_s: float


ProgressCallback = Callable[[Progress], None]
