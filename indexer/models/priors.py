"""Score calibration before any library exists: what background queries score against unrelated material.

Three corpora ship with the package: background.txt (queries), sentences.txt (speech and writing), languages.txt (the
same texts in twelve languages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

import numpy as np

from vfindex.indexer.models.base import ImageEncoder
from vfindex.indexer.models.export.calibration_images import calibration_images
from vfindex.storage.encoders.text import QUERY, TextEncoder
from vfindex.storage.errors import ModelError
from vfindex.storage.files.writes import replacing
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import FloatArray

# The vectors of both corpora, in the folder above an exported text model: arrays `queries` and `passages`.
CORPUS_VECTORS = "banks.npz"
# Beside them, for an image model: the vectors of `calibration_images`. The number changes with these.
IMAGE_VECTORS = "images-1.npy"
# Beside them, for a model of sounds: the vectors of `calibration_sounds`.
SOUND_VECTORS = "sounds.npy"


def background_queries() -> list[str]:
    """Return queries of every kind, none of them about a particular library."""
    return _lines("background.txt")


def sentences() -> list[str]:
    """Return sentences of ordinary speech and writing."""
    return _lines("sentences.txt")


def languages() -> list[list[str]]:
    """Return the same texts in twelve languages."""
    return [block.splitlines() for block in corpus("languages.txt").strip().split("\n\n")]


def corpus(name: str) -> str:
    """Return the text of a corpus file of the package."""
    return (resources.files("vfindex.indexer.models") / name).read_text(encoding="utf-8")


def prompted(texts: Sequence[str], encoder: TextEncoder) -> list[str]:
    """Return texts as the encoder's first template asks for queries."""
    return [encoder.templates[0].replace(QUERY, text) for text in texts]


def estimate_prior(queries: FloatArray, material: FloatArray, *, centred: bool, weight: float) -> ModalityPrior:
    """Return the prior of background queries (n, dim) against unrelated material (m, dim).

    centred: subtract the queries' mean from every query. This helps among sentences. Among images it corrects hubness
    at the cost of ranking, so there the mean is 0 and images rank by plain cosine.
    """
    query_mean = queries.mean(axis=0) if centred else np.zeros_like(queries[0])
    mean = material.mean(axis=0)
    scores = (queries - query_mean) @ (material - mean).T
    spread = float(np.sqrt(np.mean(scores**2, dtype=np.float32)))
    return ModalityPrior(mean, query_mean, spread, background=queries, weight=weight)


def save_corpus_vectors(encoder: TextEncoder, folder: Path, *, passages: bool) -> None:
    """Write the vectors of the background queries, in the model's first template, and of the sentences.

    passages: include the sentences, which an image model does not need.
    """
    queries = encoder.encode(prompted(background_queries(), encoder))
    encoded = encoder.encode_passages(sentences() if passages else [])
    np.savez(folder / CORPUS_VECTORS, queries=queries, passages=encoded)


def text_prior(text_folder: Path, weight: float) -> ModalityPrior:
    """Return the prior of speech and of text. text_folder: an exported sentence model. weight: default w_m."""
    queries, passages = _load_corpus_vectors(text_folder)
    return estimate_prior(queries, passages, centred=True, weight=weight)


def visual_prior(open_encoder: Callable[[], ImageEncoder], text_folder: Path, weight: float) -> ModalityPrior:
    """Return the prior of the visual modality; encodes some 50 images the first time, and keeps their vectors.

    text_folder: the exported text side of the same model, in the folder of the vectors. weight: default w_m.
    """
    queries, _ = _load_corpus_vectors(text_folder)
    path = text_folder.parent / IMAGE_VECTORS
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        encoder = open_encoder()
        images = encoder.encode_images(list(calibration_images(encoder.size_px)))
        with suppress(OSError), replacing(path) as file:  # where it cannot be kept, the next library encodes them again
            np.save(file, images)
    return estimate_prior(queries, images, centred=False, weight=weight)


def audio_prior(text_folder: Path, weight: float) -> ModalityPrior:
    """Return the prior of the audio modality. text_folder: the exported text side. weight: default w_m."""
    queries, _ = _load_corpus_vectors(text_folder)
    with _reading(text_folder.parent / SOUND_VECTORS) as path:
        sounds = np.load(path, allow_pickle=False)
    return estimate_prior(queries, sounds, centred=False, weight=weight)


def _load_corpus_vectors(text_folder: Path) -> tuple[FloatArray, FloatArray]:
    with _reading(text_folder.parent / CORPUS_VECTORS) as path, np.load(path, allow_pickle=False) as data:
        return data["queries"], data["passages"]


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(f"{path}: cannot be read; remove this folder and run the command again") from exc


def _lines(name: str) -> list[str]:
    return [line for line in corpus(name).splitlines() if line.strip()]
