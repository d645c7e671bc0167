"""Edit lists and timelines of real files, read back by other programs' libraries: the frames that it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fcpxml_dtd import checked, seconds
from numbered import make_numbered, read

from vfindex.indexer.media.decoder import Decoder
from vfindex.search.export.edl import write_edl
from vfindex.search.export.fcpxml import write_fcpxml
from vfindex.search.export.otio import write_otio
from vfindex.search.export.selection import Excerpt, Selection, Source, source_of
from vfindex.search.results import MarkList
from vfindex.storage.records import Video

FILM, NTSC, HIGH_NTSC = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
# Frames of each file that are exported: [FIRST, END).
FIRST, END = 33, 57
H264 = {"codec": "libx264", "b_frames": 2}
OPEN_GOP = {"codec": "libx264", "b_frames": 3, "codec_options": {"x264-params": "open-gop=1:scenecut=0:keyint=25"}}


@dataclass(frozen=True)
class File:
    """How a file is made, and what is to be found: its rate, whether it counts drop-frame, the number of frame 0."""

    options: dict[str, Any]
    rate: Fraction
    drop: bool = False
    first: int = 0


def steady(rate: Fraction | int, **options: Any) -> dict[str, Any]:
    return {"fps": rate, "time_base": 1 / Fraction(rate), **H264, **options}


def coded(timecode: str) -> dict[str, Any]:
    return {"tags": {"timecode": timecode}}


FILES = {
    "23_976.mp4": File(steady(FILM), FILM),
    "24.mkv": File({"fps": 24, **H264}, Fraction(24)),
    "25.mov": File(steady(25, **coded("10:00:00:12")), Fraction(25), first=900_012),
    "29_97.mp4": File(steady(NTSC), NTSC),
    "29_97_in_ms.mkv": File({"fps": NTSC, **H264}, NTSC),
    # Counted by hand: 59 minutes of 1,798 numbers, less the six tenths that have 1,800, and 59 s 28.
    "29_97_drop.mov": File(steady(NTSC, **coded("00:59:59;28")), NTSC, True, 107_890),
    "29_97_non_drop.mov": File(steady(NTSC, **coded("01:00:00:00")), NTSC, first=108_000),
    "30.mp4": File(steady(30), Fraction(30)),
    "50.mp4": File(steady(50), Fraction(50)),
    "59_94_drop.mov": File(steady(HIGH_NTSC, **coded("01:00:00;00")), HIGH_NTSC, True, 215_784),
    "60.mkv": File({"fps": 60, **H264}, Fraction(60)),
    "turned.mp4": File(steady(25, rotation_deg=90), Fraction(25)),
    "tracks.mp4": File(steady(25, tone_hz=440, audio_tracks=3), Fraction(25)),
    "late_audio.mp4": File(steady(25, tone_hz=440, tone_gap_s=(0.0, 2.0)), Fraction(25)),
    "late_picture.mp4": File(steady(25, start_s=3.0), Fraction(25)),
    "late_picture.mkv": File({"fps": 25, "start_s": 3.0, **H264}, Fraction(25)),
    "no_times_of_0.ts": File({"fps": 25, "codec": "mpeg2video", "b_frames": 2}, Fraction(25)),
    "open_gop.mp4": File({"fps": 25, **OPEN_GOP}, Fraction(25)),
}
# Prints of each edit list and each timeline: per track, first frame and length of its clips, in frames of the file.
READER = """
import json, sys
import opentimelineio as otio
try:
    from otio_cmx3600_adapter import cmx_3600
except ImportError:
    cmx_3600 = None

def clips(timeline):
    return {track.kind: [(each.source_range.start_time.value, each.source_range.duration.value,
                          each.source_range.start_time.rate, each.range_in_parent().start_time.value)
                         for each in track if isinstance(each, otio.schema.Clip)] for track in timeline.tracks}

