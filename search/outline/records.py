"""The records of chapters and digests, with what is asked of them by default. Imports no NumPy: helps read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vfindex.search.results import Record

if TYPE_CHECKING:
    from pathlib import Path

    from vfindex.storage.modalities import ModalityName
    from vfindex.storage.records import ClipKey

# Chapters are compared within 5 s (Yang et al. 2023, VidChapters-7M, arXiv 2309.13952): nearer starts count as one.
LEAST_CHAPTER_S = 5.0
# A summary that is read or watched in half a minute.
DIGEST_LENGTH_S, DIGEST_WORDS = 30.0, 100
# file: the chapters of the container or of its sidecar. found: changes of what is shown, said and written.
Origin = Literal["file", "found"]


@dataclass(frozen=True, slots=True)
class Quotation(Record):
    """A sentence as it is said or stands on the picture. track: its modality."""

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    start_s: float
    end_s: float
    text: str
    track: ModalityName


@dataclass(frozen=True, slots=True)
class ChapterInfo(Record):
    """[start_s, end_s) of a video. title: the file's, else made of `words`, "" where nothing is said or written.

    words: those that tell what is said and written in it from the other chapters, the best first. sentence: the most
    central one in it, None without text.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    start_s: float
    end_s: float
    title: str
    words: tuple[str, ...]
    sentence: Quotation | None


@dataclass(frozen=True, slots=True)
class ChapterList(Record):
    """The chapters of a video, in order of time, without gaps where they were found.

    better_than_chance: whether the order of its clips has parts; if not, there are no chapters. p_value: share of
    random orders of the clips in which the best parts explain as much. Both are None for chapters of the file, and
    for a video of too few clips to tell.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s"})

    video: bytes | None
    video_id: int
    fingerprint: str
    start_s: float
    end_s: float
    origin: Origin
    better_than_chance: bool | None
    p_value: float | None
    chapters: tuple[ChapterInfo, ...]


@dataclass(frozen=True, slots=True)
class Moment(Record):
    """An excerpt of a video. frame_s: its key frame. share: part of the video that it stands for, 0 to 1.

    clip: the clip that it lies in. thumbnail: WebP, of that clip.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"start_s", "end_s", "frame_s", "share"})

    start_s: float
    end_s: float
    frame_s: float
    share: float
    clip: ClipKey
    thumbnail: Path | None


@dataclass(frozen=True, slots=True)
class Verdict(Record):
    """Whether a choice stands for the whole better than random ones of its size.

    p_value: share of random choices, the given one among them, that stand for it as well, by what the choice did not
    see. Both are None where there was nothing to choose from.
    """

    better_than_chance: bool | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Digest(Record):
    """A summary of a video: excerpts and sentences, both in order of time. There are none that are not above chance.

    length_s: of the excerpts together. words: of the sentences together. pictures, text: how the choices of moments and
    of sentences compare with random ones.
    """

    rounded: ClassVar[frozenset[str]] = frozenset({"duration_s", "length_s"})

    video: bytes | None
    video_id: int
    fingerprint: str
    title: str
    duration_s: float
    length_s: float
    words: int
    pictures: Verdict
    text: Verdict
    moments: tuple[Moment, ...]
    sentences: tuple[Quotation, ...]
