"""Contact sheets: one row per query, one tile per hit with file, time and score."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

TILE_WIDTH_PX, TILE_HEIGHT_PX = 320, 180
COLUMNS = 4
_MARGIN_PX = 28
_GAP_PX = 18
_TITLE_PX, _HEADING_PX, _CAPTION_PX = 30, 21, 16
_LINE = 1.35  # line height over letter height
_PAPER, _INK, _FAINT_INK, _RULE, _FRAME = "#fbfaf8", "#1d1d1f", "#6a6a70", "#dcd9d3", "#26262a"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Tile:
    """A hit. picture: an encoded image (WebP, PNG, JPEG) or None. lines: text below, the first in dark ink."""

    picture: bytes | None
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A query and its hits, best first, four per line."""

    heading: str
    tiles: tuple[Tile, ...]


def contact_sheet(rows: Sequence[Row], path: Path | BinaryIO, title: str) -> None:
    """Write the rows as a PNG, below a title.

    Text that is too wide is cut with an ellipsis; letters missing from Pillow's default font show as boxes. A missing
    or unreadable picture shows as an empty frame. Raises OSError if `path` cannot be written.
    """
    lines = max((len(tile.lines) for row in rows for tile in row.tiles), default=0)
    columns = min(max((len(row.tiles) for row in rows), default=1) or 1, COLUMNS)
    width = 2 * _MARGIN_PX + columns * TILE_WIDTH_PX + (columns - 1) * _GAP_PX
    tile_height = TILE_HEIGHT_PX + 8 + _pitch(_CAPTION_PX) * lines + _GAP_PX
    height = _MARGIN_PX + _pitch(_TITLE_PX) + _MARGIN_PX // 2
    height += sum(_heading_height() + -(-len(row.tiles) // columns) * tile_height for row in rows) + _MARGIN_PX // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN_PX, _MARGIN_PX), title, _TITLE_PX, _INK, width - 2 * _MARGIN_PX)
    top = _MARGIN_PX + _pitch(_TITLE_PX) + _MARGIN_PX // 2
    for row in rows:
        draw.line((_MARGIN_PX, top, width - _MARGIN_PX, top), fill=_RULE)
        _write(draw, (_MARGIN_PX, top + 12), row.heading, _HEADING_PX, _INK, width - 2 * _MARGIN_PX)
        top += _heading_height()
        for first in range(0, len(row.tiles), columns):
            for column, tile in enumerate(row.tiles[first : first + columns]):
                _draw_tile(sheet, draw, (_MARGIN_PX + column * (TILE_WIDTH_PX + _GAP_PX), top), tile)
            top += tile_height
    sheet.save(path, "PNG", optimize=True)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], tile: Tile) -> None:
    left, top = corner
    draw.rectangle((left, top, left + TILE_WIDTH_PX - 1, top + TILE_HEIGHT_PX - 1), fill=_FRAME)
    picture = _picture(tile.picture)
    if picture is None:
        place = (left + 12, top + TILE_HEIGHT_PX // 2 - _CAPTION_PX)
        _write(draw, place, "no picture", _CAPTION_PX, _RULE, TILE_WIDTH_PX - 24)
    else:
        inset = (TILE_WIDTH_PX - picture.width) // 2, (TILE_HEIGHT_PX - picture.height) // 2
        sheet.paste(picture, (left + inset[0], top + inset[1]))
    for number, line in enumerate(tile.lines):
        place = (left, top + TILE_HEIGHT_PX + 8 + number * _pitch(_CAPTION_PX))
        _write(draw, place, line, _CAPTION_PX, _FAINT_INK if number else _INK, TILE_WIDTH_PX)


def _picture(encoded: bytes | None) -> Image.Image | None:
    """Return the picture as RGB at the largest size that fits a tile; None if it is missing or unreadable."""
    if encoded is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded), formats=("WEBP", "PNG", "JPEG")) as file:
            picture = file.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
    scale = min(TILE_WIDTH_PX / picture.width, TILE_HEIGHT_PX / picture.height)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size_px: int, ink: str, width_px: int) -> None:
    """Draw one line, cut to `width_px`."""
    font: _Font = ImageFont.load_default(size_px)
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in text)[:500]
    if draw.textlength(text, font) > width_px:
        while text and draw.textlength(text + "\N{HORIZONTAL ELLIPSIS}", font) > width_px:
            text = text[:-1]
        text += "\N{HORIZONTAL ELLIPSIS}"
    draw.text(place, text, fill=ink, font=font)


def _pitch(size_px: int) -> int:
    return round(size_px * _LINE)


def _heading_height() -> int:
    return 12 + _pitch(_HEADING_PX) + 8
