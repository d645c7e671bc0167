"""Copies of videos into a library of other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from equality import contents, transcripts
from library_maker import DIM, SETUP, axis, clip, place, prior, video

from vfindex.indexer.runs.reuse import Reuse, VideoCopier
from vfindex.storage.records import FloatArray, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import writing

NEW_DIM = 5


class Sentences:
    """A text model of NEW_DIM dimensions: a text lies along the axis of its length."""

    dim = NEW_DIM

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([axis(len(text) % NEW_DIM, NEW_DIM) for text in texts])


def test_text_on_the_picture_that_is_said_counts_once_when_it_is_embedded_again(tmp_path: Path) -> None:
    names = ("visual", "speech", "screen")
    setup = replace(SETUP, models={"visual": "V", "speech": "T", "screen": "T"})
    line = "we grow tomatoes in the garden"
    with writing(tmp_path / "old") as writer, writing(tmp_path / "new") as into:
        writer.install(setup, {m: prior() for m in names}, {})
        dims = {"visual": DIM, "speech": NEW_DIM, "screen": NEW_DIM}
        new = replace(setup, models={"visual": "V", "speech": "T2", "screen": "T2"})
        into.install(new, {m: prior(dims[m]) for m in names}, {})
        video_id = writer.catalog.begin_video(video("one"), [UnitPlan(0)], recognised=True)
        [(unit_id, _)] = writer.catalog.pending_units(video_id)
        said = Segment(0.0, 0.9, line, "sidecar", "en")
        shown = Segment(0.0, 1.0, line, "frames", "en", track="screen", box=(0.1, 0.8, 0.9, 0.9))
        one = clip(0, 1, visual=axis(1), speech=axis(2))
        writer.catalog.commit_unit(video_id, unit_id, UnitResult((one,), (said, shown), {}))
        writer.catalog.finish_video(video_id, place("one"), [])
        with writer.library.snapshot() as snapshot:
            [stored] = snapshot.videos()
        VideoCopier(writer.library, into, Reuse.between(setup, new), Sentences()).copy(stored, recognised=True)
    [(_, _, vectors)] = contents(tmp_path / "new").values()
    assert vectors.embeddings.keys() == {"visual", "speech"}
    assert len(transcripts(tmp_path / "new")) == len(transcripts(tmp_path / "old"))
