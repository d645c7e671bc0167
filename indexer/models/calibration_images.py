"""The photographs inside scikit-image, which need no download: for the demo, and for pictures in general."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vfindex.storage.errors import VfindexError

if TYPE_CHECKING:
    from vfindex.indexer.models.base import Pixels

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "rocket.jpg",
)
# Rectangles of a video's shape in each photograph, as centre and share of the largest: that one, and three closer.
ASPECT = 16 / 9
VIEWS = ((0.5, 0.5, 1.0), (0.3, 0.35, 0.6), (0.7, 0.35, 0.6), (0.5, 0.7, 0.6))


def general_pictures(size_px: int) -> Iterator[Pixels]:
    """Yield views of photographs as frames of 16:9, uint8 RGB, the short side `size_px`. Raises VfindexError."""
    folder = photograph_folder()
    side = (round(size_px * ASPECT), size_px)
    for name in PHOTOGRAPHS:
        try:
            with Image.open(folder / name) as file:
                photograph = file.convert("RGB")
        except OSError as exc:
            raise VfindexError(
                f"{folder / name}: the photograph cannot be read; run pip install --force-reinstall scikit-image"
            ) from exc
        for x, y, share in VIEWS:
            box = _box(photograph.size, x, y, share)
            yield np.asarray(photograph.resize(side, Image.Resampling.BICUBIC, box=box))


def photograph_folder() -> Path:
    """Return the folder of photographs in scikit-image, found without importing it (which takes a second).

    Raises VfindexError if it is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise VfindexError("the photographs of scikit-image are needed: run pip install scikit-image")
    return Path(spec.submodule_search_locations[0]) / "data"


def _box(size: tuple[int, int], x: float, y: float, share: float) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) in pixels of a view inside a picture, its centre at (x, y) where it fits."""
    width = share * min(size[0], size[1] * ASPECT)
    height = width / ASPECT
    left = min(max(x * size[0] - width / 2, 0.0), size[0] - width)
    top = min(max(y * size[1] - height / 2, 0.0), size[1] - height)
    return left, top, left + width, top + height
