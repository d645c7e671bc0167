"""Exports the JointSpec of one library, or of several together, and makes a library use such a spec."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.files.regular import regular
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import MAX_FILE_BYTES, Comparable, SharedSpec, SpecFault
from vfindex.storage.joint.vector import estimate_spec
from vfindex.storage.library import Library, reading_hash, reading_spec
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import writing


def exported(folders: Sequence[Path]) -> SharedSpec:
    """Return the spec that a library scores with, or that of all clips of several: as one library of them would have.

    Raises LibraryError, and UsageError if setups or fusions differ.
    """
    with ExitStack() as opened:
        libraries = [Library.open(folder) for folder in folders]
        snapshots = [opened.enter_context(library.snapshot()) for library in libraries]
        setups = [setup_of(snapshot, each.folder) for each, snapshot in zip(libraries, snapshots, strict=True)]
        for folder, setup in zip(folders[1:], setups[1:], strict=True):
            different = Comparable.of(setup).difference(Comparable.of(setups[0]))
            if different:
                raise UsageError(
                    f"the library {folder} has another setup than {folders[0]} ({different}); change one of them with: "
                    f"vfindex upgrade --library {shlex.quote(str(folder))}"
                )
        clips = sum(len(snapshot.clip_ids()) for snapshot in snapshots)
        if len(snapshots) == 1:
            return SharedSpec(Comparable.of(setups[0]), reading_spec(snapshots[0])[0], clips)
        fusion = _fusion(folders, snapshots)
        priors = LibraryMeta(snapshots[0]).priors
        dims = {m: len(prior.mean) for m, prior in priors.items()}
        return SharedSpec(Comparable.of(setups[0]), estimate_spec(priors, _batches(snapshots, dims), fusion), clips)


def _batches(
    snapshots: Sequence[Snapshot], dims: Mapping[ModalityName, int]
) -> Iterator[Mapping[ModalityName, FloatArray]]:
    for snapshot in snapshots:
        yield from (rows for _, rows in snapshot.batches(snapshot.clip_ids(), dims))


def _fusion(folders: Sequence[Path], snapshots: Sequence[Snapshot]) -> Fusion:
    """Return the fusion of all libraries. Raises UsageError if they differ."""
    first, *others = (_chosen(snapshot) for snapshot in snapshots)
    for folder, other in zip(folders[1:], others, strict=True):
        if other.to_json() != first.to_json():
            raise UsageError(
                f"the library {folder} has another fusion or other weights than {folders[0]}; give both the same with: "
                "vfindex rebuild --fusion concat, vfindex tune --reset, or the spec of one of them: vfindex spec use"
            )
    return first


def _chosen(snapshot: Snapshot) -> Fusion:
    """Return the fusion of a library with all its weights."""
    meta = LibraryMeta(snapshot)
    fusion = meta.fusion
    weights = {m: fusion.weights.get(m, prior.weight) for m, prior in meta.priors.items()}
    return Fusion(fusion.form, weights, fusion.heads)


def read_spec(path: Path) -> SharedSpec:
    """Return the spec of a file. Raises UsageError if there is none, or it is damaged."""
    try:
        with open(path, "rb", opener=regular) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise UsageError(
            f"the spec {path} cannot be read ({exc.strerror}); write one with: vfindex spec export FILE"
        ) from exc
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path} is too large for a spec; write one with: vfindex spec export FILE")
    try:
        return SharedSpec.from_json(data)
    except SpecFault as exc:
        raise UsageError(f"{path} cannot be used: {exc}; write it again with: vfindex spec export") from exc


def use_spec(folder: Path, path: Path) -> Generation:
    """Publish the library's index with the spec of a file, as all later runs do.

    Raises LibraryError, UsageError, NotPublished if the library finds too little with it.
    """
    shared = read_spec(path)
    Library.open(folder)
    with writing(folder) as writer:
        meta = LibraryMeta(writer.catalog)
        try:
            shared.check_fits(writer.existing_setup(), meta.priors)
        except SpecFault as exc:
            raise UsageError(f"{path} cannot be used: {exc}") from exc
        return writer.publish_shared(shared)


def use_own_spec(folder: Path) -> Generation:
    """Publish the library's index with a spec of its own, as all later runs do. Raises LibraryError, NotPublished."""
    Library.open(folder)
    with writing(folder) as writer:
        writer.existing_setup()
        return writer.publish_shared(None)


def used_spec(folder: Path) -> str:
    """Return the hash of the spec that searches of a library score with. Raises LibraryError."""
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        return reading_hash(snapshot, library.folder)
