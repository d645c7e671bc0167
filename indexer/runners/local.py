"""The in-process runner: worker threads, each with its own decode child, and shared recognisers.

ONNX Runtime and the children work outside Python's lock, so threads use all cores. Nothing here writes to the library.
"""

from __future__ import annotations

import os
import platform
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import Indexed, ReusableUnit, index_unit
from vfindex.indexer.runners.open_models import OpenModels
from vfindex.indexer.scan.walk import Found
from vfindex.storage.machine import usable_cores
from vfindex.storage.records import UnitPlan

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


class LocalRunner:
    """Runs `prepare` and `index_unit` in threads. A context manager that ends its children; the models stay open."""

    def __init__(self, threads: DecoderThreads, models: OpenModels) -> None:
        """threads: which it ends. models: which their owner closes."""
        self.window = threads.workers
        self._models = models
        self._opened_s, self._busy_before_s = time.monotonic(), self._busy_s()
        self._threads = threads

    def prepare(self, found: Found, fingerprint: str, options: Options) -> Future[Prepared]:
        """Return the future of `pipeline.prepare`."""

        def work(decoder: Decoder) -> Prepared:
            with self._models.in_use():
                return prepare(found, fingerprint, options, decoder, self._models.encoders)

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
