"""`vfindex mark`, `marks`, `save` and `saved`: what people write is kept, shown and deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video

from vfindex.storage.maintenance.removal import RemovalSettings, forget_path
from vfindex.storage.writer import locked, writing

PLACE = "/videos/a.mp4@3"


@pytest.fixture(autouse=True)
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Path:
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    return library


def test_a_mark_is_listed_with_its_video(run: Any) -> None:
    made = json.loads(run("mark", PLACE, "--list", "goals", "--note", "the second", "--json").out)
    assert (made["video"], made["presence"]) == ("/videos/a.mp4", "present")
    assert (made["start_s"], made["end_s"], made["list"], made["note"]) == (0.0, 5.0, "goals", "the second")
    assert json.loads(run("marks", "--json").out) == {"marks": [made]}
    ran = run("marks", "--list", "goals")
    assert ran.out.split("\t")[:4] == ["1", "0:00-0:05", "goals", "/videos/a.mp4"]
    assert (ran.code, ran.err) == (0, "1 mark\n")
    assert run("marks", "--list", "other").code == 1


def test_a_judgement_is_a_mark_of_a_question(run: Any) -> None:
    run("mark", PLACE)
    made = json.loads(run("mark", PLACE, "--question", "a goal", "--grade", 2, "--json").out)
    assert (made["question"], made["grade"]) == ("a goal", 2)
    assert [each["id"] for each in json.loads(run("marks", "--question", "a goal", "--json").out)["marks"]] == [2]
    assert "\ta goal = 2\t" in run("marks").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mark", PLACE, "--grade", 2), "a judgement has a question and a grade"),
        (("mark", PLACE, "--question", "x", "--grade", 4), "a grade is 0 (not relevant) to 3, not 4"),
        (("mark", "/videos/none.mp4@3"), "/videos/none.mp4 is not in this library; `vfindex list` shows what is"),
        (("mark", "/videos/a.mp4@99"), "no clip of /videos/a.mp4 covers 99 s"),
        (("mark", "a.mp4"), "a clip is a video and a time"),
        (("marks", "--remove", 7), "there is no mark 7"),
        (("marks", "--remove", 7, "--list", "x"), "--remove takes ids alone"),
        (("save", "x", "in:"), "the filter in: needs a value"),
        (("saved", "x"), "there is no saved question x; save one with: vfindex save x TEXT"),
        (("saved", "--remove"), "name the question to delete"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run: Any, chosen: Path, arguments: tuple[object, ...], said: str) -> None:
    ran = run(*arguments)
    assert ran.code in (1, 2) and ran.out == "" and ran.err.count("\n") == 1
    assert said in ran.err
    assert not (chosen / "user.db").exists()


def test_deleted_marks_are_printed(run: Any) -> None:
    for name in ("one", "two", "three"):
        run("mark", PLACE, "--list", name)
    assert [line.split("\t")[2] for line in run("marks", "--remove", 1, "--remove", 3).out.splitlines()] == [
        "one",
        "three",
    ]
    assert run("marks").out.split("\t")[2] == "two"


def test_a_mark_whose_video_has_left_stays_and_says_so(run: Any, chosen: Path) -> None:
    run("mark", PLACE, "--note", "still here")
    ran = run("remove", "--yes", "/videos/a.mp4")
    assert "left: marks: 1 mark was made in it; to delete: vfindex marks --remove 1" in ran.err
    [mark] = json.loads(run("marks", "--json").out)["marks"]
    assert (mark["video"], mark["presence"], mark["note"]) == (None, "gone", "still here")
    assert "(its video has left the library: a)" in run("marks").out
    with writing(chosen) as writer:
        add_video(writer, "a", [])
    [mark] = json.loads(run("marks", "--json").out)["marks"]
    assert mark["presence"] == "present"


def test_a_mark_of_a_missing_file_says_so(run: Any, chosen: Path) -> None:
    run("mark", PLACE)
    with writing(chosen) as writer:
        writer.catalog.mark_missing([b"/videos/a.mp4"])
    [mark] = json.loads(run("marks", "--json").out)["marks"]
    assert (mark["video"], mark["presence"]) == (None, "missing")


def test_a_note_is_safe_on_a_terminal(run: Any) -> None:
    run("mark", PLACE, "--note", "a\tb\n\x1b[31mred")
    out = run("marks").out
    assert out.count("\n") == 1 and "\x1b" not in out and out.count("\t") == 5


def test_a_saved_question_runs_as_a_search(run: Any) -> None:
    assert run("save", "hello", "she", "said").err == "saved as hello: she said\n"
    assert run("saved").out.startswith("hello\tshe said\t")
    assert run("saved", "hello", "-k", 1, "--json").out == run("search", "she said", "-k", 1, "--json").out
    assert "another question named hello" in run("save", "hello", "other").err
    assert run("saved", "hello", "--remove").err == "deleted: hello: she said\n"
    assert run("saved").code == 1
    assert run("save", "trip", "in:My Trip", "she").err == 'saved as trip: in:"My Trip" she\n'


def test_a_run_that_holds_the_library_refuses_no_mark(run: Any, chosen: Path) -> None:
    with locked(chosen):
        assert run("mark", PLACE).code == run("save", "q", "she said").code == 0
    assert (run("marks").code, run("saved").code) == (0, 0)


def test_damaged_user_data_does_not_end_a_search(run: Any, chosen: Path) -> None:
    run("mark", PLACE)
    (chosen / "user.db").write_bytes(b"no database at all " * 500)
    assert run("search", "hello").code == 0
    for command in (("marks",), ("mark", PLACE), ("saved",)):
        ran = run(*command)
        assert ran.code == 1 and ran.err.count("\n") == 1 and "is damaged" in ran.err and "vfindex repair" in ran.err
    ran = run("verify")
    assert ran.code == 1 and f"problem: {os.fspath(chosen / 'user.db')}, which holds marks" in ran.err
    ran = run("remove", "--yes", "/videos/a.mp4")
    assert "left: marks:" in ran.err and not ran.err.count("Traceback")


def test_removal_leaves_other_marks_alone(run: Any, chosen: Path) -> None:
    run("mark", "/videos/b.mp4@3")
    settings = RemovalSettings(lambda paths, tags, chapters: ("", ()))
    assert list(forget_path(chosen, [b"/videos/a.mp4"], settings)[1].left()) == []


def test_feedback_is_shown_and_said_to_be_no_better(run: Any) -> None:
    ran = run("search", "a goal", "--all", "--feedback")
    assert "this question has no judgements" in ran.err
    run("mark", PLACE, "--question", "a goal", "--grade", 3)
    ran = run("search", "a goal", "--all", "--feedback", "--explain")
    assert "moved by 1 of 1 judgement; to undo: vfindex marks --remove ID" in ran.err
    assert "not better than without them in the measurement" in ran.err
    assert "    visual  cosine " in ran.err
