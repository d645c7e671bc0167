"""vfindex against a plain script: python tests/bench/peer_plain.py [FOLDER] [--files N] [--rounds N]

FOLDER: $VFINDEX_TEST_MEDIA/public/videos unless named. --files: N of them, evenly spaced.

Both take a frame a second of each video through the image tower of ViT-B-32; its weights are random, the speed is real.
Each is one process, from its start to its end. The script is what one writes with PyAV and open_clip: every frame is
decoded, each second's first one goes through open_clip's own transform, batches of 32 through the model, in float32 or
under bfloat16 autocast, whichever a trial finds faster. It keeps the vectors and nothing else. vfindex makes a library
with `vfindex ingest --sampling 1 --no-asr`, without text on the screen; its exported models are in the cache already,
as after a first run.

They run in turn; printed are the ratios of wall and of processor seconds of each round, and the efficiency: the
processor seconds of decoding alone and of encoding alone, in this process, over the cores, divided by the wall time of
`ingest` without the opening of its models; medians of all rounds. Writes into a temporary folder, and into the cache of
VFINDEX_CACHE.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# vfindex is imported in functions, so that the script's process does without.
sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))

MODEL = "ViT-B-32"
BATCH = 32
FPS = 1.0
# `find_spec` finds no module that is None here: the library gets no text on the screen.
INGEST = "import sys; sys.modules['rapidocr'] = None; from vfindex.cli.app import main; main()"


# --- the script -----------------------------------------------------------------------------------------------------


def run_script(weights: str, number_format: str, out: str, files: Sequence[str]) -> None:
    """Write the vectors of a frame a second of the files as plain code does."""
    import av
    import numpy as np
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=weights)
    model.eval()

    def pictures() -> Iterator[torch.Tensor]:
        for path in files:
            with av.open(path) as container:
                taken = None
                for frame in container.decode(video=0):
                    if frame.time is not None and int(frame.time * FPS) != taken:
                        taken = int(frame.time * FPS)
                        yield transform(frame.to_image())  # type: ignore[no-untyped-call]

    def encode(batch: list[torch.Tensor]) -> Any:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=number_format == "bfloat16")
        with torch.inference_mode(), autocast:
            return model.encode_image(torch.stack(batch), normalize=True).float().numpy()

    batch: list[torch.Tensor] = []
    vectors = []
    for picture in pictures():
        batch.append(picture)
        if len(batch) == BATCH:
            vectors.append(encode(batch))
            batch = []
    if batch:
        vectors.append(encode(batch))
    np.save(out, np.concatenate(vectors))


# --- the comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """The seconds of one process and its children."""

    wall_s: float
    cpu_s: float


def spend(command: Sequence[str]) -> Spent:
    """Run a command; raises CalledProcessError with what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def make_model(folder: Path) -> Path:
    """Return a folder with the model at full size and random weights, always the same."""
    import open_clip
    from tiny_models import CLIP_PIXELS, make_open_clip

    return make_open_clip(folder, open_clip.get_model_config(MODEL), CLIP_PIXELS)


def script(model: Path, number_format: str, out: Path, files: Sequence[Path]) -> list[str]:
    """Return the command of the plain script."""
    weights = model / "open_clip_model.safetensors"
    return [sys.executable, __file__, "--script", *map(str, (weights, number_format, out)), *map(str, files)]


def ingest(model: Path, library: Path, files: Sequence[Path]) -> list[str]:
    """Return the command of vfindex."""
    options = ["--preset", "lite", "--visual", f"local-dir:{model}", "--sampling", f"{FPS:g}", "--no-asr", "--json"]
    return [sys.executable, "-P", "-c", INGEST, "ingest", *options, "--library", str(library), "--", *map(str, files)]


def opening(model: Path) -> list[str]:
    """Return the command that opens the image model, libraries included, and ends."""
    from vfindex.indexer.models.hardware import usable_cores

    code = "import sys; from pathlib import Path; from vfindex.indexer.models.image.open_clip import OpenClipEncoder; "
    code += "OpenClipEncoder.open(Path(sys.argv[1]), threads=int(sys.argv[2]), devices=['cpu'])"
    return [sys.executable, "-P", "-c", code, str(model), str(usable_cores())]


