"""`vfindex export` of cuts: decoded again, they have the frames of the moment, and its time code."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from library_maker import axis, clip, install
from media import Shot, make_video

from vfindex.indexer.media.decoder import Decoder, Probe
from vfindex.indexer.stills import FrameDecoder
from vfindex.storage.records import Location, UnitPlan, UnitResult, Video
from vfindex.storage.writer import writing

NTSC = Fraction(30000, 1001)


@pytest.fixture
def films(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two indexed films, red, blue and green for 2 s each; one counts drop-frame time code."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shots = [Shot("red", 2.0), Shot("blue", 2.0), Shot("green", 2.0)]
    make_video(folder / "drop.mov", shots=shots, fps=float(NTSC), keyframe_s=4.0, tags={"timecode": "00:59:59;28"})
    make_video(folder / "other.mkv", shots=shots, codec="libx264", keyframe_s=6.0, codec_options={"sc_threshold": "0"})
    with writing(tmp_path / "library") as writer, Decoder() as decoder:
        install(writer)
        for path in sorted(folder.iterdir()):
            id_ = writer.catalog.begin_video(probed(path, decoder.probe(bytes(path))), [UnitPlan(0)], recognised=True)
            [(unit, _)] = writer.catalog.pending_units(id_)
            writer.commit_unit(id_, path.name, unit, UnitResult((clip(1.5, 3.5, visual=axis(1)),), ()))
            writer.catalog.finish_video(id_, Location(bytes(path), path.stat().st_size, 1, 1), [])
        writer.publish()
    monkeypatch.setenv("VFINDEX_LIBRARY", str(tmp_path / "library"))
    return folder


def probed(path: Path, found: Probe) -> Video:
    last_s = found.end_s - 0.04
    return Video(
        *(path.name, path.stat().st_size, found.container, found.codec, found.width_px, found.height_px),
        *(found.rotation_deg, found.start_s, last_s, found.end_s, found.frames, bool(found.audio)),
        fps=found.fps,
        start_timecode=found.start_timecode,
    )


def colours(path: Path) -> str:
    """Return the colour of each of 16 frames, evenly spread."""
    with FrameDecoder() as decoder:
        frames = decoder.clip_frames(bytes(path), None, None, 32)
    return "".join("rgb"[int(frame.reshape(-1, 3).mean(axis=0).argmax())] for frame in frames)


def probe(path: Path) -> Probe:
    with Decoder() as decoder:
        return decoder.probe(bytes(path))


def test_an_exact_cut_has_the_frames_and_the_time_code(run: Any, films: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    ran = run("export", "--video", films / "drop.mov", "--span", "1-3", "--exact", "-o", path)
    assert (ran.code, ran.err) == (0, f"written: {path} (0:02.0)\n")
    found = probe(path)
    assert found.end_s - found.start_s == pytest.approx(2.0, abs=1.01 / NTSC)
    assert found.start_timecode == "01:00:00;28", "30 frames on, over a minute without two numbers"
    assert colours(path) == "r" * 8 + "b" * 8
    edl = run("export", "--video", films / "drop.mov", "--span", "1-3", "--format", "edl").out
    assert " 01:00:00;28 01:00:02;28 01:00:00;00 01:00:02;00" in edl


def test_a_copy_begins_at_the_keyframe_and_says_so(run: Any, films: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    ran = run("export", "--video", films / "other.mkv", "--span", "2.5-4", "-o", path)
    assert ran.code == 0 and "other.mkv: begins 2.5 s before its moment, at a keyframe; an exact cut begins" in ran.err
    assert probe(path).codec == "h264"


def test_moments_are_joined_or_single(run: Any, films: Path, tmp_path: Path) -> None:
    for name in sorted(os.listdir(films)):
        run("mark", f"{films / name}@2", "--list", "cuts")
    ran = run("export", "--list", "cuts", "-o", tmp_path / "all.mp4")
    assert ran.code == 1 and "cut it exactly (--exact)" in ran.err and not (tmp_path / "all.mp4").exists()
    assert run("export", "--list", "cuts", "-o", tmp_path / "all.mp4", "--exact").code == 0
    assert probe(tmp_path / "all.mp4").end_s == pytest.approx(4.0, abs=0.1)
    assert colours(tmp_path / "all.mp4") == "rrbbbbbbrrbbbbbb"
    (tmp_path / "cuts").mkdir()
    assert run("export", "--list", "cuts", "--format", "mp4", "--single", "-o", tmp_path / "cuts", "--exact").code == 0
    assert sorted(os.listdir(tmp_path / "cuts")) == ["001-drop-0.02.mp4", "002-other-0.02.mp4"]
    again = run("export", "--list", "cuts", "--format", "mp4", "--single", "-o", tmp_path / "cuts")
    assert again.code == 2 and "001-drop-0.02.mp4 exists" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "mp4"), "an mp4 goes into a file"),
        (("--format", "mp4", "--single", "-o", "nowhere"), "nowhere is no folder; make it first: mkdir nowhere"),
        (("--format", "edl", "--exact"), "--exact is for cuts"),
        (("--format", "edl", "--single"), "--single is for cuts"),
        (("-o", "x.mp4", "--rate", "25"), "mp4 has no timeline"),
    ],
)
def test_wrong_usage_is_a_sentence(run: Any, library: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = run("export", "dogs", *arguments, "--library", library)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1


def test_a_file_that_is_not_there_leaves_nothing(run: Any, films: Path, tmp_path: Path) -> None:
    (films / "other.mkv").unlink()
    ran = run("export", "--video", "other.mkv", "-o", tmp_path / "cut.mp4")
    assert ran.code == 1 and "other.mkv is not there" in ran.err
    assert not [name for name in os.listdir(tmp_path) if "cut" in name]
