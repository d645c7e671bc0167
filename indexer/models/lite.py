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
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.models.catalog import (
    E5_WEIGHTS,
    EFFICIENTNET_WEIGHTS,
    MINILM_TOKENIZER,
    MINILM_WEIGHTS,
    PackageFile,
)
from vfindex.indexer.models.export.cache import Export, Say, ensure, exporting, is_complete
from vfindex.indexer.models.export.calibration_images import calibration_images
from vfindex.indexer.models.packages import locate_package_file
from vfindex.indexer.models.presets import LITE_TEXT, LITE_VISUAL, MULTILINGUAL_TEXT
from vfindex.indexer.models.priors import background_queries, corpus, estimate_prior, languages, prompted, sentences
from vfindex.storage.encoders.colours import colour_axes, colour_shares, colour_vector, with_colours
from vfindex.storage.encoders.image import LABEL_MAP, LABELS, PROTOTYPES, LiteImageEncoder, conse
from vfindex.storage.encoders.pixels import Pixels, crops
from vfindex.storage.encoders.text import AXES, CENTRE, COLOUR, QUERY, WORD, TextEncoder, read_meta, write_meta
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.machine import usable_cores
from vfindex.storage.modalities import Modality, ModelKind
from vfindex.storage.records import FloatArray

logger = logging.getLogger(__name__)

SIZE_PX = 260
# Labels averaged into one calibration vector, since an image's posterior spreads over many labels. With 5, background
# queries score the means with a spread of 0.052 (clips of real videos 0.053, single labels 0.072), and the cosine of
# the overall mean to the mean clip is 0.955.
MIXED_LABELS = 5
# Regularisation of the map of logits to label vectors; 1 to 10 rank alike.
RIDGE = 3.0


@dataclass(frozen=True, slots=True)
class TextModel:
    """A text model inside packages, which embeds the labels of images as well.

    files: pinned, the weights first. version: raised whenever the same weights would give other files. prompt: before a
    query and before a label's text. is_narrow: all its vectors have a large part in common.
    """

    files: tuple[PackageFile, ...]
    version: int
    prompt: str = ""
    is_narrow: bool = False


TEXT_MODELS: Mapping[str, TextModel] = MappingProxyType(
    {
        MULTILINGUAL_TEXT: TextModel((E5_WEIGHTS,), 2, prompt="query: ", is_narrow=True),
        LITE_TEXT: TextModel((MINILM_WEIGHTS, MINILM_TOKENIZER), 3),
    }
)


@dataclass(frozen=True, slots=True)
class LitePaths:
    """The exported models. text, visual: folders, the latter absent without images. prior: a file, see `load_prior`."""

    text: Path
    visual: Path
    prior: Path


def ensure_lite(cache: Path, text: str = LITE_TEXT, *, images: bool = True, say: Say = logger.info) -> LitePaths:
    """Return the exported models, exported first if the cache has none: some 50 s of processor time, once.

    text: one of TEXT_MODELS. images: the image model as well, whose weights are in another package. say: receives a
    line of text if there is something to wait for. Safe to call from several processes: one exports, the others wait.
    Raises ModelError if the weights are absent or not the pinned ones, if the export fails, or if the cache cannot be
    written.
    """
    build = partial(_build if images else _build_text, text, cache)
    parts = ("text", "visual") if images else ("text",)
    complete, what = partial(_is_complete, parts=parts), "the models of the lite preset"
    folder = ensure(Export(cache / f"lite-{_key(text, images)}", build, complete, 250, what), say)
    return LitePaths(folder / "text", folder / "visual", folder / "prior.npz")


def text_identity(text: str) -> str:
    """Return the identity of one of TEXT_MODELS, as a library records it."""
    model = TEXT_MODELS[text]
    return f"{text} {model.files[0].sha256[:16]} {model.version}"


def visual_templates(text: str) -> tuple[str, ...]:
    """Return the templates of a query against the images of `lite`, by the text model that embedded their labels.

    Labels are nouns: single words of a question match them better than the sentence alone does. No label holds a
    colour; colours are compared with the pixels.
    """
    prompt = TEXT_MODELS[text].prompt
    return (f"{prompt}{QUERY}", f"{prompt}{WORD}", COLOUR)


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


def _key(text: str, images: bool) -> str:
    model = TEXT_MODELS[text]
    hashes = [file.sha256 for file in (*model.files, *([EFFICIENTNET_WEIGHTS] if images else []))]
    corpora = ["background.txt", "sentences.txt", *(["languages.txt"] if text == MULTILINGUAL_TEXT else [])]
    parts = [str(model.version), *hashes, *map(corpus, corpora)]
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_complete(folder: Path, *, parts: tuple[str, ...]) -> bool:
    return (folder / "prior.npz").is_file() and all(is_complete(folder / part) for part in parts)


def _build(text: str, cache: Path, work: Path) -> None:
    """Write text/, visual/ and prior.npz into a folder. Raises ModelError."""
    text_weights, visual_weights = _text_weights(text, cache), locate_package_file(EFFICIENTNET_WEIGHTS, cache)
    with _exporting("visual", visual_weights, work / "visual", LITE_VISUAL):
        _export_text(text, text_weights, work)
    _write_label_vectors(work, TEXT_MODELS[text])


