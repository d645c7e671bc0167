"""The records of chapters, with what is asked of them by default. Imports no NumPy: helps read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vfindex.search.results import Record

if TYPE_CHECKING:
    from vfindex.storage.modalities import ModalityName

# Chapters are compared within 5 s (Yang et al. 2023, VidChapters-7M, arXiv 2309.13952): nearer starts count as one.
LEAST_CHAPTER_S = 5.0
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
