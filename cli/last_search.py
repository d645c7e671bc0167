"""The hits that a user saw last, for `vfindex open`: one small file for each set of libraries, of this user alone."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.cli.members import page_of
from vfindex.cli.options import state_folder
from vfindex.storage.files.regular import regular_no_link

if TYPE_CHECKING:
    from vfindex.search.results import Hit

logger = logging.getLogger(__name__)

_FOLDER = "searches"
_MAX_BYTES = 4 << 20  # 1,000 hits take 0.3 MB


@dataclass(frozen=True, slots=True)
class SeenHit:
    """A hit as it was shown. video: its path, bytes that are not UTF-8 as lone surrogates.

    page: the address that plays one of a library on another machine, "" for a file here.
    """

    rank: int
    video: str
    start_s: float
    end_s: float
    page: str = ""


def keep(libraries: Sequence[Path | str], hits: Sequence[Hit]) -> None:
    """Keep the hits of a search in place of those before. Without a folder to write to, none are kept.

    libraries: folders, and addresses of servers.
    """
    path = _path(libraries)
    if path is None:
        return
    seen = [
        SeenHit(hit.rank, os.fsdecode(hit.video), hit.start_s, hit.end_s, page_of(hit) or "")
        for hit in hits
        if hit.video is not None
    ]
    document = json.dumps([asdict(each) for each in seen]).encode()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 600
        try:
            with open(handle, "wb") as file:
                file.write(document)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as exc:  # a home that is full, or not writable, is no reason for a search to fail
        logger.info("the hits are not kept for vfindex open: %s", exc)


def recall(libraries: Sequence[Path | str]) -> list[SeenHit] | None:
    """Return the hits that were kept, None if there are none that can be read."""
    path = _path(libraries)
    if path is None:
        return None
    try:
        with open(path, "rb", opener=regular_no_link) as file:
            stored = json.loads(file.read(_MAX_BYTES))
        return [
            SeenHit(int(e["rank"]), str(e["video"]), float(e["start_s"]), float(e["end_s"]), str(e.get("page", "")))
            for e in stored
        ]
    except (OSError, ValueError, TypeError, KeyError) as exc:
        logger.info("no hits to open: %s", exc)
        return None


def _path(libraries: Sequence[Path | str]) -> Path | None:
    folder = state_folder()
    named = [each if isinstance(each, str) else os.path.realpath(each) for each in libraries]
    names = b"\0".join(sorted(map(os.fsencode, named)))
    return None if folder is None else folder / _FOLDER / f"{hashlib.sha256(names).hexdigest()[:24]}.json"
