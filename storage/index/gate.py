"""The gate before publication: a new joint index must find what an exact scan finds, and what the old one found.

Three measures. The vectors of a sample of clips against library.db, at every size. Recall@10 against a scan of
library.db at every weighting, see `tuning`. And known items (Craswell 2009): segments and titles are queries to what
readers search now (the published generation with its delta) and to the new index. If it finds significantly fewer
(one-sided sign test over the items that only one of the two finds: McNemar 1947), its statistics are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import counted
from vfindex.storage.ids import evenly_spaced, in_sorted, spread
from vfindex.storage.index.flat import joint_batches
from vfindex.storage.index.reader import VectorIndex
from vfindex.storage.index.tuning import FLOOR, recall_at_10
from vfindex.storage.joint.vector import JointSpec, fuse_query
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, word_modalities
from vfindex.storage.records import FloatArray, QueryModel

# Items of either kind: 48 sentences take 0.7 s to encode.
MAX_ITEMS = 24
# With fewer, not even the loss of all would be significant by much.
MIN_ITEMS = 12
MAX_TEXTS = 2000  # from which items are chosen
MIN_WORDS = {"segment": 4, "title": 2}
# An item is found if its video is among the first videos of the first clips.
FIRST_VIDEOS, FIRST_CLIPS = 10, 200
P_CHANCE = 0.05
# Above this size a scan of library.db takes longer than the build, which has measured recall itself.
SCANNED_CLIPS = 100_000
# Clips whose vectors are compared: this many of all, and this many of the changed ones.
SAMPLED_CLIPS = 512
# Tolerated error of a float16 vector, as a share of its length (2 ** -11 for each component), and at least.
ROUNDING, LEAST_ROUNDING = 1e-3, 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What readers search: an index without its outdated clips, and a delta by exact scan. index: None, scan all."""

    spec: JointSpec
    index: VectorIndex | None
    delta: NDArray[np.int64]
    outdated: NDArray[np.int64]

    @classmethod
    def published(cls, snapshot: Snapshot, generation: Generation, index: VectorIndex | None) -> View:
        """Return what readers search now. index: of the generation, None if its file cannot be used."""
        watermark = generation.watermark if index is not None else 0
        return cls(generation.spec, index, snapshot.unindexed(watermark), snapshot.outdated(watermark))

    @classmethod
    def candidate(cls, snapshot: Snapshot, spec: JointSpec, index: VectorIndex) -> View:
        """Return what readers would search if this index of all clips were published."""
        last = int(index.ids().max(initial=0))
        return cls(spec, index, np.zeros(0, np.int64), snapshot.hidden(last))


@dataclass(frozen=True, slots=True)
class _Item:
    text: str
    video_id: int


def refusal(
    snapshot: Snapshot,
    spec: JointSpec,
    index: VectorIndex,
    published: View | None,
    encoder_folder: Callable[[QueryModel], Path],
    *,
    sealed: bool = True,
) -> str | None:
    """Return why a new joint index must not be published, None if it passes.

    spec: of the new index. published: what readers search now, None if another fusion was chosen, which may give other
    hits. encoder_folder: where the library keeps a query encoder. sealed: it has a new segment; False: it has those of
    the one before, without some clips, and finds of the others what that one found.
    """
    newest = snapshot.generation()
    changed = snapshot.changed(newest.watermark) if newest is not None else np.zeros(0, np.int64)
    ids = index.ids()
    moved = changed[in_sorted(changed, ids)]
    sample = np.union1d(ids[evenly_spaced(len(ids), SAMPLED_CLIPS)], moved[evenly_spaced(len(moved), SAMPLED_CLIPS)])
    wrong = wrong_rows(snapshot, index, spec, sample)
    if wrong:
        return f"of {counted(len(sample), 'clip')} looked at, it has other vectors than library.db for {wrong}"
    if not sealed:
        return None
    if len(index) <= SCANNED_CLIPS:
        priors = LibraryMeta(snapshot).priors
        recall = min(recall_at_10(snapshot, index, spec, priors), default=1.0)
        if recall < FLOOR:
            return f"it finds {recall:.2f} of what an exact scan finds"
    if published is None:
        return None
    items = list(_items(snapshot))
    questions = _questions(snapshot, items, encoder_folder) if len(items) >= MIN_ITEMS else []
    if not questions:
        return None
    views = published, View.candidate(snapshot, spec, index)
    had, has = (_found(snapshot, view, items, questions) for view in views)
    pairs = list(zip(had, has, strict=True))
    if is_worse(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)):
        asked = f"of {counted(len(items), 'question')} made of the library's own titles and transcripts"
        return f"{asked} it answers {sum(has)}, where the one before answers {sum(had)}"
    return None


