"""OpenTimelineIO, read back by its own library, in a process of its own: it can abort Python at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import pytest
from excerpts import selection, source

from vfindex.search.export.otio import write_otio
from vfindex.search.export.timecode import Timebase

NTSC = Fraction(30000, 1001)
# Prints what the library makes of a timeline: times in frames, seconds and time codes.
READER = """
import json, sys
import opentimelineio as otio

timeline = otio.adapters.read_from_string(sys.stdin.read(), "otio_json")
again = otio.adapters.read_from_string(timeline.to_json_string(), "otio_json")
assert again.is_equivalent_to(timeline)

def item(each):
    span, place = each.source_range, each.range_in_parent()
    found = {"kind": type(each).__name__, "name": each.name, "start": span.start_time.value,
             "frames": span.duration.value, "rate": span.start_time.rate, "at_s": place.start_time.to_seconds()}
    if isinstance(each, otio.schema.Clip):
        media = each.available_range()
        drop = each.metadata["vfindex"].get("start_timecode", "").count(";") == 1
        found |= {"url": each.media_reference.target_url, "media_frames": media.duration.value,
                  "media_start": media.start_time.to_timecode(media.start_time.rate, drop_frame=drop),
                  "metadata": {k: v for k, v in each.metadata["vfindex"].items()}}
    return found

print(json.dumps({
    "name": timeline.name, "start": timeline.global_start_time.value, "rate": timeline.global_start_time.rate,
    "length_s": timeline.duration().to_seconds(),
    "tracks": [{"kind": track.kind, "items": [item(each) for each in track]} for track in timeline.tracks]}))
"""


def read(data: bytes) -> dict[str, Any]:
    if find_spec("opentimelineio") is None:
        pytest.skip("opentimelineio reads it back: pip install opentimelineio")
    done = subprocess.run([sys.executable, "-c", READER], input=data, capture_output=True, check=True, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_timeline_is_read_back() -> None:
    of, other = source(rate=NTSC, start_timecode="01:00:00;00"), source("b b.mp4", 25, has_audio=False)
    timeline = read(write_otio(selection((of, float(300 / NTSC), float(345 / NTSC)), (other, 10, 12)), None, 3600.0))
    assert (timeline["name"], timeline["start"], timeline["rate"]) == ("dogs", 90_000, 25)
    pictures, sound = timeline["tracks"]
    assert (pictures["kind"], sound["kind"]) == ("Video", "Audio")
    first, second = pictures["items"]
    assert (first["start"], first["frames"], first["rate"]) == (107_892 + 300, 45, pytest.approx(30000 / 1001))
    assert (first["media_start"], first["media_frames"]) == ("01:00:00;00", 2997)
    assert (first["url"], second["url"]) == ("file:///videos/beach.mp4", "file:///videos/b%20b.mp4")
    assert (second["start"], second["frames"], second["at_s"]) == (250, 50, pytest.approx(1.5015))
    assert [each["kind"] for each in sound["items"]] == ["Clip", "Gap"]
    assert [each["at_s"] for each in sound["items"]] == [each["at_s"] for each in pictures["items"]]
    assert timeline["length_s"] == pytest.approx(1.5015 + 2)


def test_what_the_form_has_no_field_for_is_in_its_metadata() -> None:
    one = selection((source("\udcff.mp4", 30, varies=True, fingerprint="ab12"), 1.25, 2.5))
    one = replace(one, excerpts=(replace(one.excerpts[0], note="use\x00 it", score=1.5),))
    [track, _] = read(write_otio(one, None, 0.0))["tracks"]
    [clip] = track["items"]
    assert clip["metadata"] == {
        "fingerprint": "ab12",
        "start_s": 1.25,
        "end_s": 2.5,
        "frame_rate_varies": True,
        "path": r"/videos/\udcff.mp4",
        "note": "use it",
        "score": 1.5,
    }
    assert clip["url"] == "file:///videos/%FF.mp4"


def test_a_chosen_rate_is_the_timeline_s_and_silent_films_have_no_sound() -> None:
    document = json.loads(write_otio(selection((source(has_audio=False), 0, 1)), Timebase(Fraction(50)), 1.0))
    assert (document["global_start_time"]["rate"], document["global_start_time"]["value"]) == (50.0, 50.0)
    assert [track["kind"] for track in document["tracks"]["children"]] == ["Video"]
