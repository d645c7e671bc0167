"""File systems on which SQLite's write-ahead log is unsafe: it needs shared memory (sqlite.org/wal.html).

If another machine, or the host of a virtual machine or container, can change the files too, both sides share no memory
and often no locks.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

from vfindex.storage.errors import LibraryError

# Types as named by the kernel, without the prefix `fuse.`.
_NETWORK = {"nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "smbnetfs", "afs", "kafs", "openafs", "auristorfs"}
_NETWORK |= {"coda", "ncp", "ncpfs", "afpfs", "webdav", "davfs", "davfs2", "sshfs", "curlftpfs", "ftpfs"}
_NETWORK |= {"gvfs", "gvfsd-fuse", "kio-fuse"}
_CLUSTER = {"ceph", "glusterfs", "lustre", "beegfs", "fhgfs", "gpfs", "panfs", "pvfs2", "orangefs", "ocfs2", "gfs"}
_CLUSTER |= {"gfs2", "acfs", "juicefs", "wekafs", "moosefs", "mfs", "lizardfs", "quobyte", "seaweedfs", "hdfs", "vmfs"}
_OBJECT_STORES = {"s3fs", "s3ql", "goofys", "gcsfuse", "blobfuse", "blobfuse2", "mount-s3", "rclone"}
_HOST_FOLDERS = {"9p", "virtiofs", "vboxsf", "vmhgfs", "vmhgfs-fuse", "prl_fs", "drvfs", "wslfs", "lxfs", "osxfs"}
_HOST_FOLDERS |= {"grpcfuse", "fakeowner"}
SHARED_FILE_SYSTEMS = frozenset(_NETWORK | _CLUSTER | _OBJECT_STORES | _HOST_FOLDERS)
# FUSE types with local files; all others count as network file systems, as most are.
_LOCAL_FUSE = {"bindfs", "cryfs", "encfs", "exfat", "ext2", "fuse-ext2", "fuse-overlayfs", "gocryptfs", "mergerfs"}
_LOCAL_FUSE |= {"ntfs", "ntfs-3g", "securefs", "unionfs", "unionfs-fuse", "veracrypt", "zfs"}
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def refuse_network_folder(folder: Path) -> None:
    """Raise LibraryError if `folder` is on a network or shared file system, where two sides would damage the log."""
    kind = file_system(folder)
    if is_shared(kind):
        raise LibraryError(
            f"{folder} is on a shared or network file system ({kind}), where SQLite's write-ahead log is not safe; "
            "keep the library on a local disk with --library DIR (the videos may stay where they are)"
        )


def is_on_shared(folder: Path) -> bool:
    """Return whether another machine may change the files in `folder` while this one reads them."""
    try:
        return _is_device_shared(folder, folder.stat().st_dev)
    except OSError:  # of a folder that is gone, or may not be entered: opening its files says so
        return False


@lru_cache(maxsize=256)
def _is_device_shared(folder: Path, _device: int) -> bool:
    return is_shared(file_system(folder))


def is_shared(kind: str) -> bool:
    """Return whether files on a file system of this type may be changed from outside this machine."""
    prefix, _, name = kind.lower().rpartition(".")
    if name in SHARED_FILE_SYSTEMS:
        return True
    return "fuse" in (prefix, name) and name not in _LOCAL_FUSE


def file_system(folder: Path) -> str:
    """Return the type of the file system of `folder`, "" if the platform does not provide it."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return ""
    return file_system_among(mounts, os.fsencode(os.path.realpath(folder)))


def file_system_among(mountinfo: bytes, path: bytes) -> str:
    """Return the type of the file system of the absolute `path`, from the text of /proc/self/mountinfo.

    Its lines: id, parent, device, root, mount point, options, optional fields, "-", type, source, options (proc(5)).
    The longest mount point counts; of several mounts at one point the last, which hides the others.
    """
    best, kind = b"", ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(b" - ")
        columns, types = fields.split(b" "), rest.split(b" ")
        if len(columns) < 6:
            continue
        point = _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), columns[4])
        is_inside = path == point or path.startswith(point.rstrip(b"/") + b"/")
        if is_inside and len(point) >= len(best):
            best, kind = point, types[0].decode(errors="replace")
    return kind
