"""Image embeddings by the image tower of an open_clip model, on GPUs or the CPU.

Nothing here uses the network.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from vfindex.indexer.models.base import LANES_PER_GPU, Pixels
from vfindex.indexer.models.image.tower import ImageTower, is_out_of_memory, load_tower
from vfindex.indexer.models.image.vit import ClipVit, can_pack
from vfindex.storage.errors import ModelError, UsageError
from vfindex.storage.records import FloatArray

NumberFormat = Literal["auto", "float32", "bfloat16"]

# Of a CPU, in each of its lanes. ViT-B-32 in one thread reaches 0.67 of the speed of a batch of 32 with 1 image, 0.81
# with 2, 0.90 with 4, 0.94 with 8, 0.97 with 16: a larger one only makes the last one of a run longer.
CPU_BATCH = 8
# Limits of the search for a GPU's batch size, and the least gain in speed that is worth doubling it.
SEARCH_S = 10.0
FIRST_BATCH, LARGEST_BATCH = 8, 256
LEAST_GAIN = 1.05
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The first compute capability whose tensor cores multiply bfloat16.
_CUDA_BFLOAT16 = (8, 0)
# `auto` times one product on a CPU: a linear layer of a small tower, rows x inputs x outputs. The fastest round counts,
# since the first ones compile kernels.
_PRODUCT = (64, 512, 512)
_ROUNDS = 7
# The speed-up from which bfloat16 is used. Measured: 2.0 with AVX512-BF16, 0.2 to 0.4 if it is emulated.
_FORMAT_GAIN = 1.25
_TOO_LARGE = (
    "there is not enough memory to encode even one image with this model; close other programs, or choose a smaller "
    "model with --preset"
)


class OpenClipEncoder:
    """The image towers of a model, one per device; an `ImageEncoder`.

    batch_frames: found by measurement on a GPU, and halved permanently when memory runs out. Concurrent calls share the
    lanes, batch by batch.
    """

    def __init__(
        self, towers: Sequence[tuple[ImageTower, torch.device]], *, batch_frames: int, threads: int = 1
    ) -> None:
        """threads: lanes of a CPU, each of one thread: no batch waits for the slower half of another thread's."""
        self._preparation = towers[0][0].preparation
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for tower, device in towers:
            for _ in range(LANES_PER_GPU if device.type == "cuda" else threads):
                self._free.put(_Lane(tower, device))
        self._batch_lock = threading.Lock()
        self.size_px = self._preparation.size_px
        self.batch_frames = batch_frames
        try:
            self.dim = self._encode(np.zeros((1, self.size_px, self.size_px, 3), dtype=np.uint8)).shape[1]
        except OutOfMemory as exc:
            raise ModelError(_TOO_LARGE) from exc

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        threads: int,
        devices: Sequence[str] | None = None,
        compiled: bool = False,
        number_format: NumberFormat = "auto",
    ) -> OpenClipEncoder:
        """Return the encoder of a model's folder.

        threads: of the CPU. devices: torch's names; default: all CUDA devices, else the CPU. compiled: use
        torch.compile, which needs a C++ compiler. number_format: of weights and activations; `auto`: the fastest on
        each device. Vectors are always float32.
        Raises UsageError for an unknown device, ModelError if a file is missing, damaged or unsupported, or if one
        image does not fit in memory.
        """
        chosen = _devices(devices)
        # More cores convert weights no sooner, and each waits for the next tensor by spinning.
        with one_core() if chosen[0].type == "cpu" else nullcontext():
            tower = load_tower(folder)
            towers = [tower, *(copy.deepcopy(tower) for _ in chosen[1:])]
            for replica, device in zip(towers, chosen, strict=True):
                replica.visual.to(fastest_format(device) if number_format == "auto" else _DTYPES[number_format])
            ready = [(placed(t, d, compiled=compiled), d) for t, d in zip(towers, chosen, strict=True)]
        try:
            if chosen[0].type == "cpu":
                return cls(ready, batch_frames=CPU_BATCH, threads=threads)
            encoder = cls(ready, batch_frames=1)
            encoder.find_batch()
        except RuntimeError as exc:
            if not type(exc).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = str(exc).strip().split("\n", 1)[0]
            raise ModelError(
                f"{folder}: the model cannot be compiled here ({reason}); install a C++ compiler, or omit --compile"
            ) from exc
        return encoder

    def find_batch(self) -> None:
        """Set batch_frames to the fastest size, measured for some seconds."""
        self.batch_frames = best_batch(self._seconds, first=FIRST_BATCH, largest=LARGEST_BATCH, budget_s=SEARCH_S)

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1; see `ImageEncoder`."""
        vectors = np.zeros((len(frames), self.dim), dtype=np.float32)
        done = 0
        while done < len(frames):
            n = min(self.batch_frames, len(frames) - done)
            try:
                pixels = np.stack([self._preparation.square(frame) for frame in frames[done : done + n]])
                vectors[done : done + n] = self._encode(pixels)
            except (OutOfMemory, MemoryError) as exc:
                if n == 1:
                    raise ModelError(_TOO_LARGE) from exc
                self._shrink(n // 2)
                continue
            done += n
        return vectors

    def _shrink(self, batch_frames: int) -> None:
        with self._batch_lock:
            self.batch_frames = min(self.batch_frames, batch_frames)

    def _encode(self, pixels: Pixels) -> FloatArray:
        """Return the vectors of one batch (n, size, size, 3). Raises OutOfMemory."""
        lane = self._free.get()
        try:
            return lane.encode(pixels)
        finally:
            self._free.put(lane)

    def _seconds(self, n: int) -> float:
        """Return the time of a batch of n images. Raises OutOfMemory.

        The second batch in one lane counts: each lane allocates its own memory during the first one.
        """
        pixels = np.zeros((n, self.size_px, self.size_px, 3), dtype=np.uint8)
        lane = self._free.get()
        try:
            lane.encode(pixels)
            began = time.perf_counter()
            lane.encode(pixels)
            return time.perf_counter() - began
        finally:
            self._free.put(lane)


class OutOfMemory(Exception):
    """A batch did not fit."""


class _Lane:
    """A tower that computes one batch at a time, on its own CUDA stream, or in one thread of the CPU."""

    def __init__(self, tower: ImageTower, device: torch.device) -> None:
        self._tower = tower
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # One thread serves all callers, since OpenMP would start a team of threads for each.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="image")
        self._thread.submit(_use_one_core).result()

    def encode(self, pixels: Pixels) -> FloatArray:
        """Return (n, dim) float32. pixels: (n, size, size, 3). Raises OutOfMemory."""
        try:
            return self._thread.submit(self._run, pixels).result()
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
        if self._stream is not None:
            torch.cuda.empty_cache()
        raise OutOfMemory

    @torch.inference_mode()
    def _run(self, pixels: Pixels) -> FloatArray:
        batch = torch.from_numpy(pixels)
        if self._stream is None:
            vectors: FloatArray = self._tower(batch.to(self._device)).cpu().numpy()
            return vectors
        with torch.cuda.stream(self._stream):
            on_device = self._tower(batch.pin_memory().to(self._device, non_blocking=True))
            on_host = torch.empty(on_device.shape, pin_memory=True).copy_(on_device, non_blocking=True)
        self._stream.synchronize()
        vectors = on_host.numpy()
        return vectors


def _use_one_core() -> None:
    """Make torch compute in this thread alone, whatever other models set later."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread keeps what it was when this was first called in it


