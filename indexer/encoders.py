"""Pictures to unit vectors in the space of a text model, by ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray
from vfindex.storage.text_encoder import check_files, open_session, read_meta

Pixels = NDArray[np.uint8]
# Softmax temperature and number of labels kept; the paper has 1 and 10. Measured, docs/decisions.md: 1 to 2.5 and 20 to
# 100 rank within 0.02 of nDCG@10; fewer labels and all of them rank worse.
TEMPERATURE = 1.75
TOP_LABELS = 50
# A long side longer by less than this share has a twentieth cut off at either end, which no one misses.
NEARLY_SQUARE = 0.1
BATCH_FRAMES = 16
# Differences of 8-bit values up to which a picture shows what another shows: of the whole, and of each square of
# STILL_BLOCK_PX. Coding noise of a still picture lies below. Measured on 202 such frames of the public collection: the
# cosine of the two vectors has the median 0.9995 and the minimum 0.995; neighbouring frames of one shot have 0.95.
STILL_MEAN, STILL_BLOCK, STILL_BLOCK_PX = 1, 8, 20


class ImageEncoder(Protocol):
    """Pictures to unit vectors. `encode_images` may be called from several threads at once.

    size_px: the short side of the frames it takes. dim: the length of its vectors. batch_frames: how many frames it
    takes best at a time; it may be called with any number.
    """

    @property
    def size_px(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_frames(self) -> int: ...

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1.

        frames: uint8 RGB (height, width, 3), upright, the short side `size_px`, the long side what the picture has.
        Raises ValueError on any other shape, ModelError if the model cannot take even one frame.
        """
        ...


class PassageEncoder(Protocol):
    """Texts that are searched to unit vectors. May be called from several threads at once. dim: their length."""

    @property
    def dim(self) -> int: ...

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of `texts`. Raises ModelError."""
        ...


class LiteImageEncoder:
    """The `lite` preset's open visual model. `encode_images` may be called from several threads at once.

    model: its name. Its threads run one crop each, whoever asked for it: so a lone video keeps all cores busy, many
    videos do not start more threads than there are cores, and a vector does not depend on their number.
    """

    def __init__(
        self, session: ort.InferenceSession, labels: FloatArray, *, model: str, size_px: int, threads: int = 1
    ) -> None:
        self._session = session
        self._labels = labels
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self.model = model
        self.size_px = size_px
        self.dim = labels.shape[1]
        self.batch_frames = BATCH_FRAMES

    @classmethod
    def open(cls, folder: Path, *, threads: int = 1) -> LiteImageEncoder:
        """Return the encoder in a folder. Raises ModelError if a file is missing, damaged or of another version."""
        meta = read_meta(folder)
        check_files(folder, meta)
        try:
            labels = np.load(folder / "labels.npy", allow_pickle=False)
            session = open_session(folder, threads=1, prepack=True)
            return cls(session, labels, model=str(meta["model"]), size_px=int(meta["size_px"]), threads=threads)
        except (KeyError, ValueError, TypeError) as exc:
            raise ModelError(f"{folder}: the visual model's description is incomplete") from exc

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, as `ImageEncoder` says."""
        vectors = np.zeros((len(frames), self.dim), dtype=np.float32)
        cut = [crops(frame, self.size_px) for frame in frames]
        logits = self._threads.map(self._logits, itertools.chain.from_iterable(cut))
        for row, parts in enumerate(cut):
            vectors[row] = conse(np.stack([next(logits) for _ in parts]), self._labels)
        return vectors

    def _logits(self, crop: Pixels) -> FloatArray:
        logits: FloatArray = self._session.run(None, {"pixels": crop[None]})[0][0]
        return logits


def crops(frame: Pixels, size_px: int) -> list[Pixels]:
    """Return the squares of a frame that the model reads, evenly spaced along its long side.

    One in the middle where the frame is nearly square, both ends up to 3:2, both ends and the middle beyond. Measured
    as nDCG@10: three crops of a wide frame 0.717, its ends alone 0.702, the middle alone 0.699, the whole frame in one
    pass 0.698; of a 4:3 frame two crops rank as three do. Squashing a wide frame into a square cost 0.05.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) != size_px:
        raise ValueError(f"a frame of {frame.shape} {frame.dtype}: its short side must be {size_px}, in uint8 RGB")
    span = max(frame.shape[:2]) - size_px
    if span < size_px * NEARLY_SQUARE:
        starts = [span // 2]
    else:
        starts = [0, span] if span <= size_px / 2 else [0, span // 2, span]
    if frame.shape[0] < frame.shape[1]:
        return [frame[:, start : start + size_px] for start in starts]
    return [frame[start : start + size_px] for start in starts]


def is_still(before: Pixels, frame: Pixels) -> bool:
    """Return whether a frame shows what another one shows, so that its vector will do: slides, screens, empty rooms."""
    if before.shape != frame.shape:
        return False
    change = np.abs(before.astype(np.int16) - frame)
    if change.sum(dtype=np.int64) >= STILL_MEAN * change.size:
        return False
    rows, columns = (np.arange(0, side, STILL_BLOCK_PX) for side in frame.shape[:2])
    blocks = np.add.reduceat(np.add.reduceat(change.sum(axis=2, dtype=np.int64), rows, axis=0), columns, axis=1)
    return bool(blocks.max() < STILL_BLOCK * STILL_BLOCK_PX**2 * frame.shape[2])


def conse(logits: FloatArray, labels: FloatArray) -> FloatArray:
    """Return one picture's unit vector: its likeliest labels' embeddings, weighted by their probability.

    logits: (n_crops, n_labels); the crops' probabilities are averaged. labels: (n_labels, dim), rows of length 1.
    Convex combination of semantic embeddings: Norouzi et al. 2014, arXiv 1312.5650.
    """
    scaled = (logits - logits.max(axis=1, keepdims=True)) / TEMPERATURE
    odds = np.exp(scaled)
    posterior = (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)  # (n_labels,)
    top = np.argpartition(posterior, -TOP_LABELS)[-TOP_LABELS:]
    vector = posterior[top] @ labels[top]
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
