"""System folders and files: recycle bins, previews and snapshots of network disks."""

from __future__ import annotations

import re

# Copies and previews kept by recycle bins, network disks and sync tools, in lower case.
_SYSTEM_NAMES = {
    "recycle bin": b"$recycle.bin recycler recycled .trash .trashes #recycle @recycle .recycle trashbox",
    "preview folder": b"@eadir .@__thumb @__thumb .thumbnails .thumbs",
    "snapshot folder": b".snapshot .snapshots #snapshot @snapshot ~snapshot @recently-snapshot .zfs",
    "sync folder": b".stfolder .stversions .dropbox.cache .sync .syncthing .owncloudsync .tmp.drivedownload",
    "system folder": b"lost+found .spotlight-v100 .fseventsd .appledouble .appledb .appledesktop .temporaryitems "
    b".documentrevisions-v100 .pkinstallsandboxmanager @tmp @database @appstore #dev",
}
_SYSTEM_KINDS = {name: kind for kind, names in _SYSTEM_NAMES.items() for name in names.split()}
_SYSTEM_KINDS |= {b"system volume information": "system folder", b"network trash folder": "recycle bin"}
_TRASH_OF_A_USER = re.compile(rb"\.trash-\d+")  # freedesktop.org
APPLE_DOUBLE = "AppleDouble file"  # `._clip.mp4`: metadata that macOS writes on other file systems


def system_kind(name: bytes) -> str:
    """Return the kind of system folder or file with this name, "" for any other name."""
    lower = name.lower()
    if lower.startswith(b"._"):
        return APPLE_DOUBLE
    return _SYSTEM_KINDS.get(lower) or ("recycle bin" if _TRASH_OF_A_USER.fullmatch(lower) else "")
