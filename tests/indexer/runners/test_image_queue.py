"""Frames of several units in one batch: each gets its own vectors, and failures stay separate. Without a GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from vfindex.indexer.models.base import Pixels
from vfindex.indexer.runners.image_queue import STEP_FRAMES, ImageQueue
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

BAD = 99


class Slow:
    """A picture's vector: its first value. Waits with the first batch until it is released; refuses frames of BAD."""

    size_px, dim, batch_frames = 8, 1, 64

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.release = threading.Event()

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        self.sizes.append(len(frames))
        assert self.release.wait(60)
        if any(frame[0, 0, 0] == BAD for frame in frames):
            raise ModelError("a bad frame")
        return np.array([[frame[0, 0, 0]] for frame in frames], dtype=np.float32)


def frames(value: int, count: int) -> list[Pixels]:
    return [np.full((8, 8, 3), value, dtype=np.uint8)] * count


def test_units_share_batches_and_get_their_own_vectors() -> None:
    encoder = Slow()
    queue = ImageQueue(encoder, lanes=2)
    assert (queue.size_px, queue.dim, queue.batch_frames) == (8, 1, STEP_FRAMES)
    with ThreadPoolExecutor(10) as units:
        first = []
        for value in (50, 51):  # one batch each, so that both threads of the queue are busy
            first.append(units.submit(queue.encode_images, frames(value, 1)))
            while len(encoder.sizes) < len(first):
                time.sleep(0.01)
        later = [units.submit(queue.encode_images, frames(value, 1 + value % 3)) for value in range(8)]
        while queue._requests.qsize() < 8:
            time.sleep(0.01)
        encoder.release.set()
        assert [future.result().tolist() for future in first] == [[[50]], [[51]]]
        for value, future in enumerate(later):
            assert future.result().tolist() == [[value]] * (1 + value % 3)
    assert encoder.sizes[:2] == [1, 1] and len(encoder.sizes) <= 4, "what waits together is encoded together"
    queue.close()
    assert queue.busy_s > 0


def test_a_unit_alone_keeps_both_lanes_busy() -> None:
    encoder = Slow()
    encoder.batch_frames = 4
    queue = ImageQueue(encoder, lanes=2)
    assert queue.batch_frames == 8
    with ThreadPoolExecutor(1) as unit:
        vectors = unit.submit(queue.encode_images, frames(1, 4) + frames(2, 3))
        while len(encoder.sizes) < 2:  # both before either is released
            time.sleep(0.01)
        encoder.release.set()
        assert vectors.result().tolist() == [[1]] * 4 + [[2]] * 3
    assert sorted(encoder.sizes) == [3, 4]
    queue.close()


def test_a_bug_of_the_encoder_is_raised_in_the_unit_and_the_queue_goes_on() -> None:
    class Broken(Slow):
        def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
            if frames[0][0, 0, 0] == BAD:
                raise TypeError("a bug")
            return super().encode_images(frames)

    encoder = Broken()
    encoder.release.set()
    queue = ImageQueue(encoder, lanes=2)
    for _ in range(3):  # more than the queue has threads
        with pytest.raises(TypeError, match="a bug"):
            queue.encode_images(frames(BAD, 1))
    assert queue.encode_images(frames(7, 1)).tolist() == [[7]]
    queue.close()


def test_a_frame_that_fails_fails_its_own_unit() -> None:
    encoder = Slow()
    encoder.release.set()
    queue = ImageQueue(encoder, lanes=2)
    requests = [(frames(value, 2), Future[FloatArray]()) for value in (1, BAD, 2)]
    queue._encode(requests)
    assert requests[0][1].result().tolist() == [[1], [1]]
    assert requests[2][1].result().tolist() == [[2], [2]]
    with pytest.raises(ModelError, match="a bad frame"):
        requests[1][1].result()
    queue.close()
