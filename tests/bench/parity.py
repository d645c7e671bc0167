"""Preprocessing of vfindex compared with open_clip's: python tests/bench/parity.py [FOLDER]

Keyframes of real videos (the public collection by default) are preprocessed in two ways: decoded small, then cropped or
squeezed, as by the indexer; and decoded at full size, then transformed by open_clip. Printed are the mean absolute
difference of the 8-bit pixels, and the cosine of EfficientNet-Lite2's 1,408 features (the weights of `lite`). Area
averaging and nearest neighbour show the sensitivity of the figures. Exits with 1 if vfindex's filter misses a bound, or
nearest neighbour meets all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from unittest import mock

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from open_clip.transform import image_transform
from PIL import Image
from torch import nn

from vfindex.indexer.media import frames
from vfindex.indexer.media.container import Source, demux, open_source, rotation, shown_px
from vfindex.indexer.media.protocol import FrameTap
from vfindex.indexer.models.base import Pixels
from vfindex.indexer.models.catalog import EFFICIENTNET_WEIGHTS
from vfindex.indexer.models.export.lite import load_label_model
from vfindex.indexer.models.image.tower import Preparation
from vfindex.indexer.models.lite import SIZE_PX
from vfindex.indexer.models.packages import locate_package_file
from vfindex.storage.records import FloatArray

# Preprocessings of the presets' models: ViT-B-32-256; SigLIP2; PE-Core.
WAYS = (("shortest", "bicubic"), ("squash", "bicubic"), ("squash", "bilinear"))
# Bounds for the mean over the frames and for the worst frame: difference of pixels, out of 255, and cosine.
MAX_DIFFERENCE, MAX_WORST_DIFFERENCE = 1.0, 4.0
MIN_COSINE, MIN_WORST_COSINE = 0.995, 0.98
AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
FILTERS = {"vfindex": frames.SCALING, "area": AREA, "nearest": Interpolation.POINT}
# FFmpeg's most exact conversion at full size.
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


def keyframes(source: Source, n: int) -> Iterator[VideoFrame]:
    """Yield the keyframes at or before n moments, evenly spaced."""
    stream = source.video
    source.only(stream)
    span = int((source.container.duration or 0) / av.time_base / (stream.time_base or 1))
    for index in range(n):
        source.container.seek((stream.start_time or 0) + span * (2 * index + 1) // (2 * n), stream=stream)
        frames = (frame for packet in demux(source.container, stream) for frame in stream.codec_context.decode(packet))
        frame = next(frames, None)
        if frame is not None:
            yield frame
        stream.codec_context.flush_buffers()


def small(source: Source, frame: VideoFrame, interpolation: Interpolation) -> Pixels:
    """Return the frame as the decode child sends it, resized by a filter."""
    with mock.patch.object(frames, "SCALING", interpolation):
        return frames.FrameScaler(source, FrameTap(SIZE_PX)).pixels(frame)


def full(frame: VideoFrame) -> Image.Image:
    """Return the frame at full size, upright."""
    picture = VideoReformatter().reformat(frame, format="rgb24", interpolation=EXACT, dst_color_range="JPEG")
    return Image.fromarray(np.rot90(picture.to_ndarray(), round(rotation(frame) / 90)))


def squares(path: Path, n: int) -> Iterator[dict[tuple[str, str, str], Pixels]]:
    """Yield the squares of a video's keyframes: (resize mode, interpolation, filter or "open_clip") -> pixels.

    The indexer widens non-square pixels, open_clip ignores them: such a video yields no cropped squares.
    """
    with closing(open_source(os.fsencode(path))) as source:
        context = source.video.codec_context
        size = (context.width, context.height)
        plain = shown_px(*size, source.video.sample_aspect_ratio) == size
        ways = [way for way in WAYS if plain or way[0] == "squash"]
        for frame in keyframes(source, n):
            found = {}
            picture = full(frame)
            frames = {name: small(source, frame, chosen) for name, chosen in FILTERS.items()}
            for mode, interpolation in ways:
                transform = image_transform(SIZE_PX, False, resize_mode=mode, interpolation=interpolation)
                transform.transforms = transform.transforms[:-2]  # all steps before the tensor
                found[mode, interpolation, "open_clip"] = np.asarray(transform(picture))
                prepare = Preparation(SIZE_PX, mode, interpolation, (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
                for name, pixels in frames.items():
                    found[mode, interpolation, name] = prepare.square(pixels)
            yield found


def features(network: nn.Module, pictures: Sequence[Pixels]) -> FloatArray:
    """Return (n, 1408), rows of length 1: EfficientNet-Lite2's features before its classifier."""
    with torch.inference_mode():
        batch = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        pooled = network.forward_head(network.forward_features(batch), pre_logits=True)  # type: ignore[operator]
        rows: FloatArray = nn.functional.normalize(pooled, dim=1).numpy()
    return rows


def measure(paths: Sequence[Path], n: int) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    """Return (resize mode, interpolation, filter) -> per frame, the difference of pixels and the cosine of features."""
    network = load_label_model(locate_package_file(EFFICIENTNET_WEIGHTS, Path())).network
    found = defaultdict(list)
    for path in paths:
        for pictures in squares(path, n):
            rows = dict(zip(pictures, features(network, list(pictures.values())), strict=True))
            for mode, interpolation, name in pictures:
                if name != "open_clip":
                    ours, theirs = (mode, interpolation, name), (mode, interpolation, "open_clip")
                    difference = np.abs(pictures[ours].astype(int) - pictures[theirs]).mean()
                    found[ours].append((float(difference), float(rows[ours] @ rows[theirs])))
    return found


def report(found: dict[tuple[str, str, str], list[tuple[float, float]]]) -> bool:
    """Print a row per preprocessing and filter; return whether only vfindex's filter meets the bounds."""
    passed = True
    print(f"{'pictures':18} {'filter':8} {'frames':>6}  {'pixels differ by':20}  cosine of features")
    for (mode, interpolation, name), rows in found.items():
        differences, cosines = np.array(rows).T
        met = bool(differences.mean() <= MAX_DIFFERENCE and differences.max() <= MAX_WORST_DIFFERENCE)
        met &= bool(cosines.mean() >= MIN_COSINE and cosines.min() >= MIN_WORST_COSINE)
        passed &= met == (name == "vfindex") or name == "area"
        print(
            f"{f'{mode}, {interpolation}':18} {name:8} {len(rows):6}  "
            f"{differences.mean():.2f}, at most {differences.max():5.2f}  "
            f"{cosines.mean():.4f}, at least {cosines.min():.4f}  {'meets' if met else 'misses'} the bounds"
        )
    print(
        f"bounds: {MAX_DIFFERENCE} in the mean, {MAX_WORST_DIFFERENCE} at worst; "
        f"cosine {MIN_COSINE} in the mean, {MIN_WORST_COSINE} at worst"
    )
    return passed


def main() -> None:
    """Run the bench."""
    media = os.environ.get("VFINDEX_TEST_MEDIA")
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(media) / "public" / "videos" if media else None)
    parser.add_argument("--frames", type=int, default=2, metavar="N", help="keyframes a video")
    asked = parser.parse_args()
    if asked.folder is None:
        parser.error("name a folder of videos, or set VFINDEX_TEST_MEDIA")
    sys.exit(not report(measure(sorted(asked.folder.iterdir()), asked.frames)))


if __name__ == "__main__":
    main()
