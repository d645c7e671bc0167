"""Text on the picture that repeats what is said."""

from __future__ import annotations

import pytest

from vfindex.storage.text.repeats import repeats

SAID = ["So, we grow tomatoes", "in the garden - every year!"]


@pytest.mark.parametrize(
    ("shown", "is_repeated"),
    [
        ("\u2013 WE GROW TOMATOES", True),
        ("tomatoes in the garden", True),
        ("we grow potatoes in the garden", True),
        ("garden the in", False),
        ("we grow", False),
        ("Chapter one: how we grow tomatoes", False),
        ("", False),
    ],
)
def test_a_line_repeats_the_transcript(shown: str, is_repeated: bool) -> None:
    assert repeats(shown, SAID) is is_repeated
    assert not repeats(shown, [])
