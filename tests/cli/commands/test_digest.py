"""`vfindex chapters` and `digest`: what they print and write, and the sentences for what they cannot do."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install
from PIL import Image

from vfindex.storage.records import Chapter, Segment
from vfindex.storage.writer import writing

NAME, FIVE = "two topics.mp4", "<b>five & topics.mp4"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        clips = [clip(5.0 * n, 5.0 * n + 5, visual=axis(n // 6)) for n in range(12)]
        said = [Segment(5.0 * n, 5.0 * n + 4, f"\x1b[31mdough <i>number</i> {n}.", "asr", "en") for n in range(6)]
        add_video(writer, NAME, clips, said, end_s=60.0)
        topics = [0] * 12 + [1, 1, 2, 2, 4, 4, 5, 5]
        add_video(writer, FIVE, [clip(5.0 * n, 5.0 * n + 5, visual=axis(t)) for n, t in enumerate(topics)], end_s=100.0)
        stated = (Chapter("\x1b[31mIntro", 0.0, 30.0),)
        add_video(writer, "stated.mp4", [clip(visual=axis(2))], chapters=stated)
        add_video(writer, "one.mp4", [clip(5.0 * n, 5.0 * n + 5, visual=axis(3)) for n in range(9)], end_s=45.0)
        writer.publish()
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    return tmp_path


def test_chapters_are_printed_with_their_titles_and_sentences(run: Any, folder: Path) -> None:
    ran = run("chapters", NAME)
    lines = ran.out.splitlines()
    assert lines[0].startswith("0:00-0:30\t") and "dough" in lines[0]
    assert lines[1].startswith("    0:") and "dough <i>number</i>" in lines[1]
    assert lines[2] == "0:30-1:00\t(nothing said or written)"
    assert (ran.code, ran.err) == (0, "found where the pictures, speech and text change (p = 0.01)\n")
    assert "\x1b" not in ran.out


def test_chapters_of_the_file_are_printed_as_such(run: Any, folder: Path) -> None:
    ran = run("chapters", "stated.mp4")
    assert ran.out == "0:00-0:30\t\\x1b[31mIntro\n"
    assert ran.err == "chapters of the file; --detect finds others\n"


def test_what_is_not_above_chance_is_said(run: Any, folder: Path) -> None:
    ran = run("chapters", "one.mp4")
    assert (ran.code, ran.out) == (1, "") and ran.err.startswith("not better than chance here: ")
    ran = run("digest", "one.mp4")
    assert (ran.code, ran.out) == (1, "") and "not better than chance here: the excerpts" in ran.err
    assert run("chapters", "one.mp4", "--json").code == 1
    ran = run("digest", "one.mp4", "-o", folder / "r.edl", "--storyboard", folder / "r.html")
    assert f"not written, as there are no excerpts: {folder / 'r.edl'}\n" in ran.err
    assert f"not written, as nothing stands for the video: {folder / 'r.html'}\n" in ran.err
    assert not list(folder.glob("r.*"))


def test_a_digest_is_printed_and_written(run: Any, folder: Path) -> None:
    png, page, table = folder / "a.png", folder / "a.html", folder / "a.csv"
    ran = run("digest", FIVE, "--length", 25, "--storyboard", png, "--storyboard", page, "-o", table)
    assert ran.code == 0, ran.err
    assert [line.split("\t")[2] for line in ran.out.splitlines()] == ["stands for 60%", *["stands for 10%"] * 4]
    assert f"{FIVE}, 1:40: 5 excerpts of 0:25.0, 0 sentences" in ran.err
    assert Image.open(io.BytesIO(png.read_bytes())).format == "PNG"
    html = page.read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt;five &amp; topics.mp4</h1>" in html and "<b>" not in html
    assert ">1:30.0-1:35.0, stands" in html and "0:25.0 of 1:40.0" in html, "tenths, as excerpts are cut"
    assert html.count("<figure>") == 5 and "http" not in html.replace("http-equiv", "")
    assert table.read_text(encoding="utf-8").count("topics.mp4") >= 5
    document = json.loads(run("digest", FIVE, "--length", 25, "--json").out)
    assert [each["share"] for each in document["moments"]] == [0.6, 0.1, 0.1, 0.1, 0.1]
    assert document["pictures"] == {"better_than_chance": True, "p_value": 0.01}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("chapters", "none.mp4"), 1, "not in this library"),
        (("chapters", NAME, "--least", 0), 1, "a number of seconds above 0"),
        (("digest", NAME, "--length", 1), 1, "a digest lasts 2 s or more"),
        (("digest", NAME, "--storyboard", "a.jpg"), 2, "a storyboard is a .png or a .html, not a.jpg"),
        (("digest", NAME, "-o", "a.xyz"), 2, "name a file for --output that ends in one of"),
        (("digest", NAME, "--exact"), 2, "--exact is for cuts"),
        (("digest", ""), 2, "empty"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    run: Any, folder: Path, arguments: tuple[object, ...], code: int, said: str
) -> None:
    ran = run(*arguments)
    assert ran.code == code and said in ran.err and len(ran.err.splitlines()) == 1, ran.err


def test_an_empty_library_is_a_sentence(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path / "empty") as writer:
        install(writer)
    for name in ("chapters", "digest"):
        ran = run(name, "a.mp4", "--library", tmp_path / "empty")
        assert ran.code == 1 and "not in this library" in ran.err and len(ran.err.splitlines()) == 1
