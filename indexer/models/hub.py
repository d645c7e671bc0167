"""Downloads models: the only part of vfindex that uses the network, and only for `vfindex models pull`.

The download runs in a child process, `hub_child.py`, which is killed when no data arrives; the next pull resumes. A
model appears in its folder atomically, with its manifest.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vfindex.indexer.media.child import Child, cannot_start
from vfindex.indexer.media.limits import child_environment
from vfindex.indexer.models.catalog import Card
from vfindex.indexer.models.store import (
    FileFacts,
    LocalModel,
    Manifest,
    check,
    folder_of,
    locate,
    manifest_path,
    read_manifest,
    write_manifest,
)
from vfindex.storage.errors import ModelError

TIMEOUT_S = 60.0  # without data
# The child's imports take up to 20 s on a busy machine: open_clip's table of models imports torch.
START_S = 180.0
POLL_S = 0.2
# Environment variables of the client: tokens, caches, certificates, proxies; a prefix or a whole name.
NETWORK_VARIABLES = (
    *("HOME", "USER", "LOGNAME", "XDG_", "HF_", "HUGGING", "NETRC"),
    *("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
# The client gives up a request after this long without an answer, and repeats it five times.
_REQUEST_S = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a pull. total_bytes: of all files, None if the publisher does not say."""

    reference: str
    file: str
    done_bytes: int
    total_bytes: int | None


def pull(
    card: Card,
    cache: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[LocalModel, bool]:
    """Return a model, downloaded if it is absent or damaged, and whether anything was downloaded. All files are hashed.

    timeout_s: longest time without data. progress: called several times a second.
    Raises ModelError if the model cannot be downloaded, differs from what the hub announced, or cannot be stored; the
    data received so far stays for the next pull.
    """
    model = intact(card, cache, hashed=True)
    if model is not None:
        return model, False
    folder = folder_of(card, cache)
    work = folder.with_name(f".pull-{folder.name}")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work.with_name(f"{work.name}.lock"), card):
            model = intact(card, cache, hashed=True)
            if model is None:
                _reuse_files(card, cache, work)
                download = _Download(card, _revision(card, read_manifest(card, cache)), work, timeout_s, progress)
                download.run()
                _publish(card, cache, download)
                shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise ModelError(
            f"{exc.filename or work}: the model {card.reference} cannot be stored here ({exc.strerror or exc}); "
            "make room, or name another VFINDEX_CACHE"
        ) from exc
    return model or locate(card.kind, card.reference, cache), model is None


def intact(card: Card, cache: Path, *, hashed: bool = False) -> LocalModel | None:
    """Return the model on disk, None if it is absent, damaged, or pulled from another commit than the pinned one.

    hashed: compare the hash of every file, else that of files whose size or time has changed.
    """
    manifest = read_manifest(card, cache)
    if manifest is not None and manifest.pulled and card.revision not in (None, manifest.revision):
        return None
    try:
        return (check if hashed else locate)(card.kind, card.reference, cache)
    except ModelError:
        return None


def _locked(path: Path, card: Card) -> AbstractContextManager[object]:
    try:
        return FileLock(path).acquire(timeout=0)
    except Timeout as exc:
        raise ModelError(f"another process is downloading {card.reference}; wait for it") from exc


def _reuse_files(card: Card, cache: Path, work: Path) -> None:
    """Copy the files of a damaged model into a new pull; the child checks each and downloads only the bad ones."""
    manifest, folder = read_manifest(card, cache), folder_of(card, cache)
    revision = _revision(card, manifest)
    if manifest is None or not manifest.pulled or not revision:
        return
    for name in manifest.files:
        path = work / revision / name
        if (folder / name).is_file() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, path)


def _revision(card: Card, manifest: Manifest | None) -> str | None:
    return card.revision or (manifest.revision if manifest and manifest.pulled else None) or None


