"""The workers of a run on Ray, and the choice of the next one. Pure functions of the machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vfindex.storage.errors import ClusterError, UsageError, counted

# A worker is one process with one lock for its Python code, so a machine with more cores than this has several.
CORES_PER_WORKER = 8
# Memory of one worker: a process with torch imported holds 0.7 GB; one with the ONNX models of `lite` and its
# recognisers some 0.4 GB.
TORCH_WORKER_BYTES, LITE_WORKER_BYTES = 700_000_000, 400_000_000
UNIT_BYTES = 150_000_000  # per unit being decoded: an estimate for its decode child and buffered frames
# Ray counts in ten thousandths; further digits could be rounded up, and the last worker would not fit.
_RAY_UNITS = 10_000
MIN_GPU_SHARE = 1 / _RAY_UNITS
# Assumed speed of a CPU worker relative to a GPU worker, until measured. ViT-B-32: 20 to 40 frames/s on two
# cores; a data centre GPU then waits for its decoders. An estimate, not measured on a GPU.
CPU_SPEED_RATIO = 1 / 20


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of the cluster. node: its id in Ray. name: for messages. memory_bytes: infinite if unknown."""

    node: str
    name: str
    cores: float
    gpus: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Wish:
    """The requested resources. gpu_share: of a GPU, per worker. units: decoded at once in total; None: by the cores."""

    uses_gpu: bool
    gpu_share: float = 1.0
    units: int | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker. cpus, gpus: its resources in Ray. cores: of its models. units: decoded at once."""

    node: str
    cpus: float
    gpus: float
    cores: int
    units: int


def check_gpu_share(share: float) -> None:
    """Raise UsageError for a share of a GPU that no worker can have."""
    if not MIN_GPU_SHARE <= share <= 1:
        raise UsageError(f"--gpu-share takes a share of a GPU from {MIN_GPU_SHARE:.4f} to 1, not {share:g}")


def plan(machines: Sequence[Machine], wish: Wish) -> list[Worker]:
    """Return the workers that fill the machines, those with a GPU first.

    All workers of a machine fit together: cores, GPUs and memory. Raises UsageError for a `gpu_share` or
    `units` that does not fit, ClusterError if no machine has a free core.
    """
    check_gpu_share(wish.gpu_share)
    able = [machine for machine in machines if machine.cores > 0]
    if not able:
        raise ClusterError("no machine of the Ray cluster has a processor core to give; start one with --num-cpus")
    workers = sorted((worker for machine in able for worker in _fill(machine, wish)), key=lambda worker: -worker.gpus)
    if wish.units is None:
        return workers
    chosen = workers[: wish.units]
    each, rest = divmod(wish.units, len(chosen))
    chosen = [replace(worker, units=each + (number < rest)) for number, worker in enumerate(chosen)]
    for machine in able:
        here = [worker for worker in chosen if worker.node == machine.node]
        units, free_bytes = sum(worker.units for worker in here), machine.memory_bytes - len(here) * _worker_bytes(wish)
        if here and units > max(len(here), free_bytes / UNIT_BYTES):
            raise UsageError(
                f"--workers {wish.units} is {counted(units, 'unit')} at once on {machine.name}, which take "
                f"{units * UNIT_BYTES / 1e9:.1f} GB of memory; it has {free_bytes / 1e9:.1f} GB for them"
            )
    return chosen


def _fill(machine: Machine, wish: Wish) -> Iterable[Worker]:
    """Return the workers of one machine, all equal."""
    fitting = machine.memory_bytes / _worker_bytes(wish)
    gpus = int(machine.gpus) if wish.uses_gpu else 0
    if gpus:
        count = gpus * int(1 / wish.gpu_share + 1e-9)
        if count > max(gpus, fitting):
            raise UsageError(
                f"--gpu-share {wish.gpu_share:g} makes {counted(count, 'worker')} on {machine.name}, which take "
                f"{count * _worker_bytes(wish) / 1e9:.1f} GB of memory; it has {machine.memory_bytes / 1e9:.1f} GB, "
                f"enough for a share of {1 / (max(gpus, fitting) // gpus):.4g}"
            )
    else:
        count = max(1, int(min(math.ceil(machine.cores / CORES_PER_WORKER), fitting)))
    cores = max(1, int(machine.cores / count))
    cpus, share = _floored(machine.cores / count), _floored(wish.gpu_share) if gpus else 0.0
    return [Worker(machine.node, cpus, share, cores, cores + 1)] * count


def _worker_bytes(wish: Wish) -> int:
    return TORCH_WORKER_BYTES if wish.uses_gpu else LITE_WORKER_BYTES


def _floored(amount: float) -> float:
    """Return an amount rounded down to Ray's precision."""
    return max(1, int(amount * _RAY_UNITS + 1e-6)) / _RAY_UNITS


@dataclass(slots=True)
class Speed:
    """The speed of one unit on a worker: seconds of video per second, over finished units. None: not measured."""

    video_s: float = 0.0
    taken_s: float = 0.0

    def add(self, video_s: float, taken_s: float) -> None:
        """Count one finished unit."""
        self.video_s += video_s
        self.taken_s += taken_s

    @property
    def per_unit(self) -> float | None:
        return self.video_s / self.taken_s if self.taken_s > 0 and self.video_s > 0 else None


def is_sooner_on_cpu(video_s: float, speed: Speed, gpu_speeds: Sequence[tuple[Speed, int]], waiting_s: float) -> bool:
    """Return whether a CPU worker would finish a unit before the GPU workers finish everything that waits.

    video_s: length of the unit. speed: of the CPU worker. gpu_speeds: of each GPU worker, with its units at once;
    waiting_s: video that waits for a worker, this unit included. False until the GPU workers have been measured.
    """
    if not gpu_speeds:
        return True
    known = [(per_unit, units) for found, units in gpu_speeds if (per_unit := found.per_unit) is not None]
    if not known:
        return False
    mean = sum(per_unit for per_unit, _ in known) / len(known)
    own = speed.per_unit or mean * CPU_SPEED_RATIO
    return video_s / own <= waiting_s / sum(per_unit * units for per_unit, units in known)
