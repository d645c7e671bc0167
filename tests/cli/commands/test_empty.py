"""A library that holds no videos, or none any more: each command says so, and what next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from library_maker import install

from vfindex.storage.writer import writing

QUESTIONS = "".join(f'{{"query": "q{n}", "relevant": [{{"video": "v{n}.mp4"}}]}}\n' for n in range(30))
CLASSES = '[{"name": "a", "examples": ["a.mp4@1", "b.mp4@1"]}, {"name": "b", "examples": ["c.mp4@1", "d.mp4@1"]}]'


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a library whose videos have all been removed, with files beside it."""
    with writing(tmp_path / "library") as writer:
        install(writer)
    monkeypatch.setenv("VFINDEX_LIBRARY", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    (tmp_path / "classes.json").write_text(CLASSES)
    return tmp_path / "library"


@pytest.mark.parametrize(
    "command",
    [
        *("search food", "search label:nope food", "duplicates", "duplicates in:x", "unusual", "ask hello"),
        *("tune questions.jsonl", "tune classes.json --temporal", "eval questions.jsonl", "label classes.json"),
    ],
)
def test_an_empty_library_is_called_so(run: Any, empty: Path, command: str) -> None:
    ran = run(*command.split())
    assert (ran.code, ran.out) == (1, "")
    assert f"the library {empty} holds no videos yet; add some with: vfindex ingest VIDEOS\n" in ran.err
    assert "passes" not in ran.err and "upgrade" not in ran.err


def test_a_search_without_a_match_does_not_call_the_library_empty(run: Any, library: Path) -> None:
    ran = run("search", "label:nope", "food", "--library", library)
    assert ran.code == 1
    assert ran.err.endswith("no match: no clip contains what the query requires (docs/query.md)\n")
