"""The error boundary of one file: an exception inside becomes the file's VideoError, and the run continues."""

from __future__ import annotations

import errno
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from vfindex.storage.errors import BUG, DimensionError, ModelError, Problem, Stage, VfindexError, VideoError
from vfindex.storage.files.regular import NotRegularError

logger = logging.getLogger(__name__)

NO_RESOURCES = "no_resources"  # code of a file that could not be read for want of machine resources
MAX_TRACE_CHARS = 8000  # of the end of a traceback
BUG_STEP = "report it with the traceback; vfindex retry, and the next version of vfindex, read it again"
_MEMORY_STEP = "free some memory or take fewer --workers, then run: vfindex retry"
_MODEL_STEP = "see to that, then run: vfindex retry"
RESOURCES_STEP = "free memory, room in the temporary folder or file handles (ulimit -n), and index it again"
# Errors of the machine: neither the file's nor a bug.
_NO_RESOURCES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


@contextmanager
def one_file(path: bytes, stage: Stage) -> Iterator[None]:
    """Translate exceptions raised inside to a VideoError of `path`; those that end the run pass unchanged.

    Unchanged: VideoError, a library that cannot be written, a lost cluster, wrong options. A bug has code `bug` and its
    traceback, and is logged here. Running out of memory, or a model that fails on a frame, is the file's own error; a
    machine without threads, file handles or temporary space has code `no_resources`.
    """
    try:
        yield
    except Exception as exc:
        error = _own_error(path, stage, exc)
        if error is None:
            raise
        if error.problem.code == BUG:
            logger.error("a bug of vfindex, over %r\n%s", os.fsdecode(path), error.problem.trace.rstrip())
        if exc.__traceback__ is not None:
            traceback.clear_frames(exc.__traceback__)  # frees the frames that it references
        raise error from exc


def _own_error(path: bytes, stage: Stage, exc: Exception) -> VideoError | None:
    """Return the file's error, or None for an exception that ends the run."""
    if isinstance(exc, ModelError):
        return VideoError(Problem(path, stage, "model", _printable(str(exc)), _MODEL_STEP))
    if isinstance(exc, VfindexError) and not isinstance(exc, DimensionError):
        return None
    if isinstance(exc, MemoryError):
        return VideoError(Problem(path, stage, "memory", "there was not enough memory for it", _MEMORY_STEP))
    if lacks_resources(exc):
        return VideoError(_no_resources(path, stage, exc))
    first = str(exc).strip().split("\n", 1)[0][:300]
    reason = f"vfindex failed on it ({type(exc).__name__}{': ' if first else ''}{first})"
    trace = "".join(traceback.format_exception(exc))[-MAX_TRACE_CHARS:]
    return VideoError(Problem(path, stage, BUG, _printable(reason), BUG_STEP, _printable(trace)))


def lacks_resources(exc: Exception) -> bool:
    """Return whether an exception means that the machine has no handles, threads, memory or temporary space left."""
    if isinstance(exc, RuntimeError):
        return "start new thread" in str(exc)
    return isinstance(exc, OSError) and exc.errno in _NO_RESOURCES


def _printable(text: str) -> str:
    """Return text that is valid UTF-8: undecodable bytes of file names become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _no_resources(path: bytes, stage: Stage, exc: Exception) -> Problem:
    reason = f"this machine has no room for it ({getattr(exc, 'strerror', None) or exc})"
    return Problem(path, stage, NO_RESOURCES, reason, RESOURCES_STEP)


def not_regular(path: bytes, stage: Stage, kind: str) -> Problem:
    """Return the problem of a path that is not a regular file. kind: as `storage.files.regular` names it."""
    step = "name what it points to" if "link" in kind else "name a video file or a folder of them"
    return Problem(path, stage, "not_regular", f"it is {kind}, not a file", step)


def os_problem(path: bytes, stage: Stage, exc: OSError) -> Problem:
    """Return the problem that describes an operating system error."""
    if isinstance(exc, NotRegularError):
        return not_regular(path, stage, exc.kind)
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return Problem(path, stage, "missing", "there is no such file or folder", "check the spelling and the mount")
    if exc.errno == errno.ELOOP:
        return not_regular(path, stage, "a symbolic link, or a loop of them")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return Problem(path, stage, "unreadable", "you may not read it", "change its permissions, or exclude it")
    if lacks_resources(exc):
        return _no_resources(path, stage, exc)
    reason = f"it cannot be read ({exc.strerror or type(exc).__name__})"
    return Problem(path, stage, "unreadable", reason, "check the disk or the mount, then try again")
