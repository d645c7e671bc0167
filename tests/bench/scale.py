"""Local runner against Ray on one machine: python tests/bench/scale.py [--minutes N] [--files N] [--cores N ...]

Makes --files videos of --minutes each, by repeating videos of the public collection ($VFINDEX_TEST_MEDIA) without
re-encoding, and ingests them with the command on each number of cores (default: 1 and 2):

    local     one process
    ray       Ray, started for the run: one worker with all cores
    machines  Ray, started before: a cluster of machines with a core and a worker each

The start is measured with a video of 2 s and subtracted, from wall and processor seconds. On a busy machine compare the
processor seconds. Sampled every second: processor seconds and memory (proportional set size, PSS) of all processes of a
run, the files of the object store, and the folder for temporary files, open deleted ones included. Memory, store and
folder are the largest samples. Writes into temporary folders.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
from ingest import tree_pss_mb

VFINDEX = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]
RUNNERS = ("local", "ray", "machines")
LOOK_S = 1.0
SHORT_S = 2.0
MEMORY_LIMIT_MB = 3 * 1024  # for an hour of video on two cores
STORE_BYTES = 200 << 20  # of each machine of a cluster


def repeated(source: Path, target: Path, length_s: float) -> None:
    """Write `source` repeatedly into `target`, packet by packet, until it lasts length_s."""
    with av.open(str(target), "w") as out:
        shift_s, streams = 0.0, None
        while shift_s < length_s:
            with av.open(str(source)) as file:
                chosen = [stream for stream in file.streams if stream.type in ("video", "audio")]
                if streams is None:
                    streams = {stream.index: out.add_stream_from_template(stream) for stream in chosen}
                end_s = 0.0
                for packet in file.demux(chosen):
                    if packet.dts is None or packet.pts is None or packet.time_base is None:
                        continue
                    if shift_s + float(packet.dts * packet.time_base) >= length_s:
                        continue
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    ticks = round(shift_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
            shift_s += end_s


def make_videos(folder: Path, collection: Path, files: int, length_s: float) -> None:
    """Make the videos, each from another MP4-compatible one of the collection."""
    folder.mkdir()
    sources = sorted(collection.glob("*.mp4"))[:files]
    if len(sources) < files:
        raise SystemExit(f"the collection has {len(sources)} MP4 files, not {files}; ask for longer ones")
    for source in sources:
        repeated(source, folder / source.name, length_s)


@dataclass
class Peaks:
    """The largest samples, in MB. cpu: process id -> processor seconds at its first and last sample."""

    memory: float = 0.0
    store: float = 0.0
    temporary: float = 0.0
    cpu: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """Return the processor seconds of all processes between first and last sample."""
        return sum(last - first for first, last in self.cpu.values())

    def look(self, temporary: Path) -> None:
        """Sample all processes below this one. temporary: their folder for temporary files."""
        is_first = not self.cpu
        roots = _children(os.getpid())
        for pid, spent_s in _cpu_s(roots):
            self.cpu[pid] = (self.cpu[pid][0] if pid in self.cpu else spent_s if is_first else 0.0, spent_s)
        self.memory = max(self.memory, sum(map(tree_pss_mb, roots)))
        open_files = dict(_open_files(roots))
        shared = sum(size for (path, _), size in open_files.items() if path.startswith("/dev/shm/"))
        gone = sum(
            size for (path, _), size in open_files.items() if path.startswith(f"{temporary}/") and "(deleted)" in path
        )
        self.store = max(self.store, shared / 2**20)
        self.temporary = max(self.temporary, (gone + _folder_bytes(temporary)) / 2**20)


def _cpu_s(roots: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Yield (process id, processor seconds so far) of processes and their descendants."""
    todo = list(roots)
    while todo:
        pid = todo.pop()
        todo += _children(pid)
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            yield pid, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _open_files(roots: Sequence[int]) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield ((path, inode), bytes on disk) of the open files of processes and their descendants."""
    todo = list(roots)
    while todo:
        pid = todo.pop()
        todo += _children(pid)
        with suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found = handle.stat()
                    yield (os.readlink(handle), found.st_ino), 512 * found.st_blocks


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += 512 * path.lstat().st_blocks
    return total


@dataclass(frozen=True)
class Run:
    """One ingest. wall_s: of the whole process."""

    wall_s: float
    video_s: float
    peaks: Peaks = field(default_factory=Peaks)


@contextmanager
def confined(cores: int) -> Iterator[None]:
    """Confine processes started in the context to the first of the usable cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


