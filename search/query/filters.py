"""Filters: the videos that a query may return, chosen before ranking."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Filters
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.units import searchable_prints
from vfindex.storage.files.names import composed, glob_pattern
from vfindex.storage.labels import clips_labelled, label_names, videos_labelled
from vfindex.storage.records import Location
from vfindex.storage.text.document_lists import kept
from vfindex.storage.text.tokenizer import plain_words

# Container tags with the day of a video, the most reliable first: QuickTime's with a time zone, MP4's and Matroska's in
# UTC, and the day of upload that yt-dlp writes.
_DATE_TAGS = ("com.apple.quicktime.creationdate", "creation_time", "date_utc", "date", "upload_date")
_DAY_NS = 86_400 * 10**9
# Camera clocks that were never set start in 1904, 1970 or 1980.
_FIRST_YEAR = 1981
# Names that a hint suggests; and the speakers of a library that are compared for it, 0.1 s of them.
_NEAR, _COMPARED = 3, 5000
_DAY = re.compile(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})(?!\d)")


@dataclass(frozen=True, slots=True, eq=False)
class VideoTable:
    """Columns for filters, one row per searchable video.

    ids, durations_s: (n,). paths: of all copies in Unicode's composed form, each after a NUL. path_starts, path_rows:
    (n_paths,) offset of each path, and the row of its video. tags: JSON as stored, one per video. mtimes_ns: (n,), of
    the oldest copy; -1 for a video without files.
    """

    ids: NDArray[np.int64]
    durations_s: NDArray[np.float64]
    paths: str
    path_starts: NDArray[np.int64]
    path_rows: NDArray[np.int64]
    tags: Sequence[str]
    mtimes_ns: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot) -> VideoTable:
        """Return the table of a library; it takes 0.1 s at 50,000 videos and is cached until the next commit."""
        videos, locations = snapshot.searchable_videos()
        rows = {video[0]: row for row, video in enumerate(videos)}
        mtimes_ns = np.full(len(videos), -1, np.int64)
        texts, path_rows = [], []
        for video_id, path, mtime_ns in locations:
            row = rows[video_id]
            texts.append(composed(path.decode("utf-8", "surrogateescape")))
            path_rows.append(row)
            if mtimes_ns[row] < 0 or mtime_ns < mtimes_ns[row]:
                mtimes_ns[row] = mtime_ns
        return cls(
            ids=np.fromiter(rows, np.int64, len(videos)),
            durations_s=np.array([video[1] for video in videos]),
            paths="\0".join(["", *texts]),
            path_starts=1 + np.cumsum([0, *(len(text) + 1 for text in texts[:-1])], dtype=np.int64)[: len(texts)],
            path_rows=np.array(path_rows, np.int64),
            tags=[video[2] for video in videos],
            mtimes_ns=mtimes_ns,
        )

    def inside(self, glob: str) -> NDArray[np.bool_]:
        """Return (n,) whether a video has a copy whose path matches a glob."""
        matching = np.zeros(len(self.ids), np.bool_)
        pattern, starts = _glob(glob), self._containing(_literal(glob))
        stops = np.append(self.path_starts[1:] - 1, len(self.paths))[starts].tolist()
        for number, start, stop in zip(starts.tolist(), self.path_starts[starts].tolist(), stops, strict=True):
            if pattern.match(self.paths[start:stop]):
                matching[self.path_rows[number]] = True
        return matching

    def _containing(self, literal: str) -> NDArray[np.int64]:
        """Return the numbers of the paths that contain a text: one search through all of them."""
        if not literal:
            return np.arange(len(self.path_starts))
        offsets, offset = [], self.paths.find(literal)
        while offset >= 0:
            offsets.append(offset)
            offset = self.paths.find(literal, offset + 1)
        return np.unique(np.searchsorted(self.path_starts, np.array(offsets, np.int64), side="right") - 1)

    def made_on(self) -> NDArray[np.int64]:
        """Return (n,) the day of each video, as `recorded_on`, in days since year 1; 0 if unknown."""
        from_mtimes = np.where(self.mtimes_ns < 0, 0, self.mtimes_ns // _DAY_NS + date(1970, 1, 1).toordinal())
        from_tags = {text: recorded_on(json.loads(text), []) for text in set(self.tags)}
        days = [day.toordinal() if (day := from_tags[text]) is not None else 0 for text in self.tags]
        return np.where(np.array(days, np.int64) > 0, days, from_mtimes)


def filtered(snapshot: Snapshot, filters: Filters) -> frozenset[int] | None:
    """Return the ids of the videos that pass; None without filters."""
    if not filters:
        return None
    cached: dict[Filters, frozenset[int]] = snapshot.remembered("filtered", dict)
    return kept(cached, filters, lambda: _passing(snapshot, filters))


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A value of a filter that no searchable video has. near: what the library has instead, the most alike first."""

    filter: Literal["in", "lang", "speaker", "label"]
    value: str
    near: tuple[str, ...] = ()


