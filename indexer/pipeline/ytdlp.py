"""Tags and chapters from the sidecar that yt-dlp writes: `talk.info.json` for `talk.mp4`."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vfindex.indexer.boundary import lacks_resources
from vfindex.indexer.scan.sidecars import INFO_SUFFIX, mark_text, sidecar_suffix
from vfindex.storage.errors import Problem
from vfindex.storage.files.regular import regular_no_link

# A film's file has 1 MB, far more with all comments. The worst JSON of 5 MB, all empty lists, takes 110 MB of memory.
MAX_INFO_BYTES = 5_000_000
MAX_FIELD_CHARS = 10_000  # as much as full text search keeps of a tag
MAX_ITEMS = 1_000
MAX_CHAPTER_CHARS = 200  # as much as of a chapter inside a file
_DAY = re.compile(r"[12][0-9]{7}")


@dataclass(frozen=True, slots=True)
class Info:
    """tags: those present of title, description, keywords and upload_date. problem: why it could not be read."""

    tags: Mapping[str, str] = field(default_factory=dict)
    chapters: tuple[str, ...] = ()
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
    chapters = [text[:MAX_CHAPTER_CHARS] for text in _texts(_begun_before(document.get("chapters"), end_s), "title")]
    return Info(_tags(document), tuple(chapters))


def _begun_before(chapters: object, end_s: float) -> list[Any]:
    """Return the chapters that begin before the end of the video, or without a readable time."""
    items = chapters[:MAX_ITEMS] if isinstance(chapters, list) else []
    starts = [item.get("start_time") if isinstance(item, dict) else None for item in items]
    is_late = [isinstance(start, (int, float)) and start >= end_s for start in starts]
    return [item for item, late in zip(items, is_late, strict=True) if not late]


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    tags = {name: _text(document.get(name)) for name in ("title", "description")}
    keywords = document.get("tags")
    tags["keywords"] = ", ".join(_texts([keywords] if isinstance(keywords, str) else keywords))[:MAX_FIELD_CHARS]
    day = _text(document.get("upload_date"))
    tags["upload_date"] = day if _DAY.fullmatch(day) else ""
    return {name: text for name, text in tags.items() if text}


def _texts(value: object, key: str | None = None) -> list[str]:
    """Return the texts of a list, or the values of `key` in each of its items."""
    items = value[:MAX_ITEMS] if isinstance(value, list) else []
    texts = [_text(item.get(key) if key and isinstance(item, dict) else item) for item in items]
    return [text for text in texts if text]


def _text(value: object) -> str:
    """Return a text, bounded and fit for a database; "" for anything else."""
    if not isinstance(value, str):
        return ""
    return value[:MAX_FIELD_CHARS].encode("utf-8", "replace").decode().replace("\0", " ").strip()


def _unreadable(path: bytes, why: str) -> Info:
    reason = f"its description was not used: {why}"
    return Info(problem=Problem(path, "probe", "info_json", reason, "remove it, or write it again"))
