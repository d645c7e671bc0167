"""Classes by the order of frames: a temporal head (storage/heads.py) over a clip's frame vectors, in NumPy.

What `vfindex tune --temporal` has trained, and kept because it labels held-out videos better than the probe does. A
clip's features are the mean of the head's outputs over its frames; a video's are the mean of its clips' over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfindex.search.understanding.labelling.mixture import against_null, empirical_null
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.heads import ATTENTIONS, LAYERS, WIDTH, TemporalHead, padded_frames, positions
from vfindex.storage.records import FloatArray

# Clips computed at once: 512 of 32 frames take 50 MB.
_AT_ONCE = 512
_EPSILON = 1e-5  # of torch's LayerNorm
_ABSENT = np.float32(-1e9)


@dataclass(frozen=True, slots=True, eq=False)
class TemporalClassifier:
    """A classifier by a head. centre, spread: (C,) of its scores for the library's clips."""

    head: TemporalHead
    centre: FloatArray
    spread: FloatArray
    known: tuple[float, ...] = ()

    @classmethod
    def of(cls, head: TemporalHead) -> TemporalClassifier:
        nothing = np.zeros(len(head.classes), np.float32)
        return cls(head, nothing, nothing + 1)

    @property
    def separation(self) -> float:
        return self.head.separation

    def read(self, snapshot: Snapshot, ids: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """Return features (n, WIDTH) of clips, zero rows for those without frames. Raises UsageError."""
        parts = [np.zeros((0, WIDTH), np.float32)]
        for first in range(0, len(ids), _AT_ONCE):
            some = [int(id_) for id_ in ids[first : first + _AT_ONCE]]
            found = {id_: vectors for id_, (vectors, _) in snapshot.frames(some).items()}
            parts.append(features_of(self.head, [found.get(id_) for id_ in some]))
        return np.concatenate(parts)

    def scores(self, features: FloatArray) -> FloatArray:
        """Return (n, C): standard deviations above the library's other clips; 0 for rows with nothing to compare."""
        return against_null(logits_of(self.head, features), features, (self.centre, self.spread))

    def choices(self, features: FloatArray) -> None:
        """Classes share by their scores."""

    def chance(self, features: FloatArray) -> float:
        return self.head.chance

    def against(self, features: FloatArray) -> TemporalClassifier:
        """Return the classifier with centre and spread of these clips of the library (n, WIDTH)."""
        present = features[np.any(features, axis=1)]
        centre, spread = empirical_null(logits_of(self.head, present))
        return replace(self, centre=centre, spread=spread)


def features_of(head: TemporalHead, clips: Sequence[FloatArray | None]) -> FloatArray:
    """Return (n, WIDTH): the mean output of a clip's frames, zeros for a clip without any. clips: (frames, dim) each.

    Raises UsageError for vectors of other dimensions.
    """
    found = np.zeros((len(clips), WIDTH), np.float32)
    given = [(row, vectors) for row, vectors in enumerate(clips) if vectors is not None and len(vectors)]
    if any(vectors.shape[1] != head.dim for _, vectors in given):
        raise UsageError(
            f"the temporal head was trained on frame vectors of {head.dim} dimensions, and this library has others; "
            "train it again with: vfindex tune --temporal CLASSES"
        )
    # Clips of as many frames together, so that little is computed for frames that are not there.
    given.sort(key=lambda each: len(each[1]))
    for first in range(0, len(given), _AT_ONCE):
        some = given[first : first + _AT_ONCE]
        frames, present = padded_frames([vectors for _, vectors in some], head.dim)
        found[[row for row, _ in some]] = _pooled(head, frames, present)
    return found


def logits_of(head: TemporalHead, features: FloatArray) -> FloatArray:
    """Return (n, C) decision values."""
    return np.asarray(features @ head.weights["classify.weight"].T + head.weights["classify.bias"], np.float32)


def _pooled(head: TemporalHead, frames: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    w = head.weights
    standard = np.where(present[:, :, None], (frames - w["mean"]) / w["spread"], np.float32(0))
    hidden = standard @ w["project.weight"].T + w["project.bias"] + positions(frames.shape[1])
    for layer in range(LAYERS):
        prefix = f"encoder.layers.{layer}."
        part = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        normal = _normalised(hidden, part["norm1.weight"], part["norm1.bias"])
        mixed = _attended(normal @ part["self_attn.in_proj_weight"].T + part["self_attn.in_proj_bias"], present)
        hidden = hidden + mixed @ part["self_attn.out_proj.weight"].T + part["self_attn.out_proj.bias"]
        normal = _normalised(hidden, part["norm2.weight"], part["norm2.bias"])
        inner = np.maximum(normal @ part["linear1.weight"].T + part["linear1.bias"], 0)
        hidden = hidden + inner @ part["linear2.weight"].T + part["linear2.bias"]
    hidden = _normalised(hidden, w["encoder.norm.weight"], w["encoder.norm.bias"])
    mask = present[:, :, None]
    return np.asarray((hidden * mask).sum(axis=1) / mask.sum(axis=1), np.float32)


def _attended(projected: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    """Return (n, frames, WIDTH): values mixed by softmax attention over the frames present. projected: q, k and v."""
    n, frames, _ = projected.shape
    q, k, v = projected.reshape(n, frames, 3, ATTENTIONS, WIDTH // ATTENTIONS).transpose(2, 0, 3, 1, 4)
    similar = q @ k.transpose(0, 1, 3, 2) / np.sqrt(np.float32(WIDTH // ATTENTIONS))
    similar = np.where(present[:, None, None, :], similar, _ABSENT)
    shares = np.exp(similar - similar.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.asarray((shares @ v).transpose(0, 2, 1, 3).reshape(n, frames, WIDTH))


def _normalised(rows: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + _EPSILON) * weight + bias, np.float32)
