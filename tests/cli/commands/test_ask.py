"""`vfindex ask`: quotations that are safe on a terminal, exit codes, and an endpoint that may fail."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from answering import answering, sending

from vfindex.search.calibration.labels import META_KEY, Calibration, ModalityCalibration
from vfindex.storage.writer import writing

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Path:
    """Let words of the question in what is said be better than chance."""
    with writing(library) as writer:
        measured = ModalityCalibration(1.0, 40, 60, 0.5, 0.1, 0.15, 5.0, 2.0, -1.0)
        writer.catalog.put(META_KEY, Calibration(2, {"speech": measured}).to_json())
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    monkeypatch.setenv("VFINDEX_LLM_KEY", KEY)
    return library


def test_an_answer_is_quoted_and_safe_on_a_terminal(run: Any) -> None:
    ran = run("ask", "who", "said", "hello?")
    assert (ran.code, ran.err) == (0, "")
    head, quotation = ran.out.splitlines()[:2]
    rank, confidence, span, path = head.split("\t")
    assert (rank, span, path) == ("[1]", "0:00-0:05", "/videos/a.mp4") and confidence.startswith("medium ")
    assert quotation == '    0:00.0 speech, recognised: "\\x1b]0;owned\\x07 she said [red]hello[end]"'


def test_what_is_not_said_exits_with_1(run: Any) -> None:
    ran = run("ask", "zebras?")
    assert (ran.code, ran.out, ran.err) == (1, "", "the library does not say\n")
    shown = run("ask", "zebras?", "--all")
    assert shown.code == 1 and "/videos/a.mp4" in shown.out
    document = json.loads(run("ask", "zebras?", "--json").out)
    assert (document["says"], document["moments"]) == (False, [])


def test_an_endpoint_phrases_the_answer(run: Any) -> None:
    reply = json.dumps({"choices": [{"message": {"content": "She said hello [1]. I know more."}}]}).encode()
    with answering(sending(b"HTTP/1.1 200 OK", reply)) as (port, received):
        ran = run("ask", "who said hello?", "--llm", f"http://127.0.0.1:{port}/v1", "--model", "m")
    assert ran.code == 0 and ran.out.startswith("She said hello. [1]\n[1]\t")
    assert ran.err == (
        f"written by http://127.0.0.1:{port}, from the quotations below\n"
        f"http://127.0.0.1:{port}: 1 sentence left out: no quotation supports it\n"
    )
    assert f"Bearer {KEY}".encode() in received[0]


def test_without_its_endpoint_the_answer_still_stands(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    ran = run("ask", "who said hello?", "--llm", f"http://127.0.0.1:{port}", "--model", "m")
    assert ran.code == 0 and ran.out.startswith("[1]\t")
    assert ran.err == (
        f"http://127.0.0.1:{port}: it cannot be reached (Connection refused); the quotations are the answer\n"
    )
    assert KEY not in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask",), "the question is missing"),
        (("ask", "x", "--model", "m"), "name the endpoint with --llm URL"),
        (("ask", "x", "--llm", "http://localhost:1"), "name the model of http://localhost:1 with --model"),
        (("ask", "x", "--llm", "http://llm.example", "--model", "m"), "is not encrypted"),
        (("ask", "x", "--video", ""), "a path is empty"),
        (("ask", "x", "--video", "none.mp4"), "none.mp4 is not in this library"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run: Any, arguments: tuple[object, ...], said: str) -> None:
    ran = run(*arguments)
    assert ran.code in (1, 2) and ran.out == "" and ran.err.count("\n") == 1
    assert said in ran.err and KEY not in ran.err


def test_an_empty_library_says_so(run: Any, tmp_path: Path) -> None:
    with writing(tmp_path / "empty"):
        pass
    ran = run("ask", "x", "--library", tmp_path / "empty")
    assert ran.code == 1 and "holds no videos yet" in ran.err and ran.err.count("\n") == 1
