"""The units of a cluster: which worker gets which, and units of workers that died. Without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from vfindex.indexer.media.decoder import ReadEnd
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.stages import Indexed
from vfindex.indexer.runners.placement import Worker
from vfindex.indexer.runners.unit_queue import MAX_DEATHS, Seat, Task, UnitQueue
from vfindex.indexer.runners.worker import Failure, Job
from vfindex.indexer.scan.walk import Found
from vfindex.storage.errors import ClusterError, Problem, VideoError
from vfindex.storage.records import Location, UnitPlan, UnitResult, Video

DONE = Indexed(UnitResult((), ()), ReadEnd(1, 0.0, 1.0, 0, 0, ""), "")


def job(path: str = "/videos/a.mp4", length_s: float = 10.0) -> Job:
    video = Video("f", 1000, "mov", "h264", 640, 360, 0, 0.0, length_s, length_s, None, has_audio=False)
    found = Found(Location(path.encode(), 1000, 0, 0), named=False)
    return Job(Prepared(found, video, (), (), (), None, ()), UnitPlan(0), Options(Sampling(), asr=False), b"/there")


def seat(queue: UnitQueue, units: int = 2, gpus: float = 0.0) -> Seat:
    found = Seat(Worker("a", 1.0, gpus, 1, units), is_open=True)
    queue.seats.append(found)
    return found


def sent(queue: UnitQueue) -> list[tuple[Seat, Task]]:
    """Return what is sent until all have to wait."""
    pairs = []
    while (pair := queue.next()) is not None:
        pairs.append(pair)
    return pairs


def test_units_go_in_order_to_the_worker_with_most_room() -> None:
    queue = UnitQueue()
    small, large, closed = seat(queue, units=1), seat(queue, units=3), seat(queue, units=9)
    closed.is_open = False
    futures = [queue.submit(job()) for _ in range(6)]
    pairs = sent(queue)
    assert [pair[0] for pair in pairs].count(small) == 1 and len(pairs) == 4
    assert [task.future for _, task in pairs] == futures[:4]
    queue.finish(*next(pair for pair in pairs if pair[0] is large), DONE)
    assert [(pair[0], pair[1].future) for pair in sent(queue)] == [(large, futures[4])]
    assert [future.done() for future in futures].count(True) == 1


def test_a_cancelled_unit_is_never_sent() -> None:
    queue = UnitQueue()
    futures = [queue.submit(job()) for _ in range(3)]
    assert futures[1].cancel()
    seat(queue, units=5)
    assert [task.future for _, task in sent(queue)] == [futures[0], futures[2]]
    assert not futures[0].cancel()


def test_a_slow_worker_without_a_gpu_leaves_the_last_units_to_the_gpus() -> None:
    queue = UnitQueue()
    gpu, cpu = seat(queue, units=1, gpus=1.0), seat(queue, units=5)
    for _ in range(30):
        queue.submit(job())
    assert [pair[0] for pair in sent(queue)] == [gpu]  # its speed is not known yet
    gpu.speed.add(100.0, 1.0)
    cpu.speed.add(100.0, 10.0)  # 1 s for a unit: in this time the GPU does 10
    taken = 0
    while pairs := sent(queue):
        assert {pair[0] for pair in pairs} == {cpu}
        taken += len(pairs)
        cpu.tasks.clear()
    assert taken == 20  # with 10 waiting it takes one more, with 9 none


def test_a_unit_of_a_dead_worker_is_sent_again_and_before_others() -> None:
    queue = UnitQueue()
    futures = [queue.submit(job()) for _ in range(3)]
    queue.next()
    dead = seat(queue)
    sent(queue)
    queue.leave(dead)
    seat(queue, units=3)
    assert [task.future for _, task in sent(queue)] == futures


def test_only_the_unit_that_kills_its_workers_fails() -> None:
    queue = UnitQueue()
    killer, other = queue.submit(job("/videos/killer.mp4")), queue.submit(job())
    deaths = 0
    while not (killer.done() and other.done()):
        worker = seat(queue)
        pairs = sent(queue)
        if any(task.future is killer for _, task in pairs):
            deaths += 1
            queue.leave(worker)
            continue
        for pair in pairs:
            queue.finish(*pair, DONE)
    assert deaths == MAX_DEATHS
    assert other.result() is DONE
    with pytest.raises(VideoError, match="ended 3 times") as caught:
        killer.result()
    assert (caught.value.problem.path, caught.value.problem.code) == (b"/videos/killer.mp4", "worker_died")
    assert caught.value.quarantine


def test_an_exception_in_a_worker_fails_its_file() -> None:
    queue = UnitQueue()
    seat(queue, units=4)
    futures = [queue.submit(job()) for _ in range(3)]
    answers: list[Any] = [
        Failure(Problem(b"/there", "decode", "timeout", "it hangs", "check it"), quarantine=True),
        ValueError("a bug"),
        ClusterError("no library"),
    ]
    for pair, answer in zip(sent(queue), answers, strict=True):
        queue.finish(*pair, answer)
    errors = [future.exception() for future in futures]
    assert isinstance(errors[0], VideoError) and errors[0].quarantine
    assert isinstance(errors[1], VideoError) and errors[1].problem.code == "bug"
    assert "ValueError: a bug" in errors[1].problem.trace
    assert [error.problem.path for error in errors[:2] if isinstance(error, VideoError)] == [b"/videos/a.mp4"] * 2
    assert errors[2] is answers[2]


def test_a_failure_of_the_cluster_ends_all_units() -> None:
    queue = UnitQueue()
    open_seat = seat(queue, units=1)
    running, waiting = queue.submit(job()), queue.submit(job())
    (pair,) = sent(queue)
    queue.fail(ClusterError("the head is gone"))
    queue.finish(*pair, DONE)  # late
    queue.leave(open_seat)
    for future in (running, waiting, queue.submit(job())):
        with pytest.raises(ClusterError, match="the head is gone"):
            future.result(timeout=0)
