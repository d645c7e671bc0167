"""Priors of images and sentences, from hand-written vectors; export/test_exports.py has those of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vfindex.indexer.models.base import Pixels
from vfindex.indexer.models.export import calibration_images as calibration_images_module
from vfindex.indexer.models.export.calibration_images import CROPS, PHOTOGRAPHS, calibration_images
from vfindex.indexer.models.priors import (
    CORPUS_VECTORS,
    IMAGE_VECTORS,
    background_queries,
    estimate_prior,
    sentences,
    text_prior,
    visual_prior,
)
from vfindex.storage.errors import ModelError, VfindexError
from vfindex.storage.records import FloatArray


class MeanColour:
    """An encoder whose vector is an image's mean colour."""

    size_px, dim, batch_frames = 32, 3, 4

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        rows = np.stack([frame.mean(axis=(0, 1)) for frame in frames])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """Return a text model's folder, with the vectors of the corpora."""
    queries = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    passages = np.array([[0, 0, 1], [0.6, 0, 0.8]], dtype=np.float32)
    np.savez(tmp_path / CORPUS_VECTORS, queries=queries, passages=passages)
    return tmp_path / "model"


def test_the_spread_is_that_of_centred_scores() -> None:
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    material = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    plain = estimate_prior(queries, material, centred=False, weight=0.5)
    assert plain.query_mean.tolist() == plain.mean.tolist() == [0, 0]
    assert plain.spread == pytest.approx(np.sqrt(0.5))  # scores 1, -1, 0 and 0
    centred = estimate_prior(queries, material, centred=True, weight=0.5)
    assert centred.query_mean.tolist() == [0.5, 0.5]
    assert centred.spread == pytest.approx(0.5)


def test_image_queries_are_not_centred(text_folder: Path) -> None:
    prior = visual_prior(MeanColour, text_folder, 0.9)
    assert not prior.query_mean.any() and prior.weight == 0.9
    rows = MeanColour().encode_images(list(calibration_images(32)))
    assert np.allclose(prior.mean, rows.mean(axis=0))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", None])
def test_the_second_library_of_a_model_does_not_open_it(text_folder: Path, damage: bytes | None) -> None:
    opened: list[MeanColour] = []

    def open_encoder() -> MeanColour:
        opened.append(MeanColour())
        return opened[-1]

    first, again = (visual_prior(open_encoder, text_folder, 0.9) for _ in range(2))
    assert len(opened) == 1
    assert np.array_equal(again.mean, first.mean) and again.spread == first.spread
    kept = text_folder.parent / IMAGE_VECTORS
    if damage is None:
        kept.unlink()
    else:
        kept.write_bytes(damage)
    assert np.array_equal(visual_prior(open_encoder, text_folder, 0.9).mean, first.mean)
    assert len(opened) == 2


def test_text_queries_are_centred(text_folder: Path) -> None:
    prior = text_prior(text_folder, 0.4)
    assert prior.query_mean.tolist() == [0.5, 0.5, 0]
    assert np.allclose(prior.mean, [0.3, 0, 0.9])


def test_missing_corpus_vectors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=CORPUS_VECTORS):
        text_prior(tmp_path / "model", 1.0)


def test_calibration_images_are_distinct_16_9_frames() -> None:
    frames = list(calibration_images(36))
    assert len(frames) == len(PHOTOGRAPHS) * len(CROPS)
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((36, 64, 3), "uint8")}
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_a_missing_photograph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_images_module, "photograph_folder", lambda: tmp_path)
    with pytest.raises(VfindexError, match=PHOTOGRAPHS[0]):
        next(calibration_images(36))


def test_the_corpora_contain_text() -> None:
    assert len(background_queries()) > 100 and len(sentences()) > 50
    assert all(line == line.strip() for line in background_queries() + sentences())
