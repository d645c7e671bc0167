"""`vfindex search`: words, options, no match, fields of JSON, picture files, clips, and error messages."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install
from media import Shot, make_video
from PIL import Image

from vfindex.indexer.models.factory import LibraryModels
from vfindex.search.query.image import Pictures
from vfindex.search.results import Hit
from vfindex.storage.encoders.pixels import Pixels
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library of three videos with an image encoder; 2.png looks like /videos/c."""
    monkeypatch.setattr(Pictures, "encode", lambda self, path: axis(int(path.stem)))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for number, name in enumerate("abc"):
            add_video(writer, name, [clip(visual=axis(number)), clip(5, 9, visual=axis(number + 3))])
        writer.publish()
    (folder / "query" / "by-hand-image").mkdir()
    Image.new("RGB", (30, 20), "red").save("2.png")
    return folder


def first(run: Any, *arguments: object) -> str:
    ran = run("search", *arguments)
    assert ran.code == 0, ran.err
    return str(ran.out.split("\n")[0].split("\t")[-1])


def test_a_picture_and_a_clip_find_similar_clips(run: Any, seen: Path) -> None:
    assert first(run, "--image", "2.png", "--library", seen) == "/videos/c"
    assert first(run, "--like", "/videos/c@1", "--library", seen) in ("/videos/a", "/videos/b", "/videos/c")
    assert first(run, "in:/videos/a", "--image", "2.png", "--library", seen) == "/videos/a"
    document = json.loads(
        run("search", "--image", "2.png", "--like", "/videos/a@0:01", "--json", "--library", seen).out
    )
    assert (document["query"], document["images"], document["like"]) == ("", ["2.png"], ["/videos/a@0:01"])
    assert document["confident"] is None and document["hits"][0]["video"] == "/videos/c"


class Reds:
    """An image encoder: axis 1 for red frames, axis 2 for others."""

    size_px = 32

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        return np.stack([axis(1 if frame[..., 0].mean() > frame[..., 2].mean() else 2) for frame in frames])


def test_a_part_of_a_file_finds_similar_clips(
    run: Any, tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # frames are encoded as they are
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pictures, "_encoder", lambda self: Reds())
    make_video(tmp_path / "-a@1.mp4", shots=[Shot("red", 2.0), Shot("blue", 2.0)])
    assert first(run, "--clip", "-a@1.mp4@0-1.5", "--library", seen) == "/videos/b"
    assert first(run, "--clip", "-a@1.mp4@0:02-", "--library", seen) == "/videos/c"
    document = json.loads(run("search", "--clip", "-a@1.mp4", "--library", seen, "--json").out)
    assert document["images"] == ["-a@1.mp4"]
    assert {hit["video"] for hit in document["hits"][:2]} == {"/videos/b", "/videos/c"}, "the mean of its frames"
    (tmp_path / "words.mp4").write_text("no video")
    ran = run("search", "--clip", "words.mp4@0-1", "--library", seen)
    assert (
        ran.code == 1 and ran.err == "vfindex: the clip words.mp4@0-1 cannot be read: a text file; name another file\n"
    )
    assert "a span is two times" in run("search", "--clip", "-a@1.mp4@now", "--library", seen).err
    (tmp_path / "link.mp4").symlink_to("-a@1.mp4")
    assert first(run, "--clip", "link.mp4@0-1.5", "--library", seen) == "/videos/b", "a person may name a link"


@pytest.fixture
def odd_files(tmp_path: Path, seen: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the library, with a video and things that are none in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pictures, "_encoder", lambda self: Reds())
    make_video(tmp_path / "a.mp4", shots=[Shot("red", 2.0)])
    os.mkfifo("pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "nowhere.mp4").symlink_to("gone")
    return seen


@pytest.mark.parametrize(
    ("clip", "code", "said"),
    [
        ("a.mp4@90-99999999", 2, "there is nothing of "),
        ("a.mp4@-1-2", 2, "a span is two times"),
        ("a.mp4@0-inf", 2, "a span is two times"),
        ("a.mp4@", 2, "a span is two times"),
        ("a.mp4@2-1", 2, "the span 2-1 ends before it begins"),
        ("", 2, "a path is empty"),
        ("@1-2", 1, "the clip @1-2 cannot be read: there is no such file"),
        ("pipe.mp4@0-1", 1, "is a named pipe"),
        ("folder.mp4", 1, "is a folder"),
        ("nowhere.mp4@0-1", 1, "there is no such file"),
        ("empty.mp4", 1, "the file is empty"),
        ("\x1b[31m\nred.mp4", 1, r"the clip \x1b[31m\x0ared.mp4 cannot be read"),
    ],
)
def test_what_is_no_clip_is_a_sentence(run: Any, odd_files: Path, clip: str, code: int, said: str) -> None:
    ran = run("search", "--clip", clip, "--library", odd_files)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1) and said in ran.err


