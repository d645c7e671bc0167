"""Labels of a library: right ones, none of these, stored and read back; nothing where it is no better than chance."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vfindex.cli.app import main
from vfindex.search.service import SearchService
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.search.understanding.labelling.label import Labelling, label_library
from vfindex.storage.errors import LibraryChanged, QueryError, UsageError
from vfindex.storage.index import model_versions
from vfindex.storage.labels import label_counts
from vfindex.storage.library import Library
from vfindex.storage.writer import writing

CLASSES = ClassSet("kinds", (LabelClass("cooking", ("cooking food",)), LabelClass("sport"), LabelClass("dance")))


@pytest.fixture(scope="module")
def kinds(make_kinds: Callable[[float], Path]) -> Path:
    return make_kinds(0.6)


@pytest.fixture
def own(kinds: Path, tmp_path: Path) -> Path:
    """Return a library that a test may write to."""
    return Path(shutil.copytree(kinds, tmp_path / "own"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vfindex", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def kind_of(video: bytes | None) -> str:
    name = (video or b"").decode().rsplit("/", 1)[-1].split()[0]
    return name if name in ("cooking", "sport") else "none"


def right(done: Labelling) -> float:
    return sum(each.label == kind_of(each.video) for each in done.videos) / len(done.videos)


def test_videos_get_their_kind_and_others_none(kinds: Path) -> None:
    done = label_library(kinds, CLASSES, store=False)
    assert right(done) > 0.9 and done.better and done.stored == 0
    assert [each.name for each in done.counts] == ["cooking", "sport", "dance"]
    assert done.counts[2].videos == 0 and done.none is not None and done.none.videos >= 7
    assert sum(each.clips for each in (*done.counts, done.none) if each) == 48
    assert all(0 <= each.none <= 1 and 0.3 < each.probability <= 1 for each in done.videos)


def test_progress_begins_with_the_texts_and_ends_when_all_is_done(kinds: Path) -> None:
    seen: list[tuple[int, int]] = []
    label_library(kinds, CLASSES, store=False, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 99), (51, 99), (99, 99)]  # 3 texts, 48 clips to compare, 48 to label


def test_labels_are_filters_and_counts(own: Path) -> None:
    done = label_library(own, CLASSES)
    with SearchService(own) as service:
        listed = service.videos("label:Cooking")
        assert {kind_of(each.video) for each in listed.videos} >= {"cooking"}
        assert next(each for each in listed.labels if each.name == "cooking").videos == done.counts[0].videos
        assert all(each.labels for each in service.videos("label:sport").videos if kind_of(each.video) == "sport")
        hits = service.search("sport label:sport", top_k=50, min_confidence="none")
        assert hits and all("sport" in hit.labels for hit in hits)
        assert hits.labels["sport"] == len(hits) == hits.to_dict()["labels"]["sport"]
        [hint] = service.videos("label:sports").hints
        assert hint.kind == "label" and "labels like it: sport" in hint.text
        clip = service.video("sport 1.mp4").clips[0]
        assert clip.labels == service.search("x in:*1.mp4 label:sport", min_confidence="none")[0].labels
    with writing(own) as writer:
        writer.catalog.remove(b"/videos/sport 1.mp4")
    with SearchService(own) as service:
        assert service.videos("label:sport").total == listed_without(done)


def listed_without(done: Labelling) -> int:
    return sum("sport" in (each.label, *each.clips) for each in done.videos) - 1


def test_an_upgrade_meanwhile_gets_none_of_the_labels(own: Path, tmp_path: Path) -> None:
    version = own / "editions" / "1"
    shutil.copytree(own, tmp_path / "version")
    version.parent.mkdir()
    (tmp_path / "version").rename(version)  # its clips have the same ids, and as many runs have ended
    with pytest.raises(LibraryChanged, match="upgrade"):
        label_library(own, CLASSES, progress=lambda done, total: model_versions.put_in_use(own, 1))
    for folder in (own, version):
        with Library(folder).snapshot() as snapshot:
            assert not label_counts(snapshot)


def test_nothing_is_stored_where_classes_are_no_better_than_chance(make_kinds: Callable[[float], Path]) -> None:
    folder = make_kinds(0.0)
    done = label_library(folder, CLASSES)
    assert not done.better and done.chance >= 0.05 and done.stored == 0
    assert (done.counts, done.none, done.videos) == ((), None, ())  # no guess in place of an answer
    with SearchService(folder) as service:
        assert service.videos().labels == ()


def test_an_empty_library_and_a_modality_that_it_lacks(kinds: Path, tmp_path: Path) -> None:
    with writing(tmp_path / "empty"):
        pass
    with pytest.raises(QueryError, match="holds no videos yet"):
        label_library(tmp_path / "empty", CLASSES)
    with pytest.raises(UsageError, match="this library has visual only"):
        label_library(kinds, ClassSet("tone", CLASSES.classes, ("speech",)))


def test_the_command_stores_prints_and_deletes(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes, table = tmp_path / "kinds.txt", tmp_path / "labels.csv"
    classes.write_text("cooking\nsport\n")
    assert command(monkeypatch, "label", classes, "--library", own, "--json", "--csv", table) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["better"] and document["stored"] == sum(
        each["videos"] + each["clips"] for each in document["counts"]
    )
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 and {row["label"] for row in rows} == {"cooking", "sport", "none"}
    assert command(monkeypatch, "label", classes, "--library", own) == 0
    videos, clips = (sum(each[of] for each in document["counts"]) for of in ("videos", "clips"))
    assert f"labels of {videos} videos and {clips} clips stored" in capsys.readouterr().err
    assert command(monkeypatch, "label", classes, "--library", own, "--remove") == 0
    assert f"{document['stored']} labels deleted" in capsys.readouterr().out
    assert command(monkeypatch, "label", classes, "--library", own, "--remove") == 1


def test_the_command_says_where_it_is_no_better_than_chance(
    make_kinds: Callable[[float], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kinds.txt").write_text("cooking\nsport\n")
    table = tmp_path / "labels.csv"
    assert command(monkeypatch, "label", tmp_path / "kinds.txt", "--library", make_kinds(0.0), "--csv", table) == 1
    shown = capsys.readouterr()
    assert "not better than chance here" in shown.err and not shown.out and not table.exists()
    assert command(monkeypatch, "label", tmp_path / "kinds.txt", "--library", make_kinds(0.0), "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["better"], document["counts"], document["none"], document["videos"]) == (False, [], None, [])


def test_eval_measures_labels_against_truth(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, picture = tmp_path / "truth.jsonl", tmp_path / "confusion.png"
    with SearchService(kinds) as service:
        videos = [str((each.video or b"").decode()) for each in service.videos().videos]
    rows = [{"video": each, "label": kind_of(each.encode())} for each in videos]
    truth.write_text("\n".join(map(json.dumps, [*rows, {"video": "gone.mp4", "label": "sport"}])), encoding="utf-8")
    arguments = ("eval", truth, "--task", "classification", "--library", kinds)
    assert command(monkeypatch, *arguments, "--figure", picture, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["items"], document["classes"], document["absent"]) == (24, ["cooking", "sport", "none"], ["gone"])
    assert document["figures"]["accuracy"]["value"] > 0.9 and document["against_majority"]["low"] > 0
    assert document["controls"]["majority"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert command(monkeypatch, *arguments) == 0
    assert "F1 (macro)" in capsys.readouterr().out
    assert command(monkeypatch, "eval", truth, "--figure", picture, "--library", kinds) == 2
    assert command(monkeypatch, *arguments, "--split", 5000 * "9") == 2
    (tmp_path / "other.jsonl").write_text('{"video": "x", "label": "a"}\n{"video": "y", "label": "b"}\n')
    assert command(monkeypatch, "eval", tmp_path / "other.jsonl", *arguments[2:]) == 1
    assert "none of the labelled videos is in this library" in capsys.readouterr().err
