"""Digests of films with known parts (films.py), against excerpts at equal distances and at random times.

    python tests/bench/digests.py MEDIA WORK [--kind development]
    python tests/bench/digests.py MEDIA WORK --kind digest-held-out --public LIBRARY

LIBRARY: of the public videos, whose frames make the films of the kinds `digest-` and `uneven-`.
Prints for excerpts of 3, 5 and 8 times 5 s the share of a film's five parts of which an excerpt shows 1 s or more, and
the share of its time that these parts take, as the mean over films with a 95 % interval, and the paired difference of
the digest to each control (over films).
The controls have excerpts of the lengths that the digest has: uniform ones divide the film equally; random ones begin
anywhere and do not overlap, the mean of 200 draws. All films count: the digest's own test of chance is left out, and
counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from chapters import print_table
from films import VECTORS, Film, films_of, joined_library, planned

from vfindex.search.outline import digest as digests
from vfindex.search.outline.digest import EXCERPT_S
from vfindex.search.outline.records import Verdict
from vfindex.search.service import SearchService

COUNTS, DRAWS, LEAST_S = (3, 5, 8), 200, 1.0
Spans = Sequence[tuple[float, float]]


def covered(film: Film, spans: Spans) -> tuple[float, float]:
    """Return the share of the parts of which at least 1 s is shown, and the share of the time that these take."""
    edges_s = [0.0, *film.joins_s, film.length_s]
    shown = [
        sum(max(0.0, min(end_s, to_s) - max(start_s, from_s)) for start_s, end_s in spans)
        for from_s, to_s in pairwise(edges_s)
    ]
    is_shown = np.array(shown) >= LEAST_S
    return float(is_shown.mean()), float(np.diff(edges_s) @ is_shown / film.length_s)


def uniform(film: Film, lengths_s: Sequence[float]) -> Spans:
    """Return excerpts in the middle of equal parts of a film."""
    part_s = film.length_s / len(lengths_s)
    middles_s = [part_s * (number + 0.5) for number in range(len(lengths_s))]
    return [(middle_s - each / 2, middle_s + each / 2) for middle_s, each in zip(middles_s, lengths_s, strict=True)]


def at_random(film: Film, lengths_s: Sequence[float], generator: np.random.Generator) -> Spans:
    """Return excerpts at random times: the gaps between them are those of random points of what is not shown."""
    free_s = max(0.0, film.length_s - sum(lengths_s))
    gaps_s = np.sort(generator.uniform(0, free_s, len(lengths_s)))
    before_s = np.concatenate([[0.0], np.cumsum(lengths_s)[:-1]])
    return [(float(g + b), float(g + b + each)) for g, b, each in zip(gaps_s, before_s, lengths_s, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kind", default="held-out")
    parser.add_argument("--public", type=Path)
    args = parser.parse_args()
    if args.kind in VECTORS:
        films, library = planned(args.media / "SOURCES.csv", args.kind), args.work / args.kind
        if not library.exists():
            joined_library(films, args.public, library)
    else:
        films, library = films_of(args.media, args.work, args.kind)
    generator, tested = np.random.default_rng(0), digests._verdict
    for count in COUNTS:
        values: dict[str, list[tuple[float, float]]] = {"digest": [], "uniform": [], "random": []}
        verdicts: list[bool | None] = []

        def judge(*arguments: object, into: list[bool | None] = verdicts) -> Verdict:
            into.append(tested(*arguments).better_than_chance)  # type: ignore[arg-type]
            return Verdict(None, None)

        digests._verdict = judge
        with SearchService(library) as service:
            for film in films:
                made = service.digest(f"{film.name}.mp4", length_s=count * EXCERPT_S, words=0)
                spans = [(each.start_s, each.end_s) for each in made.moments]
                lengths_s = [end_s - start_s for start_s, end_s in spans]
                values["digest"].append(covered(film, spans))
                values["uniform"].append(covered(film, uniform(film, lengths_s)))
                drawn = [covered(film, at_random(film, lengths_s, generator)) for _ in range(DRAWS)]
                parts, time = np.mean(drawn, axis=0).tolist()
                values["random"].append((parts, time))
        print(f"{count} excerpts: {verdicts.count(True)} films above chance, {verdicts.count(False)} not")
        for place, title in enumerate(("parts", "time")):
            print_table({title: {name: [pair[place] for pair in pairs] for name, pairs in values.items()}})


if __name__ == "__main__":
    main()
