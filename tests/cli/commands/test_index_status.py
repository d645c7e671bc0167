"""What `status` says about the index, and `questions` about what is kept to measure it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, add_video, clip, install

from vfindex.storage.index import segment, tuning
from vfindex.storage.index.live_recall import META_KEY, LiveRecall, Tally
from vfindex.storage.user import questions
from vfindex.storage.user.questions import QuestionKeeper, kept_count
from vfindex.storage.writer import writing

TODAY = datetime.now(UTC).date().isoformat()


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library of 60 clips with codes, and 2 more in a flat segment."""
    monkeypatch.setattr(segment, "EXACT_CLIPS", 50)
    monkeypatch.setattr(tuning, "QUESTIONS", 16)
    monkeypatch.setattr(questions, "INTERVAL_S", 0.0)
    random = np.random.default_rng(4)
    folder = tmp_path / "coded"

    def add(writer: Any, number: int, count: int) -> None:
        rows = random.standard_normal((count, DIM)).astype(np.float32)
        add_video(writer, f"v{number}", [clip(5.0 * at, 5.0 * at + 5, visual=row) for at, row in enumerate(rows)])

    with writing(folder) as writer:
        install(writer)
        for number in range(12):
            add(writer, number, 5)
        writer.publish()
        add(writer, 12, 2)
        writer.publish()
    return folder


def record(folder: Path, *tallies: Tally, raised: str | None = None) -> None:
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, LiveRecall(tallies, raised).to_json())


def lines(run: Any, folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in run("status", "--library", folder).out.splitlines():
        found.setdefault(line[:11].strip(), []).append(line[12:])
    return found


def test_a_small_index_is_exact(run: Any, library: Path) -> None:
    index = json.loads(run("status", "--library", library, "--json").out)["index"]
    assert [each["search"] for each in index["segments"]] == ["exact"] and index["recall"] is None
    assert "recall" not in lines(run, library)


def test_segments_are_shown(run: Any, coded: Path) -> None:
    index = json.loads(run("status", "--library", coded, "--json").out)["index"]
    assert [(each["clips"], each["deleted"], each["search"]) for each in index["segments"]] == [
        (60, 0, "tuned"),
        (2, 0, "exact"),
    ]
    sizes = {path.name: path.stat().st_size for path in (coded / "index").iterdir()}
    assert index["bytes"] <= sum(sizes.values()) and {each["bytes"] for each in index["segments"]} <= set(
        sizes.values()
    )
    assert (index["clips"], index["deleted"], index["pending_merges"], index["pending_clips"]) == (62, 0, 0, 0)
    [shown] = lines(run, coded)["segments"]
    assert shown == f"2 segments, 1 of them with codes, {index['bytes'] / 1e3:,.1f} kB"


def test_a_good_recall_is_one_line(run: Any, coded: Path) -> None:
    assert lines(run, coded)["recall"] == ["not measured yet, 0 questions kept"]
    record(coded, Tally(TODAY, "default", False, 99, 98.5), Tally("2020-01-01", "default", False, 99, 0.0))
    assert lines(run, coded)["recall"] == [f"0.995 (0.95 to 1.00) of 99 questions asked by people, {TODAY} to {TODAY}"]
    found = json.loads(run("status", "--library", coded, "--json").out)["index"]["recall"]
    assert (found["questions"], found["recall"], found["is_low"], found["next"]) == (99, 0.9949, False, None)


def test_a_low_recall_says_at_which_weighting_and_what_to_do(run: Any, coded: Path) -> None:
    record(coded, Tally(TODAY, "default", False, 960, 960.0), Tally(TODAY, "speech", True, 40, 36.0))
    whole, part, next_ = lines(run, coded)["recall"]
    assert whole.startswith("0.996 (0.99 to 1.00) of 1000 questions")
    assert part == "speech alone, with filters: 0.900 (0.77 to 0.96) of 40 questions"
    assert next_.startswith("below 0.97: the next run raises") and next_.endswith("vfindex rebuild")
    found = json.loads(run("status", "--library", coded, "--json").out)["index"]["recall"]
    assert found["is_low"] and [each["is_low"] for each in found["weightings"]] == [False, True]


def test_what_was_raised_is_measured_again(run: Any, coded: Path) -> None:
    record(coded, raised=TODAY)
    [shown] = lines(run, coded)["recall"]
    assert shown == f"not measured since the search parameters were raised on {TODAY}, 0 questions kept"


def test_questions_are_shown_deleted_and_forbidden(run: Any, coded: Path) -> None:
    def ask() -> None:
        QuestionKeeper(coded, coded).keep(np.ones(3, np.float32), 10, None)

    ask()
    ran = run("questions", "--library", coded)
    assert ran.out == "1 question kept; the next run measures the index with it\n"
    ran = run("questions", "--forget", "--library", coded, "--json")
    assert json.loads(ran.out) == {"keeps": True, "kept": 0, "deleted": 1}
    ask()
    ran = run("questions", "--no-keep", "--library", coded)
    assert ran.err == "1 question deleted\n"
    again = f"to keep some again: vfindex questions --library {coded} --keep"
    assert ran.out == f"0 questions kept, and no more will be; {again}\n"
    ask()
    assert kept_count(coded) == 0
    assert lines(run, coded)["recall"][0].endswith(again)
    ran = run("questions", "--keep", "--library", coded)
    assert ran.out == "0 questions kept\n"
    ask()
    assert kept_count(coded) == 1


def test_no_library_has_no_questions(run: Any, tmp_path: Path) -> None:
    ran = run("questions", "--library", tmp_path)
    assert ran.code == 1 and "there is no library in" in ran.err