def wrong_rows(snapshot: Snapshot, index: VectorIndex, spec: JointSpec, ids: NDArray[np.int64]) -> int:
    """Return how many of these clips have another vector in the index than in library.db."""
    if index.dim != spec.dim:
        return len(ids)
    wrong = 0
    for part, rows in joint_batches(snapshot, spec, ids):
        held, own = index.stored(part)
        errors, lengths = np.linalg.norm(own - rows[held], axis=1), np.linalg.norm(rows[held], axis=1)
        wrong += int(np.count_nonzero(~held) + np.count_nonzero(errors > ROUNDING * lengths + LEAST_ROUNDING))
    return wrong


def is_worse(lost: int, won: int) -> bool:
    """Return whether `lost` items against `won` ones are significant (p < P_CHANCE)."""
    n = lost + won
    return n > 0 and sum(comb(n, k) for k in range(lost, n + 1)) / 2**n < P_CHANCE


def _items(snapshot: Snapshot) -> Iterator[_Item]:
    """Yield segments and titles with enough words that occur in one video only, evenly spaced over the library."""
    for kind, column, key in (("segment", "s.text", "s.id"), ("title", "v.title", "v.id")):
        segments = " JOIN segment s ON s.video_id = v.id" if kind == "segment" else ""
        tables = f"FROM video v{segments} WHERE v.state IN ('indexed', 'partial')"
        [(last,)] = snapshot.stream(text(f"SELECT coalesce(max({key}), 0) {tables}"))
        query = text(f"SELECT {column}, v.id {tables} AND {key} % :step = 0 ORDER BY {key}")
        owners: dict[str, set[int]] = {}
        for words, video_id in snapshot.stream(query.bindparams(step=1 + last // MAX_TEXTS)):
            if sum(word.isalpha() for word in words.split()) >= MIN_WORDS[kind]:
                owners.setdefault(words, set()).add(video_id)
        unique = [_Item(words, *videos) for words, videos in owners.items() if len(videos) == 1]
        yield from spread(unique, MAX_ITEMS)


def _questions(
    snapshot: Snapshot, items: Sequence[_Item], encoder_folder: Callable[[QueryModel], Path]
) -> list[dict[ModalityName, FloatArray]]:
    """Return for each item modality -> (dim,), by the library's query encoders; nothing if it has none.

    Known items are words, so the modalities with words are asked; recall measures the others.
    """
    setup = LibraryMeta(snapshot).setup
    if setup is None:
        return []
    from vfindex.storage.encoders.text import TextEncoder  # ONNX Runtime, a tenth of a second

    vectors: dict[str, FloatArray] = {}
    asked = [m for m in word_modalities() if m in setup.query]  # recall alone measures the others
    for modality in asked:
        name = setup.query[modality].folder
        if name in vectors:
            continue
        folder = encoder_folder(setup.query[modality])
        if not (folder / "meta.json").is_file():
            return []
        encoder = TextEncoder.open(folder)
        vectors[name] = encoder.encode([item.text for item in items])
    return [{m: vectors[setup.query[m].folder][row] for m in asked} for row in range(len(items))]


def _found(
    snapshot: Snapshot, view: View, items: Sequence[_Item], questions: Sequence[dict[ModalityName, FloatArray]]
) -> list[bool]:
    """Return for each item whether its video is among the first FIRST_VIDEOS."""
    queries = np.stack([fuse_query(question, view.spec) for question in questions])
    lists = _scanned(snapshot, view, queries)
    result = []
    for item, query, found in zip(items, queries, lists, strict=True):
        if view.index is not None:
            scores, ids = view.index.nearest(query[None], FIRST_CLIPS, without=view.outdated)
            found += zip(scores[0].tolist(), ids[0].tolist(), strict=True)
        best = [id_ for _, id_ in sorted(found, key=lambda pair: (-pair[0], pair[1]))[:FIRST_CLIPS]]
        clips = snapshot.clips(best)
        videos = list(dict.fromkeys(clips[id_].video_id for id_ in best if id_ in clips))
        result.append(item.video_id in videos[:FIRST_VIDEOS])
    return result


def _scanned(snapshot: Snapshot, view: View, queries: FloatArray) -> list[list[tuple[float, int]]]:
    """Return for each query (score, clip id) of the best clips of the view's delta."""
    found: list[list[tuple[float, int]]] = [[] for _ in queries]
    for ids, rows in joint_batches(snapshot, view.spec, view.delta):
        scores = queries @ rows.T  # (n_queries, n)
        for row, best in enumerate(np.argsort(-scores, axis=1)[:, :FIRST_CLIPS]):
            found[row] += zip(scores[row, best].tolist(), ids[best].tolist(), strict=True)
    return found
