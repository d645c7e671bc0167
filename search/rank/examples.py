"""Clips and pictures as a query: the vectors of its moments with them, and the clips that are no hits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.like import Like, NoClip, clip_at, clip_or_reason, stored_image
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Result
from vfindex.search.rank.lexical import KeywordMatches
from vfindex.search.rank.query_vectors import QueryVectors, add_images, combine_parts
from vfindex.search.rank.score import score_clips
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import ClipKey, FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ExampleClip:
    """A clip of a library as a query. number: of the library. image: what images are compared with, (dim,).

    middle_s: the clip at this time is the example in other libraries that have the video. clip: None of a library on
    another machine.
    """

    number: int
    fingerprint: str
    middle_s: float
    image: FloatArray
    clip: StoredClip | None = None


def find_examples(
    snapshots: Sequence[Snapshot],
    likes: Sequence[Like | ClipKey],
    others: Sequence[Sequence[ExampleClip | NoClip]] = (),
) -> list[ExampleClip]:
    """Return each clip of the query from the first library that has it. others: what those elsewhere have of each.

    Raises QueryError for a clip that none has, UsageError for a name that fits several videos.
    """
    return [_example(snapshots, like, [each[number] for each in others]) for number, like in enumerate(likes)]


def _example(
    snapshots: Sequence[Snapshot], like: Like | ClipKey, others: Sequence[ExampleClip | NoClip]
) -> ExampleClip:
    found = [*([_own_example(snapshots, like)] if snapshots else []), *others]
    clips = [each for each in found if isinstance(each, ExampleClip)]
    if not clips:
        reasons = [each for each in found if isinstance(each, NoClip)]
        raise QueryError(str(max(reasons, key=lambda exc: exc.has_video)))
    is_name = isinstance(like, Like) and not os.path.isabs(like.video)
    if is_name and len({each.fingerprint for each in clips}) > 1:
        raise UsageError(f"{like} fits a video in several libraries; give more of the path, or the fingerprint")
    return clips[0]


def _own_example(snapshots: Sequence[Snapshot], like: Like | ClipKey) -> ExampleClip | NoClip:
    found = clip_or_reason(snapshots, like)
    return found if isinstance(found, NoClip) else example_of(snapshots[found[0]], *found)


def example_of(snapshot: Snapshot, number: int, clip: StoredClip) -> ExampleClip:
    """Return a clip of a library as an example. Raises QueryError if it has no frames."""
    [video] = snapshot.videos([clip.video_id])
    middle_s = (clip.start_s + clip.end_s) / 2
    return ExampleClip(number, video.fingerprint, middle_s, stored_image(snapshot, clip), clip)


def query_vectors(
    encoded: EncodedQuery, images: Sequence[FloatArray], spreads: Sequence[float], spec: JointSpec
) -> list[QueryVectors]:
    """Return the vectors of each moment; images belong to the first. spreads: of `ImageSample`, one for each image."""
    pairs = zip(encoded.query.moments, encoded.words(), strict=True)
    vectors = [combine_parts(moment.parts(), words, spec) for moment, words in pairs]
    return [add_images(vectors[0], images, spreads, spec), *vectors[1:]] if images else vectors


def example_results(view: View, examples: Iterable[ExampleClip], vectors: QueryVectors) -> list[Result]:
    """Return the clips of a library that are examples, or the same moment of their videos, as results."""
    ids: list[int] = []
    for each in examples:
        own = each.clip if each.number == view.number else None
        clips = clip_at(view.snapshot, each.fingerprint, each.middle_s) if own is None else [own]
        ids += [clip.id for clip in clips]
    return [Result.of((each,)) for each in score_clips(view, ids, vectors, KeywordMatches())] if ids else []
