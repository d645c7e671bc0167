"""The Runner protocol and its choice: this process, or Ray on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from vfindex.indexer.runners.placement import check_gpu_share
from vfindex.storage.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vfindex.indexer.options import Options
    from vfindex.indexer.pipeline.prepare import Prepared
    from vfindex.indexer.pipeline.stages import Indexed, ReusableUnit
    from vfindex.indexer.scan.walk import Found
    from vfindex.storage.records import UnitPlan

RunnerName = Literal["auto", "local", "ray"]


def runner_name(text: str) -> RunnerName:
    """Return `text` if it names a runner. Raises UsageError."""
    names: tuple[RunnerName, ...] = get_args(RunnerName)
    for name in names:
        if name == text:
            return name
    raise UsageError(f"--runner takes {', '.join(names)}, not {text!r}")


class Runner(Protocol):
    """Prepares files and indexes units. Futures raise VideoError for faults of a file."""

    @property
    def window(self) -> int:
        """How many units in flight keep it busy; may change during a run."""
        ...

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""
        ...

    def index(
        self, prepared: Prepared, plan: UnitPlan, options: Options, reusable: ReusableUnit | None = None
    ) -> Future[Indexed]:
        """Return the future of one unit's result. reusable: stored parts of the unit; only the rest is computed."""
        ...

    def gpu_busy(self) -> dict[str, float]:
        """Return GPU -> share of the time in which it encoded images, 0 to 1; empty without a GPU."""
        ...


@dataclass(frozen=True, slots=True)
class PathMap:
    """Folders that workers have at another path: (driver's folder, worker's folder); the longest match counts."""

    folders: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> PathMap:
        """Parse texts of the form DRIVER=WORKER; raises UsageError."""
        folders = []
        for text in texts:
            here, equals, there = os.fsencode(text).partition(b"=")
            if not equals or not os.path.isabs(here) or not os.path.isabs(there):
                raise UsageError(f"--path-map takes DRIVER=WORKER, both absolute folders, not {text!r}")
            folders.append((os.path.normpath(here), os.path.normpath(there)))
        return cls(tuple(sorted(folders, key=lambda pair: -len(pair[0]))))

    def there(self, path: bytes) -> bytes:
        """Return the worker's path for an absolute path of the driver."""
        for here, there in self.folders:
            if path == here or path.startswith(here.rstrip(b"/") + b"/"):
                return os.path.join(there, path[len(here) :].lstrip(b"/"))
        return path


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """The runner of a run. address: of a Ray cluster. gpu_share: of a GPU, for each worker on Ray.

    Raises UsageError for a share that no worker can have, and for the address `local`, at which Ray starts another one.
    """

    name: RunnerName = "auto"
    address: str | None = None
    path_map: PathMap = field(default_factory=PathMap)
    gpu_share: float = 1.0

    def __post_init__(self) -> None:
        check_gpu_share(self.gpu_share)
        if self.address == "local" and self.name != "local":
            raise UsageError("--ray-address takes the address of a cluster, HOST:PORT; for this machine: --runner ray")

    def with_ray(self, *, uses_gpu: bool) -> bool:
        """Return whether the run uses Ray.

        `auto` is Ray with an address, or with models on several GPUs: one worker per GPU. On any other machine the
        local runner is faster: docs/cluster.md.
        """
        if self.name != "auto":
            return self.name == "ray"
        from vfindex.indexer.models.hardware import usable_devices

        return bool(self.address) or (uses_gpu and len(usable_devices()) > 1)
