"""Several machines, as Ray's own test cluster: machines, workers and drivers that die, and what the library then is."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from equality import assert_equal_libraries
from ray.cluster_utils import Cluster
from ray_runs import MARK, PATIENCE_S, SHORT, RayRun, kill_one, short_videos

from vfindex.storage.errors import LibraryError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

pytestmark = pytest.mark.timeout(900)
MACHINES_MARK = uuid.uuid4().hex
MACHINE = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ[MARK] = MACHINES_MARK  # the workers are children of the machines, not of the run
    found = Cluster(initialize_head=True, head_node_args=MACHINE)
    try:
        yield found
    finally:
        found.shutdown()
        del os.environ[MARK]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return short_videos(tmp_path_factory.mktemp("collection") / "videos")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, videos: Path, models_cache: Path) -> Path:
    library = tmp_path_factory.mktemp("undisturbed") / "library"
    code, _, err = RayRun(models_cache, library, "ingest", videos, "--runner", "local").end()
    assert code == 0, err
    return library


def start(cluster: Any, videos: Path, library: Path, cache: Path, *options: str) -> RayRun:
    return RayRun(cache, library, "ingest", videos, "--ray-address", cluster.address, *options)


def wait_for_videos(run: RayRun, wanted: int) -> None:
    """Wait until so many videos are committed."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and run.process.poll() is None:
        try:
            with Library.open(run.library).snapshot() as snapshot:
                if snapshot.counts().get("indexed", 0) >= wanted:
                    return
        except LibraryError:
            pass  # it is being made
        time.sleep(0.1)
    raise TimeoutError(f"{wanted} videos were never committed")


def test_a_worker_and_a_machine_die(
    cluster: Any, videos: Path, undisturbed: Path, models_cache: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.symlink_to(videos)
    second = cluster.add_node(**MACHINE)
    run = start(cluster, videos, tmp_path / "library", models_cache, "--path-map", f"{videos}={there}")
    wait_for_videos(run, 1)
    kill_one(MACHINES_MARK, "EncodeWorker")
    wait_for_videos(run, 2)
    cluster.remove_node(second, allow_graceful=False)
    code, out, err = run.end()
    assert code == 0, err
    assert json.loads(out)["indexed"] == len(SHORT)
    assert_equal_libraries(tmp_path / "library", undisturbed)
    assert verify(Library.open(tmp_path / "library")).problems == []


def test_a_driver_dies(cluster: Any, videos: Path, undisturbed: Path, models_cache: Path, tmp_path: Path) -> None:
    run = start(cluster, videos, tmp_path / "library", models_cache)
    wait_for_videos(run, 2)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.communicate()
    assert run.left() == []
    code, out, err = start(cluster, videos, tmp_path / "library", models_cache).end()
    assert code == 0, err
    report = json.loads(out)
    assert report["unchanged"] >= 2
    assert report["unchanged"] + report["indexed"] == len(SHORT)
    assert_equal_libraries(tmp_path / "library", undisturbed)


def test_a_machine_that_does_not_see_the_videos_is_told_of(
    cluster: Any, videos: Path, models_cache: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    run = start(cluster, videos, tmp_path / "library", models_cache, "--path-map", f"{videos}={nowhere}")
    code, out, _ = run.end()
    assert code == 1
    error = json.loads(out)["error"]
    assert error["kind"] == "ClusterError"
    assert f"does not see {nowhere}" in error["message"]


def test_no_cluster_at_the_address(videos: Path, models_cache: Path, tmp_path: Path) -> None:
    run = RayRun(models_cache, tmp_path / "library", "ingest", videos, "--ray-address", "127.0.0.1:1")
    code, out, _ = run.end()
    assert code == 1
    assert json.loads(out)["error"]["message"].startswith("Ray cannot be reached at 127.0.0.1:1 (")