@contextmanager
def options_of(runner: str, cores: int) -> Iterator[list[str]]:
    """Yield the options that name a runner; its machines run during the context."""
    if runner != "machines":
        yield ["--runner", runner]
        return
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=machine)
    try:
        for _ in range(cores - 1):
            cluster.add_node(**machine)
        yield ["--ray-address", cluster.address]
    finally:
        cluster.shutdown()


def ingest(videos: Sequence[Path], library: Path, options: Sequence[str], cores: int) -> Run:
    """Ingest with the command, sampling its temporary files."""
    command = [*VFINDEX, "ingest", "--json", "--preset", "lite", *options, "--library", str(library)]
    temporary = Path(tempfile.gettempdir())
    peaks, began = Peaks(), time.monotonic()
    peaks.look(temporary)  # processes of a running cluster
    with tempfile.TemporaryFile(dir=library.parent) as answer:
        with confined(cores):
            process = subprocess.Popen([*command, *map(str, videos)], stdout=answer)
        while process.poll() is None:
            peaks.look(temporary)
            time.sleep(LOOK_S)
        wall_s = time.monotonic() - began
        answer.seek(0)
        report = json.loads(answer.read())
    if process.returncode or report["indexed"] != len(videos):
        raise SystemExit(f"{' '.join(options)} on {cores} cores: {report}")
    return Run(wall_s, report["video_seconds"], peaks)


def compare(scratch: Path, cores: int, runners: Sequence[str]) -> dict[str, float]:
    """Ingest the short video and the long ones by each runner, print a line each; return the times of the long ones."""
    rest_s: dict[str, float] = {}
    short, long = (sorted((scratch / name).iterdir()) for name in ("short", "long"))
    for runner in runners:
        with ExitStack() as stack:
            with confined(cores):
                options = stack.enter_context(options_of(runner, cores))
            fixed = ingest(short, scratch / f"short {runner} {cores}", options, cores)
            run = ingest(long, scratch / f"long {runner} {cores}", options, cores)
        rest_s[runner] = run.wall_s - fixed.wall_s
        found, cpu_s = run.peaks, run.peaks.cpu_s - fixed.peaks.cpu_s
        print(
            f"{cores:5}  {runner:8} {fixed.wall_s:8.1f} s {rest_s[runner]:8.1f} s {cpu_s:8.1f} s "
            f"{found.memory:7.0f} MB {found.store:10.0f} MB {found.temporary:7.0f} MB",
            flush=True,
        )
        if found.memory >= MEMORY_LIMIT_MB:
            print(f"       {runner} took more than {MEMORY_LIMIT_MB} MB of memory")
    for runner in rest_s:
        if "local" in rest_s and runner != "local":
            ratio = rest_s[runner] / rest_s["local"]
            print(f"{cores:5}  {runner} takes {ratio:.2f} times as long as local, the starts apart", flush=True)
    return rest_s


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="length of each video")
    parser.add_argument("--files", type=int, default=4, metavar="N", help="number of videos")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], metavar="N", help="processor cores")
    parser.add_argument("--runners", nargs="+", default=RUNNERS, choices=RUNNERS, help="local, ray, machines")
    asked = parser.parse_args()
    media = os.environ.get("VFINDEX_TEST_MEDIA")
    if not media:
        parser.error("set VFINDEX_TEST_MEDIA")
    collection = Path(media) / "public" / "videos"
    # Ray's sockets are below it, and their paths may have 107 characters.
    temporary = Path(tempfile.gettempdir()) / f"v{os.getpid():x}"
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_videos(scratch / "long", collection, asked.files, 60 * asked.minutes)
        make_videos(scratch / "short", collection, 1, SHORT_S)
        print(f"{asked.files} videos, {asked.files * asked.minutes:g} minutes together; load {os.getloadavg()[0]:.1f}")
        print("cores  runner      start    the rest   its CPU    memory  object store  temporary")
        temporary.mkdir()
        os.environ["TMPDIR"] = os.environ["RAY_TMPDIR"] = tempfile.tempdir = str(temporary)
        try:
            taken = {cores: compare(scratch, cores, asked.runners) for cores in asked.cores}
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    first, *others = asked.cores
    for cores in others:
        for runner in asked.runners:
            times = taken[first][runner] / taken[cores][runner]
            print(f"{runner} on {cores} cores does {times:.2f} times what it does on {first}")


if __name__ == "__main__":
    main()
