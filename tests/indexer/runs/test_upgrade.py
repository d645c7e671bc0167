"""Upgrades to another setup: what is decoded again, what is copied, by any runner, and rollback."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from equality import assert_equal_libraries
from killing import SAMPLING, kill_upgrade, make_videos
from ray_runs import RayRun

from vfindex.indexer.models.presets import Choice
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.report import UpgradeReport
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.storage.db import engine
from vfindex.storage.db.runs import runs
from vfindex.storage.errors import LibraryDamaged, LibraryVersion
from vfindex.storage.index import model_versions
from vfindex.storage.index.model_versions import history
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rollback import discard
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

Upgrade = Callable[..., UpgradeReport]
FINER = Sampling.parse(SAMPLING)
KILLS = 3
# Seconds that the process of an upgrade takes to start, at least.
START_S = 1.0


def coverage(folder: Path) -> dict[str, list[dict[str, str]]]:
    with Library.open(folder).snapshot() as snapshot:
        return {v.fingerprint: [dict(unit) for unit in snapshot.coverage(v.id)] for v in snapshot.videos()}


def commands(folder: Path) -> list[str | None]:
    with Library.open(folder).snapshot() as snapshot:
        return [row["command"] for row in runs(snapshot)]


@dataclass(frozen=True)
class Made:
    """A folder with libraries, and about the seconds that an upgrade of `lib` to FINER takes."""

    base: Path
    length_s: float


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Made:
    """Return a folder with three videos and one that is none, their library `lib`, and `finer`, of another sampling."""
    base = tmp_path_factory.mktemp("made")
    videos = make_videos(base / "videos")
    (videos / "broken.mp4").write_text("no video")
    for name, sampling in (("lib", None), ("finer", FINER)):
        choice = Choice(preset="lite")
        settings = RunSettings(cache=models_cache, choice=choice, workers=2, sampling=sampling, asr=False, ocr=False)
        report = ingest(base / name, [os.fsencode(videos)], settings)
        assert (report.indexed, len(report.failed)) == (3, 1)
    return Made(base, START_S + report.wall_s)


@pytest.fixture
def home(tmp_path: Path, made: Made) -> Path:
    """Return a copy of the library `lib` over the videos of `made`."""
    shutil.copytree(made.base / "lib", tmp_path / "lib")
    return tmp_path


@pytest.fixture
def run(home: Path, models_cache: Path) -> Upgrade:
    """Return a function that upgrades `lib`."""

    def over(callbacks: Callbacks | None = None, compare: object = None, **settings: object) -> UpgradeReport:
        chosen = replace(RunSettings(cache=models_cache, workers=2), **settings)  # type: ignore[arg-type]
        return upgrade(home / "lib", chosen, callbacks, compare)  # type: ignore[arg-type]

    return over


def test_another_sampling_is_another_version(home: Path, made: Made, run: Upgrade, models_cache: Path) -> None:
    compared: list[tuple[Path, Path]] = []
    report = run(sampling=FINER, compare=lambda *folders: compared.append(folders))
    assert (report.swapped, report.version, report.videos, report.lost) == (True, 1, 3, [])
    assert (report.decoded, report.taken_over, report.heard, report.transcripts_reused) == (3, 0, 0, 3)
    assert (report.before["sampling"], report.after["sampling"]) == ("auto", "1")
    assert compared == [(home / "lib", home / "lib" / "editions" / "1")]
    assert_equal_libraries(home / "lib", made.base / "finer")
    assert coverage(home / "lib") == coverage(made.base / "finer")
    assert verify(Library.open(home / "lib")).problems == []
    again = ingest(home / "lib", [os.fsencode(made.base / "videos")], RunSettings(cache=models_cache))
    assert (again.unchanged, len(again.failed), again.indexed) == (3, 1, 0)
    assert commands(home / "lib") == ["ingest", "upgrade", "ingest"]


def test_a_pointer_that_is_lost_after_the_swap_is_no_first_version(home: Path, run: Upgrade) -> None:
    """Searches were answered from the old version, and `upgrade --discard` deleted the new one."""
    assert run(sampling=FINER).swapped
    (home / "lib" / "current").unlink()
    for attempt in (Library.open, discard, lambda _: run()):
        with pytest.raises(LibraryDamaged, match=r"current is missing.* write into it `\.` or `editions/1`$"):
            attempt(home / "lib")
    (home / "lib" / "current").write_text("editions/1\n")
    assert discard(home / "lib")[0] == [0]
    (home / "lib" / "current").unlink()
    with pytest.raises(LibraryDamaged, match=r"write into it `editions/1`$"):
        Library.open(home / "lib")


@pytest.mark.parametrize("instant", ["put_in_use", "_point"])
def test_an_upgrade_that_is_killed_at_the_swap_goes_on(
    home: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    """The new version is complete, as after a swap, but the pointer names the old one and is not lost."""
    switched: list[int] = []

    def die(_: Path, numbers: int | list[int]) -> None:
        if numbers in (1, [1, 0]):
            switched.append(1)
            raise SystemExit
        point(home / "lib", numbers)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        point = model_versions._point
        patch.setattr(model_versions, instant, die)
        with pytest.raises(SystemExit):
            run(sampling=FINER)
    assert (switched, history(home / "lib")) == ([1], [0])
    report = run(sampling=FINER)
    assert (report.swapped, report.version, report.decoded) == (True, 1, 0)
    assert history(home / "lib") == [1, 0]


def test_an_upgrade_begun_by_an_earlier_vfindex_goes_on(home: Path, run: Upgrade) -> None:
    """It wrote the pointer at the end only."""
    assert run(Callbacks(stop=lambda: True), sampling=FINER).interrupted
    (home / "lib" / "current").unlink()
    assert history(home / "lib") == [0]
    report = run()
    assert (report.swapped, report.version, report.after["sampling"]) == (True, 1, "1")


def test_a_reader_of_the_new_version_does_not_prevent_the_swap(
    home: Path, made: Made, run: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed at the very end, after hours of work. The log waits for the next writer."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.05)
    messages: list[str] = []
    log = home / "lib" / "editions" / "1" / "library.db-wal"
    with ExitStack() as held:

        def hold(_: Path, new: Path) -> None:
            reader = Library.open(new)
            held.callback(reader.close)
            held.enter_context(reader.snapshot()).clip_ids()

        assert run(Callbacks(say=messages.append), hold, sampling=FINER).swapped
        assert messages == ["a reader holds the new version's log; the next command that writes empties it"]
        assert log.stat().st_size > 0
        assert coverage(home / "lib") == coverage(made.base / "finer")
    with writing(home / "lib"):
        pass
    assert not log.exists() or log.stat().st_size == 0
    assert verify(Library.open(home / "lib")).problems == []


def test_a_library_of_an_older_lite_is_upgraded(home: Path, made: Made, run: Upgrade, models_cache: Path) -> None:
    again = (home / "lib", [os.fsencode(made.base / "videos")], RunSettings(cache=models_cache))
    with writing(home / "lib") as writer:  # as before colours stood in its pictures
        setup = json.loads(writer.catalog.get("setup") or "")
        setup["models"] = {modality: name[:-1] + "2" for modality, name in setup["models"].items()}
        setup["query"]["visual"]["templates"] = ["{}", "{word}"]
        writer.catalog.put("setup", json.dumps(setup))
    (made.base / "videos" / "new.mp4").write_text("no video")
    with pytest.raises(LibraryVersion, match=r"upgrade it first: vfindex upgrade$"):
        ingest(*again)
    report = run(choice=Choice(preset="lite"))
    assert (report.swapped, report.decoded, report.transcripts_reused, report.lost) == (True, 3, 3, [])
    assert_equal_libraries(home / "lib", made.base / "lib")
    assert (ingest(*again).unchanged, verify(Library.open(home / "lib")).clean) == (3, True)
    (made.base / "videos" / "new.mp4").unlink()


def test_killed_at_random_instants(home: Path, made: Made, run: Upgrade, models_cache: Path) -> None:
    instants = random.Random(3)
    for kill in range(KILLS):
        if history(home / "lib") == [0]:
            killed = kill_upgrade(home / "lib", models_cache, made.length_s * (kill + instants.random()) / KILLS)
            assert killed.answers and killed.clean
    if history(home / "lib") == [0]:
        assert run(sampling=FINER).swapped
    assert history(home / "lib")[-1] == 0 and len(history(home / "lib")) == 2
    assert_equal_libraries(home / "lib", made.base / "finer")
    assert verify(Library.open(home / "lib")).clean


def test_an_upgrade_on_ray_equals_one_in_this_process(home: Path, made: Made, models_cache: Path) -> None:
    run = RayRun(models_cache, home / "lib", "upgrade", "--sampling", SAMPLING, "--runner", "ray", "--workers", "2")
    code, out, err = run.end()
    assert code == 0, err
    report = json.loads(out)
    assert (report["swapped"], report["decoded"], report["transcripts_reused"], report["lost"]) == (True, 3, 3, [])
    assert_equal_libraries(home / "lib", made.base / "finer")
    assert coverage(home / "lib") == coverage(made.base / "finer")
    assert run.left() == []
