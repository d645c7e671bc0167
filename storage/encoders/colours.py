"""Colours of images and of queries: shares of eleven colour names, and their vectors.

The eleven are the basic colour terms of English (Berlin and Kay 1969); other languages have names for them, too. Object
labels do not include colours, and sentence models place colour names close together, so "red car" would find any car.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# Name -> sRGB as most people gave it this name: the colour survey of xkcd (Munroe 2010).
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (146, 149, 145),
    "red": (229, 0, 0),
    "green": (21, 176, 26),
    "blue": (3, 67, 223),
    "yellow": (255, 255, 20),
    "orange": (249, 115, 6),
    "brown": (101, 55, 0),
    "pink": (255, 129, 192),
    "purple": (126, 30, 156),
}
# Further names, and the nearest of the eleven colours.
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "gray": ("grey",),
    "silver": ("grey",),
    "gold": ("yellow",),
    "golden": ("yellow",),
    "blond": ("yellow",),
    "blonde": ("yellow",),
    "crimson": ("red",),
    "scarlet": ("red",),
    "navy": ("blue",),
    "turquoise": ("blue", "green"),
    "teal": ("blue", "green"),
    "cyan": ("blue", "green"),
    "violet": ("purple",),
    "magenta": ("pink", "purple"),
    "beige": ("brown", "white"),
}
# The eleven in French, Spanish, Chinese and Japanese, and the stems of the German adjectives. Missing are French "rose"
# and, see GERMAN_ENDINGS, German "rot": they are other words in English.
FURTHER_NAMES: Mapping[str, str] = {
    "black": "noir noire noirs noires negro negra negros negras 黑色 黒 黒色",
    "white": "blanc blanche blancs blanches blanco blanca blancos blancas 白色 白",
    "grey": "gris grise grises 灰色 灰",
    "red": "rouge rouges rojo roja rojos rojas 红色 紅色 赤 赤色",
    "green": "vert verte verts vertes verde verdes 绿色 綠色 緑 緑色",
    "blue": "bleu bleue bleus bleues azul azules 蓝色 藍色 青 青色",
    "yellow": "jaune jaunes doré dorée dorés dorées amarillo amarilla amarillos amarillas dorado dorada 黄色 黄 金色",
    "orange": "naranja naranjas 橙色 橘色 橙",
    "brown": "marron brun brune bruns brunes marrón marrones 棕色 褐色 茶色",
    "pink": "rosa rosas 粉色 粉红 桃色 ピンク",
    "purple": "lila violette violets violettes morado morada morados moradas 紫色 紫",
}
GERMAN_STEMS = {
    "black": "schwarz",
    "white": "weiß",
    "grey": "grau",
    "red": "rot",
    "green": "grün",
    "blue": "blau",
    "yellow": "gelb",
    "brown": "braun",
    "purple": "violett",
}
GERMAN_ENDINGS = ("", "e", "er", "es", "en", "em")
# A colour farther away by this distance in CIELAB counts e times less. Measured, docs/decisions/lite.md: 1 to 24 rank
# alike.
SOFTNESS = 16.0
# Length of the colour part of an image vector; the content has the rest of the unit length.
# Measured, docs/decisions/lite.md: 0.15 to 0.25 rank alike.
COLOUR_LENGTH = 0.2
# Pixels sampled per frame; four times as many give the same shares to 0.01.
SAMPLE_PIXELS = 5000
# From linear sRGB to XYZ relative to the D65 white point (IEC 61966-2-1), then to CIELAB (CIE 15).
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = _XYZ.sum(axis=1)


def colour_shares(pixels: NDArray[np.uint8]) -> FloatArray:
    """Return the share of an image's pixels in each of COLOURS: (11,) float32, summing to 1.

    pixels: (height, width, 3) uint8 sRGB.
    """
    stride = max(1, int((pixels.shape[0] * pixels.shape[1] / SAMPLE_PIXELS) ** 0.5))
    sample = _cielab(pixels[::stride, ::stride].reshape(-1, 3))  # (n, 3)
    far = np.linalg.norm(sample[:, None] - _FOCI[None], axis=2)  # (n, 11)
    near = np.exp((far.min(axis=1, keepdims=True) - far) / SOFTNESS)
    return np.asarray((near / near.sum(axis=1, keepdims=True)).mean(axis=0), dtype=np.float32)


def colours_named(words: Iterable[str]) -> FloatArray:
    """Return the colours named by the words, in equal shares: (11,) float32, summing to 1, or all 0."""
    lower = [word.casefold() for word in words]
    named = {colour for word in lower for colour in _NAMES.get(word, (word,))}
    mask = np.array([colour in named for colour in COLOURS], dtype=np.float32)
    return mask / max(1.0, float(mask.sum()))


def colour_axes(texts: FloatArray) -> FloatArray:
    """Return eleven orthonormal directions (11, dim) in which these texts hardly vary.

    texts: (n, dim) unit rows. Colours stored along them do not disturb text similarity. Computed from the first eleven
    axes by the squared inverse of the texts' second moments, which favours directions of low energy. This is a smooth
    function of the moments, so rounding differences between machines do not change it, unlike eigenvectors.
    """
    rows = texts.astype(np.float64)
    moments = rows.T @ rows / len(rows)
    dim = len(moments)
    inverse = np.linalg.inv(moments + _RIDGE * np.trace(moments) / dim * np.eye(dim))
    left, _, right = np.linalg.svd((inverse @ inverse)[: len(COLOURS)], full_matrices=False)
    return np.asarray(left @ right, dtype=np.float32)  # the nearest orthonormal rows


def colour_vector(shares: FloatArray, axes: FloatArray) -> FloatArray:
    """Return shares as a vector (dim,) whose inner product with another is their Bhattacharyya coefficient."""
    return np.asarray(np.sqrt(shares) @ axes, dtype=np.float32)


def with_colours(shown: FloatArray, colours: FloatArray) -> FloatArray:
    """Return image vectors, (dim,) or rows (n, dim), with their colours added along orthogonal axes."""
    return np.asarray((1 - COLOUR_LENGTH**2) ** 0.5 * shown + COLOUR_LENGTH * colours, dtype=np.float32)


def _cielab(srgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return L*, a*, b* (n, 3) of 8-bit sRGB values (n, 3)."""
    coded = srgb.astype(np.float64) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def _names() -> dict[str, tuple[str, ...]]:
    """Return casefolded name -> the nearest of the eleven colours."""
    names = {word.casefold(): (colour,) for colour, words in FURTHER_NAMES.items() for word in words.split()}
    names |= {
        f"{stem}{ending}".casefold(): (colour,) for colour, stem in GERMAN_STEMS.items() for ending in GERMAN_ENDINGS
    }
    del names["rot"]
    return names | dict(OTHER_NAMES)


_NAMES = _names()
# Regularisation, as a share of the mean energy of an axis: noise of 1e-5 in every number moves the directions by 1e-6.
_RIDGE = 0.01
_FOCI = _cielab(np.array(list(COLOURS.values())))
