"""Units on Ray Data's streaming execution, on this machine or on a cluster. The only importer of ray.

One endless data set: a source that gives units as the driver hands them over, a pool that decodes, a pool that encodes
pictures, a pool that recognises speech and encodes texts. What has come through all of them is assembled here. The
pictures under way are bounded by holds at a desk: an endless source leaves Ray Data nothing to derive its bounds from.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
import ray.data
import ray.util
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vfindex.indexer.models.base import Texts
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.reuse import ReusableUnit
from vfindex.indexer.pipeline.stages import Indexed, Prepared, prepare
from vfindex.indexer.runners.base import Pool, Pools, RunnerChoice
from vfindex.indexer.runners.dispatch import Dispatch
from vfindex.indexer.runners.local import DecoderThreads
from vfindex.indexer.runners.parcels import Parcel
from vfindex.indexer.runners.ray_machine import FOLDER, end_processes, knock, temporary_folder, without_stderr
from vfindex.indexer.runners.stations import (
    DecodeWorker,
    DeskBook,
    EncodeWorker,
    ListenWorker,
    Shared,
    payloads,
    table_of,
)
from vfindex.indexer.scan.walk import Found
from vfindex.storage.errors import ClusterError, VfindexError
from vfindex.storage.records import Setup, UnitPlan

log = logging.getLogger(__name__)

# Of a Ray that is started for one run. It holds the pictures under way, and what Ray sends besides.
STORE_BYTES = 512 << 20
# Pictures in one parcel: what Ray Data takes for the best size of a block, or a share of the smallest object store.
MAX_PARCEL_BYTES, PARCEL_SHARE = 128 << 20, 1 / 16
# Parcels under way for each worker that encodes: one in work, one ready, one being filled.
PARCELS_AHEAD = 3
STORE_SHARE = 0.5  # of all object stores, for pictures at most; sound, records and copies in work take the rest
# Units in flight for each worker of the largest pool: read, encoded and heard at once, and one that waits.
UNITS_AHEAD = 3
# How often it is looked whether a machine has left, or a worker could not open its models.
WATCH_S = 2.0
MAX_CALLERS = 10_000  # that may wait at the desk at once
STOP_S = 30.0  # for an orderly end of the stream; then it is broken off
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS": "1"}


class Session:
    """Ray, started for one run on this machine, or joined at an address. A context manager that leaves nothing."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._folder: Path | None = None
        self._muted = ExitStack()

    def __enter__(self) -> Self:
        # Ray prints what it notes of dead workers to standard output, where results go.
        self._muted.enter_context(redirect_stdout(self._muted.enter_context(open(os.devnull, "w"))))
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what is wrong, its exceptions say too
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            with without_stderr():
                if self._address:
                    knock(self._address)
                    ray.init(address=self._address, **quiet)
                else:
                    self._folder = temporary_folder()
                    _keep_token_in_memory()
                    limits: dict[str, Any] = {"num_cpus": usable_cores(), "object_store_memory": STORE_BYTES}
                    with _without_dashboard():
                        ray.init(
                            address="local", include_dashboard=False, _temp_dir=str(self._folder), **limits, **quiet
                        )
        except Exception as exc:  # Ray raises RuntimeError, ConnectionError, ValueError, OSError and more
            self._leave()
            where = f"reached at {self._address}" if self._address else "started"
            raise ClusterError(f"Ray cannot be {where} ({_first_line(exc)}); see docs/cluster.md") from exc
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray takes SIGTERM for itself
                signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        ray.shutdown()
        self._muted.close()
        if self._folder is not None:
            end_processes(self._folder)  # a worker may hang in its own end
            del os.environ[FOLDER]
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _without_dashboard() -> Iterator[None]:
    """Let ray.init start no dashboard process.

    include_dashboard=False leaves one that asks clouds' metadata hosts where it runs, even where usage reports are off.
    Ray has no switch for it, but goes on without where it cannot be started: so this stands for such a failure.
    """
    services = ray._private.services
    start = services.start_api_server
    services.start_api_server = lambda *_, **__: (None, None)
    try:
        yield
    finally:
        services.start_api_server = start


def _keep_token_in_memory() -> None:
    """Give the Ray of this process a secret, unless the user did: else Ray writes one to ~/.ray/auth_token."""
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).split("\n", 1)[0][:300]


