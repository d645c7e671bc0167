"""Several machines in Ray's test cluster: machines, workers and drivers that die, and the resulting library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from equality import assert_equal_libraries
from media import Shot, make_video
from ray.cluster_utils import Cluster
from ray_runs import MARK, PATIENCE_S, SHORT, RayRun, kill_one, short_videos, workers
from tiny_whisper import convert, make_whisper

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
    code, _, err = RayRun(models_cache, library, "ingest", videos, "--runner", "local", "--no-ocr").end()
    assert code == 0, err
    return library


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that runs on a GPU where there is one, and else on the processor."""
    base = tmp_path_factory.mktemp("whisper")
    return convert(make_whisper(base / "transformers", (0.0, " Hello there.", 1.5)), base / "ctranslate2")


def start(cluster: Any, videos: Path, library: Path, cache: Path, *options: str) -> RayRun:
    """Start a run. Text on the screen is of `test_ray.py`."""
    return RayRun(cache, library, "ingest", videos, "--no-ocr", "--ray-address", cluster.address, *options)


def wait_for_videos(run: RayRun, count: int) -> None:
    """Wait until so many videos are committed."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and run.process.poll() is None:
        try:
            with Library.open(run.library).snapshot() as snapshot:
                if snapshot.counts().get("indexed", 0) >= count:
                    return
        except LibraryError:
            pass  # it is being made
        time.sleep(0.1)
    raise TimeoutError(f"{count} videos were never committed")


def test_a_worker_and_a_machine_die(
    cluster: Any, videos: Path, undisturbed: Path, models_cache: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.symlink_to(videos)
    second = cluster.add_node(**MACHINE)
    run = start(cluster, videos, tmp_path / "library", models_cache, "--path-map", f"{videos}={there}")
    wait_for_videos(run, 1)
    kill_one(MACHINES_MARK, "UnitWorker")
    wait_for_videos(run, 2)
    cluster.remove_node(second, allow_graceful=False)
    code, out, err = run.end()
    assert code == 0, err
    assert json.loads(out)["indexed"] == len(SHORT)
    assert_equal_libraries(tmp_path / "library", undisturbed)
    assert verify(Library.open(tmp_path / "library")).problems == []


@pytest.mark.parametrize("joins", [False, True], ids=["it had no worker", "it joins as the other leaves"])
def test_another_machine_takes_over_from_the_only_one_with_a_worker(
    joins: bool, cluster: Any, videos: Path, models_cache: Path, tmp_path: Path
) -> None:
    """`cluster` sets the mark; this one has machines of its own, as its head is not to work."""
    own = Cluster(initialize_head=True, head_node_args=MACHINE | {"num_cpus": 0})
    try:
        machines = [own.add_node(**MACHINE) for _ in range(1 if joins else 2)]
        run = start(own, videos, tmp_path / "library", models_cache, "--no-asr", "--workers", "1")
        wait_for_videos(run, 1)
        [worker] = workers(MACHINES_MARK, "UnitWorker")
        parent = int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])
        [used] = [each for each in machines if parent in [p.process.pid for p in each.all_processes["raylet"]]]
        if joins:
            own.add_node(**MACHINE)
        own.remove_node(used, allow_graceful=False)
        code, out, err = run.end()
        assert code == 0, err
        assert json.loads(out)["indexed"] == len(SHORT)
    finally:
        own.shutdown()


def test_a_head_that_dies_is_told(cluster: Any, videos: Path, models_cache: Path, tmp_path: Path) -> None:
    """Ray ends a process that waits for its head, without a word."""
    own = Cluster(initialize_head=True, head_node_args=MACHINE)
    try:
        run = start(own, videos, tmp_path / "library", models_cache, "--no-asr")
        while not workers(MACHINES_MARK, "UnitWorker"):
            assert run.process.poll() is None
            time.sleep(0.1)
        for each in own.head_node.all_processes["gcs_server"]:
            each.process.kill()
        code, out, _ = run.end()
    finally:
        own.shutdown()
    assert code == 1
    assert json.loads(out)["error"]["message"].startswith("Ray's cluster is gone (")
    assert run.left() == []


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


def test_a_machine_without_the_videos_is_reported(
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


def test_a_machine_that_joins_is_used(
    cluster: Any, videos: Path, undisturbed: Path, models_cache: Path, tmp_path: Path
) -> None:
    run = start(cluster, videos, tmp_path / "library", models_cache)
    while not workers(MACHINES_MARK, "UnitWorker"):
        assert run.process.poll() is None
        time.sleep(0.1)
    second = cluster.add_node(**MACHINE)
    try:
        while len(workers(MACHINES_MARK, "UnitWorker")) < 2:
            assert run.process.poll() is None
            time.sleep(0.1)
        code, _, err = run.end()
        assert code == 0, err
    finally:
        cluster.remove_node(second)
    assert_equal_libraries(tmp_path / "library", undisturbed)


def test_shares_of_a_gpu(cluster: Any, models_cache: Path, tmp_path: Path, speech_model: Path) -> None:
    """One machine for all: it takes longer to start than to index."""
    made = tmp_path / "videos"
    made.mkdir()
    for number in range(3):
        make_video(made / f"{number}.mp4", shots=[Shot("red", 1 + number / 2)])
    one = cluster.add_node(**(MACHINE | {"num_cpus": 2, "num_gpus": 1}))
    try:
        for share in ("1.0", "0.6", "0.5"):
            options = ("--gpu-share", share, "--speech", f"local-dir:{speech_model}")
            code, out, err = start(cluster, made, tmp_path / share, models_cache, *options).end()
            assert (code, json.loads(out).get("indexed")) == (0, 3), f"{share}: {err}"
    finally:
        cluster.remove_node(one)


def test_a_share_too_small_for_the_memory_is_refused_before_any_work(
    cluster: Any, videos: Path, models_cache: Path, tmp_path: Path, speech_model: Path
) -> None:
    one = cluster.add_node(**(MACHINE | {"num_gpus": 1, "memory": 4_000_000_000}))
    options = ("--gpu-share", "0.1", "--speech", f"local-dir:{speech_model}")
    try:
        code, out, _ = start(cluster, videos, tmp_path / "library", models_cache, *options).end()
    finally:
        cluster.remove_node(one)
    assert code == 2
    assert json.loads(out)["error"]["message"].startswith("--gpu-share 0.1 makes 10 workers on ")


PLACE = """
import sys, ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from vfindex.indexer.runners.placement import Machine, Wish, plan
from vfindex.storage.errors import UsageError

