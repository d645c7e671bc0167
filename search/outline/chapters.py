"""Chapters of a video: those that its file states, else those where its pictures, speech and text change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from vfindex.search.outline.records import LEAST_CHAPTER_S, ChapterInfo, ChapterList, Quotation
from vfindex.search.outline.segmentation import find_changes
from vfindex.search.outline.sentences import Sentence, centrality, key_terms, sentences_of
from vfindex.search.outline.timeline import Timeline, timeline_of
from vfindex.search.query.values import is_number
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import LibraryError, QueryError
from vfindex.storage.modalities import spoken_modalities

# Words of a title that is made of the words that tell a chapter from the others.
TITLE_WORDS = 3
# Sentences compared to find the most central one of a chapter.
_MOST_SENTENCES = 500
Progress = Callable[[int, int], None]


def chapters_of(
    snapshot: Snapshot,
    video: StoredVideo,
    *,
    least_s: float | None = None,
    detect: bool = False,
    progress: Progress | None = None,
) -> ChapterList:
    """Return the chapters of a video. least_s: the shortest to be found; None: 5 s. detect: even if the file has some.

    Raises QueryError for another `least_s` than a positive number, LibraryError for a video without clips.
    """
    least_s = LEAST_CHAPTER_S if least_s is None else least_s
    if not is_number(least_s) or not 0 < least_s < float("inf"):
        raise QueryError(f"the shortest chapter must be a number of seconds above 0, not {least_s!r}")
    timeline = timeline_of(snapshot, video)
    path = video.locations[0].path if video.locations else None
    start_s, end_s = timeline.span_of(video)
    whole = path, video.id, video.fingerprint, start_s, end_s
    stated = [] if detect else _stated(video, end_s)
    if stated:
        spans = [(first_s, last_s) for _, first_s, last_s in stated]
        return ChapterList(*whole, "file", None, None, _described(timeline, spans, [title for title, _, _ in stated]))
    if not len(timeline):
        raise LibraryError(f"{video.fingerprint} has no clips, so no chapters are found; index it with: vfindex retry")
    changes = find_changes(timeline, least_s, progress)
    if changes.better_than_chance is False:
        return ChapterList(*whole, "found", False, changes.p_value, ())
    edges_s = [start_s, *(float(timeline.edges_s[step]) for step in changes.steps), end_s]
    return ChapterList(
        *whole, "found", changes.better_than_chance, changes.p_value, _described(timeline, list(pairwise(edges_s)))
    )


def _stated(video: StoredVideo, whole_end_s: float) -> list[tuple[str, float, float]]:
    """Return (title, start_s, end_s) of the chapters that the file states with their times, in order.

    whole_end_s: of the video.
    """
    timed = sorted(
        (
            (each.start_s, each.end_s, each.title)
            for each in video.chapters
            if each.start_s is not None and each.start_s < whole_end_s
        ),
        key=lambda each: each[0],
    )
    following = [*(start_s for start_s, _, _ in timed[1:]), whole_end_s]
    return [
        (title, start_s, max(start_s, next_s if end_s is None else end_s))
        for (start_s, end_s, title), next_s in zip(timed, following[: len(timed)], strict=True)
    ]


def _described(
    timeline: Timeline, spans: Sequence[tuple[float, float]], titles: Sequence[str] | None = None
) -> tuple[ChapterInfo, ...]:
    """Return spans as chapters, with words and a sentence of each. titles: of the file."""
    texts = [sentences_of(timeline.text_between(*span)) for span in spans]
    words = key_terms([" ".join(each.text for each in sentences) for sentences in texts], TITLE_WORDS)
    return tuple(
        ChapterInfo(
            start_s=start_s,
            end_s=end_s,
            title=", ".join(words[n]) if titles is None else titles[n],
            words=tuple(words[n]),
            sentence=_central(texts[n], start_s),
        )
        for n, (start_s, end_s) in enumerate(spans)
    )


def quotation(sentence: Sentence) -> Quotation:
    """Return a sentence as a record."""
    return Quotation(sentence.start_s, sentence.end_s, sentence.text, sentence.track)


def _central(sentences: Sequence[Sentence], start_s: float) -> Quotation | None:
    """Return the most central sentence; of what is said, if anything is: text on the screen is mostly labels.

    One that began before `start_s` is quoted only where no other is.
    """
    spoken = [each for each in sentences if each.track in spoken_modalities()] or list(sentences)
    spoken = [each for each in spoken if each.start_s >= start_s] or spoken
    longest = sorted(spoken, key=lambda each: -len(each.text))[:_MOST_SENTENCES]
    if not longest:
        return None
    chosen = sorted(longest, key=lambda each: each.start_s)
    ranks, _ = centrality([each.text for each in chosen])
    return quotation(chosen[int(ranks.argmax())])
