"""`vfindex export` of cuts: decoded again, they have the frames of the moment, and its time code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from excerpts import source
from library_maker import axis, clip, install
from media import Shot, make_video

from vfindex.cli.exports import _cut_name, _progress
from vfindex.indexer.media.decoder import Decoder, Probe
from vfindex.indexer.stills import FrameDecoder
from vfindex.search.export.selection import Excerpt
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
    assert found.start_timecode == "01:00:00;27", "of the frame that is shown at 1 s, 29 on, over two absent numbers"
    assert colours(path) == "r" * 8 + "b" * 8
    edl = run("export", "--video", films / "drop.mov", "--span", "1-3", "--format", "edl").out
    assert " 01:00:00;28 01:00:02;28 01:00:00;00 01:00:02;00" in edl, "from the nearest frame, which begins at 1.001 s"


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


def two_marks(run: Any, films: Path) -> None:
    for name in sorted(os.listdir(films)):
        run("mark", f"{films / name}@2", "--list", "cuts")


def test_a_film_is_made_of_the_files_that_are_there(run: Any, films: Path, tmp_path: Path) -> None:
    two_marks(run, films)
    (films / "drop.mov").unlink()
    ran = run("export", "--list", "cuts", "-o", tmp_path / "all.mp4", "--exact")
    assert ran.code == 1 and "drop.mov is not there" in ran.err and "written: " in ran.err
    assert probe(tmp_path / "all.mp4").end_s == pytest.approx(2.0, abs=0.1), "of the other one"


def test_a_cut_that_fails_does_not_keep_the_others(run: Any, films: Path, tmp_path: Path) -> None:
    two_marks(run, films)
    (films / "drop.mov").write_bytes(bytes((films / "drop.mov").stat().st_size))
    folder = tmp_path / "cuts"
    folder.mkdir()
    ran = run("export", "--list", "cuts", "--format", "mp4", "--single", "-o", folder)
    assert ran.code == 1 and "001-drop-0.02.mp4 was not written: " in ran.err
    assert os.listdir(folder) == ["002-other-0.02.mp4"]


@pytest.mark.parametrize("arguments", [("--exact",), ("--format", "edl"), ("--format", "csv")])
def test_no_export_replaces_a_video_of_the_library(run: Any, films: Path, arguments: tuple[str, ...]) -> None:
    before = (films / "other.mkv").read_bytes()
    options = ("--format", "mp4") if arguments == ("--exact",) else ()
    ran = run("export", "--video", films / "other.mkv", *options, *arguments, "--force", "-o", films / "other.mkv")
    assert ran.code == 2 and "other.mkv is a video of the library, which no export replaces" in ran.err
    assert (films / "other.mkv").read_bytes() == before


def test_a_moment_at_the_very_end(run: Any, films: Path, tmp_path: Path) -> None:
    end_s = probe(films / "drop.mov").end_s
    ran = run(
        "export", "--video", films / "drop.mov", "--span", f"{end_s - 0.01:.3f}-99", "--exact", "-o", tmp_path / "a.mp4"
    )
    assert ran.code == 0 and colours(tmp_path / "a.mp4") == "g"


@pytest.mark.parametrize("name", ["𠀀" * 60, "x" * 250, "-rf 'a b'\n;$(touch x)"])
def test_any_name_of_a_video_makes_a_name_of_a_file(name: str, tmp_path: Path) -> None:
    made = _cut_name(Excerpt(source(f"{name}.mp4"), 7, 3600.0, 3601.0))
    assert re.fullmatch(r"007-[\w.-]*-1\.00\.00\.mp4", made)
    (tmp_path / made).write_bytes(b"")


def started(films: Path, target: Path, change: str) -> subprocess.Popen[bytes]:
    """Start an exact cut of a film into a folder, with SearchService.cut changed: `inner` is the method."""
    code = (
        "import resource\nfrom vfindex.search.service import SearchService; inner = SearchService.cut\n"
        f"def changed(self, spans, *rest, **more): {change}\n"
        "SearchService.cut = changed\nfrom vfindex.cli.app import main; main()"
    )
    library = films.parent / "library"
    arguments = ["export", "--video", str(films / "other.mkv"), "--exact", "--library", str(library)]
    command = [sys.executable, "-P", "-c", code, *arguments, "-o", str(target / "cut.mp4")]
    # Under a limit, Python would keep truncated bytecode of its modules.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_full_disk_leaves_no_file(films: Path, target: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); return inner(self, spans, *rest, **more)"
    with started(films, target, limit) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.count(b"\n")) == (2, b"", 1), err
    assert b"cut.mp4 cannot be written (File too large)" in err and os.listdir(target) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_cut_leaves_no_file(films: Path, target: Path, number: signal.Signals) -> None:
    # So many parts that it is at work when the signal comes.
    with started(films, target, "return inner(self, spans * 2000, *rest, **more)") as process:
        until_s = time.monotonic() + 120
        while not any(path.stat().st_size for path in target.iterdir()) and time.monotonic() < until_s:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err, err
    assert os.listdir(target) == [] and out == b""


def test_progress_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with _progress("[red]a\x1b.mp4") as draw:
        draw(2_000_000)
    assert "[red]a\\x1b.mp4" in capfd.readouterr().err
