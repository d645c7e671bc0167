"""Class files: what they hold, and the sentence for each that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vfindex.search.understanding.labelling.classes import LabelClass, read_classes
from vfindex.storage.errors import UsageError


def written(folder: Path, data: Any) -> Path:
    path = folder / "kinds.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_file_in_json_and_as_lines(tmp_path: Path) -> None:
    cooking = {"name": "cooking", "descriptions": ["someone  cooks"], "examples": ["a.mp4@0:05"]}
    full = read_classes(written(tmp_path, {"name": "all", "modalities": ["speech"], "classes": [cooking, "sport"]}))
    assert (full.name, full.modalities, full.names) == ("all", ("speech",), ("cooking", "sport"))
    assert full.classes == (LabelClass("cooking", ("someone cooks",), ("a.mp4@0:05",)), LabelClass("sport"))
    assert [each.texts for each in full.classes] == [("someone cooks",), ("sport",)]
    lines = read_classes(written(tmp_path, "# kinds\n#modalities: visual, speech\n\ncooking\n sport \n"))
    assert (lines.name, lines.modalities, lines.names) == ("kinds", ("visual", "speech"), ("cooking", "sport"))
    assert read_classes(written(tmp_path, ["cooking", "sport"])).names == lines.names


def test_the_sets_that_come_with_it() -> None:
    kinetics, tone = read_classes(Path("kinetics-400")), read_classes(Path("tone"))
    assert (len(kinetics.names), kinetics.modalities) == (400, ("visual",))
    assert {"abseiling", "playing guitar", "zumba"} < set(kinetics.names)
    assert (tone.names, tone.modalities) == (("positive", "neutral", "negative"), ("speech",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "it needs two classes"),
        (["cooking"], "it needs two classes"),
        (["cooking", "Cooking"], "two classes are called 'cooking'"),
        (["cooking", "None"], "no class can be called 'None'"),
        (["cooking", "\x1b[31m"], "must be text with a word"),
        (["cooking", "?!"], "must be text with a word"),
        (["cooking", 5], "a class is a name, or an object"),
        (["cooking", "x" * 301], "at most 300 characters"),
        ({"classes": [{"name": "a", "colour": 1}, "b"]}, "a class is a name, or an object"),
        ({"classes": "ab"}, "classes must be a list"),
        ({"classes": ["a", "b"], "modalities": ["smell"]}, "there is no modality 'smell'"),
        ({"classes": ["a", "b"], "what": 1}, "'what' is no field"),
        ({"classes": [{"name": "a", "descriptions": ["x"] * 51}, "b"]}, "at most 50, not 51"),
        ("{", "is no file of classes"),
        ("[" * 100_000, "is no file of classes"),
        ([f"class {n}" for n in range(2001)], "at most 2000"),
        ("\n".join(f"class {n}" for n in range(2001)), "at most 2000"),
        (["C", "C++"], "two classes are called 'C'"),
        (["cooking", "(none)"], "no class can be called '(none)'"),
        (" " * ((4 << 20) + 1), "more than 4,194,304 bytes"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, data: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=r"kinds\.json") as raised:
        read_classes(written(tmp_path, data))
    assert reason in str(raised.value)


def test_a_file_of_another_encoding_is_to_be_saved_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "kinds.txt"
    path.write_bytes("Küche\nsport\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"kinds\.txt is not text in UTF-8; save it as UTF-8"):
        read_classes(path)


def test_a_set_that_its_file_cannot_name_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "kinds\udcff\n.txt"
    path.write_text("cooking\nsport\n")
    with pytest.raises(UsageError, match="a name must be text with a word in it"):
        read_classes(path)


def test_a_folder_of_the_name_of_a_set_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tone").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_classes(Path("tone")).names == ("positive", "neutral", "negative")


def test_a_missing_file_names_the_sets_that_come_with_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of: kinetics-400, tone"):
        read_classes(tmp_path / "nothing.json")
