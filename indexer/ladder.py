"""How a file or a unit is tried again before it is given up: as usual, as usual once more, then safely. Pure.

Only what breaks, hangs or overruns its decoder is tried again: it may be the machine's fault (memory that others took,
a disk that was slow), and it need not break in all that is read. What a decoder says of a file it will say again, so a
refusal is final within a run.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfindex.storage.errors import VideoError
from vfindex.storage.records import Attempt, Care

TRIES_AS_USUAL = 2
# Under the same settings, reading would take as much processor time again.
_NOT_AGAIN = frozenset({"cpu"})
# Two units of one video that no try could read: the rest is not worth their time, which may be minutes each.
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


def is_tried_again(error: VideoError) -> bool:
    """Return whether an error is one of those after which another try may go better."""
    return error.quarantine
