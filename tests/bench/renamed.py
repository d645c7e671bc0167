"""Whether a search finds renamed videos: python tests/bench/renamed.py FOLDER --cache DIR [--clips 60000]

Makes a library of synthetic clips in FOLDER (synthetic.py) and renames every video. Then asks 200 questions, half of
them the new titles, with and without the index: at once, and after the publication and merges of a nightly run. Prints
the share of questions with the same ten best, where equal scores may be in any order.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import synthetic

from vfindex.search.results import Hit
from vfindex.search.service import SearchService
from vfindex.storage.index.tuning import TIE
from vfindex.storage.records import ClipKey, Document
from vfindex.storage.writer import writing

QUESTIONS, TOP_K = 200, 10


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="Compare searches with exact ones after all videos were renamed.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--cache", type=Path, required=True, help="where the models of `lite` are, or will be")
    arguments = parser.parse_args()
    if not (arguments.folder / "library.db").exists():
        synthetic.make(arguments.folder, arguments.clips, arguments.cache)
    questions = rename_all(arguments.folder, arguments.cache)
    print(f"at once: {same_share(arguments.folder, questions):.3f} of the questions have the same ten best", flush=True)
    with writing(arguments.folder) as writer:
        began_s = time.process_time()
        writer.publish()
        while writer.merge(lambda: None):
            pass
        print(f"publication and merges: {time.process_time() - began_s:.0f} s of processor", flush=True)
    print(f"after the night: {same_share(arguments.folder, questions):.3f}", flush=True)
    print(f"{arguments.clips} clips, {len(questions)} questions; load {os.getloadavg()[0]:.1f}")


def rename_all(folder: Path, cache: Path) -> list[str]:
    """Give every video another title and its vector; return the questions."""
    material, rng = synthetic.load_material(cache), np.random.default_rng(3)
    with writing(folder) as writer:
        with writer.catalog.transaction() as connection:
            videos = connection.exec_driver_sql("SELECT id FROM video ORDER BY id").scalars().all()
        titles = [" ".join(rng.choice(material.words[:5000], 4)) for _ in videos]
        meanings = material.sentences[rng.integers(len(material.sentences), size=len(videos))]
        for video, title, meaning in zip(videos, titles, meanings, strict=True):
            writer.catalog.retitle(video, title, [Document("title", title)], meaning)
    spoken = [" ".join(rng.choice(material.words[:2000], 3)) for _ in range(QUESTIONS // 2)]
    return [*(titles[at] for at in rng.choice(len(titles), QUESTIONS // 2, replace=False)), *spoken]


def same_share(folder: Path, questions: list[str]) -> float:
    """Return the share of questions whose ten best are those of an exact search."""
    with SearchService(folder) as service:
        found, exact = (
            [_scores(service.search(each, top_k=TOP_K, exact=scan, min_confidence="none")) for each in questions]
            for scan in (False, True)
        )
    return sum(map(_is_same, found, exact)) / len(questions)


def _scores(hits: Iterable[Hit]) -> dict[ClipKey, float]:
    return {hit.key: hit.score for hit in hits}


def _is_same(found: dict[ClipKey, float], exact: dict[ClipKey, float]) -> bool:
    """Return whether both are the same clips; those with the lowest score may be others with the same score."""
    worst = min(exact.values(), default=0.0)
    return len(found) == len(exact) and all(key in exact or score > worst - TIE for key, score in found.items())


if __name__ == "__main__":
    main()
