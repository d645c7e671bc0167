"""A unit in parcels is the unit of one process; what workers die of, and what breaks the way, is told or sent again."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.models.base import Encoders, Pixels
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.stages import Prepared, index_unit, prepare
from vfindex.indexer.runners import parcels
from vfindex.indexer.runners.dispatch import MAX_BREAKS, Dispatch
from vfindex.indexer.runners.parcels import DecodeStation, Failure, Job, Parcel, encoded, heard, survived
from vfindex.indexer.runners.stations import MAX_TRIES, DeskBook, Shared, payloads, table_of
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.storage.errors import ClusterError, Problem, VideoError
from vfindex.storage.records import FloatArray, UnitPlan

OPTIONS = Options(Sampling("fps", 2.0), asr=False)


class Colours:
    """A picture's unit vector: its mean colour."""

    size_px, dim, batch_frames = 64, 3, 2

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        means = np.stack([frame.mean(axis=(0, 1)) + 1 for frame in frames])
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


class Lengths:
    """A text's unit vector: one of two, by its length."""

    dim = 2

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.eye(2, dtype=np.float32)[[len(text) % 2 for text in texts]]


ENCODERS = Encoders(Colours(), Lengths())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, decoder: Decoder) -> Prepared:
    path = tmp_path_factory.mktemp("videos") / "red door.mp4"
    make_video(path, shots=[Shot("red", 3), Shot("green", 3, to="white"), Shot("blue", 3, to="black")])
    path.with_suffix(".srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nThis is the red door.\n")
    (found,) = discover([os.fsencode(path)])
    assert isinstance(found, Found)
    return prepare(found, fingerprint(found.location.path), OPTIONS, decoder, ENCODERS)


def through(job: Job, parcel_bytes: int) -> list[Parcel]:
    """Return a unit's parcels as they come through all stations, each step by way of a table."""
    station = DecodeStation(Colours.size_px, parcel_bytes, "here")
    found = []
    for parcel in station.parcels(job):
        (arrived,) = payloads(table_of(parcel))
        found.append(arrived if arrived.failure else heard(encoded(arrived, ENCODERS.image), None, ENCODERS.text))
    return found


@pytest.mark.parametrize("parcel_bytes", [1, 40_000, 1 << 30])
def test_parcels_make_the_unit_of_one_process(prepared: Prepared, decoder: Decoder, parcel_bytes: int) -> None:
    (plan,) = prepared.units
    whole = index_unit(prepared, plan, OPTIONS, decoder, ENCODERS)
    dispatch = Dispatch()
    future = dispatch.submit(prepared, plan, OPTIONS, prepared.found.location.path)
    (job,) = dispatch.ready()
    sent = through(job, parcel_bytes)
    assert (len(sent) == 1) == (parcel_bytes == 1 << 30)
    for parcel in [*sent[1:2], *reversed(sent)]:  # out of order, and one of them twice
        assert not future.done()
        dispatch.arrived(parcel)
    assert dispatch.arrived(sent[0]) == job.number  # late
    unit = future.result()
    assert (unit.end, unit.lost, unit.result.coverage) == (whole.end, whole.lost, whole.result.coverage)
    assert unit.result.segments == whole.result.segments
    for clip, other in zip(unit.result.clips, whole.result.clips, strict=True):
        assert (clip.start_s, clip.end_s, clip.thumbnail) == (other.start_s, other.end_s, other.thumbnail)
        assert clip.frame_vectors.tolist() == other.frame_vectors.tolist()
        assert {m: v.tolist() for m, v in clip.embeddings.items()} == {
            m: v.tolist() for m, v in other.embeddings.items()
        }
    assert len(whole.result.clips) > 1


def job_of(prepared: Prepared, path: bytes) -> tuple[Dispatch, Any, Job]:
    dispatch = Dispatch()
    future = dispatch.submit(prepared, UnitPlan(0), OPTIONS, path)
    (job,) = dispatch.ready()
    return dispatch, future, job


def test_a_file_that_only_a_worker_does_not_see_says_something_about_the_worker(
    prepared: Prepared, tmp_path: Path
) -> None:
    dispatch, future, job = job_of(prepared, os.fsencode(tmp_path / "red door.mp4"))
    (parcel,) = through(job, 1 << 30)
    dispatch.arrived(parcel)
    with pytest.raises(ClusterError, match=r"^here does not see .*red door\.mp4 as this machine does .*--path-map"):
        future.result()