def alone(model: Path, files: Sequence[Path]) -> tuple[float, float]:
    """Return the processor seconds of decoding, and of encoding the frames that differ from the one before."""
    from vfindex.indexer.extractors.frame_record import FrameRecord
    from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap
    from vfindex.indexer.models.hardware import usable_cores
    from vfindex.indexer.models.image.open_clip import OpenClipEncoder
    from vfindex.indexer.options import Sampling

    encoder = OpenClipEncoder.open(model, threads=usable_cores(), devices=["cpu"])
    taps, moving = [FrameTap(encoder.size_px)], []
    before_s = processor_s()
    with Decoder() as decoder:
        for path in files:
            record = FrameRecord()
            for item in decoder.read(os.fsencode(path), taps=taps, sampling=Sampling("fps", FPS)):
                if isinstance(item, Frame) and record.add(item):
                    moving.append(item.pixels)
    decoding_s = processor_s() - before_s
    before_s = processor_s()
    encoder.encode_images(moving)
    return decoding_s, processor_s() - before_s


def processor_s() -> float:
    """Return the processor seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Run the bench."""
    media = os.environ.get("VFINDEX_TEST_MEDIA")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(media) / "public" / "videos" if media else None)
    parser.add_argument("--files", type=int, metavar="N", help="only N of the files")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    asked = parser.parse_args()
    if asked.folder is None:
        parser.error("name a folder of videos, or set VFINDEX_TEST_MEDIA")
    files = sorted(asked.folder.iterdir())
    if asked.files and asked.files < len(files):
        files = [files[n * len(files) // asked.files] for n in range(asked.files)]
    with tempfile.TemporaryDirectory() as temporary:
        compare(files, asked.rounds, Path(temporary))


def compare(files: Sequence[Path], rounds: int, scratch: Path) -> None:
    """Print the ratios and the efficiency."""
    from vfindex.indexer.models.hardware import usable_cores

    model = make_model(scratch / f"{MODEL}-random")
    spend(ingest(model, scratch / "first", files[:1]))  # exports what the cache lacks
    formats = ("float32", "bfloat16")
    trial = {
        each: spend(script(model, each, scratch / "trial.npy", files[:: len(files) // 4 or 1])) for each in formats
    }
    number_format = min(trial, key=lambda each: trial[each].cpu_s)
    ratios: dict[str, list[float]] = {"wall": [], "processor": []}
    walls, opened_s, parts_s = [], [], []
    for n in range(rounds):
        plain = spend(script(model, number_format, scratch / "vectors.npy", files))
        ours = spend(ingest(model, scratch / f"library{n}", files))
        ratios["wall"].append(plain.wall_s / ours.wall_s)
        ratios["processor"].append(plain.cpu_s / ours.cpu_s)
        walls.append(ours.wall_s)
        opened_s.append(spend(opening(model)).wall_s)
        parts_s.append(alone(model, files))
        print(
            f"script, {number_format}: {plain.wall_s:.1f} s, {plain.cpu_s:.1f} CPU s; vfindex: {ours.wall_s:.1f} s, "
            f"{ours.cpu_s:.1f} CPU s; ratio {ratios['wall'][-1]:.2f}, {ratios['processor'][-1]:.2f}",
            flush=True,
        )
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} times the script")
    decoding_s, encoding_s = (statistics.median(each) for each in zip(*parts_s, strict=True))
    limit_s, open_s = (decoding_s + encoding_s) / usable_cores(), statistics.median(opened_s)
    whole_s = statistics.median(walls)
    print(f"decoding alone {decoding_s:.1f} CPU s, encoding alone {encoding_s:.1f} CPU s, opening {open_s:.1f} s")
    print(
        f"efficiency {limit_s / (whole_s - open_s):.2f} without the opening, {limit_s / whole_s:.2f} with it; "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--script"]:
        weights, number_format, out, *files = sys.argv[2:]
        run_script(weights, number_format, out, files)
    else:
        main()
