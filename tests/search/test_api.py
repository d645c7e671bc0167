"""docs/api.md agrees with the code: its Python runs, its tables have every parameter, default and field."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.models.factory import LibraryModels
from vfindex.search import playback, status
from vfindex.search.engine import SearchEngine
from vfindex.search.outline.records import ChapterList
from vfindex.search.query.ast import Filters, Moment, Part, Query, Term
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.image import Pictures
from vfindex.search.query.like import Like
from vfindex.search.results import Record
from vfindex.storage import errors
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "api.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert match, title
    return match[1]


def first_column(text: str) -> list[str]:
    """Return the names in the first column of the tables."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def encode(self: QueryEncoder, part: Part) -> dict[Any, FloatArray]:
        return dict.fromkeys(part.modalities, axis(1))

    monkeypatch.setattr(QueryEncoder, "encode", encode)
    monkeypatch.setattr(Pictures, "encode", lambda self, path: axis(2))
    monkeypatch.setattr(LibraryModels, "__init__", lambda self, setup, cache, say: None)
    monkeypatch.setattr(LibraryModels, "image_folder", lambda self: tmp_path)
    monkeypatch.chdir(tmp_path)
    with writing(Path("library")) as writer:
        install(writer)
        for number, name in enumerate(("holiday.mp4", "dog.mp4", "snow.mp4")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(block, names)
    assert capsys.readouterr().out.splitlines()[0].startswith("1 b'/videos/dog.mp4' 0.0 5.0")
    assert Path(names["photo"][0].video.decode()).name == "snow.mp4"
    assert "holiday.mp4" not in {Path(hit.video.decode()).name for hit in names["more"]}
    assert names["hits"] and np.isfinite(names["hits"][0].score)


def test_the_first_block_is_six_lines() -> None:
    [first, *_] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len([line for line in first.splitlines() if line]) <= 6


def test_every_parameter_and_field_has_its_row() -> None:
    parameters = inspect.signature(SearchEngine.search).parameters
    assert first_column(section("`SearchEngine`")) == [name for name in parameters if name != "self"]
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            shown = re.search(rf"^\| `{name}` \|[^|]*\| `([^`]*)` \|", PAGE, re.M)
            written = repr(parameter.default).replace("'", '"')
            assert shown and shown[1] == written, name


# Those of tasks beyond one search are described in docs/cli.md, with their commands.
_KINDS = {*Record.__subclasses__(), playback.Playback, status.Status, ChapterList}
RECORDS = sorted((kind for kind in _KINDS if ".understanding." not in kind.__module__), key=lambda kind: kind.__name__)
UNITS = {"_s": "s", "_ms": "ms", "_px": "px", "_deg": "degrees"}


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_of_a_record_has_name_type_unit_and_meaning(kind: type[Any]) -> None:
    match = re.search(rf"^### `{kind.__name__}`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert match, "a record without its table"
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|([^|]*)\|([^|]+)\|$", match[1], re.M)
    assert [row[:2] for row in rows] == [(field.name, field.type.replace(" | ", " or ")) for field in fields(kind)]
    for name, _, unit, meaning in rows:
        suffix = next((unit for end, unit in UNITS.items() if name.endswith(end)), None)
        assert suffix in (None, unit.strip()), name
        assert meaning.strip(), name


@pytest.mark.parametrize("kind", [Query, Moment, Term, Filters, Like])
def test_every_public_field_is_named(kind: Any) -> None:
    text = section("`Query` and `Like`")
    named = set(re.findall(r"`(\w+)`", text)) | set(re.findall(r"(\w+): \w+", text))
    assert {field.name for field in fields(kind)} - {"position"} <= named


def test_every_error_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", section("Errors")))
    assert {"QueryError", "UsageError", "ModelError", "LibraryError"} <= named
    assert {kind.__name__ for kind in errors.LibraryError.__subclasses__()} <= named
