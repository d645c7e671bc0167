"""A worker of a cluster: a local runner over whole units in its own process. Independent of Ray.

The driver sends a unit and receives its result or an error; frames and audio never leave the process.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from vfindex.indexer.boundary import one_file
from vfindex.indexer.models.factory import Opening, open_encoders
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.stages import Indexed, ReusableUnit
from vfindex.indexer.runners.local import DecoderThreads, LocalRunner
from vfindex.indexer.runners.open_models import OpenModels
from vfindex.indexer.scan.walk import fingerprint
from vfindex.storage.errors import ClusterError, Problem, VfindexError, VideoError
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Setup, UnitPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a run. cache: their folder, as a worker's path. The others: as in `Opening`."""

    setup: Setup
    cache: Path
    left_out: frozenset[ModalityName] = frozenset()
    compiled: bool = False
    main_language: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A unit to be indexed. path: of its file on the worker. reusable: see `Runner.index`."""

    prepared: Prepared
    plan: UnitPlan
    options: Options
    path: bytes
    reusable: ReusableUnit | None = None

    @property
    def length_s(self) -> float:
        return max(0.0, self.plan.length_s(self.prepared.video))


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a unit. unseen: the machine on which the file is missing or differs from the driver's, or ""."""

    problem: Problem
    quarantine: bool = False
    unseen: str = ""

    def error(self, job: Job) -> VfindexError:
        """Return the error, with the driver's path; a ClusterError if only the worker lacks the file."""
        path = job.prepared.found.location.path
        if not self.unseen:
            return VideoError(replace(self.problem, path=path), quarantine=self.quarantine)
        try:
            same = fingerprint(path) == job.prepared.video.fingerprint
        except VideoError as exc:
            return exc
        if not same:
            return VideoError(Problem(path, "open", "changed", "it was changed while it was indexed", "index it again"))
        return ClusterError(
            f"{self.unseen} does not see {os.fsdecode(job.path)} as this machine does ({self.problem.reason}); "
            "mount the same folder there, or give its path with --path-map DRIVER=WORKER"
        )


class UnitWorker:
    """Indexes whole units, several at once. `index` may be called from several threads."""

    def __init__(self, models: Models, cores: int, units: int, place: str) -> None:
        """cores: for the models. units: decoded at once. place: name of this machine."""
        os.environ["OMP_NUM_THREADS"] = str(cores)  # Ray sets 1; torch's OpenMP reads it on load
        self._models = models
        self._cores = cores
        self._units = units
        self._place = place
        self._runner: LocalRunner | None = None
        self._seen = ("", b"")  # fingerprint and path of the last comparison

    def open(self) -> str:
        """Load the models; return why that failed, or ""."""
        models = self._models
        opening = Opening(self._cores, models.left_out, models.compiled, models.main_language)
        try:
            encoders = open_encoders(models.setup, models.cache, opening, say=log.debug)
            self._runner = LocalRunner(DecoderThreads(self._units), OpenModels(encoders))
        except VfindexError as exc:
            return f"{self._place}: {exc}"
        return ""

    def index(self, job: Job) -> Indexed | Failure:
        """Return a unit's result or failure. Raises errors that end the run."""
        if self._runner is None:
            raise RuntimeError("the models are not open")
        try:
            with one_file(job.path, "decode"):
                if unseen := self._unseen(job):
                    return unseen
                location = replace(job.prepared.found.location, path=job.path)
                prepared = replace(job.prepared, found=replace(job.prepared.found, location=location))
                return self._runner.index(prepared, job.plan, job.options, job.reusable).result()
        except VideoError as exc:
            return Failure(exc.problem, exc.quarantine)

    def _unseen(self, job: Job) -> Failure | None:
        """Return a failure if the file is missing here or differs from the driver's."""
        here = (job.prepared.video.fingerprint, job.path)
        if self._seen != here:
            try:
                same = fingerprint(job.path) == here[0]
            except VideoError as exc:
                return Failure(exc.problem, unseen=self._place)
            if not same:
                problem = Problem(job.path, "open", "changed", "its content is another", "index it again")
                return Failure(problem, unseen=self._place)
            self._seen = here
        return None

    def gpu_busy(self) -> dict[str, float]:
        """Return `LocalRunner.gpu_busy`; empty before the models are loaded."""
        return self._runner.gpu_busy() if self._runner is not None else {}
