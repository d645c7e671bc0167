"""A confusion matrix as a picture, with a reliability diagram beside it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from vfindex.search.evaluation.classification import Classification

# A larger matrix has cells of fewer pixels, and no names; 400 classes are 1,600 px.
_MOST_NAMED = 60
_CELL_PX, _SMALL_PX, _NAME_PX, _MARGIN_PX, _PLOT_PX = 34, 4, 150, 24, 320
_PAPER, _INK, _RULE, _MARK = "#fbfaf8", "#1d1d1f", "#dcd9d3", "#b3541e"


def confusion_picture(found: Classification) -> bytes:
    """Return a PNG: rows are true classes, columns what was said, dark where many; then said against right."""
    counts, names = found.confusion(), found.classes
    is_named = len(names) <= _MOST_NAMED
    cell, left = (_CELL_PX, _NAME_PX) if is_named else (_SMALL_PX, _MARGIN_PX)
    size = cell * len(names)
    width, height = left + size + 3 * _MARGIN_PX + _PLOT_PX, max(left + size, left + _PLOT_PX) + 2 * _MARGIN_PX
    picture = Image.new("RGB", (width, height), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    for row in range(len(names)):
        for column in range(len(names)):
            ink = round(255 * (1 - float(shares[row, column])))
            x, y = left + column * cell, left + row * cell
            draw.rectangle(
                (x, y, x + cell - 1, y + cell - 1), fill=(ink, ink, 255), outline=_RULE if is_named else None
            )
            if is_named and counts[row, column]:
                colour = _PAPER if ink < 128 else _INK
                draw.text((x + 5, y + 9), str(counts[row, column]), fill=colour, font=font)
        if is_named:
            draw.text((8, left + row * cell + 9), names[row][:20], fill=_INK, font=font)
            draw.text((left + row * cell + 3, left - 18 - 16 * (row % 4)), names[row][:14], fill=_INK, font=font)
    _reliability(draw, found, (left + size + 2 * _MARGIN_PX, left))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _reliability(draw: ImageDraw.ImageDraw, found: Classification, at: tuple[int, int]) -> None:
    x, y = at
    draw.rectangle((x, y, x + _PLOT_PX, y + _PLOT_PX), outline=_RULE)
    draw.line((x, y + _PLOT_PX, x + _PLOT_PX, y), fill=_RULE)
    for each in found.reliability():
        if each.items:
            px, py = x + each.probability * _PLOT_PX, y + (1 - each.right) * _PLOT_PX
            radius = 3 + 9 * (each.items / len(found.truth)) ** 0.5
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=_MARK)
    draw.text(
        (x, y + _PLOT_PX + 6), "said (across) and right (up), by videos", fill=_INK, font=ImageFont.load_default(13)
    )
