"""`vfindex open` and the hits it plays: the right file from the right time, in the player that is there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from command_line import vfindex
from library_maker import axis, clip, install, video

from vfindex.cli.commands.open import _begin_s
from vfindex.storage.records import Location, UnitPlan, UnitResult
from vfindex.storage.writer import writing

NAMES = ("-rf.mp4", "two words.mp4")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "vfindex" / "searches"


@pytest.fixture
def searched(tmp_path: Path, run: Any, state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of two files that were found by a search."""
    folder = tmp_path / "videos"
    folder.mkdir()
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number, name in enumerate(NAMES):
            (folder / name).write_bytes(b"no video")
            id_ = writer.catalog.begin_video(video(name), [UnitPlan(0)], recognised=True)
            [(unit, _)] = writer.catalog.pending_units(id_)
            best = axis(1) if number == 0 else 0.8 * axis(1) + 0.6 * axis(2)
            writer.commit_unit(id_, name, unit, UnitResult((clip(2.5, 5, visual=best),), ()))
            writer.catalog.finish_video(id_, Location(os.fsencode(folder / name), 8, 1, 1), [])
        writer.publish()
    monkeypatch.setenv("VFINDEX_LIBRARY", str(tmp_path / "library"))
    assert len(run("search", "dogs", "--all").out.splitlines()) == 2
    return folder


def player(folder: Path, name: str) -> Path:
    """Make a program that writes its arguments to a file; return the file."""
    folder.mkdir(exist_ok=True)
    said = folder / f"{name}.said"
    program = folder / name
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{said}'\n")
    program.chmod(0o755)
    return said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("mpv", ["--start=2.500", "--"]), ("vlc", ["--start-time=2.500"]), ("xdg-open", [])],
)
def test_the_player_gets_file_and_time(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]
) -> None:
    said = player(tmp_path / "bin", name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    for number, file in enumerate(NAMES, 1):
        ran = vfindex(tmp_path / "cache", "open", number)
        assert ran.code == 0, ran.err
        assert said.read_text().splitlines() == [*arguments, str(searched / file)]
    assert ("the moment is at 0:02.5" in ran.err) == (name == "xdg-open")


def test_mpv_comes_first(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [player(tmp_path / "bin", name) for name in ("xdg-open", "vlc")]
    said = player(tmp_path / "bin", "mpv")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    assert vfindex(tmp_path / "cache", "open", 1).code == 0
    assert said.exists() and not any(other.exists() for other in others)


def test_what_is_kept_is_this_user_s_alone(searched: Path, state: Path, run: Any) -> None:
    [path] = state.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [hit["video"] for hit in json.loads(path.read_text())] == [str(searched / name) for name in NAMES]
    before = path.read_bytes()
    run("search", "dogs", "--all", "--json", "-k", 1)
    assert path.read_bytes() == before, "programs that search change nothing"


def test_each_library_has_its_own_last_search(searched: Path, tmp_path: Path, run: Any) -> None:
    ran = run("open", 1, "--library", tmp_path / "other")
    assert ran.code == 2 and "no search has left hits to open" in ran.err


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b"[1]", b'[{"rank": "x"}]', b"\xff"])
def test_a_damaged_file_is_no_search(searched: Path, state: Path, run: Any, content: bytes) -> None:
    [path] = state.iterdir()
    path.write_bytes(content)
    assert run("open", 1).code == 2


def test_what_cannot_be_opened_is_a_sentence(
    searched: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the last search has no hit 3; it has 2 hits" in run("open", 3).err
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = run("open", 1)
    assert ran.code == 1 and "there is no player: install mpv or VLC" in ran.err
    (searched / NAMES[0]).unlink()
    ran = run("open", 1)
    assert f"{searched / NAMES[0]} is not there; mount its disk; if it was moved, run: vfindex reindex" in ran.err


def test_a_search_goes_on_where_nothing_can_be_kept(searched: Path, state: Path, run: Any) -> None:
    for path in state.iterdir():
        path.unlink()
    state.rmdir()
    state.write_text("in the way")
    assert run("search", "dogs", "--all").code == 0
    assert state.read_text() == "in the way"


EDGE = Path(os.environ.get("VFINDEX_TEST_MEDIA", "")) / "edge"


@pytest.mark.skipif(not EDGE.is_dir(), reason="VFINDEX_TEST_MEDIA names no folder with edge files")
@pytest.mark.parametrize(("name", "begin_s"), [("test_non_zero_start.mp4", 8.333), ("nasa_13013.mp4", 0.0)])
def test_players_count_from_where_the_file_begins(name: str, begin_s: float) -> None:
    assert _begin_s(str(EDGE / name)) == pytest.approx(begin_s, abs=1e-3)
