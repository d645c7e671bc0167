"""Text in a picture: what is read, where it stands, and what is said where a model is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from written import Picture, picture

from vfindex.indexer.extractors import ocr as ocr_module
from vfindex.indexer.extractors.ocr import DETECTION, MIN_LINE_PX, RECOGNITION, Ocr, Place
from vfindex.storage.errors import ModelError

SURE = 0.8


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    pytest.importorskip("rapidocr")
    return Ocr.open(2)


def read(ocr: Ocr, pixels: Picture) -> list[str]:
    """Return what is read for sure, from top to bottom."""
    found = [ocr.read(pixels, place) for place in ocr.find(pixels)]
    return [text for text, confidence in found if text and confidence >= SURE]


@pytest.mark.parametrize(
    "text", ["Software Engineer", "Größe: 42 Äpfel", "Café à Orléans", "from rivet_di import run()", "1.213 s"]
)
def test_latin_text_is_read_as_it_stands(ocr: Ocr, text: str) -> None:
    assert read(ocr, picture((text, 40, 150))) == [text]


def test_lines_are_read_from_top_to_bottom_in_any_colour(ocr: Ocr) -> None:
    pixels = picture(("MUSEUM", 40, 40), ("open daily", 40, 140), ("from ten to six", 40, 240))
    assert read(ocr, pixels) == read(ocr, 255 - pixels) == ["MUSEUM", "open daily", "from ten to six"]


def test_a_script_that_the_model_does_not_know_gives_no_nonsense(ocr: Ocr) -> None:
    assert read(ocr, picture(("ПРИВЕТ МИР", 40, 150))) == []


def test_the_box_says_where_a_line_stands(ocr: Ocr) -> None:
    [place] = ocr.find(picture(("MUSEUM", 480, 310)))
    left, top, right, bottom = place.box
    assert 0.7 < left < 0.78 and 0.82 < top < 0.9 and 0.9 < right <= 1.0 and 0.9 < bottom <= 1.0


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_line_turned_by_a_quarter_is_read(ocr: Ocr, quarters: int) -> None:
    upright = np.ascontiguousarray(np.rot90(picture(("VINEYARD STREET", 150, 160)), quarters))
    assert read(ocr, upright) == ["VINEYARD STREET"]


def test_text_in_a_vertical_video_is_read(ocr: Ocr) -> None:
    pixels = picture(("Kontrolle", 30, 900), size=(360, 1280), size_px=24)
    assert read(ocr, pixels) == ["Kontrolle"]


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (16, 16), (1280, 1), (1280, 9)])
def test_tiny_and_narrow_pictures_are_no_trouble(ocr: Ocr, size: tuple[int, int]) -> None:
    assert read(ocr, np.full((size[1], size[0], 3), 90, np.uint8)) == []


def test_noise_says_nothing(ocr: Ocr) -> None:
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 255, (360, 640, 3), dtype=np.uint8)
        assert not [text for text in read(ocr, noise) if sum(map(str.isalnum, text)) > 1]


def test_how_much_of_the_recogniser_a_line_takes() -> None:
    def place(wide: float, high: float) -> Place | None:
        corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
        return Place.of(corners, (720, 1280, 3))

    assert place(1280, MIN_LINE_PX - 1) is None
    long, short, upright = place(1280, MIN_LINE_PX), place(20, 20), place(20, 200)
    assert long is not None and short is not None and upright is not None
    assert (long.columns, short.columns, upright.columns) == (7680, 160, 2 * 480)
    assert (long.box, upright.is_upright, short.is_upright) == ((0, 0, 1, round(8 / 720, 4)), True, False)


def test_the_limit_on_threads_holds(ocr: Ocr) -> None:
    for part in (ocr._detector, ocr._recogniser):
        options = part.session.session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_without_the_extra_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr_module, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs rapidocr, not installed here; run: pip install 'vfindex\[ocr\]'"):
        Ocr.open(1)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_model_is_refused_and_none_is_downloaded(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rapidocr")
    (tmp_path / "models").mkdir()
    if damage == "changed":
        for name in (DETECTION, RECOGNITION):
            (tmp_path / "models" / name).write_bytes(b"not a model")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(ocr_module, "find_spec", lambda _: spec)
    with pytest.raises(ModelError, match=r"pip install --force-reinstall --no-deps rapidocr==3\.10\.0"):
        Ocr.open(1)


def test_a_failure_of_the_runtime_is_a_sentence(ocr: Ocr) -> None:
    from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError

    def failing(_: object) -> None:
        try:
            raise RuntimeError("failed to allocate memory\n at line 7")
        except RuntimeError as exc:
            raise ONNXRuntimeError("a traceback") from exc

    with pytest.raises(ModelError, match=r"text on the screen cannot be read: failed to allocate memory$"):
        Ocr(failing, failing).find(picture(("MUSEUM", 40, 40)))
