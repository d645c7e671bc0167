"""The choice of a runner, and path maps."""

from __future__ import annotations

import pytest

from vfindex.indexer.models import hardware as machine
from vfindex.indexer.models.hardware import Gpu
from vfindex.indexer.runners.base import PathMap, RunnerChoice, runner_name
from vfindex.storage.errors import UsageError


def test_the_longest_folder_of_a_path_map_counts() -> None:
    paths = PathMap.parse(["/videos=/mnt/a", "/videos/new/=/mnt/b", "/=/mnt/all"])
    assert paths.there(b"/videos/new/x.mp4") == b"/mnt/b/x.mp4"
    assert paths.there(b"/videos/newer/x.mp4") == b"/mnt/a/newer/x.mp4"
    assert paths.there(b"/videos") == b"/mnt/a/"
    assert paths.there(b"/other/\xff.mp4") == b"/mnt/all/other/\xff.mp4"
    assert PathMap().there(b"/videos/x.mp4") == b"/videos/x.mp4"


@pytest.mark.parametrize("text", ["/videos", "videos=/mnt", "/videos=mnt", "=", ""])
def test_a_path_map_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="DRIVER=WORKER"):
        PathMap.parse([text])


def test_auto_takes_ray_for_a_cluster_or_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Gpu] = []
    monkeypatch.setattr(machine, "usable_devices", lambda: found)
    assert not RunnerChoice().with_ray(uses_gpu=True)
    assert RunnerChoice(address="10.0.0.1:6379").with_ray(uses_gpu=False)
    found[:] = [Gpu("one", 80 << 30, "1")]
    assert not RunnerChoice().with_ray(uses_gpu=True)
    found *= 2
    assert RunnerChoice().with_ray(uses_gpu=True)
    assert not RunnerChoice().with_ray(uses_gpu=False)
    assert not RunnerChoice("local", address="10.0.0.1:6379").with_ray(uses_gpu=True)
    assert RunnerChoice("ray").with_ray(uses_gpu=False)


def test_invalid_runners_and_shares_are_refused() -> None:
    with pytest.raises(UsageError, match="auto, local, ray"):
        runner_name("spark")
    with pytest.raises(UsageError, match="--gpu-share"):
        RunnerChoice(gpu_share=0.0)


def test_the_address_at_which_ray_starts_another_one_is_refused() -> None:
    """It would have all cores and a third of the memory, and listen on all interfaces, with a dashboard."""
    with pytest.raises(UsageError, match="--runner ray"):
        RunnerChoice(address="local")
    with pytest.raises(UsageError, match="--runner ray"):
        RunnerChoice("ray", "local")
    assert not RunnerChoice("local", "local").with_ray(uses_gpu=True)
