"""Contact sheets: every hit has a tile, whatever its image and text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from vfindex.cli.render.contact_sheet import Row, Tile, contact_sheet


def picture(colour: str, size: tuple[int, int] = (320, 180), kind: str = "WEBP") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, kind, lossless=True)
    return encoded.getvalue()


def draw(path: Path, *rows: Row, title: str = "title") -> Image.Image:
    contact_sheet(rows, path / "sheet.png", title)
    with Image.open(path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        return sheet.convert("RGB")


def area(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return sum(count for count, found in sheet.getcolors(1 << 24) or [] if found == colour)


def test_tiles_show_whole_images_in_order(tmp_path: Path) -> None:
    row = Row("question", (Tile(picture("red"), ("a",)), Tile(picture("blue"), ("b",)), Tile(picture("lime"), ("c",))))
    sheet = draw(tmp_path, row, row)
    for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0)):
        assert area(sheet, colour) == 2 * 320 * 180
    middle = [sheet.getpixel((28 + 160 + column * 338, sheet.height // 3)) for column in range(3)]
    assert middle == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


def test_odd_shapes_are_fitted(tmp_path: Path) -> None:
    tall, small = Tile(picture("red", (90, 360)), ()), Tile(picture("blue", (2, 2), "PNG"), ())
    sheet = draw(tmp_path, Row("q", (tall, small)))
    assert area(sheet, (255, 0, 0)) == 45 * 180
    assert area(sheet, (0, 0, 255)) == 180 * 180


def test_more_than_four_hits_continue_below(tmp_path: Path) -> None:
    tile = Tile(picture("red"), ("line",))
    four, five = (draw(tmp_path, Row("q", (tile,) * count)) for count in (4, 5))
    assert five.width == four.width and five.height > four.height + 180
    assert area(five, (255, 0, 0)) == 5 * 320 * 180


@pytest.mark.parametrize("junk", [None, b"", b"junk", picture("red")[:40]])
def test_missing_and_broken_thumbnails_leave_an_empty_frame(tmp_path: Path, junk: bytes | None) -> None:
    assert area(draw(tmp_path, Row("q", (Tile(junk, ("x",)),))), (0x26, 0x26, 0x2A)) > 50_000


def test_any_words_are_drawn(tmp_path: Path) -> None:
    words = ("long " * 5_000, "映像 \x1b[31m\n", "", "a")
    sheet = draw(tmp_path, Row("heading " * 1_000, (Tile(None, words),)), title="")
    assert sheet.width == 2 * 28 + 320


def test_no_hits_are_an_empty_sheet(tmp_path: Path) -> None:
    assert draw(tmp_path, Row("nothing found", ())).height > 0
    assert draw(tmp_path).height > 0
