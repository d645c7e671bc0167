"""What is known of a modality before any library: how material in general scores with questions that do not mean it.

Two banks of text ship with the package: background.txt (questions) and sentences.txt (what people say and write).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from vfindex.indexer.models.base import ImageEncoder
from vfindex.indexer.models.calibration_images import general_pictures
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import ModelError
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import FloatArray

# Beside an exported text model: `queries`, the vectors of background.txt, and `passages`, those of sentences.txt.
BANKS = "banks.npz"


def background_queries() -> list[str]:
    """Return questions of every kind, none of them about the library at hand."""
    return _lines("background.txt")


def sentences() -> list[str]:
    """Return sentences as they are said or written."""
    return _lines("sentences.txt")


def bank(name: str) -> str:
    """Return the text of one of the package's banks."""
    return (resources.files("vfindex.indexer.models") / name).read_text(encoding="utf-8")


def estimate_prior(queries: FloatArray, material: FloatArray, *, centred: bool, weight: float) -> ModalityPrior:
    """Return the prior that background queries (n, dim) and unrelated material (m, dim) give.

    centred: take the queries' mean off every query. It helps among sentences; among pictures it acts as a correction of
    hubness, which costs ranking, so that nu = 0 there, and they rank by plain cosine.
    """
    query_mean = queries.mean(axis=0) if centred else np.zeros_like(queries[0])
    mean = material.mean(axis=0)
    scores = (queries - query_mean) @ (material - mean).T
    spread = float(np.sqrt(np.mean(scores**2, dtype=np.float32)))
    return ModalityPrior(mean, query_mean, spread, background=queries, weight=weight)


def save_banks(encoder: TextEncoder, path: Path, *, passages: bool) -> None:
    """Write the vectors of the background queries, as the model's first template has them, and those of sentences.

    passages: the sentences too, which a model of pictures does not need.
    """
    template = encoder.templates[0]
    queries = encoder.encode([template.replace("{}", query) for query in background_queries()])
    said = encoder.encode_passages(sentences() if passages else [])
    np.savez(path, queries=queries, passages=said)


def sentence_prior(text_folder: Path, weight: float) -> ModalityPrior:
    """Return the prior of speech and of text for a sentence model. text_folder: as `towers.ensure_sentence` gives it.

    weight: w_m where the user names none.
    """
    queries, passages = _load_banks(text_folder)
    return estimate_prior(queries, passages, centred=True, weight=weight)


def clip_prior(encoder: ImageEncoder, text_folder: Path, weight: float) -> ModalityPrior:
    """Return the prior of pictures for a model whose text tower `towers.ensure_clip_text` has exported.

    Encodes some 50 pictures. weight: w_m where the user names none.
    """
    queries, _ = _load_banks(text_folder)
    pictures = encoder.encode_images(list(general_pictures(encoder.size_px)))
    return estimate_prior(queries, pictures, centred=False, weight=weight)


def _load_banks(text_folder: Path) -> tuple[FloatArray, FloatArray]:
    path = text_folder.parent / BANKS
    try:
        with np.load(path, allow_pickle=False) as data:
            return data["queries"], data["passages"]
    except (OSError, ValueError, KeyError) as exc:
        raise ModelError(f"{path}: cannot be read; remove this folder and run the command again") from exc


def _lines(name: str) -> list[str]:
    return [line for line in bank(name).splitlines() if line.strip()]
