"""The passes of a run over its files: in passing, wholly, and over what lies beside them."""

from __future__ import annotations

from collections import deque

from vfindex.indexer.models.base import Encoders, Texts
from vfindex.indexer.runners.base import Runner
from vfindex.indexer.runs.refresh_text import refresh
from vfindex.indexer.runs.run import Run
from vfindex.indexer.runs.scheduler import Driver


def in_turn(run: Run, runner: Runner, encoders: Encoders | Texts, workers: int, *, progressive: bool) -> None:
    """Index what is to be done, and tell the report what is left of it.

    progressive: first make all that is new searchable by a look in passing (names, subtitles, a keyframe every 10 s, no
    speech recognition); what is read wholly afterwards takes its place, video by video.
    """
    new = Driver(run, runner, encoders, workers, coarse=progressive)
    new.work()
    refresh(run, encoders)
    whole_left = len(run.refined)
    if not run.report.interrupted:
        run.todo, run.refined = run.refined, deque()
        again = Driver(run, runner, encoders, workers)
        again.work()
        whole_left = again.total_files - again.done_files
        refresh(run, encoders)
        whole_left += len(run.refined)
    run.report.left = new.total_files - new.done_files + len(run.reworded)
    for _ in range(whole_left):
        run.end_file("coarse")
