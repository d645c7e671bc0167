"""Temporal heads of a library: transformers over the frame vectors of a clip, one for a set of classes.

    heads/<SHA-256>.safetensors    weights, classes and model of a head
    library.db, `temporal_heads`   set of classes -> SHA-256

A head has the parts of torch's `TransformerEncoder` under its names: pre-normalised layers (Xiong et al. 2020, arXiv
2002.04745) of attention and ReLU with sinusoidal positions (Vaswani et al. 2017, arXiv 1706.03762), then the mean over
frames and a linear layer. Files are in the format of safetensors, which holds numbers and no code; they are read with
bounds on every length, since a library may come from elsewhere.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryChanged, LibraryDamaged
from vfindex.storage.files.regular import regular
from vfindex.storage.files.writes import make_folder, on_disk, replacing
from vfindex.storage.meta import LibraryMeta, put_temporal_heads
from vfindex.storage.records import FloatArray

FOLDER, SUFFIX = "heads", ".safetensors"
# Two layers of four attentions of 16, and four times the width between them: 103,000 weights for vectors of 64.
WIDTH, LAYERS, ATTENTIONS, INNER = 64, 2, 4, 256
# Frames of a clip that are read, evenly spread; a clip of 12 s has 24 at most.
MAX_FRAMES = 32
# 2,000 classes of vectors of 4,096 dimensions are 2 MB of weights; the names of classes are as long as a class file.
MAX_BYTES = 32 << 20
# Spread of a dimension in which all frames are alike, so that nothing is divided by zero.
LEAST_SPREAD = 1e-6
# Of a weight, and of separation: beyond them scores could be beyond what float32 holds, and a label be no number.
MOST_WEIGHT, MOST_SEPARATION = 1e4, 1e3
_PARTS = ("classes", "model", "chance", "separation")
_LENGTH = struct.Struct("<Q")
_DIGEST = re.compile("[0-9a-f]{64}")
_FORMAT = "vfindex temporal head 1"


@dataclass(frozen=True, slots=True, eq=False)
class TemporalHead:
    """A trained head. classes: names, in the order of its scores. model: whose frame vectors it was trained on.

    weights: name -> array of `shapes_of`. chance: how probable it is that naming the most frequent class labels
    held-out videos as well. separation: of the scores of held-out clips (search/understanding/labelling/mixture.py).
    """

    classes: tuple[str, ...]
    model: str
    weights: Mapping[str, FloatArray]
    chance: float
    separation: float

    @property
    def dim(self) -> int:
        return len(self.weights["mean"])


def shapes_of(dim: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the weights. mean, spread: of the frame vectors that it was trained on."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (dim,), "spread": (dim,), "project.weight": (WIDTH, dim)}
    shapes["project.bias"] = (WIDTH,)
    for layer in range(LAYERS):
        parts = {
            "self_attn.in_proj_weight": (3 * WIDTH, WIDTH), "self_attn.in_proj_bias": (3 * WIDTH,),
            "self_attn.out_proj.weight": (WIDTH, WIDTH), "self_attn.out_proj.bias": (WIDTH,),
            "linear1.weight": (INNER, WIDTH), "linear1.bias": (INNER,),
            "linear2.weight": (WIDTH, INNER), "linear2.bias": (WIDTH,),
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"encoder.layers.{layer}.{name}": shape for name, shape in parts.items()}
    shapes |= {"encoder.norm.weight": (WIDTH,), "encoder.norm.bias": (WIDTH,)}
    return shapes | {"classify.weight": (classes, WIDTH), "classify.bias": (classes,)}


def positions(frames: int) -> FloatArray:
    """Return (frames, WIDTH): sines and cosines of the frames' numbers (Vaswani et al. 2017, section 3.5)."""
    rates = np.exp(np.arange(0, WIDTH, 2) * (-math.log(10_000) / WIDTH))
    angles = np.arange(frames)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(frames, WIDTH).astype(np.float32)