def _publish(card: Card, cache: Path, download: _Download) -> None:
    """Replace the model's folder by the download."""
    ready, folder = Path(download.folder), folder_of(card, cache)
    files = {}
    for name, sha256 in download.hashes.items():
        status = (ready / name).stat()
        files[name] = FileFacts(status.st_size, status.st_mtime_ns, sha256)
    manifest = Manifest(card.kind, card.reference, True, files, download.repository, download.revision)
    write_manifest(ready / manifest_path(card, cache).name, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    ready.rename(folder)


class _Download:
    """A child process that downloads a model, and what it has reported."""

    def __init__(
        self, card: Card, revision: str | None, work: Path, timeout_s: float, progress: Callable[[Progress], None]
    ) -> None:
        self._card, self._revision, self._work = card, revision, work
        self._timeout_s, self._progress = timeout_s, progress
        self._host = "the model hub"
        self._file = ""
        self._total_bytes: int | None = None
        self.repository = ""
        self.revision: str | None = None
        self.hashes: dict[str, str] = {}
        self.folder = ""

    def run(self) -> None:
        """Run the child to its end. Raises ModelError."""
        request_s = str(max(1, min(_REQUEST_S, ceil(self._timeout_s))))
        limits = {"HF_HUB_ETAG_TIMEOUT": request_s, "HF_HUB_DOWNLOAD_TIMEOUT": request_s}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-P", "-m", "vfindex.indexer.models.hub_child"]
        try:
            started = Child(command, environment=child_environment(*NETWORK_VARIABLES) | limits | quiet)
        except OSError as exc:
            raise ModelError(f"{self._card.reference} could not be downloaded: {cannot_start(exc)}") from exc
        with started as child:
            self._watch(child)
            death = child.death()
        if not self.hashes:
            raise self._failed(death.reason, "")

    def _watch(self, child: Child) -> None:
        """Read the child's messages to their end and report the bytes on disk. Raises ModelError if none arrive."""
        with suppress(BrokenPipeError):  # a dead child has written why to stderr
            child.send([json.dumps(self._request()).encode() + b"\n"])
        child.start_clock(idle_s=POLL_S)
        unread, bytes_before, last_s = b"", -1, time.monotonic()
        while True:
            with suppress(TimeoutError):
                data = child.read()
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    self._receive(json.loads(line))
                last_s = time.monotonic()
            received = _bytes_below(self._work)
            if received != bytes_before:
                bytes_before, last_s = received, time.monotonic()
                self._progress(Progress(self._card.reference, self._file, received, self._total_bytes))
            if time.monotonic() - last_s > self._limit_s():
                raise self._timed_out()

    def _request(self) -> dict[str, Any]:
        return {
            "kind": self._card.kind,
            "reference": self._card.reference,
            "repository": self._card.repository,
            "revision": self._revision,
            "sha256": dict(self._card.sha256),
            "folder": str(self._work),
        }

    def _receive(self, message: dict[str, Any]) -> None:
        if "error" in message:
            raise self._failed(message["error"], message["next"])
        self._host = message.get("host", self._host)
        self._file = message.get("file", self._file)
        if "files" in message:
            self.repository, self.revision = message["repository"], message["revision"]
            sizes = list(message["files"].values())
            self._total_bytes = None if None in sizes else sum(sizes)
            self._need_room((self._total_bytes or 0) - _bytes_below(self._work))
        if "done" in message:
            self.hashes, self.folder = message["done"], message["folder"]

    def _limit_s(self) -> float:
        importing = self._host == "the model hub" or not (self._card.repository or self.repository)
        return max(START_S, self._timeout_s) if importing else self._timeout_s

    def _need_room(self, bytes_: int) -> None:
        free = shutil.disk_usage(self._work).free
        if bytes_ > free:
            raise ModelError(
                f"the model {self._card.reference} needs {bytes_ / 1e9:.1f} GB more in {self._work.parent}, where "
                f"{free / 1e9:.1f} GB are free; make room, or name another VFINDEX_CACHE"
            )

    def _timed_out(self) -> ModelError:
        what = self._file or "the list of its files"
        return self._failed(
            f"no answer for {self._limit_s():g} s about {what}", "try again, which resumes the download"
        )

    def _failed(self, reason: str, next_step: str) -> ModelError:
        return ModelError(
            f"the model {self._card.reference} could not be downloaded from {self._host}: {reason}; "
            f"{next_step or 'try again'}; or put its files into {self._work.with_name(self._card.slug)} by hand "
            "(docs/models.md lists them), or use --preset lite, which needs none"
        )


def _bytes_below(folder: Path) -> int:
    """Return the total size of the files below a folder, which may disappear meanwhile."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue
    return total
