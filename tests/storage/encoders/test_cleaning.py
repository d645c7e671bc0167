"""Cleaning equals open_clip's; test_exports.py compares the tokens."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vfindex.storage.encoders.cleaning import CLEANINGS


@pytest.mark.parametrize(
    ("how", "text", "wanted"),
    [
        ("whitespace", "  A\tDog \r\n runs ", "A Dog runs"),
        ("lower", "A  DOG", "a dog"),
        ("lower", "Fish &amp;amp; Chips &LT;b&gt;", "fish & chips <b>"),
        ("lower", "schÃ¶n “so” ﬁne", 'schön "so" fine'),
        ("lower", "\x1b[31mred\x1b[0m", "red"),
        ("canonicalize", "It's_a  DOG, isn't it?", "its a dog isnt it"),
        ("canonicalize", "!?", ""),
    ],
)
def test_texts_come_out_clean(how: str, text: str, wanted: str) -> None:
    assert CLEANINGS[how](text) == wanted


def test_plain_text_costs_no_import() -> None:
    code = (
        "import sys; from vfindex.storage.encoders.cleaning import CLEANINGS as c; print(c['lower']('It\\'s a DOG.'));"
        "print('ftfy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["it's a dog.", "False"]
