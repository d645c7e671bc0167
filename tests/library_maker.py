"""Libraries with hand-written vectors, for the tests of storage and search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.library import Library
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import (
    Clip,
    Document,
    FloatArray,
    Location,
    QueryModel,
    Segment,
    Setup,
    UnitPlan,
    UnitResult,
    Video,
)
from vfindex.storage.writer import Writer

DIM = 8
# The smallest valid WebP file.
PICTURE = b"RIFF\x0c\0\0\0WEBPpicture."
# Text of every kind: what is said, and by whom; what stands on the picture, and where; a chapter.
TEXTS = (
    Segment(1, 3, "hello there", "sidecar", "en", speakers=("Ann Lee",)),
    Segment(2, 4, "EXIT", "frames", "en", 0.9, track="screen", box=(0.125, 0.75, 0.25, 0.875)),
    Segment(0, 5, "Opening", "chapter", track="text"),
)


def axis(number: int, dim: int = DIM) -> FloatArray:
    """Return the unit vector along one axis."""
    vector = np.zeros(dim, np.float32)
    vector[number] = 1.0
    return vector


def prior(dim: int = DIM, weight: float = 1.0) -> ModalityPrior:
    """Return a prior with mean 0 and background queries along the axes."""
    zero = np.zeros(dim, np.float32)
    return ModalityPrior(
        mean=zero, query_mean=zero, spread=1.0, background=np.eye(dim, dtype=np.float32), weight=weight
    )


SETUP = Setup(
    preset="lite",
    models={"visual": "by hand", "speech": "by hand", "text": "by hand"},
    query={m: QueryModel("by-hand") for m in ("visual", "speech", "text")},
    sampling="auto",
    frame_weight=0.6,
    word_weight=0.5,
    references={"visual": "efficientnet-lite2", "text": "all-MiniLM-L6-v2", "speech": "whisper-base"},
)


def video(fingerprint: str) -> Video:
    """Return a video of 10 s."""
    return Video(fingerprint, 100, "mp4", "h264", 320, 240, 0, 0.0, 9.96, 10.0, 250, has_audio=True, title=fingerprint)


def clip(start_s: float = 0.0, end_s: float = 5.0, **embeddings: FloatArray) -> Clip:
    """Return a clip with these embeddings; its visual vector is also its only frame vector."""
    vectors: dict[ModalityName, FloatArray] = {
        m: embeddings[m] for m in ("visual", "speech", "text") if m in embeddings
    }
    visual = vectors.get("visual")
    frames = np.zeros((0, DIM), np.float32) if visual is None else visual[None]
    return Clip(start_s, end_s, 0.0, vectors, frames, np.full(len(frames), start_s))


def install(writer: Writer, query_models: dict[str, Path] | None = None) -> None:
    """Give a new library a setup and priors."""
    writer.install(
        SETUP, {"visual": prior(), "speech": prior(weight=0.5), "text": prior(weight=0.5)}, query_models or {}
    )


def add_video(
    writer: Writer,
    name: str,
    clips: list[Clip],
    segments: list[Segment] | None = None,
    documents: list[Document] | None = None,
    **facts: Any,
) -> int:
    """Commit one video of one unit whose path is /videos/NAME and whose fingerprint is NAME. facts: of `Video`."""
    video_id = writer.catalog.begin_video(replace(video(name), **facts), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    writer.commit_unit(video_id, name, unit_id, UnitResult(tuple(clips), tuple(segments or ())))
    writer.catalog.finish_video(video_id, place(name), documents or [])
    return video_id


def add_file(writer: Writer, path: Path) -> None:
    """Add a video of one clip, found at a path; its fingerprint is the file's name. The file may be missing."""
    video_id = writer.catalog.begin_video(video(path.name), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    writer.commit_unit(video_id, path.name, unit_id, UnitResult((clip(visual=axis(1)),), ()))
    size_bytes = path.stat().st_size if path.exists() else 100
    writer.catalog.finish_video(video_id, Location(bytes(path), size_bytes, 1, 1), [])


def place(name: str) -> Location:
    """Return a location below /videos."""
    return Location(f"/videos/{name}".encode(), 100, 1, 1)


def all_clip_ids(library: Library) -> list[int]:
    with library.snapshot() as snapshot:
        return snapshot.clip_ids()
