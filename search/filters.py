"""Which videos a question's filters leave, found before anything is ranked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from fnmatch import translate

from vfindex.search.query import Filters
from vfindex.storage.records import Location
from vfindex.storage.snapshot import Snapshot

# Tags of containers that say when a video was made, the surest first: QuickTime's with the zone of the place, the UTC
# one of MP4 and Matroska, and the day of an upload that yt-dlp writes into what it saves.
_DATE_TAGS = ("com.apple.quicktime.creationdate", "creation_time", "date_utc", "date", "upload_date")
# Cameras whose clock was never set count from 1904, 1970 or 1980.
_FIRST_YEAR = 1981
_DAY = re.compile(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})(?!\d)")


def filtered(snapshot: Snapshot, filters: Filters) -> set[int] | None:
    """Return the ids of the videos that pass, or None where nothing is filtered."""
    if not filters:
        return None
    globs = [_glob(glob) for glob in filters.inside]
    spoken = snapshot.videos_in(filters.languages) if filters.languages else None
    return {
        video.id
        for video in snapshot.videos()
        if (spoken is None or video.id in spoken)
        and _lasts(video.end_s - video.start_s, filters)
        and (not globs or any(glob.match(_text(place)) for glob in globs for place in video.locations))
        and _made_between(recorded_on(video.tags, video.locations), filters)
    }


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


def _made_between(made: date | None, filters: Filters) -> bool:
    if filters.since is None and filters.until is None:
        return True
    if made is None:
        return False
    return (filters.since is None or made >= filters.since) and (filters.until is None or made < filters.until)


def _lasts(duration_s: float, filters: Filters) -> bool:
    longer = filters.longer_s is None or duration_s > filters.longer_s
    return longer and (filters.shorter_s is None or duration_s < filters.shorter_s)


def _glob(glob: str) -> re.Pattern[str]:
    """Return what a path must match: `*` also crosses `/`; a glob that does not begin with one may start in any folder.

    A folder's name alone stands for all that is in it.
    """
    glob = glob.rstrip("/")
    anywhere = "" if glob.startswith(("/", "*")) else "(?:.*/)?"
    return re.compile(f"{anywhere}{translate(glob)[:-2]}(?:/.*)?\\Z", re.DOTALL)


def _text(place: Location) -> str:
    return place.path.decode("utf-8", "surrogateescape")
