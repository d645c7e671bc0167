"""A library over to another setup: what is redone, what is taken over, what is caught up, and the way back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from equality import assert_equal_libraries, contents
from media import Shot, make_video

from vfindex.indexer import catch_up, pipeline
from vfindex.indexer.ingest import IngestSettings, ingest
from vfindex.indexer.media import Decoder, Sampling
from vfindex.indexer.presets import Choice
from vfindex.indexer.report import UpgradeReport
from vfindex.indexer.triage import Watcher
from vfindex.indexer.upgrade import UpgradeSettings, discard, roll_back, upgrade
from vfindex.search.engine import SearchEngine
from vfindex.storage.editions import history
from vfindex.storage.errors import LibraryError, LibraryLocked, UsageError
from vfindex.indexer.transcribe import PocketSphinx
from vfindex.storage.library import Library
from vfindex.storage.units import runs
from vfindex.storage.verify import verify
from vfindex.storage.writer import locked, writing

Upgrade = Callable[..., UpgradeReport]
FINER = Sampling("fps", 2.0)


def never(*_: object, **__: object) -> None:
    raise AssertionError("done again")


def coverage(folder: Path) -> dict[str, list[dict[str, str]]]:
    with Library.open(folder).snapshot() as snapshot:
        return {v.fingerprint: [dict(unit) for unit in snapshot.coverage(v.id)] for v in snapshot.videos()}


def commands(folder: Path) -> list[str | None]:
    with Library.open(folder).snapshot() as snapshot:
        return [row["command"] for row in runs(snapshot)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Path:
    """Return a folder with three videos, two with subtitles, and their library `lib`; tests copy it."""
    base = tmp_path_factory.mktemp("made")
    videos = base / "videos"
    videos.mkdir()
    make_video(videos / "red door.mp4", shots=[Shot("red", 3), Shot("green", 3)])
    make_video(videos / "blue hall.mp4", shots=[Shot("blue", 3), Shot("white", 3)])
    make_video(videos / "third.mp4", shots=[Shot("yellow", 4, to="black")], tone_hz=440)
    for name in ("red door", "blue hall"):
        text = f"1\n00:00:01,000 --> 00:00:03,000\nThis is the {name} of our xylophone museum.\n"
        (videos / f"{name}.srt").write_text(text)
    (videos / "broken.mp4").write_text("no video")
    report = ingest(base / "lib", [os.fsencode(videos)], IngestSettings(cache=models_cache, workers=2))
    assert (report.indexed, len(report.failed)) == (3, 1)
    return base


@pytest.fixture
def home(tmp_path: Path, made: Path) -> Path:
    """Return a copy of the library `lib` over the videos of `made`."""
    shutil.copytree(made / "lib", tmp_path / "lib")
    return tmp_path


@pytest.fixture
def run(home: Path, models_cache: Path) -> Upgrade:
    """Return a function that upgrades `lib`."""

    def over(watcher: Watcher | None = None, compare: object = None, **settings: object) -> UpgradeReport:
        chosen = replace(UpgradeSettings(cache=models_cache, workers=2), **settings)  # type: ignore[arg-type]
        return upgrade(home / "lib", chosen, watcher, compare)  # type: ignore[arg-type]

    return over


def test_another_sampling_is_another_edition(
    home: Path, made: Path, run: Upgrade, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Path, Path]] = []
    with monkeypatch.context() as patch:
        patch.setattr(PocketSphinx, "transcriber", never)
        report = run(sampling=FINER, compare=lambda *folders: told.append(folders))
    assert (report.swapped, report.edition, report.videos, report.lost) == (True, 1, 3, [])
    assert (report.decoded, report.taken_over, report.heard, report.transcripts_reused) == (3, 0, 0, 3)
    assert (report.before["sampling"], report.after["sampling"]) == ("auto", "2")
    assert told == [(home / "lib", home / "lib" / "editions" / "1")]
    settings = IngestSettings(cache=models_cache, workers=2, sampling=FINER)
    ingest(home / "anew", [os.fsencode(made / "videos")], settings)
    assert_equal_libraries(home / "lib", home / "anew")
    assert coverage(home / "lib") == coverage(home / "anew")
    assert verify(Library.open(home / "lib")).problems == []
    again = ingest(home / "lib", [os.fsencode(made / "videos")], IngestSettings(cache=models_cache))
    assert (again.unchanged, len(again.failed), again.indexed) == (3, 1, 0)
    assert commands(home / "lib") == ["ingest", "upgrade", "ingest"]
