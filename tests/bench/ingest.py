"""Speed of ingest on real videos: python tests/bench/ingest.py [FOLDER] [--files N] [--workers N]

FOLDER: $VFINDEX_TEST_MEDIA/public/videos unless named. --files: N of them, evenly spaced.

First every stage of the pipeline runs alone on one thread, and its processor time is measured, children included. Their
sum divided by the cores is T_limit, a lower bound of any run. Then `vfindex ingest` indexes the same files into a new
library; efficiency is T_limit divided by its wall time. Loading the models is reported separately. If other processes
used the processors meanwhile, the table says how much, and the efficiency on the remaining time. Memory is the largest
sum of the proportional set sizes (PSS) of the run's processes. Writes into a temporary folder only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vfindex.cli.options import cache_folder
from vfindex.indexer.extractors.registry import open_extractors
from vfindex.indexer.extractors.speech import NAME
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Decoder, Frame, FrameTap, ReadEnd
from vfindex.indexer.models.base import Encoders, Pixels, is_still
from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.export.packaged import ensure_model
from vfindex.indexer.models.factory import install
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.presets import LITE_SPEECH, Choice
from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.pipeline.prepare import Prepared, prepare
from vfindex.indexer.pipeline.stages import index_unit
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.indexer.speech.backends import find_voice, open_model
from vfindex.indexer.speech.whisper import Sound, Whisper
from vfindex.storage.encoders.image import BATCH_FRAMES, LiteImageEncoder
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.records import FloatArray, Segment
from vfindex.storage.writer import Writer, writing

Item = Frame | AudioBlock | ReadEnd
OPTIONS = Options(Sampling(), asr=True)
OPENING = "opening the models"
DECODING = "probing, decoding, scaling, sound"
VOICE = "voice activity"
RECOGNITION = "recognition"
IMAGES = "image encoding"
TEXTS = "text encoding"
CLIPS = "shots, clips, thumbnails"
COMMIT = "commit and publish"
STAGES = (DECODING, VOICE, RECOGNITION, IMAGES, TEXTS, CLIPS, COMMIT)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_S = 0.5  # interval of memory samples


def cpu_s(who: int | None = None) -> float:
    """Return the processor time of this process (RUSAGE_SELF), of its ended children (RUSAGE_CHILDREN), or of both."""
    used = [
        resource.getrusage(w) for w in ([who] if who is not None else [resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN])
    ]
    return sum(u.ru_utime + u.ru_stime for u in used)


class Clock:
    """Processor seconds by stage."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the body, including children that end in it; nested stages count separately."""
        began_s, inside_s = cpu_s(), sum(self.spent_s.values())
        try:
            yield
        finally:
            self.spent_s[name] += cpu_s() - began_s - (sum(self.spent_s.values()) - inside_s)


class TimedText(TextEncoder):
    """A text encoder that counts as a stage."""

    clock: Clock

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return the encoder's vectors."""
        with self.clock.stage(TEXTS):
            return super().encode(texts)


class ReplayDecoder(Decoder):
    """Replays the recorded read of a unit without a child process."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__()
        self._items = items

    def read(self, *_: object, **__: object) -> Iterator[Item]:
        """Yield the items of the unit."""
        return iter(self._items)


class ReplayEncoder:
    """Replays the vectors of a unit's frames in order."""

    def __init__(self, vectors: FloatArray, size_px: int) -> None:
        self._vectors = iter(vectors)
        self.size_px = size_px
        self.batch_frames = BATCH_FRAMES

    def encode_images(self, frames: Sequence[object]) -> FloatArray:
        """Return the next vectors."""
        return np.stack([next(self._vectors) for _ in frames])


