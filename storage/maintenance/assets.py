"""Assets of a library, files that can be rebuilt: query encoders and thumbnails, and whether they are intact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged, ModelError
from vfindex.storage.files.regular import file_sha256
from vfindex.storage.heads import read_head
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta

_TAIL_BYTES = 16


def query_faults(library: Library, snapshot: Snapshot) -> dict[str, str]:
    """Return query encoder -> its fault. Reads every file."""
    from vfindex.storage.encoders.text import check_files, read_meta  # ONNX Runtime, a tenth of a second

    meta = LibraryMeta(snapshot)
    setup, stored = meta.setup, meta.query_models
    if setup is None:
        return {}
    models = {model.folder: model for model in setup.query.values()}
    digests: Mapping[str, str | None] = dict.fromkeys(models) if stored is None else stored
    faults = {}
    for name, digest in digests.items():
        folder = library.query_folder(models[name]) if name in models else library.folder / "query" / name
        try:
            check_files(folder, read_meta(folder))
        except ModelError as exc:
            faults[name] = str(exc).partition(";")[0]
            continue
        if digest not in (None, file_sha256(folder / "meta.json")):
            faults[name] = f"{folder}: this is not the model that was put there"
    return faults


def head_faults(library: Library, snapshot: Snapshot) -> list[str]:
    """Return the faults of the temporal heads, but for those that were replaced meanwhile. Reads every file."""
    faults: dict[str, str] = {}
    for digest in LibraryMeta(snapshot).temporal_heads.values():
        try:
            read_head(library.folder, digest)
        except LibraryDamaged as exc:
            faults[digest] = str(exc)
    if faults:
        with library.snapshot() as now:
            named = set(LibraryMeta(now).temporal_heads.values())
        faults = {digest: fault for digest, fault in faults.items() if digest in named}
    return list(faults.values())


def is_whole(thumbnail: Path | None) -> bool:
    """Return whether a thumbnail exists, has the length in its header, and does not end in zeros like a torn file."""
    if thumbnail is None:
        return False
    try:
        data = thumbnail.read_bytes()
    except OSError:
        return False
    length = int.from_bytes(data[4:8], "little") + 8
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) == length and any(data[-_TAIL_BYTES:])


def stray_thumbnails(library: Library, snapshot: Snapshot) -> Iterator[Path]:
    """Yield thumbnail files of no clip, left by commands that were killed before they deleted them."""
    # 8 bytes a clip instead of a name; of two names with one hash, the stray is kept.
    known = np.unique(np.fromiter(map(hash, snapshot.thumbnails()), np.int64))
    for path in library.thumbs.rglob("*"):
        at = int(np.searchsorted(known, hash(path.name)))
        if (at == len(known) or known[at] != hash(path.name)) and path.is_file():
            yield path
