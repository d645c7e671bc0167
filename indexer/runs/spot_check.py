"""`vfindex verify --sample`: decode and embed some clips again, and compare them with their stored vectors."""

from __future__ import annotations

import os
import random
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vfindex.indexer.boundary import one_file
from vfindex.indexer.extractors.visual import VisualExtraction
from vfindex.indexer.media.decoder import Decoder, FrameTap, ReadEnd
from vfindex.indexer.models.base import ImageEncoder
from vfindex.indexer.models.factory import LibraryModels
from vfindex.indexer.options import Sampling
from vfindex.indexer.pipeline.shots import unit
from vfindex.indexer.pipeline.unit_reader import UnitRequest, decode_unit
from vfindex.indexer.runs.report import bugs
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.library import Library
from vfindex.storage.machine import usable_cores
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import FloatArray, UnitPlan
from vfindex.storage.settings_backup import setup_of

# Of 12 clips of real video eleven came out at 1.0000 and one at 0.9996: its first frames share the vector of a still
# before the clip, which is not read again. Another processor, or half precision, moves the last digits as well.
SAME_COSINE = 0.99


@dataclass(slots=True)
class SpotCheck:
    """The result of a spot check. lowest: lowest cosine of stored and new vector, None if no clip was decoded.

    notes: clips that were skipped. bugs: failures that are bugs of vfindex.
    """

    clips: int = 0
    lowest: float | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bugs: list[Problem] = field(default_factory=list)


def spot_check(folder: Path, count: int, cache: Path) -> SpotCheck:
    """Compare the visual vectors of `count` random clips with new ones.

    Clips whose file is missing or has changed are noted. Raises LibraryNotFound, LibraryVersion, ModelError.
    """
    result = SpotCheck()
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        setup = setup_of(snapshot, library.folder)
        ids = snapshot.clip_ids()
        chosen = sorted(random.sample(ids, min(count, len(ids))))
        if not chosen:
            return result
        encoder = LibraryModels(setup, cache, say=lambda _: None).image(usable_cores())
        if encoder is None:
            result.notes.append("this library has no images, so no clip was compared with its video")
            return result
        wanted = UnitRequest((FrameTap(encoder.size_px),), Sampling.parse(setup.sampling))
        with Decoder() as decoder:
            for clip in snapshot.clips(chosen).values():
                _compare(snapshot, clip, _ClipEncoder(encoder, decoder, wanted), result)
    return result


@dataclass(frozen=True, slots=True)
class _ClipEncoder:
    """Decodes a clip and encodes its frames."""

    encoder: ImageEncoder
    decoder: Decoder
    wanted: UnitRequest

    def vector(self, path: bytes, start_s: float, end_s: float) -> FloatArray:
        """Return the clip's visual vector (dim,). Raises VideoError."""
        extraction = VisualExtraction(self.encoder, self.wanted.sampling)
        with closing(decode_unit(path, UnitPlan(0, start_s, end_s), self.wanted, self.decoder)) as items:
            for item in items:
                if isinstance(item, ReadEnd):
                    end = item
                else:
                    extraction.feed(item)
        vectors = extraction.finish(end).vectors
        return unit(np.asarray(vectors).mean(axis=0))


def _compare(snapshot: Snapshot, clip: StoredClip, encoder: _ClipEncoder, result: SpotCheck) -> None:
    [video] = snapshot.videos([clip.video_id])
    paths = [p.path for p in video.locations if _is_as_known(p.path, p.size_bytes, p.mtime_ns)]
    if not paths:
        names = ", ".join(os.fsdecode(place.path) for place in video.locations)
        result.notes.append(f"{names}: not there as it was indexed, so its clip at {clip.start_s:.1f} s was not read")
        return
    where = f"{os.fsdecode(paths[0])} at {clip.start_s:.1f} s"
    try:
        with one_file(paths[0], "decode"):
            found = encoder.vector(paths[0], clip.start_s, clip.end_s)
            stored = snapshot.vectors([clip.id])[clip.id]
            cosine = float(found @ unit(stored.embeddings[frame_modality()]))
    except VideoError as exc:
        result.bugs += bugs([exc.problem])
        result.problems.append(f"{where}: cannot be read again ({exc.problem.reason})")
        return
    result.clips += 1
    result.lowest = cosine if result.lowest is None else min(result.lowest, cosine)
    if cosine < SAME_COSINE:
        result.problems.append(
            f"{where}: read again, its vector has a cosine of {cosine:.3f} to the stored one; "
            "remove the video and ingest it again"
        )


def _is_as_known(path: bytes, size_bytes: int, mtime_ns: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (size_bytes, mtime_ns)
