"""Measures, after a run that has changed a library, how far its scores can be trusted."""

from __future__ import annotations

from pathlib import Path

from vfindex.cli.output import say
from vfindex.storage.errors import LibraryLocked


def keep_trust(folder: Path) -> None:
    """Measure the scores of the library in `folder` if that is due. Raises what `calibrate_if_changed` raises.

    Another writer that has begun meanwhile comes first: its own run measures, and searches go on with what there is.
    """
    from vfindex.indexer.models.priors import background_queries
    from vfindex.search.calibration.fit import calibrate_if_changed

    try:
        calibrate_if_changed(folder, background_queries(), say)
    except LibraryLocked:
        say("how far scores can be trusted is left to the run that has begun meanwhile")
