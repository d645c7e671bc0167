"""What clips show as a question: a vector of pictures in place of words, and the clip that it may come from."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from vfindex.search.rank.candidates import Asked, View
from vfindex.storage.db.reader import Snapshot, StoredClip
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.records import SEARCHABLE, FloatArray

# Clips from all over the library by which the spread of a picture's similarities is measured, and how many the prior,
# the spread that words have, counts among them.
SAMPLE_CLIPS, PRIOR_CLIPS = 512, 20
_LIKE = re.compile(r"(?P<video>.+)@(?:(?:(?P<h>\d{1,4}):)?(?P<m>\d{1,6}):)?(?P<s>\d{1,9}(?:\.\d{1,6})?)s?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Like:
    """The clip of an indexed video that covers a time. video: its path. time_s: as hits have it."""

    video: Path
    time_s: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `VIDEO@12.5`, `VIDEO@1:02` or `VIDEO@1:02:03` names. Raises UsageError."""
        match = _LIKE.fullmatch(text)
        if match is None:
            raise UsageError(f"a clip is named by video and time, as in beach.mp4@12.5 or beach.mp4@1:02, not {text!r}")
        hours, minutes, seconds = (float(match[name] or 0) for name in ("h", "m", "s"))
        return cls(Path(match["video"]), 3600 * hours + 60 * minutes + seconds)

    def __str__(self) -> str:
        return f"{self.video}@{self.time_s:g}"


def clip_at(snapshot: Snapshot, like: Like) -> StoredClip:
    """Return the clip that covers a time of a video. Raises QueryError if the library has none there."""
    typed = os.fsencode(like.video)
    path = snapshot.path_of([os.path.realpath(typed), os.path.abspath(typed)])
    video = None if path is None else snapshot.video_at(path)
    if video is None or video.state not in SEARCHABLE:
        raise QueryError(f"{like.video} is not in this library, or not wholly indexed; look it up with: vfindex show")
    clips = snapshot.clips_of(video.id)
    covering = [clip for clip in clips if clip.start_s <= like.time_s <= clip.end_s]
    if not covering:
        told = f"it runs from {clips[0].start_s:g} s to {clips[-1].end_s:g} s" if clips else "it has no clips"
        raise QueryError(f"no clip of {like.video} covers {like.time_s:g} s: {told}")
    return covering[-1]


def stored_picture(snapshot: Snapshot, clip: StoredClip, like: Like) -> FloatArray:
    """Return the vector (dim,) of what a clip shows. Raises QueryError if it shows nothing."""
    vector = snapshot.vectors([clip.id])[clip.id].embeddings.get("visual")
    if vector is None:
        raise QueryError(f"the clip of {like.video} at {like.time_s:g} s has no pictures to compare")
    return vector


def with_pictures(asked: Asked, pictures: Sequence[FloatArray], view: View) -> Asked:
    """Return a question that asks for pictures too, all of them together as much as for its words.

    A picture is not centred, so that clips rank by plain cosine: without the clips' mean, frames found their own video
    less often (docs/decisions/image-queries.md). Pictures resemble one another more than words resemble pictures: their
    similarities are brought to a spread of 1, which those of words have.
    """
    if not pictures:
        return asked
    part = view.spec.parts["visual"]
    if part.weight == 0:
        raise QueryError("pictures are compared by what is shown, whose weight is 0; leave visual above 0")
    sample = _sample(view)
    total = np.mean([vector / _spread(sample @ vector) for vector in pictures], axis=0)
    words = asked.vectors.get("visual", part.query_mean)
    strength = math.hypot(asked.strength.get("visual", 0.0), 1.0)
    return replace(
        asked,
        vectors={**asked.vectors, "visual": np.asarray(words + total, np.float32)},
        strength={**asked.strength, "visual": strength},
    )


def _sample(view: View) -> FloatArray:
    """Return the centred pictures (n, dim) of clips from all over the library."""
    part, snapshot = view.spec.parts["visual"], view.snapshot
    last = view.watermark or max(snapshot.clip_ids(), default=0)
    ids = np.unique(np.linspace(min(1, last), last, SAMPLE_CLIPS).astype(np.int64)).tolist()
    rows = [batch["visual"] for _, batch in snapshot.batches(ids, {"visual": part.dim})]
    stacked = np.concatenate(rows)
    return part.centre(stacked[np.any(stacked, axis=1)])


def _spread(similarities: FloatArray) -> float:
    squares = float(np.sum(np.square(similarities, dtype=np.float64)))
    return math.sqrt((squares + PRIOR_CLIPS) / (len(similarities) + PRIOR_CLIPS))