class _Desk:
    """The way to the desk from the driver and from any worker."""

    def __init__(self, book: Any) -> None:
        self.book = book

    def place(self) -> str:
        return f"{platform.node()} ({ray.util.get_node_ip_address()})"  # type: ignore[no-untyped-call]

    def tell_size(self, size_px: int) -> None:
        self.book.tell_size.remote(size_px)

    def size_px(self) -> int:
        return int(ray.get(self.book.size_px.remote()))

    def refuse(self, sentence: str) -> None:
        self.book.refuse.remote(sentence)

    def hold(self, unit: int, part: int, size_bytes: int) -> None:
        ray.get(self.book.hold.remote(unit, part, size_bytes))

    def begin(self, stage: str, unit: int, part: int) -> int:
        return int(ray.get(self.book.begin.remote(stage, unit, part)))

    def release(self, unit: int, part: int | None = None) -> None:
        self.book.release.remote(unit, part)


class _Source:
    """Gives the units that the driver lays on the desk, until it says that there are no more."""

    def __init__(self, desk: _Desk) -> None:
        self._book = desk.book

    def __call__(self, _: Any) -> Iterator[Any]:
        if ray.get(self._book.begin.remote("source", 0, 0)) > 1:
            raise RuntimeError("the source of units has died")  # what it has given it cannot give again
        while (job := ray.get(self._book.take.remote())) is not None:
            yield table_of(job)