def path_passes(filters: Filters, path: bytes) -> bool:
    """Return whether a path matches one of the globs of `in:`; any does where there are none."""
    text = composed(path.decode("utf-8", "surrogateescape"))
    return not filters.inside or any(_glob(glob).match(text) for glob in filters.inside)


def unmatched(snapshot: Snapshot, filters: Filters) -> list[Unmatched]:
    """Return the values of `in:`, `lang:`, `speaker:` and `label:` that match nothing."""
    found = [Unmatched("in", glob) for glob in filters.inside if not _inside(snapshot, glob)]
    for language in filters.languages:
        if not _spoken(snapshot, [language]):
            found.append(Unmatched("lang", language, tuple(sorted(filter(None, _languages(snapshot))))))
    for name in filters.speakers:
        if not _named(snapshot, [name]):
            found.append(Unmatched("speaker", name, _alike(name, _speakers(snapshot))))
    for name in filters.labels:
        if not _labels(snapshot, [name]):
            found.append(Unmatched("label", name, _near(name, list(label_names(snapshot).values()))))
    return found


def unmatched_in_all(libraries: Sequence[Sequence[Unmatched]]) -> list[Unmatched]:
    """Return the values that match nothing in any of several libraries, with what all of them have instead."""
    first, *others = ({(each.filter, each.value): each for each in found} for found in libraries)
    return [
        replace(each, near=tuple(dict.fromkeys([*each.near, *(name for other in others for name in other[key].near)])))
        for key, each in first.items()
        if all(key in other for other in others)
    ]


def _alike(name: str, speakers: Mapping[str, frozenset[int]]) -> tuple[str, ...]:
    """Return the speakers with a name, or a word of it, that is spelt like `name`."""
    return _near(name, [one for joined in speakers for one in joined.splitlines()])