def test_ranks_can_be_summed(run: Any, seen: Path) -> None:
    ran = run("search", "words", "--combine", "rrf", "--explain", "--library", seen)
    assert ran.out.startswith("1\t0.00") and "visual  +0.00" in ran.out
    assert run("search", "words", "--combine", "sum", "--library", seen).code == 2


def test_the_sheet_of_a_picture(run: Any, seen: Path, tmp_path: Path) -> None:
    assert run("search", "--image", "2.png", "--sheet", tmp_path / "out.png", "--library", seen).code == 0
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.width > 300


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "the query is missing"),
        (("--like", "/videos/a"), 2, "beach.mp4@12.5"),
        (("--like", "/videos/z@1"), 1, "is not in this library"),
        (("--like", "/videos/a@99"), 1, "it runs from 0 s to 9 s"),
        (("--image", "nothing.png"), 1, "cannot be read"),
        (("--image", "library"), 1, "is no file"),
        (("a then b within 5s", "--image", "2.png"), 1, "two"),
        (("--image", "2.png", "--weight", "visual=0"), 1, "weight is 0"),
    ],
)
def test_wrong_image_queries_print_one_sentence(
    run: Any, seen: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = run("search", *arguments, "--library", seen)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.splitlines()[-1].startswith("vfindex: ") and says in ran.err


def test_an_error_in_json_has_a_position(run: Any, seen: Path) -> None:
    error = json.loads(run("search", 'dog "in the park', "--json", "--library", seen).out)["error"]
    assert (error["kind"], error["position"]) == ("QueryError", 4)
    assert "position" not in json.loads(run("search", "--image", "x", "--json", "--library", seen).out)["error"]


def test_the_image_encoder_is_stored_once(run: Any, seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen / "query" / "by-hand-image").rmdir()
    model = seen.parent / "model"
    model.mkdir()
    asked = []

    def find(self: LibraryModels, *_: object, **__: object) -> None:
        asked.append(self)

    monkeypatch.setattr(LibraryModels, "__init__", find)
    monkeypatch.setattr(LibraryModels, "image_folder", lambda self: model)
    for _ in range(2):
        assert first(run, "--image", "2.png", "--library", seen) == "/videos/c"
    assert len(asked) == 1 and (seen / "query" / "by-hand-image").is_dir()


def test_a_machine_without_the_models_gets_a_sentence(run: Any, seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen / "query" / "by-hand-image").rmdir()

    def miss(self: LibraryModels, *_: object, **__: object) -> None:
        raise ModelError("the model NAME is not here; run: vfindex models pull NAME")

    monkeypatch.setattr(LibraryModels, "__init__", miss)
    ran = run("search", "--image", "2.png", "--library", seen)
    assert (ran.code, ran.err) == (1, "vfindex: the model NAME is not here; run: vfindex models pull NAME\n")
    assert first(run, "--like", "/videos/c@1", "--library", seen), "a clip needs no model"


def test_a_wrong_question_is_pointed_at(run: Any, library: Path) -> None:
    ran = run("search", 'a\t日本 "dog', "--library", library)
    assert (ran.code, ran.out) == (1, "")
    shown, caret, sentence = ran.err.splitlines()
    assert shown == '  a\\x09日本 "dog'
    assert caret == " " * len("  a\\x09日本日本 ") + "^", "wide characters take two columns"
    assert sentence.startswith("vfindex: the quotation mark at character 6 is never closed")
    ran = run("search", "dog lang:english", "--library", library, "--json")
    assert json.loads(ran.out)["error"]["kind"] == "QueryError"


def test_words_need_no_quotation_marks(run: Any, library: Path) -> None:
    """Options may stand before, between and after the words."""
    where = ("--library", library, "--json")
    expected = json.loads(run("search", "dog running in park", "-k", 1, *where).out)
    assert expected["query"] == "dog running in park" and len(expected["hits"]) == 1
    for words in (
        ("dog", "running", "in", "park", "-k", 1, *where),
        ("-k", 1, *where, "dog", "running", "in", "park"),
        ("dog", "-k", 1, "running", "in park", *where),
        (*where, "-k", 1, "--", "dog", "running", "in", "park"),
    ):
        assert json.loads(run("search", *words).out) == expected
    assert json.loads(run("search", *where, "--", "dog", "--exact").out)["query"] == "dog --exact"
    wrong = run("search", "dog", '"in', "park", "--library", library)
    assert wrong.code == 1 and "at character 5" in wrong.err


def test_no_match_exits_1(run: Any, library: Path) -> None:
    ran = run("search", '"no such words"', "--library", library)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("no match")
    ran = run("search", "in:nowhere x", "--library", library, "--json")
    assert (ran.code, ran.err) == (1, "")
    assert json.loads(ran.out) | {"hints": []} == {
        "query": "in:nowhere x", "images": [], "like": [], "match": False, "confident": False, "hints": [],
        "missing": [], "labels": {}, "hits": [],
    }  # fmt: skip
    assert json.loads(run("search", "x", "--library", library, "--json").out)["match"] is True


def test_search_gives_every_field(run: Any, library: Path) -> None:
    document = json.loads(run("search", "a question", "--library", library, "--json").out)
    assert document["query"] == "a question"
    hit = document["hits"][0]
    names = "rank video start_s end_s frame_s score confidence coarse modalities words snippet moments also"
    names += " matches missing thumbnail"
    assert set(names.split()) <= set(hit), "fields of version 0.1.0"
    assert list(hit) == [field.name for field in fields(Hit)]
    assert (hit["rank"], hit["video"], hit["start_s"], hit["end_s"]) == (1, "/videos/a.mp4", 0.0, 5.0)
    assert set(hit["modalities"]) == {"visual", "speech", "screen", "audio", "text"}
    assert hit["modalities"]["text"] is None
    assert sum(filter(None, hit["modalities"].values())) == pytest.approx(hit["score"])


@pytest.mark.parametrize("word", ["-cars", "-kite", "-été"])
def test_a_word_that_is_taken_for_an_option_is_told_its_place(run: Any, library: Path, word: str) -> None:
    ran = run("search", "street", word, "--library", library)
    assert (ran.code, ran.out) == (2, "")
    assert f"if {word} is no option, put it last, after --" in " ".join(ran.err.split())
    assert run("search", "street", "--library", library, "--", word).code == 0
    assert "is no option" not in run("search", "street", "--jsn", "--library", library).err


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        (["in:My Trip", "dog"], 'in:"My Trip" dog'),
        (["dog", "said:we have liftoff"], 'dog said:"we have liftoff"'),
        (["dog", "2:red car"], 'dog 2:"red car"'),
        (["dog", "2:said:red car"], 'dog 2:said:"red car"'),
        (["dog", "said:2:red car"], 'dog said:2:"red car"'),
        (["longer:1 min", "dog"], 'longer:"1 min" dog'),
        (["in:My Trip dog"], "in:My Trip dog"),  # a whole query
        (["red car", "dog"], "red car dog"),  # words, as ever
        (["in:My Trip after:2026-01-31", "dog"], "in:My Trip after:2026-01-31 dog"),
        (['in:"My Trip"', "dog"], 'in:"My Trip" dog'),
        (["C++ is:a language", "dog"], "C++ is:a language dog"),
    ],
)
def test_an_argument_with_a_prefix_stays_whole(run: Any, seen: Path, arguments: list[str], query: str) -> None:
    ran = run("search", *arguments, "--json", "--library", seen)
    assert json.loads(ran.out)["query"] == query


def test_a_folder_with_a_space_is_one_filter(run: Any, seen: Path) -> None:
    with writing(seen) as writer:
        add_video(writer, "My Trip/d", [clip(visual=axis(1))])
    assert first(run, "in:My Trip", "dog", "--library", seen) == "/videos/My Trip/d"


def test_a_clip_that_is_not_there_is_a_public_kind_of_error(run: Any, library: Path) -> None:
    refused = run("search", "--like", "/videos/none.mp4@1", "--json", "--library", library)
    assert json.loads(refused.out)["error"]["kind"] == "QueryError"
