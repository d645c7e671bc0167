"""Chapters of films with known joins (films.py), against equal lengths and against shots alone.

    python tests/bench/chapters.py MEDIA WORK [--kind development]

Prints for the films of a set: F1 of the chapters' starts within 5 s of the joins, each start for one join, and
WindowDiff (Pevzner and Hearst 2002; windows of half a part, in steps of 1 s; lower is better), as means over films with
95 % intervals; and the paired difference of the first method to each control (bootstrap over films). The methods:

- chapters: as `vfindex chapters --detect` answers; a film of which it says "not better than chance" has none
- all found: the same without that test
- TextTiling: Hearst 1997, on the same vectors: blocks of two clips, depth above mean - sd / 2
- equal lengths: as many parts as the film has, which no user knows
- shots alone: each clip's start, but nearer than 5 s to the one before; clips end with shots, and at 12 s
- steepest shots: of these the four where pictures differ most, as many as there are joins, which no user knows
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from films import PARTS, Film, films_of

from vfindex.search.evaluation.metrics import compare, summarise
from vfindex.search.outline.records import LEAST_CHAPTER_S
from vfindex.search.outline.segmentation import find_changes
from vfindex.search.outline.timeline import Timeline, timeline_of
from vfindex.search.query.like import find_video
from vfindex.storage.library import Library

TOLERANCE_S = 5.0
Method = Callable[[Timeline], Sequence[float]]


def f1(found_s: Sequence[float], joins_s: Sequence[float]) -> float:
    """Return F1 of starts, each counted for the nearest join within 5 s that has none yet."""
    left, hits = list(joins_s), 0
    for start_s in found_s:
        near = [join_s for join_s in left if abs(join_s - start_s) <= TOLERANCE_S]
        if near:
            left.remove(min(near, key=lambda join_s: abs(join_s - start_s)))
            hits += 1
    return 2 * hits / (len(found_s) + len(joins_s))


def window_diff(found_s: Sequence[float], joins_s: Sequence[float], end_s: float) -> float:
    """Return the share of windows in which found and true numbers of starts differ."""
    size = max(1, round(end_s / (len(joins_s) + 1) / 2))
    firsts = np.arange(round(end_s) - size)
    counts = [
        np.searchsorted(np.sort(starts), firsts + size, side="right")
        - np.searchsorted(np.sort(starts), firsts, side="right")
        for starts in (np.round(found_s), np.round(joins_s))
    ]
    return float(np.mean(counts[0] != counts[1]))


def found(timeline: Timeline, *, tested: bool) -> list[float]:
    changes = find_changes(timeline, LEAST_CHAPTER_S)
    steps = () if tested and changes.better_than_chance is False else changes.steps
    return [float(timeline.edges_s[step]) for step in steps]


def equal_lengths(timeline: Timeline) -> list[float]:
    return [float(time_s) for time_s in np.linspace(timeline.edges_s[0], timeline.edges_s[-1], PARTS + 1)[1:-1]]


def all_shots(timeline: Timeline) -> list[float]:
    starts: list[float] = []
    for edge_s in timeline.edges_s[1:-1]:
        if edge_s - (starts[-1] if starts else timeline.edges_s[0]) >= LEAST_CHAPTER_S:
            starts.append(float(edge_s))
    return starts


def steepest_shots(timeline: Timeline) -> list[float]:
    rows = timeline.vectors["visual"]
    cosines = np.einsum("ij,ij->i", rows[1:], rows[:-1])
    return sorted(float(timeline.edges_s[step + 1]) for step in np.argsort(cosines, kind="stable")[: PARTS - 1])


def text_tiling(timeline: Timeline, block: int = 2) -> list[float]:
    """Return the starts of TextTiling on vectors, the deepest first, none within 5 s of a deeper one."""
    alike = np.array([_likeness(timeline, gap, block) for gap in range(1, len(timeline))])
    depths = np.array([_peak(alike[gap::-1]) + _peak(alike[gap:]) - 2 * alike[gap] for gap in range(len(alike))])
    starts: list[float] = []
    for gap in np.argsort(-depths, kind="stable") if len(depths) else ():
        edge_s = float(timeline.edges_s[gap + 1])
        if depths[gap] > depths.mean() - depths.std() / 2 and all(abs(edge_s - s) >= LEAST_CHAPTER_S for s in starts):
            starts.append(edge_s)
    return sorted(starts)


def _likeness(timeline: Timeline, gap: int, block: int) -> float:
    total = weights = 0.0
    for name, rows in timeline.vectors.items():
        weighted = rows * timeline.lengths_s[:, None]
        left, right = weighted[max(0, gap - block) : gap].sum(0), weighted[gap : gap + block].sum(0)
        lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
        if lengths > 0:
            total += timeline.weights[name] * float(left @ right) / lengths
            weights += timeline.weights[name]
    return total / weights if weights else 0.0


def _peak(values: Sequence[float]) -> float:
    """Return the height of the first peak from the first value on."""
    best = values[0]
    for value in values[1:]:
        if value < best:
            break
        best = value
    return float(best)


METHODS: dict[str, Method] = {
    "chapters": lambda timeline: found(timeline, tested=True),
    "all found": lambda timeline: found(timeline, tested=False),
    "TextTiling": text_tiling,
    "equal lengths": equal_lengths,
    "shots alone": all_shots,
    "steepest shots": steepest_shots,
}


def timelines(films: Sequence[Film], library: Path) -> list[Timeline]:
    with Library.open(library).snapshot() as snapshot:
        videos = [find_video(snapshot, f"{film.name}.mp4") for film in films]
        return [timeline_of(snapshot, video) for video in videos if video is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kind", default="held-out")
    args = parser.parse_args()
    films, library = films_of(args.media, args.work, args.kind)
    read = timelines(films, library)
    values: dict[str, dict[str, list[float]]] = {"F1": {}, "WindowDiff": {}}
    for name, method in METHODS.items():
        answers = [method(timeline) for timeline in read]
        values["F1"][name] = [f1(s, film.joins_s) for s, film in zip(answers, films, strict=True)]
        values["WindowDiff"][name] = [
            window_diff(s, film.joins_s, film.length_s) for s, film in zip(answers, films, strict=True)
        ]
        print(f"{name:16} {np.mean([len(s) for s in answers]):.1f} starts a film")
    verdicts = [find_changes(timeline, LEAST_CHAPTER_S).better_than_chance for timeline in read]
    print(f"{verdicts.count(True)} films above chance, {verdicts.count(False)} not, {verdicts.count(None)} too short")
    print_table(values)


def print_table(values: dict[str, dict[str, list[float]]]) -> None:
    """Print each measure of each method, and the difference of the first method to each. values: one a film."""
    for measure, by_method in values.items():
        first = next(iter(by_method))
        names = [str(number) for number in range(len(by_method[first]))]
        for name, each in by_method.items():
            table = {"MRR": dict(zip(names, each, strict=True))}
            figure = summarise(table, names)["MRR"]
            line = f"{measure:11} {name:16} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
            if name != first:
                gain = compare(each, by_method[first])
                line += f"   {first} {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], p = {gain.p_value:.4f}"
            print(line)


if __name__ == "__main__":
    main()
