"""Who does the work of a run: this process alone, or Ray on one machine or many; and how its workers are shared out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from vfindex.storage.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vfindex.indexer.options import Options
    from vfindex.indexer.pipeline.reuse import ReusableUnit
    from vfindex.indexer.pipeline.stages import Indexed, Prepared
    from vfindex.indexer.scan.walk import Found
    from vfindex.storage.records import UnitPlan

RunnerName = Literal["auto", "local", "ray"]
# Processor cores that one worker of each kind share. Measured for `lite` (tests/bench/ingest.py): pictures take 40 % of
# the time, speech 40 %, decoding 17 %; one worker of each keeps two cores busy.
SLOT_CPUS = 2.0
_HOST_CPUS = 0.25  # of a worker whose model is on a GPU
# Of one GPU: a worker that encodes pictures and one that recognises speech fit on it together.
GPU_SHARE = 0.5


def runner_name(text: str) -> RunnerName:
    """Return `text` if it names a runner. Raises UsageError."""
    names: tuple[RunnerName, ...] = get_args(RunnerName)
    for name in names:
        if name == text:
            return name
    raise UsageError(f"--runner takes {', '.join(names)}, not {text!r}")


class Runner(Protocol):
    """Prepares files and indexes units, where and when it likes. Futures raise VideoError for what a file does."""

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""
        ...

    def index(
        self, prepared: Prepared, plan: UnitPlan, options: Options, reusable: ReusableUnit | None = None
    ) -> Future[Indexed]:
        """Return the future of one unit's result. reusable: the unit as stored, only the rest of which is computed."""
        ...


@dataclass(frozen=True, slots=True)
class PathMap:
    """Where workers find what the driver finds elsewhere: (driver's folder, worker's folder), the longest counts."""

    folders: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> PathMap:
        """Return the map that texts of the form DRIVER=WORKER name; raises UsageError."""
        folders = []
        for text in texts:
            here, equals, there = os.fsencode(text).partition(b"=")
            if not equals or not os.path.isabs(here) or not os.path.isabs(there):
                raise UsageError(f"--path-map takes DRIVER=WORKER, both absolute folders, not {text!r}")
            folders.append((os.path.normpath(here), os.path.normpath(there)))
        return cls(tuple(sorted(folders, key=lambda pair: -len(pair[0]))))

    def there(self, path: bytes) -> bytes:
        """Return the worker's name of the driver's absolute path."""
        for here, there in self.folders:
            if path == here or path.startswith(here.rstrip(b"/") + b"/"):
                return os.path.join(there, path[len(here) :].lstrip(b"/"))
        return path


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """Who is to do the work. address: of a Ray cluster. path_map: see there. gpu_share: of a GPU, for each worker."""

    name: RunnerName = "auto"
    address: str | None = None
    path_map: PathMap = field(default_factory=PathMap)
    gpu_share: float = GPU_SHARE

    def with_ray(self, *, needs_gpu: bool) -> bool:
        """Return whether Ray does the work. Raises UsageError for a share that is none.

        `auto` takes it for a cluster, and for models that need a GPU where there are several, of which the local runner
        uses one. On any other machine the local runner is faster however much there is to do: docs/decisions/ray.md.
        """
        if not 0 < self.gpu_share <= 1:
            raise UsageError(f"--gpu-share takes a share of a GPU above 0 and up to 1, not {self.gpu_share:g}")
        if self.name != "auto":
            return self.name == "ray"
        from vfindex.indexer.models.hardware import usable_devices

        return bool(self.address) or (needs_gpu and len(usable_devices()) > 1)


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers of one kind: how many, what of the processors and the GPUs is set aside for each, and their threads."""

    size: int
    cpus: float
    gpus: float = 0.0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Pools:
    """The workers of each kind: those that decode, that encode pictures, and that recognise speech and encode texts."""

    decode: Pool
    encode: Pool
    listen: Pool

    @classmethod
    def planned(cls, nodes: Sequence[tuple[float, float]], gpu_share: float = GPU_SHARE) -> Pools:
        """Return the pools that fill machines of so many (processor cores, GPUs), and no more.

        Every worker asks for the same share of the processors where there is no GPU, so that however Ray scatters them,
        all find a place.
        """
        gpus = sum(gpus for _, gpus in nodes)
        if gpus >= 1:
            pairs = max(1, int(gpus / (2 * gpu_share)))
            hosted = [(cpus, 2 * pairs * held / gpus) for cpus, held in nodes]  # (cores, workers with a model) of each
            host = _floored(min([_HOST_CPUS, *(cpus / 2 / n for cpus, n in hosted if n)]))
            rest = [cpus - n * host for cpus, n in hosted]
            decoders = sum(int(cpus) for cpus in rest)
            pair = Pool(pairs, host, gpu_share)
            return cls(Pool(decoders, 1.0) if decoders else Pool(1, _floored(max(rest))), pair, pair)
        slot = min([SLOT_CPUS, *(cpus for cpus, _ in nodes)])
        slots = sum(int(cpus / slot) for cpus, _ in nodes)
        share, threads = _floored(slot / 3), max(1, int(slot))
        return cls(Pool(slots, share), Pool(slots, share, threads=threads), Pool(slots, share, threads=threads))


def _floored(cpus: float) -> float:
    """Return a share of a core as Ray may count it, never more than it is."""
    return int(cpus * 1000) / 1000
