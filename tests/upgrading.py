"""Libraries of two videos whose files are gone, and upgrades of them that open no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import DIM, SETUP, axis, clip, place, prior, video

from vfindex.indexer.models.presets import Choice
from vfindex.indexer.runs import upgrade as upgrading
from vfindex.indexer.runs import version_builder
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.report import UpgradeReport
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.storage.errors import ModelError, Problem
from vfindex.storage.records import FloatArray, Segment, Setup, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

OLD = replace(
    SETUP,
    models={"visual": "V", "speech": "T", "text": "T"},
    references={"visual": "V", "text": "T", "speech": "S"},
)
NEW_DIM = 5
OTHER = Choice(text="T2")
PROBLEM = Problem(b"/videos/broken", "open", "text", "it is a text file", "nothing to do")
Upgrade = Callable[..., UpgradeReport]


class Sentences:
    """A text model of NEW_DIM dimensions: a text lies along the axis of its length."""

    dim = NEW_DIM

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([axis(len(text) % NEW_DIM, NEW_DIM) for text in texts])


def install(writer: Writer, choice: Choice, sampling: str, cache: Path, **_: object) -> Setup:
    """Install the models named, as `models.install` does; any text model but T has NEW_DIM dimensions."""
    names = {"visual": choice.visual or "V", "text": choice.text or "T", "speech": choice.speech or "S"}
    if names["text"] == "missing":
        raise ModelError("the model is not here")
    setup = replace(
        OLD,
        preset=choice.preset or "lite",
        sampling=sampling,
        models={"visual": names["visual"], "speech": names["text"], "text": names["text"]},
        references=names,
    )
    dim = DIM if names["text"] == "T" else NEW_DIM
    writer.install(setup, {"visual": prior(), "speech": prior(dim), "text": prior(dim)}, {})
    return setup


def add(writer: Writer, name: str, *, units: int = 1, problem: Problem | None = None, dim: int = DIM) -> int:
    """Add a video of `units` units with a clip, a thumbnail and a segment each, at two places."""
    plans = [UnitPlan(n, float(n) or None, n + 1.0 if n + 1 < units else None) for n in range(units)]
    video_id = writer.catalog.begin_video(video(name), plans, recognised=True)
    for unit_id, plan in writer.catalog.pending_units(video_id):
        said = Segment(plan.number, plan.number + 0.5, f"{name} says {'x' * plan.number}", "sidecar", "en")
        one = clip(plan.number, plan.number + 1, visual=axis(1), speech=axis(2, dim), text=axis(3, dim))
        result = UnitResult((replace(one, thumbnail=b"webp " + name.encode()),), (said,), {"speech": "told"})
        writer.commit_unit(video_id, name, unit_id, result)
    writer.catalog.finish_video(video_id, place(name), [], problem=problem)
    writer.catalog.place(video_id, place(f"copies/{name}"))
    return video_id


def make_library(folder: Path) -> Path:
    """Make a library of two searchable videos and one that failed; none of their files is there."""
    with writing(folder) as writer:
        writer.install(OLD, {m: prior() for m in ("visual", "speech", "text")}, {})
        add(writer, "long story", units=2)
        add(writer, "zoo", problem=replace(PROBLEM, path=b"/videos/zoo"))
        writer.catalog.fail_video("broken", place("broken"), PROBLEM, quarantine=True)
        writer.publish()
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), {"found": 3})
    return folder


def upgrader(folder: Path, patch: pytest.MonkeyPatch) -> Upgrade:
    """Return a function that upgrades the library, to the text model T2 if nothing else is asked for."""
    patch.setattr(upgrading, "install", install)
    patch.setattr(version_builder, "open_text", lambda *_, **__: Sentences())
    patch.setattr(upgrading, "POLL_S", 0.02)

    def over(
        choice: Choice = OTHER, callbacks: Callbacks | None = None, compare: Any = None, **settings: Any
    ) -> UpgradeReport:
        chosen = RunSettings(cache=folder / "cache", choice=choice, **settings)
        return upgrade(folder, chosen, callbacks, compare)

    return over
