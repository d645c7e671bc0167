"""The waiting and running units of a run on a cluster. Independent of Ray."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from vfindex.indexer.boundary import one_file
from vfindex.indexer.pipeline.stages import Indexed
from vfindex.indexer.runners.placement import Speed, Worker, is_sooner_on_cpu
from vfindex.indexer.runners.worker import Failure, Job
from vfindex.storage.errors import Problem, VfindexError, VideoError

# A unit fails after this many deaths of its workers. Its last attempt runs alone in a worker, so only its own fault
# counts.
MAX_DEATHS = 3


@dataclass(slots=True, eq=False)
class Task:
    """A unit with its future. deaths: of workers that had it. sent_s: when it was last sent, None: never."""

    job: Job
    future: Future[Indexed] = field(default_factory=Future)
    deaths: int = 0
    sent_s: float | None = None

    @property
    def runs_alone(self) -> bool:
        return self.deaths >= MAX_DEATHS - 1


@dataclass(slots=True, eq=False)
class Seat:
    """A worker's entry in the queue: its units and its speed. It gets units while it is open."""

    worker: Worker
    is_open: bool = False
    tasks: list[Task] = field(default_factory=list)
    speed: Speed = field(default_factory=Speed)

    @property
    def free(self) -> int:
        """Return the number of units that it can take."""
        if not self.is_open or any(task.runs_alone for task in self.tasks):
            return 0
        return self.worker.units - len(self.tasks)


class UnitQueue:
    """Hands waiting units to seats, in order, and resolves their futures. Any thread may call `submit` and `fail`."""

    def __init__(self) -> None:
        self.seats: list[Seat] = []
        self._waiting: deque[Task] = deque()
        self._closed: VfindexError | None = None
        self._lock = threading.Lock()  # each public method holds it

    def submit(self, job: Job) -> Future[Indexed]:
        """Return the future of a unit; it can be cancelled until a worker has it."""
        task = Task(job)
        with self._lock:
            if self._closed is None:
                self._waiting.append(task)
                return task.future
        task.future.set_exception(self._closed)
        return task.future

    def next(self) -> tuple[Seat, Task] | None:
        """Return the next unit to send and its seat; None if there is no unit or no free seat for it.

        Prefers seats with a GPU, then the seat with most room.
        """
        with self._lock:
            while self._waiting and any(seat.free for seat in self.seats):
                task = self._waiting.popleft()
                seat = self._seat_for(task)
                if seat is None:
                    self._waiting.appendleft(task)
                    return None
                if task.sent_s is not None or task.future.set_running_or_notify_cancel():
                    task.sent_s = time.monotonic()
                    seat.tasks.append(task)
                    return seat, task
            return None

    def _seat_for(self, task: Task) -> Seat | None:
        gpus = [(seat.speed, seat.worker.units) for seat in self.seats if seat.worker.gpus and seat.is_open]
        waiting_s = task.job.length_s + sum(other.job.length_s for other in self._waiting)
        able = [
            seat
            for seat in self.seats
            if seat.free
            and not (task.runs_alone and seat.tasks)
            and (seat.worker.gpus or is_sooner_on_cpu(task.job.length_s, seat.speed, gpus, waiting_s))
        ]
        return max(able, key=lambda seat: (seat.worker.gpus > 0, seat.free / seat.worker.units), default=None)

    def finish(self, seat: Seat, task: Task, answer: object) -> None:
        """Resolve a unit's future. answer: Indexed, Failure, or an exception that the worker raised."""
        with self._lock:
            if task not in seat.tasks:
                return  # all have failed in the meantime
            seat.tasks.remove(task)
            if isinstance(answer, Indexed):
                seat.speed.add(task.job.length_s, time.monotonic() - (task.sent_s or 0.0))
                task.future.set_result(answer)
            elif isinstance(answer, Failure):
                task.future.set_exception(answer.error(task.job))
            else:
                try:
                    with one_file(task.job.prepared.found.location.path, "decode"):
                        raise answer if isinstance(answer, Exception) else TypeError(f"a worker answered {answer!r}")
                except VfindexError as exc:
                    task.future.set_exception(exc)

    def leave(self, seat: Seat) -> None:
        """Remove the seat of a worker that died. Its units go first to others; one with MAX_DEATHS deaths fails."""
        with self._lock:
            self.seats.remove(seat)
            for task in reversed(seat.tasks):
                task.deaths += 1
                if task.deaths < MAX_DEATHS:
                    self._waiting.appendleft(task)
                    continue
                path, words = task.job.prepared.found.location.path, f"the worker that had it ended {MAX_DEATHS} times"
                problem = Problem(path, "decode", "worker_died", words, "index it again")
                task.future.set_exception(VideoError(problem, quarantine=True))

    def fail(self, error: VfindexError) -> None:
        """End every unit, now and later, with this error."""
        with self._lock:
            self._closed = error
            lost = [*self._waiting, *(task for seat in self.seats for task in seat.tasks)]
            self._waiting.clear()
            for seat in self.seats:
                seat.tasks.clear()
            for task in lost:
                if task.sent_s is not None or task.future.set_running_or_notify_cancel():
                    task.future.set_exception(error)
