"""The exported models of the `lite` preset: made once from the weights in its packages, kept in the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from vfindex.indexer.models.catalog import EFFICIENTNET_WEIGHTS, MINILM_TOKENIZER, MINILM_WEIGHTS
from vfindex.indexer.models.export.cache import Export, Say, ensure, exporting, is_complete
from vfindex.indexer.models.export.calibration_images import calibration_images
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.packages import locate_package_file
from vfindex.indexer.models.presets import LITE_TEXT, LITE_VISUAL
from vfindex.indexer.models.priors import background_queries, corpus, estimate_prior, sentences
from vfindex.storage.encoders.colours import colour_axes, colour_shares, colour_vector, with_colours
from vfindex.storage.encoders.text import AXES, TextEncoder, read_meta, write_meta
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.modalities import Modality, ModelKind
from vfindex.storage.records import FloatArray

logger = logging.getLogger(__name__)

# Part of the cache's key: raise it whenever the same weights would give other files.
EXPORT_VERSION = 3
SIZE_PX = 260
# Labels averaged into one calibration vector, since an image's posterior spreads over many labels. With 5, background
# queries score the means with a spread of 0.052 (clips of real videos 0.053, single labels 0.072), and the cosine of
# the overall mean to the mean clip is 0.955.
MIXED_LABELS = 5


@dataclass(frozen=True, slots=True)
class LitePaths:
    """The exported models. text, visual: folders. prior: a file, see `load_prior`."""

    text: Path
    visual: Path
    prior: Path


def ensure_lite(cache: Path, *, say: Say = logger.info) -> LitePaths:
    """Return the exported models, exported first if the cache has none: some 50 s of processor time, once.

    say: receives a line of text if there is something to wait for. Safe to call from several processes: one exports,
    the others wait. Raises ModelError if the weights are absent or not the pinned ones, if the export fails, or if the
    cache cannot be written.
    """
    export = Export(
        cache / f"lite-{_key()}", partial(_build, cache), _is_complete, 200, "the models of the lite preset"
    )
    folder = ensure(export, say)
    return LitePaths(folder / "text", folder / "visual", folder / "prior.npz")


def load_prior(path: Path, modality: Modality) -> ModalityPrior:
    """Return the prior of a modality, that of its model, from the file that `ensure_lite` wrote."""
    with np.load(path, allow_pickle=False) as data:
        return ModalityPrior(
            mean=data[f"{modality.model}_mean"],
            query_mean=data[f"{modality.model}_query_mean"],
            spread=float(data[f"{modality.model}_spread"]),
            background=data[f"{modality.model}_background"],
            weight=modality.weight,
        )


def label_texts(names: str, definition: str) -> list[str]:
    """Return the texts whose mean embedding is the vector of a label.

    names: WordNet's lemmas, comma-separated, the commonest first. definition: WordNet's gloss.
    """
    first = names.split(",")[0]
    return [f"a photo of a {first}", definition]


def calibration_vectors(labels: FloatArray, axes: FloatArray) -> FloatArray:
    """Return vectors (n_labels, dim) such as images in general have: mixed labels with the mean colours of photographs.

    labels: (n_labels, dim). axes: of the colours, see `colour_axes`.
    """
    shares = [colour_shares(image) for image in calibration_images(SIZE_PX)]
    colours = np.mean([colour_vector(each, axes) for each in shares], axis=0)
    return with_colours(_mixtures(labels), np.asarray(colours, dtype=np.float32))


def _key() -> str:
    files = (MINILM_WEIGHTS, MINILM_TOKENIZER, EFFICIENTNET_WEIGHTS)
    parts = [str(EXPORT_VERSION), *(file.sha256 for file in files), corpus("background.txt"), corpus("sentences.txt")]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_complete(folder: Path) -> bool:
    return (folder / "prior.npz").is_file() and all(is_complete(folder / part) for part in ("text", "visual"))


def _build(cache: Path, work: Path) -> None:
    """Write text/, visual/ and prior.npz into a folder. Raises ModelError."""
    files = (MINILM_WEIGHTS, EFFICIENTNET_WEIGHTS, MINILM_TOKENIZER)
    text_weights, visual_weights, _ = (locate_package_file(file, cache) for file in files)
    with _exporting("text", text_weights, work / "text"), _exporting("visual", visual_weights, work / "visual"):
        pass
    _write_label_vectors(work)


def _exporting(part: str, weights: Path, folder: Path) -> AbstractContextManager[None]:
    """Export one model in a child process while the body runs. Raises ModelError with the child's last line."""
    name = {"text": LITE_TEXT, "visual": LITE_VISUAL}[part]
    arguments = [part, str(weights), str(folder), name]
    return exporting("vfindex.indexer.models.export.lite", arguments, what=f"the {part} model of the lite preset")


def _write_label_vectors(work: Path) -> None:
    """Add the labels' vectors, the colour axes and prior.npz to two exported models."""
    encoder = TextEncoder.open(work / "text", threads=usable_cores())
    visual = work / "visual"
    labels = json.loads((visual / "labels.json").read_text(encoding="utf-8"))
    groups = [label_texts(label["names"], label["definition"]) for label in labels]
    rows = encoder.encode([text for group in groups for text in group]).reshape(len(groups), -1, encoder.dim)
    vectors = _unit(rows.mean(axis=1))
    queries, passages = encoder.encode(background_queries()), encoder.encode(sentences())
    axes = colour_axes(np.concatenate([vectors, queries, passages]))
    vectors = _unit(np.asarray(vectors - vectors @ axes.T @ axes, dtype=np.float32))
    np.save(visual / "labels.npy", vectors)
    np.save(visual / AXES, axes)
    write_meta(visual, model=LITE_VISUAL, dimensions=encoder.dim, size_px=SIZE_PX)
    np.save(work / "text" / AXES, axes)
    facts = read_meta(work / "text")
    write_meta(work / "text", **{name: facts[name] for name in facts if name not in ("format", "files")})
    arrays = _prior_arrays(queries, {"visual": calibration_vectors(vectors, axes), "text": passages})
    np.savez(work / "prior.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub allows only bools


def _prior_arrays(queries: FloatArray, material: Mapping[ModelKind, FloatArray]) -> dict[str, FloatArray]:
    """Return mean, query_mean, spread and background of each model. queries: background queries (n, dim)."""
    arrays: dict[str, FloatArray] = {}
    for kind, rows in material.items():
        prior = estimate_prior(queries, rows, centred=kind == "text", weight=1.0)
        arrays[f"{kind}_mean"] = prior.mean
        arrays[f"{kind}_query_mean"] = prior.query_mean
        arrays[f"{kind}_spread"] = np.asarray(prior.spread, dtype=np.float32)
        arrays[f"{kind}_background"] = prior.background
    return arrays


def _mixtures(labels: FloatArray) -> FloatArray:
    """Return unit means of MIXED_LABELS labels, taken far apart because neighbours in ImageNet's order are related."""
    step = len(labels) // MIXED_LABELS
    return _unit(np.mean([np.roll(labels, n * step, axis=0) for n in range(MIXED_LABELS)], axis=0))


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
