"""Final Cut Pro XML, checked against the structure of its DTD: elements in order, attributes, ids, times on frames."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree as Xml

import pytest
from excerpts import selection, source
from fcpxml_dtd import checked, seconds

from vfindex.search.export.fcpxml import write_fcpxml
from vfindex.search.export.selection import Selection
from vfindex.search.export.timecode import Timebase

NTSC = Fraction(30000, 1001)


def check_frames(root: Xml.Element) -> None:
    """Every time is a whole number of frames, of the sequence or of the file, and the clips follow each other."""
    frames = {each.get("id"): seconds(each, "frameDuration") for each in root.iter("format")}
    assets = {each.get("id"): each for each in root.iter("asset")}
    [sequence] = root.iter("sequence")
    of_sequence, at = frames[sequence.get("format")], seconds(sequence, "tcStart")
    for clip in root.iter("asset-clip"):
        asset = assets[clip.get("ref")]
        of_file = frames[asset.get("format")]
        assert seconds(clip, "offset") == at
        at += seconds(clip, "duration")
        assert (seconds(clip, "offset") / of_sequence).denominator == 1
        assert (seconds(clip, "duration") / of_sequence).denominator == 1
        for element, name in ((clip, "start"), (asset, "start"), (asset, "duration")):
            assert (seconds(element, name) / of_file).denominator == 1
        assert seconds(asset, "start") <= seconds(clip, "start")
    assert at == seconds(sequence, "tcStart") + seconds(sequence, "duration")


def made(chosen: Selection, base: Timebase | None = None, start_s: float = 0.0) -> Xml.Element:
    root = checked(write_fcpxml(chosen, base, start_s))
    check_frames(root)
    return root


def test_a_clip_is_a_span_of_a_file() -> None:
    root = made(selection((source("b & b.mp4", rate=NTSC), float(300 / NTSC), float(345 / NTSC))))
    [asset], [clip], [sequence] = root.iter("asset"), root.iter("asset-clip"), root.iter("sequence")
    assert asset.find("media-rep").get("src") == "file:///videos/b%20%26%20b.mp4"  # type: ignore[union-attr]
    assert (asset.get("name"), asset.get("start"), asset.get("hasAudio")) == ("b & b.mp4", "0s", "1")
    assert (clip.get("start"), clip.get("duration")) == ("1001/100s", "3003/2000s")
    assert (sequence.get("tcFormat"), sequence.get("tcStart")) == ("NDF", "0s")
    assert {each.get("frameDuration") for each in root.iter("format")} == {"1001/30000s"}


def test_drop_frame_start_time_codes_are_exact() -> None:
    root = made(selection((source(rate=NTSC, start_timecode="01:00:00;00"), 0, 2)), start_s=3600)
    [asset], [clip], [sequence] = root.iter("asset"), root.iter("asset-clip"), root.iter("sequence")
    assert seconds(asset, "start") == 107_892 / NTSC == seconds(clip, "start")
    assert clip.get("tcFormat") == sequence.get("tcFormat") == "DF"
    assert seconds(sequence, "tcStart") == 107_892 / NTSC


def test_each_rate_has_its_format_and_is_not_stretched() -> None:
    few = selection((source(), 0, 30), (source("b.mp4", NTSC, has_audio=False), 10, 13.33), (source("c.mp4", 10), 1, 2))
    root = made(few)
    assert [each.get("frameDuration") for each in root.iter("format")] == ["1/25s", "1/25s", "1001/30000s", "1/10s"]
    first, second, third = root.iter("asset-clip")
    assert first.find("conform-rate") is None
    conform = second.find("conform-rate")
    assert conform is not None and conform.attrib == {"scaleEnabled": "0", "srcFrameRate": "29.97"}
    assert third.find("conform-rate").attrib == {"scaleEnabled": "0"}  # type: ignore[union-attr]
    assert [asset.get("hasAudio") for asset in root.iter("asset")] == ["1", None, "1"]


def test_a_turned_picture_has_the_shape_that_is_shown() -> None:
    root = made(selection((source(width_px=1080, height_px=1920), 0, 1)))
    assert {(each.get("width"), each.get("height")) for each in root.iter("format")} == {("1080", "1920")}


def test_a_variable_rate_is_said() -> None:
    [note] = made(selection((source(rate=30, varies=True), 1.5, 2.017))).iter("note")
    assert note.text == "variable frame rate: 1.500 s to 2.017 s of the file"


def test_a_file_is_one_asset_for_all_its_clips() -> None:
    root = made(selection((source(), 0, 1), (source(), 5, 6), (source("b.mp4"), 5, 6)))
    assert [clip.get("ref") for clip in root.iter("asset-clip")] == ["a1", "a1", "a2"]


@pytest.mark.parametrize("name", ["\udcff\x00.mp4", '<x a="&">\x1b[31m.mp4', "]]>\u2028映像.mp4"])
def test_hostile_names_are_text(name: str) -> None:
    one = selection((source(name), 0, 1), title="<b>\x07&")
    root = made(replace(one, excerpts=(replace(one.excerpts[0], note="</note><x/>"),)))
    assert root.find(".//event").get("name") == "<b> &"  # type: ignore[union-attr]
    assert root.find(".//note").text == "</note><x/>"  # type: ignore[union-attr]
