"""Who does the work of a run: this process alone, or Ray on one machine or many; and how its workers are shared out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from vfindex.indexer.discover import Found
from vfindex.indexer.machine import gpus
from vfindex.indexer.media import Options
from vfindex.indexer.pipeline import Indexed, Prepared
from vfindex.storage.errors import UsageError
from vfindex.storage.records import UnitPlan

RunnerName = Literal["auto", "local", "ray"]
# Processor cores that one worker of each kind share. Measured for `lite` (tests/bench/ingest.py): pictures take 40 % of
# the time, speech 40 %, decoding 17 %; two cores keep one of each busy.
SLOT_CPUS = 2.0
_DECODE_SHARE, _ENCODE_SHARE, _LISTEN_SHARE = 0.2, 0.4, 0.4
# Of one GPU: a worker that encodes pictures and one that recognises speech fit on it together.
GPU_SHARE = 0.5


class Runner(Protocol):
    """Prepares files and indexes units, where and when it likes. Futures raise VideoError for what a file does."""

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""
        ...

    def index(self, prepared: Prepared, plan: UnitPlan, options: Options) -> Future[Indexed]:
        """Return the future of one unit's result."""
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
class Workers:
    """Who is to do the work. address: of a Ray cluster. path_map: see there. gpu_share: of a GPU, for each worker."""

    runner: RunnerName = "auto"
    address: str | None = None
    path_map: PathMap = field(default_factory=PathMap)
    gpu_share: float = GPU_SHARE

    def with_ray(self) -> bool:
        """Return whether Ray does the work. Raises UsageError for contradictions.

        `auto` takes it for a cluster, and for more than one GPU, which the local runner does not use. On one machine
        without them the local runner needs fewer cycles and no start, however long the videos: docs/decisions.md.
        """
        if self.runner not in get_args(RunnerName):
            raise UsageError(f"--runner takes {', '.join(get_args(RunnerName))}, not {self.runner!r}")
        if self.runner == "local" and self.address:
            raise UsageError("--runner local does not use a cluster; leave out --ray-address, or take --runner ray")
        return self.runner == "ray" or (self.runner == "auto" and (bool(self.address) or len(gpus()) > 1))


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
    def planned(cls, cpus: float, gpus: float, gpu_share: float = GPU_SHARE) -> Pools:
        """Return the pools for so many processor cores and GPUs, which they fill, and no more."""
        if gpus >= 1:
            pairs = max(1, int(gpus / (2 * gpu_share)))
            rest = max(0.5, cpus - pairs)
            decoders = max(1, int(rest))
            return cls(
                Pool(decoders, rest / decoders if rest < decoders else 1.0),
                Pool(pairs, min(0.5, cpus / pairs / 4), gpu_share),
                Pool(pairs, min(0.5, cpus / pairs / 4), gpu_share),
            )
        slots = max(1, int(cpus // SLOT_CPUS))
        slot, threads = min(SLOT_CPUS, cpus), max(1, int(min(SLOT_CPUS, cpus)))
        return cls(
            Pool(slots, slot * _DECODE_SHARE),
            Pool(slots, slot * _ENCODE_SHARE, threads=threads),
            Pool(slots, slot * _LISTEN_SHARE, threads=threads),
        )
