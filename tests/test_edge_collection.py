"""The collection of odd and broken files, ingested by the command: the outcome of each, and of a second run.

One library for all tests. The number of frames is the library's: counted by packets if only keyframes were decoded,
which is equal for every file of the collection that decodes fully.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, vfindex
from media import media_folder

from vfindex.cli.suggested import completed
from vfindex.indexer.scan.walk import VIDEO_EXTENSIONS

TIME_SLACK_S = 0.001  # the table rounds to milliseconds
LISTS = ("partial", "failed", "skipped")
NUMBERS = ("indexed", "unchanged", "moved")
NAMED = "no_extension"  # a video whose name a directory walk cannot distinguish from other files


@dataclass(frozen=True)
class Collection:
    """The collection's folder, the library made of it, and the report of the run that made it."""

    folder: Path
    library: Path
    cache: Path
    first: Ran

    def vfindex(self, *arguments: str) -> Ran:
        return vfindex(self.cache, *arguments, "--library", str(self.library))

    def of(self, report: Mapping[str, Any], name: str) -> dict[str, str]:
        """Return a file's outcome in a report: `how` and, for lists, its row; {} if it is in no list."""
        path = str(self.folder / name)
        found = [{"how": how, **row} for how in LISTS for row in report[how] if row["path"] == path]
        assert len(found) <= 1, "a file ends in one way"
        return found[0] if found else {}


def rows(*classes: str) -> list[dict[str, str]]:
    """Return the table's rows of these classes, none if the collection is missing."""
    table = Path(os.environ.get("VFINDEX_TEST_MEDIA", "missing")) / "edge" / "edge.csv"
    if not table.is_file():
        return []
    with table.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["expected_class"] in classes]


def is_video_name(name: str) -> bool:
    return os.fsencode(Path(name).suffix[1:].lower()) in VIDEO_EXTENSIONS


def counts_add_up(report: Mapping[str, Any]) -> bool:
    return bool(report["found"] == sum(report[n] for n in NUMBERS) + sum(len(report[n]) for n in LISTS))


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Collection:
    folder = media_folder("edge").resolve()
    library = tmp_path_factory.mktemp("edge") / "library"
    paths = (str(folder), str(folder / NAMED))
    # Without speech recognition: seven of the files have the same thirteen seconds of audio, see the last test.
    # A frame in two seconds is embedded, as all are decoded: the image model would take three quarters of the time.
    options = ("--no-asr", "--sampling", "0.5", "--workers", "3", "--json", "--library", str(library))
    first = vfindex(models_cache, "ingest", *paths, *options)
    return Collection(folder, library, models_cache, first)


@pytest.fixture(scope="module")
def videos(edge: Collection) -> dict[str, dict[str, Any]]:
    """Return name -> what `show` prints; read in this process, as 80 processes would take a minute."""
    from vfindex.search.contents import video_info
    from vfindex.storage.library import Library

    library = Library.open(edge.library)
    with library.snapshot() as snapshot:
        return {
            os.path.basename(os.fsdecode(place.path)): video_info(library, snapshot, video).to_dict()
            for video in snapshot.videos()
            for place in video.locations
        }


# --- the run --------------------------------------------------------------------------------------------------------


def test_every_file_has_one_outcome(edge: Collection) -> None:
    report = edge.first.document()
    assert edge.first.code == 1, "what failed is told by the exit code"
    assert "Traceback" not in edge.first.err
    assert counts_add_up(report)
    # Only the table itself is ignored silently: it is neither a video nor a near miss.
    assert report["found"] == len([p for p in edge.folder.iterdir() if p.name != "edge.csv"])
    for how in LISTS:
        for row in report[how]:
            assert set(row) == {"path", "stage", "code", "reason", "next"}
            assert all(row.values())
            assert len(row["reason"].split()) >= 3


@pytest.mark.parametrize("row", rows("decode"), ids=lambda row: row["file"])
def test_decodable_files_are_indexed_as_measured(
    edge: Collection, videos: dict[str, dict[str, Any]], row: dict[str, str]
) -> None:
    assert edge.of(edge.first.document(), row["file"]) == {}
    found = videos[row["file"]]
    assert (found["state"], found["problem"]) == ("indexed", None)
    assert found["clips"] and all(clip["thumbnail"] for clip in found["clips"])
    assert found["frames"] == int(row["measured_frames_decoded"])
    assert found["first_pts_s"] == pytest.approx(float(row["measured_first_pts"]), abs=TIME_SLACK_S)
    assert found["last_pts_s"] == pytest.approx(float(row["measured_last_pts"]), abs=TIME_SLACK_S)
    assert found["rotation_deg"] == int(row["measured_rotation"])
    assert found["has_audio"] == (row["measured_has_audio"] == "1")
    assert found["clips"][0]["start_s"] == pytest.approx(found["first_pts_s"], abs=TIME_SLACK_S)
    assert found["clips"][-1]["end_s"] >= found["last_pts_s"]