print(json.dumps({name: {
    "otio": clips(otio.adapters.read_from_string(given["otio"], "otio_json")),
    "edl": None if cmx_3600 is None else clips(cmx_3600.read_from_string(given["edl"], rate=given["rate"])),
} for name, given in json.load(sys.stdin).items()}))
"""


@dataclass(frozen=True)
class Made:
    """A file as the library knows it, the times of its frames, and the text of its exports."""

    source: Source
    times_s: list[float]
    has_audio: bool
    texts: dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Made]]:
    folder = tmp_path_factory.mktemp("videos")
    with Decoder() as decoder:
        yield {name: exported(decoder, make_numbered(folder / name, **file.options)) for name, file in FILES.items()}


def exported(decoder: Decoder, path: Path) -> Made:
    found = decoder.probe(bytes(path))
    video = Video(
        *(path.name, 1, found.container, found.codec, found.width_px, found.height_px, found.rotation_deg),
        *(found.start_s, found.end_s, found.end_s, found.frames, bool(found.audio)),
        fps=found.fps,
        start_timecode=found.start_timecode,
    )
    source = source_of(video, os.fsencode(path), None)
    shown = read(path)
    assert shown.numbers == sorted(shown.numbers) or found.rotation_deg
    times_s = [time_s - shown.times_s[0] + found.start_s for time_s in shown.times_s]
    # Times of hits are rounded to milliseconds.
    excerpt = Excerpt(source, 1, round(times_s[FIRST], 3), round(times_s[END], 3))
    selection = Selection("film", (excerpt,), MarkList(()))
    writers = {"edl": write_edl, "otio": write_otio, "fcpxml": write_fcpxml}
    return Made(
        source, times_s, bool(found.audio), {name: write(selection, None, 3600.0) for name, write in writers.items()}
    )


@pytest.fixture(scope="module")
def read_back(made: dict[str, Made]) -> dict[str, Any]:
    if find_spec("opentimelineio") is None:
        pytest.skip("opentimelineio reads it back: pip install opentimelineio")
    given = {
        name: {"rate": float(FILES[name].rate), **{kind: text.decode() for kind, text in each.texts.items()}}
        for name, each in made.items()
    }
    command = [sys.executable, "-c", READER]
    done = subprocess.run(command, input=json.dumps(given).encode(), capture_output=True, check=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", FILES)
def test_rates_and_time_codes_are_those_of_the_file(made: dict[str, Made], name: str) -> None:
    source, file = made[name].source, FILES[name]
    assert (source.rate, source.varies, source.timebase.drop) == (file.rate, False, file.drop)
    assert source.first_frame(source.timebase) == file.first


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["edl", "otio"])
def test_other_readers_find_the_frames_that_the_file_shows(
    made: dict[str, Made], read_back: dict[str, Any], name: str, kind: str
) -> None:
    found, file = read_back[name][kind], FILES[name]
    if found is None:
        pytest.skip("otio-cmx3600-adapter reads it back: pip install otio-cmx3600-adapter")
    [clip] = found["Video"]
    assert clip == [file.first + FIRST, END - FIRST, pytest.approx(float(file.rate)), 0]
    assert list(found) == (["Video", "Audio"] if made[name].has_audio else ["Video"])


@pytest.mark.parametrize("name", FILES)
def test_final_cut_has_the_frames_that_the_file_shows(made: dict[str, Made], name: str) -> None:
    root, file = checked(made[name].texts["fcpxml"]), FILES[name]
    [clip], [asset], [sequence] = root.iter("asset-clip"), root.iter("asset"), root.iter("sequence")
    assert seconds(clip, "start") == (file.first + FIRST) / file.rate
    assert seconds(clip, "duration") == (END - FIRST) / file.rate
    assert seconds(asset, "start") == file.first / file.rate
    assert seconds(asset, "duration") == len(made[name].times_s) / file.rate
    assert clip.get("tcFormat") == sequence.get("tcFormat") == ("DF" if file.drop else "NDF")
    rates = {each.get("id"): 1 / seconds(each, "frameDuration") for each in root.iter("format")}
    assert rates[asset.get("format")] == rates[sequence.get("format")] == file.rate
    sizes = {(each.get("width"), each.get("height")) for each in root.iter("format")}
    assert sizes == {("96", "160") if name == "turned.mp4" else ("160", "96")}


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
def test_a_variable_rate_is_within_a_frame(tmp_path: Path, name: str) -> None:
    with Decoder() as decoder:
        path = make_numbered(tmp_path / name, times_s=variable_times(), **H264)
        film = exported(decoder, path)
    # Matroska does not count its frames, so that nothing tells; the clock holds all the same.
    assert film.source.varies == name.endswith("mp4") == (b"VARIABLE FRAME RATE" in film.texts["edl"])
    root = checked(film.texts["fcpxml"])
    [clip] = root.iter("asset-clip")
    frame_s = 1 / float(film.source.timebase.rate)
    begins_s = film.times_s[FIRST] - film.times_s[0]
    assert float(seconds(clip, "start")) == pytest.approx(begins_s, abs=frame_s / 2 + 0.001)
    ends_s = film.times_s[END] - film.times_s[0]
    assert float(seconds(clip, "start") + seconds(clip, "duration")) == pytest.approx(ends_s, abs=frame_s / 2 + 0.001)


def variable_times() -> list[float]:
    """Return 75 times, of a camera that slows down in the dark: 30, 15 and 10 frames a second in turn."""
    times_s, at_s = [], 0.0
    for number in range(75):
        times_s.append(round(at_s, 3))
        at_s += (1 / 30, 1 / 15, 1 / 10)[number // 5 % 3]
    return times_s