def _near(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return the known names that, or a word of which, is spelt like `name`."""
    spelt: dict[str, dict[str, None]] = {}
    for one in known[:_COMPARED]:
        words = plain_words(one)
        for spelling in dict.fromkeys([" ".join(words), *words]):
            spelt.setdefault(spelling, {})[one] = None
    near = get_close_matches(" ".join(plain_words(name)), spelt, n=_NEAR)
    return tuple(dict.fromkeys(one for spelling in near for one in spelt[spelling]))[:_NEAR]


def _inside(snapshot: Snapshot, glob: str) -> frozenset[int]:
    """Return the videos with a path that matches a glob, cached until the next commit."""
    cached: dict[str, frozenset[int]] = snapshot.remembered("globs", dict)
    table = _table(snapshot)
    return kept(cached, glob, lambda: frozenset(table.ids[table.inside(glob)].tolist()))


def _table(snapshot: Snapshot) -> VideoTable:
    return snapshot.remembered("video table", lambda: VideoTable.of(snapshot))


def _passing(snapshot: Snapshot, filters: Filters) -> frozenset[int]:
    table = _table(snapshot)
    passing = np.ones(len(table.ids), np.bool_)
    if filters.longer_s is not None:
        passing &= table.durations_s > filters.longer_s
    if filters.shorter_s is not None:
        passing &= table.durations_s < filters.shorter_s
    if filters.since is not None or filters.until is not None:
        days = snapshot.remembered("days", table.made_on)
        first = filters.since.toordinal() if filters.since is not None else 1
        passing &= (days >= first) & (days < (filters.until.toordinal() if filters.until is not None else np.inf))
    videos = frozenset(table.ids[passing].tolist())
    if filters.inside:
        videos &= frozenset().union(*(_inside(snapshot, glob) for glob in filters.inside))
    if filters.languages:
        videos &= _spoken(snapshot, filters.languages)
    if filters.prints:
        known = searchable_prints(snapshot)
        videos &= {known[each] for each in filters.prints if each in known}
    if filters.labels:
        videos &= videos_labelled(snapshot, _labels(snapshot, filters.labels))
    return videos & _with_speakers(snapshot, filters.speakers) if filters.speakers else videos


def clips_passing(snapshot: Snapshot, filters: Filters) -> NDArray[np.int64] | None:
    """Return the clips that have a label of the filters, and in which a speaker of them speaks, increasing.

    None without such filters.
    """
    spoken = _clips_of_speakers(snapshot, filters) if filters.speakers else None
    if not filters.labels:
        return spoken
    cached: dict[tuple[str, ...], NDArray[np.int64]] = snapshot.remembered("clips of labels", dict)
    names = _labels(snapshot, filters.labels)
    labelled = kept(cached, filters.labels, lambda: clips_labelled(snapshot, names))
    return labelled if spoken is None else np.intersect1d(labelled, spoken, assume_unique=True)


def _labels(snapshot: Snapshot, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the labels (set, name) of the library with one of the names; case, accents and punctuation do not count.

    `genres/cooking` is `cooking` of the set `genres` alone.
    """
    wanted = {tuple(plain_words(name)) for name in names}
    of_sets = {tuple(plain_words(name)) for name in names if "/" in name}
    return [
        (classes, name)
        for classes, name in label_names(snapshot)
        if tuple(plain_words(name)) in wanted or tuple(plain_words(f"{classes}/{name}")) in of_sets
    ]


def _clips_of_speakers(snapshot: Snapshot, filters: Filters) -> NDArray[np.int64]:
    cached: dict[tuple[str, ...], NDArray[np.int64]] = snapshot.remembered("clips of speakers", dict)
    named = _named(snapshot, filters.speakers)
    return kept(cached, filters.speakers, lambda: snapshot.clips_by_speakers(named))


def _with_speakers(snapshot: Snapshot, names: Sequence[str]) -> frozenset[int]:
    return frozenset().union(*_named(snapshot, names).values())


def _named(snapshot: Snapshot, names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Return the speakers of segments that have one of the names -> their videos. `jane` is part of `Jane Doe`.

    Whole words are compared, as in a phrase. Names are few; they are read once a commit.
    """
    stored = _speakers(snapshot)
    spelt = snapshot.remembered("spelling of speakers", lambda: {speakers: _spelling(speakers) for speakers in stored})
    wanted = [f" {' '.join(plain_words(name))} " for name in names]
    return {speakers: stored[speakers] for speakers, words in spelt.items() if any(name in words for name in wanted)}


def _spelling(speakers: str) -> str:
    """Return the words of each name, a space around each, and a line for each name."""
    return "\n".join(f" {' '.join(plain_words(one))} " for one in speakers.splitlines())


def _speakers(snapshot: Snapshot) -> Mapping[str, frozenset[int]]:
    """Return the speakers of segments, one a line -> their videos."""
    return snapshot.remembered("speakers", snapshot.videos_by_speakers)


def _languages(snapshot: Snapshot) -> Mapping[str, frozenset[int]]:
    return snapshot.remembered("languages", snapshot.videos_by_language)


def _spoken(snapshot: Snapshot, languages: Sequence[str]) -> frozenset[int]:
    """Return the videos with a transcript in any of the languages: `en` includes `en-US`, not `eng`."""
    prefixes = tuple(f"{language}-" for language in languages)
    return frozenset().union(
        *(videos for name, videos in _languages(snapshot).items() if f"{name}-".startswith(prefixes))
    )


def recorded_on(tags: Mapping[str, str], locations: Sequence[Location]) -> date | None:
    """Return the day of a video, in UTC: of its tags, else of its oldest copy's mtime; None if unknown.

    Tags from before 1981 are ignored: clocks that were never set.
    """
    named = {name.lower(): value for name, value in tags.items()}
    for name in _DATE_TAGS:
        day = _day(named.get(name, ""))
        if day is not None and day.year >= _FIRST_YEAR:
            return day
    times = [place.mtime_ns for place in locations]
    return datetime.fromtimestamp(min(times) / 1e9, UTC).date() if times else None


def _day(text: str) -> date | None:
    try:
        made = datetime.fromisoformat(text.strip())
        return (made.astimezone(UTC) if made.tzinfo else made).date()
    except (ValueError, OverflowError):
        match = _DAY.match(text.strip())
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _glob(glob: str) -> re.Pattern[str]:
    """Return the pattern of a glob. `*` matches `/` as well; a glob without a leading `/` or `*` starts in any folder.

    A folder matches everything in it.
    """
    glob = glob.rstrip("/")
    anywhere = "" if glob.startswith(("/", "*")) else "(?:.*/)?"
    return re.compile(f"{anywhere}{glob_pattern(glob)}(?:/.*)?\\Z", re.DOTALL)


def _literal(glob: str) -> str:
    """Return the longest text that all matching paths contain: searching for it first is 20 times as fast."""
    return max(re.split(r"[*?]", composed(glob).rstrip("/").split("[")[0]), key=len)
