"""Local runner against Ray on one machine: python tests/bench/scale.py [--minutes N] [--files N] [--cores N ...]

Makes --files videos of --minutes each, by playing videos of the public collection ($VFINDEX_TEST_MEDIA) again and again
without coding them anew, and ingests them with either runner, confined to each number of cores (default: 1 and 2; Ray
then has as many workers of each kind). What Ray costs however short the videos are is measured with one of 2 s, and
told apart. Memory is the largest sum of the proportional set sizes (PSS) of all processes of a run. `--minutes 60
--files 1 --cores 2` is the hour of video that is to stay below 3 GiB. Ratios of one call compare; seconds of a machine
that does other work do not. Writes into a temporary folder only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from ingest import tree_pss_mb

COMMAND = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]
RUNNERS = ("local", "ray")
LOOK_S = 1.0


def repeated(source: Path, target: Path, length_s: float) -> None:
    """Write `source` again and again into `target`, packet by packet, until it lasts length_s."""
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
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    ticks = round(shift_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
            shift_s += end_s


def make_videos(folder: Path, collection: Path, files: int, minutes: float) -> None:
    """Make the videos, each from another one of the collection that an MP4 can hold."""
    folder.mkdir()
    for source in sorted(collection.glob("*.mp4")):
        if len(list(folder.iterdir())) == files:
            return
        repeated(source, folder / source.name, 60 * minutes)


@dataclass(frozen=True)
class Run:
    """One ingest. wall_s: of the whole process."""

    wall_s: float
    memory_mb: float
    video_s: float


def ingest(videos: Sequence[Path], library: Path, runner: str, cores: int) -> Run:
    """Ingest with the command itself, on the first cores of those that this process may use."""
    command = [*COMMAND, "ingest", "--json", "--runner", runner, "--library", str(library), *map(str, videos)]
    chosen = sorted(os.sched_getaffinity(0))[:cores]
    began, memory_mb = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(command, stdout=answer, preexec_fn=lambda: os.sched_setaffinity(0, chosen))
        while process.poll() is None:
            memory_mb = max(memory_mb, tree_pss_mb(process.pid))
            time.sleep(LOOK_S)
        wall_s = time.monotonic() - began
        answer.seek(0)
        report = json.loads(answer.read())
    if process.returncode or report["indexed"] != len(videos):
        raise SystemExit(f"{runner} on {cores} cores: {report}")
    return Run(wall_s, memory_mb, report["video_seconds"])


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="length of each video")
    parser.add_argument("--files", type=int, default=4, metavar="N", help="number of videos")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], metavar="N", help="processor cores")
    parser.add_argument("--runners", nargs="+", default=RUNNERS, choices=RUNNERS, help="local, ray")
    asked = parser.parse_args()
    media = os.environ.get("VFINDEX_TEST_MEDIA")
    if not media:
        parser.error("set VFINDEX_TEST_MEDIA")
    collection = Path(media) / "public" / "videos"
    with tempfile.TemporaryDirectory() as scratch:
        long, short = Path(scratch) / "long", Path(scratch) / "short"
        make_videos(long, collection, asked.files, asked.minutes)
        make_videos(short, collection, 1, 1 / 30)
        print("cores  runner   one of 2 s    the rest  video a second     memory")
        for cores in asked.cores:
            rest_s = {}
            for runner in asked.runners:
                fixed = ingest(sorted(short.iterdir()), Path(scratch) / f"short {runner} {cores}", runner, cores)
                run = ingest(sorted(long.iterdir()), Path(scratch) / f"long {runner} {cores}", runner, cores)
                rest_s[runner] = run.wall_s - fixed.wall_s
                speed = run.video_s / rest_s[runner]
                print(
                    f"{cores:5}  {runner:6} {fixed.wall_s:9.1f} s {rest_s[runner]:9.1f} s {speed:13.2f} s "
                    f"{run.memory_mb:8.0f} MB",
                    flush=True,
                )
            if len(rest_s) == len(RUNNERS):
                print(f"{cores:5}  Ray takes {rest_s['ray'] / rest_s['local']:.2f} times as long, its start apart")


if __name__ == "__main__":
    main()
