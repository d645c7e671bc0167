"""The files of the log that readers make belong to all users of a library."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.library import Library
from vfindex.storage.writer import writing

OWNER, MEMBER, OTHER, GROUP = 20_001, 20_002, 20_003, 20_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become other users")
@pytest.mark.parametrize("folder_mode", [0o775, 0o2775], ids=["plain", "setgid"])
@pytest.mark.parametrize("user", [0, OWNER, MEMBER, OTHER])
def test_a_reader_never_locks_the_owner_out(user: int, folder_mode: int) -> None:
    """SQLite makes the log's files with the group of a reader who is not root, which the owner may not be in."""
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    with writing(home / "library") as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))])
    for path in (home / "library", *(home / "library").rglob("*")):
        os.chown(path, OWNER, GROUP)
        path.chmod(folder_mode if path.is_dir() else 0o664)
    assert not (home / "library" / "library.db-shm").exists()
    groups = [GROUP] if user in (OWNER, MEMBER) else []
    assert as_user(user, groups, lambda: len(Library.open(home / "library").snapshot().clip_ids())) == 1
    made = [path.stat() for path in (home / "library").glob("library.db-*")]
    assert len(made) == (0 if user == OTHER else 2)
    assert all((each.st_gid, each.st_mode & 0o666) == (GROUP, 0o664) for each in made)

    def write() -> int:
        with writing(home / "library") as writer:
            add_video(writer, "b", [clip(visual=axis(1))])
        return len(Library.open(home / "library").snapshot().clip_ids())

    assert as_user(OWNER, [GROUP], write) == 2
    shutil.rmtree(home)


def as_user(user: int, groups: Sequence[int], do: Callable[[], int]) -> int:
    """Return what `do` returns, a small number, in a process of this user, whose own group is no one else's."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            if user:
                os.setgroups(groups)
                os.setgid(user)
                os.setuid(user)
            os.umask(0o077)
            code = do()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
