"""Units on Ray, on this machine or a cluster: one actor per GPU or group of cores. The only importer of ray.

Each actor is a `UnitWorker`. One thread of the driver sends it the units of a `UnitQueue`, takes the results, and
replaces actors that died. Only units and their results travel.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vfindex.indexer.models.base import Texts
from vfindex.indexer.models.hardware import usable_devices
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import Indexed, ReusableUnit
from vfindex.indexer.runners.base import PathMap
from vfindex.indexer.runners.local import DecoderThreads
from vfindex.indexer.runners.placement import Machine, Wish, Worker, plan
from vfindex.indexer.runners.ray_machine import FOLDER, end_processes, knock, temporary_folder
from vfindex.indexer.runners.unit_queue import Seat, Task, UnitQueue
from vfindex.indexer.runners.worker import Job, Models, UnitWorker
from vfindex.indexer.scan.walk import Found
from vfindex.storage.errors import ClusterError, UsageError, VfindexError
from vfindex.storage.machine import memory_bytes, usable_cores
from vfindex.storage.records import UnitPlan

log = logging.getLogger(__name__)

# Shared memory of a Ray that is started for one run: buffers units and results of some MB each.
STORE_BYTES = 128 << 20
LOCALHOST = "127.0.0.1"
MAX_STARTS = 3  # consecutive starts of one worker without loading its models
TICK_S = 0.1  # maximum wait of a new unit before it is sent
WATCH_S = 2.0  # between checks of the cluster's machines
PLACED_S = 60.0  # without any open worker before a warning
# Without an answer of the head, before the run ends with a sentence. Ray ends this process after 60 s, without any
# (gcs_rpc_server_reconnect_timeout_s), and our own end takes up to 20 s. A head may be started again meanwhile.
HEAD_GONE_S = 30.0
STOP_S = 10.0  # wait for the thread, and for a worker's last answer
# Waiting units beyond the running ones if only some machines have a GPU: enough to compare speeds.
MIXED_AHEAD = 256


@contextmanager
def session(address: str | None, wish: Wish) -> Iterator[None]:
    """Join the Ray cluster at an address, or start Ray on this machine alone; leave no process or folder behind.

    Raises UsageError, before Ray starts, for resources that this machine lacks; ClusterError.
    """
    # Ray prints notes about dead workers to standard output, where results go, and has no switch for it.
    ray_itself = _started(wish) if address is None else _joined(address)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), ray_itself:
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        with _cluster_errors(f"reached at {address}"):
            knock(address)
            _init(address=address)
        yield
    finally:
        with _without_interrupts():
            ray.shutdown()


@contextmanager
def _started(wish: Wish) -> Iterator[None]:
    """Start Ray on this machine, without its dashboard server, which queries the metadata hosts of clouds.

    Ray starts it even without a dashboard, but continues without it if its port is taken.
    """
    gpus = len(usable_devices()) if wish.uses_gpu else 0
    plan([Machine("", platform.node(), usable_cores(), gpus, memory_bytes() or float("inf"))], wish)
    with _cluster_errors("started"):
        folder = temporary_folder()
    try:
        with _environment(_variables(folder)):
            with _cluster_errors("started"), socket.create_server((LOCALHOST, 0)) as taken:
                _init(
                    address="local",
                    num_cpus=usable_cores(),
                    num_gpus=gpus,
                    object_store_memory=STORE_BYTES,
                    include_dashboard=False,
                    dashboard_host=LOCALHOST,
                    dashboard_port=taken.getsockname()[1],
                )
            yield
    finally:
        with _without_interrupts():
            ray.shutdown()
            end_processes(folder)  # a worker may hang while it exits
            shutil.rmtree(folder, ignore_errors=True)


def _variables(folder: Path) -> dict[str, str]:
    """Return the environment of a local Ray. folder: for its files."""
    own = any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return {
        FOLDER: str(folder),
        "RAY_TMPDIR": str(folder),
        **({} if own else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}),  # else Ray writes one to ~/.ray/auth_token
    }


def _init(**options: Any) -> None:
    """Call `ray.init`, and restore the signal handlers that it replaces."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _cluster_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # Ray raises RuntimeError, ConnectionError, ValueError, OSError and more
        raise ClusterError(f"Ray cannot be {what} ({_first_line(exc)}); see docs/cluster.md") from exc


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, so that a second one does not interrupt the cleanup after the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _machines() -> dict[str, Machine]:
    """Return the machines of the cluster that are alive, by Ray's id."""
    found = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            cores, gpus, memory = (node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory"))
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            found[node["NodeID"]] = Machine(node["NodeID"], name, cores, gpus, memory)
    return found


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).split("\n", 1)[0][:300]


