"""Explanations of hits, and hits as a contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from library_maker import add_video, axis, clip, install
from PIL import Image

from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import writing


def make(folder: Path) -> Path:
    """Make a library of one video with speech, title and frames, and one with frames alone."""
    with writing(folder) as writer:
        install(writer)
        said = [Segment(1.5, 3, "hello \x1b world", "asr", "en", 0.5), Segment(3, 4, "hello again", "sidecar", "en")]
        said.append(Segment(4.1, 4.9, "say: good night", "asr", "en", word_times=((0, 0.0), (5, 0.2), (10, 0.54))))
        said.append(Segment(3.5, 4, "hello there", "frames", box=(0.094, 0.5, 0.21, 0.75)))
        described = clip(visual=axis(1), speech=axis(1), text=axis(2))
        add_video(writer, "a", [described, clip(9, 12, visual=axis(2))], said, [Document("title", "Hello holiday")])
        add_video(writer, "b", [clip(visual=axis(2))])
        writer.publish()
    return folder


def test_the_explanation_of_a_hit(run: Any, tmp_path: Path) -> None:
    lines = run("search", "hello world", "--explain", "--library", make(tmp_path / "library")).out.splitlines()
    first = lines[1 : next(i for i, line in enumerate(lines) if line.startswith("2\t"))]
    assert lines[0].startswith("1\t")
    assert [line.split()[0] for line in first] == [
        "visual",
        "speech",
        "screen",
        "audio",
        "text",
        *["words"] * 4,
        "moment",
    ]
    shares = [float(line.split()[2].rstrip("%")) for line in first[:5] if line.split()[1] != "-"]
    assert abs(sum(shares) - 100) <= 1.5
    assert "    words   hello, world: hello \\x1b world  (0:01.5-0:03.0, recognised)" in first
    assert "    words   hello: hello again  (0:03.0-0:04.0, subtitle file)" in first
    assert "    words   hello: hello there  (0:03.5-0:04.0, on the screen, left, x 9-21 %, y 50-75 %)" in first
    assert "    words   hello: Hello holiday  (title)" in first
    other = lines[len(first) + 2 :]
    assert any(line.startswith("    speech  -      nothing in this clip") for line in other)


def test_an_exact_phrase_says_when_it_begins(run: Any, tmp_path: Path) -> None:
    library = make(tmp_path / "library")
    out = run("search", '"good night"', "--explain", "--library", library).out
    assert "    words   good night: say: good night  (0:04.1-0:04.9, the phrase at 0:04.3, recognised)" in out
    [hit] = json.loads(run("search", '"good night"', "--json", "--library", library).out)["hits"]
    assert (hit["start_s"], hit["end_s"], hit["matches"][0]["phrase_s"]) == (4.3, 5.0, 4.3)
    assert (hit["moments"][0]["start_s"], hit["key"][1]) == (0.0, 0)
    [hit] = json.loads(run("search", '"hello again"', "--json", "--library", library).out)["hits"]
    assert (hit["start_s"], hit["matches"][0]["phrase_s"]) == (0.0, None)  # a subtitle without times of words


def test_speakers_are_named(run: Any, tmp_path: Path) -> None:
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        said = [Segment(1, 2, "good night", "sidecar", "en", speakers=("Jane Doe", "Bob"))]
        add_video(writer, "a", [clip(visual=axis(1))], said)
        writer.publish()
    assert " 0:01.0 [sidecar] Jane Doe, Bob: good night" in run("show", "/videos/a", "--library", library).out
    [segment] = json.loads(run("show", "/videos/a", "--json", "--library", library).out)["transcript"]
    assert (segment["speakers"], segment["word_times"]) == (["Jane Doe", "Bob"], [])
    out = run("search", '"good night" speaker:jane', "--explain", "--library", library).out
    assert "    words   good night: good night  (0:01.0-0:02.0, subtitle file, Jane Doe, Bob)" in out
    assert run("list", 'speaker:"bob"', "--library", library).out.count("/videos/a") == 1
    assert run("list", "speaker:ann", "--library", library).out.count("/videos/a") == 0


def test_the_same_in_json(run: Any, tmp_path: Path) -> None:
    library = make(tmp_path / "library")
    [first, second] = json.loads(run("search", "hello", "--json", "--library", library).out)["hits"]
    assert first["matches"][0] == {
        "words": ["hello"],
        "text": "Hello holiday",
        "kind": "title",
        "track": "text",
        "start_s": None,
        "end_s": None,
        "source": None,
        "box": None,
        "phrase_s": None,
        "speakers": [],
    }
    assert {match["source"] for match in first["matches"][1:]} == {"asr", "sidecar", "frames"}
    assert [match["box"] for match in first["matches"] if match["box"]] == [[0.094, 0.5, 0.21, 0.75]]
    assert set(first["missing"]) == {"screen", "audio"}
    assert set(second["missing"]) == {"speech", "screen", "audio", "text"}
    [hit, *_] = json.loads(run("search", "shown:hello", "--json", "--library", library).out)["hits"]
    lacks = "not in this library; to add it: vfindex upgrade"
    assert hit["missing"] == {
        "speech": "not asked for",
        "screen": lacks,
        "audio": f"{lacks} --audio NAME",
        "text": "not asked for",
    }


def test_hits_as_a_picture(run: Any, tmp_path: Path) -> None:
    library, sheet = make(tmp_path / "library"), tmp_path / "sheet.png"
    ran = run("search", "hello", "--sheet", sheet, "--library", library)
    assert ran.code == 0 and len(ran.out.splitlines()) == 2
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 600
    ran = run("search", "hello", "--sheet", tmp_path / "no" / "sheet.png", "--library", library)
    assert ran.code == 2 and "cannot be written" in ran.err and len(ran.err.splitlines()) == 1
