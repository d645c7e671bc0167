"""A unit's way through several processes: what travels, and the stations that it passes. Nothing here knows Ray.

Each station calls the stages of `pipeline` that are its own. Pictures travel in parcels of bounded size; the record of
the frames and the sound come with the last one; what reaches the end are vectors, words and small pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from vfindex.indexer.boundary import one_file
from vfindex.indexer.media.decoder import AudioBlock, Decoder
from vfindex.indexer.models.base import ImageEncoder, PassageEncoder, Pixels
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.stages import (
    Indexed,
    Prepared,
    Spoken,
    assemble,
    listener_of,
    say,
    sound_track,
    time_share,
)
from vfindex.indexer.pipeline.unit_reader import Reading, Wanted, decode_unit
from vfindex.indexer.scan.walk import fingerprint
from vfindex.indexer.speech.transcribe import Speech
from vfindex.storage.errors import Problem, Stage, VfindexError, VideoError
from vfindex.storage.records import FloatArray, UnitPlan


@dataclass(frozen=True, slots=True)
class Job:
    """A unit to be indexed. number: within the run. path: of its file as workers see it."""

    number: int
    prepared: Prepared
    plan: UnitPlan
    options: Options
    path: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a unit came no further. unseen: the place that does not see the file as the driver does, "" where it does."""

    problem: Problem
    quarantine: bool = False
    unseen: str = ""

    def error(self, path: bytes) -> VideoError:
        """Return the failure as the error of a file, by the path that the driver knows."""
        return VideoError(replace(self.problem, path=path), quarantine=self.quarantine)


@dataclass(frozen=True, slots=True)
class Rest:
    """What a unit has besides its pictures. sound: until it is recognised; spoken: from then on."""

    job: Job
    reading: Reading
    sound: tuple[AudioBlock, ...] = ()
    spoken: Spoken | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """One part of a unit, numbered from 0. pictures: until they are encoded; vectors: (n, dim), from then on.

    rest: with the last part. failure: instead of everything else.
    """

    job: int
    part: int
    pictures: tuple[Pixels, ...] = ()
    vectors: FloatArray | None = None
    rest: Rest | None = None
    failure: Failure | None = None

    @property
    def size_bytes(self) -> int:
        """What its pictures take."""
        return sum(picture.nbytes for picture in self.pictures)


class DecodeStation:
    """Reads units. One decode child, long-lived."""

    def __init__(self, size_px: int, parcel_bytes: int, place: str) -> None:
        """size_px: the frames' short side. parcel_bytes: pictures in one parcel. place: what this machine is called."""
        self._size_px = size_px
        self._parcel_bytes = parcel_bytes
        self._place = place
        self._decoder = Decoder()
        self._seen = ("", b"")  # the fingerprint and the path that were compared last

    def parcels(self, job: Job) -> Iterator[Parcel]:
        """Yield a unit in parcels, the last one with its rest; or a failure."""
        part = 0
        try:
            with one_file(job.path, "decode"):
                self._compare(job)
                for parcel in self._decoded(job):
                    part = parcel.part + 1
                    yield parcel
        except _Unseen as exc:
            yield Parcel(job.number, part, failure=Failure(exc.problem, unseen=self._place))
        except VideoError as exc:
            yield Parcel(job.number, part, failure=Failure(exc.problem, exc.quarantine))

    def _compare(self, job: Job) -> None:
        """Raise _Unseen if the file is not here, or is another one than the driver looked at."""
        wanted = (job.prepared.video.fingerprint, job.path)
        if self._seen == wanted:
            return
        try:
            same = fingerprint(job.path) == wanted[0]
        except VideoError as exc:
            raise _Unseen(exc.problem) from exc
        if not same:
            raise _Unseen(Problem(job.path, "open", "changed", "its content is another", "index it again"))
        self._seen = wanted

    def _decoded(self, job: Job) -> Iterator[Parcel]:
        audio, share = sound_track(job.prepared, job.options), time_share(job.prepared, job.plan)
        wanted = Wanted(job.options.sampling, self._size_px, audio, share)
        part, size_bytes = 0, 0
        pictures: list[Pixels] = []
        sound: list[AudioBlock] = []
        with closing(decode_unit(job.path, job.plan, wanted, self._decoder, may_be_empty=True)) as items:
            for item in items:
                if isinstance(item, Reading):
                    item.thumbnails.compress()
                    yield Parcel(job.number, part, tuple(pictures), rest=Rest(job, item, tuple(sound)))
                elif isinstance(item, AudioBlock):
                    sound.append(item)
                else:
                    if pictures and size_bytes + item.nbytes > self._parcel_bytes:
                        yield Parcel(job.number, part, tuple(pictures))
                        part, size_bytes, pictures = part + 1, 0, []
                    pictures.append(item)
                    size_bytes += item.nbytes


class _Unseen(VfindexError):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


def survived(parcel: Parcel, stage: Stage, work: Callable[[Parcel], Parcel]) -> Parcel:
    """Return what `work` makes of a parcel, or why it made nothing: a worker that raised would end the stream."""
    try:
        with one_file(b"", stage):
            return work(parcel)
    except VideoError as exc:
        return Parcel(parcel.job, parcel.part, failure=Failure(exc.problem, exc.quarantine))


def encoded(parcel: Parcel, encoder: ImageEncoder) -> Parcel:
    """Return a parcel with vectors in place of its pictures."""
    step = encoder.batch_frames
    batches = [parcel.pictures[at : at + step] for at in range(0, len(parcel.pictures), step)]
    vectors = [encoder.encode_images(batch) for batch in batches]
    return replace(parcel, pictures=(), vectors=np.concatenate(vectors) if vectors else None)


def heard(parcel: Parcel, speech: Speech | None, text: PassageEncoder) -> Parcel:
    """Return a parcel with what is said in place of its sound; a parcel without it as it is."""
    if parcel.rest is None:
        return parcel
    job = parcel.rest.job
    listener = listener_of(job.prepared, job.options, speech)
    if listener is not None:
        for block in parcel.rest.sound:
            listener.feed(block)
    spoken = say(job.prepared, job.plan, listener.finish() if listener else None, text)
    return replace(parcel, rest=replace(parcel.rest, sound=(), spoken=spoken))


@dataclass(slots=True)
class Arrivals:
    """The parcels of one unit that have come through, in any order, some perhaps twice."""

    job: Job
    parcels: dict[int, Parcel] = field(default_factory=dict)

    def add(self, parcel: Parcel) -> Indexed | Failure | None:
        """Take a parcel; return the unit once it is complete, or why it never will be."""
        if parcel.failure is not None:
            return parcel.failure
        self.parcels[parcel.part] = parcel
        last = next((p for p in self.parcels.values() if p.rest is not None), None)
        if last is None or last.rest is None or len(self.parcels) <= last.part:
            return None
        spoken = last.rest.spoken
        if spoken is None:
            raise ValueError("a unit has arrived unheard")
        vectors = _in_order(self.parcels)
        job = self.job
        try:
            with one_file(job.prepared.found.location.path, "encode"):
                return assemble(job.prepared, job.plan, job.options, last.rest.reading, vectors, spoken)
        except VideoError as exc:
            return Failure(exc.problem, exc.quarantine)


def _in_order(parcels: dict[int, Parcel]) -> FloatArray:
    """Return the vectors of all pictures, (n, dim), in order of time."""
    found: Sequence[FloatArray | None] = [parcels[part].vectors for part in sorted(parcels)]
    some = [vectors for vectors in found if vectors is not None]
    return np.concatenate(some) if some else np.zeros((0, 0), np.float32)
