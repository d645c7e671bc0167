"""Ray on this machine: the same library as in one process, and no leftovers however the run ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from equality import assert_equal_libraries
from media import Shot, make_video
from ray_runs import SHORT, RayRun, listening, short_videos, workers

from vfindex.indexer.runners.ray_machine import base_folder
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

pytestmark = pytest.mark.timeout(600)


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 in /proc/net/tcp and tcp6


def temporary_folders(run: RayRun) -> list[Path]:
    return list(base_folder().glob(f"vfindex-ray-{run.process.pid}-*"))


def test_a_run_on_ray_makes_the_library_of_one_process(tmp_path: Path, models_cache: Path) -> None:
    videos = short_videos(tmp_path / "videos")
    (videos / "cut.mp4").write_bytes((videos / SHORT[0]).read_bytes()[:20_000])
    (videos / "text.mp4").write_text("no video at all\n" * 100)
    here = RayRun(models_cache, tmp_path / "local", "ingest", videos, "--runner", "local")
    ray = RayRun(models_cache, tmp_path / "ray", "ingest", videos, "--runner", "ray")
    reports = []
    for run in (here, ray):
        code, out, err = run.end()
        assert code == 1, err  # two files that are none
        report = json.loads(out)
        reports.append({key: report[key] for key in ("found", "indexed", "clips", "failed", "partial")})
        assert "Ray" not in err
    assert reports[0] == reports[1]
    assert reports[0]["indexed"] == len(SHORT)
    assert_equal_libraries(tmp_path / "local", tmp_path / "ray")
    assert verify(Library.open(tmp_path / "ray")).problems == []
    assert ray.left() == []
    assert temporary_folders(ray) == []


# What Python runs first in every process: Ray's workers raise over one of the files.
BROKEN = """
import sys
if any("ray" in part for part in sys.argv + sys.orig_argv):
    try:
        from vfindex.indexer.runners import worker
    except ImportError:
        pass
    else:
        real = worker.LocalRunner.index
        def index(self, prepared, *rest):
            if prepared.found.location.path.endswith(b"1.mp4"):
                raise ValueError("a bug")
            return real(self, prepared, *rest)
        worker.LocalRunner.index = index
"""


def test_a_worker_that_raises_costs_one_file(
    tmp_path: Path, models_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))
    (tmp_path / "videos").mkdir()
    for number in range(3):
        make_video(tmp_path / "videos" / f"{number}.mp4", shots=[Shot("red", 1 + number)])
    run = RayRun(
        models_cache,
        tmp_path / "library",
        "ingest",
        tmp_path / "videos",
        "--runner",
        "ray",
        "--no-asr",
        "--workers",
        "1",
    )
    code, out, err = run.end()
    report = json.loads(out)
    assert (code, report["indexed"]) == (70, 2), err
    [failed] = report["failed"]
    assert failed["code"] == "bug" and failed["traceback"].rstrip().endswith("ValueError: a bug")
    assert "this is a bug of vfindex" in err
    assert run.left() == []


@pytest.mark.parametrize("presses", [1, 2])
def test_a_run_that_is_stopped_leaves_no_process(tmp_path: Path, models_cache: Path, presses: int) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(12):
        make_video(videos / f"{number}.mp4", shots=[Shot("red", 2 + number / 4), Shot("blue", 2)])
    run = RayRun(models_cache, tmp_path / "library", "ingest", videos, "--runner", "ray", "--no-asr")
    while not workers(run.mark, "UnitWorker"):
        assert run.process.poll() is None
        time.sleep(0.2)
    for _ in range(presses):
        run.process.send_signal(signal.SIGINT)
        time.sleep(1.0)
    code, _, _ = run.end()
    assert code == 130
    assert run.left() == []
    assert temporary_folders(run) == []


def test_the_run_after_one_that_was_killed_goes_on_and_tidies_up(tmp_path: Path, models_cache: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(3):
        make_video(videos / f"{number}.mp4", shots=[Shot("red", 2 + number), Shot("blue", 2)])
    run = RayRun(models_cache, tmp_path / "library", "ingest", videos, "--runner", "ray", "--no-asr")
    while not workers(run.mark, "UnitWorker"):
        assert run.process.poll() is None
        time.sleep(0.2)
    assert listening(run.mark) <= LOOPBACK
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.communicate()
    left = temporary_folders(run)
    again = RayRun(models_cache, tmp_path / "library", "ingest", videos, "--runner", "ray", "--no-asr")
    code, out, err = again.end()
    assert code == 0, err
    report = json.loads(out)
    assert report["indexed"] + report["unchanged"] == 3
    assert [run.left(), again.left(), [folder for folder in left if folder.exists()]] == [[], [], []]