def _build_text(text: str, cache: Path, work: Path) -> None:
    """Write text/ and prior.npz into a folder, as `_build` does but for the colours of images. Raises ModelError."""
    _export_text(text, _text_weights(text, cache), work)
    encoder = TextEncoder.open(work / "text", threads=usable_cores())
    arrays = _prior_arrays({"text": _corpus_vectors(encoder)})
    np.savez(work / "prior.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub allows only bools


def _text_weights(text: str, cache: Path) -> Path:
    weights, *_ = [locate_package_file(file, cache) for file in TEXT_MODELS[text].files]
    return weights


def _export_text(text: str, weights: Path, work: Path) -> None:
    if text == MULTILINGUAL_TEXT:
        from vfindex.indexer.models.export.e5 import export_e5  # onnx takes 0.3 s to import

        export_e5(weights, work / "text", text, languages())
    else:
        with _exporting("text", weights, work / "text", text):
            pass


def _corpus_vectors(encoder: TextEncoder) -> tuple[FloatArray, FloatArray]:
    """Return the vectors of the background queries, and of the sentences as passages."""
    return encoder.encode(prompted(background_queries(), encoder)), encoder.encode_passages(sentences())


def _exporting(part: str, weights: Path, folder: Path, name: str) -> AbstractContextManager[None]:
    """Export one model in a child process while the body runs. Raises ModelError with the child's last line."""
    arguments = [part, str(weights), str(folder), name]
    return exporting("vfindex.indexer.models.export.lite", arguments, what=f"the {part} model of the lite preset")


def _write_label_vectors(work: Path, model: TextModel) -> None:
    """Add the labels' vectors, the colour axes and prior.npz to two exported models."""
    encoder = TextEncoder.open(work / "text", threads=usable_cores())
    visual = work / "visual"
    labels = json.loads((visual / "labels.json").read_text(encoding="utf-8"))
    groups = [label_texts(label["names"], label["definition"]) for label in labels]
    rows = encoder.encode(prompted([text for group in groups for text in group], encoder))
    vectors = rows.reshape(len(groups), -1, encoder.dim).mean(axis=1)
    queries, passages = _corpus_vectors(encoder)
    asked = queries
    if model.is_narrow:
        centre = queries.mean(axis=0)
        vectors, asked = vectors - centre, _unit(queries - centre)
        np.save(work / "text" / CENTRE, centre)
    vectors = _unit(vectors)
    axes = colour_axes(np.concatenate([vectors, asked] if model.is_narrow else [vectors, asked, passages]))
    vectors = _unit(np.asarray(vectors - vectors @ axes.T @ axes, dtype=np.float32))
    np.save(visual / LABELS, vectors)
    np.save(visual / AXES, axes)
    np.save(work / "text" / AXES, axes)
    facts = read_meta(work / "text")
    write_meta(work / "text", **{name: facts[name] for name in facts if name not in ("format", "files")})
    shown = {"model": LITE_VISUAL, "dimensions": encoder.dim, "size_px": SIZE_PX}
    write_meta(visual, **shown)
    if model.is_narrow:
        images = _add_label_map(visual)
        write_meta(visual, **shown)
        material = LiteImageEncoder.open(visual).encode_images(images)
    else:
        material = calibration_vectors(vectors, axes)
    (visual / PROTOTYPES).unlink()
    write_meta(visual, **shown)
    arrays = _prior_arrays({"visual": (asked, material), "text": (queries, passages)})
    np.savez(work / "prior.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub allows only bools


def _add_label_map(visual: Path) -> list[Pixels]:
    """Write the linear map of logits to label vectors, see `image.LABEL_MAP`; return the images that it is centred by.

    The closed-form ridge regression from the classifier's prototypes, its weights (n_labels, n_features), to the label
    vectors: features @ P.T @ inverse(P @ P.T + ridge) @ labels, where features @ P.T are the logits without their
    biases. These are the same for all images, so that centring takes them out.
    """
    encoder, images = LiteImageEncoder.open(visual), list(calibration_images(SIZE_PX))
    labels, prototypes = np.load(visual / LABELS), np.load(visual / PROTOTYPES).astype(np.float64)
    kernel = prototypes @ prototypes.T + RIDGE * np.eye(len(prototypes))
    matrix = np.linalg.solve(kernel, labels - labels.mean(axis=0))  # (n_labels, dim)
    logits = encoder.logits([crops(image, SIZE_PX) for image in images])
    mixed = np.stack([conse(each, labels) for each in logits])
    mapped = np.stack([each.mean(axis=0) for each in logits]) @ matrix
    scale = _length(mixed - mixed.mean(axis=0)) / _length(mapped - mapped.mean(axis=0))
    offset = mixed.mean(axis=0) - scale * mapped.mean(axis=0)
    np.save(visual / LABEL_MAP, np.vstack([scale * matrix, offset]).astype(np.float32))
    return images


def _length(rows: NDArray[np.float64] | FloatArray) -> float:
    """Return the root mean square length of rows."""
    return float(np.sqrt(np.mean(np.sum(rows**2, axis=1))))


def _prior_arrays(material: Mapping[ModelKind, tuple[FloatArray, FloatArray]]) -> dict[str, FloatArray]:
    """Return mean, query_mean, spread and background of each model. material: background queries, unrelated vectors."""
    arrays: dict[str, FloatArray] = {}
    for kind, (queries, rows) in material.items():
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
