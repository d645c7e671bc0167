"""The plan of a cluster's workers: what fits is placed, the rest is refused with a sentence. Without Ray."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from vfindex.indexer.runners.placement import (
    CORES_PER_WORKER,
    TORCH_WORKER_BYTES,
    Machine,
    Speed,
    Wish,
    Worker,
    is_sooner_on_cpu,
    plan,
)
from vfindex.storage.errors import ClusterError, UsageError

GIB = 1 << 30
SHARES = [1, 0.9, 0.75, 2 / 3, 0.6, 0.51, 0.5, 0.4, 1 / 3, 0.3, 0.25, 0.2, 1 / 6, 1 / 7, 0.125, 0.1, 0.05, 0.01, 1e-4]


def machine(cores: float, gpus: float = 0, memory_bytes: float = 512 * GIB, node: str = "a") -> Machine:
    return Machine(node, f"machine {node}", cores, gpus, memory_bytes)


def placed(machines: list[Machine], workers: list[Worker]) -> bool:
    """Return whether all workers find a place, each GPU worker on one GPU, however Ray picks it."""
    for each in machines:
        here = [worker for worker in workers if worker.node == each.node]
        gpus = [10_000] * int(each.gpus)
        for worker in here:
            share = round(worker.gpus * 10_000)
            free = [index for index, left in enumerate(gpus) if left >= share]
            if share and not free:
                return False
            if share:
                gpus[free[-1]] -= share
        if sum(round(worker.cpus * 10_000) for worker in here) > round(each.cores * 10_000):
            return False
    return True


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("share", SHARES)
def test_every_share_is_placed_or_refused(gpus: int, share: float) -> None:
    machines = [machine(16, gpus)]
    try:
        workers = plan(machines, Wish(uses_gpu=True, gpu_share=share))
    except UsageError as exc:
        assert gpus * int(1 / share + 1e-9) * TORCH_WORKER_BYTES > machines[0].memory_bytes
        assert re.search(r"--gpu-share \S+ makes \d+ workers on machine a, .* enough for a share of", str(exc))
        return
    assert len(workers) == gpus * int(1 / share + 1e-9)
    assert placed(machines, workers)
    assert all(worker.cores >= 1 and worker.units == worker.cores + 1 for worker in workers)


@pytest.mark.parametrize("fitting", [1, 3, 4, 7, 23, 82, 88, 163, 174])
def test_the_share_that_a_refusal_names_is_accepted(fitting: int) -> None:
    small = machine(16, 2, memory_bytes=fitting * TORCH_WORKER_BYTES)
    with pytest.raises(UsageError, match="share of") as refused:
        plan([small], Wish(uses_gpu=True, gpu_share=0.001))
    named = float(str(refused.value).rsplit(" ", 1)[1])
    assert placed([small], plan([small], Wish(uses_gpu=True, gpu_share=named)))


def test_models_without_a_gpu_ask_for_none() -> None:
    (worker,) = plan([machine(4, 8)], Wish(uses_gpu=False))
    assert (worker.gpus, worker.cpus, worker.cores, worker.units) == (0, 4, 4, 5)


@pytest.mark.parametrize(
    ("cores", "count"), [(1, 1), (2, 1), (CORES_PER_WORKER, 1), (CORES_PER_WORKER + 1, 2), (64, 8)]
)
def test_the_cores_of_a_machine_are_shared_out(cores: int, count: int) -> None:
    machines = [machine(cores), machine(cores, node="b")]
    workers = plan(machines, Wish(uses_gpu=False))
    assert len(workers) == 2 * count
    assert placed(machines, workers)
    assert sum(worker.cores for worker in workers) <= 2 * cores


def test_a_machine_with_little_memory_has_one_worker() -> None:
    assert len(plan([machine(64, memory_bytes=GIB // 2)], Wish(uses_gpu=False))) == 1


def test_workers_are_counted_over_all_machines_and_gpus_come_first() -> None:
    machines = [machine(4, node="a"), machine(4, gpus=2, node="b")]
    workers = plan(machines, Wish(uses_gpu=True, units=5))
    assert [(worker.node, worker.units) for worker in workers] == [("b", 2), ("b", 2), ("a", 1)]
    assert [(worker.node, worker.units) for worker in plan(machines, Wish(uses_gpu=True, units=1))] == [("b", 1)]
    by_node: dict[str, int] = defaultdict(int)
    for worker in plan(machines, Wish(uses_gpu=False, units=7)):
        by_node[worker.node] += worker.units
    assert dict(by_node) == {"a": 4, "b": 3}


def test_more_units_than_memory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^--workers 1000 is 1000 units at once on machine a, which take 150.0 GB"):
        plan([machine(4, memory_bytes=8 * GIB)], Wish(uses_gpu=False, units=1000))
    (worker,) = plan([machine(4, memory_bytes=8 * GIB)], Wish(uses_gpu=False, units=20))
    assert worker.units == 20


def test_a_machine_whose_memory_is_unknown_is_used() -> None:
    unknown = machine(2, gpus=1, memory_bytes=float("inf"))
    assert [worker.units for worker in plan([unknown], Wish(uses_gpu=False))] == [3]
    assert [worker.units for worker in plan([unknown], Wish(uses_gpu=False, units=40))] == [40]
    assert len(plan([unknown], Wish(uses_gpu=True, gpu_share=0.5))) == 2


def test_nothing_to_work_on_is_refused() -> None:
    with pytest.raises(ClusterError, match="--num-cpus"):
        plan([machine(0, gpus=1)], Wish(uses_gpu=True))
    for share in (0, -1, 1.1, 1e-5, 1e-300, 5e-324, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--gpu-share"):
            plan([machine(4)], Wish(uses_gpu=True, gpu_share=share))


def test_a_cpu_worker_takes_what_it_finishes_before_the_gpus() -> None:
    gpus = [(Speed(600, 10), 5), (Speed(600, 10), 5)]  # 60 s of video per second and unit, 600 in all
    slow = Speed(600, 300)  # 2 s per second: 300 s for a unit of 600 s
    assert is_sooner_on_cpu(600, slow, gpus, 600 * 301)
    assert not is_sooner_on_cpu(600, slow, gpus, 600 * 299)
    assert is_sooner_on_cpu(600, Speed(), gpus, 600 * 201)  # not measured: 1/20 of a GPU worker
    assert not is_sooner_on_cpu(600, Speed(), gpus, 600 * 199)
    assert not is_sooner_on_cpu(600, slow, [(Speed(), 5)], 1e9)
    assert is_sooner_on_cpu(600, slow, [], 0)