@pytest.mark.parametrize("row", rows("reject"), ids=lambda row: row["file"])
def test_files_that_are_not_videos_are_not_indexed(
    edge: Collection, videos: dict[str, dict[str, Any]], row: dict[str, str]
) -> None:
    outcome = edge.of(edge.first.document(), row["file"])
    assert outcome["how"] == ("failed" if is_video_name(row["file"]) else "skipped")
    if outcome["how"] == "failed":
        assert outcome["stage"] in ("open", "probe", "decode")
        assert videos[row["file"]]["state"] == "failed" and not videos[row["file"]]["clips"]
    else:
        assert (outcome["stage"], row["file"] in videos) == ("discover", False)


@pytest.mark.parametrize("row", rows("decode_or_reject", "partial_or_reject"), ids=lambda row: row["file"])
def test_ambiguous_files_have_one_outcome(
    edge: Collection, videos: dict[str, dict[str, Any]], row: dict[str, str]
) -> None:
    how = edge.of(edge.first.document(), row["file"]).get("how", "indexed")
    if not is_video_name(row["file"]):
        assert how == "skipped"
        return
    assert videos[row["file"]]["state"] == how, "never quarantined: nothing here may crash or hang a decoder"
    assert bool(videos[row["file"]]["clips"]) == (how != "failed")
    if row["expected_class"] == "partial_or_reject":
        assert how != "indexed", "damage is told"


# --- afterwards -----------------------------------------------------------------------------------------------------


def test_the_library_verifies(edge: Collection) -> None:
    ran = edge.vfindex("verify", "--json")
    document = ran.document()
    assert (ran.code, document["clean"], document["problems"], document["notes"]) == (0, True, [], [])


def test_a_second_run_opens_no_file(edge: Collection) -> None:
    first = edge.first.document()
    ran = edge.vfindex("ingest", str(edge.folder), str(edge.folder / NAMED))
    assert ran.code == 1
    searchable = first["indexed"] + first["unchanged"] + len(first["partial"])
    counts = f"0 indexed, {searchable} unchanged, 0 moved, 0 partial"
    lost = f"{len(first['failed'])} failed, {len(first['skipped'])} skipped"
    assert ran.out == f"{first['found']} found: {counts}, {lost}\n"
    lines = ran.err.splitlines()
    assert len(lines) == len(first["failed"]) + len(first["skipped"]), "a line a problem"
    for how in ("failed", "skipped"):
        for row in first[how]:
            advice = completed(f"; {row['next']}", ["--library", str(edge.library)])
            assert f"{how}: {row['path']}: [{row['stage']}] {row['reason']}{advice}" in lines


def test_a_named_file_that_is_not_a_video_fails(edge: Collection, tmp_path: Path) -> None:
    names = [row["file"] for row in rows("reject")]
    library = str(tmp_path / "library")
    paths = [str(edge.folder / name) for name in names]
    ran = vfindex(edge.cache, "ingest", "--json", "--no-asr", "--library", library, *paths)
    report = ran.document()
    assert (ran.code, report["found"], len(report["failed"])) == (1, len(names), len(names))
    for name in names:
        outcome = edge.of(report, name)
        assert outcome["how"] == "failed" and outcome["stage"] in ("open", "probe", "decode")
    empty = vfindex(edge.cache, "search", "anything", "--library", library)
    assert (empty.code, empty.out) == (1, "") and "holds no videos yet" in empty.err


def test_speech_without_subtitles_is_recognised(edge: Collection, tmp_path: Path) -> None:
    path, library = str(edge.folder / "moov_at_end.mp4"), str(tmp_path / "library")
    assert vfindex(edge.cache, "ingest", path, "--library", library).code == 0
    shown = vfindex(edge.cache, "show", path, "--json", "--library", library).document()
    assert {segment["source"] for segment in shown["transcript"]} == {"asr"}
    assert all(0 < segment["confidence"] <= 1 for segment in shown["transcript"])
    assert "space telescope" in " ".join(segment["text"] for segment in shown["transcript"]).lower()


def test_the_collection_answers_queries(edge: Collection) -> None:
    hits = edge.vfindex("search", "theora skeleton", "--json").document()["hits"]
    assert os.path.basename(hits[0]["video"]) == "theora_skeleton.ogv"
    assert {"theora", "skeleton"} <= {word.lower() for word in hits[0]["words"]}