class _Breaker:
    """Breaks the stream off between two steps of Ray Data's loop, where that is asked for; an `ExecutionCallback`.

    Ray Data would wait for workers of a machine that has left, and that find no place on those that stay, for good. One
    a process, as Ray itself is.
    """

    asked = threading.Event()

    def before_execution_starts(self, executor: object) -> None:
        self.asked.clear()

    def on_execution_step(self, executor: object) -> None:
        if self.asked.is_set():
            raise RuntimeError("a machine has left, or the run was broken off")

    def after_execution_succeeds(self, executor: object) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a run. cache: where they lie, on workers by way of the path map. compiled, asr: see Opening."""

    setup: Setup
    cache: Path
    asr: bool
    compiled: bool = False


class RayRunner:
    """Prepares files in threads, and indexes units on Ray. A context manager within a `Session`."""

    def __init__(self, models: Models, texts: Texts, choice: RunnerChoice) -> None:
        self._models = models
        self._texts = texts
        self._choice = choice
        self._threads = DecoderThreads(usable_cores())
        self._dispatch = Dispatch()
        self._stream: threading.Thread | None = None
        self._stopping = threading.Event()
        self._machines = _machines()
        self._pools = self._planned()
        self._desk = self._new_desk()

    @property
    def window(self) -> int:
        """How many units in flight keep all workers busy."""
        return UNITS_AHEAD * max(self._pools.encode.size, self._pools.decode.size)

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""
        return self._threads.submit(lambda decoder: prepare(found, fingerprint, options, decoder, self._texts))

    def index(
        self, prepared: Prepared, plan: UnitPlan, options: Options, reusable: ReusableUnit | None = None
    ) -> Future[Indexed]:
        """Return the future of one unit's result. It raises VideoError, ClusterError."""
        if reusable is not None:
            raise ClusterError("Ray's workers compute whole units; take --runner local to reuse what is stored")
        path = self._choice.path_map.there(prepared.found.location.path)
        future = self._dispatch.submit(prepared, plan, options, path)
        self._send()
        return future

    def __enter__(self) -> Self:
        self._stream = threading.Thread(target=self._work, name="ray-stream", daemon=True)
        self._stream.start()
        threading.Thread(target=self._watch, name="ray-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._threads.__exit__(kind, error, trace)
        if kind is None:
            self._desk.book.put.remote(None)
            self._join(STOP_S)
        self._break_off()
        self._join(STOP_S)

    def _break_off(self) -> None:
        """End the stream at once, and whatever waits at its desk."""
        _Breaker.asked.set()
        ray.kill(self._desk.book)

    def _join(self, seconds: float) -> None:
        if self._stream is not None:
            self._stream.join(seconds)

    # --- the stream ---------------------------------------------------------------------------------------------

    def _planned(self) -> Pools:
        nodes = [(machine.cpus, machine.gpus) for machine in self._machines]
        return Pools.planned(nodes, self._choice.gpu_share)

    def _parcel_bytes(self) -> int:
        smallest = min(machine.store_bytes for machine in self._machines)
        return int(min(MAX_PARCEL_BYTES, smallest * PARCEL_SHARE))

    def _new_desk(self) -> _Desk:
        stores_bytes = sum(machine.store_bytes for machine in self._machines)
        limit_bytes = min(PARCELS_AHEAD * self._pools.encode.size * self._parcel_bytes(), stores_bytes * STORE_SHARE)
        actor: Any = ray.remote(DeskBook)
        where = {"num_cpus": 0, "max_concurrency": MAX_CALLERS, "scheduling_strategy": _here()}
        return _Desk(actor.options(**where).remote(int(limit_bytes)))

    def _send(self) -> None:
        for job in self._dispatch.ready():
            self._desk.book.put.remote(job)

    def _work(self) -> None:
        """Run the stream until the driver ends it; make it anew where it breaks."""
        while True:
            try:
                for parcel in self._parcels():
                    unit = self._dispatch.arrived(parcel)
                    if unit is not None:
                        self._desk.release(unit)
                        self._send()
                return
            except Exception as exc:  # Ray Data raises what it likes; the units are tried again or fail
                if self._stopping.is_set():
                    return
                log.debug("the stream broke", exc_info=exc)
                self._renew(_first_line(exc))

    def _renew(self, reason: str) -> None:
        """Plan the pools for the machines that are left, and send again what was under way."""
        try:
            self._machines = _machines()
            self._pools = self._planned()
            self._desk = self._new_desk()
            self._dispatch.broke(reason)
            self._send()
        except VfindexError as exc:
            self._dispatch.fail(exc)
        except Exception as exc:  # without its head node a cluster answers nothing, in many ways
            log.debug("Ray is gone", exc_info=exc)
            self._dispatch.fail(ClusterError(f"Ray's cluster is gone ({_first_line(exc)}); run the same command again"))

    def _parcels(self) -> Iterator[Parcel]:
        """Yield what comes through."""
        _configure()
        models, pools = self._models, self._pools
        cache = Path(os.fsdecode(self._choice.path_map.there(os.fsencode(models.cache))))
        shared = Shared(self._desk, models.setup, cache, models.asr, models.compiled, self._parcel_bytes())
        stream = ray.data.from_items([0], override_num_blocks=1).map_batches(
            _Source,
            fn_constructor_args=(self._desk,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,
        )
        stages = ((DecodeWorker, pools.decode), (EncodeWorker, pools.encode), (ListenWorker, pools.listen))
        for worker, pool in stages:
            stream = _mapped(stream, worker, pool, shared)
        for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from payloads(batch)

    def _watch(self) -> None:
        """Break the stream off where a machine has left, and end the run where a worker cannot open its models."""
        while not self._stopping.wait(WATCH_S):
            try:
                refusal = ray.get(self._desk.book.refusal.remote())
                left = {machine.name for machine in self._machines} - {machine.name for machine in _machines()}
            except Exception as exc:  # the stream meets the same trouble, and deals with it
                log.debug("nothing to be learnt of the cluster", exc_info=exc)
                continue
            if refusal:
                self._dispatch.fail(ClusterError(refusal))
            elif left:
                self._break_off()


def _mapped(stream: ray.data.Dataset, worker: type, pool: Pool, shared: Shared) -> ray.data.Dataset:
    return stream.map_batches(
        worker,
        fn_constructor_args=(shared, pool.threads),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=pool.size),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )


def _configure() -> None:
    """Let Ray Data give every parcel on at once, wait as long as it takes, and say nothing."""
    wanted = {
        "target_max_block_size": 1,  # a block is full with its first row
        "target_min_block_size": 0,
        "op_resource_reservation_enabled": False,  # the desk bounds what is under way
        "execution_no_progress_timeout_s": -1,
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "custom_execution_callback_classes": [_Breaker],
    }
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"ray\.data\.")  # of pools larger than what is to do
    context = ray.data.DataContext.get_current()
    for name, value in wanted.items():
        if hasattr(context, name):
            setattr(context, name, value)


def _here() -> NodeAffinitySchedulingStrategy:
    """Return what keeps a task on the driver's machine: if that goes, all goes."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@dataclass(frozen=True, slots=True)
class _Machine:
    """A machine of the cluster that may do work."""

    name: str
    cpus: float
    gpus: float
    store_bytes: float


def _machines() -> list[_Machine]:
    """Return the machines that are there. Raises ClusterError where none has a processor to give."""
    found = [
        _Machine(node["NodeID"], *(node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "object_store_memory")))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    able = [machine for machine in found if machine.cpus > 0]
    if not able:
        raise ClusterError("no machine of the Ray cluster has a processor to give; start one with --num-cpus")
    return able