SHARES = (1, 0.9, 0.75, 2 / 3, 0.6, 0.51, 0.5, 0.4, 1 / 3, 0.3, 0.25, 0.2, 1 / 6, 1 / 7, 0.125, 0.1, 0.05, 0.01)

class Empty:
    def gpus(self):
        return ray.get_gpu_ids()

ray.init(address=sys.argv[1], log_to_driver=False)
nodes = {int(node["Resources"]["GPU"]): node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")}
assert set(nodes) == {1, 2, 4, 8}
placed = refused = 0
for gpus, node in nodes.items():
    machine = Machine(node["NodeID"], "m", node["Resources"]["CPU"], gpus, 64e9)
    for share in SHARES:
        try:
            workers = plan([machine], Wish(True, share))
        except UsageError:
            refused += 1
            continue
        # Reserved as actors of this size would be, without their processes.
        group = placement_group([{"CPU": w.cpus, "GPU": w.gpus, f"has_{gpus}": 0.001} for w in workers])
        assert group.wait(60), (gpus, share)
        remove_placement_group(group)
        placed += 1
    if gpus == 2:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        for share in (1, 0.6, 0.5):
            actors = [
                ray.remote(Empty).options(num_cpus=w.cpus, num_gpus=w.gpus, scheduling_strategy=here).remote()
                for w in plan([machine], Wish(True, share))
            ]
            held = ray.get([actor.gpus.remote() for actor in actors], timeout=120)
            assert sorted(i for ids in held for i in ids) == sorted([0, 1] * (len(actors) // 2)), held
            for actor in actors:
                ray.kill(actor)
print(placed, refused)
"""


def test_every_share_is_placed_by_ray_as_planned(cluster: Any) -> None:
    nodes = [
        cluster.add_node(**(MACHINE | {"num_cpus": 16, "num_gpus": gpus, "resources": {f"has_{gpus}": 1}}))
        for gpus in (1, 2, 4, 8)
    ]
    try:
        command = [sys.executable, "-P", "-c", PLACE, cluster.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    finally:
        for node in nodes:
            cluster.remove_node(node)
    assert done.returncode == 0, done.stderr[-2000:]
    placed, refused = map(int, done.stdout.split())
    assert placed + refused == 4 * 18 and placed > 50 and refused >= 4
