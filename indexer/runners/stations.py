"""The stations of a stream as workers that take and give tables, and the desk where they meet the driver. No Ray here.

A worker is made once and called with one table after another, each of one row: a job or a parcel, pickled.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from vfindex.indexer.models.factory import LibraryModels
from vfindex.indexer.runners.parcels import DecodeStation, Failure, Job, Parcel, encoded, heard, survived
from vfindex.storage.errors import Problem, VfindexError
from vfindex.storage.records import Setup

T = TypeVar("T")
log = logging.getLogger(__name__)

# A hold is given after this time whatever is under way, for a worker that died may never release what it had.
HOLD_S = 120.0
# Workers that may die over one thing, which Ray gives to the next; then it is given back to the driver, and its ladder.
MAX_TRIES = 2
_COLUMN = "parcel"


class Desk(Protocol):
    """What workers ask of the desk, from wherever they are."""

    def place(self) -> str:
        """Return what this worker's machine is called."""
        ...

    def tell_size(self, size_px: int) -> None:
        """Tell what the short side of frames must be, as the model of pictures has it."""
        ...

    def size_px(self) -> int:
        """Return what was told, once it is."""
        ...

    def refuse(self, sentence: str) -> None:
        """Say why this worker cannot work; the driver ends the run."""
        ...

    def begin(self, stage: str, unit: int, part: int) -> int:
        """Note that a worker begins with something; return how often one has."""
        ...

    def hold(self, unit: int, part: int, size_bytes: int) -> None:
        """Wait until so much more may be under way."""
        ...

    def release(self, unit: int, part: int) -> None:
        """Say that a part is no longer under way."""
        ...


class DeskBook:
    """The desk itself: units that the driver hands over, and what is under way. Its methods run in one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._size_px = 0
        self._size_told = asyncio.Event()
        self._held: dict[tuple[int, int], int] = {}  # (unit, part) -> bytes of pictures under way
        self._released = asyncio.Condition()
        self._begun: Counter[tuple[str, int, int]] = Counter()
        self._refusal = ""

    async def put(self, job: Job | None) -> None:
        await self._jobs.put(job)

    async def take(self) -> Job | None:
        return await self._jobs.get()

    async def tell_size(self, size_px: int) -> None:
        self._size_px = size_px
        self._size_told.set()

    async def size_px(self) -> int:
        await self._size_told.wait()
        return self._size_px

    async def refuse(self, sentence: str) -> None:
        self._refusal = sentence

    async def refusal(self) -> str:
        return self._refusal

    async def begin(self, stage: str, unit: int, part: int) -> int:
        self._begun[stage, unit, part] += 1
        return self._begun[stage, unit, part]

    async def hold(self, unit: int, part: int, size_bytes: int) -> None:
        def is_room() -> bool:
            others = sum(size for key, size in self._held.items() if key != (unit, part))
            return not others or others + size_bytes <= self._limit_bytes

        async with self._released:
            try:
                await asyncio.wait_for(self._released.wait_for(is_room), HOLD_S)
            except TimeoutError:
                log.debug("unit %d goes on, although more is under way than should be", unit)
            self._held[unit, part] = size_bytes

    async def release(self, unit: int, part: int | None = None) -> None:
        """Forget one part; None: all parts of a unit."""
        async with self._released:
            for key in [key for key in self._held if key[0] == unit and part in (None, key[1])]:
                del self._held[key]
            self._released.notify_all()
        if part is None:
            for begun in [begun for begun in self._begun if begun[1] == unit]:
                del self._begun[begun]


def table_of(content: Job | Parcel) -> pa.Table:
    """Return a table of one row that holds this."""
    return pa.table({_COLUMN: pa.array([pickle.dumps(content, protocol=5)], pa.large_binary())})


def payloads(table: pa.Table) -> Iterator[Any]:
    """Yield what stands in the rows, read where it lies."""
    for scalar in table[_COLUMN]:
        yield pickle.loads(scalar.as_buffer())


@dataclass(frozen=True, slots=True)
class Shared:
    """What every worker is told. cache: where its models are. parcel_bytes: pictures in a parcel."""

    desk: Desk
    setup: Setup
    cache: Path
    asr: bool
    compiled: bool
    parcel_bytes: int

    def killed(self, stage: str, unit: int, part: int) -> Parcel | None:
        """Return a failure instead of work on what workers have died of again and again; None: go on."""
        if self.desk.begin(stage, unit, part) <= MAX_TRIES:
            return None
        words = f"the worker that was to {stage} it ended {MAX_TRIES} times"
        problem = Problem(b"", "encode" if stage == "encode" else "decode", "worker_died", words, "index it again")
        return Parcel(unit, part, failure=Failure(problem, quarantine=True))

    def open(self, opening: Callable[[LibraryModels], T]) -> T | None:
        """Return what `opening` makes of the library's models; None where it fails, which is told at the desk."""
        try:
            return opening(LibraryModels(self.setup, self.cache, say=log.debug))
        except VfindexError as exc:
            self.desk.refuse(f"{self.desk.place()}: {exc}")
            return None


class DecodeWorker:
    """Units in, parcels of pictures and sound out."""

    def __init__(self, shared: Shared, threads: int) -> None:
        self._shared = shared
        self._station: DecodeStation | None = None

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        desk = self._shared.desk
        if self._station is None:
            self._station = DecodeStation(desk.size_px(), self._shared.parcel_bytes, desk.place())
        for job in payloads(table):
            if killed := self._shared.killed("decode", job.number, 0):
                yield table_of(killed)
                continue
            for parcel in self._station.parcels(job):
                desk.hold(parcel.job, parcel.part, parcel.size_bytes)
                yield table_of(parcel)


class EncodeWorker:
    """Parcels of pictures in, of vectors out."""

    def __init__(self, shared: Shared, threads: int) -> None:
        self._shared = shared
        self._encoder = shared.open(lambda models: models.image(threads, compiled=shared.compiled))
        if self._encoder is not None:
            shared.desk.tell_size(self._encoder.size_px)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in payloads(table):
            self._shared.desk.release(parcel.job, parcel.part)  # it was copied out of the object store
            killed = self._shared.killed("encode", parcel.job, parcel.part) if parcel.pictures else None
            if self._encoder is not None:
                encode = partial(encoded, encoder=self._encoder)
                yield table_of(killed or survived(parcel, "encode", encode))


class ListenWorker:
    """Parcels with sound in, with what is said out."""

    def __init__(self, shared: Shared, threads: int) -> None:
        self._shared = shared
        self._text = shared.open(lambda models: models.text(threads))
        self._speech = shared.open(lambda models: models.speech(threads)) if shared.asr else None

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in payloads(table):
            killed = self._shared.killed("listen to", parcel.job, parcel.part) if parcel.rest else None
            if self._text is not None:
                listen = partial(heard, speech=self._speech, text=self._text)
                yield table_of(killed or survived(parcel, "transcribe", listen))
