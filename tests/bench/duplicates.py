"""Precision and recall of `vfindex duplicates` on planted copies, against equal durations and equal titles.

    python tests/bench/planted.py MEDIA/public FOLDER && cp MEDIA/public/videos/* FOLDER
    vfindex ingest FOLDER --no-asr --no-ocr --no-sounds --library LIBRARY
    python tests/bench/duplicates.py LIBRARY FOLDER/pairs.json

A pair of videos is right if pairs.json has it. The controls call a pair a copy if the durations differ by less than
half a second, or if one title ends in the other. Pairs of the half `dev` chose LEAST_EVIDENCE; both halves are shown.
Intervals are bootstraps over the videos that copies were made of.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Query
from vfindex.search.query.request import Request
from vfindex.search.understanding.duplicates import FrameCache, find_pairs

Name = frozenset[str]


def found_pairs(folder: Path) -> tuple[set[Name], dict[str, float]]:
    """Return the pairs that the method finds, and name -> duration of all videos."""
    with ExitStack() as opened:
        _, view = SearchEngine(folder).open_view(Request(""), Query(()), opened, None)
        videos = {each.id: each for each in view.snapshot.videos(view.snapshot.video_ids())}
        names = {id_: Path(each.locations[0].path.decode()).name for id_, each in videos.items()}
        pairs = find_pairs(view, view.snapshot.video_ids(), FrameCache(view), lambda done, of: None)
        lengths = {names[id_]: each.end_s - each.start_s for id_, each in videos.items()}
        return {frozenset((names[each.first], names[each.second])) for each in pairs}, lengths


def source(name: str) -> str:
    """Return the public video that a file was made of."""
    return Path(name).stem.split("-")[-1]


def table_of(right: AbstractSet[Name], *found: AbstractSet[Name]) -> list[NDArray[np.float64]]:
    """Return for each of `found` (n_sources, 3): pairs that are right, found, and to be found."""
    sources = sorted({min(map(source, pair)) for pairs in (right, *found) for pair in pairs})
    owned = [{each: {p for p in pairs if min(map(source, p)) == each} for each in sources} for pairs in (right, *found)]
    truth, *others = owned
    return [np.array([(len(truth[s] & own[s]), len(own[s]), len(truth[s])) for s in sources], float) for own in others]


def resampled(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sums (10,000, 3) over sources drawn with replacement, the same draws for each table of as many."""
    draws = np.random.default_rng(0).integers(0, len(table), (10_000, len(table)))
    return np.asarray(table[draws].sum(axis=1))


def measure(right: AbstractSet[Name], found: AbstractSet[Name]) -> str:
    """Return precision and recall, each with its interval over sources."""
    [table] = table_of(right, found)
    drawn, total, parts = resampled(table), table.sum(axis=0), []
    for name, column in (("precision", 1), ("recall", 2)):
        values = drawn[:, 0] / np.maximum(drawn[:, column], 1)
        low, high = np.percentile(values, [2.5, 97.5])
        share, counts = total[0] / max(total[column], 1), f"{total[0]:.0f}/{total[column]:.0f}"
        parts.append(f"{name} {share:.2f} [{low:.2f}, {high:.2f}] ({counts})")
    return ", ".join(parts)


def gain(right: AbstractSet[Name], found: AbstractSet[Name], control: AbstractSet[Name]) -> str:
    """Return the paired difference in F1."""

    def f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1))

    one, other = table_of(right, found, control)
    low, high = np.percentile(f1(resampled(one)) - f1(resampled(other)), [2.5, 97.5])
    return f"{float(f1(one.sum(axis=0)) - f1(other.sum(axis=0))):+.2f} [{low:+.2f}, {high:+.2f}]"


def main(library: Path, planted: Path) -> None:
    pairs = [(frozenset((a, b)), kind) for a, b, kind in json.loads(planted.read_text(encoding="utf-8"))]
    found, lengths = found_pairs(library)
    names = sorted(lengths)
    all_pairs = [frozenset((a, b)) for i, a in enumerate(names) for b in names[:i]]
    same_length = {p for p in all_pairs if abs(np.subtract(*(lengths[n] for n in p))) < 0.5}
    same_title = {p for p in all_pairs if len({source(n) for n in p}) == 1}
    known = {pair for pair, _ in pairs}
    for half in ("dev", "test"):
        right = {pair for pair, kind in pairs if kind.startswith(half)}
        other = known - right
        print(f"== {half}: {len(right)} pairs")
        kept: list[set[Name]] = []
        for name, chosen in (("method", found), ("equal duration", same_length), ("equal title", same_title)):
            own = {p for p in chosen - other if p in right or half == _half(p, pairs)}
            kept.append(own)
            print(f"{name}: {measure(right, own)}; method - it in F1: {gain(right, kept[0], own)}")
        for kind in sorted({kind for _, kind in pairs if kind.startswith(half)}):
            of_kind = {pair for pair, k in pairs if k == kind}
            print(f"  {kind}: {len(of_kind & found)} of {len(of_kind)}")
    print("not planted:", *sorted(" ".join(sorted(pair)) for pair in found - known), sep="\n  ")


def _half(pair: Name, pairs: list[tuple[Name, str]]) -> str:
    """Return the half that an unplanted pair counts for: that of a copy in it, `test` without one."""
    kinds = {kind.split()[0] for each, kind in pairs if each & pair}
    return "dev" if kinds == {"dev"} else "test"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