@dataclass
class Alone:
    """Runs the stages one by one. Children count for their stage when they end, in `close`."""

    clock: Clock
    image: LiteImageEncoder
    text: TimedText
    writer: Writer
    decoder: Decoder
    whisper: Whisper

    def index(self, found: Found) -> float:
        """Run all stages on one video; return its duration in seconds."""
        encoders = Encoders(self.text, {"visual": self.image})
        with self.clock.stage(DECODING):
            prepared = prepare(found, fingerprint(found.location.path), OPTIONS, self.decoder, encoders)
        with self.clock.stage(COMMIT):
            video_id = self.writer.catalog.begin_video(prepared.video, prepared.units, recognised=True)
            plans = self.writer.catalog.pending_units(video_id)
        for unit_id, plan in plans:
            with self.clock.stage(DECODING):
                items = self._read(prepared, plan.start_s, plan.end_s)
            with self.clock.stage(IMAGES):
                vectors = self.image.encode_images(_moving([item.pixels for item in items if isinstance(item, Frame)]))
            with self.clock.stage(RECOGNITION):
                said = self._hear(prepared, items)
            replay: Any = ReplayEncoder(vectors, self.image.size_px)
            spoken = prepared.known[NAME]
            spoken = replace(spoken, segments=(*spoken.segments, *said))
            known = replace(prepared, known={**prepared.known, NAME: spoken})
            with self.clock.stage(CLIPS):
                extractors = open_extractors(Encoders(self.text, {"visual": replay}))
                indexed = index_unit(known, plan, OPTIONS, ReplayDecoder(items), extractors)
            with self.clock.stage(COMMIT):
                self.writer.commit_unit(video_id, prepared.video.fingerprint, unit_id, indexed.result)
        with self.clock.stage(COMMIT):
            self.writer.catalog.finish_video(video_id, found.location, prepared.documents, problem=None)
        return prepared.video.end_s - prepared.video.start_s

    def close(self) -> None:
        """End the children and publish."""
        with self.clock.stage(DECODING):
            self.decoder.close()
        self.whisper.close()
        with self.clock.stage(COMMIT):
            self.writer.publish()

    def _read(self, prepared: Prepared, start_s: float | None, end_s: float | None) -> list[Item]:
        return list(
            self.decoder.read(
                prepared.found.location.path,
                taps=[FrameTap(self.image.size_px), AudioTap()],
                sampling=OPTIONS.sampling,
                audio=None if prepared.known[NAME].no_audio or prepared.audio is None else prepared.audio.index,
                start_s=start_s,
                end_s=end_s,
            )
        )

    def _hear(self, prepared: Prepared, items: Sequence[Item]) -> list[Segment]:
        transcriber = self.whisper.transcriber([(s.start_s, s.end_s) for s in prepared.known[NAME].segments])
        for item in items:
            if isinstance(item, AudioBlock):
                transcriber.feed(item)
        return transcriber.finish().segments


def _moving(frames: Sequence[Pixels]) -> list[Pixels]:
    """Return the frames that the pipeline encodes: all except those equal to the last encoded one."""
    moving: list[Pixels] = []
    for frame in frames:
        if not moving or not is_still(moving[-1], frame):
            moving.append(frame)
    return moving


def run_alone(files: Sequence[Found], library: Path) -> tuple[dict[str, float], float, float]:
    """Return stage -> processor seconds, the seconds of video, and the wall seconds of opening the encoders."""
    clock = Clock()
    cache = cache_folder()
    with writing(library) as writer:
        install(writer, Choice("lite"), str(OPTIONS.sampling), cache, say=print)
        with clock.stage(OPENING):
            began = time.monotonic()
            paths = ensure_lite(cache)
            image, text = LiteImageEncoder.open(paths.visual), TimedText.open(paths.text)
            opening_wall_s = time.monotonic() - began
            text.clock = clock
            model = ensure_model(find_card("speech", LITE_SPEECH), cache, say=print)
            speech = open_model(model.folder, threads=1, device="cpu")

        def voice(samples: Sound) -> Sequence[tuple[int, int]]:
            with clock.stage(VOICE):
                return find_voice(samples)

        alone = Alone(clock, image, text, writer, Decoder(), Whisper(speech, voice))
        try:
            video_s = sum(alone.index(found) for found in files)
        finally:
            alone.close()
    return clock.spent_s, video_s, opening_wall_s


