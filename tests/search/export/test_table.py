"""Tables and playlists."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from fractions import Fraction

import pytest
from excerpts import selection, source

from vfindex.search.export.playlist import write_m3u8
from vfindex.search.export.table import write_csv


def rows(data: bytes) -> list[dict[str, str]]:
    assert data.startswith(b"\xef\xbb\xbf") and data.endswith(b"\r\n")
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_a_row_is_an_excerpt() -> None:
    one = selection((source("a,b.mp4", start_timecode="10:00:00:00"), 10, 12.5))
    [row] = rows(write_csv(replace(one, excerpts=(replace(one.excerpts[0], text='she said "yes"', score=1.23456789),))))
    assert row["video"] == "/videos/a,b.mp4" and row["text"] == 'she said "yes"'
    assert (row["start_s"], row["end_s"], row["score"]) == ("10.000", "12.500", "1.23457")
    assert (row["start_timecode"], row["end_timecode"], row["frame_rate"]) == ("10:00:10:00", "10:00:12:13", "25")


def test_rates_that_vary_or_are_unknown_are_named() -> None:
    few = selection((source(rate=30, varies=True), 0, 1), (source("b.mp4", None), 0, 1))
    first, second = rows(write_csv(few))
    assert first["frame_rate"] == "variable"
    assert (second["frame_rate"], second["start_timecode"]) == ("", "")


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1+1", "\r\n=1+1", " =1", "\uff1d1", "-1+2"]
)
def test_no_cell_is_a_formula(text: str) -> None:
    one = selection((source(), 0, 1))
    [row] = rows(write_csv(replace(one, excerpts=(replace(one.excerpts[0], text=text, note=text),))))
    assert row["text"].startswith("'") and row["note"].startswith("'")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("dog;=1+1", "dog;'=1+1"),
        ('dog; "=1+1"', 'dog;\' "=1+1"'),
        ("a;b;@SUM(A1)", "a;b;'@SUM(A1)"),
        ("a; b; 2", "a; b; 2"),
    ],
)
def test_no_cell_is_a_formula_where_semicolons_divide_cells(text: str, cell: str) -> None:
    """Spreadsheets divide at the list separator of the system: in German, French or Spanish the semicolon."""
    one = selection((source(), 0, 1))
    [row] = rows(write_csv(replace(one, excerpts=(replace(one.excerpts[0], text=text),))))
    assert row["text"] == cell


def test_numbers_below_zero_stay_numbers() -> None:
    one = selection((source(), 0, 1))
    assert rows(write_csv(replace(one, excerpts=(replace(one.excerpts[0], score=-1.5),))))[0]["score"] == "-1.5"


def test_a_playlist_has_times_titles_and_urls() -> None:
    late = source("-#ü \udcff\n.mp4", Fraction(25), start_s=1.5, clock_s=0.5)
    lines = write_m3u8(selection((late, 2.0, 12.25), title="a\n#EXTM3U")).decode().splitlines()
    assert lines == [
        "#EXTM3U",
        "#PLAYLIST:a #EXTM3U",
        r"#EXTINF:10,-#ü \udcff .mp4",
        "#EXTVLCOPT:start-time=1.500",
        "#EXTVLCOPT:stop-time=11.750",
        "file:///videos/-%23%C3%BC%20%FF%0A.mp4",
    ]
