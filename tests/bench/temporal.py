"""A temporal head against means of frames: python tests/bench/temporal.py [--library DIR]

Pans to the left and to the right over one wide picture, which have the same frames in another order, by a real image
model (of `lite`). And, with --library: the eight coarse classes of the public collection (public_classes.json).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from vfindex.indexer.models.lite import ensure_lite
from vfindex.indexer.models.temporal import train_head
from vfindex.search.evaluation.labelled_videos import LabelledVideo
from vfindex.search.evaluation.temporal import TemporalChoice, TunedHead, tune_temporal
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.storage.encoders.image import LiteImageEncoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from panning import DIRECTIONS, pan_library

VIDEOS = 120


def show(what: str, done: TunedHead, seconds: float) -> None:
    print(f"\n{what}: {done.clips} clips of {done.videos} videos, {seconds:.0f} s of processor time")
    for name, figure in (("means of frames", done.before), ("temporal head", done.after)):
        print(f"  {name:16} accuracy {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]")
    gain = done.difference
    print(f"  gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], wins: {done.wins}; P(chance) {done.chance}")


def measure(what: str, library: Path, names: list[str], labelled: list[LabelledVideo]) -> None:
    before = time.process_time()
    kinds = ClassSet("bench", tuple(LabelClass(name) for name in names))
    show(what, tune_temporal(library, kinds, train_head, TemporalChoice(labelled)), time.process_time() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        cache = Path(os.environ.get("VFINDEX_CACHE", spare))
        encoder = LiteImageEncoder.open(ensure_lite(cache).visual)
        pans = pan_library(Path(spare) / "pans", chosen.videos, encoder.encode_images, encoder.size_px)
        labelled = [LabelledVideo(f"{DIRECTIONS[n % 2]} {n}", DIRECTIONS[n % 2]) for n in range(chosen.videos)]
        measure("pans", pans, list(DIRECTIONS), labelled)
        if chosen.library is not None:
            copy = Path(shutil.copytree(chosen.library, Path(spare) / "copy"))
            written = json.loads(Path(__file__).with_name("public_classes.json").read_text(encoding="utf-8"))
            names = [each["name"] for each in written["classes"]]
            labelled = [LabelledVideo(stem, name) for name in names for stem in written["videos"][name]]
            measure("eight coarse classes", copy, names, labelled)


if __name__ == "__main__":
    main()
