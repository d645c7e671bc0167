"""Tags and chapters from the sidecar that yt-dlp writes: `talk.info.json` for `talk.mp4`."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vfindex.indexer.boundary import lacks_resources
from vfindex.indexer.scan.sidecars import INFO_SUFFIX, mark_text, sidecar_suffix
from vfindex.storage.errors import Problem
from vfindex.storage.files.regular import regular_no_link
from vfindex.storage.records import Chapter

# A film's file has 1 MB, far more with all comments. The worst JSON of 5 MB, all empty lists, takes 110 MB of memory.
MAX_INFO_BYTES = 5_000_000
MAX_FIELD_CHARS = 10_000  # as much as full text search keeps of a tag
MAX_ITEMS = 1_000
MAX_CHAPTER_CHARS = 200  # as much as of a chapter inside a file
_MOST_S = 1e9  # a time that no video reaches: 30 years
_DAY = re.compile(r"[12][0-9]{7}")


@dataclass(frozen=True, slots=True)
class Info:
    """tags: those present of title, description, keywords and upload_date. problem: why it could not be read.

    chapters: their times are those of players, 0 s at the start of the container. chapters_left: how many are left out.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    chapters: tuple[Chapter, ...] = ()
    chapters_left: int = 0
    problem: Problem | None = None


def read_info(video_path: bytes, sidecars: Iterable[bytes] = (), end_s: float = math.inf) -> Info:
    """Return the contents of a video's `.info.json`, untrusted and bounded. Never raises because of its contents.

    sidecars: paths relative to the video's folder, one may be the `.info.json`, its name in another Unicode form.
    end_s: of the video; later chapters are dropped.
    """
    folder, name = os.path.split(video_path)
    own = (sidecar for sidecar in sidecars if sidecar_suffix(sidecar) == INFO_SUFFIX and mark_text(name, sidecar) == "")
    path = os.path.join(folder, next(own, os.path.splitext(name)[0] + INFO_SUFFIX))
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            data = file.read(MAX_INFO_BYTES + 1)
    except FileNotFoundError:
        return Info()
    except OSError as exc:
        if exc.errno == errno.ENAMETOOLONG:
            return Info()  # no file can have the name of a video of 250 bytes and this suffix
        if lacks_resources(exc):
            raise
        return _unreadable(path, exc.strerror or type(exc).__name__)
    if len(data) > MAX_INFO_BYTES:
        return _unreadable(path, f"it is larger than {MAX_INFO_BYTES // 1_000_000} MB")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _unreadable(path, "it is no JSON that can be read")
    if not isinstance(document, dict):
        return _unreadable(path, "it describes no video")
    chapters = document.get("chapters")
    left = max(0, len(chapters) - MAX_ITEMS) if isinstance(chapters, list) else 0
    return Info(_tags(document), tuple(_chapters(chapters, end_s)), left)


def _chapters(value: object, end_s: float) -> Iterator[Chapter]:
    """Yield the chapters with a title that begin before the end of the video, or without a readable time.

    One without an end, or without length, lasts until the next one begins.
    """
    items = value[:MAX_ITEMS] if isinstance(value, list) else []
    items = [item for item in items if isinstance(item, dict)]
    starts = [_time(item.get("start_time")) for item in items]
    for n, (item, start_s) in enumerate(zip(items, starts, strict=True)):
        title = _text(item.get("title"))[:MAX_CHAPTER_CHARS]
        if not title or (start_s is not None and start_s >= end_s):
            continue
        later = min((other for other in starts[n + 1 :] if other is not None), default=end_s)
        stop_s = _time(item.get("end_time"))
        stop_s = min(later if stop_s is None or stop_s == start_s else stop_s, end_s)
        yield Chapter(title) if start_s is None or not start_s < stop_s < math.inf else Chapter(title, start_s, stop_s)


def _time(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < _MOST_S else None  # type: ignore[operator,arg-type]


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    tags = {name: _text(document.get(name)) for name in ("title", "description")}
    keywords = document.get("tags")
    tags["keywords"] = ", ".join(_texts([keywords] if isinstance(keywords, str) else keywords))[:MAX_FIELD_CHARS]
    day = _text(document.get("upload_date"))
    tags["upload_date"] = day if _DAY.fullmatch(day) else ""
    return {name: text for name, text in tags.items() if text}


def _texts(value: object) -> list[str]:
    """Return the texts of a list."""
    texts = [_text(item) for item in (value[:MAX_ITEMS] if isinstance(value, list) else [])]
    return [text for text in texts if text]


def _text(value: object) -> str:
    """Return a text, bounded and fit for a database; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return value[:MAX_FIELD_CHARS].encode("utf-8", "replace").decode().replace("\0", " ").strip()


def _unreadable(path: bytes, why: str) -> Info:
    reason = f"its description was not used: {why}"
    return Info(problem=Problem(path, "probe", "info_json", reason, "remove it, or write it again"))
