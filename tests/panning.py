"""Pans over one wide picture: clips that differ in the order of their frames alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from library_maker import SETUP, add_video
from numpy.typing import NDArray

from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing

Pixels = NDArray[np.uint8]
# Frames of a pan -> their vectors (n, dim), of length 1.
Encode = Callable[[list[Pixels]], FloatArray]
DIRECTIONS = ("left", "right")
_NOISE = 12.0  # of a pixel's value, so that no two frames are equal


def wide_picture(side_px: int, seed: int = 0) -> NDArray[np.float64]:
    """Return a picture (side_px, 5 * side_px, 3) of colours that drift along it, 0 to 255."""
    steps = np.random.default_rng(seed).standard_normal((side_px, 5 * side_px, 3))
    drift = np.cumsum(np.cumsum(steps, axis=0) / side_px**0.5, axis=1)
    return np.asarray(255 * (drift - drift.min()) / (drift.max() - drift.min()))


def pan(picture: NDArray[np.float64], direction: str, generator: np.random.Generator) -> list[Pixels]:
    """Return 6 to 12 square frames over 0.4 to 0.9 of the picture's width, from anywhere, noisy."""
    side_px, width_px, _ = picture.shape
    sweep = generator.uniform(0.4, 0.9) * (width_px - side_px)
    start = generator.uniform(0, width_px - side_px - sweep)
    places = np.linspace(start, start + sweep, int(generator.integers(6, 13)))
    if direction == "left":
        places = places[::-1]
    frames = [picture[:, int(place) : int(place) + side_px] for place in places]
    return [np.clip(f + _NOISE * generator.standard_normal(f.shape), 0, 255).astype(np.uint8) for f in frames]


def fixed_encoder(side_px: int, dim: int = 32) -> Encode:
    """Return an encoder by random weights: means of 8 x 8 cells, projected, rectified."""
    weights = np.random.default_rng(1).standard_normal((8 * 8 * 3, dim))

    def encode(frames: list[Pixels]) -> FloatArray:
        cells = np.stack(frames).reshape(-1, 8, side_px // 8, 8, side_px // 8, 3).mean(axis=(2, 4)) / 255 - 0.5
        rows = np.maximum(cells.reshape(len(frames), -1) @ weights, 0)
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)

    return encode


def pan_library(folder: Path, videos: int, encode: Encode, side_px: int = 32) -> Path:
    """Make a library of videos of one clip each, half of them pans to the left: `left 0.mp4`, `right 1.mp4` ..."""
    picture, generator = wide_picture(side_px), np.random.default_rng(2)
    clips = []
    for number in range(videos):
        direction = DIRECTIONS[number % 2]
        vectors = encode(pan(picture, direction, generator))
        mean = vectors.mean(axis=0)
        visual = (mean / np.linalg.norm(mean)).astype(np.float32)
        times_s = np.linspace(0, 9, len(vectors))
        clips.append((f"{direction} {number}.mp4", Clip(0, 10, 0.0, {"visual": visual}, vectors, times_s)))
    visuals = np.stack([each.embeddings["visual"] for _, each in clips])
    centre = visuals.mean(axis=0)
    prior = ModalityPrior(centre, np.zeros_like(centre), 1 / len(centre) ** 0.5, visuals - centre, 1.0)
    with writing(folder) as writer:
        writer.install(SETUP, {"visual": prior}, {})
        for name, each in clips:
            add_video(writer, name, [each])
        writer.publish()
    return folder