def best_batch(seconds: Callable[[int], float], *, first: int, largest: int, budget_s: float) -> int:
    """Return the batch size, doubled from `first` until the speed gains less than LEAST_GAIN twice.

    seconds: times n images after a warm-up of the same length; raises OutOfMemory, except for n = 1.
    The search stays within `budget_s`; a device too slow to try `first` gets `first`.
    """
    taken_s = seconds(1)
    spent_s, expected_s = 2 * taken_s, first * taken_s
    n, best, best_rate = first, first, 0.0
    while n <= largest and spent_s + 2 * expected_s <= budget_s:
        try:
            taken_s = seconds(n)
        except OutOfMemory:
            return best if n > first else n // 2
        spent_s += 2 * taken_s
        if n / taken_s > best_rate * LEAST_GAIN:
            best, best_rate = n, n / taken_s
        elif n >= 4 * best:
            break
        n *= 2
        expected_s = n / best_rate
    return best


@contextmanager
def one_core() -> Iterator[None]:
    """Make torch compute in one thread in this block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@cache
def fastest_format(device: torch.device) -> torch.dtype:
    """Return the number format in which a device multiplies fastest, float32 or bfloat16; cached per process.

    A CPU is timed, for some milliseconds. Its flags do not say what the libraries use (ONEDNN_MAX_CPU_ISA, virtual
    machines), and emulated bfloat16 is several times slower.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _CUDA_BFLOAT16 else torch.float32
    with one_core():
        float32_s, bfloat16_s = (
            min(_product_s(dtype) for _ in range(_ROUNDS)) for dtype in (torch.float32, torch.bfloat16)
        )
    return torch.bfloat16 if float32_s > _FORMAT_GAIN * bfloat16_s else torch.float32


def _product_s(dtype: torch.dtype) -> float:
    """Return the CPU time of one small product in one thread, which other load hardly changes."""
    rows, inputs, outputs = _PRODUCT
    batch, weights = torch.ones((rows, inputs), dtype=dtype), torch.ones((outputs, inputs), dtype=dtype)
    began_s = time.thread_time()
    functional.linear(batch, weights)
    return time.thread_time() - began_s


def placed(tower: ImageTower, device: torch.device, *, compiled: bool) -> ImageTower:
    """Return the tower on its device. Raises ModelError."""
    try:
        tower.to(device)
    except RuntimeError as exc:
        if is_out_of_memory(exc):
            raise ModelError(f"{device}: there is not enough memory for this model; choose a smaller one") from exc
        raise
    visual = tower.visual
    if compiled:
        tower.compile(dynamic=True)
    elif device.type == "cpu" and isinstance(visual, ClipVit) and tower.number_format is torch.bfloat16 and can_pack():
        visual.pack()
    return tower


def _devices(names: Sequence[str] | None) -> list[torch.device]:
    """Return the named devices; default: all GPUs, else the CPU. Raises UsageError for an unknown name."""
    present = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    chosen = list(names or present or ["cpu"])
    for name in chosen:
        if name not in ("cpu", *present):
            raise UsageError(f"this machine has no device {name!r}; choose from: {', '.join(['cpu', *present])}")
    return [torch.device(name) for name in chosen]
