"""`vfindex list`: which videos, their order, and the coverage of each modality."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.cli.commands import list as listing
from vfindex.search import service as service_module
from vfindex.storage.labels import StoredLabel, library_state, put_labels
from vfindex.storage.records import Segment
from vfindex.storage.writer import writing


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Return a library of b.mp4, half of whose clips have speech, in German, and a.mp4 without any."""
    with writing(tmp_path / "films") as writer:
        install(writer)
        spoken = replace(clip(5.0, 10.0, visual=axis(1), speech=axis(2)))
        add_video(writer, "b.mp4", [clip(0.0, 5.0, visual=axis(1)), spoken], [Segment(5, 9, "Hallo", "sidecar", "de")])
        add_video(writer, "a.mp4", [clip(visual=axis(1))])
        writer.publish()
    return tmp_path / "films"


def test_videos_are_listed_by_path_with_their_coverage(run: Any, films: Path) -> None:
    ran = run("list", "--library", films)
    assert (ran.code, ran.err) == (0, "2 videos\n")
    assert [line.split()[-1] for line in ran.out.splitlines()] == ["/videos/a.mp4", "/videos/b.mp4"]
    assert "2 clips  visual 100%  speech  50%  screen   0%  audio   0%  text   0%  de " in ran.out


def test_the_document_of_a_list_has_one_row_a_video(run: Any, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "PAGE_VIDEOS", 1)
    ran = run("list", "--library", films, "--json")
    first, second = json.loads(ran.out)["videos"]
    assert ran.err == ""
    assert (first["video"], first["clips"], first["languages"]) == ("/videos/a.mp4", 1, [])
    assert second["clips_with"] == {"visual": 2, "speech": 1, "screen": 0, "audio": 0, "text": 0}
    assert second["languages"] == ["de"]


def test_filters_are_those_of_a_query(run: Any, films: Path) -> None:
    assert "b.mp4" in run("list", "lang:de", "--library", films).out
    assert "a.mp4" not in run("list", "lang:de", "--library", films).out
    assert run("list", "in:a.mp4", "longer:1s", "--library", films).out.count("\n") == 1
    none = run("list", "lang:fr", "--library", films, "--json")
    text = "lang:fr matches no transcript in this library; its languages: de"
    hints = [{"kind": "lang", "text": text}]
    assert (none.code, json.loads(none.out)) == (1, {"total": 0, "hints": hints, "labels": [], "videos": []})


def test_words_are_left_to_search(run: Any, films: Path) -> None:
    ran = run("list", "dog", "lang:de", "--library", films)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.endswith("films dog\n") and "to search: vfindex search --library /" in ran.err


def test_a_shell_takes_the_quotation_marks_of_a_value(run: Any, films: Path) -> None:
    with writing(films) as writer:
        add_video(writer, "My Trip.mp4", [clip(visual=axis(1))])
    for typed in ("in:My Trip.mp4", 'in:"My Trip.mp4"'):
        assert run("list", typed, "longer:1 second", "--library", films).out.split()[-2:] == ["/videos/My", "Trip.mp4"]
    assert run("list", "in:videos longer:1s", "--library", films).out.count("\n") == 3
    ran = run("list", "in:videos longer:x", "--library", films)
    assert ran.err.startswith("vfindex: the filter longer: does not take 'x'")


def test_a_glob_that_matches_nothing_is_told(run: Any, films: Path) -> None:
    ran = run("list", "in:film", "--library", films)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("hint: in:film matches no path in this library")
    assert "hint" not in run("list", "in:a.mp4", "--library", films).err


def test_damage_on_the_way_is_one_document(run: Any, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "PAGE_VIDEOS", 1)
    with sqlite3.connect(films / "library.db") as connection:
        connection.execute("UPDATE video SET tags = '{' WHERE title = 'b.mp4'")
    connection.close()
    ran = run("list", "--library", films, "--json")
    assert (ran.code, json.loads(ran.out)["error"]["kind"]) == (1, "LibraryDamaged")


def test_a_long_document_is_whole(run: Any, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SPOOLED_BYTES", 1)
    assert len(json.loads(run("list", "--library", films, "--json").out)["videos"]) == 2


def test_labels_of_two_sets_are_counted_and_chosen_apart(run: Any, films: Path) -> None:
    with writing(films) as writer, writer.library.snapshot() as snapshot:
        state, (a, b) = library_state(snapshot), snapshot.video_ids()
        last = snapshot.clips_of(b)[-1].id
        put_labels(
            writer.catalog, "genres", [StoredLabel(a, None, "Talk", 0.9), StoredLabel(b, last, "Talk", 0.7)], state
        )
        put_labels(writer.catalog, "my tone", [StoredLabel(b, None, "talk", 0.6)], state)

    def listed(*filters: str) -> list[str]:
        return [line.split()[-1] for line in run("list", *filters, "--library", films).out.splitlines()]

    assert run("list", "--library", films).err == (
        "2 videos\n  label genres/Talk: 1 whole video, 1 clip\n  label my tone/talk: 1 whole video, 0 clips\n"
    )
    assert listed("label:talk") == listed("label:genres/talk") == ["/videos/a.mp4", "/videos/b.mp4"]
    assert listed("label:my tone/talk") == ["/videos/b.mp4"]
    assert listed("label:none/talk") == []
    ran = run("list", "label:genres/tale", "--library", films)
    assert "label:genres/tale matches no label of this library; labels like it: genres/Talk" in ran.err
    shown = json.loads(run("show", "a.mp4", "--library", films, "--json").out)
    assert shown["labels"] == {"genres/Talk": 0.9}
