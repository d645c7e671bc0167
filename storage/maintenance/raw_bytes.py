"""Search of all files of a folder for given bytes, as someone with access to the disk could do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vfindex.storage.files.regular import regular

# Bytes of a file that are searched at a time.
_TOGETHER = 1 << 24


def files_with(folder: Path, needles: Sequence[bytes], *, passed_over: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Return (number of files, names of those that contain a needle or cannot be read, in order).

    passed_over: base names of files to skip.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in passed_over)
    found = []
    for path in paths:
        name = str(path.relative_to(folder))
        try:
            found += [name] if _holds(path, needles) else []
        except OSError as exc:
            found.append(f"{name} (cannot be read: {exc.strerror})")
    return len(paths), found


def _holds(path: Path, needles: Sequence[bytes]) -> bool:
    longest, before = max(map(len, needles), default=1), b""
    with open(path, "rb", opener=regular) as file:
        # A mapped file that SQLite cuts off meanwhile, as its log, would end the process.
        while part := file.read(_TOGETHER):
            data = before + part
            if any(needle in data for needle in needles):
                return True
            before = data[max(0, len(data) - longest + 1) :]
    return False