def _gone(exc: BaseException) -> ClusterError:
    return ClusterError(f"Ray's cluster is gone ({_first_line(exc)}); run the same command again")


@dataclass(slots=True, eq=False)
class _Actor:
    """A worker's process. starts: how often it was started since its models were last open."""

    seat: Seat
    handle: Any
    starts: int


class RayRunner:
    """Prepares files in threads of the driver, and indexes units on Ray. A context manager within a `session`."""

    def __init__(self, models: Models, texts: Texts, path_map: PathMap, wish: Wish) -> None:
        """Raise UsageError, before any work is sent, for resources that the machines lack."""
        cache = Path(os.fsdecode(path_map.there(os.fsencode(models.cache))))
        self._models = replace(models, cache=cache)
        self._texts = texts
        self._path_map = path_map
        self._wish = wish
        self._threads = DecoderThreads(usable_cores())
        self._queue = UnitQueue()
        self._stopping = threading.Event()
        self._machines = _machines()
        self._given_up: set[str] = set()  # nodes whose workers keep ending, or do not fit
        self._actors: list[_Actor] = []
        self._running: dict[Any, tuple[_Actor, Task]] = {}
        self._opening: dict[Any, _Actor] = {}
        self._planned = plan(list(self._machines.values()), wish)
        self._head: str = ray.get_runtime_context().gcs_address
        self._loop = threading.Thread(target=self._work, name="ray", daemon=True)

    @property
    def window(self) -> int:
        """How many units in flight keep all workers busy; grows with the cluster."""
        workers = [actor.seat.worker for actor in self._actors] or self._planned
        if self._wish.units is not None:
            return self._wish.units
        is_mixed = len({worker.gpus > 0 for worker in workers}) > 1
        return sum(worker.units for worker in workers) + (MIXED_AHEAD if is_mixed else len(workers))

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""
        return self._threads.submit(lambda decoder: prepare(found, fingerprint, options, decoder, self._texts))

    def index(
        self, prepared: Prepared, plan: UnitPlan, options: Options, reusable: ReusableUnit | None = None
    ) -> Future[Indexed]:
        """Return the future of one unit's result. It raises VideoError, ClusterError."""
        path = self._path_map.there(prepared.found.location.path)
        return self._queue.submit(Job(prepared, plan, options, path, reusable))

    def gpu_busy(self) -> dict[str, float]:
        """Return GPU -> share of the time in which it encoded images, over all its current workers."""
        busy: dict[str, float] = {}
        actors = [actor for actor in self._actors if actor.seat.worker.gpus and actor.seat.is_open]
        for ref in [actor.handle.gpu_busy.remote() for actor in actors]:
            with suppress(RayError):  # the worker has died or does not answer
                for gpu, share in ray.get(ref, timeout=STOP_S).items():
                    busy[gpu] = min(1.0, busy.get(gpu, 0.0) + share)
        return busy

    def __enter__(self) -> Self:
        for worker in self._planned:
            self._start(worker)
        self._loop.start()
        threading.Thread(target=self._watch_head, name="ray-head", daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopping.set()
        self._threads.__exit__(kind)
        self._loop.join(STOP_S)
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor.handle)

    def _watch_head(self) -> None:
        """End the run if the cluster's head does not answer: calls to Ray then wait until Ray ends this process."""
        answered = time.monotonic()
        while not self._stopping.wait(WATCH_S):
            try:
                knock(self._head)
                answered = time.monotonic()
            except OSError as exc:
                if time.monotonic() - answered > HEAD_GONE_S:
                    self._queue.fail(_gone(exc))
                    return

    # --- the thread that talks to Ray -------------------------------------------------------------------------------

    def _work(self) -> None:
        began = looked = time.monotonic()
        is_told = False
        try:
            while not self._stopping.is_set():
                if time.monotonic() - looked > WATCH_S:
                    self._look_at_machines()
                    looked = time.monotonic()
                if not is_told and looked - began > PLACED_S:
                    is_told = True
                    if not any(actor.seat.is_open for actor in self._actors):
                        log.warning("no worker is open after %.0f s; other work may have the cluster's cores", PLACED_S)
                while (pair := self._queue.next()) is not None:
                    actor = next(actor for actor in self._actors if actor.seat is pair[0])
                    self._running[actor.handle.index.remote(pair[1].job)] = actor, pair[1]
                self._collect()
        except Exception as exc:  # a cluster without its head fails in many ways
            log.debug("Ray is gone", exc_info=exc)
            self._queue.fail(_gone(exc))

    def _start(self, worker: Worker, starts: int = 1) -> None:
        """Start a worker's actor on its machine, and load its models."""
        machine = self._machines[worker.node]
        options = {
            "num_cpus": worker.cpus,
            "num_gpus": worker.gpus,
            "max_concurrency": worker.units + 1,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(worker.node, soft=False),
        }
        remote: Any = ray.remote(UnitWorker)
        handle = remote.options(**options).remote(self._models, worker.cores, worker.units, machine.name)
        actor = _Actor(Seat(worker), handle, starts)
        self._actors.append(actor)
        self._queue.seats.append(actor.seat)
        self._opening[handle.open.remote()] = actor

    def _look_at_machines(self, loss: str = "") -> None:
        """Drop the actors of machines that have left, and start some on machines that have joined.

        After a loss also on machines that had none, as `--workers` needed no more. loss: why an actor is not replaced.
        """
        before, self._machines = self._machines, _machines()
        gone = [actor for actor in self._actors if actor.seat.worker.node not in self._machines]
        for actor in gone:
            self._drop(actor, "its machine has left")
        if loss or gone or self._machines.keys() - before.keys():
            used = self._given_up.union(actor.seat.worker.node for actor in self._actors)
            for machine in self._machines.values():
                if machine.cores > 0 and machine.node not in used:
                    self._start_on(machine)
        if not self._actors and self._given_up:
            self._queue.fail(ClusterError(f"Ray's workers keep ending ({loss}); take --runner local"))
        elif not self._actors:
            self._queue.fail(ClusterError("all machines of the Ray cluster have left; run the same command again"))

    def _start_on(self, machine: Machine) -> None:
        """Start the workers of a machine; one that they do not fit on is given up."""
        try:
            for worker in plan([machine], replace(self._wish, units=None)):
                self._start(worker)
        except UsageError as exc:
            self._given_up.add(machine.node)
            log.warning("%s is not used: %s", machine.name, exc)

    def _collect(self) -> None:
        """Take one answer, or wait TICK_S for it."""
        refs = [*self._running, *self._opening]
        if not refs:
            self._stopping.wait(TICK_S)
            return
        for ref in ray.wait(refs, timeout=TICK_S)[0]:
            actor, task = self._running.get(ref) or (self._opening[ref], None)
            try:
                answer = ray.get(ref)
            except RayTaskError as exc:
                answer = exc.cause
            except RayError as exc:
                self._lose(actor, _first_line(exc))
                return
            if task is not None:
                del self._running[ref]
                self._queue.finish(actor.seat, task, answer)
                continue
            del self._opening[ref]
            if answer:
                self._queue.fail(answer if isinstance(answer, VfindexError) else ClusterError(str(answer)))
            else:
                actor.seat.is_open, actor.starts = True, 0

    def _lose(self, actor: _Actor, reason: str) -> None:
        """Drop an actor, and replace it unless it repeatedly dies while loading its models.

        reason: in words, never empty.
        """
        self._drop(actor, reason)
        worker = actor.seat.worker
        if actor.starts >= MAX_STARTS:
            self._given_up.add(worker.node)
        elif worker.node in _machines():
            self._start(worker, actor.starts + 1)
            return
        self._look_at_machines(reason)

    def _drop(self, actor: _Actor, reason: str) -> None:
        """Give an actor's units to others."""
        log.debug("a worker has ended: %s", reason)
        self._actors.remove(actor)
        self._running = {ref: pair for ref, pair in self._running.items() if pair[0] is not actor}
        self._opening = {ref: other for ref, other in self._opening.items() if other is not actor}
        with suppress(RayError):
            ray.kill(actor.handle)
        self._queue.leave(actor.seat)
