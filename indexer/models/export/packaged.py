"""A model folder in the cache, made once from files of packages: parts are joined, hashed, and appear atomically."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from vfindex.indexer.models.catalog import Card, PackagedFile
from vfindex.indexer.models.export.cache import Export, Say, ensure
from vfindex.indexer.models.hub import intact
from vfindex.indexer.models.packages import are_here, locate_package_file
from vfindex.indexer.models.store import (
    MANIFEST,
    FileFacts,
    LocalModel,
    Manifest,
    folder_of,
    locate,
    write_manifest,
)
from vfindex.storage.errors import ModelError


def ensure_model(card: Card, cache: Path, *, hashed: bool = False, say: Say) -> LocalModel:
    """Return a model, its folder first made from packages if they contain it and the folder is absent or damaged.

    hashed: see `intact`. A pulled model has the same files, and so the same identity. Safe to call from several
    processes: one makes the folder, the others wait. Raises ModelError if the files are neither in packages nor pulled,
    or the cache cannot be written.
    """

    def is_intact(_: Path) -> bool:
        return intact(card, cache, hashed=hashed) is not None

    if card.packaged and are_here(card.pinned_files, cache):

        def build(work: Path) -> None:
            _build(card, cache, work)

        size_mb = round((card.size_bytes or 0) / 1e6) + 1
        what = f"the model {card.reference}"
        ensure(Export(folder_of(card, cache), build, is_intact, size_mb, what), say)
    return locate(card.kind, card.reference, cache)


def _build(card: Card, cache: Path, work: Path) -> None:
    """Write a model's files and manifest into a folder. Raises ModelError, OSError."""
    files = {}
    for file in card.packaged:
        path = work / file.name
        _join(file, path, cache)
        status = path.stat()
        files[file.name] = FileFacts(status.st_size, status.st_mtime_ns, file.sha256)
    packages = ", ".join(dict.fromkeys(part.requirement for part in card.pinned_files))
    write_manifest(work / MANIFEST, Manifest(card.kind, card.reference, True, files, packages, card.revision))


def _join(file: PackagedFile, path: Path, cache: Path) -> None:
    """Write the parts of a file one after the other. Raises ModelError if a part or the whole has another hash."""
    with open(path, "xb") as joined:
        for part in file.parts:
            with open(locate_package_file(part, cache), "rb") as source:
                shutil.copyfileobj(source, joined, 1 << 20)
    with open(path, "rb") as written:
        if hashlib.file_digest(written, "sha256").hexdigest() != file.sha256:
            raise ModelError(f"{path}: the disk returns other data than was written; name another VFINDEX_CACHE")
