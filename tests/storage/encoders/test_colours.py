"""Colours: images of one colour have its name, queries name colours, and the axes leave texts unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vfindex.storage.encoders.colours import (
    COLOURS,
    OTHER_NAMES,
    colour_axes,
    colour_shares,
    colour_vector,
    colours_named,
    with_colours,
)
from vfindex.storage.text.tokenizer import words_of

NAMES = list(COLOURS)


def plain(rgb: tuple[int, int, int], height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), rgb, dtype=np.uint8)


# As they come out of cameras: darker, paler or dirtier than the colour that people name first.
@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        *COLOURS.items(),
        ("red", (170, 30, 40)),
        ("green", (60, 140, 70)),
        ("blue", (40, 80, 180)),
        ("yellow", (225, 215, 60)),
        ("brown", (95, 60, 30)),
        ("grey", (110, 110, 115)),
    ],
)
def test_a_plain_picture_has_its_colour(name: str, rgb: tuple[int, int, int]) -> None:
    shares = colour_shares(plain(rgb))
    assert NAMES[int(shares.argmax())] == name


def test_shares_are_those_of_the_area() -> None:
    halves = np.concatenate([plain(COLOURS["red"]), plain(COLOURS["blue"])], axis=1)
    shares = dict(zip(NAMES, colour_shares(halves), strict=True))
    assert shares["red"] == pytest.approx(shares["blue"], abs=0.05)
    assert shares["red"] + shares["blue"] > 0.85


@given(arrays(np.uint8, st.tuples(st.integers(1, 90), st.integers(1, 90), st.just(3))))
def test_shares_sum_to_one(pixels: np.ndarray) -> None:
    shares = colour_shares(pixels)
    assert shares.shape == (11,) and (shares >= 0).all()
    assert shares.sum() == pytest.approx(1, abs=1e-5)


def test_questions_name_colours_in_equal_shares() -> None:
    assert not colours_named(["dog", "on", "grass"]).any()
    assert dict(zip(NAMES, colours_named(["Red", "car", "GRAY", "red"]), strict=True)) == {
        name: 0.5 if name in ("red", "grey") else 0.0 for name in NAMES
    }
    assert colours_named(["turquoise"]).sum() == pytest.approx(1)
    assert {colour for colours in OTHER_NAMES.values() for colour in colours} <= set(NAMES)


@pytest.mark.parametrize(
    ("query", "colour"),
    [
        ("Mann mit Bart spielt auf einem roten Schlagzeug", "red"),
        ("kleiner weißer flauschiger Hund", "white"),
        ("Weltraumteleskop mit goldenen Spiegeln", None),
        ("verser du café dans une tasse bleue", "blue"),
        ("miroirs hexagonaux dorés", "yellow"),
        ("perrito blanco y peludo", "white"),
        ("留胡子的男人在打一套红色的架子鼓", "red"),
        ("用细嘴壶往蓝色杯子里倒咖啡", "blue"),
        ("赤い花が咲くタイムラプス", "red"),
        ("青いマグカップ", "blue"),
        ("he learned it by rot and rose early", None),
    ],
)
def test_further_languages_name_the_same_colours(query: str, colour: str | None) -> None:
    shares = dict(zip(NAMES, colours_named(words_of(query)), strict=True))
    assert shares == {name: float(name == colour) for name in NAMES}


def texts(n: int = 400, dim: int = 64) -> np.ndarray:
    """Return unit rows that hardly use most of their dimensions."""
    rows = np.random.default_rng(0).normal(size=(n, dim)) * np.geomspace(1, 1e-3, dim)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def test_axes_lie_where_texts_do_not_and_are_the_same_on_every_machine() -> None:
    rows = texts()
    axes = colour_axes(rows)
    assert np.allclose(axes @ axes.T, np.eye(11), atol=1e-5)
    assert np.mean(np.sum((rows @ axes.T) ** 2, axis=1)) < 0.005
    noise = np.random.default_rng(1).normal(scale=1e-6, size=rows.shape).astype(np.float32)
    assert np.abs(colour_axes(rows + noise) - axes).max() < 1e-3


def test_a_question_s_colour_lifts_the_picture_that_has_it_and_no_other_question_does() -> None:
    rows = texts()
    axes = colour_axes(rows)
    shown = rows[0] - rows[0] @ axes.T @ axes
    shown /= np.linalg.norm(shown)
    red, blue = (
        with_colours(shown, colour_vector(colour_shares(plain(COLOURS[name])), axes)) for name in ("red", "blue")
    )
    assert np.linalg.norm(red) == pytest.approx(1, abs=1e-5)
    assert abs(float(rows[1] @ (red - blue))) < 0.02
    asked = colour_vector(colours_named(["red"]), axes)
    assert float(asked @ (red - blue)) > 0.1
