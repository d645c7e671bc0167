"""Which file systems are safe for writing a library."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfindex.storage.errors import LibraryError
from vfindex.storage.files import file_systems
from vfindex.storage.files.file_systems import file_system_among, is_shared, refuse_network_folder

MOUNTINFO = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:40 / /mnt/c rw,noatime shared:1 - 9p drvfs rw,dirsync,aname=drvfs;path=C:\134;uid=1000
41 27 0:41 / /mnt/my\040share rw,relatime shared:2 master:1 - cifs //nas/share rw,vers=3.0
42 27 0:42 / /home/me/s3 rw,nosuid - fuse.s3fs s3fs rw,user_id=0
43 27 0:43 / /mnt/c/local rw - xfs /dev/vdb rw
44 27 0:44 / /over rw - nfs4 host:/a rw
45 44 0:45 / /over rw - tmpfs tmpfs rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/home/me/videos", "ext4"),
        (b"/mnt/c/Users", "9p"),
        (b"/mnt/c", "9p"),
        (b"/mnt/company", "ext4"),
        (b"/mnt/my share/library", "cifs"),
        (b"/home/me/s3/library", "fuse.s3fs"),
        (b"/mnt/c/local/library", "xfs"),
        (b"/over/library", "tmpfs"),
    ],
)
def test_the_mount_that_holds_a_path(path: bytes, kind: str) -> None:
    assert file_system_among(MOUNTINFO, path) == kind


SHARED = (
    "9p virtiofs vboxsf vmhgfs fuse.vmhgfs-fuse grpcfuse fuse.grpcfuse fakeowner gvfs fuse.gvfsd-fuse juicefs"
    " fuse.juicefs fuse.JuiceFS ocfs2 gfs2 nfs nfs4 cifs smb3 smbfs afs ceph fuse.ceph fuse.ceph-fuse lustre beegfs"
    " glusterfs fuse.glusterfs fuse.sshfs fuse.rclone fuse.s3fs fuse.gcsfuse davfs drvfs prl_fs osxfs gpfs fuse"
    " fuse.something-new"
)
LOCAL = (
    "ext4 ext3 xfs btrfs zfs tmpfs overlay f2fs bcachefs apfs exfat vfat ntfs3 fuseblk fuse.mergerfs fuse.bindfs"
    " fuse.ntfs-3g"
)


@pytest.mark.parametrize("kind", SHARED.split())
def test_shared_file_systems_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "file_system", lambda folder: kind)
    with pytest.raises(LibraryError, match=f"\\({kind}\\).*--library"):
        refuse_network_folder(tmp_path)


@pytest.mark.parametrize("kind", ["", *LOCAL.split()])
def test_local_file_systems_are_not(kind: str) -> None:
    assert not is_shared(kind)
