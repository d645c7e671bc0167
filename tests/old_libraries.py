"""Libraries that earlier versions of vfindex made, in tests/data."""

from __future__ import annotations

import tarfile
from pathlib import Path

FIRST, BEFORE_TRACKS, BEFORE_FRAMES = "0.1.0", "before_tracks", "before_frames"
_DATA = Path(__file__).parent / "data"


def stored(version: str, folder: Path) -> Path:
    """Unpack a library that the code of `version` made: forest, harbour and street, the last not in the index."""
    with tarfile.open(_DATA / f"library-{version}.tar.xz") as archive:
        # Python 3.11.2, that of Debian 12, has no argument `filter`.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)
    return folder