def test_a_file_that_has_changed_says_something_about_itself(prepared: Prepared, tmp_path: Path) -> None:
    other = replace(prepared, video=replace(prepared.video, fingerprint="another"))
    dispatch, future, job = job_of(other, prepared.found.location.path)
    (parcel,) = through(job, 1 << 30)
    dispatch.arrived(parcel)
    with pytest.raises(VideoError, match="changed while it was indexed"):
        future.result()


def test_a_failure_names_the_file_as_the_driver_knows_it(prepared: Prepared) -> None:
    dispatch, future, job = job_of(prepared, b"/there/red door.mp4")
    failure = Failure(Problem(job.path, "decode", "timeout", "it hangs", "check it"), quarantine=True)
    dispatch.arrived(Parcel(job.number, 0, failure=failure))
    with pytest.raises(VideoError) as caught:
        future.result()
    assert caught.value.problem.path == prepared.found.location.path
    assert caught.value.quarantine


def test_what_was_lost_is_sent_again_but_not_for_ever(prepared: Prepared) -> None:
    dispatch, future, job = job_of(prepared, prepared.found.location.path)
    last = through(job, 1 << 30)[-1]
    dispatch.broke("a machine has left")
    assert [again.number for again in dispatch.ready()] == [job.number]
    dispatch.arrived(last)
    assert future.result().result.clips
    future = dispatch.submit(prepared, UnitPlan(0), OPTIONS, job.path)
    for _ in range(MAX_BREAKS + 1):
        assert not future.done()
        dispatch.broke("the head is gone")
    with pytest.raises(ClusterError, match="the head is gone"):
        future.result()
    with pytest.raises(ClusterError):
        dispatch.submit(prepared, UnitPlan(0), OPTIONS, job.path).result()


class DirectDesk:
    """A desk in this process."""

    def __init__(self) -> None:
        self.book = DeskBook(100)

    def place(self) -> str:
        return "here"

    def begin(self, stage: str, unit: int, part: int) -> int:
        return asyncio.run(self.book.begin(stage, unit, part))


def test_a_unit_that_kills_its_workers_fails_and_no_other() -> None:
    desk: Any = DirectDesk()
    setup: Any = None
    shared = Shared(desk, setup, Path(), asr=False, compiled=False, parcel_bytes=1)
    assert [shared.killed("decode", 1, 0) for _ in range(MAX_TRIES)] == [None] * MAX_TRIES
    assert shared.killed("decode", 2, 0) is None
    parcel = shared.killed("decode", 1, 0)
    assert parcel is not None and parcel.failure is not None
    assert parcel.failure.quarantine
    assert parcel.failure.problem.code == "worker_died"
    assert pickle.loads(pickle.dumps(parcel)) == parcel


def test_a_worker_that_raises_gives_its_unit_back(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch, future, job = job_of(prepared, prepared.found.location.path)

    def broken(*_: object) -> Parcel:
        raise ValueError("a bug")

    parcel = survived(Parcel(job.number, 0), "encode", broken)
    (arrived,) = payloads(table_of(parcel))
    assert heard(encoded(arrived, ENCODERS.image), None, ENCODERS.text).failure == arrived.failure
    assert dispatch.arrived(arrived) == job.number
    with pytest.raises(VideoError) as caught:
        future.result()
    problem = caught.value.problem
    assert (problem.path, problem.code) == (
        prepared.found.location.path,
        "bug",
    ) and "ValueError: a bug" in problem.trace

    monkeypatch.setattr(parcels, "assemble", broken)  # of the driver's own work on what has come through
    dispatch, future, job = job_of(prepared, prepared.found.location.path)
    for parcel in through(job, 1 << 30):
        dispatch.arrived(parcel)
    assert "ValueError: a bug" in future.exception().problem.trace


def test_what_is_under_way_is_bounded() -> None:
    async def scenario() -> list[str]:
        book = DeskBook(100)
        told: list[str] = []

        async def hold(unit: int, size_bytes: int) -> None:
            await book.hold(unit, 0, size_bytes)
            told.append(f"hold {unit}")

        await hold(1, 400)  # more than the bound, but alone
        waiting = [asyncio.create_task(hold(2, 60)), asyncio.create_task(hold(3, 60))]
        await asyncio.sleep(0.01)
        for unit in (1, 2):
            told.append(f"release {unit}")
            await book.release(unit, None if unit == 1 else 0)
            await asyncio.sleep(0.01)
        await asyncio.gather(*waiting)
        return told

    assert asyncio.run(scenario()) == ["hold 1", "release 1", "hold 2", "release 2", "hold 3"]
