"""The ONNX folders of a model's sides: the text tower that asks for pictures, the sentence model, the image tower.

Each is exported once from the model's own folder, in a child process that may import torch, and kept in the cache.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vfindex.indexer.models.export.cache import Export, Say, ensure, exporting, is_whole
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.priors import BANKS, bank

if TYPE_CHECKING:
    from vfindex.indexer.models.store import LocalModel

Side = Literal["clip-text", "clip-image", "sentence"]

# Part of the cache's key: raise it whenever the same model would give other files.
EXPORT_VERSION = 1
# Of the size of the weights: the graph as it was traced and as it was optimised stand side by side for a moment.
_SPACE = 2.2
_WHAT: dict[Side, str] = {
    "clip-text": "the text side of",
    "clip-image": "the picture side of",
    "sentence": "the text model",
}


def ensure_clip_text(model: LocalModel, cache: Path, *, say: Say) -> Path:
    """Return the folder, as `TextEncoder` opens it, of the text tower of an open_clip model.

    Its vectors lie in the space of the model's pictures. Made first where the cache has none, which takes a minute or
    more: say is then called with a line of text. Several processes may call this at once. Raises ModelError if the
    model cannot be exported with a cosine of at least 0.9999 to what torch computes, or the cache cannot be written.
    """
    return _ensure("clip-text", model, cache, say)


def ensure_sentence(model: LocalModel, cache: Path, *, say: Say) -> Path:
    """Return the folder, as `TextEncoder` opens it, of a sentence-transformers model; else as `ensure_clip_text`."""
    return _ensure("sentence", model, cache, say)


def ensure_clip_image(model: LocalModel, cache: Path, *, say: Say) -> Path:
    """Return the folder of an open_clip model's image tower; else as `ensure_clip_text`.

    The graph takes `pixels` (n, size_px, size_px, 3), uint8 RGB, and gives vectors (n, dimensions) of length 1.
    meta.json: `size_px`, and what brings a picture to it: `resize_mode` (`shortest`: the short side is resized to
    size_px and the middle cut out; `squash`: both sides are resized) and `interpolation` (as PIL names its filters).
    """
    return _ensure("clip-image", model, cache, say)


def _ensure(side: Side, model: LocalModel, cache: Path, say: Say) -> Path:
    name = short_name(model.reference)

    def build(work: Path) -> None:
        arguments = [side, str(model.folder), str(work), name]
        with exporting("vfindex.indexer.models.export.open_models", arguments, what=what, threads=usable_cores()):
            pass

    def is_complete(folder: Path) -> bool:
        return is_whole(folder / "model") and (side == "clip-image" or (folder / BANKS).is_file())

    what = f"{_WHAT[side]} {name}"
    folder = cache / "query" / f"{name}-{_key(side, model)}"
    space_mb = round(model.weights.stat().st_size * _SPACE / 1e6) + 1
    return ensure(Export(folder, build, is_complete, space_mb, what), say) / "model"


def short_name(reference: str) -> str:
    """Return what a model is called in messages and in names of files: its reference, without folders before it."""
    return re.sub(r"[^\w.]+", "-", reference.rstrip("/").rpartition("/")[2]).strip("-.") or "model"


def _key(side: Side, model: LocalModel) -> str:
    parts = [str(EXPORT_VERSION), side, model.sha256, bank("background.txt"), bank("sentences.txt")]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]
