"""Videos by the names that people use: in any case, with or without folders and the suffix. No file is looked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from vfindex.storage.db.integrity import shown_paths
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryError, UsageError, counted
from vfindex.storage.text.folding import folded


def fingerprint_named(snapshots: Sequence[Snapshot], name: str) -> str:
    """Return the fingerprint of the video that has a fingerprint, a path, or the end of one, as `Trip/beach`.

    A name in the very letters of the path comes first, then one in another case or without accents, then one without
    the suffix. Raises UsageError if several videos fit, LibraryError if none does.
    """
    if any(each.video_with(name) is not None for each in snapshots):
        return name
    paths = [(number, path) for number, each in enumerate(snapshots) for path in each.paths()]
    wanted = folded(name).strip("/")
    ways: tuple[Callable[[bytes], bool], ...] = (
        lambda path: _is_end(name.strip("/"), os.fsdecode(path)),
        lambda path: _is_end(wanted, folded(os.fsdecode(path))),
        lambda path: _is_end(wanted, folded(os.path.splitext(os.fsdecode(path))[0])),
    )
    for fits in ways if wanted else ():
        found: dict[str, bytes] = {}
        for number, path in paths:
            if fits(path) and (video := snapshots[number].video_at(path)) is not None:
                found.setdefault(video.fingerprint, path)
        if len(found) > 1:
            listed = shown_paths(sorted(found.values()))
            raise UsageError(
                f"{name!r} fits {counted(len(found), 'video')}: {listed}; give more of the path, or the fingerprint"
            )
        if found:
            return next(iter(found))
    near = sorted(path for _, path in paths if wanted and wanted in folded(os.path.basename(os.fsdecode(path))))
    hint = f"similar names: {shown_paths(near)}" if near else "give its path, the end of it, or its fingerprint"
    raise LibraryError(f"no video is named {name!r}; {hint}")


def _is_end(name: str, path: str) -> bool:
    """Return whether a path ends in a name, at a folder."""
    return path.strip("/") == name or path.endswith(f"/{name}")
