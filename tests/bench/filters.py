"""Time of filters and words at scale: python tests/bench/filters.py LIBRARY, made by synthetic.py --words

Everything that a search does before the index, and without it: filters, words, prefilter, and the clips near those of
another moment. Per kind of query, in ms of processor time: `commit`, the first after a commit, with empty caches;
`new`, another query of the kind, of words not asked for since; `again`, the same query. `clips`: how many may answer, -
for all. `left out`: whether the query was told that documents were. The last column is the highest memory of the
process so far.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.filters import clips_passing, filtered, unmatched
from vfindex.search.query.parser import parse
from vfindex.search.rank.lexical import match_keywords
from vfindex.search.rank.prefilter import build_prefilter
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.library import Library

# What is kept of one query until the next commit; everything else is of the library, for all queries.
CACHED = (
    "filtered",
    "globs",
    "clips of videos",
    "documents of videos",
    "clips of speakers",
    "postings",
    "document frequencies",
)
# Candidates of a moment that the index gives, and of each of two moments.
CANDIDATES, OF_TWO = 225, 800
# Words of every frequency in the tokenizer's vocabulary, and three that hardly occur.
COMMON, MIDDLE, RARE = ("the", "and", "of"), ("house", "river", "music"), ("steamboat", "gardener", "locomotive")
KINDS: Mapping[str, Sequence[str]] = {
    "in, 1 %": [f"in:shelf-{n:02d}" for n in (7, 21, 63)],
    "in, name": [f"in:*000{n}1*.mp4" for n in (3, 5, 6)],
    "in, all": ["in:*.mp4", "in:videos", "in:shelf-*"],
    "after, 1 %": [f"after:2024-11-{day}" for day in (21, 25, 28)],
    "longer, half": ["longer:350s", "longer:351s", "longer:349s"],
    "lang": ["lang:fi", "lang:en", "lang:de"],
    "speaker": [f"speaker:number{n}" for n in (3, 9, 150)],
    "speaker, common": ["speaker:speaker", "speaker:number1", "speaker:number2"],
    "words, rare": [" ".join(pair) for pair in zip(RARE, RARE[1:] + RARE[:1], strict=True)],
    "words, middle": [" ".join(pair) for pair in zip(MIDDLE, MIDDLE[1:] + MIDDLE[:1], strict=True)],
    "words, common": list(COMMON),
    "words, all common": ["the of and", "of the to", "and in the"],
    "common and rare": [f"{a} {b}" for a, b in zip(MIDDLE, RARE, strict=True)],
    "words in 1 %": [f"{word} in:shelf-{n:02d}" for n, word in enumerate(MIDDLE)],
    "words in half": [f"{word} longer:350s" for word in MIDDLE],
    "said, rare": [f"said:{word}" for word in RARE],
    "said, middle": [f"said:{word}" for word in MIDDLE],
    "said, common": [f"said:{word}" for word in COMMON],
    "said, two common": ["said:the said:of", "said:of said:and", "said:and said:the"],
    "said, common, rare": [f"said:{a} said:{b}" for a, b in zip(COMMON, RARE, strict=True)],
    "said, in 1 %": [f"said:{word} in:shelf-{n:02d}" for n, word in enumerate(COMMON)],
    "said, in half": [f"said:{word} longer:350s" for word in COMMON],
    "titled, common": [f"titled:{word}" for word in COMMON],
    "phrase, rare": [f'"{a} {b}"' for a, b in zip(MIDDLE, RARE, strict=True)],
    "phrase, common": ['"of the"', '"and the"', '"in the"'],
    "phrase, long": ['"the and of the"', '"of and in the"', '"the the of and"'],
    "without, rare": [f"-{word}" for word in RARE],
    "without, middle": [f"-{word}" for word in MIDDLE],
    "without, common": [f"-{word}" for word in COMMON],
    "without a phrase": ['-"of the"', '-"and the"', '-"in the"'],
    "then": [f"{a} then {b} within 20s" for a, b in zip(MIDDLE, RARE, strict=True)],
    "then, common": [f"said:{a} then said:{b} within 20s" for a, b in zip(COMMON, RARE, strict=True)],
}


def answer(snapshot: Snapshot, text: str, candidates: NDArray[np.int64]) -> tuple[int | None, bool]:
    """Do what a search does besides the index; return how many clips may answer, and whether documents were left out.

    candidates: clips that stand for those that the index would give.
    """
    query = parse(text, wordless=True)
    videos, spoken = filtered(snapshot, query.filters), clips_passing(snapshot, query.filters)
    clips, left_out = None, False
    for moment in query.moments:
        keywords = match_keywords(snapshot, moment.keywords(), videos)
        prefilter = build_prefilter(snapshot, moment, keywords, videos, (), spoken)
        chosen = candidates if prefilter is None or prefilter.clips is None else prefilter.clips
        if prefilter is not None:
            prefilter.accepted(chosen[:CANDIDATES].tolist())
            clips = None if prefilter.clips is None else len(prefilter.clips)
        if query.order is not None:
            snapshot.clips_near(chosen[:OF_TWO].tolist(), query.within_s)
        left_out |= bool(getattr(keywords, "cut", ()))
    unmatched(snapshot, query.filters)
    return clips, left_out


def timed(library: Library, text: str, candidates: NDArray[np.int64]) -> tuple[float, int | None, bool]:
    """Return the milliseconds of processor time of a query, and its `answer`."""
    start = time.process_time()
    with library.snapshot() as snapshot:
        clips, left_out = answer(snapshot, text, candidates)
    return 1000 * (time.process_time() - start), clips, left_out


def spread_clips(folder: Path) -> NDArray[np.int64]:
    """Return OF_TWO clips of the whole library in random order."""
    with Library.open(folder).snapshot() as snapshot:
        last = snapshot.connection.exec_driver_sql("SELECT max(id) FROM clip").scalar_one()
    return np.random.default_rng(0).permutation(np.linspace(1, last, OF_TWO).astype(np.int64))


def measure(folder: Path, kind: str, texts: Sequence[str], candidates: NDArray[np.int64]) -> None:
    """Print a line about a kind of query."""
    taken: dict[str, list[float]] = {"commit": [], "new": [], "again": []}
    for first in texts:
        library = Library.open(folder)
        taken["commit"].append(timed(library, first, candidates)[0])
        for text in texts:
            with library.snapshot() as snapshot:
                for key in CACHED:
                    snapshot.remembered(key, dict).clear()
            taken["new"].append(timed(library, text, candidates)[0])
            took_ms, clips, left_out = timed(library, text, candidates)
            taken["again"].append(took_ms)
        library.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = "".join(f"{statistics.median(each):10.1f}" for each in taken.values())
    answered = f"{'-' if clips is None else clips:>10}{'yes' if left_out else '':>10}"
    print(f"{kind:20}{cells}{answered}{peak:10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time filters and words.")
    parser.add_argument("library", type=Path)
    parser.add_argument("kinds", nargs="*", help="only the kinds that begin so")
    arguments = parser.parse_args()
    columns = "".join(f"{name:>10}" for name in ("commit", "new", "again", "clips", "left out", "MiB"))
    print(f"{'ms':20}{columns}")
    candidates = spread_clips(arguments.library)
    for kind, texts in KINDS.items():
        if not arguments.kinds or kind.startswith(tuple(arguments.kinds)):
            measure(arguments.library, kind, texts, candidates)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.library}")


if __name__ == "__main__":
    main()