def padded_frames(clips: list[FloatArray], dim: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return (n, frames, dim) float32 of clips' frame vectors, in order of time, and (n, frames): where there is one.

    Of more than MAX_FRAMES, as many count, evenly spread.
    """
    chosen = [_spread(rows) for rows in clips]
    longest = max((len(rows) for rows in chosen), default=0)
    frames, present = np.zeros((len(clips), longest, dim), np.float32), np.zeros((len(clips), longest), np.bool_)
    for row, vectors in enumerate(chosen):
        frames[row, : len(vectors)], present[row, : len(vectors)] = vectors, True
    return frames, present


def _spread(rows: FloatArray) -> FloatArray:
    if len(rows) <= MAX_FRAMES:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, MAX_FRAMES).round().astype(np.intp)])


# --- the library's ----------------------------------------------------------------------------------------------------


def stored_head(snapshot: Snapshot, folder: Path, classes: str) -> TemporalHead | None:
    """Return the head for a set of classes, None if there is none. folder: of the model version.

    Raises LibraryDamaged if its file is missing, is not the one that was put there, or is no head.
    """
    digest = LibraryMeta(snapshot).temporal_heads.get(classes)
    return None if digest is None else read_head(folder, digest)


def check_head(then: Snapshot, now: Snapshot | Catalog, classes: str) -> None:
    """Raise LibraryChanged unless a set of classes has the head now that it had then."""
    before, after = (LibraryMeta(each).temporal_heads.get(classes) for each in (then, now))
    if before != after:
        done = "deleted" if after is None else "trained" if before is None else "trained again"
        raise LibraryChanged(
            f"the temporal head of {classes!r} was {done} meanwhile, so no labels were stored; run the same command "
            "again"
        )


def put_head(catalog: Catalog, folder: Path, classes: str, head: TemporalHead) -> None:
    """Store the head for a set of classes in place of the one before."""
    data = _packed(head)
    digest = sha256(data).hexdigest()
    with on_disk("a temporal head"):
        make_folder(folder / FOLDER)
        with replacing(_path(folder, digest)) as file:
            file.write(data)
    _put(catalog, folder, LibraryMeta(catalog).temporal_heads | {classes: digest})


def remove_head(catalog: Catalog, folder: Path, classes: str) -> bool:
    """Delete the head for a set of classes; return whether there was one."""
    heads = LibraryMeta(catalog).temporal_heads
    was_there = heads.pop(classes, None) is not None
    _put(catalog, folder, heads)
    return was_there


def _put(catalog: Catalog, folder: Path, heads: Mapping[str, str]) -> None:
    put_temporal_heads(catalog, heads)
    known = {_path(folder, digest).name for digest in heads.values()}
    with on_disk("a temporal head"):
        for path in (folder / FOLDER).glob(f"*{SUFFIX}"):
            if path.name not in known:
                path.unlink(missing_ok=True)


def _path(folder: Path, digest: str) -> Path:
    return folder / FOLDER / (digest + SUFFIX)


# --- the file ---------------------------------------------------------------------------------------------------------


def read_head(folder: Path, digest: str) -> TemporalHead:
    """Return the head of a file in a library's folder. Raises LibraryDamaged."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise LibraryDamaged(f"the library names a temporal head that cannot be ({digest!r:.80}); run: vfindex verify")
    path = _path(folder, digest)
    try:
        with open(path, "rb", opener=regular) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or sha256(data).hexdigest() != digest:
            raise ValueError("it is not the file that was put there")
        return _unpacked(data)
    except OSError as exc:
        reason = exc.strerror or "it cannot be read"
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error) as exc:
        reason = str(exc) if type(exc) is ValueError else "its contents are no head"
    raise LibraryDamaged(
        f"the temporal head {path} cannot be used: {reason}; train it again, or delete it with: vfindex tune CLASSES "
        "--temporal --reset"
    )


def _packed(head: TemporalHead) -> bytes:
    """Return a head in the format of safetensors: length of the header, header, numbers."""
    described: dict[str, Any] = {name: getattr(head, name) for name in _PARTS} | {"format": _FORMAT}
    header: dict[str, Any] = {"__metadata__": {"vfindex": json.dumps(described)}}
    parts, offset = [], 0
    for name, shape in shapes_of(head.dim, len(head.classes)).items():
        part = np.ascontiguousarray(head.weights[name], "<f4").reshape(shape).tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + len(part)]}
        offset += len(part)
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight bytes
    return b"".join([_LENGTH.pack(len(text)), text, *parts])


def _unpacked(data: bytes) -> TemporalHead:
    """Return a head. Raises ValueError and others for what is none."""
    [length] = _LENGTH.unpack_from(data)
    header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    described, values = json.loads(header.pop("__metadata__")["vfindex"]), data[_LENGTH.size + length :]
    if described.get("format") != _FORMAT:
        raise ValueError("it is of another version")
    classes, model = described["classes"], described["model"]
    if not (isinstance(model, str) and isinstance(classes, list) and all(isinstance(each, str) for each in classes)):
        raise ValueError("its classes are no names")
    chance, separation = (float(described[name]) for name in ("chance", "separation"))
    [dim] = header["mean"]["shape"]
    if type(dim) is not int or not 0 < dim <= len(values) // 4:
        raise ValueError("its dimensions are none")
    weights = {name: _array(header[name], shape, values) for name, shape in shapes_of(dim, len(classes)).items()}
    is_spread = bool((weights["spread"] >= np.float32(LEAST_SPREAD)).all())
    if not 0 <= chance <= 1 or not 0 < separation <= MOST_SEPARATION or not is_spread:
        raise ValueError("its numbers are none")
    return TemporalHead(tuple(classes), model, weights, chance, separation)


def _array(described: Mapping[str, Any], shape: tuple[int, ...], values: bytes) -> FloatArray:
    start, stop = described["data_offsets"]
    if described["dtype"] != "F32" or tuple(described["shape"]) != shape or type(start) is not int or start < 0:
        raise ValueError("its weights have other shapes")
    if stop - start != 4 * math.prod(shape) or stop > len(values):
        raise ValueError("its weights are cut off")
    array = np.frombuffer(values, "<f4", math.prod(shape), start).reshape(shape).astype(np.float32)
    if not (np.abs(array) <= MOST_WEIGHT).all():
        raise ValueError("its weights are no numbers")
    return array