@dataclass(frozen=True)
class Run:
    """A real ingest. wall_s: without the start of Python. others_s: processor time of all other processes meanwhile."""

    wall_s: float
    cpu_s: float
    others_s: float
    memory_mb: float
    report: dict[str, Any]


def run_ingest(files: Sequence[Found], library: Path, workers: int | None) -> Run:
    """Ingest the files with the command itself."""
    command = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()", "ingest", "--json"]
    command += ["--library", str(library), *(["--workers", str(workers)] if workers else []), "--"]
    command += [os.fsdecode(found.location.path) for found in files]
    before_s, machine_before_s = cpu_s(resource.RUSAGE_CHILDREN), machine_s()
    memory_mb = 0.0
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(command, stdout=answer)
        while process.poll() is None:
            memory_mb = max(memory_mb, tree_pss_mb(process.pid))
            time.sleep(LOOK_S)
        answer.seek(0)
        report = json.loads(answer.read())
    used_s = cpu_s(resource.RUSAGE_CHILDREN) - before_s
    return Run(report["wall_s"], used_s, max(0.0, machine_s() - machine_before_s - used_s), memory_mb, report)


def machine_s() -> float:
    """Return the processor time that all processes of the machine have used."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def tree_pss_mb(root: int) -> float:
    """Return the proportional set size of a process and its descendants; ended ones count 0."""
    total_kb, todo = 0, [root]
    while todo:
        pid = todo.pop()
        with suppress(OSError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text(encoding="ascii").split())
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kb / 1024


def show(stages: dict[str, float], video_s: float, opening_wall_s: float, run: Run) -> None:
    """Print the table."""
    cores = usable_cores()
    sum_s = sum(stages[name] for name in STAGES)
    limit_s, wall_s = sum_s / cores, run.wall_s - opening_wall_s
    left = 1 - run.others_s / (cores * run.wall_s)
    for name in STAGES:
        print(f"{name:34} {stages[name]:8.1f} CPU s {stages[name] / sum_s:6.0%}")
    print(f"{'sum of the stages alone':34} {sum_s:8.1f} CPU s")
    print(f"{OPENING:34} {stages[OPENING]:8.1f} CPU s   (apart)")
    print(f"{f'T_limit on {cores} cores':34} {limit_s:8.1f} s")
    print(f"{'wall time of ingest':34} {wall_s:8.1f} s       ({run.cpu_s:.1f} CPU s)")
    print(f"{'efficiency':34} {limit_s / wall_s:8.2f}")
    print(f"{'used by other processes':34} {run.others_s:8.1f} CPU s")
    print(f"{'efficiency on what they left':34} {limit_s / wall_s / left:8.2f}")
    print(
        f"{'video':34} {video_s:8.1f} s       {video_s / wall_s:.1f} s a second, {sum_s / video_s:.2f} CPU s a second"
    )
    print(f"{'largest memory (PSS)':34} {run.memory_mb:8.0f} MB")
    counts = {name: run.report[name] for name in ("found", "indexed", "clips")}
    print(f"{'report':34} {counts}, {len(run.report['failed'])} failed")


def main() -> None:
    """Run the bench."""
    media = os.environ.get("VFINDEX_TEST_MEDIA")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(media) / "public" / "videos" if media else None)
    parser.add_argument("--files", type=int, metavar="N", help="only N of the files")
    parser.add_argument("--workers", type=int, metavar="N", help="as of vfindex ingest")
    asked = parser.parse_args()
    if asked.folder is None:
        parser.error("name a folder of videos, or set VFINDEX_TEST_MEDIA")
    files = [found for found in discover([os.fsencode(asked.folder)]) if isinstance(found, Found)]
    if asked.files and asked.files < len(files):
        files = [files[n * len(files) // asked.files] for n in range(asked.files)]
    with tempfile.TemporaryDirectory() as scratch:
        stages, video_s, opening_wall_s = run_alone(files, Path(scratch) / "alone")
        run = run_ingest(files, Path(scratch) / "run", asked.workers)
    show(stages, video_s, opening_wall_s, run)


if __name__ == "__main__":
    main()
