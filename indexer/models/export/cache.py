"""The cache of exported models: each is made once, in a child process that may import torch, and appears atomically."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from vfindex.indexer.media.child import Child, cannot_start
from vfindex.indexer.media.limits import child_environment
from vfindex.indexer.models.priors import CORPUS_VECTORS, corpus
from vfindex.indexer.models.store import LocalModel
from vfindex.storage.encoders.text import check_files, read_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.machine import usable_cores

Say = Callable[[str], None]
LIBRARY_VARIABLES = ("HOME", "USER", "LOGNAME", "XDG_", "HF_", "TORCH", "CUDA_")  # of torch and transformers
Part = Literal["clip-text", "clip-image", "sentence", "clap-text"]

# Part of the cache's key: raise it whenever the same model would give other files.
EXPORT_VERSION = 1
# Free space needed, as a multiple of the weights: the traced and the optimised graph coexist for a moment.
_SPACE = 2.2
# Part -> the child's module and the part's name in messages.
_PARTS: dict[Part, tuple[str, str]] = {
    "clip-text": ("vfindex.indexer.models.export.open_clip", "the text side of"),
    "clip-image": ("vfindex.indexer.models.export.open_clip", "the image side of"),
    "sentence": ("vfindex.indexer.models.export.sentence", "the text model"),
    "clap-text": ("vfindex.indexer.models.export.clap", "the text side of"),
}


@dataclass(frozen=True, slots=True)
class Export:
    """A folder of the cache, named by everything that determines its content.

    build: fills an empty folder. is_complete: whether a folder has all that `build` writes.
    space_mb: free space needed. what: its name in messages.
    """

    folder: Path
    build: Callable[[Path], None]
    is_complete: Callable[[Path], bool]
    space_mb: int
    what: str


def ensure_part(model: LocalModel, part: Part, cache: Path, *, say: Say) -> Path:
    """Return the ONNX folder of one part of a model, exported first if the cache has none: a minute or more.

    clip-text: the text tower of an open_clip model, for `TextEncoder`; its vectors share the space of the images.
    sentence: a sentence-transformers model, for `TextEncoder`. clip-image: the image tower, for `open_image_encoder`.
    clap-text: the text tower of a CLAP model, for `TextEncoder`; its vectors share the space of the sounds.
    Raises ModelError if a vector of the export has a cosine below 0.9999 to torch's; else as `ensure`.
    """
    module, what = _PARTS[part]

    def build(work: Path) -> None:
        arguments = [part, str(model.folder), str(work), model.name]
        with exporting(module, arguments, what=f"{what} {model.name}", threads=usable_cores()):
            pass

    def has_all(folder: Path) -> bool:
        return is_complete(folder / "model") and (part == "clip-image" or (folder / CORPUS_VECTORS).is_file())

    content = [str(EXPORT_VERSION), part, model.sha256, corpus("background.txt"), corpus("sentences.txt")]
    key = sha256("\n".join(content).encode()).hexdigest()[:16]
    space_mb = round(model.weights.stat().st_size * _SPACE / 1e6) + 1
    folder = cache / "query" / f"{model.name}-{key}"
    return ensure(Export(folder, build, has_all, space_mb, f"{what} {model.name}"), say) / "model"


def ensure(export: Export, say: Say) -> Path:
    """Return the folder, built first if it is missing or incomplete.

    say: receives a line of text if there is something to wait for. Safe to call from several processes: one exports,
    the others wait. Raises ModelError if the export fails or the cache cannot be written.
    """
    folder = export.folder
    if export.is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock"), say):
            if not export.is_complete(folder):
                _make(export, say)
    except OSError as exc:
        reason = exc.strerror or exc
        raise ModelError(
            f"{folder.parent}: the models cannot be stored here ({reason}); free {export.space_mb} MB, or name another "
            "VFINDEX_CACHE"
        ) from exc
    return folder


def is_complete(folder: Path) -> bool:
    """Return whether a model folder has all its files, at their recorded sizes."""
    try:
        check_files(folder, read_meta(folder), weights=False)
    except ModelError:
        return False
    return True


@contextmanager
def exporting(module: str, arguments: Sequence[str], *, what: str, threads: int = 1) -> Iterator[None]:
    """Run a module in a child process, without network, while the body runs. Raises ModelError with its last line."""
    # Unbuffered (-u): else earlier output follows the exception and is taken for the last line.
    command = [sys.executable, "-P", "-u", "-m", module, *arguments]
    environment = child_environment(*LIBRARY_VARIABLES, threads=threads)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        started = Child(command, environment=environment | offline, answers=False)
    except OSError as exc:
        raise ModelError(f"{what} could not be exported: {cannot_start(exc)}") from exc
    with started as child:
        yield
        death = child.death(within_s=None)
    if death.status:
        raise ModelError(f"{what} could not be exported: {death.reason}")


def _locked(path: Path, say: Say) -> AbstractContextManager[object]:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say("another process is preparing the models; waiting for it")
        return lock.acquire()


def _make(export: Export, say: Say) -> None:
    """Export into a temporary folder, then rename it. The caller holds the lock."""
    folder = export.folder
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"preparing {export.what} (once)")
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        export.build(work)
        work.chmod(0o755)  # a temporary folder is private, a cache may be shared
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
