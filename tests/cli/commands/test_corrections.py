"""`vfindex corrections`: what people corrected is listed, shown everywhere, and undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfindex.search.service import SearchService
from vfindex.storage.records import Line

RIGHT = "she said\N{RIGHT-TO-LEFT OVERRIDE} hallo"


@pytest.fixture(autouse=True)
def corrected(library: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> dict[str, Any]:
    """Correct the line of the first video, whose text would command a terminal."""
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    with SearchService(library) as service:
        found = service.transcript("/videos/a.mp4")
        return service.correct(Line.of(found.fingerprint, found.segments[0]), RIGHT, by="ana").to_dict()


def test_corrections_are_listed_with_both_texts(run: Any, corrected: dict[str, Any]) -> None:
    assert json.loads(run("corrections", "--json").out) == {"corrections": [corrected]}
    ran = run("corrections", "a.mp4")
    id_, _, video, by, before, after = ran.out.rstrip("\n").split("\t")
    assert (id_, video, by) == ("1", "/videos/a.mp4", "ana")
    assert "she said" in before and "hallo" in after
    assert "\x1b" not in ran.out and "\N{RIGHT-TO-LEFT OVERRIDE}" not in ran.out
    assert (ran.code, ran.err) == (0, "1 correction\n")


def test_a_correction_is_shown_found_exported_and_undone(run: Any, library: Path) -> None:
    assert ", corrected] she said" in run("show", "/videos/a.mp4").out
    assert json.loads(run("search", "said:hallo", "--json").out)["hits"][0]["words"] == ["hallo"]
    assert "hallo" in run("export", "--video", "/videos/a.mp4", "--format", "srt").out
    undone = run("corrections", "--remove", 1)
    assert undone.out.startswith("1\t") and undone.err == "1 correction deleted\n"
    assert "corrected" not in run("show", "/videos/a.mp4").out
    assert "hallo" not in run("export", "--video", "/videos/a.mp4", "--format", "srt").out
    assert run("corrections").code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--remove", 7), "there is no correction 7"),
        (("a.mp4", "--remove", 1), "--remove takes ids alone"),
        (("none.mp4",), "not in this library"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run: Any, arguments: tuple[object, ...], said: str) -> None:
    ran = run("corrections", *arguments)
    assert ran.code in (1, 2) and ran.out == "" and ran.err.count("\n") == 1 and said in ran.err


def test_a_removal_leaves_corrections_and_says_so(run: Any) -> None:
    ran = run("remove", "--yes", "/videos/a.mp4")
    assert "left: corrections: 1 correction was made in it; to delete: vfindex corrections --remove 1" in ran.err
    assert "(its video has left the library: " in run("corrections").out
