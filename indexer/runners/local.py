"""The in-process runner: worker threads, each with its own decode child, and shared recognisers.

ONNX Runtime and the children work outside Python's lock, so threads use all cores. Nothing here writes to the library.
"""

from __future__ import annotations

import os
import platform
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Self, TypeVar

from vfindex.indexer.media.decoder import Decoder, Probe
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import Indexed, ReusableUnit, index_unit
from vfindex.indexer.runners.open_models import OpenModels
from vfindex.indexer.scan.walk import Found
from vfindex.storage.machine import usable_cores
from vfindex.storage.records import UnitPlan

# Files whose headers are read while the models are opened: 25 ms each, of 2 s and more.
AHEAD_FILES = 64
T = TypeVar("T")


def default_workers() -> int:
    """Return how many units are decoded at once by default: one more than there are cores.

    A worker often waits for recognisers or the disk; the extra one keeps the cores busy.
    """
    return usable_cores() + 1


class DecoderThreads:
    """Threads, each with its own decode child. A context manager that ends the children."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="unit")
        self._decoders = [Decoder() for _ in range(workers)]
        self._free: queue.LifoQueue[Decoder] = queue.LifoQueue()  # no more children than needed
        for decoder in self._decoders:
            self._free.put(decoder)

    def start(self, children: int) -> None:
        """Start this many children, rather than each when it is needed."""
        for decoder in self._decoders[-children:]:  # the queue takes the last first
            decoder.start()

    def submit(self, work: Callable[[Decoder], T]) -> Future[T]:
        """Return the future of `work(decoder)`."""

        def run() -> T:
            decoder = self._free.get()
            try:
                return work(decoder)
            finally:
                self._free.put(decoder)

        return self._threads.submit(run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the children: at once if the run was broken off, else when their work is done."""
        if kind is not None:
            for decoder in self._decoders:
                decoder.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


class HeadersAhead:
    """The headers of a run's first files, read while its models are opened."""

    def __init__(self, threads: DecoderThreads, paths: Iterable[bytes]) -> None:
        self._threads = threads
        self._reading = {path: threads.submit(partial(_read_header, path)) for path in islice(paths, AHEAD_FILES)}

    def stop(self) -> None:
        """Read no further header."""
        for future in self._reading.values():
            future.cancel()

    def take(self, path: bytes) -> Probe | None:
        """Return the header of a file, once; None if it was not read, or the file has changed. Raises VideoError."""
        future = self._reading.pop(path, None)
        if future is None or future.cancel():
            return None
        state, header = future.result()
        return header if state == _state(path) else None


def _read_header(path: bytes, decoder: Decoder) -> tuple[tuple[int, ...], Probe]:
    return _state(path), decoder.probe(path)


def _state(path: bytes) -> tuple[int, ...]:
    """Return what changes with a file's content; nothing if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class LocalRunner:
    """Runs `prepare` and `index_unit` in threads. A context manager that ends its children; the models stay open."""

    def __init__(self, threads: DecoderThreads, models: OpenModels, headers: HeadersAhead | None = None) -> None:
        """threads: which it ends. models: which their owner closes. headers: read by the same threads."""
        self.window = threads.workers
        self._headers = headers
        if headers is not None:
            headers.stop()
        self._models = models
        self._opened_s, self._busy_before_s = time.monotonic(), self._busy_s()
        self._threads = threads

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""

        def work(decoder: Decoder) -> Prepared:
            with self._models.in_use():
                header = self._headers.take(found.location.path) if self._headers is not None else None
                return prepare(found, fingerprint, options, decoder, self._models.encoders, header)

        return self._threads.submit(work)

    def index(
        self, prepared: Prepared, plan: UnitPlan, options: Options, reusable: ReusableUnit | None = None
    ) -> Future[Indexed]:
        """Return the future of `index_unit`."""

        def work(decoder: Decoder) -> Indexed:
            with self._models.in_use():
                return index_unit(prepared, plan, options, decoder, self._models.extractors, reusable)

        return self._threads.submit(work)

    def gpu_busy(self) -> dict[str, float]:
        """Return GPU -> share of the time since the start in which it encoded images; all GPUs count as one here."""
        if self._models.images is None or not self._models.encoders.gpus:
            return {}
        name = f"{platform.node()} GPU {os.environ.get('CUDA_VISIBLE_DEVICES') or 'all'}"
        busy_s = self._busy_s() - self._busy_before_s
        return {name: busy_s / max(time.monotonic() - self._opened_s, 1e-9)}

    def _busy_s(self) -> float:
        return 0.0 if self._models.images is None else self._models.images.busy_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the children: at once if the run was broken off, else when their work is done."""
        if kind is not None:
            self._models.kill()
        self._threads.__exit__(kind)
