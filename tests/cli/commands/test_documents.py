"""Every command prints the document of the service's record, field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip

from vfindex.cli import commands
from vfindex.search.evaluation.datasets import read_questions
from vfindex.search.evaluation.evaluate import parse_configuration, run_questions
from vfindex.search.evaluation.report import Evaluation
from vfindex.search.query.like import Like
from vfindex.search.service import SearchService
from vfindex.search.understanding.diversity import BALANCE
from vfindex.storage.records import Line, Segment
from vfindex.storage.writer import writing

Asked = Callable[[SearchService], Any]
DOCUMENTS: dict[str, tuple[tuple[str, ...], Asked]] = {
    "search": (("search", "a question", "-k", "3"), lambda service: service.search("a question", top_k=3)),
    "like": (
        ("search", "--like", "/videos/a.mp4@0:01"),
        lambda service: service.search(images=[Like.parse("/videos/a.mp4@0:01")]),
    ),
    "all": (("search", "x", "--all"), lambda service: service.search("x", min_confidence="none")),
    "ask": (("ask", "a question", "--all"), lambda service: service.ask("a question", show_all=True)),
    "show": (("show", "/videos/a.mp4"), lambda service: service.video("/videos/a.mp4")),
    "chapters": (("chapters", "/videos/a.mp4"), lambda service: service.chapters("/videos/a.mp4")),
    "digest": (("digest", "/videos/a.mp4"), lambda service: service.digest("/videos/a.mp4")),
    "status": (("status",), lambda service: service.status()),
    "list": (("list", "longer:1s"), lambda service: service.videos("longer:1s")),
    "runs": (("runs", "list"), lambda service: service.runs()),
    "run": (("runs", "show", "1"), lambda service: service.run(1)),
    "marks": (("marks", "--list", "goals"), lambda service: service.marks(list_="goals")),
    "mark": (("mark", "/videos/a.mp4@0:01", "--list", "goals"), lambda service: service.marks().marks[0]),
    "marks, deleted": (("marks", "--remove", "1"), lambda service: BEFORE["marks"]),
    "corrections": (("corrections",), lambda service: service.corrections()),
    "corrections, deleted": (("corrections", "--remove", "1"), lambda service: BEFORE["corrections"]),
    "unusual": (
        ("unusual", "-k", "3", "--modality", "visual"),
        lambda service: service.unusual(top_k=3, modality="visual"),
    ),
    "similar": (("similar", "/videos/a.mp4"), lambda service: service.similar("/videos/a.mp4", balance=BALANCE)),
    "duplicates": (("duplicates",), lambda service: service.duplicates()),
    "saved": (("saved",), lambda service: service.saved_queries()),
    "saved, run": (("saved", "hello", "-k", "2"), lambda service: service.search("she said", top_k=2)),
    "saved, deleted": (("saved", "hello", "--remove"), lambda service: BEFORE["saved"]),
}
# What the records were before the command deleted some of them.
BEFORE: dict[str, Any] = {}


@pytest.fixture
def folder(library: Path) -> Path:
    """Return a library with speech, a name that is not ASCII, and a run."""
    with writing(library) as writer:
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), {"found": 2})
        add_video(
            writer, "café.mp4", [clip(visual=axis(2), speech=axis(3))],
            [Segment(0.5, 1.5, "a question of taste", "sidecar", "en")],
        )  # fmt: skip
        writer.publish()
    with SearchService(library) as service:
        service.mark("/videos/a.mp4@0:01", list_="goals", note="Tor für Zoë")
        service.save_query("hello", "she said")
        said = service.transcript("café.mp4")
        service.correct(Line.of(said.fingerprint, said.segments[0]), "a question of taste and time")
        BEFORE.update(marks=service.marks(), saved=service.saved_queries(), corrections=service.corrections())
    return library


def test_every_command_that_prints_a_record_is_compared() -> None:
    printing = [
        path.stem
        for path in Path(commands.__file__).parent.glob("*.py")
        if {"SearchService", "JsonOption"} <= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    ]
    assert sorted(printing) == sorted({arguments[0] for arguments, _ in DOCUMENTS.values()})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_command_line_and_python_give_one_document(run: Any, folder: Path, name: str) -> None:
    arguments, ask = DOCUMENTS[name]
    printed = json.loads(run(*arguments, "--library", folder, "--json").out)
    with SearchService(folder) as service:
        record = ask(service).to_dict()
    assert sorted(printed) == sorted(record)
    for field in printed:
        assert printed[field] == json.loads(json.dumps(record[field])), field
    assert any(value for value in printed.values())


def test_an_evaluation_is_one_document(run: Any, folder: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(
        '{"query_id": "1", "query": "a question", "relevant": [{"video": "a.mp4", "grade": 1}]}\n', encoding="utf-8"
    )
    printed = json.loads(run("eval", queries, "--library", folder, "--json").out)
    questions = read_questions(queries)
    [rankings] = run_questions([parse_configuration("default", folder)], questions, lambda done: None)
    record = Evaluation.of(queries, questions, {"default": rankings}).to_dict()
    for document in (printed, record):  # times differ from run to run
        assert document["configurations"][0].pop("latency_ms")["p50"] > 0
    assert printed == json.loads(json.dumps(record))
