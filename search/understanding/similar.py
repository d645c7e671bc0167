"""Clips like a clip or like a whole video: the images of a search, and a list in which no two entries show the same."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vfindex.search.libraries import existing_video
from vfindex.search.query.like import Like, clip_among, stored_image, video_among
from vfindex.search.results import Hits
from vfindex.search.understanding.diversity import marginal_relevance
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.ids import spread
from vfindex.storage.library import Library
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import SEARCHABLE, ClipKey, FloatArray

# Clips of a video that stand for it, spread over its length; the vectors of images of a query are averaged.
CLIPS_OF_A_VIDEO = 16
# Hits that a diverse list is chosen of, for each entry: Carbonell and Goldstein 1998 rerank what was retrieved.
POOL = 5
MOST_POOLED = 500


@dataclass(frozen=True, slots=True)
class Examples:
    """What is looked for. video: the fingerprint whose other clips are no answers, None for a clip."""

    clips: tuple[Like | ClipKey, ...]
    video: str | None = None


def examples_of(snapshots: Sequence[Snapshot], what: Like | ClipKey | str) -> Examples:
    """Return the clips that a clip, `VIDEO@TIME`, or a video (its path, name or fingerprint) stands for.

    Raises QueryError for a video without frames, LibraryError, UsageError.
    """
    if not isinstance(what, str):
        return Examples((what,))
    try:
        return Examples((Like.parse(what),))
    except UsageError:
        if not what:
            raise
    number, found = video_among(snapshots, what)
    if found is None and "@" in what and not os.path.lexists(what):
        Like.parse(what)  # says how a time is written
    video = existing_video(found, what)
    clips = [] if video.state not in SEARCHABLE else snapshots[number].clips_of(video.id)
    vectors = snapshots[number].vectors([clip.id for clip in clips]) if clips else {}
    seen = [clip for clip in clips if frame_modality() in vectors[clip.id].embeddings]
    if not seen:
        raise QueryError(
            f"{what} has no frames to compare, or is not fully indexed; look it up with: "
            f"vfindex show {shlex.quote(what)}"
        )
    chosen = (ClipKey(video.fingerprint, clip.start_ms) for clip in spread(seen, CLIPS_OF_A_VIDEO))
    return Examples(tuple(chosen), video.fingerprint)


def pool_size(top_k: int, per_video: int, balance: float, examples: Examples) -> int:
    """Return how many hits to search for. Raises QueryError for a balance outside 0 to 1."""
    if not 0.0 <= balance <= 1.0:
        raise QueryError(f"balance must lie between 0 and 1, not {balance!r}")
    own = 0 if examples.video is None else per_video
    return own + (top_k if balance == 1.0 else max(top_k, min(POOL * top_k, MOST_POOLED)))


def chosen_hits(
    hits: Hits, opened: tuple[Sequence[Library], Sequence[Snapshot]], examples: Examples, top_k: int, balance: float
) -> Hits:
    """Return up to `top_k` of the hits, ranked anew: without those of the video itself, and diverse, see `diversity`.

    Both similarities are cosines of the clips' pictures, to the mean of the examples and to the hits already chosen. A
    hit of a library on another machine has no vector here, and comes after those that have one.
    """
    left = [hit for hit in hits if hit.key.fingerprint != examples.video]
    if balance == 1.0 or not left:
        return hits.ranked(left[:top_k])
    libraries, snapshots = opened
    images: dict[tuple[Path | str, int], FloatArray] = {}
    for library, snapshot in zip(libraries, snapshots, strict=True):
        ids = [hit.clip_id for hit in left if hit.library == library.root]
        images |= {(library.root, id_): image for id_, image in _images(snapshot, ids).items()}
    query = _mean_image(snapshots, examples)
    nothing = np.zeros_like(query)
    vectors = np.stack([images.get((hit.library, hit.clip_id), nothing) for hit in left])
    order = marginal_relevance(vectors @ query, vectors, top_k, balance)
    return hits.ranked([left[row] for row in order])


def _images(snapshot: Snapshot, ids: Sequence[int]) -> dict[int, FloatArray]:
    found = snapshot.vectors(ids) if ids else {}
    framed = frame_modality()
    return {id_: each.embeddings[framed] for id_, each in found.items() if framed in each.embeddings}


def _mean_image(snapshots: Sequence[Snapshot], examples: Examples) -> FloatArray:
    images = []
    for clip in examples.clips:
        number, found = clip_among(snapshots, clip)
        images.append(stored_image(snapshots[number], found))
    mean = np.mean(images, axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), np.float32)
