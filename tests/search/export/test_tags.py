"""XMP and NFO sidecars: well-formed, with the moments as markers; whose file it is."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from excerpts import selection, source

from vfindex.search.export.selection import Selection, one_line
from vfindex.search.export.tags import by_video, is_foreign, sidecar_path, write_nfo, write_xmp


def ascii_of(text: str) -> str:
    return ascii(text[:1])


SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "dm": "http://ns.adobe.com/xmp/1.0/DynamicMedia/",
}


def marked() -> Selection:
    late = source("b.mp4", Fraction(30000, 1001), start_s=1.0)
    found = selection((source(), 20, 30), (late, 2.001, 3.002), (source(), 4, 5), title="goals")
    notes = ("the <second>", "", "the\x00 first")
    return replace(
        found,
        excerpts=tuple(replace(e, note=note, list="goals") for e, note in zip(found.excerpts, notes, strict=True)),
    )


def test_moments_are_markers_in_frames() -> None:
    beach, late = by_video(marked())
    root = Xml.fromstring(write_xmp("goals", beach))
    assert [each.text for each in root.findall(".//dc:subject/rdf:Bag/rdf:li", SPACES)] == ["goals"]
    assert root.findtext(".//dc:description/rdf:Alt/rdf:li", namespaces=SPACES) == "the first; the <second>"
    assert root.findtext(".//dm:frameRate", namespaces=SPACES) == "f25"
    assert [each.text for each in root.findall(".//dm:startTime", SPACES)] == ["100", "500"]
    assert [each.text for each in root.findall(".//dm:duration", SPACES)] == ["25", "250"]
    root = Xml.fromstring(write_xmp("goals", late))
    assert root.findtext(".//dm:frameRate", namespaces=SPACES) == "f30000s1001"
    assert [root.findtext(f".//dm:{name}", namespaces=SPACES) for name in ("startTime", "duration")] == ["30", "30"]


def test_without_a_frame_rate_markers_are_in_milliseconds() -> None:
    [one] = by_video(selection((source(rate=None), 1.5, 2)))
    root = Xml.fromstring(write_xmp("x", one))
    assert root.findtext(".//dm:frameRate", namespaces=SPACES) == "f1000"
    assert root.findtext(".//dm:startTime", namespaces=SPACES) == "1500"


def test_an_nfo_has_tags_and_notes() -> None:
    beach, late = (Xml.fromstring(write_nfo("goals", each)) for each in by_video(marked()))
    assert (beach.tag, beach.findtext("title"), beach.findtext("tag")) == ("movie", "beach.mp4", "goals")
    assert beach.findtext("plot") == "the first; the <second>" and late.find("plot") is None


@pytest.mark.parametrize("write", [write_xmp, write_nfo])
def test_own_files_are_known_and_others_are_left(write: object, tmp_path: Path) -> None:
    path = tmp_path / "beach.mp4.xmp"
    assert not is_foreign(path)
    path.write_bytes(write("goals", by_video(marked())[0]))  # type: ignore[operator]
    assert not is_foreign(path)
    path.write_bytes(b"<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='digiKam'/>")
    assert is_foreign(path)


@pytest.mark.parametrize(
    "text",
    [
        "<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='digiKam'><li>vfindex</li></x:xmpmeta>",
        "<movie><title>made by vfindex</title><tag>vfindex</tag></movie>",
        "vfindex",
        "",
    ],
)
def test_a_file_of_another_program_is_left_whatever_it_tags(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xmp").write_text(text)
    assert is_foreign(tmp_path / "a.xmp")


def test_a_name_too_long_is_nobody_s_file(tmp_path: Path) -> None:
    assert not is_foreign(tmp_path / f"{'x' * 260}.xmp")


# Every character that a text may have, in runs of 4,096.
RUNS = ["".join(map(chr, range(first, first + 0x1000))) for first in range(0, 0x30000, 0x1000)]


@pytest.mark.parametrize("write", [write_xmp, write_nfo])
@pytest.mark.parametrize("text", [*RUNS, "]]>", "<!--", "&amp;&#0;", "\U0010ffff\ufffe"], ids=ascii_of)
def test_any_text_is_well_formed(write: Any, text: str) -> None:
    one = selection((source("a.mp4", title=one_line(text), tags=((text, text),)), 0, 1), title=text)
    excerpts = [replace(each, note=text, text=text, list=text) for each in one.excerpts]
    root = Xml.fromstring(write(text, excerpts))
    assert root.tag in ("{adobe:ns:meta/}xmpmeta", "movie")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.xmp").symlink_to(tmp_path / "elsewhere")
    assert is_foreign(tmp_path / "a.xmp") and is_foreign(tmp_path)


def test_sidecars_are_named_after_the_video(tmp_path: Path) -> None:
    video = os.fsencode("/videos/beach \udcff.mp4")
    assert sidecar_path(video, "xmp", None) == Path("/videos/beach \udcff.mp4.xmp")
    assert sidecar_path(video, "nfo", tmp_path) == tmp_path / "beach \udcff.nfo"
