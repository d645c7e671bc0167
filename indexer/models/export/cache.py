"""Exported models in a cache: each made once, by whoever asks first, and there as a whole or not at all."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vfindex.indexer.media.child import Child
from vfindex.indexer.media.limits import child_environment
from vfindex.storage.encoders.text import check_files, read_meta
from vfindex.storage.errors import ModelError

Say = Callable[[str], None]
LIBRARY_VARIABLES = ("HOME", "USER", "LOGNAME", "XDG_", "HF_", "TORCH", "CUDA_")  # of torch and transformers


@dataclass(frozen=True, slots=True)
class Export:
    """A folder to be made. Its name must change with whatever decides its content.

    build: fills an empty folder. is_complete: says whether a folder holds all that `build` writes.
    space_mb: what must be free to make it. what: its name in messages, after "preparing".
    """

    folder: Path
    build: Callable[[Path], None]
    is_complete: Callable[[Path], bool]
    space_mb: int
    what: str


def ensure(export: Export, say: Say) -> Path:
    """Return the folder, made first where it is missing or incomplete.

    say: called with a line of text when there is something to wait for. Several processes may call this at once: one
    exports, the others wait for it. Raises ModelError if the export fails or the cache cannot be written.
    """
    folder = export.folder
    if export.is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock"), say):
            if not export.is_complete(folder):
                _make(export, say)
    except OSError as exc:
        reason = exc.strerror or exc
        raise ModelError(
            f"{folder.parent}: the models cannot be stored here ({reason}); free {export.space_mb} MB, or name another "
            "VFINDEX_CACHE"
        ) from exc
    return folder


def is_whole(folder: Path) -> bool:
    """Return whether a model folder has all its files, at their length; renaming made it appear whole."""
    try:
        check_files(folder, read_meta(folder), weights=False)
    except ModelError:
        return False
    return True


@contextmanager
def exporting(module: str, arguments: Sequence[str], *, what: str, threads: int = 1) -> Iterator[None]:
    """Run a module in a child process while the body runs. Raises ModelError, with the child's last line.

    The child is told to leave the network alone.
    """
    # Unbuffered: else what it printed earlier comes after the exception, and is taken for its last line.
    command = [sys.executable, "-P", "-u", "-m", module, *arguments]
    environment = child_environment(*LIBRARY_VARIABLES, threads=threads)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with Child(command, environment=environment | offline, answers=False) as child:
        yield
        death = child.death(within_s=None)
    if death.status:
        raise ModelError(f"{what} could not be exported: {death.reason}")


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process prepares the models; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(export: Export, say: Say) -> None:
    """Export into a temporary folder beside the one wanted, then rename it. The caller holds the lock."""
    folder = export.folder
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"preparing {export.what} (once)")
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        export.build(work)
        work.chmod(0o755)  # a temporary folder is private, a cache may be shared
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
