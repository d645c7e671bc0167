"""One queue in front of an image model: frames of several units and videos become one batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np

from vfindex.indexer.models.base import ImageEncoder, Pixels
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

# Frames that a unit submits at once. Small, so that running units fill a batch together and none waits for its own.
STEP_FRAMES = 16

_Request = tuple[Sequence[Pixels], Future[FloatArray]]


class ImageQueue:
    """An `ImageEncoder` that batches the requests of several threads for another one, and measures its utilisation."""

    def __init__(self, encoder: ImageEncoder, lanes: int) -> None:
        """lanes: batches that the encoder computes at once."""
        self._encoder = encoder
        self.size_px, self.dim = encoder.size_px, encoder.dim
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the clock
        self._running, self._since_s, self._busy_s = 0, 0.0, 0.0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(lanes)]
        for thread in self._threads:
            thread.start()

    @property
    def batch_frames(self) -> int:
        return min(STEP_FRAMES, self._encoder.batch_frames * len(self._threads))

    @property
    def busy_s(self) -> float:
        """Return the seconds in which at least one batch was running."""
        with self._lock:
            return self._busy_s + (time.monotonic() - self._since_s if self._running else 0.0)

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return the encoder's vectors of these frames. Raises as the encoder does."""
        step, futures = self._encoder.batch_frames, []
        for start in range(0, len(frames) or 1, step):  # more than one batch is computed in several lanes
            futures.append(Future[FloatArray]())
            self._requests.put((frames[start : start + step], futures[-1]))
        return np.concatenate([future.result() for future in futures])

    def close(self) -> None:
        """End the threads after all pending requests."""
        self._requests.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            with self._busy():
                try:
                    self._encode(batch)
                except Exception as exc:  # noqa: BLE001  raised again in the units, which would wait forever
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(exc)
        self._requests.put(None)  # for the next thread

    def _next_batch(self) -> list[_Request]:
        """Return the requests of one batch, waiting only for the first; none at the end."""
        first = self._requests.get()
        if first is None:
            return []
        batch, n_frames = [first], len(first[0])
        while n_frames < self._encoder.batch_frames:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._requests.put(None)
                break
            batch.append(request)
            n_frames += len(request[0])
        return batch

    def _encode(self, batch: Sequence[_Request]) -> None:
        """Resolve the requests of one batch. If it fails, each request is encoded separately and fails by itself."""
        try:
            vectors = self._encoder.encode_images([frame for frames, _ in batch for frame in frames])
        except (ModelError, RuntimeError, ValueError, MemoryError) as exc:
            if len(batch) == 1:
                batch[0][1].set_exception(exc)
                return
            for request in batch:
                self._encode([request])
            return
        ends = np.cumsum([len(frames) for frames, _ in batch])
        for (_, future), part in zip(batch, np.split(vectors, ends[:-1]), strict=True):
            future.set_result(part)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        with self._lock:
            if not self._running:
                self._since_s = time.monotonic()
            self._running += 1
        yield
        with self._lock:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._since_s
