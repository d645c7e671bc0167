"""The units that are out with distant workers. Knows no Ray.

Whoever carries them takes jobs with `ready`, brings parcels back with `arrived`, and says `broke` if all that was under
way is lost.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.stages import Indexed, Prepared
from vfindex.indexer.runners.parcels import Arrivals, Failure, Job, Parcel
from vfindex.indexer.scan.walk import fingerprint
from vfindex.storage.errors import ClusterError, Problem, VfindexError, VideoError
from vfindex.storage.records import UnitPlan

# Times that the way may break in a row, with no unit come through between, before the cluster is given up.
MAX_BREAKS = 5


@dataclass(slots=True)
class _Out:
    """A unit that is out."""

    arrivals: Arrivals
    future: Future[Indexed] = field(default_factory=Future)


class Dispatch:
    """The units that are out. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out: dict[int, _Out] = {}
        self._waiting: list[int] = []
        self._number = self._breaks = 0
        self._closed: VfindexError | None = None

    def submit(self, prepared: Prepared, plan: UnitPlan, options: Options, path: bytes) -> Future[Indexed]:
        """Return the future of a unit. path: of the file as workers see it."""
        with self._lock:
            self._number += 1
            out = _Out(Arrivals(Job(self._number, prepared, plan, options, path)))
            out.future.set_running_or_notify_cancel()
            if self._closed is not None:
                out.future.set_exception(self._closed)
                return out.future
            self._out[self._number] = out
            self._waiting.append(self._number)
            return out.future

    def ready(self) -> list[Job]:
        """Return the units that are to be sent now; they count as under way."""
        with self._lock:
            numbers, self._waiting = self._waiting, []
            return [self._out[number].arrivals.job for number in numbers]

    def arrived(self, parcel: Parcel) -> int | None:
        """Take a parcel that has come through; return the number of its unit if nothing more of it is awaited."""
        with self._lock:
            out = self._out.get(parcel.job)
        if out is None:
            return parcel.job  # it came twice
        outcome = out.arrivals.add(parcel)  # assembles the unit with its last parcel
        if outcome is None:
            return None
        with self._lock:
            del self._out[parcel.job]
            self._breaks = 0
        if isinstance(outcome, Failure):
            out.future.set_exception(_error(out.arrivals.job, outcome))
        else:
            out.future.set_result(outcome)
        return parcel.job

    def broke(self, reason: str) -> None:
        """Let all units that were under way be sent again; give up where that happens too often in a row."""
        with self._lock:
            for out in self._out.values():
                out.arrivals.parcels.clear()
            self._waiting = sorted(self._out)
            self._breaks += 1
            given_up = self._breaks > MAX_BREAKS
        if given_up:
            self.fail(ClusterError(f"Ray's workers keep ending ({reason}); see its logs, or take --runner local"))

    def fail(self, error: VfindexError) -> None:
        """Let every unit that is out, or will be, fail with this error."""
        with self._lock:
            self._closed = error
            lost, self._out = list(self._out.values()), {}
            self._waiting.clear()
        for out in lost:
            out.future.set_exception(error)


def _error(job: Job, failure: Failure) -> VfindexError:
    """Return what a failure means. A file that only the worker does not see says something about the worker."""
    found = job.prepared.found.location.path
    if not failure.unseen:
        return failure.error(found)
    try:
        same = fingerprint(found) == job.prepared.video.fingerprint
    except VideoError as exc:
        return exc
    if not same:
        return VideoError(Problem(found, "open", "changed", "it was changed while it was indexed", "index it again"))
    return ClusterError(
        f"{failure.unseen} does not see {os.fsdecode(job.path)} as this machine does ({failure.problem.reason}); "
        "mount the same folder there, or say where it lies with --path-map DRIVER=WORKER"
    )
