"""How a file or a unit is tried again before it is given up: as usual, as usual once more, then safely. Pure.

Only what breaks, hangs or overruns its decoder is tried again: it may be the machine's fault (memory that others took,
a disk that was slow), and it need not break in all that is read. What a decoder says of a file it will say again, so a
refusal is final within a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vfindex.storage.errors import BUG, VideoError
from vfindex.storage.records import Attempt, Care

TRIES_AS_USUAL = 2
# Under the same settings, reading would take as much processor time again.
_NOT_AGAIN = frozenset({"cpu"})
# Units of one video that no try could read, each of which may have taken minutes.
MAX_LOST_UNITS = 1
# What will be said again of the same bytes by the same vfindex; `vfindex retry` passes over it unless it is named.
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


def next_care(failed: Sequence[Attempt]) -> Care | None:
    """Return how one file or unit is tried next, given its failed attempts in order; None: it is given up."""
    if not failed:
        return "usual"
    if failed[-1].care == "safe":
        return None
    spent = len(failed) >= TRIES_AS_USUAL or failed[-1].code in _NOT_AGAIN
    return "safe" if spent else "usual"


def is_worth_reading(broken: int, read: int) -> bool:
    """Return whether the rest of a video is, of which so many units broke and so many could be read.

    It is not once several have broken, and no fewer than could be read: the time spent in vain is bounded by the other.
    """
    return broken <= MAX_LOST_UNITS or broken < read


def is_tried_again(error: VideoError) -> bool:
    """Return whether an error is one of those after which another try may go better."""
    return error.quarantine


def last_word(exc: VideoError, failed: Sequence[Attempt]) -> VideoError:
    """Return why no try could read a file or a unit: what broke the decoder, rather than what was left to read."""
    if not failed or is_tried_again(exc) or exc.problem.code == BUG:
        return exc
    words = f"{failed[0].reason}; read safely, {exc.problem.reason}"
    return VideoError(replace(exc.problem, code=failed[0].code, reason=words), quarantine=True)
