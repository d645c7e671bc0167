"""Which videos a question's filters leave, found before anything is ranked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Filters
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.files.names import composed, glob_pattern
from vfindex.storage.records import Location
from vfindex.storage.text.full_text import kept

# Tags of containers that say when a video was made, the surest first: QuickTime's with the zone of the place, the UTC
# one of MP4 and Matroska, and the day of an upload that yt-dlp writes into what it saves.
_DATE_TAGS = ("com.apple.quicktime.creationdate", "creation_time", "date_utc", "date", "upload_date")
_DAY_NS = 86_400 * 10**9
# Cameras whose clock was never set count from 1904, 1970 or 1980.
_FIRST_YEAR = 1981
_DAY = re.compile(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})(?!\d)")


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """What filters look at, of all videos that a search may return: one row a video, each with its paths.

    ids, lasts_s: (n,). paths: of all copies as composed text, each behind a NUL. path_starts, path_rows: (n_paths,)
    where they begin, and the row of the video. tags: as stored, one a video. mtimes_ns: (n,), of the oldest copy; -1
    where a video lies nowhere.
    """

    ids: NDArray[np.int64]
    lasts_s: NDArray[np.float64]
    paths: str
    path_starts: NDArray[np.int64]
    path_rows: NDArray[np.int64]
    tags: Sequence[str]
    mtimes_ns: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Shelf:
        """Return the shelf of a library: 0.1 s at 50,000 videos, so that it is kept until somebody commits."""
        videos, places = snapshot.shelf()
        rows = {video[0]: row for row, video in enumerate(videos)}
        mtimes_ns = np.full(len(videos), -1, np.int64)
        texts, path_rows = [], []
        for video_id, path, mtime_ns in places:
            row = rows[video_id]
            texts.append(composed(path.decode("utf-8", "surrogateescape")))
            path_rows.append(row)
            if mtimes_ns[row] < 0 or mtime_ns < mtimes_ns[row]:
                mtimes_ns[row] = mtime_ns
        return cls(
            ids=np.fromiter(rows, np.int64, len(videos)),
            lasts_s=np.array([video[1] for video in videos]),
            paths="\0".join(["", *texts]),
            path_starts=1 + np.cumsum([0, *(len(text) + 1 for text in texts[:-1])], dtype=np.int64)[: len(texts)],
            path_rows=np.array(path_rows, np.int64),
            tags=[video[2] for video in videos],
            mtimes_ns=mtimes_ns,
        )

    def inside(self, glob: str) -> NDArray[np.bool_]:
        """Return (n,) which videos have a copy whose path matches a glob."""
        found = np.zeros(len(self.ids), np.bool_)
        pattern, starts = _glob(glob), self._with(_literal(glob))
        stops = np.append(self.path_starts[1:] - 1, len(self.paths))[starts].tolist()
        for number, start, stop in zip(starts.tolist(), self.path_starts[starts].tolist(), stops, strict=True):
            if pattern.match(self.paths[start:stop]):
                found[self.path_rows[number]] = True
        return found

    def _with(self, literal: str) -> NDArray[np.int64]:
        """Return the numbers of the paths that hold a piece of text: one search through all of them."""
        if not literal:
            return np.arange(len(self.path_starts))
        places, place = [], self.paths.find(literal)
        while place >= 0:
            places.append(place)
            place = self.paths.find(literal, place + 1)
        return np.unique(np.searchsorted(self.path_starts, np.array(places, np.int64), side="right") - 1)

    def made_on(self) -> NDArray[np.int64]:
        """Return (n,) the day of each video as `recorded_on` has it, in days since year 1; 0 where nothing says."""
        untold = np.where(self.mtimes_ns < 0, 0, self.mtimes_ns // _DAY_NS + date(1970, 1, 1).toordinal())
        told = {text: recorded_on(json.loads(text), []) for text in set(self.tags)}
        days = [day.toordinal() if (day := told[text]) is not None else 0 for text in self.tags]
        return np.where(np.array(days, np.int64) > 0, days, untold)


def filtered(snapshot: Snapshot, filters: Filters) -> frozenset[int] | None:
    """Return the ids of the videos that pass, or None where nothing is filtered."""
    if not filters:
        return None
    known: dict[Filters, frozenset[int]] = snapshot.remembered("filtered", dict)
    return kept(known, filters, lambda: _passing(snapshot, filters))


def unmatched_globs(snapshot: Snapshot, filters: Filters) -> list[str]:
    """Return the globs of `in:` that match no path of a searchable video."""
    return [glob for glob in filters.inside if not _inside(snapshot, glob)]


def _inside(snapshot: Snapshot, glob: str) -> frozenset[int]:
    """Return the videos with a path that matches a glob; those of the last globs are remembered."""
    known: dict[str, frozenset[int]] = snapshot.remembered("globs", dict)
    shelf = _shelf(snapshot)
    return kept(known, glob, lambda: frozenset(shelf.ids[shelf.inside(glob)].tolist()))


def _shelf(snapshot: Snapshot) -> Shelf:
    return snapshot.remembered("shelf", lambda: Shelf.of(snapshot))


def _passing(snapshot: Snapshot, filters: Filters) -> frozenset[int]:
    shelf = _shelf(snapshot)
    passing = np.ones(len(shelf.ids), np.bool_)
    if filters.longer_s is not None:
        passing &= shelf.lasts_s > filters.longer_s
    if filters.shorter_s is not None:
        passing &= shelf.lasts_s < filters.shorter_s
    if filters.since is not None or filters.until is not None:
        days = snapshot.remembered("days", shelf.made_on)
        first = filters.since.toordinal() if filters.since is not None else 1
        passing &= (days >= first) & (days < (filters.until.toordinal() if filters.until is not None else np.inf))
    found = frozenset(shelf.ids[passing].tolist())
    if filters.inside:
        found &= frozenset().union(*(_inside(snapshot, glob) for glob in filters.inside))
    return found & _spoken(snapshot, filters.languages) if filters.languages else found


def _spoken(snapshot: Snapshot, languages: Sequence[str]) -> frozenset[int]:
    """Return the videos with a transcript in any of the languages: `en` is also `en-US`, never `eng`."""
    known: dict[str, frozenset[int]] = snapshot.remembered("languages", snapshot.videos_by_language)
    asked = [videos for name, videos in known.items() if any(f"{name}-".startswith(f"{each}-") for each in languages)]
    return frozenset().union(*asked)


def recorded_on(tags: Mapping[str, str], locations: Sequence[Location]) -> date | None:
    """Return the day, in UTC, of which a video is: by its tags, else by the oldest of its copies' modification times.

    None where nothing says. Tags of before 1981 are clocks that were never set.
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
    """Return what a path must match: `*` also crosses `/`; a glob that does not begin with one may start in any folder.

    A folder's name alone stands for all that is in it.
    """
    glob = glob.rstrip("/")
    anywhere = "" if glob.startswith(("/", "*")) else "(?:.*/)?"
    return re.compile(f"{anywhere}{glob_pattern(glob)}(?:/.*)?\\Z", re.DOTALL)


def _literal(glob: str) -> str:
    """Return the longest piece that stands in every path which the glob matches: looked for 20 times as fast."""
    return max(re.split(r"[*?]", composed(glob).rstrip("/").split("[")[0]), key=len)
