"""Photographs from the package scikit-image, which need no download: they calibrate image models and fill the demo."""

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
# Crops of each photograph as centre x, centre y and share of the largest 16:9 crop.
ASPECT = 16 / 9
CROPS = ((0.5, 0.5, 1.0), (0.3, 0.35, 0.6), (0.7, 0.35, 0.6), (0.5, 0.7, 0.6))


def calibration_images(size_px: int) -> Iterator[Pixels]:
    """Yield crops of the photographs as 16:9 frames, uint8 RGB, the short side `size_px`. Raises VfindexError."""
    folder = photograph_folder()
    side = (round(size_px * ASPECT), size_px)
    for name in PHOTOGRAPHS:
        photograph = open_photograph(folder / name)
        for crop in CROPS:
            box = crop_box(photograph.size, *crop)
            yield np.asarray(photograph.resize(side, Image.Resampling.BICUBIC, box=box))


def photograph_folder() -> Path:
    """Return the photographs' folder, without importing scikit-image, which takes a second. Raises VfindexError."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise VfindexError("scikit-image is not installed; run: pip install 'vfindex[index]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def open_photograph(path: Path) -> Image.Image:
    """Return a photograph as RGB. Raises VfindexError."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except OSError as exc:
        raise VfindexError(
            f"{path}: the photograph cannot be read; run pip install --force-reinstall scikit-image"
        ) from exc


def crop_box(size: tuple[int, int], x: float, y: float, share: float) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) in pixels of a 16:9 crop, moved inside the image if its centre is too close."""
    width = share * min(size[0], size[1] * ASPECT)
    height = width / ASPECT
    left = min(max(x * size[0] - width / 2, 0.0), size[0] - width)
    top = min(max(y * size[1] - height / 2, 0.0), size[1] - height)
    return left, top, min(left + width, size[0]), min(top + height, size[1])
