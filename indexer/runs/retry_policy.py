"""The retry policy of files and units: two usual attempts, then a safe one (keyframes alone, no audio).

Only a decoder that crashes, hangs or overruns its limits is retried: the machine may be at fault (memory that others
took, a slow disk), and a safe attempt decodes less. An error that a decoder reports is final within a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vfindex.storage.errors import BUG, VideoError
from vfindex.storage.records import Attempt, Care

USUAL_ATTEMPTS = 2
# With the same options, decoding would take as much processor time again.
_SAFE_NEXT = frozenset({"cpu"})
# Broken units of one video, each of which may have taken minutes.
MAX_BROKEN_UNITS = 1
# Errors that the same bytes will meet again in the same vfindex; `vfindex retry` skips them unless a file is named.
FINAL = frozenset(
    {
        "empty",
        "flash",
        "header",
        "incomplete",
        "lfs_pointer",
        "no_decoder",
        "no_times",
        "no_video",
        "not_a_video",
        "not_regular",
        "picture",
        "playlist",
        "sound",
        "text",
        "too_large",
    }
)


def next_attempt(failed: Sequence[Attempt]) -> Care | None:
    """Return the kind of the next attempt after these failed ones, in order; None: the file or unit is given up."""
    if not failed:
        return "usual"
    if failed[-1].care == "safe":
        return None
    spent = len(failed) >= USUAL_ATTEMPTS or failed[-1].code in _SAFE_NEXT
    return "safe" if spent else "usual"


def is_worth_decoding(broken: int, decoded: int) -> bool:
    """Return whether to decode the rest of a video after so many broken and decoded units.

    Not once several are broken, and at least as many as were decoded: so at most half of the time is wasted.
    """
    return broken <= MAX_BROKEN_UNITS or broken < decoded


def is_retried(error: VideoError) -> bool:
    """Return whether another attempt may succeed after an error."""
    return error.quarantine


def final_error(exc: VideoError, failed: Sequence[Attempt]) -> VideoError:
    """Return the error of a file or a unit: of the first attempt, which broke the decoder, and of the safe one."""
    if not failed or is_retried(exc) or exc.problem.code == BUG:
        return exc
    words = f"{failed[0].reason}; read safely, {exc.problem.reason}"
    return VideoError(replace(exc.problem, code=failed[0].code, reason=words), quarantine=True)
