"""Text-to-video retrieval by the published protocol: python tests/bench/msrvtt.py MSRVTT_JSFUSION_test.csv VIDEOS
[--model M]

Frames spread evenly over each video (8) are encoded as by `vfindex ingest`, and their unit vectors are averaged;
captions are encoded by the exported text model of a library. Every caption ranks all videos by cosine. Published for
PE-Core-B-16 on MSR-VTT 1k-A: R@1 47.6 (Bolya et al. 2025, arXiv 2504.13181), which is success@1 here. Reads any file
that `vfindex eval` does. It uses no library, clips or full text: it tests models, not the product.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vfindex.indexer.media.decoder import Decoder, Frame, FrameTap
from vfindex.indexer.models.export.cache import ensure_part
from vfindex.indexer.models.image.open_clip import OpenClipEncoder
from vfindex.indexer.models.store import locate as locate_model
from vfindex.indexer.options import Sampling
from vfindex.search.evaluation.datasets import read_questions
from vfindex.search.evaluation.evaluate import locate
from vfindex.search.evaluation.metrics import score, summarise
from vfindex.storage.encoders.text import TextEncoder
from vfindex.storage.errors import VideoError
from vfindex.storage.records import FloatArray

# Sampling rate; the nearest frame to each time is used, at most 0.25 s away.
READ_FPS = 2.0
CAPTIONS_AT_ONCE = 64


def spread_frames(decoder: Decoder, path: bytes, count: int, size_px: int) -> list[Frame]:
    """Return the frames nearest to the middles of `count` equal parts of a video. Raises VideoError."""
    probe = decoder.probe(path)
    read = decoder.read(path, taps=[FrameTap(size_px)], sampling=Sampling("fps", READ_FPS))
    frames = [item for item in read if isinstance(item, Frame)]
    part_s = (probe.end_s - probe.start_s) / count
    middles = [probe.start_s + (number + 0.5) * part_s for number in range(count)]
    return [min(frames, key=lambda frame: abs(frame.time_s - middle)) for middle in middles] if frames else []


def video_vectors(encoder: OpenClipEncoder, paths: Sequence[bytes], count: int) -> Iterator[tuple[bytes, FloatArray]]:
    """Yield (path, (dim,) of length 1) for the videos that can be read."""
    with Decoder() as decoder:
        for number, path in enumerate(paths, start=1):
            try:
                frames = spread_frames(decoder, path, count, encoder.size_px)
            except VideoError as exc:
                print(exc, file=sys.stderr)
                continue
            if frames:
                mean = encoder.encode_images([frame.pixels for frame in frames]).mean(axis=0)
                yield path, mean / np.linalg.norm(mean)
            print(f"\r{number} of {len(paths)} videos", end="", file=sys.stderr)
    print(file=sys.stderr)


def caption_vectors(encoder: TextEncoder, captions: Sequence[str]) -> FloatArray:
    """Return (n, dim) float32 of length 1; captions are encoded without a prompt."""
    parts = [captions[at : at + CAPTIONS_AT_ONCE] for at in range(0, len(captions), CAPTIONS_AT_ONCE)]
    return np.concatenate([encoder.encode(part) for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries", type=Path)
    parser.add_argument("videos", type=Path, help="folder of the videos")
    parser.add_argument("--model", default="PE-Core-B-16:meta", help="as --visual of vfindex ingest")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("VFINDEX_CACHE", "~/.cache/vfindex")))
    arguments = parser.parse_args()
    cache = arguments.cache.expanduser()
    questions = read_questions(arguments.queries)
    files = sorted(os.fsencode(path) for path in arguments.videos.rglob("*") if path.is_file())
    found = locate([q.relevant[0].video for q in questions], {path: number for number, path in enumerate(files)})
    model = locate_model("visual", arguments.model, cache)
    images = OpenClipEncoder.open(model.folder, threads=os.cpu_count() or 1)
    wanted = [files[number] for number in sorted(set(found.values()))]
    vectors = dict(video_vectors(images, wanted, arguments.frames))
    names = {files[number]: name for name, number in found.items()}
    print(f"{len(vectors)} of the {len({q.relevant[0].video for q in questions})} videos asked for")
    texts = TextEncoder.open(ensure_part(model, "clip-text", cache, say=print), threads=os.cpu_count() or 1)
    cosines = caption_vectors(texts, [q.text for q in questions]) @ np.stack(list(vectors.values())).T
    order = [names[path] for path in vectors]
    run = {q.id: [order[i] for i in np.argsort(-row)] for q, row in zip(questions, cosines, strict=True)}
    values = score({q.id: {q.relevant[0].video: 1} for q in questions}, run, len(order))
    for name, figure in summarise(values, [q.id for q in questions]).items():
        print(f"{name:12} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]")


if __name__ == "__main__":
    main()
