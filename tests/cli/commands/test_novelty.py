"""What `unusual`, `similar` and `duplicates` print, and how they end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip

from vfindex.cli.app import command_line
from vfindex.cli.commands import duplicates, similar, unusual
from vfindex.storage.writer import writing

COMMANDS = (("unusual",), ("similar", "/videos/a.mp4"), ("duplicates",))


@pytest.mark.parametrize("module", [unusual, similar, duplicates])
def test_help_fits_one_screen_and_its_example_is_taken(run: Any, module: Any) -> None:
    lines = run(module.NAME, "--help").out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    _, command, *arguments = shlex.split(module.EXAMPLE)
    command_line().commands[command].make_context(command, arguments)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_no_library_and_an_empty_one_are_a_sentence_and_1(run: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments, "--library", tmp_path / "nothing")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("vfindex: there is no library in ")
    with writing(tmp_path):
        pass
    ran = run(*arguments, "--library", tmp_path)
    assert (ran.out, ran.err.count("\n")) == ("", 1)
    assert ran.code in (1, 2)


@pytest.fixture
def many(library: Path) -> Path:
    """Return a library of 12 videos of axis 1 and one of axis 4."""
    with writing(library) as writer:
        for number in range(10):
            vector = axis(1) + 0.02 * number * axis(2)
            add_video(writer, f"c{number}.mp4", [clip(visual=vector / (vector @ vector) ** 0.5, speech=axis(2))])
        add_video(writer, "odd\x1b[31m.mp4", [clip(visual=axis(4), speech=axis(5))])
        writer.publish()
    return library


def test_the_odd_one_is_printed_with_its_nearest_and_no_control_character(run: Any, many: Path) -> None:
    ran = run("unusual", "--library", many)
    assert ran.code == 0
    [line] = ran.out.splitlines()
    rank, deviation, sign, span, name, nearest = line.split("\t")
    assert (rank, sign, span, name) == ("1", "stands out", "0:00-0:05", "/videos/odd\\x1b[31m.mp4")
    assert deviation.startswith("+")
    assert nearest.startswith("nearest ")
    assert "13 clips compared with 13" in ran.err


def test_nothing_unusual_is_said_and_all_shows_the_list(run: Any, library: Path) -> None:
    with writing(library) as writer:
        for number in range(3):
            add_video(writer, f"c{number}.mp4", [clip(visual=axis(1), speech=axis(2))])
    ran = run("unusual", "--library", library)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("nothing stands out, not better than chance here: 5 clips compared with 5")
    ran = run("unusual", "--library", library, "--all", "-k", "2")
    assert len(ran.out.splitlines()) == 2


def test_similar_prints_hits_as_search_does(run: Any, many: Path) -> None:
    ran = run("similar", "/videos/c9.mp4", "-k", "2", "--balance", "1", "--library", many)
    assert ran.code == 0
    assert [line.split("\t")[0] for line in ran.out.splitlines()] == ["1", "2"]
    assert "c9.mp4" not in ran.out
    assert run("similar", "x.mp4", "--library", many).err.startswith("vfindex: x.mp4 is not in this library")


def test_no_duplicates_is_said(run: Any, many: Path) -> None:
    ran = run("duplicates", "--library", many)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "0 groups of the same footage in 13 videos, none better than chance here\n"
