"""Cuts decoded again: the first and the last frame, over rates, clocks, rotation, tracks and joins."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Shot, make_video, media_folder
from numbered import HEIGHT_PX, WIDTH_PX, Numbered, make_numbered, read

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.playback.player import MediaPlayer
from vfindex.storage.errors import VideoError
from vfindex.storage.records import CutEnd, CutPart

TIME_SLACK_S = 0.0011  # half a millisecond of the source's clock, and of the cut's
VARIABLE_S = [0.0, 0.04, 0.08, 0.5, 0.51, 0.52, 1.4, 1.44, 2.0, 2.5, 2.54, 2.58, 3.3, 3.34, 4.0]


@pytest.fixture(scope="module")
def player() -> Iterator[MediaPlayer]:
    with MediaPlayer() as player:
        yield player


def cut(
    player: MediaPlayer, parts: Sequence[CutPart], *, exact: bool, timecode: str | None = None
) -> tuple[Numbered, CutEnd]:
    data, end = cut_bytes(player, parts, exact=exact, timecode=timecode)
    return read(data), end


def cut_bytes(player: MediaPlayer, parts: Sequence[CutPart], **options: Any) -> tuple[bytes, CutEnd]:
    file = io.BytesIO()

    def write(at: int, data: bytes) -> None:
        file.seek(at)
        file.write(data)

    end = player.cut(parts, write, **options)
    return file.getvalue(), end


# Keyframes only where asked for: the stripes look like changes of scene.
H264 = {"codec": "libx264", "b_frames": 2, "codec_options": {"sc_threshold": "0"}}
OPEN_GOP = {"codec": "libx264", "b_frames": 3, "codec_options": {"x264-params": "open-gop=1:scenecut=0:keyint=25"}}
FIELDS = {"codec": "libx264", "b_frames": 2, "codec_options": {"x264-params": "tff=1:interlaced=1:scenecut=0"}}
NTSC, HIGH_NTSC = Fraction(30000, 1001), Fraction(60000, 1001)
SOURCES: dict[str, dict[str, Any]] = {
    "23_976.mp4": {"fps": 24000 / 1001, **H264},
    "24.mkv": {"fps": 24, **H264},
    "25_long_gop.mp4": {"fps": 25, "keyframe_s": 60.0, **H264},
    "29_97_drop_frame.ts": {"fps": 30000 / 1001, "codec": "mpeg2video"},
    "29_97.mp4": {"fps": 30000 / 1001, **H264},
    "29_97_drop_frame.mov": {"fps": NTSC, "time_base": 1 / NTSC, "tags": {"timecode": "00:59:59;28"}, **H264},
    "29_97_non_drop.mov": {"fps": NTSC, "time_base": 1 / NTSC, "tags": {"timecode": "01:00:00:00"}, **H264},
    "30.mp4": {"fps": 30, "time_base": Fraction(1, 30), **H264},
    "50.webm": {"fps": 50, "codec": "libvpx"},
    "59_94.mov": {"fps": HIGH_NTSC, **H264},
    "59_94_drop_frame.mov": {
        **{"fps": HIGH_NTSC, "time_base": 1 / HIGH_NTSC, "tags": {"timecode": "10:00:00;04"}},
        **H264,
    },
    "60.mkv": {"fps": 60, **H264},
    "open_gop.mp4": {"fps": 25, **OPEN_GOP},
    "open_gop.mkv": {"fps": 25, **OPEN_GOP},
    "open_gop.ts": {"fps": 25, "codec": "mpeg2video", "b_frames": 2},
    "12.avi": {"fps": 12},
    "variable.mp4": {"times_s": VARIABLE_S, **H264},
    "variable.mkv": {"times_s": VARIABLE_S},
    "begins_at_3_s.mkv": {"fps": 25, "start_s": 3.0, **H264},
    "begins_at_3_s.mp4": {"fps": 25, "start_s": 3.0, **H264},
    "interlaced.mkv": {"fps": 25, **FIELDS},
    "interlaced_turned.mp4": {"fps": NTSC, "rotation_deg": 90, **FIELDS},
    "turned.mp4": {"fps": 25, "rotation_deg": 180, **H264},
    "stereo.mp4": {"fps": 25, "tone_hz": [440, 880], **H264},
    "tracks.mp4": {"fps": 25, "tone_hz": 440, "audio_tracks": 3, **H264},
    "late_audio.mp4": {"fps": 25, "tone_hz": 440, "tone_gap_s": (0.0, 2.0), **H264},
    "late_audio.mkv": {"fps": 25, "tone_hz": 440, "tone_gap_s": (0.0, 2.0), **H264},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, options in SOURCES.items():
        make_numbered(folder / name, **options)
    return folder


def frames_of(path: Path) -> Numbered:
    """Return the frames of a source with the times of the library, whose clock may begin elsewhere."""
    found = read(path)
    with Decoder() as decoder:
        shift_s = decoder.probe(bytes(path)).start_s - found.times_s[0]
    return Numbered(
        found.numbers, [t + shift_s for t in found.times_s], found.heard_s, found.languages, "", found.size_px
    )


@pytest.mark.parametrize("name", SOURCES)
def test_an_exact_cut_holds_the_frames_of_its_span(player: MediaPlayer, sources: Path, name: str) -> None:
    path = sources / name
    source = frames_of(path)
    # Between two frames, and at the very time of one.
    start_s, end_s = source.times_s[0] + 1.23, source.times_s[-4]
    made, end = cut(player, [CutPart(bytes(path), start_s, end_s)], exact=True)
    first = max(index for index, time_s in enumerate(source.times_s) if time_s <= start_s)
    expected = [index for index, time_s in enumerate(source.times_s) if first <= index and time_s < end_s - 1e-6]
    assert made.numbers == [source.numbers[index] for index in expected]
    times_s = [0.0, *(source.times_s[index] - start_s for index in expected[1:])]
    assert made.times_s == pytest.approx(times_s, abs=TIME_SLACK_S)
    assert end.spans == ((start_s, end_s),) and end.error == ""
    assert end.duration_s == pytest.approx(end_s - start_s)
    assert made.languages == source.languages
    assert made.heard_s == pytest.approx([end_s - start_s] * len(made.heard_s), abs=0.05)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"12.avi", "50.webm"}))
def test_a_copy_begins_at_the_keyframe_before(player: MediaPlayer, sources: Path, name: str) -> None:
    path = sources / name
    source = frames_of(path)
    start_s, end_s = source.times_s[0] + 1.23, source.times_s[-4]
    made, end = cut(player, [CutPart(bytes(path), start_s, end_s)], exact=False)
    [(begun_s, ended_s)] = end.spans
    assert begun_s <= start_s and ended_s >= end_s - 1e-3
    first = min(range(len(source.times_s)), key=lambda index: abs(source.times_s[index] - begun_s))
    count = sum(first <= index and time_s < end_s - 1e-3 for index, time_s in enumerate(source.times_s))
    assert made.numbers[:count] == source.numbers[first : first + count]
    assert len(made.numbers) <= count + 3, "frames after the end only where those before it refer to them"
    times_s = [time_s - begun_s for time_s in source.times_s[first : first + count]]
    assert made.times_s[:count] == pytest.approx(times_s, abs=TIME_SLACK_S)
    assert made.languages == source.languages


@pytest.mark.parametrize("name", ["12.avi", "50.webm"])
def test_what_cannot_be_copied_says_so(player: MediaPlayer, sources: Path, name: str) -> None:
    with pytest.raises(VideoError, match=r"cannot be copied.*--exact"):
        cut(player, [CutPart(bytes(sources / name), 1.0, 2.0)], exact=False)


@pytest.mark.parametrize(("exact", "keyframe_s"), [(True, 1.0), (False, 0.001)])
def test_times_rounded_to_thousandths_add_no_frame(
    player: MediaPlayer, tmp_path: Path, exact: bool, keyframe_s: float
) -> None:
    """Of the shot before or after, shown for less than a thousandth of a second."""
    path = make_numbered(tmp_path / "a.mov", fps=NTSC, time_base=1 / NTSC, codec="libx264", keyframe_s=keyframe_s)
    shifts = set()
    for first in (31, 32, 33):
        start_s, end_s = (round(float(index / NTSC), 3) for index in (first, first + 6))
        shifts.add((start_s < first / NTSC, end_s > (first + 6) / NTSC))
        made, _ = cut(player, [CutPart(bytes(path), start_s, end_s)], exact=exact)
        assert made.numbers == list(range(first, first + 6))
    assert shifts == {(True, True), (False, True), (True, False)}


@pytest.mark.parametrize("exact", [True, False])
def test_spans_are_joined_in_the_order_given(player: MediaPlayer, sources: Path, exact: bool) -> None:
    path = bytes(sources / "tracks.mp4")
    made, end = cut(player, [CutPart(path, 2.0, 3.0), CutPart(path, 0.0, 1.0)], exact=exact)
    assert [round(start_s, 3) for start_s, _ in end.spans] == [2.0, 0.0]
    numbers = [*range(50, 75), *range(25)]
    assert [number for number in made.numbers if number in numbers] == numbers
    assert made.numbers == numbers if exact else len(made.numbers) <= len(numbers) + 4
    steps_s = np.diff(made.times_s)
    assert steps_s.max() < 0.1 and steps_s.min() > 0.0
    assert made.heard_s == pytest.approx([end.duration_s] * 3, abs=0.1)


def test_other_videos_join_exactly_in_the_shape_of_the_first(
    player: MediaPlayer, sources: Path, tmp_path: Path
) -> None:
    tall = make_video(tmp_path / "tall.mp4", shots=[Shot("white", 1.0)], width=96, height=160)
    first = CutPart(bytes(sources / "tracks.mp4"), 0.0, 1.0)
    parts = [first, CutPart(bytes(tall), 0.0, 1.0), CutPart(bytes(sources / "29_97.mp4"), 1.0, 2.0)]
    with pytest.raises(VideoError, match="other codecs, or other settings"):
        cut(player, parts, exact=False)
    made, end = cut(player, parts, exact=True)
    assert made.size_px == (WIDTH_PX, HEIGHT_PX)
    assert made.numbers[:25] == list(range(25)) and made.numbers[-1] == 59
    assert set(made.numbers[25:50]) == {0b00011000}, "a tall picture has black bars on both sides"
    assert end.duration_s == pytest.approx(3.0)


def test_sound_of_later_parts_is_kept(player: MediaPlayer, sources: Path) -> None:
    silent, heard = (bytes(sources / name) for name in ("25_long_gop.mp4", "tracks.mp4"))
    data, _ = cut_bytes(player, [CutPart(path, 1.0, 2.0) for path in (silent, heard, silent)], exact=True)
    assert read(data).languages == read(sources / "tracks.mp4").languages
    with av.open(io.BytesIO(data)) as file:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=1)])
    levels = [float(np.abs(samples[round(48_000 * at_s) :][:24_000]).max()) for at_s in (0.25, 1.25, 2.25)]
    assert levels[1] > 0.05 and max(levels[0], *levels[2:]) < 0.001


def test_a_turned_video_is_upright_in_an_exact_cut(player: MediaPlayer, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", shots=[Shot("red", 1.0)], width=160, height=96, rotation_deg=90)
    made, _ = cut(player, [CutPart(bytes(path), 0.0, 1.0)], exact=True)
    assert made.size_px == (96, 160)
    copied, _ = cut(player, [CutPart(bytes(path), 0.0, 1.0)], exact=False)
    assert copied.size_px == (96, 160), "a copy keeps the matrix"


@pytest.mark.parametrize(("name", "timecode"), [("29_97.mp4", "01:00:00;02"), ("25_long_gop.mp4", "10:00:00:20")])
def test_an_exact_cut_carries_its_timecode(player: MediaPlayer, sources: Path, name: str, timecode: str) -> None:
    parts = [CutPart(bytes(sources / name), 1.0, 2.0)]
    assert cut(player, parts, exact=True, timecode=timecode)[0].timecode == timecode
    assert cut(player, parts, exact=True)[0].timecode == ""
    assert cut(player, parts, exact=False, timecode=timecode)[0].timecode == "", "a copy begins with another frame"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("odd.mkv", {"width": 161, "height": 97, "codec": "ffv1"}),
        ("transparent.mov", {"codec": "qtrle", "pix_fmt": "argb"}),
        ("flat.mkv", {"width": 160, "height": 1, "codec": "ffv1"}),
        ("fine.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p16le"}),
    ],
)
def test_odd_sizes_and_pixel_formats_are_cut_exactly(
    player: MediaPlayer, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    path = make_video(tmp_path / name, shots=[Shot("red", 1.0)], **options)
    made, _ = cut(player, [CutPart(bytes(path), 0.2, 0.8)], exact=True)
    size = options.get("width", 160), options.get("height", 96)
    assert len(made.numbers) == 15 and all(
        abs(have - want) <= 1 and not have % 2 for have, want in zip(made.size_px, size, strict=True)
    )


def test_hdr_says_so_in_8_bit(player: MediaPlayer) -> None:
    path = media_folder("edge") / "bt2020_10bit.mp4"
    data, _ = cut_bytes(player, [CutPart(bytes(path), 0.0, 0.2)], exact=True)
    with av.open(str(path)) as before, av.open(io.BytesIO(data)) as after:
        shown = [next(each.decode(video=0)) for each in (before, after)]
    tags = [(each.color_primaries, each.color_trc, each.colorspace) for each in shown]
    assert tags[0] == tags[1] and shown[1].format.name == "yuv420p"


def test_a_cut_of_a_broken_file_is_a_sentence(player: MediaPlayer, tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(VideoError, match="not a video that FFmpeg recognises"):
        cut(player, [CutPart(bytes(broken), 0.0, 1.0)], exact=True)
